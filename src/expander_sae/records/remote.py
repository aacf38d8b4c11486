"""Files at a URL that fsspec knows (`s3://`, `gcs://`, `memory://`, ...): read through a cache on disk, written
after a finished file here.

Nothing here imports fsspec before a URL is met. Requests are repeated with growing pauses until patience ends.
"""

import errno
import hashlib
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from .errors import ExpanderSaeError
from .files import sha256_file, write_atomically

PATIENCE = "EXPANDER_SAE_PATIENCE"
"""Seconds that a request is repeated for; 120 unless said."""
CACHE = "EXPANDER_SAE_CACHE"
"""Folder of the cache; `~/.cache/expander-sae` unless said."""
CACHE_GB = "EXPANDER_SAE_CACHE_GB"
"""Size of the cache, 20 unless said."""
_YOUNG = 60.0
"""Seconds for which a file that somebody asked for is not thrown out: they are about to open it."""
_WHOLE_OR_NOT = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "hf")
"""Where an upload appears when it is finished; elsewhere it gets another name meanwhile."""
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?=[^/])")
_Read = TypeVar("_Read")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a place is a URL; also one that went through `pathlib`, which makes one slash of two."""
    return _URL.match(os.fspath(path)) is not None


class RemoteFolder:
    """A folder at a URL.

    Raises:
        ExpanderSaeError: fsspec, or the package it needs for this kind of URL, is not installed.

    Example:
        >>> folder = RemoteFolder("memory://doctest/runs")
        >>> folder.write("a.json", b"[1]")
        >>> folder.read("a.json"), folder.sizes()
        (b'[1]', {'a.json': 3})
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = _URL.sub(r"\1://", os.fspath(url), count=1).rstrip("/")
        self.protocol = self.url.split(":", 1)[0]
        # The client's own patience is short: what is repeated, and for how long, is said here alone.
        times = {"connect_timeout": 10, "read_timeout": 30, "retries": {"max_attempts": 1}}
        options = {"config_kwargs": times} if self.protocol in ("s3", "s3a") else {}
        try:
            import fsspec

            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(self.url, **options)
        except (ImportError, ValueError) as error:
            raise ExpanderSaeError(f"expected a URL that fsspec can open; got {self.url}: {error}") from error

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes:
        """The bytes of a small file, as they are there now.

        Raises:
            ExpanderSaeError: there is none, or the store does not answer.
        """
        return self._patiently(f"to read {self.url}/{name}", lambda: self._files.cat_file(self._at(name)))

    def write(self, name: str, content: bytes) -> None:
        """Replace a small file.

        Raises:
            ExpanderSaeError: the store refuses it, or does not answer.
        """
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "content").write_bytes(content)
            self.upload(Path(folder) / "content", name)

    def upload(self, file: Path, name: str) -> None:
        """Put a finished file there: it appears whole or not at all.

        Raises:
            ExpanderSaeError: the store refuses it, or does not answer.
        """
        size, target = file.stat().st_size, self._at(name)
        meanwhile = target if self.protocol in _WHOLE_OR_NOT else f"{os.path.dirname(target)}/.{Path(name).name}.part"

        def put() -> None:
            self._files.makedirs(os.path.dirname(target), exist_ok=True)
            self._files.put_file(str(file), meanwhile)
            self._files.invalidate_cache()
            if (found := self._files.size(meanwhile)) != size:
                raise OSError(f"{found} of {size} bytes arrived")
            if meanwhile != target:
                self._files.mv(meanwhile, target)

        self._patiently(f"to write {self.url}/{name}", put)

    def sizes(self) -> dict[str, int]:
        """Bytes of every file, by its name below the folder; empty where there is no folder."""

        def listed() -> dict[str, int]:
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
            root = self._files._strip_protocol(self._root).rstrip("/") + "/"
            names = {path.removeprefix(root): entry["size"] for path, entry in found.items()}
            return {name: size for name, size in names.items() if not PurePosixPath(name).name.startswith(".")}

        return self._patiently(f"to list {self.url}", listed)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

        def rm() -> None:
            self._files.invalidate_cache()
            if self._files.exists(self._at(name)):
                self._files.rm_file(self._at(name))

        self._patiently(f"to remove {self.url}/{name}", rm)

    def download(self, name: str, target: Path, sha256: str | None = None) -> None:
        """Copy a file to `target`, whole or not at all; with a checksum, that content and no other.

        Raises:
            ExpanderSaeError: there is none, its content is another, or the store does not answer.
        """

        def get() -> None:
            with write_atomically(target) as temporary, _apart():
                self._files.get_file(self._at(name), str(temporary))
                if sha256 is not None and (found := sha256_file(temporary)) != sha256:
                    raise OSError(f"a file of sha256 {found[:16]}..., not {sha256[:16]}...")

        self._patiently(f"to read {self.url}/{name}", get)

    def cached(self, name: str, sha256: str) -> Path:
        """A local copy of a file with this checksum, out of the cache or put there.

        Two processes may use one cache. What was asked for least recently goes when the cache is full.

        Raises:
            ExpanderSaeError: the file is missing or of other content, or the store does not answer.
        """
        folder = cache_folder() / "files"
        path = folder / sha256
        if path.is_file() and (path in _intact or sha256_file(path) == sha256):
            os.utime(path)
        else:
            self.download(name, path, sha256)
            _shrink(folder, path)
        _intact.add(path)
        return path

    def _at(self, name: str) -> str:
        if ".." in PurePosixPath(name).parts or name.startswith("/"):
            raise ExpanderSaeError(f"expected the name of a file below {self.url}; got {name!r}")
        return f"{self._root.rstrip('/')}/{name}"

    def _patiently(self, doing: str, act: Callable[[], _Read]) -> _Read:
        """Repeat what fails until patience ends; what is not there, or not allowed, is not asked for twice."""
        patience = float(os.environ.get(PATIENCE, "120"))
        began, tries, pause = time.monotonic(), 0, 0.25
        while True:
            tries += 1
            try:
                return act()
            except ExpanderSaeError:
                raise
            except Exception as caught:  # each store has errors of its own
                error = caught.__cause__ if isinstance(caught, _OfTheStore) and caught.__cause__ else caught
                if isinstance(error, FileNotFoundError | PermissionError):
                    raise ExpanderSaeError(f"expected {doing}; got {type(error).__name__}: {error}") from error
                if time.monotonic() - began + pause > patience:
                    raise ExpanderSaeError(
                        f"expected {doing}; got {type(error).__name__}: {str(error)[:200]}, {tries} times in "
                        f"{time.monotonic() - began:.0f} s. Check the connection and the store's address, and run the "
                        f"same command again; {PATIENCE} is how many seconds are tried."
                    ) from error
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, 20.0)


