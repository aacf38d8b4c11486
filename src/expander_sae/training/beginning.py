"""Where a pass found its SAEs. Training changes them, and an interrupted pass is known by what they were: so it goes on
with the same objects too, not only with ones that are made anew."""

from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from expander_sae.saes import AbstractSae

from .checkpointing import CHECKPOINT, values_hash
from .recorded import sae_as_recorded


class Beginning(NamedTuple):
    """An SAE as a pass found it."""

    folder: Path
    """Of the pass."""
    recorded: dict[str, Any]
    """What the fingerprint of the pass holds of it."""
    values: str | None
    """A hash of its numbers, where they are not values of a seed."""


_UNFINISHED: WeakKeyDictionary[AbstractSae, Beginning] = WeakKeyDictionary()


def begin(sae: AbstractSae, folder: Path, *, hashed: bool) -> Beginning:
    """The SAE as it is; as it was, where its last pass left a checkpoint in this folder and did not finish."""
    folder = folder.resolve()
    left = _UNFINISHED.get(sae)
    if left is None or left.folder != folder or not (folder / CHECKPOINT).exists():
        left = Beginning(folder, sae_as_recorded(sae), values_hash(sae) if hashed else None)
    _UNFINISHED[sae] = left
    return left


def end(sae: AbstractSae) -> None:
    """From now on it is what it is."""
    _UNFINISHED.pop(sae, None)
