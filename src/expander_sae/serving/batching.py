"""Requests that come within a window are answered together, by one thread, in the order in which they came.

The queue before it is bounded: what does not fit is refused at once, so that nobody waits for an answer that comes too
late. When the server stops, what waits is still answered, and nothing new is taken.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from expander_sae.web.answers import BusyError, Job

from .limits import Limits, RefusedError


class Work(Job):
    """A request that waits for the model."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        """Tokens."""
        self.arrived = time.monotonic()


class Batcher:
    """The queue, and the thread behind it.

    Args:
        run: answers a batch: sets the result or the exception of each request's future.
        limits: of the queue and of a batch.
    """

    def __init__(self, run: Callable[[Sequence[Work]], None], limits: Limits) -> None:
        self._run_batch, self.limits = run, limits
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._seconds = 0.05
        """What a batch took lately, on average."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._stopping

    def waiting(self) -> tuple[int, int]:
        """Requests in the queue, and their tokens."""
        with self._changed:
            return len(self._waiting), sum(work.size for work in self._waiting)

    def retry_after(self) -> int:
        """Seconds after which the queue is likely to have room again."""
        return max(1, math.ceil(self._seconds * len(self._waiting)))

    def check_room(self) -> None:
        """Raise where another request would be refused, before its body is read.

        Raises:
            BusyError: the queue is full.
            RefusedError: the server is stopping.
        """
        with self._changed:
            self._check()

    def submit(self, work: Work) -> None:
        """Put a request into the queue.

        Raises:
            BusyError: the queue is full.
            RefusedError: the server is stopping.
        """
        with self._changed:
            self._check()
            work.arrived = time.monotonic()
            self._waiting.append(work)
            self._changed.notify()

    def stop(self) -> None:
        """Take nothing new; what waits is answered."""
        self._stopping = True  # no lock: a signal handler may call this while the lock is held by its own thread

    def close(self) -> None:
        """Stop, and wait until all that waited is answered."""
        self.stop()
        with self._changed:
            self._changed.notify_all()
        self._thread.join()

    def _check(self) -> None:
        if self._stopping:
            raise RefusedError(503, "the server is stopping: ask another one, or again in a moment")
        if len(self._waiting) >= self.limits.queue:  # who left, makes room
            self._waiting = deque(
                work for work in self._waiting if not (work.cancelled.is_set() and work.future.cancel())
            )
        if len(self._waiting) >= self.limits.queue:
            raise BusyError(
                f"the server is busy: {self.limits.queue} requests are waiting already. Try again after the seconds "
                "in Retry-After"
            )

    def _run(self) -> None:
        while (batch := self._next()) is not None:
            begun = time.monotonic()
            wanted = [work for work in batch if not _called_off(work)]
            if not wanted:
                continue
            try:
                self._run_batch(wanted)
            except BaseException as error:  # whatever it is, whoever asked is told, and the thread goes on
                for work in wanted:
                    if not work.future.done():
                        work.future.set_exception(error)
            self._seconds += 0.2 * (time.monotonic() - begun - self._seconds)

    def _next(self) -> list[Work] | None:
        """The next batch; None once the server has stopped and nothing waits."""
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait(0.5)  # `stop` wakes nobody
            due = self._waiting[0].arrived + self.limits.window
            while not self._stopping and self._tokens() < self.limits.batch:
                left = due - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            batch, tokens = [self._waiting.popleft()], 0
            while self._waiting and self.limits.window > 0:
                tokens += batch[-1].size
                if tokens + self._waiting[0].size > self.limits.batch:
                    break
                batch.append(self._waiting.popleft())
            return batch

    def _tokens(self) -> int:
        return sum(work.size for work in self._waiting)


def _called_off(work: Work) -> bool:
    """Whether whoever asked has left; otherwise the request can no longer be called off."""
    if work.cancelled.is_set():
        work.future.cancel()
    return not work.future.set_running_or_notify_cancel()
