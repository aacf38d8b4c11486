"""A config and the arrays it describes, replaced together: a reader finds the old two or the new two.

Two files cannot be renamed at once. So the new arrays wait beside the old ones under a name that holds the hash of the
config they belong to; the rename of the config is the one moment at which the new pair becomes the pair; then the
arrays get their own name. A process that is killed anywhere leaves the old pair, or the new one: `arrays_of` takes the
waiting arrays where the config is theirs.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .files import disk_errors, finished, json_text, write_atomically

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def write_pair(
    folder: Path, arrays: str, config: str, write: Callable[[Path], None], describe: Callable[[Path], Any]
) -> None:
    """Replace the files `arrays` and `config` of a folder, made if need be; other files there are left alone.

    Args:
        folder: where.
        arrays: name of the arrays' file.
        config: name of the JSON file that describes them.
        write: makes the arrays' file at the path that it is given.
        describe: the config, given the path of the new arrays.

    Raises:
        ExpanderSaeError: the folder cannot be written; what was there before is there still.
    """
    with disk_errors(folder), _alone(folder):
        remove_leftovers(folder, arrays, config)
        written = folder / f".{arrays}.written"
        try:
            with write_atomically(written) as temporary:
                write(temporary)
            text = json_text(describe(written))
            waiting = _waiting(folder, arrays, text.encode())
            os.replace(written, waiting)
            _sync(folder)
            with write_atomically(folder / f".{config}.written") as temporary:
                temporary.write_text(text, encoding="utf-8")
            os.replace(folder / f".{config}.written", folder / config)
            os.replace(waiting, folder / arrays)
            _sync(folder)
        except BaseException:
            with suppress(OSError):
                remove_leftovers(folder, arrays, config)
            raise
    for name in (arrays, config):  # the config last: what it names is there
        for tell in finished:
            tell(folder / name)


def arrays_of(folder: Path, arrays: str, config: str) -> Path:
    """The arrays' file that belongs to the config as it is now."""
    with suppress(OSError):
        waiting = _waiting(folder, arrays, (folder / config).read_bytes())
        if waiting.is_file():
            return waiting
    return folder / arrays


def remove_leftovers(folder: Path, arrays: str, config: str) -> None:
    """Remove what writers that were killed left, but for arrays that the config needs: those get their name."""
    kept = arrays_of(folder, arrays, config)
    if kept.name != arrays:
        os.replace(kept, folder / arrays)
    for path in folder.glob(".*"):
        name = path.name.lstrip(".")
        if name.startswith((f"{arrays}.", f"{config}.")) and name.endswith((".part", ".written", ".next")):
            path.unlink(missing_ok=True)


def _waiting(folder: Path, arrays: str, config: bytes) -> Path:
    return folder / f".{arrays}.{hashlib.sha256(config).hexdigest()[:16]}.next"


def _sync(folder: Path) -> None:
    """Renames up to here are on the disk before those that follow."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer in a folder at a time, so that none removes what another is writing; ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = None if fcntl is None else os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None and handle is not None:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)
