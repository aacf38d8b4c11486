"""Files that appear whole or not at all."""

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import ExpanderSaeError


@contextmanager
def disk_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Say which file could not be written, and what to do, where the block raises an OSError.

    Raises:
        ExpanderSaeError: the disk is full, the folder cannot be written, and so on. A pipe that nobody reads any more
            stays a BrokenPipeError: it is no fault.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ExpanderSaeError(
            f"cannot write {os.fspath(path)}: {error.strerror or error}. The old file, if any, is untouched; "
            "free some space or choose another place."
        ) from error


finished: list[Callable[[Path], None]] = []
"""Told of every file that has got its name: `records.mirror` uploads it."""


@contextmanager
def write_atomically(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the same folder that replaces `path` once the block ends well.

    The temporary file is fsynced and renamed, so a reader sees the old file or the new one, never a part.
    On any exception it is removed and `path` is left as it was. A link stays one: what it points to is replaced. The
    mode is that of the old file, or what the process's umask leaves of 0666. What is no file cannot be replaced and
    is written to once the block ends well: a device, a pipe, and standard output, which `-` stands for.

    Raises:
        ExpanderSaeError: the folder cannot be written or the disk is full.
    """
    descriptor = _descriptor(path)
    with disk_errors(path):
        if descriptor is not None or _is_special(path):
            with tempfile.TemporaryDirectory() as folder:
                temporary = Path(folder) / "content"
                temporary.touch()
                yield temporary
                _copy_into(temporary, path if descriptor is None else descriptor)
            return
        target = Path(os.path.realpath(path))
        target.stat() if target.is_symlink() else None  # links in a circle: an OSError that says so
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary, mode = _temporary_beside(target)
        try:
            yield temporary
            os.chmod(temporary, mode)
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    for tell in finished:
        tell(target)


def _descriptor(path: str | os.PathLike[str]) -> int | None:
    """Of an open file of this process that the path stands for.

    They are not opened by their names: that would be another place in the same file, and writing would begin at 0.
    """
    text = os.fspath(path)
    named = {"-": 1, "/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
    if text in named:
        return named[text]
    numbered = re.fullmatch(r"/(?:dev|proc/self|proc/(\d+))/fd/(\d+)", text)
    if numbered is None or numbered[1] not in (None, str(os.getpid())):
        return None
    return int(numbered[2])


def is_standard_output(path: str | os.PathLike[str] | None) -> bool:
    """Whether writing to this path is writing to standard output."""
    return path is not None and _descriptor(path) == 1


def _is_special(path: str | os.PathLike[str]) -> bool:
    """Whether there is something at the path that is neither a file nor a folder."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _copy_into(source: Path, target: str | os.PathLike[str] | int) -> None:
    stream = {1: sys.stdout, 2: sys.stderr}.get(target) if isinstance(target, int) else None
    with open(source, "rb") as content:
        if stream is not None:  # what was printed before comes before
            stream.flush()
            shutil.copyfileobj(content, stream.buffer)
            stream.flush()
            return
        place = os.dup(target) if isinstance(target, int) else os.open(target, os.O_WRONLY)
        with open(place, "wb", closefd=True) as out:
            shutil.copyfileobj(content, out)


def _temporary_beside(target: Path) -> tuple[Path, int]:
    """A new empty file in the target's folder, and the mode that the target is to have."""
    while True:
        # Names may be as long as the disk allows: the temporary one is not longer.
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(6)}.part")
        try:
            handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_CLOEXEC", 0), 0o666)
            break
        except FileExistsError:
            continue
    try:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)  # 0666 less the umask
        if target.exists():
            mode = stat.S_IMODE(target.stat().st_mode)
            os.chmod(temporary, mode | stat.S_IRUSR | stat.S_IWUSR)
    finally:
        os.close(handle)
    return temporary, mode


def remove_leftovers(folder: Path, *names: str) -> None:
    """Remove the temporary files that a killed process left of these files; for whoever alone writes them."""
    for name in names:
        for leftover in folder.glob(f".{glob.escape(name[:40])}.*.part"):
            leftover.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """The value as JSON can say it: NaN and infinities become None, tuples lists, paths text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities become null."""
    with write_atomically(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(plain(value), indent=2, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        ExpanderSaeError: the file is missing, cannot be read, or is not JSON (UTF-8, not nested beyond Python's depth,
            no number of thousands of digits, no NaN or infinity, no name twice in an object).
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_number)
    except FileNotFoundError as error:
        raise ExpanderSaeError(f"expected a JSON file at {path}; got none") from error
    except RecursionError as error:
        raise ExpanderSaeError(f"expected JSON in {path}; got one nested too deep to be read") from error
    except ValueError as error:  # not JSON, not UTF-8, or an integer too long to be read
        raise ExpanderSaeError(f"expected JSON in {path}; got a damaged file: {error}") from error
    except OSError as error:
        raise ExpanderSaeError(f"cannot read {path}: {error.strerror or error}") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; Python's own reader would take the last of two fields of one name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"a field stands twice in an object, {max(names, key=names.count)[:80]!r}")
    return found


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file before what is said of its content.

    Raises:
        ExpanderSaeError: that of the block, with the file's name in it.
    """
    try:
        yield
    except ExpanderSaeError as error:
        if os.fspath(path) in str(error):
            raise
        raise ExpanderSaeError(f"{os.fspath(path)}: {error}") from error


def sha256_file(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
