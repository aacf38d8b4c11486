"""Tensors on disk, through one door: the same bytes for the same tensors, and one error for a full disk.

Nothing here imports torch before it is called: who has tensors has torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from .errors import ExpanderSaeError
from .files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

# In the order in which safetensors lays them out: by alignment, so that none needs padding.
_DTYPES = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "float32": "F32", "uint32": "U32", "int32": "I32",
    "bfloat16": "BF16", "float16": "F16", "uint16": "U16", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
_ORDER = list(_DTYPES)
_SEAL = b"\nsha256:"


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, atomically; the same tensors and metadata are the same bytes.

    The library's own writer puts metadata into the header in an order that changes from process to process, and a full
    disk is no OSError there.

    Raises:
        ExpanderSaeError: the file cannot be written.
    """
    import torch

    def kind(tensor: Tensor) -> str:
        return str(tensor.dtype).removeprefix("torch.")

    ordered = sorted(tensors.items(), key=lambda pair: (_ORDER.index(kind(pair[1])), pair[0]))
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[kind(tensor)], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            file.write(cast(Any, flat.view(torch.uint8).numpy()))


def write_torch(path: str | os.PathLike[str], state: Any, *, sealed: bool = False) -> None:
    """Write a file of `torch.save`, atomically; the same state is the same bytes.

    Args:
        path: of the file.
        state: what `torch.save` takes.
        sealed: put a checksum of everything behind it, which `torch.load` passes over and `read_sealed` compares.

    Raises:
        ExpanderSaeError: the file cannot be written.
    """
    import torch

    with write_atomically(path) as temporary, open(temporary, "wb") as file:
        watched = _Watched(file)
        try:
            torch.save(state, cast(Any, watched))  # an open file: the archive has no name in it
        except RuntimeError:
            if watched.error is not None:
                raise watched.error from None
            raise
        if sealed:
            file.write(_SEAL + watched.digest.hexdigest().encode())


class _Watched:
    """A file that keeps the error of a write, of which torch makes a RuntimeError, and the checksum of what it got."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.error, self.digest = file, None, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write, and remember what went wrong."""
        try:
            written = self.file.write(data)
        except OSError as error:
            self.error: OSError | None = error
            raise
        self.digest.update(data)
        return written

    def flush(self) -> None:
        """As of the file."""
        self.file.flush()


def check_seal(path: Path) -> bool:
    """Compare the checksum at the end of a file of `write_torch` with its content; False where there is none.

    Raises:
        ExpanderSaeError: they differ.
    """
    length = len(_SEAL) + 64
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < length:
            return False
        file.seek(size - length)
        seal = file.read(length)
        if not seal.startswith(_SEAL):
            return False
        file.seek(0)
        digest, left = hashlib.sha256(), size - length
        while left:
            piece = file.read(min(left, 1 << 20))
            digest.update(piece)
            left -= len(piece)
    if digest.hexdigest().encode() != seal[len(_SEAL) :]:
        raise ExpanderSaeError(f"{path} is damaged: its checksum is not the one at its end")
    return True
