"""SAEDashboard's `batch-*.json`, as its runner writes them and its converters read them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expander_sae.latents.latent import Latent

from .exported import Exported, groups, histogram, settings, texts, values, write_compact
from .neuronpedia_bulk import statistics


def write_saedashboard(exported: Exported, out: Path) -> Iterator[Path]:
    """Write `batch-0.json` and so on into a folder, 128 latents each.

    Yields:
        Each file when it is written.
    """
    suffix = {"sae_id_suffix": exported.suffix} if exported.suffix else {}
    for batch, latents in enumerate(exported.batches(dead=True)):
        path = out / f"batch-{batch}.json"
        features = [_feature(exported, latent) for latent in latents]
        about = {"model_id": exported.model, "layer": exported.layer, "sae_set": exported.source_set, **suffix}
        yield write_compact(path, {**about, "features": features})


def _feature(exported: Exported, latent: Latent) -> dict[str, Any]:
    text = settings(exported)
    activations = [
        {
            "bin_min": group.low, "bin_max": group.high, "bin_contains": group.share,
            "tokens": texts(context.tokens), "values": values(context), "qualifying_token_index": context.peak,
        }
        for group in groups(latent)
        for context in group.contexts
    ]  # fmt: skip
    return {
        "feature_index": latent.index, **statistics(latent, *histogram(latent)),
        "n_prompts_total": text["prompts"], "n_tokens_in_prompt": text["tokens"], "dataset": text["dataset"],
        "activations": activations,
    }  # fmt: skip
