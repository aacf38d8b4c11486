"""delphi's cache of latents: `locations`, `activations` and `tokens` in safetensors, so that its scorers run on it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expander_sae.activations import ActivationStore
from expander_sae.evaluation.codes import TokenBatch, store_batches
from expander_sae.records import ExpanderSaeError, write_json, write_tensors
from expander_sae.saes.init import norm_limit, token_norms

SPLITS = 5
"""Files that the latents are spread over, as many as delphi's own."""
OUTLIERS = 5.0
MEDIAN_SAMPLE = 32_768
"""First tokens, whose median norm says what is giant."""
_SMALLEST = 1e-5
"""Of what delphi takes for a firing, in absolute value."""
_FIRING = np.dtype([("row", "<u4"), ("position", "<u4"), ("latent", "<u4"), ("value", "<f4")])


@torch.no_grad()
def write_delphi(
    sae: Any,
    store: ActivationStore,
    out: Path,
    *,
    module: str,
    model: str,
    split: str = "heldout",
    splits: int = SPLITS,
    batch_size: int = 2048,
    progress: Callable[[int], Any] | None = None,
) -> dict[str, int]:
    """Write `MODULE/START_END.safetensors` and `MODULE/config.json` into a folder.

    Only blocks of full length are written: delphi has no padding. As in feature stores, latents do not fire on tokens
    of a giant norm (above `OUTLIERS` medians). Firings wait on disk until their file's turn, so that
    memory holds one file's.

    Args:
        sae: the SAE, with the reading that codes are to be found by; of this package or of another library.
        store: activations, with the text they are from.
        out: folder.
        module: the name of the place in the model, as layers.14.
        model: folder or hub id of the language model, whose tokenizer delphi loads.
        split: side of the activations.
        splits: files.
        batch_size: tokens encoded at once.
        progress: told of tokens that are encoded.

    Returns:
        How many blocks and firings were written, and how many blocks were left out.

    Raises:
        ExpanderSaeError: no block has full length, there are more files than latents, or the disk is full.
    """
    if not 1 <= splits <= sae.n_latents:
        raise ExpanderSaeError(f"expected from 1 to {sae.n_latents} files; got {splits}")
    blocks = store.tokens(split)
    length = blocks.input_ids.shape[1]
    full = (blocks.lengths == length).numpy()
    if not full.any():
        raise ExpanderSaeError(f"expected blocks of {length} tokens in {store.path}; got shorter ones alone")
    edges = np.linspace(0, sae.n_latents, splits + 1).astype(np.int64)
    folder, tokens = out / module, blocks.input_ids[torch.from_numpy(full)]
    written = 0
    with tempfile.TemporaryDirectory(prefix="delphi") as room:
        files = [Path(room) / str(number) for number in range(splits)]
        batches = store_batches(store, split, batch_size=batch_size)
        for firings in _firings(sae, batches, full, _giant_norm(store, split), progress):
            order = np.searchsorted(edges, firings["latent"], side="right") - 1
            for number in np.unique(order).tolist():
                with open(files[number], "ab") as file:
                    file.write(firings[order == number].tobytes())
        for number, (start, end) in enumerate(pairwise(edges.tolist())):
            data = files[number].read_bytes() if files[number].exists() else b""
            firings = np.sort(np.frombuffer(data, dtype=_FIRING), order=("row", "position", "latent"))
            _write(folder / f"{start}_{end - 1}.safetensors", firings, start, tokens)
            written += len(firings)
    write_json(folder / "config.json", _config(model, split, length, len(tokens), splits))
    return {"blocks": len(tokens), "left_out": int((~full).sum()), "firings": written}


def _firings(
    sae: Any, batches: Iterator[TokenBatch], full: np.ndarray, giant: float, progress: Callable[[int], Any] | None
) -> Iterator[np.ndarray]:
    """The firings of each batch in full blocks, which are counted by themselves."""
    row = np.cumsum(full) - 1
    for batch in batches:
        x = batch.x.float()
        usual = token_norms(x, "activations") <= giant
        codes = sae.encode(x[usual])
        block, position = batch.block[usual].numpy(), batch.position[usual].numpy()
        indices, values = codes.indices.numpy(), codes.values.numpy()
        token, place = ((np.abs(values) > _SMALLEST) & full[block][:, None]).nonzero()
        found = np.empty(len(token), dtype=_FIRING)
        found["row"], found["position"] = row[block[token]], position[token]
        found["latent"], found["value"] = indices[token, place], values[token, place]
        if progress is not None:
            progress(len(x))
        yield found


def _giant_norm(store: ActivationStore, split: str) -> float:
    first = store.blocks(split, max_tokens=MEDIAN_SAMPLE)
    return norm_limit(torch.cat([token_norms(x.float(), "activations") for x in first]), OUTLIERS)


def _write(path: Path, firings: np.ndarray, start: int, tokens: torch.Tensor) -> None:
    """One file; latents count from its first, and are 16 bits wide where they can be, as delphi's."""
    locations = np.stack([firings["row"], firings["position"], firings["latent"] - np.uint32(start)], 1)
    narrow = locations.size == 0 or int(locations.max()) < 1 << 16
    write_tensors(
        path,
        {
            "locations": torch.from_numpy(locations.astype(np.uint16 if narrow else np.uint32)),
            "activations": torch.from_numpy(firings["value"].astype(np.float16)),
            "tokens": tokens.to(torch.int32),
        },
    )


def _config(model: str, split: str, length: int, blocks: int, splits: int) -> dict[str, Any]:
    """What delphi's loader reads beside the files, under the names of its CacheConfig. It loads no data set: the tokens
    are in the files."""
    return {
        "model_name": model, "cache_ctx_len": length, "ctx_len": length, "batch_size": 32,
        "n_tokens": blocks * length, "n_splits": splits, "dataset_repo": "",
        "dataset_split": split, "dataset_name": "", "dataset_column": "text",
    }  # fmt: skip
