"""Reading other people's tensor files: damaged or hostile ones end in one clear error, and no code in them runs."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError, arrays_of, read_json
from expander_sae.records.fields import shown

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


def read_pair(folder: Path, arrays: str, config: str) -> tuple[dict[str, Any], Path]:
    """A folder's config, and the arrays' file that belongs to it.

    Raises:
        ExpanderSaeError: the config is missing, damaged, or something else.
    """
    return read_config(folder / config), arrays_of(folder, arrays, config)


def read_pickle(path: Path) -> dict[str, Any]:
    """The state dict in a file that `torch.save` wrote, read with `weights_only=True`: tensors and plain values only.

    Raises:
        ExpanderSaeError: the file is missing or damaged, holds objects that would run code, or is not a state dict.
    """
    if not path.is_file():
        raise ExpanderSaeError(f"expected a file that torch.save wrote at {path}; got none")
    _refuse_bombs(path)
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


def _refuse_bombs(path: Path) -> None:
    """torch stores arrays as they are: a packed one, or one larger than its file, is no file of torch's."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [(entry.file_size, entry.compress_size) for entry in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ExpanderSaeError(f"{path} is not a whole file of torch.save: {error}. Copy it again.") from error
    if any(size != packed for size, packed in sizes) or sum(size for size, _ in sizes) > path.stat().st_size:
        raise ExpanderSaeError(f"{path} is not a file of torch.save: it claims more than it holds. Copy it again.")


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
            raise ExpanderSaeError(f"expected {name} in {self.path}; got {', '.join(sorted(self.left)) or 'nothing'}")
        array = self.left.pop(name)
        if not isinstance(array, Tensor) or array.dtype not in FLOATS:
            what = array.dtype if isinstance(array, Tensor) else type(array).__name__
            raise ExpanderSaeError(f"expected {name} in {self.path} as a float tensor; got {what}")
        _check_plain(name, array, self.path)
        fits = len(shape) == array.ndim and all(
            want is None or want == size for want, size in zip(shape, array.shape, strict=True)
        )
        if not fits or 0 in array.shape:
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            raise ExpanderSaeError(f"expected {name} as [{wanted}] in {self.path}; got {list(array.shape)}")
        if array.numel() * array.element_size() > array.untyped_storage().nbytes():
            # A few bytes can claim any shape with strides of zero.
            raise ExpanderSaeError(
                f"expected as many numbers of {name} in {self.path} as {list(array.shape)} claims; got fewer"
            )
        self.dtype = max(self.dtype, array.dtype, key=FLOATS.index)
        result = array.detach().to(torch.float32).contiguous()
        if not bool(torch.isfinite(result).all()):
            raise ExpanderSaeError(f"expected {name} in {self.path} as finite numbers; got NaN or infinity")
        return result

    def integer(self, name: str) -> int:
        """One whole number, plain or as a tensor of one.

        Raises:
            ExpanderSaeError: it is missing or something else.
        """
        value = self.left.pop(name, None)
        if isinstance(value, Tensor):
            _check_plain(name, value, self.path)
            if value.numel() == 1 and not value.is_floating_point() and value.dtype != torch.bool:
                value = value.item()
        if isinstance(value, bool) or not isinstance(value, int):
            raise ExpanderSaeError(f"expected {name} in {self.path} as a whole number; got {shown(value)}")
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


def _check_plain(name: str, array: Tensor, path: Path) -> None:
    """Raise unless a tensor is an ordinary one: numbers in memory, one after another or by strides."""
    odd = {
        "sparse": array.layout is not torch.strided,
        "nested": array.is_nested,
        "quantised": array.is_quantized,
        f"without numbers (on {array.device.type})": array.device.type != "cpu",
    }
    found = next((what for what, is_so in odd.items() if is_so), None)
    if found is not None:
        raise ExpanderSaeError(f"expected {name} in {path} as an ordinary tensor; got one that is {found}")
