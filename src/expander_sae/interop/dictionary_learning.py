"""The dictionary_learning library: `ae.pt` (a pickle, read with weights_only=True) and `config.json` (0.1.0)."""

from pathlib import Path
from typing import Any

import torch

from expander_sae.records import ExpanderSaeError, Fields, write_pair, write_torch
from expander_sae.records.fields import object_in, shown

from .tensors import Arrays, read_pair, read_pickle
from .weights import DenseWeights

CONFIG, ARRAYS = "config.json", "ae.pt"
CLASSES = (
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "AutoEncoder",
    "AutoEncoderNew",
    "JumpReluAutoEncoder",
)
"""Their `dict_class`es that can be read."""
_HARMLESS = frozenset(
    """
    trainer_class lr steps seed device layer lm_name wandb_name submodule_name auxk_alpha warmup_steps
    decay_start threshold_beta threshold_start_step top_k_aux group_fractions group_weights group_sizes
    k_anneal_steps l1_penalty l1_warmup_steps sparsity_penalty sparsity_warmup_steps sparsity_loss_type
    resample_steps initial_sparsity_penalty bandwidth target_l0 use_april_update_mode p_start p_end initial_p
    anneal_start anneal_end n_sparsity_updates sparsity_queue_length sparsity_function lp_norm
    """.split()  # noqa: SIM905 - as a block it can be read
)
"""Fields of the trainer that change nothing in what an SAE of its class computes."""


def read_dictionary_learning(path: str | Path) -> DenseWeights:
    """The SAE of a trainer's folder (`ae.pt` and, if there, `config.json`) or of an `ae.pt` alone.

    Raises:
        ExpanderSaeError: a file is missing, damaged or hostile, or the class is none of `CLASSES` (gated ones are not
            read), or its config says something that is not known.
    """
    path = Path(path)
    folder, file = (path, path / ARRAYS) if path.is_dir() else (path.parent, path)
    trainer: dict[str, Any] = {}
    if (folder / CONFIG).is_file():
        config, found = read_pair(folder, ARRAYS, CONFIG)
        file = found if file.name == ARRAYS else file
        fields = Fields(config, folder / CONFIG)
        trainer = fields.fields("trainer", {}).left
        fields.done(("buffer",))
    arrays = Arrays(read_pickle(file), file)
    fields = Fields(trainer, f"{folder / CONFIG}, trainer")
    kind = fields.text("dict_class", None) or _class_of(arrays)
    if kind not in CLASSES:
        raise ExpanderSaeError(f"expected one of {', '.join(CLASSES)} in {file}; got {shown(kind)}")
    weights = _READERS[kind](arrays)
    arrays.done()
    if weights.k is not None and not 1 <= weights.k <= weights.n_latents:
        raise ExpanderSaeError(f"expected k in 1..{weights.n_latents} in {file}; got {weights.k}")
    for name, size in (("activation_dim", weights.d_in), ("dict_size", weights.n_latents), ("k", weights.k)):
        if size is None:
            fields.take(name, None)  # a ReLU has none
        else:
            fields.integer(name, size, size, default=size)
    fields.done(_HARMLESS)
    weights.stored = arrays.dtype
    weights.metadata = {
        "imported": {
            "format": "dictionary_learning",
            "dict_class": kind,
            "model": trainer.get("lm_name"),
            "layer": trainer.get("layer"),
            "submodule": trainer.get("submodule_name"),
        }
    }
    return weights


def _class_of(arrays: Arrays) -> str | None:
    """The class of a file without a config, by what it holds; TopK and BatchTopK look the same."""
    if "group_sizes" in arrays:
        return "MatryoshkaBatchTopKSAE"
    if "W_enc" in arrays:
        return "JumpReluAutoEncoder"
    if "bias" in arrays:
        return "AutoEncoder"
    if "decoder.bias" in arrays:
        return "AutoEncoderNew"
    if "k" in arrays:
        raise ExpanderSaeError(
            f"expected {CONFIG} with trainer.dict_class beside {arrays.path}; got none: TopK and BatchTopK hold the "
            "same arrays"
        )
    return None


