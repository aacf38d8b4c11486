"""The two files of an SAE: `config.json` (what it is) and `sae.safetensors` (what it learned)."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError, arrays_of, read_json, sha256_file, write_pair, write_tensors
from expander_sae.records.files import naming
from expander_sae.records.remote import RemoteFolder, is_remote
from expander_sae.records.sealed import seal, unseal

from .tensor_files import read_tensors

FORMAT = "expander-sae"
VERSION = 3
"""Folders of version 2 say how codes are read by `stages` and `spare`; those of 1 have rows as integers."""
CONFIG, ARRAYS = "config.json", "sae.safetensors"
PACKED = "packed_rows"
"""Rows of an Expander SAE's learned mask on disk (`expander_sae.graphs.pack_rows`)."""
PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
"""How dictionary values can be stored. int8 needs no scales: 127 stands for the largest value of a column, and columns
have unit length. An encoder of its own has no unit columns, so there int8 is refused; biases stay float32."""


_CHANGED = "Copy it again; if it was changed by hand on purpose, remove its field sha256."


def write_folder(
    folder: Path, description: Mapping[str, Any], arrays: Mapping[str, Tensor], values: str, metadata: Mapping[str, Any]
) -> None:
    """Write an SAE's config and arrays into a folder, both replaced at one moment.

    Whatever happens, the folder holds the old SAE or the new one (`expander_sae.records.write_pair`); other files in it
    are left alone. At a URL the arrays are uploaded first; until the config follows, a reader is told that they differ.

    Args:
        folder: made if need be; a URL, or here.
        description: what `config.json` says of it, but for the files themselves.
        arrays: as they are stored (`stored`).
        values: the type of the dictionary's values among them, one of `PRECISIONS`.
        metadata: kept in `config.json`.

    Raises:
        ExpanderSaeError: the folder cannot be written.
    """
    config = {"format": FORMAT, "version": VERSION, **description, "values": values}
    with tempfile.TemporaryDirectory() as aside:
        place = Path(aside) if is_remote(folder) else folder
        write_pair(
            place,
            ARRAYS,
            CONFIG,
            write=lambda path: write_tensors(path, dict(arrays)),
            describe=lambda path: seal(config | {"arrays_sha256": sha256_file(path), "metadata": metadata}),
        )
        if is_remote(folder):
            for name in (ARRAYS, CONFIG):  # the config last: what it names is there
                RemoteFolder(folder).upload(place / name, name)


def check_precision(values: str) -> None:
    """Raise unless dictionary values can be stored so."""
    if values not in PRECISIONS:
        raise ExpanderSaeError(f"expected values as one of {', '.join(PRECISIONS)}; got {values!r}")


def stored(arrays: Mapping[str, Tensor], values: str) -> dict[str, Tensor]:
    """Learned arrays in the types in which they are stored.

    Raises:
        ExpanderSaeError: one holds NaN or infinity, or has no such type.
    """
    check_precision(values)
    # Biases are float32 on disk, whatever type the SAE was moved to.
    kept = {name: array.float() if array.is_floating_point() else array for name, array in arrays.items()}
    for name, array in kept.items():
        if array.is_floating_point() and not bool(torch.isfinite(array).all()):
            raise ExpanderSaeError(f"expected finite numbers to save; got NaN or infinity in {name} (a diverged run)")
    return {
        name: _rounded(array, values, name) if name in ("values", "encoder") else array for name, array in kept.items()
    }


def _rounded(array: Tensor, precision: str, name: str) -> Tensor:
    """An array [n_latents, degree] as it is stored."""
    if precision != "int8":
        return array.to(PRECISIONS[precision])
    if name != "values":
        raise ExpanderSaeError(
            "expected values as float32, float16 or bfloat16 for an SAE with an encoder of its own; got 'int8', which "
            "stores directions only"
        )
    largest = array.abs().amax(1, keepdim=True).clamp_min(torch.finfo(array.dtype).tiny)
    return (array * (127 / largest)).round().to(torch.int8)


@contextmanager
def fetched(url: str | Path) -> Iterator[Path]:
    """A local folder with the two files of an SAE at a URL; arrays that are mapped outlive it.

    Raises:
        ExpanderSaeError: there is none, or the store does not answer.
    """
    remote = RemoteFolder(url)
    with tempfile.TemporaryDirectory() as place:
        text = remote.read(CONFIG)
        (Path(place) / CONFIG).write_bytes(text)
        with naming(f"{remote}/{CONFIG}"):
            config = read_json(Path(place) / CONFIG)
            if not isinstance(config, dict) or not isinstance(config.get("arrays_sha256"), str):
                raise ExpanderSaeError("expected it to describe an expander-sae SAE; got something else")
        cached = remote.cached(ARRAYS, config["arrays_sha256"])
        (Path(place) / ARRAYS).symlink_to(cached.absolute())
        yield Path(place)


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Config, arrays, and the arrays' file; both are of one SAE, even while another is saved over it."""
    for _ in range(5):
        config = read_json(folder / CONFIG)
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise ExpanderSaeError(f"expected {folder / CONFIG} to describe an expander-sae SAE; got something else")
        path = arrays_of(folder, ARRAYS, CONFIG)
        if not path.is_file():
            raise ExpanderSaeError(f"expected {ARRAYS} beside {folder / CONFIG}; got none. Copy the whole folder.")
        try:
            before = path.stat()
            found = sha256_file(path)
            arrays = read_tensors(path) if found == config.get("arrays_sha256") else None
            settled = path.stat().st_ino == before.st_ino
        except FileNotFoundError:  # renamed in between
            continue
        if arrays is not None and settled:
            return unseal(config, folder / CONFIG, _CHANGED), arrays, path
        if arrays is None and settled and read_json(folder / CONFIG) == config:
            break
    raise ExpanderSaeError(
        f"{path} is damaged: its sha256 is {found[:16]}..., "
        f"{CONFIG} says {str(config.get('arrays_sha256'))[:16]}... Copy it again."
    )
