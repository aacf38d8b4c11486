"""An SAE read back from its folder."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.graphs import Mask, make_mask, mask_from_rows
from expander_sae.records import ExpanderSaeError
from expander_sae.records.files import naming
from expander_sae.records.remote import is_remote

from .base import AbstractSae
from .config import check_sizes_of, checked_config, unpacked_rows
from .expander import ExpanderSae
from .files import CONFIG, PACKED, PRECISIONS, fetched, read_folder
from .irregular import IrregularSae, unpack
from .registry import CLASSES


@torch.inference_mode(False)  # tensors of inference mode could never be trained
def load_sae(folder: str | Path) -> AbstractSae:
    """Read an SAE back from a folder that `save` wrote.

    The file is mapped into memory, not copied: arrays stored as float32 are read from it when they are used. From a URL
    (`s3://bucket/sae`, whatever fsspec opens) it goes through the cache of `records.remote`.

    Raises:
        ExpanderSaeError: the folder is not an SAE, a file is missing or damaged, a shape or dtype is not what the
            config says, a number is not finite, or the mask made from the seed is not the one it was trained with.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8).save(folder)
        ...     load_sae(folder).learned_values()
        2112
    """
    if is_remote(folder):
        with fetched(folder) as place:
            sae = load_sae(place)
        sae.folder = Path(folder)
        return sae
    folder = Path(folder)
    config, arrays, path = read_folder(folder)
    with naming(folder / CONFIG):
        checked = checked_config(config, folder / CONFIG, tuple(CLASSES))
    check_sizes_of(checked, arrays, path)
    if checked["kind"] == IrregularSae.kind:
        with naming(path):
            arrays = unpack(arrays, checked["degree"], checked["d_in"])
    elif PACKED in arrays:
        arrays["rows"] = unpacked_rows(checked, arrays, path)
    with naming(folder / CONFIG):
        sae = _build(checked, arrays)
    _fill(sae, arrays, path, checked["values"])
    sae.metadata = checked["metadata"]
    sae.folder = folder
    return sae.eval()


def _build(config: dict[str, Any], arrays: dict[str, Tensor]) -> AbstractSae:
    names = ("d_in", "n_latents", "k", "signed", "latent_bias", "reading", "seed", "degree", "tied", "entries")
    options = {name: config[name] for name in names if name in config}
    kind = CLASSES[config["kind"]]
    if issubclass(kind, IrregularSae):
        del options["tied"]
    if issubclass(kind, ExpanderSae):
        options["mask"] = _mask(config, arrays)
    return kind(**options, blank=True)


def _mask(config: dict[str, Any], arrays: dict[str, Tensor]) -> Mask:
    stored = config["mask"]
    if stored["seed"] is None:
        if "rows" not in arrays:
            raise ExpanderSaeError(
                f"expected {PACKED} (or rows) among the arrays, as the mask has no seed; got neither"
            )
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
    wanted = sae.learned()
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
            raise ExpanderSaeError(f"expected finite numbers; got NaN or infinity in {name} of {path}")
    # What is stored in float32 stays in the file, mapped, until it is read or changed (copy on write).
    for name, target in sae.learned().items():
        if name == "values" and precision == "float32":
            sae.columns.take(arrays[name])
        else:
            target.data = arrays[name].float()
