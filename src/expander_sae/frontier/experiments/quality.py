"""The quality of SAEs as tables and lines: every cross-entropy number stands with the others, every seed is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from expander_sae.records import FrontierRecord
from expander_sae.records.metrics import METRIC, QUALITY, Metric

from ..drawing import SPEED, Line
from ..families import FAMILIES, FAMILY
from ..page import Cell, Row, Sae, Table, by, number, over_seeds
from ..results import Summary, in_order, summarise, with_retention

NOTE = (
    "Mean over seeds ± half width of the 95% interval (Student's t); below it every seed. Retention is computed seed "
    "by seed, against the full dense tied SAE of the same seed read by its own encoder."
)


def records_from(stored: Iterable[Mapping[str, Any]]) -> list[FrontierRecord]:
    """Frontier records out of plain values, with their retentions set anew."""
    return with_retention(FrontierRecord.from_dict(record) for record in stored)


def summaries_of(measured: Mapping[str, Any]) -> list[Summary]:
    """The summaries of a measured frontier (`Frontier.to_dict()`), its own readings, in order."""
    return in_order(summarise(records_from(measured["records"])))


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


def shown(summaries: Iterable[Summary]) -> list[Metric]:
    """The metrics of a table of SAEs: those of `QUALITY` that any of them has."""
    measured = {name for summary in summaries for name in summary.metrics}
    return [metric for metric in QUALITY if metric.name in measured]


def quality_table(title: str, summaries: Sequence[Summary], *, inference: bool = False, note: str = "") -> Table:
    """One row for each summary, with every metric of `shown`; the speed too where ways of reading are compared."""
    metrics = [*shown(summaries), *([METRIC[SPEED]] * inference)]
    rows: list[list[Cell]] = []
    for summary in summaries:
        cells: list[Cell] = [Sae(summary.variant, summary.matched_degree, summary.diverged)]
        if inference:
            cells.append(summary.inference)
        cells += [summary.learned_values, summary.bytes_on_disk]
        cells += [number(summary.metrics.get(metric.name), metric.digits) for metric in metrics]
        rows.append(cells)
    columns = ["SAE", *(["read by"] if inference else []), "learned values", "bytes on disk"]
    return Table(title, [*columns, *(metric.heading for metric in metrics)], rows, note or NOTE)


def family_lines(
    summaries: Sequence[Summary],
    metric: str,
    x: Callable[[Summary], float | None],
    families: Sequence[str] | None = None,
) -> list[Line]:
    """One line for each family (of those named) that has the metric, in the order of `FAMILIES`."""
    found = []
    for family in FAMILIES:
        if families is not None and family.name not in families:
            continue
        points = [
            (at, s.metrics[metric])
            for s in summaries
            if s.family == family.name and metric in s.metrics and (at := x(s)) is not None
        ]
        if points:
            found.append(Line(family.label, sorted(points, key=lambda point: point[0]), family=family.name))
    return found


def mean_of(summary: Summary | None, metric: str) -> float | None:
    """A summary's mean of a metric, if it has it."""
    if summary is None or metric not in summary.metrics:
        return None
    return summary.metrics[metric].mean


def along_degree(rows: Iterable[Row], path: str, name: str, family: str = "") -> Line:
    """A value of rows against their degree, in the colour of a family where one is named."""
    groups = by(rows, "degree")
    return Line(name, [(float(degree), over_seeds(groups[degree], path)) for degree in sorted(groups)], family=family)


def families_along_degree(rows: Iterable[Row], path: str) -> list[Line]:
    """A value of rows against their degree, one line for each family."""
    return [along_degree(mine, path, FAMILY[family].label, family) for family, mine in by(rows, "family").items()]


def of_least_degree(rows: Iterable[Row], family: str) -> list[Row]:
    """The rows of a family at the least degree it has."""
    mine = by((row for row in rows if row["family"] == family), "degree")
    return mine[min(mine)] if mine else []
