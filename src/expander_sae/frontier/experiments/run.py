"""Run one experiment, keep its records, and draw its page."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.paper import Paper
from expander_sae.records import ExpanderSaeError, read_json, write_atomically, write_json
from expander_sae.records.locks import alone_in
from expander_sae.records.sealed import unseal, write_sealed
from expander_sae.records.versions import versions

from ..page import Page, caution, plain
from ..results import FORMAT as FRONTIER
from ..results import Frontier, from_dict, settings_of
from .context import Context
from .experiment import Experiment
from .settings import Settings

FORMAT = "expander-sae experiment 1"
RECORDS = "records.json"
PAGE = "page.json"
SHARED = "saes"
"""Folder of the SAEs that all experiments of one output folder share."""


def run_experiment(
    experiment: Experiment,
    out: str | os.PathLike[str],
    settings: Settings,
    *,
    stores: Sequence[ActivationStore] = (),
    language_model: Callable[[], LanguageModel] | None = None,
    shared: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    command: str | None = None,
    notes: Sequence[str] = (),
    say: Callable[[str], None] = lambda _text: None,
    progress: bool = False,
) -> Page:
    """Measure, write `OUT/NAME/records.json`, and draw the page from what was written.

    Args:
        experiment: what to run.
        out: gets a folder of the experiment's name, and `saes/` with what experiments share.
        settings: what every experiment is told.
        stores: harvested activations, the first being the main ones.
        language_model: loads the model they came from; None leaves the cross entropy out.
        shared: where the shared SAEs are, instead of `OUT/saes`.
        device: where SAEs are trained and evaluated; what an experiment measures besides is measured on the CPU.
        command: the command line behind this run, for the page.
        notes: said on the page as they are.
        say: told what is going on.
        progress: draw bars.

    Raises:
        ExpanderSaeError: something the experiment needs is missing, or what it raises itself.
    """
    if experiment.needs_activations and not stores:
        raise ExpanderSaeError(f"{experiment.name} needs harvested activations; give their folder with --acts")
    folder = Path(out) / experiment.name
    context = Context(
        folder,
        settings,
        shared=Path(shared) if shared is not None else Path(out) / SHARED,
        stores=stores,
        language_model=language_model,
        device=device,
        say=say,
        progress=progress,
    )
    with alone_in(folder, experiment.name, f"runs {experiment.name}"):
        started = time.perf_counter()
        measured = experiment.measure(context)
        record = {
            "format": FORMAT,
            "experiment": experiment.name,
            "question": experiment.question,
            "settings": settings.to_dict(),
            "activations": [settings_of(store.manifest) for store in stores],
            "versions": versions(),
            "command": command,
            "notes": list(notes),
            "seconds": time.perf_counter() - started,
            "measured": measured,
        }
        write_sealed(folder / RECORDS, record)
        return write_page(experiment, read_record(folder / RECORDS), folder)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The records in a file that an experiment wrote, or `run_frontier`: those are of the experiment `frontier`.

    Raises:
        ExpanderSaeError: there is none, or of another format.
    """
    return checked(read_json(path), path)


def checked(stored: Any, path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a JSON file holds, if it is the records of an experiment.

    Raises:
        ExpanderSaeError: it is not.
    """
    if isinstance(stored, dict) and stored.get("format") == FRONTIER:
        return _of_frontier(from_dict(stored, str(path)))
    if not is_record(stored) or "measured" not in stored:
        raise ExpanderSaeError(f"expected {path} to be an {FORMAT!r} file; got something else")
    return unseal(stored, path, "Make it again with the same command.")


def is_record(stored: object) -> bool:
    """Whether what a JSON file holds is an experiment's, or a frontier."""
    return isinstance(stored, dict) and stored.get("format") in (FORMAT, FRONTIER)


def _of_frontier(found: Frontier) -> dict[str, Any]:
    """A frontier as the records of an experiment."""
    settings = found.settings
    told = ("degrees", "k", "n_latents", "seeds", "signed", "latent_bias", "construction", "stages", "spare")
    # Only the paper's preset starts sparse and dense SAEs at the same values, and only one anneals.
    preset = "paper" if settings.get("dense_draw") else "meaning" if settings["training"].get("anneal") else "fidelity"
    return {
        "format": FORMAT,
        "experiment": "frontier",
        "settings": {
            "preset": preset,
            **{name: settings.get(name) for name in told},
            "training": settings["training"],
            "evaluation": settings["evaluation"],
        },
        "activations": [settings["activations"]],
        "versions": found.versions,
        "command": settings.get("command"),
        "notes": found.notes,
        "seconds": None,
        "measured": found.to_dict(),
    }


def page_of(experiment: Experiment, record: Mapping[str, Any]) -> Page:
    """The page of an experiment's records: what it shows, the paper's numbers beside it, and what its seeds do not
    carry."""
    page = experiment.show(record["measured"])
    if experiment.needs_activations and "no claim yet" not in page.claim:  # some claims say so themselves
        page = replace(page, claim=page.claim + caution(len(record["settings"]["seeds"])))
    if experiment.beside is not None:
        paper = Paper(record)
        figures = [*page.figures, *experiment.beside(record["measured"], paper)]
        page = replace(page, figures=figures, notes=[*page.notes, paper.note()])
    return page


def write_page(experiment: Experiment, record: Mapping[str, Any], folder: str | os.PathLike[str]) -> Page:
    """Draw the page of records into a folder: figures as SVG, the rest as `page.json`.

    Raises:
        ExpanderSaeError: the folder cannot be written.
    """
    folder = Path(folder)
    page = page_of(experiment, record)
    figures = [figure for figure in page.figures if figure is not None]
    for figure in figures:
        with write_atomically(folder / "figures" / f"{figure.name}.svg") as temporary:
            temporary.write_bytes(figure.svg)
    wanted = {f"{figure.name}.svg" for figure in figures}
    for old in (folder / "figures").glob("*.svg"):
        if old.name not in wanted:
            old.unlink()
    write_json(
        folder / PAGE,
        {
            "experiment": experiment.name,
            "question": record.get("question", experiment.question),
            "claim": page.claim,
            "figures": {figure.name: figure.caption for figure in figures},
            "tables": [
                {
                    "title": t.title,
                    "columns": list(t.columns),
                    "rows": [[plain(cell) for cell in row] for row in t.rows],
                    "note": t.note,
                }
                for t in page.tables
            ],
            "notes": [*page.notes, *record["notes"]],
            "command": record["command"],
        },
    )
    return page
