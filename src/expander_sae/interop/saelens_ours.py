"""Our SAEs as SAELens stores them, under the architecture `expander_sae`: config fields and tensors.

The learned values are stored as they are, and the mask as its seed. Where no seed can make the mask again, its rows are
written byte by byte (`mask_bytes`), because SAELens casts every tensor of a file to the SAE's float type as it loads,
integers too, and all three float types hold 0..255 exactly.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expander_sae.graphs import Mask, make_mask, mask_from_rows
from expander_sae.pursuit import Reading, of_numbers, parse_reading
from expander_sae.records import ExpanderSaeError, Fields
from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae
from expander_sae.saes.registry import class_of_kind

from .saelens_fields import HARMLESS
from .tensors import Arrays

ARCHITECTURE = "expander_sae"
KINDS = (ExpanderSae.kind, DenseTopKSae.kind)
"""What SAELens can hold: an SAE of this package whose columns have one degree."""


def describe(sae: AbstractSae) -> dict[str, Any]:
    """The fields of `cfg.json` that build the SAE again; all but the mask's seed and hash can be changed there."""
    if sae.kind not in KINDS:
        raise ExpanderSaeError(
            f"expected an SAE of kind {' or '.join(KINDS)} to write for SAELens; got {sae.kind!r}. "
            "Export its dictionary as a dense one: dense=True, or `export --to saelens-dense`."
        )
    described = sae.describe()
    mask = described.pop("mask", None) or {}
    return {
        "d_in": sae.d_in,
        "d_sae": sae.n_latents,
        "kind": sae.kind,
        "degree": getattr(sae, "degree", sae.d_in),
        "k": sae.k,
        "tied": bool(described["tied"]),
        "signed": sae.signed,
        "latent_bias": sae.b_enc is not None,
        "reading": str(sae.reading),
        "seed": int(described.get("seed") or 0),
        "mask_construction": mask.get("construction"),
        "mask_seed": mask.get("seed"),
        "mask_sha256": mask.get("sha256"),
        "code_scale": 1.0,
    }


def our_fields(fields: Fields) -> dict[str, Any]:
    """The fields that `build` reads, in their types; none is left over.

    Raises:
        ExpanderSaeError: one is missing, of another type, or not known.
    """
    huge = 2**31
    found: dict[str, Any] = {name: fields.integer(name, 1, huge) for name in ("d_in", "d_sae", "degree", "k")}
    found["kind"] = fields.text("kind")
    found |= {name: fields.boolean(name) for name in ("tied", "signed", "latent_bias")}
    # Folders of earlier releases have these instead of a reading.
    found["stages"], found["spare"] = (fields.integer(name, 0, huge, default=0) for name in ("stages", "spare"))
    found["seed"] = fields.integer("seed", -(2**63), 2**64 - 1)
    for name in ("reading", "inference", "mask_construction", "mask_sha256"):
        found[name] = None if fields.take(name, None) is None else fields.again(name).text(name)
    seeded = fields.take("mask_seed", None) is not None
    found["mask_seed"] = fields.again("mask_seed").integer("mask_seed", 0, 2**64 - 1) if seeded else None
    fields.one_of("apply_b_dec_to_input", (True,))
    fields.take("code_scale", None)  # of SAELens's objects; what is read here is in the units of the activations
    fields.done(HARMLESS)
    return found


def build(config: Mapping[str, Any], mask_bytes: Tensor | None = None) -> AbstractSae:
    """The SAE that a config describes, its numbers still random.

    Raises:
        ExpanderSaeError: a field is missing or garbled, or the mask is not the one the SAE was trained with.
    """
    try:
        shared = {name: config[name] for name in ("d_in", "k", "tied", "signed", "latent_bias", "seed")}
        shared |= {"n_latents": config["d_sae"], "reading": reading_of(config)}
        make: Any = class_of_kind(config["kind"], KINDS)
        if make is not DenseTopKSae:
            shared |= {"degree": config["degree"], "mask": _mask(config, mask_bytes)}
        sae: AbstractSae = make(**shared)
    except (KeyError, TypeError) as error:
        raise ExpanderSaeError(f"the SAE's cfg.json lacks or garbles a field: {error}") from error
    return sae


def reading_of(config: Mapping[str, Any]) -> Reading:
    """The reading that a config names; those of earlier releases say `stages`, `spare` and maybe `inference`."""
    named = config.get("reading") or config.get("inference")
    if named is not None:
        return parse_reading(str(named))
    return of_numbers(config.get("stages", 0), config.get("spare", 0))


