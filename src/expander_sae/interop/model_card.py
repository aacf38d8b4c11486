"""The model card of an SAE, made from what it knows of itself and from evaluation records; no number is typed in."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from expander_sae.records import EvaluationRecord
from expander_sae.saes import AbstractSae, IrregularSae

_KINDS = {
    "expander": "Expander SAE (a sparse dictionary)",
    "irregular": "sparse SAE (a dictionary whose columns have different degrees)",
}
_METRICS = (
    # heading, field, format
    ("fvu", "fvu", ".4f"),
    ("L0", "l0", ".1f"),
    ("dead", "dead_fraction", ".2%"),
    ("Δ CE, nats", "delta_ce", ".3f"),
    ("CE recovered, zero", "ce_recovered_zero", ".3f"),
    ("CE recovered, mean", "ce_recovered_mean", ".3f"),
)
_RECIPE = ("tokens", "batch_size", "learning_rate", "schedule", "loss_unit", "stages", "rewire_every", "seed")


def model_card(sae: AbstractSae, *, name: str, evaluations: Mapping[str, EvaluationRecord], licence: str) -> str:
    """Markdown with the hub's header: what the SAE is, how it was made, how good it is, how to use it."""
    activations = dict(sae.metadata.get("activations") or {})
    parts = [
        _header(activations, licence),
        f"# {name}\n",
        _what(sae, activations),
        _mask(sae),
        _recipe(sae.metadata),
        _numbers(evaluations),
        _use(name),
        f"## Licence\n\n{licence}, for the SAE. The model and the text behind it have their own.\n",
    ]
    return "\n".join(part for part in parts if part)


def _header(activations: Mapping[str, Any], licence: str) -> str:
    lines = [
        "---",
        f"license: {json.dumps(licence)}",
        "library_name: expander-sae",
        "tags: [sparse-autoencoder, interpretability, expander-sae]",
    ]
    base = str(activations.get("model_id", ""))
    # A local folder's name is no repository.
    if "/" in base and not str(activations.get("model_revision", "")).startswith("sha256:"):
        lines.append(f"base_model: {json.dumps(base)}")
    return "\n".join([*lines, "---"]) + "\n"


def _what(sae: AbstractSae, activations: Mapping[str, Any]) -> str:
    kind = _KINDS.get(sae.kind, "dense TopK SAE")
    degree = f"{int(getattr(sae, 'degree', sae.d_in)):,}"
    if isinstance(sae, IrregularSae):
        degree = f"{sae.entries / sae.n_latents:g} on the average, at most {int(sae.column_degrees().max())}"
    place = activations.get("module") or f"the residual stream after block {activations.get('layer')} (from 0)"
    of = f", trained on {place} of `{activations['model_id']}`" if "model_id" in activations else ""
    rows = [
        ("width of the activations, d_in", f"{sae.d_in:,}"),
        ("latents", f"{sae.n_latents:,}"),
        ("non-zeros per dictionary column, degree", degree),
        ("active latents per token, k", f"{sae.k}"),
        ("learned values", f"{sae.learned_values():,}"),
        ("codes are read by", f"`{sae.own_inference()}`"),
        ("signed codes", "yes" if sae.signed else "no"),
    ]
    if "model_revision" in activations:
        rows.append(("model revision", f"`{activations['model_revision']}`"))
    return f"A {kind}{of}.\n\n" + _table(("", ""), rows)


def _mask(sae: AbstractSae) -> str:
    mask = getattr(sae, "mask", None)
    if mask is None:
        return ""
    made = f"construction `{mask.construction}`"
    made += ", rows stored in the file" if mask.seed is None else f", made again from seed {mask.seed}"
    right, checked = mask.right_degrees(), mask.sha256()
    if isinstance(sae, IrregularSae):
        made, checked = "irregular degrees, rows stored in the file", sae.describe()["mask"]["sha256"]
        right = np.bincount(mask.rows[sae.present().numpy()], minlength=sae.d_in)
    return (
        f"## Mask\n\n{made[:1].upper()}{made[1:]}; SHA-256 of the rows `{checked}`. A row is used by "
        f"{int(right.min())} to {int(right.max())} columns, {right.mean():.1f} in the mean.\n"
    )


def _recipe(metadata: Mapping[str, Any]) -> str:
    parts = []
    if "compression" in metadata:
        recipe = metadata["compression"]
        parts.append(
            f"Compressed from the dense SAE `{recipe.get('source')}` (latent ids are the same): support by "
            f"{recipe.get('support')}, encoder {recipe.get('encoder')}.\n"
        )
    training = metadata.get("training") or {}
    config = training.get("config") or {}
    rows = [(field, f"{config[field]}") for field in _RECIPE if field in config]
    if "tokens" in training:
        rows.append(("tokens seen", f"{training['tokens']:,}"))
    if rows:
        parts.append(_table(("setting", "value"), rows))
    return "## Recipe\n\n" + "\n".join(parts) if parts else ""


def _numbers(evaluations: Mapping[str, EvaluationRecord]) -> str:
    if not evaluations:
        return "## Numbers\n\nNo evaluation came with this SAE.\n"
    shown = [metric for metric in _METRICS if any(getattr(r, metric[1]) is not None for r in evaluations.values())]
    rows = []
    for name, record in evaluations.items():
        cells = [getattr(record, field) for _, field, _ in shown]
        numbers = ["–" if cell is None else format(cell, spec) for cell, (_, _, spec) in zip(cells, shown, strict=True)]
        rows.append((name, f"`{record.inference}`", f"{record.tokens:,}", *numbers))
    headings = ("evaluation", "read by", "tokens", *(heading for heading, _, _ in shown))
    note = "On text that was not trained on, special tokens and tokens of giant norm left out unless a record says so."
    return "## Numbers\n\n" + _table(headings, rows) + f"\n{note}\n"


def _use(name: str) -> str:
    return (
        "## Use\n\n```python\nfrom expander_sae.interop.hub import from_pretrained\n\n"
        f'sae = from_pretrained("OWNER/{name}")\ncodes = sae.encode(x)  # x [batch, d_in]\n```\n'
    )


def _table(headings: tuple[str, ...], rows: list[Any]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
