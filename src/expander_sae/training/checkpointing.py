"""Interrupted training goes on where it stopped, bit for bit on one machine."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from expander_sae.records import ExpanderSaeError, write_atomically

CHECKPOINT = "checkpoint.pt"


def fingerprint(description: dict[str, Any]) -> str:
    """A hash of everything that must agree for a checkpoint to be continued."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a pass, whole or not at all; wherever its tensors are, on disk they are the CPU's."""
    with write_atomically(folder / CHECKPOINT) as temporary:
        torch.save(_on_the_cpu(state), temporary)


def _on_the_cpu(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _on_the_cpu(value) for key, value in state.items()}
    return [_on_the_cpu(value) for value in state] if isinstance(state, list | tuple) else state


def load_checkpoint(folder: Path, expected: str) -> dict[str, Any] | None:
    """The state of an interrupted pass, or None if there is none.

    Raises:
        ExpanderSaeError: the file is damaged, or belongs to other settings, SAEs or activations.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)
        found = state["fingerprint"]
    except (RuntimeError, EOFError, OSError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise ExpanderSaeError(f"{path} is damaged: {error}. Delete it to start this training pass anew.") from error
    if found != expected:
        raise ExpanderSaeError(
            f"{path} belongs to a training pass with other settings, SAEs or activations. "
            "Choose another output folder, or delete the checkpoint to start anew."
        )
    return state


def truncate_metrics(path: Path, steps: int) -> None:
    """Drop metric lines of steps that are about to be done again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] < steps:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError):
            break  # a line cut off by the interruption: it and what follows is repeated
    with write_atomically(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
