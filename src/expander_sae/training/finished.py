"""A pass that is finished is not done again, and what another pass finished is not replaced unasked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.records.files import naming
from expander_sae.records.results import TrainingRecord
from expander_sae.saes import AbstractSae, ExpanderSae, load_sae

from .config import TrainConfig

RECORDS = "training.json"
PASS = "training_pass"
"""Where an SAE's metadata have the fingerprint of the pass that it came out of."""


def finished_records(
    folder: Path, saes: Mapping[str, AbstractSae], mark: str, config: TrainConfig
) -> dict[str, TrainingRecord] | None:
    """The records of this very pass if its SAEs are all in the folder; None where some or all are still to be trained.

    The SAEs given become the trained ones. One that diverged is not in the folder, and its record says so.

    Raises:
        ExpanderSaeError: a folder of one of the names holds an SAE of another pass.
    """
    found = {name: _metadata(folder / name) for name in saes}
    others = [name for name, metadata in found.items() if metadata is not None and metadata.get(PASS) != mark]
    if others:
        raise ExpanderSaeError(
            f"{folder} holds finished work already: {', '.join(others)}, trained with other settings, from another "
            "start, on other activations or by an earlier release. Choose another output folder, or replace it with "
            "--overwrite (overwrite=True)."
        )
    records = recorded(folder)
    diverged = {
        name: records[name]
        for name, metadata in found.items()
        if metadata is None and name in records and records[name].diverged and records[name].config == config.to_dict()
    }
    there = {name: metadata for name, metadata in found.items() if metadata is not None}
    if not there or len(there) + len(diverged) < len(saes):
        return None
    for name in there:
        _become(saes[name], load_sae(folder / name))
    return {
        name: diverged[name] if name in diverged else TrainingRecord.from_dict(there[name]["training"]) for name in saes
    }


def _metadata(folder: Path) -> dict[str, Any] | None:
    """Of the SAE in a folder; None where there is none."""
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    metadata = config.get("metadata") if isinstance(config, dict) else None
    return metadata if isinstance(metadata, dict) else {}


def recorded(folder: Path) -> dict[str, TrainingRecord]:
    """Every record in the folder, also of SAEs that other passes trained there."""
    path = folder / RECORDS
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise ExpanderSaeError(
            f"expected records by name in {path}; got {type(found).__name__}: it is damaged. Delete it."
        )
    with naming(path):
        return {name: TrainingRecord.from_dict(record) for name, record in found.items()}


def _become(sae: AbstractSae, trained: AbstractSae) -> None:
    sae.load_state_dict(trained.state_dict())
    sae.columns.take(trained.columns.raw.detach().to(sae.b_dec.device))  # as they are: not scaled to unit length again
    if isinstance(sae, ExpanderSae) and isinstance(trained, ExpanderSae):
        sae.set_mask(trained.mask)
    sae.metadata, sae.folder = trained.metadata, trained.folder
    sae.eval()
