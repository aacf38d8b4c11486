"""SAELens 6 folders, `cfg.json` and `sae_weights.safetensors`, read and written without SAELens installed."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.pursuit import Reading
from expander_sae.records import ExpanderSaeError, Fields, write_pair, write_tensors
from expander_sae.records.fields import object_in, shown
from expander_sae.saes import AbstractSae, ExpanderSae
from expander_sae.saes.tensor_files import read_tensors

from .dense import dense_weights, sae_from_dense
from .saelens_fields import HARMLESS, take_common
from .saelens_ours import ARCHITECTURE, arrays, build, describe, fill, folded, our_fields
from .tensors import Arrays, read_pair
from .threshold import ThresholdSae
from .weights import DenseWeights

CONFIG, ARRAYS = "cfg.json", "sae_weights.safetensors"
VERSION = "6.54.12"
"""The SAELens release whose format is written; without a version it takes a folder for one older than 6."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def check_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of "float32", "float16" or "bfloat16".

    Raises:
        ExpanderSaeError: it is none of these.
    """
    if dtype not in DTYPES:
        raise ExpanderSaeError(f"expected a dtype out of {', '.join(DTYPES)}; got {dtype!r}")
    return DTYPES[dtype]


def metadata_for(sae: AbstractSae | ThresholdSae) -> dict[str, Any]:
    """SAELens's metadata: which model and hook, as far as they are on record; ours whole under `expander_sae`."""
    source = object_in(sae.metadata, "activations")
    layer = source.get("layer")
    return {
        "sae_lens_version": VERSION,
        "sae_lens_training_version": None,
        "model_name": source.get("model_id"),
        "hook_name": None if layer is None else f"blocks.{layer}.hook_resid_post",
        "hook_head_index": None,
        "context_size": source.get("context"),
        "prepend_bos": bool(source.get("bos", False)),
        "expander_sae": sae.metadata,
    }


def write_saelens(
    sae: AbstractSae | ThresholdSae,
    folder: str | Path,
    *,
    dtype: str = "float32",
    dense: bool = False,
    reading: Reading | None = None,
) -> Path:
    """Write a folder that SAELens loads.

    Args:
        sae: what to write.
        folder: made if need be.
        dtype: float32, float16 or bfloat16, for every number.
        dense: write `W_enc` and `W_dec` in full, under one of SAELens's own architectures, for tools that do not import
            this package; `dense_bytes` says how large that is.
        reading: as in `dense_weights`, for a dense folder only.

    Raises:
        ExpanderSaeError: no such dtype, a dense file cannot say what the SAE computes, or the folder cannot be written.
    """
    stored = check_dtype(dtype)
    if dense or isinstance(sae, ThresholdSae):
        config, tensors = dense_parts(dense_weights(sae, reading=reading), stored)
    else:
        sae = folded(sae)
        config, tensors = describe(sae) | {"architecture": ARCHITECTURE}, arrays(sae, stored)
    common = {
        "dtype": dtype,
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata_for(sae),
    }
    folder = Path(folder)
    write_pair(folder, ARRAYS, CONFIG, lambda path: write_tensors(path, tensors), lambda path: config | common)
    return folder


