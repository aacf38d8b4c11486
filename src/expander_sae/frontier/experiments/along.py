"""The same SAEs trained again and again along one axis: less data, more steps, another layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report import in_order
from ..results import Summary
from .context import Context
from .drawing import Line, lines
from .experiment import Figure, Measured, Page, Table
from .quality import diverged, quality_table, summaries_of

METRICS = (
    ("fvu", "fvu"),
    ("delta_ce", "delta_ce (nats/token)"),
    ("kl", "KL (nats/token)"),
    ("ce_recovered_zero", "ce_recovered_zero"),
    ("ce_recovered_mean", "ce_recovered_mean"),
)


def run_at(place: float, context: Context, **how: Any) -> dict[str, Any]:
    """The grid of the experiment's degrees and controls at one place on the axis; `how` goes to `Context.grid`."""
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"), **how)
    return {"at": place, "frontier": grid.frontier.to_dict()}


def runs_of(measured: Measured) -> list[tuple[float, list[Summary]]]:
    """The summaries of `measured["runs"]`, a list of {"at": place on the axis, "frontier": Frontier.to_dict()}."""
    return [(run["at"], in_order(summaries_of(run["frontier"]))) for run in measured["runs"]]


def figures_along(
    runs: Sequence[tuple[float, Sequence[Summary]]], axis: str, *, log_x: bool, variants: Sequence[str] | None = None
) -> list[Figure | None]:
    """One diagram for each metric, one line for each variant."""
    found = []
    for metric, unit in METRICS:
        drawn = lines_along(runs, metric, variants)
        caption = f"{metric} along {axis}, one line for each SAE"
        found.append(lines(f"{metric}_along", caption, drawn, x=axis, y=unit, log_x=log_x))
    return found


def lines_along(
    runs: Sequence[tuple[float, Sequence[Summary]]], metric: str, variants: Sequence[str] | None = None
) -> list[Line]:
    """A metric along the axis, one line for each variant."""
    names = list(dict.fromkeys(s.variant for _, summaries in runs for s in summaries))
    return [
        Line(name, [(at, s.metrics.get(metric)) for at, of in runs for s in of if s.variant == name])
        for name in names
        if variants is None or name in variants
    ]


def tables_along(runs: Sequence[tuple[float, Sequence[Summary]]], axis: str) -> list[Table]:
    """One table for each place on the axis."""
    return [quality_table(f"{axis}: {at:,.0f}", summaries) for at, summaries in runs if summaries]


def page_along(
    measured: Measured,
    axis: str,
    claim: str,
    note: str,
    *,
    place: str | None = None,
    more: Sequence[Figure | None] = (),
) -> Page:
    """The page of an experiment along an axis that is drawn in logarithms; `place` is its short name, in tables."""
    runs, place = runs_of(measured), place or axis
    return Page(
        claim=claim,
        tables=tables_along(runs, place),
        figures=[*figures_along(runs, axis, log_x=True), *more],
        notes=[note, *diverged_along(measured, place)],
    )


def figure_beside(
    measured: Measured, axis: str, metric: str, theirs: Sequence[Line], *, along: str, whose: str = "the paper's"
) -> Figure | None:
    """A metric along the axis, with another's points."""
    drawn = [*lines_along(runs_of(measured), metric), *theirs]
    caption = f"{metric} along {along}, beside {whose}"
    return lines(f"{metric}_beside_the_paper", caption, drawn, x=axis, y=metric, log_x=True)


def diverged_along(measured: Mapping[str, Any], axis: str) -> list[str]:
    """Notes on runs that diverged."""
    return [f"{axis} {run['at']:,.0f}: {note}" for run in measured["runs"] for note in diverged(run["frontier"])]


def first_of(summaries: Sequence[Summary], family: str) -> Summary | None:
    """The first summary of a family."""
    return next((summary for summary in summaries if summary.family == family), None)
