"""Files of tensors, read with one error for what is damaged."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from expander_sae.records import ExpanderSaeError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, mapped into memory.

    Raises:
        ExpanderSaeError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ExpanderSaeError(f"expected a safetensors file at {path}; got none. Copy the whole folder.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        raise ExpanderSaeError(f"{path} is not a whole safetensors file: {error}. Copy it again.") from error