class _OfTheStore(Exception):
    """Around an error of a request: `write_atomically` says of every other OSError that the disk here is full."""


@contextmanager
def _apart() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise _OfTheStore from error


_intact: set[Path] = set()
"""Files of the cache whose checksum this process has compared."""


def cache_folder() -> Path:
    """Where the cache is, as the environment says; without a home, in the folder of temporary files."""
    if CACHE in os.environ:
        return Path(os.environ[CACHE])
    try:
        return Path.home() / ".cache" / "expander-sae"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"expander-sae-{os.getuid() if hasattr(os, 'getuid') else 0}"


def _shrink(folder: Path, kept: Path) -> None:
    """Remove what was used least recently, above the limit; another process may do so at the same time."""
    limit = float(os.environ.get(CACHE_GB, "20")) * 1e9
    found = []
    for path in folder.iterdir():
        try:
            state = path.stat()
        except FileNotFoundError:
            continue
        found.append((state.st_mtime, state.st_size, path))
    total = sum(size for _, size, _ in found)
    for used, size, path in sorted(found):
        if total <= limit:
            return
        if path != kept and time.time() - used > _YOUNG:
            path.unlink(missing_ok=True)
            _intact.discard(path)
            total -= size


def url_digest(url: str) -> str:
    """A name for what belongs to a URL."""
    return hashlib.sha256(url.encode()).hexdigest()[:16]
