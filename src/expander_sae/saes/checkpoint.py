"""An SAE on disk: `config.json` (what it is) and `sae.safetensors` (what it learned)."""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from expander_sae.graphs import Mask, make_mask, mask_from_rows, pack_rows, unpack_rows
from expander_sae.records import ExpanderSaeError, read_json, sha256_file, write_json, write_tensors

from .base import AbstractSae
from .dense_topk import DenseTopKSae
from .expander import ExpanderSae
from .irregular import IrregularSae, pack, unpack

FORMAT = "expander-sae"
VERSION = 2
"""Of a folder with packed rows; others are still of version 1, which every release reads."""
CONFIG, ARRAYS = "config.json", "sae.safetensors"
PACKED = "packed_rows"
"""Rows of an Expander SAE's learned mask on disk; folders of earlier versions have `rows` as integers."""
PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
}
"""How dictionary values can be stored. int8 needs no scales: 127 stands for the largest value of a column, and columns
have unit length. An encoder of its own has no unit columns, so there int8 is refused; biases stay float32."""


def save_sae(sae: AbstractSae, folder: str | Path, *, values: str = "float32") -> Path:
    """Write the SAE into `folder`, its input scale folded away (the SAE in memory is not changed).

    The mask is stored as its seed; as packed rows (`expander_sae.graphs.pack_rows`) where no seed can make it again
    (columns of different degrees: as integers).
    The arrays are written first and the config, which holds their hash, last: a folder with a config is whole.

    Args:
        sae: what to save.
        folder: made if need be.
        values: the type of the dictionary's values on disk, one of `PRECISIONS`; they are float32 again when read.

    Raises:
        ExpanderSaeError: a learned number is not finite, no such type, or the folder cannot be written.
    """
    folder = Path(folder)
    if values not in PRECISIONS:
        raise ExpanderSaeError(f"expected values as one of {', '.join(PRECISIONS)}; got {values!r}")
    if float(sae.input_scale) != 1.0:
        folded = copy.deepcopy(sae)
        folded.fold_input_scale()
        path = save_sae(folded, folder, values=values)
        sae.folder = path
        return path
    arrays = sae.arrays()
    for name, array in arrays.items():
        if array.is_floating_point() and not bool(torch.isfinite(array).all()):
            raise ExpanderSaeError(f"expected finite numbers to save; {name} holds NaN or infinity (a diverged run)")
    rounded = {name: _rounded(arrays[name], values, name) for name in ("values", "encoder") if name in arrays}
    if isinstance(sae, IrregularSae):  # before rounding, which may make a small entry zero
        present = sae.present()
        arrays, rounded = pack(arrays, present), {"values": rounded["values"][present]}
    elif isinstance(sae, ExpanderSae) and "rows" in arrays:
        del arrays["rows"]
        arrays[PACKED] = torch.from_numpy(pack_rows(sae.mask))
    arrays |= rounded
    write_tensors(folder / ARRAYS, arrays)
    config = {
        "format": FORMAT,
        "version": VERSION if PACKED in arrays else 1,
        **sae.describe(),
        "values": values,
        "arrays_sha256": sha256_file(folder / ARRAYS),
        "metadata": sae.metadata,
    }
    write_json(folder / CONFIG, config)
    sae.folder = folder
    return folder


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


