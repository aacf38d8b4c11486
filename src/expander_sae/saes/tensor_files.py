"""Files of tensors: the same bytes for the same tensors, and one error where the disk is full."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expander_sae.records import ExpanderSaeError


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        ExpanderSaeError: the disk is full, or the folder cannot be written.
    """
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().contiguous()
        # The format refuses memory that two names share, such as a tied encoder's.
        shared = any(array.data_ptr() == other.data_ptr() for other in own.values())
        own[name] = array.clone() if shared else array
    try:
        save_file(own, path)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise _cannot_write(path, error) from error


def save_pickle(state: Mapping[str, Any], path: Path) -> None:
    """Write a file of `torch.save`.

    Raises:
        ExpanderSaeError: the disk is full, or the folder cannot be written.
    """
    try:
        # Given a path, torch.save puts its name into the file.
        with open(path, "wb") as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError, pickle.PicklingError) as error:
        raise _cannot_write(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, mapped into memory.

    Raises:
        ExpanderSaeError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ExpanderSaeError(f"expected a safetensors file at {path}; found none. Copy the whole folder.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise ExpanderSaeError(f"{path} is not a whole safetensors file: {error}. Copy it again.") from error


def _cannot_write(path: Path, error: BaseException) -> ExpanderSaeError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ExpanderSaeError(
        f"cannot write into {path.parent}: {reason}. What was there is untouched; free some space or choose another "
        "folder."
    )
