"""The model card of an SAE, made from what it knows of itself and from evaluation records; no number is typed in."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expander_sae.records import NULLS, EvaluationRecord, ProbeRecord
from expander_sae.records.fields import object_in
from expander_sae.records.metrics import METRIC
from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae, IrregularSae

_KINDS = {
    ExpanderSae.kind: "Expander SAE (a sparse dictionary)",
    IrregularSae.kind: "sparse SAE (a dictionary whose columns have different degrees)",
    DenseTopKSae.kind: "dense TopK SAE",
}
_METRICS = tuple(METRIC[name] for name in (
    "fvu", "l0", "dead_fraction", "delta_ce", "ce_recovered_zero", "ce_recovered_mean",
))  # fmt: skip
_RECIPE = ("tokens", "batch_size", "learning_rate", "schedule", "loss_unit", "stages", "rewire_every", "seed")


def model_card(
    sae: AbstractSae,
    *,
    name: str,
    evaluations: Mapping[str, EvaluationRecord],
    licence: str,
    probes: Sequence[ProbeRecord] = (),
) -> str:
    """Markdown with the hub's header: what the SAE is, how it was made, how good it is, what its latents tell, how to
    use it."""
    activations = object_in(sae.metadata, "activations")
    parts = [
        _header(activations, licence),
        f"# {plain(name)}\n",
        _what(sae, activations),
        _mask(sae),
        _recipe(sae.metadata),
        _numbers(evaluations),
        _concepts(probes),
        _use(name),
        f"## Licence\n\n{plain(licence)}, for the SAE. The model and the text behind it have their own.\n",
    ]
    return "\n".join(part for part in parts if part)


_MARKS = re.compile(r"[\\`*{}\[\]<>#!|~&$@\"]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.")
"""What Markdown, or HTML in it, may read as something else than text; an underscore only at the end of a word."""


def plain(text: Any) -> str:
    """Text from elsewhere as text in Markdown: one line, no HTML, links, emphasis or cells of its own.

    Example:
        >>> plain("a|b <script>")
        'a&#124;b &#60;script&#62;'
    """
    return _MARKS.sub(lambda found: f"&#{ord(found[0])};", _one_line(text))


def code(text: Any) -> str:
    """Text from elsewhere as code within a line, without what would end it or a cell of a table."""
    return "`" + (_one_line(text).replace("`", "'").replace("|", "¦") or " ") + "`"


def _one_line(text: Any) -> str:
    """Without line breaks and other control characters, and valid as UTF-8."""
    shown = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return " ".join(shown.split())


def _header(activations: Mapping[str, Any], licence: str) -> str:
    lines = [
        "---",
        f"license: {json.dumps(_one_line(licence))}",
        "library_name: expander-sae",
        "tags: [sparse-autoencoder, interpretability, expander-sae]",
    ]
    base = str(activations.get("model_id", ""))
    # A local folder's name is no repository.
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not str(activations.get("model_revision", "")).startswith("sha256:"):
        lines.append(f"base_model: {json.dumps(base)}")
    return "\n".join([*lines, "---"]) + "\n"


def _what(sae: AbstractSae, activations: Mapping[str, Any]) -> str:
    kind = _KINDS.get(sae.kind, f"{sae.kind} SAE")
    degree = f"{int(getattr(sae, 'degree', sae.d_in)):,}"
    if isinstance(sae, IrregularSae):
        degree = f"{sae.entries / sae.n_latents:g} on the average, at most {int(sae.column_degrees().max())}"
    module = activations.get("module")
    place = plain(module) if module else f"the residual stream after block {plain(activations.get('layer'))} (from 0)"
    of = f", trained on {place} of {code(activations['model_id'])}" if "model_id" in activations else ""
    rows = [
        ("width of the activations, d_in", f"{sae.d_in:,}"),
        ("latents", f"{sae.n_latents:,}"),
        ("non-zeros per dictionary column, degree", degree),
        ("active latents per token, k", f"{sae.k}"),
        ("learned values", f"{sae.learned_values():,}"),
        ("codes are read by", code(sae.reading)),
        ("signed codes", "yes" if sae.signed else "no"),
    ]
    if "model_revision" in activations:
        rows.append(("model revision", code(activations["model_revision"])))
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
    if recipe := object_in(metadata, "compression"):
        parts.append(
            f"Compressed from the dense SAE {code(recipe.get('source'))} (latent ids are the same): support by "
            f"{plain(recipe.get('support'))}, encoder {plain(recipe.get('encoder'))}.\n"
        )
    training = object_in(metadata, "training")
    config = object_in(training, "config")
    rows = [(field, plain(config[field])) for field in _RECIPE if field in config]
    if "tokens" in training:
        tokens = training["tokens"]
        rows.append(("tokens seen", f"{tokens:,}" if isinstance(tokens, int) else plain(tokens)))
    if rows:
        parts.append(_table(("setting", "value"), rows))
    return "## Recipe\n\n" + "\n".join(parts) if parts else ""


def _numbers(evaluations: Mapping[str, EvaluationRecord]) -> str:
    if not evaluations:
        return "## Numbers\n\nNo evaluation came with this SAE.\n"
    shown = [metric for metric in _METRICS if any(getattr(r, metric.name) is not None for r in evaluations.values())]
    rows = []
    for name, record in evaluations.items():
        numbers = [metric.text(getattr(record, metric.name)) for metric in shown]
        rows.append((plain(name), code(record.inference), f"{record.tokens:,}", *numbers))
    headings = ("evaluation", "read by", "tokens", *(metric.heading for metric in shown))
    note = "On text that was not trained on, special tokens and tokens of giant norm left out unless a record says so."
    return "## Numbers\n\n" + _table(headings, rows) + f"\n{note}\n"


_TOLD = {"f1_1": "broad, best latent", "f1_5": "broad, best five", "narrow_f1": "narrow"}
"""F1 of a `ProbeRecord`, and what it is called."""


def _concepts(probes: Sequence[ProbeRecord]) -> str:
    """What latents tell, beside what was never trained, and whether it is more than raw coordinates do."""
    if not probes:
        return ""
    rows = [
        (plain(r.name), code(r.reading) if r.reading else "", *(f"{getattr(r, path):.3f}" for path in _TOLD))
        for r in probes
    ]
    first, raw = probes[0], next((r for r in probes if r.kind == "coordinates"), None)
    note = (
        f"F1 of the best latents for {first.broad_concepts} broad and {first.narrow_concepts} narrow concepts on "
        f"{first.tokens:,} tokens of {first.documents} documents, half of them to choose and fit, half to test. Labels "
        f"at other tokens give {first.shuffled_f1_1:.3f} (broad) and {first.shuffled_narrow_f1:.3f} (narrow)."
    )
    said = [_no_better(r, raw) for r in probes if r.kind not in NULLS and raw is not None]
    table = _table(("dictionary", "read by", *_TOLD.values()), rows)
    return "## What latents tell\n\n" + table + f"\n{note}\n" + "".join(f"\n{text}\n" for text in said if text)


def _no_better(found: ProbeRecord, raw: ProbeRecord) -> str:
    """The sentence about probes that do not beat raw coordinates; empty where all do."""
    behind = [
        f"{words} {getattr(found, path):.3f} against {getattr(raw, path):.3f}"
        for path, words in _TOLD.items()
        if not getattr(found, path) > getattr(raw, path)
    ]
    if not behind:
        return ""
    return f"**{plain(found.name)} tells these no better than raw coordinates do: {'; '.join(behind)}.**"


def _use(name: str) -> str:
    return (
        "## Use\n\n```python\nfrom expander_sae.interop.hub import from_pretrained\n\n"
        f"sae = from_pretrained({json.dumps('OWNER/' + _one_line(name).replace('`', ''), ensure_ascii=False)})\n"
        "codes = sae.encode(x)  # x [batch, d_in]\n```\n"
    )


def _table(headings: tuple[str, ...], rows: list[Any]) -> str:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"
