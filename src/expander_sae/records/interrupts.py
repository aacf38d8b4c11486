"""Ctrl-C, SIGTERM and a closed terminal: one exception, and places where it waits."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_PATIENCE = 1.0
"""Seconds in which a second signal is the same wish: whoever presses Ctrl-C twice must not stop the cleaning up."""


_raised: list[tuple[float, int]] = []
"""When, and for which signals, `make_interruptible` raised."""


_taken: list[int] = []
"""Signals that `make_interruptible` has the handler of."""


class Interrupted(KeyboardInterrupt):
    """A KeyboardInterrupt that knows which signal it was."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def make_interruptible() -> None:
    """From here on SIGTERM and SIGHUP are what Ctrl-C is: an `Interrupted` where the program is just then.

    What is ignored stays ignored (`nohup`); for command lines, in the main thread.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if _raised and now - _raised[-1][0] < _PATIENCE:
            return
        _raised.append((now, number))
        raise Interrupted(number)

    _raised.clear()
    _taken.clear()
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, stop)
                _taken.append(number)


def ignore_interrupts() -> None:
    """Undo `make_interruptible`: signals that it made exceptions of do nothing any more."""
    for number in _taken:
        signal.signal(number, signal.SIG_IGN)


def was_interrupted() -> Interrupted | None:
    """The last `Interrupted` that `make_interruptible` raised, if any: where it met code of C++, what comes out may be
    another exception altogether."""
    return Interrupted(_raised[-1][1]) if _raised else None


@contextmanager
def held_back() -> Iterator[list[int]]:
    """Hold back these signals inside the block: the yielded list has those that came, and the first of them is raised
    when the block has ended well.

    Only signals that Python would make an exception of: one that ends the process, or is ignored, still does or is.
    """
    caught: list[int] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # only the main thread receives signals
        for number in _SIGNALS:
            if callable(signal.getsignal(number)):
                before[number] = signal.signal(number, lambda number, _frame: caught.append(number))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        raise Interrupted(caught[0])
