"""`expander-sae report`: draw a folder's pages again from its records alone."""

from pathlib import Path
from typing import Annotated

import typer

from .console import output


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of experiments, of their records as files, or of a frontier.")],
) -> None:
    """Rebuild FOLDER/report.html and the figures from the records in FOLDER; nothing is measured again."""
    output().print(f"Report: {all_pages(folder)}")


def all_pages(folder: Path) -> Path:
    """Write the report of a folder and return its path.

    Raises:
        ExpanderSaeError: there are no records in it, or they are damaged.
    """
    from expander_sae.frontier.experiments import NAMES, find_experiment, write_reports

    return write_reports([find_experiment(name) for name in NAMES], folder)
