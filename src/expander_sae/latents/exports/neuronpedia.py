"""Neuronpedia's upload: the bodies of `POST /api/feature/upload-batch`, a JSON file for each 128 latents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expander_sae.latents.latent import Context, Latent, TokenWeight

from .exported import Exported, Group, groups, number, texts, values, write_compact

LOGITS = 20
TEXT = 512
"""Characters of an explanation."""
TOKENS = 1024
"""Of an activation."""


def write_neuronpedia(
    exported: Exported, out: Path, *, method_name: str | None = None, model_name: str | None = None
) -> Iterator[Path]:
    """Write the bodies as `upload-00000.json` and so on; latents that never fired have none, since a body needs
    activations.

    Args:
        exported: the latents.
        out: folder.
        method_name: how they were explained, if Neuronpedia knows a name for it.
        model_name: by whom, likewise.

    Yields:
        Each file when it is written.
    """
    for batch, latents in enumerate(exported.batches(dead=False)):
        body = {
            "modelId": exported.model,
            "source": exported.source,
            "features": [_feature(exported, latent, method_name, model_name) for latent in latents],
        }
        path = out / f"upload-{batch:05d}.json"
        yield write_compact(path, body)


def _feature(exported: Exported, latent: Latent, method_name: str | None, model_name: str | None) -> dict[str, Any]:
    feature: dict[str, Any] = {
        "index": latent.index,
        "density": min(1.0, number(latent.density)),
        "topLogits": _logits(latent.promoted),
        "bottomLogits": _logits(latent.suppressed),
        "activations": [_activation(group, context) for group in groups(latent) for context in group.contexts],
    }
    names = {"methodName": method_name, "modelName": model_name}
    named = {key: name for key, name in names.items() if name is not None}
    said = [{"text": shortened(text), **named} for text in exported.texts(latent)]
    return feature | ({"explanations": said} if said else {})


def _activation(group: Group, context: Context) -> dict[str, Any]:
    """The top ones are in no quantile."""
    bins = {"quantileMin": group.low, "quantileMax": group.high, "quantileFraction": group.share}
    shown = {"tokens": texts(context.tokens[:TOKENS]), "values": values(context)[:TOKENS]}
    return shown if group.share < 0 else {**shown, **bins}


def _logits(words: list[TokenWeight]) -> list[dict[str, Any]]:
    said = texts([word.token for word in words[:LOGITS]])
    return [{"token": token, "value": number(word.value)} for token, word in zip(said, words, strict=False)]


def shortened(text: str) -> str:
    """The text, cut to what Neuronpedia takes."""
    (text,) = texts([text.strip()])
    return text if len(text) <= TEXT else text[: TEXT - 1] + "…"
