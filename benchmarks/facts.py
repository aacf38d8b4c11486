"""What a timing has to say about itself: commit, versions, machine."""

import csv
import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from machine import cpu

from expander_sae.ops.selftest import native_facts


def facts() -> dict[str, str]:
    """Columns that every benchmark adds to its rows."""
    return {
        "commit": _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain", "src") else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": cpu(),
        "threads": str(torch.get_num_threads()),
        "instruction_set": native_facts().get("instruction set", "none"),
    }


def replace_own_rows(path: Path, rows: list[dict[str, Any]], of: tuple[str, ...] = ()) -> None:
    """Put rows into a CSV in place of those of the same machine, instruction set and columns `of`; others stay."""

    def whose(row: dict[str, Any]) -> tuple[str, ...]:
        used = str(row["instruction_set"]).partition(" ")[0]
        return (str(row["cpu"]), used, str(row["threads"]), *(str(row[column]) for column in of))

    kept = []
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            own = {whose(row) for row in rows}
            kept = [row for row in csv.DictReader(file) if whose(row) not in own]
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(rows[0]) + [name for name in (kept[0] if kept else {}) if name not in rows[0]]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows([*kept, *rows])


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
