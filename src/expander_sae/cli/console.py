"""What verbs print: one console, on which no text of a user's is markup, an emoji or a command to the terminal."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from expander_sae.records.files import is_standard_output
from expander_sae.records.shown import spelt


def visible(text: str) -> str:
    """The text with control characters, what turns the direction of writing, and bytes that are no UTF-8 spelt out.

    Example:
        >>> visible("a\\x1b[31mb")
        'a\\\\x1b[31mb'
    """
    return "".join(c if c in "\n\t" else spelt(c) for c in text)


class Output(Console):
    """A console that shows every string as it is: paths and names look like markup, and are none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does, but with nothing in the text that is not shown."""
        return super().render_str(visible(text), **options)

    def on_broken_pipe(self) -> NoReturn:
        """Nobody reads any more: an error that `main` passes over in silence."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def output(*files: Path | None, quiet: bool = False, soft_wrap: bool = True) -> Output:
    """Where a verb says what it did.

    Args:
        files: those that the verb writes: where one of them is standard output, what is said goes to standard error.
        quiet: say nothing.
        soft_wrap: leave long lines, paths mostly, to the terminal.
    """
    return Output(quiet=quiet, soft_wrap=soft_wrap, stderr=any(map(is_standard_output, files)))


def errors() -> Output:
    """Where errors and what else nobody has asked for is said."""
    return Output(stderr=True, soft_wrap=True)
