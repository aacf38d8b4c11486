"""OpenAI's sparse_autoencoder: one `.pt` file (a pickle, read with weights_only=True)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError, write_torch
from expander_sae.records.fields import shown

from .tensors import Arrays, read_pickle
from .weights import DenseWeights

_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
LAYER_NORM_EPSILON = 1e-5


def read_openai(path: str | Path) -> DenseWeights:
    """The SAE of one file.

    Their TopK SAEs read activations that are normalised token by token, `(x - mean) / (std + 1e-5)`, and scale their
    output back; what is read here is the SAE between, for normalised activations: `layer_norm` makes them, and
    `metadata["imported"]["input"]` says so.

    Raises:
        ExpanderSaeError: the file is missing, damaged or hostile, or the activation is not ReLU or TopK with a ReLU.
    """
    path = Path(path)
    state = read_pickle(path)
    activation = state.pop("activation", "ReLU")
    options = state.pop("activation_state_dict", {})
    arrays = Arrays(state, path)
    k = None
    if activation == "TopK":
        options = options if isinstance(options, dict) else {}
        if options.get("postact_fn", "ReLU") != "ReLU":
            raise ExpanderSaeError(f"expected TopK with a ReLU in {path}; got {shown(options['postact_fn'])}")
        chosen = Arrays(options, path)
        k = chosen.integer("k")
        chosen.done(ignore=("postact_fn",))
    elif activation != "ReLU":
        raise ExpanderSaeError(f"expected activation 'TopK' or 'ReLU' in {path}; got {shown(activation)}")
    encoder = arrays.take("encoder.weight", (None, None))
    n_latents, d_in = encoder.shape
    # A tied decoder is stored as its encoder once more, under the name of the wrapped layer.
    tied = "decoder.linear.weight" in arrays
    decoder = arrays.take("decoder.linear.weight", (n_latents, d_in)) if tied else None
    weights = DenseWeights(
        encoder=encoder,
        decoder=arrays.take("decoder.weight", (d_in, n_latents)).T.contiguous() if decoder is None else decoder,
        b_enc=arrays.take("latent_bias", (n_latents,)),
        b_dec=arrays.take("pre_bias", (d_in,)),
        activation="relu" if k is None else "topk",
        k=k,
        metadata={"imported": {"format": "openai", "input": "raw" if k is None else "layer_norm"}},
    )
    arrays.done(ignore=_STATISTICS)
    weights.stored = arrays.dtype
    return weights


def layer_norm(x: Tensor) -> Tensor:
    """Activations x [batch, d_in] as OpenAI's TopK SAEs read them: `(x - mean) / (std + 1e-5)` within each token."""
    centered = x - x.mean(dim=-1, keepdim=True)
    return centered / (centered.std(dim=-1, keepdim=True) + LAYER_NORM_EPSILON)


def write_openai(weights: DenseWeights, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a TopK SAE as one `.pt` file.

    Their `Autoencoder.from_state_dict` normalises the input of every TopK SAE. One that was not trained so has to be
    built by hand: `Autoencoder(n_latents, d_in, activation=TopK(k), normalize=False)`, then `load_state_dict` of the
    file without `activation` and `activation_state_dict`.

    Raises:
        ExpanderSaeError: it is not TopK, or the file cannot be written.
    """
    if weights.activation != "topk" or weights.k is None:
        raise ExpanderSaeError(f"expected a TopK SAE to write in OpenAI's format; got {weights.activation}")
    path = Path(path)
    n_latents = weights.n_latents
    state: dict[str, Any] = {
        "pre_bias": weights.b_dec.to(dtype).clone(),
        "latent_bias": weights.b_enc.to(dtype).clone(),
        "stats_last_nonzero": torch.zeros(n_latents, dtype=torch.int64, device="cpu"),
        "latents_activation_frequency": torch.ones(n_latents, dtype=torch.float32, device="cpu"),
        "latents_mean_square": torch.zeros(n_latents, dtype=torch.float32, device="cpu"),
        "encoder.weight": weights.encoder.to(dtype).clone(),
        "decoder.weight": weights.decoder.T.to(dtype).contiguous().clone(),
        "activation": "TopK",
        "activation_state_dict": {"k": weights.k, "postact_fn": "ReLU"},
    }
    write_torch(path, state)
    return path
