"""A local folder whose finished files go to a URL: whoever writes there needs to know nothing of it."""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from .files import finished
from .remote import RemoteFolder, cache_folder, is_remote, url_digest

_P = ParamSpec("_P")
_R = TypeVar("_R")
_mirrors: dict[Path, RemoteFolder] = {}
_LAST = (".json", ".jsonl")
"""Endings of files that say of others that they are finished."""


@contextmanager
def mirrored(place: str | os.PathLike[str]) -> Iterator[Path]:
    """The folder to work in: `place` itself, or one of the cache whose finished files are uploaded to that URL.

    What is at the URL is fetched first, so that a run goes on that another machine began. At the end, and after an
    interruption at the next beginning, everything is there: tensors first, then the JSON that names them.

    Raises:
        ExpanderSaeError: the store refuses a file, or does not answer.
    """
    if not is_remote(place):
        yield Path(place)
        return
    remote = RemoteFolder(place)
    folder = cache_folder() / "work" / url_digest(remote.url)
    folder.mkdir(parents=True, exist_ok=True)
    there = remote.sizes()
    for name in there:
        if not (folder / name).exists():
            remote.download(name, folder / name)
    _upload_missing(folder, remote, there)
    _mirrors[folder] = remote
    try:
        yield folder
        _upload_missing(folder, remote, remote.sizes())
    finally:
        del _mirrors[folder]
    shutil.rmtree(folder, ignore_errors=True)


def at_a_url(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Of a function that works in its argument `folder`, one that also takes a URL there."""

    @functools.wraps(function)
    def call(*args: _P.args, **options: _P.kwargs) -> _R:
        place: Any = options["folder"]
        with mirrored(place) as folder:
            return function(*args, **(options | {"folder": folder}))  # type: ignore[arg-type]

    return call


def published(path: Path) -> None:
    """Upload a file that is finished, if its folder goes to a URL."""
    if _mirrors and not path.name.startswith("."):
        for folder, remote in _mirrors.items():
            if path.is_relative_to(folder):
                remote.upload(path, path.relative_to(folder).as_posix())


def withdraw(path: Path) -> None:
    """Remove a file here, if it is there, and at the URL that its folder goes to."""
    path.unlink(missing_ok=True)
    for folder, remote in _mirrors.items():
        if path.is_relative_to(folder):
            remote.remove(path.relative_to(folder).as_posix())


def _upload_missing(folder: Path, remote: RemoteFolder, there: dict[str, int]) -> None:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    for path in sorted(files, key=lambda path: (path.suffix in _LAST, path)):
        name = path.relative_to(folder).as_posix()
        if path.suffix != ".lock" and (path.suffix in _LAST or there.get(name) != path.stat().st_size):
            remote.upload(path, name)


finished.append(published)
