"""`report.html` over a folder of experiments: one page for each question, in one file that needs nothing else."""

from __future__ import annotations

import base64
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from expander_sae.records import ExpanderSaeError, read_json, write_atomically
from expander_sae.records.metrics import QUALITY

from ..page import Number, Page, Sae, Table, plain
from ..results import FILE
from .experiment import Experiment
from .run import RECORDS, checked, is_record, page_of, read_record, write_page


def write_reports(experiments: list[Experiment], out: str | os.PathLike[str]) -> Path:
    """Draw every page again from its records and bind them into `OUT/report.html`.

    Args:
        experiments: those that may be there, in the order of the report; what others left is not touched.
        out: folder with one folder for each experiment that ran, or with their records as files of any name, several
            for one experiment if need be, or with a `frontier.json` and its SAEs.

    Raises:
        ExpanderSaeError: none of them ran here, or records are damaged.
    """
    out = Path(out)
    files = _record_files(out)
    pages = []
    for experiment in experiments:
        ran = out / experiment.name / RECORDS
        if ran.is_file():
            record = read_record(ran)
            pages.append(_page(experiment, "", record, write_page(experiment, record, ran.parent)))
        for name, record in files.get(experiment.name, []):
            # A frontier that was trained here is of this folder; others are records of elsewhere.
            own = f"{name}.json" == FILE
            page = write_page(experiment, record, out) if own else page_of(experiment, record)
            pages.append(_page(experiment, "" if own else name, record, page))
    if not pages:
        raise ExpanderSaeError(
            f"expected {out} to hold experiments that ran ({RECORDS} in a folder each) or records of them as JSON "
            "files; got none"
        )
    template = resources.files("expander_sae.frontier").joinpath("experiments.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    path = out / "report.html"
    with write_atomically(path) as temporary:
        temporary.write_text(environment.from_string(template).render(pages=pages, metrics=QUALITY), encoding="utf-8")
    return path


def _record_files(out: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Names of files with records of experiments and what they hold, by experiment; other JSON is passed over."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path in sorted(out.glob("*.json")):
        stored = read_json(path)
        if is_record(stored):
            record = checked(stored, path)
            found.setdefault(record["experiment"], []).append((path.stem, record))
    return found


def _page(experiment: Experiment, record_name: str, record: dict[str, Any], page: Page) -> dict[str, Any]:
    return {
        "name": record_name or experiment.name,
        "record": record_name,
        "question": record.get("question", experiment.question),
        "claim": page.claim,
        "figures": [
            {"data": base64.b64encode(figure.svg).decode(), "caption": figure.caption}
            for figure in page.figures
            if figure is not None
        ],
        "tables": [_table(table) for table in page.tables],
        "notes": [*page.notes, *record["notes"]],
        "command": record["command"],
        "made": _made(record),
    }


def _table(table: Table) -> dict[str, Any]:
    best = _best(table)
    return {
        "title": table.title,
        "columns": list(table.columns),
        "rows": [
            [_cell(plain(value)) | {"best": (place, column) in best} for column, value in enumerate(row)]
            for place, row in enumerate(table.rows)
        ],
        "note": table.note,
    }


def _best(table: Table) -> set[tuple[int, int]]:
    """Places of the best numbers among SAEs of one size, where the metric has a better side."""
    found: set[tuple[int, int]] = set()
    for column, heading in enumerate(table.columns):
        sizes: dict[int, list[tuple[float, int]]] = {}
        better = next((metric.better for metric in QUALITY if metric.heading == heading), 0)
        for place, row in enumerate(table.rows):
            sae, value = row[0], row[column]
            if better and isinstance(sae, Sae) and isinstance(value, Number) and sae.degree is not None:
                sizes.setdefault(sae.degree, []).append((better * value.found.mean, place))
        for rivals in sizes.values():
            if len({value for value, _ in rivals}) > 1:
                found |= {(place, column) for value, place in rivals if value == max(rivals)[0]}
    return found


def _cell(value: str | int | float | None) -> dict[str, str]:
    if value is None or value != value:
        return {"text": "–", "small": ""}
    if isinstance(value, bool):
        return {"text": "yes" if value else "no", "small": ""}
    if isinstance(value, int):
        return {"text": f"{value:,}", "small": ""}
    if isinstance(value, float):
        return {"text": f"{value:.4g}", "small": ""}
    text, _, small = value.partition("\n")
    return {"text": text, "small": small}


def _made(record: dict[str, Any]) -> list[str]:
    """How it was made, in short lines."""
    settings = record["settings"]
    shown = ", ".join(f"{name} {_words(value)}" for name, value in settings.items() if value not in (None, {}))
    made = [f"Settings: {shown}."]
    for harvest in record["activations"]:
        source = harvest.get("settings", {})
        counts = harvest.get("tokens", {})
        tokens = ", ".join(
            f"{counts[split]['ordinary']:,} {split}" for split in ("train", "heldout") if split in counts
        )
        made.append(
            f"Activations: {source.get('model_id')} ({str(source.get('model_revision'))[:19]}), after block "
            f"{source.get('layer')}, counted from 0; ordinary tokens: {tokens}."
        )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    took = record["seconds"]
    made.append(f"{versions}." + ("" if took is None else f" Last run: {took:,.0f} s, finished pieces not counted."))
    return made


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_words(item)}" for name, item in value.items())
    return str(value)
