"""EleutherAI's sparsify: `<hookpoint>/cfg.json` and `sae.safetensors` (eai-sparsify 1.3)."""

from pathlib import Path

import torch

from expander_sae.records import ExpanderSaeError, Fields, write_pair, write_tensors
from expander_sae.saes.tensor_files import read_tensors

from .tensors import Arrays, read_pair
from .weights import DenseWeights

CONFIG, ARRAYS = "cfg.json", "sae.safetensors"
_OFF = ("signed", "transcode", "skip_connection", "embed_skip", "gram_lookup")
"""What changes the formula and is not read."""
_HARMLESS = ("expansion_factor", "normalize_decoder", "multi_topk", "lookup_max_order", "gram_table_hash")
"""How it was trained."""


def read_sparsify(folder: str | Path) -> DenseWeights:
    """The SAE of one hookpoint's folder.

    Raises:
        ExpanderSaeError: a file is missing, damaged or hostile, it is no TopK autoencoder with a ReLU (a transcoder,
            signed, a skip connection or groupmax), or its config says something that is not known.
    """
    folder = Path(folder)
    config, path = read_pair(folder, ARRAYS, CONFIG)
    fields, arrays = Fields(config, folder / CONFIG), Arrays(read_tensors(path), path)
    if config.get("transcode") or config.get("skip_connection") or "W_skip" in arrays:
        raise ExpanderSaeError(f"expected an autoencoder in {folder / CONFIG}; got a transcoder or a skip connection")
    for name in _OFF:
        fields.one_of(name, (False,))
    fields.one_of("activation", ("topk",))
    encoder = arrays.take("encoder.weight", (None, None))
    n_latents, d_in = encoder.shape
    k = fields.integer("k", 1, n_latents)
    fields.integer("d_in", d_in, d_in, default=d_in)
    latents = fields.take("num_latents", 0)
    if latents not in (0, n_latents) or isinstance(latents, bool):  # 0: by the expansion factor
        fields.refuse("num_latents", f"{n_latents}, as in {ARRAYS}", latents)
    fields.done(_HARMLESS)
    weights = DenseWeights(
        encoder=encoder,
        decoder=arrays.take("W_dec", tuple(encoder.shape)),
        b_enc=arrays.take("encoder.bias", (encoder.shape[0],)),
        b_dec=arrays.take("b_dec", (encoder.shape[1],)),
        activation="topk",
        k=k,
        metadata={"imported": {"format": "sparsify", "hookpoint": folder.name}},
    )
    arrays.done()
    weights.stored = arrays.dtype
    return weights


def write_sparsify(weights: DenseWeights, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write the SAE as one hookpoint's folder, which `Sae.load_from_disk` reads.

    Raises:
        ExpanderSaeError: it is not TopK, or the folder cannot be written.
    """
    if weights.activation != "topk" or weights.k is None:
        raise ExpanderSaeError(f"expected a TopK SAE to write for sparsify; got {weights.activation}")
    folder = Path(folder)
    arrays = {
        "encoder.weight": weights.encoder,
        "encoder.bias": weights.b_enc,
        "W_dec": weights.decoder,
        "b_dec": weights.b_dec,
    }
    config = {
        "activation": "topk",
        "expansion_factor": max(1, weights.n_latents // weights.d_in),
        "normalize_decoder": True,
        "num_latents": weights.n_latents,
        "k": weights.k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": weights.d_in,
    }
    rounded = {name: array.to(dtype) for name, array in arrays.items()}
    write_pair(folder, ARRAYS, CONFIG, lambda path: write_tensors(path, rounded), lambda path: config)
    return folder
