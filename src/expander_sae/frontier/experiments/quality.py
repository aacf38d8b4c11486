"""The quality of SAEs as tables and lines: every cross-entropy number stands with the others, every seed is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from expander_sae.records import FrontierRecord

from ..over_seeds import Spread
from ..results import Summary, summarise, with_retention
from .drawing import Line
from .experiment import Table

COLUMNS = (
    # heading, metric, digits
    ("fvu", "fvu", 4),
    ("rel_err", "rel_err", 4),
    ("Δ CE, nats", "delta_ce", 3),
    ("CE recovered, zero", "ce_recovered_zero", 4),
    ("CE recovered, mean", "ce_recovered_mean", 4),
    ("KL, nats", "kl", 3),
    ("retention, zero", "retention_zero", 3),
    ("retention, mean", "retention_mean", 3),
    ("dead", "dead_fraction", 4),
)
"""Both cross-entropy forms, `delta_ce` and `kl` always together."""

NOTE = (
    "Mean over seeds ± half width of the 95% interval (Student's t); below it every seed. Retention is computed seed "
    "by seed, against the full dense tied SAE of the same seed read by its own encoder."
)


def records_from(stored: Iterable[Mapping[str, Any]]) -> list[FrontierRecord]:
    """Frontier records out of plain values, with their retentions set anew."""
    return with_retention(FrontierRecord.from_dict(record) for record in stored)


def summaries_of(measured: Mapping[str, Any]) -> list[Summary]:
    """The summaries of a measured frontier (`Frontier.to_dict()`), its own readings."""
    return summarise(records_from(measured["records"]))


def diverged(measured: Mapping[str, Any]) -> list[str]:
    """Notes on the runs of `measured["records"]` that diverged, and on those worse than no SAE at all, if any."""
    lost, worse = [], []
    for record in measured["records"]:
        name = f"{record['variant']} seed {record['seed']}"
        if record["evaluation"] is None:
            lost.append(name)
        elif record["evaluation"]["rel_err"] > 1:
            worse.append(f"{name} ({record['evaluation']['rel_err']:.2f})")
    notes = []
    if lost:
        notes.append(f"Training diverged and is not in any mean: {', '.join(lost)}.")
    if worse:
        notes.append(
            f"Worse than reconstructing zero (rel_err above 1), and in the means all the same: {', '.join(worse)}."
        )
    return notes


def quality_table(title: str, summaries: Sequence[Summary], *, inference: bool = False, note: str = "") -> Table:
    """One row for each summary, with every metric of `COLUMNS` that any of them has."""
    shown = [column for column in COLUMNS if any(column[1] in summary.metrics for summary in summaries)]
    sizes = ("learned values", "bytes on disk")
    rows = []
    for summary in summaries:
        cells: list[str | int | None] = [summary.variant + (f" ({summary.diverged} diverged)" * bool(summary.diverged))]
        if inference:
            cells.append(summary.inference)
        cells += [summary.learned_values, summary.bytes_on_disk]
        cells += [text_of(summary.metrics.get(metric), digits) for _, metric, digits in shown]
        rows.append(cells)
    columns = ["SAE", *(["read by"] if inference else []), *sizes, *(column[0] for column in shown)]
    return Table(title, columns, rows, note or NOTE)


def text_of(found: Spread | None, digits: int) -> str | None:
    """A spread as a cell; None where there is none."""
    return None if found is None else found.text(digits)


def family_lines(
    summaries: Sequence[Summary],
    metric: str,
    x: Callable[[Summary], float | None],
    names: Mapping[str, str],
    *,
    label: Callable[[Summary], str] = lambda _summary: "",
) -> list[Line]:
    """One line for each family of `names` (family -> what to call it) that has the metric, in that order."""
    found = []
    for family, name in names.items():
        mine = [(s, at) for s in summaries if s.family == family and (at := x(s)) is not None and metric in s.metrics]
        mine.sort(key=lambda pair: pair[1])
        if mine:
            points = [(at, s.metrics[metric]) for s, at in mine]
            found.append(Line(name, points, labels=[label(s) for s, _ in mine]))
    return found


def mean_of(summary: Summary | None, metric: str) -> float | None:
    """A summary's mean of a metric, if it has it."""
    if summary is None or metric not in summary.metrics:
        return None
    return summary.metrics[metric].mean
