"""Our own warnings on the terminal: one line each, without the place in the code."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from expander_sae.records import ExpanderSaeWarning


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """While open, an `ExpanderSaeWarning` is one line on standard error, each time; others are as they were."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ExpanderSaeWarning)
        before: Any = warnings.showwarning

        def show(message: Any, category: Any, *where: Any, **options: Any) -> None:
            if not issubclass(category, ExpanderSaeWarning):
                before(message, category, *where, **options)
                return
            console = Console(stderr=True, highlight=False, soft_wrap=True)
            console.print(f"[bold yellow]warning:[/] {escape(' '.join(str(message).split()))}")

        warnings.showwarning = show
        yield
