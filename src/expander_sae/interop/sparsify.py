"""EleutherAI's sparsify: `<hookpoint>/cfg.json` and `sae.safetensors` (eai-sparsify 1.3)."""

from pathlib import Path

import torch

from expander_sae.records import ExpanderSaeError, write_json, write_tensors

from .dense import DenseWeights
from .tensors import Arrays, read_config, read_safetensors

CONFIG, ARRAYS = "cfg.json", "sae.safetensors"


def read_sparsify(folder: str | Path) -> DenseWeights:
    """The SAE of one hookpoint's folder.

    Raises:
        ExpanderSaeError: a file is missing, damaged or hostile, or it is no TopK autoencoder (a transcoder, skip
            connection or groupmax).
    """
    folder = Path(folder)
    config = read_config(folder / CONFIG)
    arrays = Arrays(read_safetensors(folder / ARRAYS), folder / ARRAYS)
    if config.get("transcode") or config.get("skip_connection") or "W_skip" in arrays:
        raise ExpanderSaeError(f"{folder} holds a transcoder or a skip connection; expected an autoencoder")
    if config.get("activation", "topk") != "topk":
        raise ExpanderSaeError(f"expected activation 'topk' in {folder / CONFIG}; got {config['activation']!r}")
    k = config.get("k")
    if isinstance(k, bool) or not isinstance(k, int):
        raise ExpanderSaeError(f"expected k as a whole number in {folder / CONFIG}; got {k!r}")
    encoder = arrays.take("encoder.weight", (None, None))
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
        raise ExpanderSaeError(f"sparsify has TopK SAEs only; this one is {weights.activation}")
    folder = Path(folder)
    arrays = {
        "encoder.weight": weights.encoder,
        "encoder.bias": weights.b_enc,
        "W_dec": weights.decoder,
        "b_dec": weights.b_dec,
    }
    write_tensors(folder / ARRAYS, {name: array.to(dtype) for name, array in arrays.items()})
    write_json(
        folder / CONFIG,
        {
            "activation": "topk",
            "expansion_factor": max(1, weights.n_latents // weights.d_in),
            "normalize_decoder": True,
            "num_latents": weights.n_latents,
            "k": weights.k,
            "multi_topk": False,
            "skip_connection": False,
            "transcode": False,
            "d_in": weights.d_in,
        },
    )
    return folder
