"""One writer at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from expander_sae.records import ExpanderSaeError

LOCK = ".lock"
"""The file that stands for a folder; it stays, because removing it is what races."""


@contextmanager
def alone_in(folder: Path, doing: str) -> Iterator[None]:
    """While open no other process, and no other thread, writes in `folder`, which is made if need be.

    Raises:
        ExpanderSaeError: another one does, or the folder cannot be made or locked.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, thread_local=False)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ExpanderSaeError(
            f"expected to be alone in {folder} while {doing}, but another process writes there. Wait for it to end, or "
            "choose another folder."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise ExpanderSaeError(
            f"cannot write in {folder}: {error}. Choose a folder whose files can be written and locked."
        ) from error
    try:
        yield
    finally:
        lock.release()