def _linear(arrays: Arrays, b_dec: str) -> DenseWeights:
    """What most classes share: two `nn.Linear` and a decoder bias."""
    encoder = arrays.take("encoder.weight", (None, None))
    n_latents, d_in = encoder.shape
    return DenseWeights(
        encoder=encoder,
        decoder=arrays.take("decoder.weight", (d_in, n_latents)).T.contiguous(),
        b_enc=arrays.take("encoder.bias", (n_latents,)),
        b_dec=arrays.take(b_dec, (d_in,)),
        activation="relu",
    )


def _topk(arrays: Arrays) -> DenseWeights:
    weights = _linear(arrays, "b_dec")
    weights.activation, weights.k = "topk", arrays.integer("k")
    # An estimate for their `use_threshold=True`; a TopK SAE encodes without it by default. Older files lack it.
    if "threshold" in arrays:
        arrays.take("threshold", ())
    return weights


def _batch_topk(arrays: Arrays) -> DenseWeights:
    weights = _linear(arrays, "b_dec")
    return _with_one_threshold(weights, arrays)


def _with_one_threshold(weights: DenseWeights, arrays: Arrays) -> DenseWeights:
    weights.activation, weights.k = "jumprelu", arrays.integer("k")
    # Their encode with its default use_threshold=True; -1 (never estimated) is a plain ReLU there and here.
    weights.threshold = arrays.take("threshold", ()).expand(weights.n_latents).clone()
    return weights


def _matryoshka(arrays: Arrays) -> DenseWeights:
    arrays.left.pop("group_sizes", None)
    return _with_one_threshold(_matrices(arrays), arrays)


def _matrices(arrays: Arrays) -> DenseWeights:
    decoder = arrays.take("W_dec", (None, None))
    n_latents, d_in = decoder.shape
    return DenseWeights(
        encoder=arrays.take("W_enc", (d_in, n_latents)).T.contiguous(),
        decoder=decoder,
        b_enc=arrays.take("b_enc", (n_latents,)),
        b_dec=arrays.take("b_dec", (d_in,)),
        activation="relu",
    )


def _jumprelu(arrays: Arrays) -> DenseWeights:
    weights = _matrices(arrays)
    weights.activation, weights.threshold = "jumprelu", arrays.take("threshold", (weights.n_latents,))
    return weights.centered(subtract_b_dec=False)


_READERS = {
    "AutoEncoderTopK": _topk,
    "BatchTopKSAE": _batch_topk,
    "MatryoshkaBatchTopKSAE": _matryoshka,
    "AutoEncoder": lambda arrays: _linear(arrays, "bias"),
    "AutoEncoderNew": lambda arrays: _linear(arrays, "decoder.bias").centered(subtract_b_dec=False),
    "JumpReluAutoEncoder": _jumprelu,
}


def write_dictionary_learning(weights: DenseWeights, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a TopK SAE as a trainer's folder, which `AutoEncoderTopK.from_pretrained(folder / "ae.pt")` reads.

    Raises:
        ExpanderSaeError: it is not TopK, or the folder cannot be written.
    """
    if weights.activation != "topk" or weights.k is None:
        raise ExpanderSaeError(f"expected a TopK SAE to write for dictionary_learning; got {weights.activation}")
    folder = Path(folder)
    state = {
        "k": torch.tensor(weights.k, dtype=torch.int32, device="cpu"),
        "threshold": torch.tensor(-1.0, dtype=torch.float32, device="cpu"),
        "decoder.weight": weights.decoder.T.to(dtype).contiguous(),
        "encoder.weight": weights.encoder.to(dtype).contiguous(),
        "encoder.bias": weights.b_enc.to(dtype),
        "b_dec": weights.b_dec.to(dtype),
    }
    state = {name: array.clone() for name, array in state.items()}
    source = object_in(weights.metadata, "activations")
    trainer = {
        "trainer_class": "TopKTrainer",
        "dict_class": "AutoEncoderTopK",
        "activation_dim": weights.d_in,
        "dict_size": weights.n_latents,
        "k": weights.k,
        "device": "cpu",
        "layer": source.get("layer"),
        "lm_name": source.get("model_id"),
        "wandb_name": "AutoEncoderTopK",
        "submodule_name": None,
    }
    write_pair(folder, ARRAYS, CONFIG, lambda path: write_torch(path, state), lambda path: {"trainer": trainer})
    return folder
