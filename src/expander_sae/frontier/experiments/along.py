"""The same SAEs trained again and again along one axis: a declaration says which, and here it becomes an experiment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from expander_sae.paper import Curve, Paper
from expander_sae.records.metrics import METRIC

from ..drawing import Line, beside_the_paper, lines
from ..page import Figure, Page
from ..results import Summary
from .context import Context
from .experiment import Experiment, Measured
from .quality import diverged, quality_table, summaries_of

DRAWN = ("fvu", "delta_ce", "kl", "ce_recovered_zero", "ce_recovered_mean")
Runs = Sequence[tuple[float, Sequence[Summary]]]
"""Summaries by place on the axis."""
Place = tuple[float, str, Mapping[str, Any]]
"""Where on the axis, in words, and what `Context.grid` is told."""


@dataclass(frozen=True)
class Axis:
    """What is changed between the trainings of a grid, and what is asked of it."""

    name: str
    question: str
    axis: str
    """What is along it, in words."""
    places: Callable[[Context], Iterable[Place]]
    claim: Callable[[Runs], str]
    note: str
    options: Mapping[str, Any]
    theirs: Callable[[Paper, str], Sequence[Curve]]
    """The paper's points of a metric, or a replication's."""
    compared: tuple[str, ...] = ("rel_err", "ce_recovered_zero")
    """Metrics that it has them of."""
    place: str = ""
    """The axis's short name, in tables; `axis` where it is empty."""
    whose: str = "the paper's"
    drawn: tuple[str, ...] = DRAWN
    """Metrics along the axis."""
    log_x: bool = True
    how: Mapping[str, Any] = field(default_factory=dict)
    """More of `Experiment`."""

    def experiment(self) -> Experiment:
        """It as an experiment like the others."""
        return Experiment(
            self.name, self.question, self.measure, self.show, options=self.options, beside=self.beside,
            **self.how,
        )  # fmt: skip

    def measure(self, context: Context) -> Measured:
        """The grid of the experiment's degrees and controls at every place."""
        runs = []
        for place, words, how in self.places(context):
            context.say(words)
            degrees = context.chosen_degrees(how.get("store"))
            grid = context.grid(degrees=degrees, controls=context.option("controls"), **how)
            runs.append({"at": place, "frontier": grid.frontier.to_dict()})
        return {"runs": runs}

    def show(self, measured: Measured) -> Page:
        """A diagram for each metric, one line for each variant, and a table for each place."""
        runs, place = runs_of(measured), self.place or self.axis
        lost = [f"{place} {r['at']:,.0f}: {note}" for r in measured["runs"] for note in diverged(r["frontier"])]
        return Page(
            claim=self.claim(runs),
            tables=[quality_table(f"{place}: {at:,.0f}", summaries) for at, summaries in runs if summaries],
            figures=[self._figure(metric, runs) for metric in self.drawn],
            notes=[self.note, *lost],
        )

    def beside(self, measured: Measured, paper: Paper) -> list[Figure | None]:
        """Metrics along the axis, with another's points."""
        runs = runs_of(measured)
        return [
            beside_the_paper(
                metric,
                f"{metric} along {self.axis}",
                [*lines_along(runs, metric), *self.theirs(paper, metric)],
                x=self.axis,
                y=METRIC[metric].heading,
                whose=self.whose,
                log_x=self.log_x,
            )
            for metric in self.compared
        ]

    def _figure(self, metric: str, runs: Runs) -> Figure | None:
        caption, y = f"{metric} along {self.axis}, one line for each SAE", METRIC[metric].heading
        return lines(f"{metric}_along", caption, lines_along(runs, metric), x=self.axis, y=y, log_x=self.log_x)


def runs_of(measured: Measured) -> Runs:
    """The summaries of `measured["runs"]`, a list of {"at": place on the axis, "frontier": Frontier.to_dict()}."""
    return [(run["at"], summaries_of(run["frontier"])) for run in measured["runs"]]


def lines_along(runs: Runs, metric: str) -> list[Line]:
    """A metric along the axis, one line for each variant."""
    names = list(dict.fromkeys(s.variant for _, summaries in runs for s in summaries))
    return [
        Line(name, [(at, s.metrics.get(metric)) for at, of in runs for s in of if s.variant == name]) for name in names
    ]