def load_sae(folder: str | Path) -> AbstractSae:
    """Read an SAE back from a folder that `save` wrote.

    The file is mapped into memory, not copied: arrays stored as float32 are read from it when they are used.

    Raises:
        ExpanderSaeError: the folder is not an SAE, a file is missing or damaged, a shape or dtype is not what the
        config
            says, a number is not finite, or the mask made from the seed is not the one it was trained with.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8).save(folder)
        ...     load_sae(folder).learned_values()
        2112
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ExpanderSaeError(f"expected {folder / CONFIG} to describe an expander-sae SAE; it does not")
    if config.get("version") not in (1, VERSION):
        raise ExpanderSaeError(
            f"expected format version 1 or {VERSION} in {folder / CONFIG}; got {config.get('version')!r}. "
            "Use the release that wrote it."
        )
    path = folder / ARRAYS
    if not path.is_file():
        raise ExpanderSaeError(f"expected {ARRAYS} beside {folder / CONFIG}; found none. Copy the whole folder.")
    found = sha256_file(path)
    if found != config.get("arrays_sha256"):
        raise ExpanderSaeError(
            f"{path} is damaged: its sha256 is {found[:16]}..., "
            f"{CONFIG} says {str(config.get('arrays_sha256'))[:16]}... Copy it again."
        )
    arrays = _read_arrays(path)
    try:
        if config["kind"] == IrregularSae.kind:
            arrays = unpack(arrays, config["degree"], config["d_in"])
        elif PACKED in arrays:
            arrays["rows"] = _unpacked(config, arrays, path)
        sae = _build(config, arrays)
    except (KeyError, TypeError) as error:
        raise ExpanderSaeError(f"{folder / CONFIG} lacks or garbles a field: {error}") from error
    _fill(sae, arrays, path, config.get("values", "float32"))
    sae.metadata = dict(config.get("metadata") or {})
    sae.folder = folder
    return sae.eval()


def _unpacked(config: dict[str, Any], arrays: dict[str, Tensor], path: Path) -> Tensor:
    """The rows in place of the packed ones, which only an Expander SAE with a learned mask has."""
    expected = config["kind"] == ExpanderSae.kind and config["mask"]["seed"] is None
    if not expected or "rows" in arrays:
        raise ExpanderSaeError(
            f"expected {PACKED} in {path} only of an Expander SAE whose mask has no seed, without rows beside them; "
            f"got {sorted(arrays)} of kind {config['kind']!r}. Copy the whole folder again."
        )
    packed = arrays.pop(PACKED)
    if packed.dtype != torch.uint8:  # numpy has no bfloat16
        raise ExpanderSaeError(f"expected {PACKED} as uint8 in {path}; got {packed.dtype}. Copy the folder again.")
    try:
        rows = unpack_rows(packed.numpy(), **{name: config[name] for name in ("d_in", "n_latents", "degree")})
    except ExpanderSaeError as error:
        raise ExpanderSaeError(f"{path}: {error}") from error
    return torch.from_numpy(rows)


def _read_arrays(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ExpanderSaeError(f"{path} is not a whole safetensors file: {error}. Copy it again.") from error


def _build(config: dict[str, Any], arrays: dict[str, Tensor]) -> AbstractSae:
    shared = {name: config[name] for name in ("d_in", "n_latents", "k", "signed", "latent_bias", "stages", "seed")}
    shared["spare"] = config.get("spare", 0)  # older folders have none
    if config["kind"] == DenseTopKSae.kind:
        return DenseTopKSae(**shared, tied=config["tied"], blank=True)
    if config["kind"] == IrregularSae.kind:
        sizes = {"degree": config["degree"], "entries": config["entries"]}
        return IrregularSae(**shared, **sizes, mask=_mask(config, arrays), blank=True)
    if config["kind"] != ExpanderSae.kind:
        raise ExpanderSaeError(f"expected kind 'expander', 'irregular' or 'dense'; got {config['kind']!r}")
    tied = config.get("tied", True)  # older folders do not say: there was no other kind
    return ExpanderSae(**shared, degree=config["degree"], mask=_mask(config, arrays), tied=tied, blank=True)


def _mask(config: dict[str, Any], arrays: dict[str, Tensor]) -> Mask:
    stored = config["mask"]
    if stored["seed"] is None:
        if "rows" not in arrays:
            raise ExpanderSaeError(f"the mask has no seed, so expected {PACKED} (or rows) among the arrays; found none")
        mask = mask_from_rows(arrays["rows"].numpy(), d_in=config["d_in"])
    else:
        sizes = {name: config[name] for name in ("d_in", "n_latents", "degree")}
        mask = make_mask(stored["construction"], seed=stored["seed"], **sizes)
    if mask.sha256() != stored["sha256"]:
        raise ExpanderSaeError(
            f"the {stored['construction']} mask does not have the hash it was trained with "
            f"({mask.sha256()[:16]}... against {stored['sha256'][:16]}...); the values would sit on the wrong rows"
        )
    return mask


@torch.no_grad()
def _fill(sae: AbstractSae, arrays: dict[str, Tensor], path: Path, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ExpanderSaeError(f"expected values as one of {', '.join(PRECISIONS)} beside {path}; got {precision!r}")
    wanted = _learned(sae)
    if isinstance(sae, ExpanderSae) and sae.mask.seed is None:
        wanted["rows"] = torch.from_numpy(sae.mask.rows.copy())
    if set(wanted) != set(arrays):
        raise ExpanderSaeError(f"expected arrays {sorted(wanted)} in {path}; got {sorted(arrays)}")
    for name, like in wanted.items():
        array = arrays[name]
        dtype = PRECISIONS[precision] if name in ("values", "encoder") else like.dtype
        if array.shape != like.shape or array.dtype != dtype:
            raise ExpanderSaeError(
                f"expected {name} as {dtype} {list(like.shape)} in {path}; got {array.dtype} {list(array.shape)}"
            )
        # Piece by piece: the whole comparison would be a copy of a large array.
        if array.is_floating_point() and not all(bool(torch.isfinite(part).all()) for part in array.split(4096)):
            raise ExpanderSaeError(f"expected finite numbers; {name} in {path} holds NaN or infinity")
    # What is stored in float32 stays in the file, mapped, until it is read or changed (copy on write).
    for name, target in _learned(sae).items():
        if name == "values" and precision == "float32":
            sae.columns.take(arrays[name])
        else:
            target.data = arrays[name].float()


def _learned(sae: AbstractSae) -> dict[str, Tensor]:
    """The parameters by their names on disk."""
    learned = {
        "values": sae.columns.raw,
        "b_dec": sae.b_dec,
        "b_enc": sae.b_enc,
        "encoder": getattr(sae, "encoder", None),
    }
    return {name: parameter for name, parameter in learned.items() if parameter is not None}
