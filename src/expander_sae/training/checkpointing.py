"""Interrupted training goes on where it stopped, bit for bit on one machine."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from expander_sae.records import ExpanderSaeError, write_atomically, write_torch
from expander_sae.records.interrupts import held_back
from expander_sae.records.mirror import withdraw
from expander_sae.records.tensors import check_seal

CHECKPOINT = "checkpoint.pt"


def fingerprint(description: dict[str, Any]) -> str:
    """A hash of everything that must agree for a checkpoint to be continued."""
    return hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode()).hexdigest()


def values_hash(module: torch.nn.Module) -> str:
    """A hash of every parameter and buffer: where a pass begins that does not begin with values of a seed."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a pass, whole or not at all, with a checksum; wherever its tensors are, on disk they are the
    CPU's."""
    write_torch(folder / CHECKPOINT, _on_the_cpu(state), sealed=True)


def _on_the_cpu(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {key: _on_the_cpu(value) for key, value in state.items()}
    return [_on_the_cpu(value) for value in state] if isinstance(state, list | tuple) else state


def load_checkpoint(folder: Path, expected: str, *, before_seals: str | None = None) -> dict[str, Any] | None:
    """The state of an interrupted pass, or None if there is none.

    Args:
        folder: of the pass.
        expected: its fingerprint.
        before_seals: the one that releases gave it whose checkpoints have no checksum.

    Raises:
        ExpanderSaeError: the file is damaged, or belongs to other settings, SAEs or activations.
    """
    read = _read(folder / CHECKPOINT)
    if read is None:
        return None
    state, sealed = read
    if state["fingerprint"] != (expected if sealed else before_seals or expected):
        raise ExpanderSaeError(
            f"{folder / CHECKPOINT} belongs to a training pass with other settings, SAEs or activations. "
            "Go on with the SAE that was interrupted, or with one made anew with the same options; choose another "
            "output folder; or start anew with --overwrite (overwrite=True)."
        )
    return state


def remove_checkpoint_of(folder: Path, mark: str | None, names: Collection[str]) -> None:
    """Remove the checkpoint of a pass that is finished, which a process killed at its very end left.

    Args:
        folder: of the pass.
        mark: its fingerprint; None where the release that finished it kept none.
        names: of its SAEs.

    Raises:
        ExpanderSaeError: the checkpoint is damaged.
    """
    read = _read(folder / CHECKPOINT)
    if read is None:
        return
    state, _ = read
    finished = state["fingerprint"] == mark if mark is not None else set(state["members"]) == set(names)
    if finished:
        withdraw(folder / CHECKPOINT)


def _read(path: Path) -> tuple[dict[str, Any], bool] | None:
    """The state in a file, and whether it has a checksum. Files of earlier releases have none of their own; those of
    the archive's parts, which torch does not look at, are compared there."""
    if not path.exists():
        return None
    try:
        sealed = check_seal(path)
        if not sealed:
            _check_archive(path)
        with held_back():  # what becomes of an interrupt inside torch looks like damage
            state = torch.load(path, weights_only=True)
        if not isinstance(state["fingerprint"], str) or not isinstance(state["members"], dict):
            raise TypeError("it is not the state of a pass")
    except (
        RuntimeError, EOFError, OSError, LookupError, TypeError, ValueError, AttributeError, pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:  # fmt: skip
        raise ExpanderSaeError(
            f"{path} is damaged: {error}. Delete it, or give --overwrite (overwrite=True), to start this training pass "
            "anew."
        ) from error
    return state, sealed


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        end = path.read_bytes()[-22:]
        if not end.startswith(b"PK\x05\x06"):
            raise zipfile.BadZipFile("something stands behind its end that is no checksum")
        wrong = archive.testzip()
    if wrong is not None:
        raise zipfile.BadZipFile(f"the checksum of {wrong} differs")


def truncate_metrics(path: Path, steps: int, names: Collection[str]) -> None:
    """Drop the lines of steps of these SAEs that are about to be done again; other SAEs of the folder keep theirs."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            read = json.loads(line)
            if read["step"] < steps or read["name"] not in names:
                kept.append(line + "\n")
        except (json.JSONDecodeError, KeyError, TypeError):
            break  # a line cut off by the interruption: it and what follows is repeated
    with write_atomically(path) as temporary:
        temporary.write_text("".join(kept), encoding="utf-8")
