"""How far long work is: a bar on a terminal, anywhere else a line now and then, with an estimate of what is left."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, TaskID

SECONDS = 20.0
"""Between two lines where there is no terminal; the first comes after as long."""


@dataclass
class _Task:
    text: str
    total: float | None
    done: float
    at_start: float
    started: float
    said: float


class Bars:
    """Bars of one piece of work; as a context, on standard error.

    Args:
        label: what is going on, before every bar's own text.
        show: False draws and says nothing.
        columns: of rich, after the count on a terminal.
    """

    def __init__(self, label: str = "", *columns: ProgressColumn, show: bool = True) -> None:
        from rich.console import Console  # a tenth of a second that most commands do not need
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._say = console.print if show and not console.is_terminal else None
        before = [TextColumn(label, markup=False)] if label else []
        count = (BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn())
        text = TextColumn("{task.description}", markup=False)
        self._label = label
        self._bars = Progress(
            *before, text, *count, console=console, disable=not (show and console.is_terminal), transient=False
        )
        self._tasks: list[_Task] = []
        self._ids: list[TaskID] = []

    def __enter__(self) -> Bars:
        self._bars.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._bars.__exit__(*error)

    def begin(self, text: str = "", total: float | None = None, done: float = 0) -> int:
        """Begin a bar; its number."""
        now = time.monotonic()
        self._tasks.append(_Task(text, total, done, done, now, now))
        self._ids.append(self._bars.add_task(text, total=total, completed=int(done)))
        return len(self._tasks) - 1

    def advance(self, bar: int, by: float) -> None:
        """So much more is done."""
        self.update(bar, done=self._tasks[bar].done + by)

    def update(self, bar: int, *, done: float | None = None, text: str | None = None) -> None:
        """So much is done in all, and this is its text now."""
        task = self._tasks[bar]
        task.done = task.done if done is None else done
        task.text = task.text if text is None else text
        self._bars.update(self._ids[bar], completed=task.done, description=task.text)
        now = time.monotonic()
        if self._say is not None and now - task.said >= SECONDS:
            task.said = now
            self._say(self._line(task, now))

    def _line(self, task: _Task, now: float) -> str:
        name = " ".join(part for part in (self._label, task.text) if part)
        rate = (task.done - task.at_start) / max(now - task.started, 1e-9)
        if task.total is None:
            return f"{name}: {task.done:,.0f}, {rate:,.0f} a second"
        left = "" if not rate else f", about {_duration((task.total - task.done) / rate)} left"
        return f"{name}: {task.done:,.0f} of {task.total:,.0f} ({task.done / max(task.total, 1):.0%}){left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