def _mask(config: Mapping[str, Any], mask_bytes: Tensor | None) -> Mask:
    sizes = {"d_in": config["d_in"], "n_latents": config["d_sae"], "degree": config["degree"]}
    if config["mask_seed"] is not None:
        mask = make_mask(config["mask_construction"], seed=config["mask_seed"], **sizes)
    elif mask_bytes is None:
        raise ExpanderSaeError("expected the rows of a mask without a seed as mask_bytes beside the values; got none")
    else:
        mask = mask_from_rows(rows_from_bytes(mask_bytes), d_in=config["d_in"])
    if config["mask_sha256"] not in (None, mask.sha256()):
        raise ExpanderSaeError(
            f"the {mask.construction} mask does not have the hash it was trained with ({mask.sha256()[:16]}... against "
            f"{str(config['mask_sha256'])[:16]}...); the values would sit on the wrong rows"
        )
    return mask


def set_stored_mask(sae: ExpanderSae, config: Mapping[str, Any], mask_bytes: Tensor | None) -> None:
    """Put the mask of a file on an SAE that was built without it; one with a seed has its mask already.

    Raises:
        ExpanderSaeError: there are no rows, or they are not the ones the SAE was trained with.
    """
    if config["mask_seed"] is None:
        sae.set_mask(_mask(config, mask_bytes))


def rows_to_bytes(mask: Mask) -> Tensor:
    """Rows as uint8 [bytes per row, n_latents, degree], lowest byte first."""
    count = mask.rows.dtype.itemsize
    rows = mask.rows.astype(np.int64)
    return torch.from_numpy(np.stack([(rows >> (8 * place)) & 255 for place in range(count)]).astype(np.uint8))


def rows_from_bytes(mask_bytes: Tensor) -> np.ndarray:
    """The rows [n_latents, degree] again, from bytes in whatever type a loader cast them to.

    Raises:
        ExpanderSaeError: they are no bytes.
    """
    values = mask_bytes.detach().cpu().to(torch.float64)
    if (
        mask_bytes.ndim != 3
        or not 1 <= len(values) <= 4
        or bool(((values < 0) | (values > 255) | (values % 1 != 0)).any())
    ):
        raise ExpanderSaeError(
            "expected mask_bytes as whole numbers 0..255, [1..4 bytes, n_latents, degree]; got "
            f"{mask_bytes.dtype} {list(mask_bytes.shape)}, or numbers that are no bytes"
        )
    return sum(
        (value.to(torch.int64) << (8 * place) for place, value in enumerate(values)), torch.tensor(0, device="cpu")
    ).numpy()


@torch.no_grad()
def arrays(sae: AbstractSae, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of `sae_weights.safetensors`; the SAE's input scale has to be folded away.

    `directions` are the columns before they are scaled to unit length, so that reading them back gives the same bits.
    """
    found = {"directions": sae.columns.raw, "b_dec": sae.b_dec}
    encoder = getattr(sae, "encoder", None)
    if encoder is not None:
        found["encoder"] = encoder
    if sae.b_enc is not None:
        found["b_enc"] = sae.b_enc
    result = {name: array.detach().to("cpu", dtype).contiguous().clone() for name, array in found.items()}
    if isinstance(sae, ExpanderSae) and sae.mask.seed is None:
        result["mask_bytes"] = rows_to_bytes(sae.mask)
    return result


@torch.no_grad()
def fill(sae: AbstractSae, found: Arrays) -> AbstractSae:
    """Put the tensors of a file into an SAE that `build` made.

    Raises:
        ExpanderSaeError: one is missing, misshapen or not finite, or there are others.
    """
    targets = {"directions": sae.columns.raw, "b_dec": sae.b_dec}
    encoder = getattr(sae, "encoder", None)
    if encoder is not None:
        targets["encoder"] = encoder
    if sae.b_enc is not None:
        targets["b_enc"] = sae.b_enc
    for name, target in targets.items():
        target.copy_(found.take(name, tuple(target.shape)))
    found.done(ignore=("mask_bytes",))
    return sae.eval()


def folded(sae: AbstractSae) -> AbstractSae:
    """The SAE itself, or a copy with its input scale folded away where that is not 1."""
    if float(sae.input_scale) == 1.0:
        return sae
    sae = copy.deepcopy(sae)
    sae.fold_input_scale()
    return sae
