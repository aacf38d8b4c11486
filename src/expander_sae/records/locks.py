"""Folders that one process at a time writes to."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ExpanderSaeError
from .files import disk_errors

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, before_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within it no other process holds the same lock; the end of one that does is waited for.

    A process that dies, however it dies, holds nothing any more.

    Raises:
        ExpanderSaeError: the disk has no locks, or the file cannot be made.
    """
    from filelock import FileLock, Timeout  # a tenth of a second that most commands do not need

    lock = FileLock(path)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            before_waiting()
            lock.acquire()
    except (NotImplementedError, OSError) as error:
        raise ExpanderSaeError(
            f"expected a folder whose files can be locked, so that no other process trains in it; got {error}: {path}. "
            "Choose an output folder on another disk."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone_in(folder: Path, name: str, doing: str) -> Iterator[None]:
    """Within it no other process does the same in this folder, which is made if need be.

    On a disk without locks a warning is all there is.

    Args:
        folder: where.
        name: of the lock's file, `.NAME.lock`; it stays.
        doing: what the process that came first does, in words.

    Raises:
        ExpanderSaeError: another process does it, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f".{name}.lock")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ExpanderSaeError(
                f"another process {doing} in {folder} now. Wait until it has ended, or choose another folder."
            ) from None
        except NotImplementedError as error:
            _warn(folder, str(error))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _warn(folder, os.strerror(error.errno or 0))
    try:
        yield
    finally:
        lock.release()


def _warn(folder: Path, why: str) -> None:
    warnings.warn(f"the disk of {folder} has no locks ({why}): let no other process write there", stacklevel=5)