def dense_parts(weights: DenseWeights, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors under SAELens's own topk, standard or jumprelu."""
    architecture = {"topk": "topk", "relu": "standard", "jumprelu": "jumprelu"}[weights.activation]
    config: dict[str, Any] = {"architecture": architecture, "d_in": weights.d_in, "d_sae": weights.n_latents}
    if architecture == "topk":
        config |= {"k": weights.k, "rescale_acts_by_decoder_norm": False}
    tensors = {"W_enc": weights.encoder.T, "W_dec": weights.decoder, "b_enc": weights.b_enc, "b_dec": weights.b_dec}
    if weights.threshold is not None:
        tensors["threshold"] = weights.threshold
    return config, {name: tensor.detach().to("cpu", dtype).contiguous().clone() for name, tensor in tensors.items()}


def read_saelens(folder: str | Path) -> AbstractSae | ThresholdSae:
    """The SAE of a SAELens folder: ours, or one of its dense standard, topk, jumprelu and batchtopk.

    Codes are in the units of the activations, as everywhere here: lengths of columns, and a factor that
    `fold_activation_norm_scaling_factor` left in them, are folded away.

    Raises:
        ExpanderSaeError: a file is missing, damaged or hostile, the architecture is another one, the SAE wants its
            input normalised, or its config says something that is not known.
    """
    folder = Path(folder)
    config, path = read_pair(folder, ARRAYS, CONFIG)
    return sae_from_parts(config, Arrays(read_tensors(path), path), str(folder / CONFIG))


def sae_from_parts(config: dict[str, Any], found: Arrays, where: str) -> AbstractSae | ThresholdSae:
    """The SAE of a SAELens config and its tensors; `where` names them in errors.

    Raises:
        ExpanderSaeError: as in `read_saelens`.
    """
    fields = Fields(config, where)
    take_common(fields)
    if fields.text("architecture", None) == ARCHITECTURE:
        _check_shape(config, found)
        sae = fill(build(our_fields(fields), found.left.get("mask_bytes")), found)
        sae.metadata = object_in(object_in(config, "metadata"), "expander_sae")
        return sae
    weights = _read_dense(config, fields, found, where)
    weights.metadata = metadata_from(config)
    return sae_from_dense(weights)


def _check_shape(config: dict[str, Any], found: Arrays) -> None:
    """Compare config and file before anything is made in the size that the config claims."""
    wide = "degree" if config.get("kind") == ExpanderSae.kind else "d_in"
    for name, axes in (("directions", ("d_sae", wide)), ("b_dec", ("d_in",))):
        wanted, array = [config.get(axis) for axis in axes], found.left.get(name)
        if not isinstance(array, Tensor) or list(array.shape) != wanted:
            seen = list(array.shape) if isinstance(array, Tensor) else "nothing"
            raise ExpanderSaeError(f"expected {name} as [{', '.join(axes)}] = {wanted} in {found.path}; got {seen}")


def _read_dense(config: dict[str, Any], fields: Fields, found: Arrays, where: str) -> DenseWeights:
    architecture = config.get("architecture") or "standard"
    options = fields.fields("activation_fn_kwargs", {})
    names = [fields.one_of(name, ("relu", "topk")) for name in ("activation_fn_str", "activation_fn")]
    # Folders older than SAELens 6 call it standard and name the activation elsewhere.
    if architecture == "standard" and "topk" in names:
        architecture = "topk"
    elif "topk" in names:
        fields.refuse("activation_fn_str", f"'relu' with architecture {architecture!r}", "topk")
    if architecture not in ("standard", "topk", "jumprelu", "batchtopk", "matryoshka_batchtopk"):
        raise ExpanderSaeError(
            f"expected architecture {ARCHITECTURE}, standard, topk, jumprelu or batchtopk in {where}; "
            f"got {shown(architecture)}"
        )
    decoder = found.take("W_dec", (None, None))
    n_latents, d_in = decoder.shape
    weights = DenseWeights(
        encoder=found.take("W_enc", (d_in, n_latents)).T.contiguous(),
        decoder=decoder,
        b_enc=found.take("b_enc", (n_latents,)),
        b_dec=found.take("b_dec", (d_in,)),
        activation={"standard": "relu", "topk": "topk"}.get(architecture, "jumprelu"),
        by_decoder_norm=fields.boolean("rescale_acts_by_decoder_norm", False),
    )
    fields.integer("d_in", d_in, d_in, default=d_in)
    fields.integer("d_sae", n_latents, n_latents, default=n_latents)
    if architecture in ("topk", "batchtopk", "matryoshka_batchtopk"):
        weights.k = _k(fields if "k" in fields else options, n_latents, exact=architecture == "topk")
    options.done()
    if architecture == "jumprelu":
        weights.threshold = found.take("threshold", (n_latents,))
    elif weights.activation == "jumprelu":
        weights.threshold = found.take("topk_threshold", ()).expand(n_latents).clone()
    found.done()
    weights.stored = found.dtype
    subtracts = fields.boolean("apply_b_dec_to_input", True)
    fields.done(HARMLESS)
    return weights.centered(subtracts)


def _k(fields: Fields, n_latents: int, *, exact: bool) -> int | None:
    """k, which is a mean and may be a fraction where it is not exact; None where that is not on record."""
    k: Any = fields.take("k", None)
    if k is None and not exact:
        return None
    if not isinstance(k, int | float) or k is True or not 1 <= k <= n_latents or (exact and k != int(k)):
        fields.refuse("k", f"a whole number in 1..{n_latents}" if exact else f"a number in 1..{n_latents}", k)
    return int(k)


def metadata_from(config: dict[str, Any]) -> dict[str, Any]:
    """Where the SAE came from, in our words where we have them."""
    theirs = object_in(config, "metadata") or config
    ours = theirs.get("expander_sae")
    if isinstance(ours, dict):
        return dict(ours)
    hook = theirs.get("hook_name") or theirs.get("hook_point")
    metadata: dict[str, Any] = {
        "imported": {
            "format": "saelens",
            "architecture": config.get("architecture", "standard"),
            "model": theirs.get("model_name"),
            "hook_name": hook,
        }
    }
    block = str(hook or "").removeprefix("blocks.").removesuffix(".hook_resid_post")
    if block.isdecimal():
        metadata["activations"] = {"model_id": theirs.get("model_name"), "layer": int(block)}
    return metadata
