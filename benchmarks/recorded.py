"""The pages of records in docs/results, and what stands in their cells."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from expander_sae.frontier.experiments import Page, Table, find_experiment
from expander_sae.frontier.experiments.quality import records_from
from expander_sae.frontier.experiments.run import checked, page_of
from expander_sae.frontier.families import title_of
from expander_sae.frontier.page import Cell, Number, Sae, plain
from expander_sae.records.metrics import METRICS

DOCS = Path(__file__).parent.parent / "docs"
HEADED = {metric.heading: metric for metric in METRICS}
Row = dict[str, Cell]


def short(value: float, digits: int) -> str:
    """Without the zero before the point."""
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def mean(cell: Cell, digits: int) -> str:
    """A cell's mean over seeds, nothing where it has none."""
    return short(cell.found.mean, digits) if isinstance(cell, Number) else ""


def whole(cell: Cell) -> str:
    """A cell as its page has it, without the single seeds."""
    shown = plain(cell)
    if shown is None or isinstance(shown, str):
        return (shown or "").partition("\n")[0]
    return f"{shown:,}" if isinstance(shown, int) else f"{shown:.4g}"


def title(cell: Cell) -> str:
    """What documents call an SAE; other cells as they are."""
    return cell.title() if isinstance(cell, Sae) else title_of(whole(cell))


def read(name: str, results: Path) -> dict[str, Any]:
    """A record; for a name A+B that of A with the evaluations that `expander-sae eval --json` wrote to B."""
    name, _, other = name.partition("+")
    path = results / f"{name}.json"
    record = checked(json.loads(path.read_text(encoding="utf-8")), path)
    if other:
        anew = json.loads((results / f"{other}.json").read_text(encoding="utf-8"))
        records = record["measured"]["records"]
        kept = [one | {"evaluation": anew[one["folder"]]} for one in records if one["folder"] in anew]
        retained = [one.to_dict() for one in records_from(kept)]  # against the dense SAE measured in the same way
        record = record | {"measured": record["measured"] | {"records": retained}}
    return record


@cache
def page_of_record(name: str, results: Path) -> Page:
    """The page of a record."""
    record = read(name, results)
    return page_of(find_experiment(record["experiment"]), record)


def rows_of(table: Table) -> list[Row]:
    """The rows of a table, cells by heading."""
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def saes(name: str, results: Path) -> dict[str, Row]:
    """The rows of a page's table of SAEs, by variant."""
    table = next(one for one in page_of_record(name, results).tables if {"SAE", "learned values"} <= {*one.columns})
    return {variant(row): row for row in rows_of(table)}


def variant(row: Row) -> str:
    """Which SAE a row is of."""
    sae = row["SAE"]
    return sae.variant if isinstance(sae, Sae) else str(sae)


def parts(text: str, between: str = ",") -> list[str]:
    """What stands between separators."""
    return [part.strip() for part in text.split(between) if part.strip()]
