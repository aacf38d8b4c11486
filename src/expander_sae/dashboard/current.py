"""The store that is served: the file as it is now, also when another process has put a new one in its place."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from expander_sae.latents import LatentStore, StoreChanged
from expander_sae.records import ExpanderSaeError

T = TypeVar("T")
_TRIES = 20
_THREADS = 6
_KEPT = 64
"""Answers of the whole store that are kept; each is made once for each view or pair of views."""


class Served:
    """One opened file, the answers made from all of it, and how many requests read it just now."""

    def __init__(self, store: LatentStore, identity: tuple[int, ...], generation: int) -> None:
        self.store, self.identity, self.generation = store, identity, generation
        self.readers, self.retired = 0, False
        self._made: OrderedDict[object, object] = OrderedDict()
        self._lock = threading.Lock()

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What `make` returns, made once as long as this file is served."""
        with self._lock:
            if key in self._made:
                self._made.move_to_end(key)
                return self._made[key]  # type: ignore[return-value]
        made = make()  # perhaps twice at once, which is no harm
        with self._lock:
            self._made[key] = made
            while len(self._made) > _KEPT:
                self._made.popitem(last=False)
        return made


class CurrentStore:
    """Hands out the store; a file that was renamed over it is opened, and the old one closed once nobody reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        # Of our own and few: every thread has a connection for as long as the store is open.
        self._threads = ThreadPoolExecutor(_THREADS, "reading")
        identity = self._identity() if path.exists() else ()  # looked at before it is opened, never after
        self._served = Served(LatentStore.open(path), identity, 0)

    def _identity(self) -> tuple[int, ...]:
        found = self.path.stat()
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def read(self, answer: Callable[[Served], T]) -> T:
        """What `answer` makes of the store, all of it from one file; a file replaced meanwhile is asked anew.

        Raises:
            ExpanderSaeError: what `answer` raises; or the file was replaced again and again.
        """
        for _ in range(_TRIES):
            with self._leased() as served, suppress(StoreChanged):
                return answer(served)
        raise ExpanderSaeError(f"expected a store that stays for a moment; got {self.path} replaced {_TRIES} times")

    async def in_thread(self, work: Callable[[], T]) -> T:
        """`work` done by one of a few threads: reading files is nothing for the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @contextmanager
    def _leased(self) -> Iterator[Served]:
        served = self._newest()
        try:
            yield served
        finally:
            with self._lock:
                served.readers -= 1
                self._close_if_done(served)

    def _newest(self) -> Served:
        with self._lock:
            try:
                identity = self._identity()
            except OSError:
                identity = self._served.identity  # gone: what is open can still be read
            if identity != self._served.identity:
                self._replace(identity)
            self._served.readers += 1
            return self._served

    def _replace(self, identity: tuple[int, ...]) -> None:
        try:
            new = LatentStore.open(self.path)
        except ExpanderSaeError:
            return  # no store, or one still being written in place: the old one is whole
        old, self._served = self._served, Served(new, identity, self._served.generation + 1)
        old.retired = True
        self._close_if_done(old)

    @staticmethod
    def _close_if_done(served: Served) -> None:
        if served.retired and not served.readers:
            served.store.close()

    def close(self) -> None:
        """Close the store once its last reader is done."""
        self._threads.shutdown()
        with self._lock:
            self._served.retired = True
            self._close_if_done(self._served)
