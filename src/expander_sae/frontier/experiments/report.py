"""`report.html` over a folder of experiments: one page for each question, in one file that needs nothing else."""

from __future__ import annotations

import base64
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from expander_sae.records import ExpanderSaeError, read_json, write_atomically

from .experiment import Experiment, Page, Table
from .run import RECORDS, checked, is_record, page_of, read_record, write_page


def write_reports(experiments: list[Experiment], out: str | os.PathLike[str]) -> Path:
    """Draw every page again from its records and bind them into `OUT/report.html`.

    Args:
        experiments: those that may be there, in the order of the report; what others left is not touched.
        out: folder with one folder for each experiment that ran, or with their records as files of any name, several
            for one experiment if need be.

    Raises:
        ExpanderSaeError: none of them ran here, or records are damaged.
    """
    out = Path(out)
    files = _record_files(out)
    pages = []
    for experiment in experiments:
        ran = out / experiment.name / RECORDS
        if ran.is_file():
            pages.append(_page(experiment.name, "", read_record(ran), write_page(experiment, ran.parent)))
        for name, record in files.get(experiment.name, []):
            pages.append(_page(name, name, record, page_of(experiment, record)))
    if not pages:
        raise ExpanderSaeError(
            f"expected {out} to hold experiments that ran ({RECORDS} in a folder each) or records of them as JSON "
            "files; found none"
        )
    template = resources.files("expander_sae.frontier").joinpath("experiments.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    path = out / "report.html"
    with write_atomically(path) as temporary:
        temporary.write_text(environment.from_string(template).render(pages=pages), encoding="utf-8")
    return path


def _record_files(out: Path) -> dict[str, list[tuple[str, dict[str, Any]]]]:
    """Names of files with records of experiments and what they hold, by experiment; other JSON is passed over."""
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for path in sorted(out.glob("*.json")):
        stored = read_json(path)
        if is_record(stored):
            found.setdefault(stored["experiment"], []).append((path.stem, checked(stored, path)))
    return found


def _page(name: str, record_name: str, record: dict[str, Any], page: Page) -> dict[str, Any]:
    return {
        "name": name,
        "record": record_name,
        "question": record["question"],
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
    return {
        "title": table.title,
        "columns": list(table.columns),
        "rows": [[_cell(value) for value in row] for row in table.rows],
        "note": table.note,
    }


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
    made.append(f"{versions}. Last run: {record['seconds']:,.0f} s, finished pieces not counted.")
    return made


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{name}={_words(item)}" for name, item in value.items())
    return str(value)
