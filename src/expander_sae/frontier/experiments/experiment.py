"""What an experiment is: one question, one file, one page.

A file of this folder asks one question (`axes.py` has those that train the same grid along an axis). It ends with

    EXPERIMENT = Experiment(
        name="collisions",                                  # the file's name, with dashes for underscores
        question="How often do the supports of real codes collide, and how often must they?",
        measure=measure,                                    # Context -> what was measured, as plain JSON values
        show=show,                                          # those values -> Page
        needs_activations=True,                             # the default; otherwise it runs without `--acts`
        options={"trials": 1000},                           # what `--set trials=50` may change, with its default
    )

and its name stands in `NAMES` of `__init__.py`. Two functions do the work:

- `measure(context) -> dict` runs for minutes or hours. Everything it returns is written to `DIR/NAME/records.json` and
  must be plain (dicts with string keys, lists, numbers, strings, None; records by `to_dict`). It is resumable: slow
  parts go through `context.piece(name, depends_on, make)`, which keeps `make()`'s plain result in a file
  (`context.row` puts that of one SAE into a row of a table), and SAEs come from
  `context.grid(degrees=..., controls=...)`, which trains and evaluates what is missing and shares it with every other
  experiment of the same folder. `context.store` are the activations, `context.language_model()` the model (None where
  there is none), `context.settings` what the command line said, `context.option("trials")` a setting of this
  experiment alone.
- `show(measured) -> Page` turns those values, read back from disk (tuples are lists, NaN is None), into a claim of one
  sentence, tables and figures. It computes in seconds, trains nothing and opens no activations: `expander-sae report`
  runs it from the records alone. Lines and points are drawn with `drawing.lines`; cells are what `page.number` makes
  of `records.spread.spread`: mean, 95% interval and every seed. The claim is computed from the numbers, with its hedge
  where the seeds do not carry it.

A third, `beside(measured, paper) -> figures`, draws the numbers of arXiv 2607.01799 beside ours where it has some.

`tests/frontier/test_experiments.py` runs every registered experiment on a tiny model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expander_sae.paper import Paper
from expander_sae.records import ExpanderSaeError

from ..page import Figure, Page
from .context import Context

Measured = dict[str, Any]
"""Plain JSON values."""


@dataclass(frozen=True)
class Experiment:
    """One question and how to answer it; see the text at the head of this file."""

    name: str
    question: str
    measure: Callable[[Context], Measured]
    show: Callable[[Measured], Page]
    needs_activations: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    every_layer: bool = False
    """Whether a recipe is harvested at all of its layers, where the command line names none; otherwise at its first."""
    beside: Callable[[Measured, Paper], Sequence[Figure | None]] | None = None

    def read_options(self, given: Mapping[str, str]) -> dict[str, Any]:
        """The options as this run has them: the defaults, and what was given as text, read as the default's type.

        Lists are written with commas.

        Raises:
            ExpanderSaeError: no such option, or a value that is not of its type.
        """
        found = dict(self.options)
        for name, text in given.items():
            if name not in found:
                known = ", ".join(self.options) or "none at all"
                raise ExpanderSaeError(f"expected --set options of {self.name} out of {known}; got {name!r}")
            found[name] = _read(text, found[name], f"--set {name}")
        return found


def _read(text: str, default: Any, where: str) -> Any:
    if isinstance(default, list | tuple):
        first = default[0] if default else ""
        return [_read(part.strip(), first, where) for part in text.split(",") if part.strip()]
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ExpanderSaeError(f"expected true or false for {where}, got {text!r}")
        return text.lower() == "true"
    try:
        return type(default)(text)
    except (TypeError, ValueError) as error:
        kind = type(default).__name__
        raise ExpanderSaeError(f"expected a value of type {kind} for {where}, got {text!r}") from error
