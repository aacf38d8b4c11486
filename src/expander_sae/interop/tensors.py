"""Reading other people's tensor files: damaged or hostile ones end in one clear error, and no code in them runs."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from expander_sae.records import ExpanderSaeError, read_json

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""From fine to coarse."""


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ExpanderSaeError: the file is missing, damaged, or holds something else.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise ExpanderSaeError(f"expected a JSON object in {path}; got {type(config).__name__}")
    return config


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file.

    Raises:
        ExpanderSaeError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ExpanderSaeError(f"expected a safetensors file at {path}; found none. Copy the whole folder.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ExpanderSaeError(f"{path} is not a whole safetensors file: {error}. Copy it again.") from error


def read_pickle(path: Path) -> dict[str, Any]:
    """The state dict in a file that `torch.save` wrote, read with `weights_only=True`: tensors and plain values only.

    Raises:
        ExpanderSaeError: the file is missing or damaged, holds objects that would run code, or is not a state dict.
    """
    if not path.is_file():
        raise ExpanderSaeError(f"expected a file that torch.save wrote at {path}; found none")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n", 1)[0]
        raise ExpanderSaeError(
            f"refused to read {path}: it is damaged, or holds more than tensors, which could run code ({reason}). "
            "Ask its author for a state dict or a safetensors file."
        ) from error
    except Exception as error:  # a damaged zip or pickle can raise nearly anything
        raise ExpanderSaeError(f"{path} is not a whole file of torch.save: {error}. Copy it again.") from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise ExpanderSaeError(f"expected a state dict (names and tensors) in {path}; got {type(state).__name__}")
    return dict(state)


class Arrays:
    """The tensors of one file, taken by name and checked as they are taken."""

    def __init__(self, arrays: Mapping[str, Any], path: Path) -> None:
        self.left = dict(arrays)
        self.path = path
        self.dtype = FLOATS[0]
        """The coarsest float type taken so far."""

    def __contains__(self, name: str) -> bool:
        return name in self.left

    def take(self, name: str, shape: tuple[int | None, ...]) -> Tensor:
        """One tensor as float32, of this shape (None: any size).

        Raises:
            ExpanderSaeError: it is missing, no float tensor, of another shape, or not finite.
        """
        if name not in self.left:
            raise ExpanderSaeError(f"expected {name} in {self.path}; found {', '.join(sorted(self.left)) or 'nothing'}")
        array = self.left.pop(name)
        if not isinstance(array, Tensor) or array.dtype not in FLOATS:
            what = array.dtype if isinstance(array, Tensor) else type(array).__name__
            raise ExpanderSaeError(f"expected {name} in {self.path} as a float tensor; got {what}")
        fits = len(shape) == array.ndim and all(
            want is None or want == size for want, size in zip(shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ExpanderSaeError(f"expected {name} as [{wanted}] in {self.path}; got {list(array.shape)}")
        if array.numel() * array.element_size() > array.untyped_storage().nbytes():
            # A few bytes can claim any shape with strides of zero.
            raise ExpanderSaeError(
                f"{name} in {self.path} claims {list(array.shape)} but does not hold so many numbers"
            )
        self.dtype = max(self.dtype, array.dtype, key=FLOATS.index)
        result = array.detach().to(torch.float32).contiguous()
        if not bool(torch.isfinite(result).all()):
            raise ExpanderSaeError(f"expected finite numbers; {name} in {self.path} holds NaN or infinity")
        return result

    def integer(self, name: str) -> int:
        """One whole number, plain or as a tensor of one.

        Raises:
            ExpanderSaeError: it is missing or something else.
        """
        value = self.left.pop(name, None)
        if isinstance(value, Tensor) and value.numel() == 1 and not value.is_floating_point():
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int):
            raise ExpanderSaeError(f"expected {name} in {self.path} as a whole number; got {value!r}")
        return value

    def done(self, ignore: tuple[str, ...] = ()) -> None:
        """Say that nothing else is wanted.

        Raises:
            ExpanderSaeError: there is more, so that what was taken is not the whole SAE.
        """
        more = sorted(set(self.left) - set(ignore))
        if more:
            raise ExpanderSaeError(
                f"{self.path} also holds {', '.join(more)}, which this reader does not know: "
                "the SAE would compute something else without it"
            )
