"""What a timing has to say about itself: commit, versions, machine."""

import datetime
import platform
import subprocess
from pathlib import Path

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


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    return done.stdout.strip()
