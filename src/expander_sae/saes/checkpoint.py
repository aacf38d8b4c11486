"""An SAE on disk: `config.json` (what it is) and `sae.safetensors` (what it learned)."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.graphs import Mask, make_mask, mask_from_rows, pack_rows, unpack_rows
from expander_sae.records import ExpanderSaeError, Fields, arrays_of, read_json, sha256_file, write_pair, write_tensors

from .base import AbstractSae
from .dense_topk import DenseTopKSae
from .expander import ExpanderSae
from .irregular import IrregularSae, pack, unpack
from .tensor_files import read_tensors

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
    Saving over an SAE replaces both files at one moment: whatever happens, the folder holds the old one or the new one
    (`expander_sae.records.write_pair`); other files in it are left alone.

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
    config = {
        "format": FORMAT,
        "version": VERSION if PACKED in arrays else 1,
        **sae.describe(),
        "values": values,
    }
    write_pair(
        folder,
        ARRAYS,
        CONFIG,
        write=lambda path: write_tensors(path, arrays),
        describe=lambda path: config | {"arrays_sha256": sha256_file(path), "metadata": sae.metadata},
    )
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


@torch.inference_mode(False)  # tensors of inference mode could never be trained
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
    config, arrays, path = _read_pair(folder)
    checked = _checked(config, folder / CONFIG)
    _check_sizes(checked, arrays, path)
    if checked["kind"] == IrregularSae.kind:
        arrays = unpack(arrays, checked["degree"], checked["d_in"])
    elif PACKED in arrays:
        arrays["rows"] = _unpacked(checked, arrays, path)
    sae = _build(checked, arrays)
    _fill(sae, arrays, path, checked["values"])
    sae.metadata = checked["metadata"]
    sae.folder = folder
    return sae.eval()


def _read_pair(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], Path]:
    """Config, arrays, and the arrays' file; both are of one SAE, even while another is saved over it."""
    for _ in range(5):
        config = read_json(folder / CONFIG)
        if not isinstance(config, dict) or config.get("format") != FORMAT:
            raise ExpanderSaeError(f"expected {folder / CONFIG} to describe an expander-sae SAE; it does not")
        path = arrays_of(folder, ARRAYS, CONFIG)
        if not path.is_file():
            raise ExpanderSaeError(f"expected {ARRAYS} beside {folder / CONFIG}; found none. Copy the whole folder.")
        try:
            before = path.stat()
            found = sha256_file(path)
            arrays = read_tensors(path) if found == config.get("arrays_sha256") else None
            settled = path.stat().st_ino == before.st_ino
        except FileNotFoundError:  # renamed in between
            continue
        if arrays is not None and settled:
            return config, arrays, path
        if arrays is None and settled and read_json(folder / CONFIG) == config:
            break
    raise ExpanderSaeError(
        f"{path} is damaged: its sha256 is {found[:16]}..., "
        f"{CONFIG} says {str(config.get('arrays_sha256'))[:16]}... Copy it again."
    )


def _checked(config: dict[str, Any], where: Path) -> dict[str, Any]:
    """The fields of a config in their types; sizes are compared with the arrays before anything is made of them."""
    fields, huge = Fields(config, where), 2**31
    fields.take("format")
    if fields.take("version", None) not in (1, VERSION):
        raise ExpanderSaeError(
            f"expected format version 1 or {VERSION} in {where}; got {config.get('version')!r}. "
            "Use the release that wrote it."
        )
    kind = fields.text("kind")
    kinds = (ExpanderSae.kind, IrregularSae.kind, DenseTopKSae.kind)
    if kind not in kinds:
        raise ExpanderSaeError(f"expected kind 'expander', 'irregular' or 'dense'; got {kind!r}")
    found: dict[str, Any] = {"kind": kind}
    for name in ("d_in", "n_latents", "k"):
        found[name] = fields.integer(name, 1, huge)
    found["stages"] = fields.integer("stages", 0, huge)
    found["spare"] = fields.integer("spare", 0, huge, default=0)  # older folders have none
    found["seed"] = fields.integer("seed", -(2**63), 2**64 - 1)
    found["signed"], found["latent_bias"] = fields.boolean("signed"), fields.boolean("latent_bias")
    if kind != DenseTopKSae.kind:
        found["degree"] = fields.integer("degree", 1, found["d_in"])
        mask = fields.fields("mask")
        found["mask"] = {
            "construction": mask.text("construction"),
            "seed": None if mask.take("seed") is None else mask.again("seed").integer("seed", 0, 2**64 - 1),
            "sha256": mask.text("sha256"),
        }
        mask.done()
    # Older folders do not say tied: there was no other kind.
    found["tied"] = fields.boolean("tied", *(() if kind == DenseTopKSae.kind else (True,)))
    if kind == IrregularSae.kind:
        found["entries"] = fields.integer("entries", 1, huge)
    found["values"] = fields.one_of("values", PRECISIONS, default="float32")
    fields.take("arrays_sha256")
    found["metadata"] = fields.fields("metadata", {}).left
    fields.done()
    return found


MOST_EMPTY = 256
"""Slots for each entry that an SAE of irregular degrees may have: more would be memory that its file does not hold."""


def _check_sizes(config: dict[str, Any], arrays: dict[str, Tensor], path: Path) -> None:
    """Compare the sizes in a config with those of the arrays, which the file does hold."""
    n, d_in = config["n_latents"], config["d_in"]
    wanted = {"b_dec": [d_in]}
    if config["kind"] == IrregularSae.kind:
        entries = arrays["values"].numel() if "values" in arrays else 0
        wanted |= {"counts": [n], "values": [entries]}
        if n * config["degree"] > MOST_EMPTY * entries:
            raise ExpanderSaeError(
                f"expected values in {path}, and at most {MOST_EMPTY} slots for each; got n_latents {n} and degree "
                f"{config['degree']} for {entries} values"
            )
    else:
        wanted["values"] = [n, config.get("degree", d_in)]
    for name, shape in wanted.items():
        if name in arrays and list(arrays[name].shape) != shape:
            kind = PRECISIONS[config["values"]] if name == "values" else "numbers"
            raise ExpanderSaeError(
                f"expected {name} as {kind} {shape} in {path}; got {arrays[name].dtype} {list(arrays[name].shape)}"
            )
    for name in {"rows", "counts"} & set(arrays):
        if arrays[name].is_floating_point() or arrays[name].dtype == torch.bool:
            raise ExpanderSaeError(f"expected {name} as integers in {path}; got {arrays[name].dtype}")
    missing = sorted(set(wanted) - set(arrays))
    if missing:
        raise ExpanderSaeError(f"expected arrays {sorted(wanted)} in {path}; got {sorted(arrays)}")


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


def _build(config: dict[str, Any], arrays: dict[str, Tensor]) -> AbstractSae:
    names = ("d_in", "n_latents", "k", "signed", "latent_bias", "stages", "spare", "seed")
    shared = {name: config[name] for name in names}
    if config["kind"] == DenseTopKSae.kind:
        return DenseTopKSae(**shared, tied=config["tied"], blank=True)
    if config["kind"] == IrregularSae.kind:
        sizes = {"degree": config["degree"], "entries": config["entries"]}
        return IrregularSae(**shared, **sizes, mask=_mask(config, arrays), blank=True)
    tied = config["tied"]
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
