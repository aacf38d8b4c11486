"""The same SAEs trained again and again along one axis: less data, more steps, another layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..report import in_order
from ..results import Summary
from .drawing import Line, lines
from .experiment import Figure, Measured, Table
from .quality import diverged, quality_table, summaries_of

METRICS = (
    ("fvu", "fvu"),
    ("delta_ce", "delta_ce (nats/token)"),
    ("kl", "KL (nats/token)"),
    ("ce_recovered_zero", "ce_recovered_zero"),
    ("ce_recovered_mean", "ce_recovered_mean"),
)


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


def diverged_along(measured: Mapping[str, Any], axis: str) -> list[str]:
    """Notes on runs that diverged."""
    return [f"{axis} {run['at']:,.0f}: {note}" for run in measured["runs"] for note in diverged(run["frontier"])]


def first_of(summaries: Sequence[Summary], family: str) -> Summary | None:
    """The first summary of a family."""
    return next((summary for summary in summaries if summary.family == family), None)
