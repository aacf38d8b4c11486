"""What is said when a verb is interrupted: what is kept, and how to go on."""

from __future__ import annotations

import glob
import os
import signal
import sys
from pathlib import Path
from typing import Any

from .console import errors

_GO_ON = ("harvest", "train", "amortise", "compress", "frontier", "experiment", "demo", "offline", "features")
"""Verbs that leave what an interrupted run did for the next one: in their folder, or beside their file."""


said: list[int] = []
"""Exit codes of what `say_interrupted` said in this process."""


def say_interrupted(stop: KeyboardInterrupt, verb: str | None, params: dict[str, Any]) -> int:
    """Say it on standard error; the exit code: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal."""
    number = getattr(stop, "number", signal.SIGINT)
    out = params.get("out")
    if verb not in _GO_ON or out is None:
        kept = "nothing was half written; the same command does it anew"
    elif _has_files(Path(out)):
        kept = f"what was done so far is kept in {out}; the same command goes on from there"
    else:
        kept = f"nothing was done yet in {out}; the same command begins anew"
    try:
        errors().print(f"interrupted by {signal.Signals(number).name}: {kept}")
    except OSError:
        silence()  # the terminal is gone
    said.append(128 + number)
    return 128 + number


def _has_files(folder: Path) -> bool:
    """Whether there is anything but locks, here or, of a file to be, in a folder beside it."""
    folders = [folder, *folder.parent.glob(f".{glob.escape(folder.name)}.*")]
    found = (file for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    return any(file.is_file() and file.suffix != ".lock" for file in found)


def silence() -> None:
    """Let what is still to be printed go nowhere: the reader of a pipe has left."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            try:
                os.dup2(nowhere, stream.fileno())
            except (OSError, ValueError):
                continue
