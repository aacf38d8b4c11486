"""Files that appear whole or not at all."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ExpanderSaeError


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder that replaces `path` once the block ends well.

    The temporary file is fsynced and renamed, so a reader sees the old file or the new one, never a part.
    On any exception it is removed and `path` is left as it was.

    Raises:
        ExpanderSaeError: the folder cannot be written or the disk is full.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise ExpanderSaeError(
            f"cannot write {target}: {error.strerror or error}. Free some space or choose another folder."
        ) from error
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise ExpanderSaeError(
            f"cannot write {target}: {error.strerror or error}. The old file, if any, is untouched; "
            "free some space or choose another folder."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Replace what JSON cannot say: NaN and infinities become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities become null."""
    text = json_text(value)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_text(value: Any) -> str:
    """`value` as `write_json` writes it."""
    return json.dumps(_plain(value), indent=2, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        ExpanderSaeError: the file is missing, cannot be read, or is not JSON (UTF-8, not nested beyond Python's depth,
            no number of thousands of digits).
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ExpanderSaeError(f"expected a JSON file at {path}, found none") from error
    except RecursionError as error:
        raise ExpanderSaeError(f"expected JSON in {path}, but it is nested too deep to be read") from error
    except ValueError as error:  # not JSON, not UTF-8, or an integer too long to be read
        raise ExpanderSaeError(f"expected JSON in {path}, but it is damaged: {error}") from error
    except OSError as error:
        raise ExpanderSaeError(f"cannot read {path}: {error.strerror or error}") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
