"""One page a person can read: what was found, the figures, every number, how it was made, and what to mind."""

from __future__ import annotations

import base64
import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from expander_sae.records import EvaluationRecord, write_atomically

from .figures import PANELS, SPEED_PANELS, draw, draw_speed, short_number
from .results import Frontier, Summary
from .variants import CONTROLS

_SMALLEST_CLAIM = 3
"""Seeds below which a difference is not a claim."""

COLUMNS = (
    # title, metric, digits, whether lower (-1) or higher (+1) is better
    ("fvu", "fvu", 3, -1),
    ("rel_err", "rel_err", 3, -1),
    ("dead", "dead_fraction", 3, -1),
    ("Δ CE, nats", "delta_ce", 3, -1),
    ("CE recovered, zero", "ce_recovered_zero", 3, 1),
    ("CE recovered, mean", "ce_recovered_mean", 3, 1),
    ("KL, nats", "kl", 3, -1),
    ("retention, zero", "retention_zero", 3, 1),
    ("retention, mean", "retention_mean", 3, 1),
    ("encode tokens/s", "encode_tokens_per_second", 0, 0),
)


def write_report(frontier: Frontier, folder: str | os.PathLike[str]) -> Path:
    """Write `report.html`, which needs no other file and no network, and its figures as SVG files.

    Every number on the page is computed from the records of `frontier`.

    Raises:
        ExpanderSaeError: the folder cannot be written.
    """
    folder = Path(folder)
    summaries = in_order(frontier.summaries())
    readings = in_order([*frontier.summaries(), *frontier.readings_summaries()])
    drawings = [
        (panel.name, f"{panel.title} against {panel.against.replace('_', ' ')}", draw(panel, summaries))
        for panel in PANELS
    ]
    drawings += [
        (f"{metric}_by_speed", f"{metric} against the speed of reading codes", draw_speed(metric, unit, readings))
        for metric, unit in SPEED_PANELS
    ]
    images = []
    for name, text, drawn in drawings:
        if drawn is None:
            continue
        with write_atomically(folder / "figures" / f"{name}.svg") as temporary:
            temporary.write_bytes(drawn)
        images.append({"data": base64.b64encode(drawn).decode(), "alt": text})
    template = resources.files("expander_sae.frontier").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string(template).render(
        headline=headline(frontier),
        verdict=verdict(summaries),
        baseline=_baseline(frontier),
        columns=[column[0] for column in _shown_columns(summaries)],
        rows=_rows(summaries),
        readings=_rows(readings) if frontier.readings else [],
        images=images,
        settings=_settings(frontier),
        command=frontier.settings.get("command"),
        notes=_notes(frontier),
        diverged=[f"{r.variant} (seed {r.seed})" for r in frontier.records if r.evaluation is None],
        versions=frontier.versions,
    )
    path = folder / "report.html"
    with write_atomically(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def in_order(summaries: list[Summary]) -> list[Summary]:
    """By degree, each sparse SAE with its controls; the full dense ones last."""
    sparse = ("expander", "irregular", "pruned", "fixed", "oneshot", "diversity", "shared", "banded", "clustered")
    families = (*sparse, *(name for name in CONTROLS if name not in sparse), "pca-topk")
    return sorted(summaries, key=lambda s: (s.matched_degree or math.inf, families.index(s.family)))


def headline(frontier: Frontier) -> str:
    """What the frontier says about one degree: the paper's 7, or the nearest to it."""
    summaries = frontier.summaries()
    sparse = [summary for summary in summaries if summary.family == "expander"]
    dense = next((summary for summary in summaries if summary.family == "dense"), None)
    if not sparse:
        return "No Expander SAE was evaluated."
    one = min(sparse, key=lambda summary: abs((summary.matched_degree or 0) - 7))
    size = f"{short_number(one.learned_values)} learned values"
    if dense is not None:
        size += f", {_percent(one.learned_values / dense.learned_values)} of the full dense SAE's"
    left = _percent(_mean(one, "fvu"))
    start = f"At degree {one.matched_degree} ({size}), the Expander SAE leaves {left} of the variance unexplained"
    if dense is not None:
        start += f" (full dense: {_percent(_mean(dense, 'fvu'))})"
    if "delta_ce" not in one.metrics:
        return start + "."
    text = f"{start} and costs the language model {_mean(one, 'delta_ce'):.2f} nats a token"
    if dense is not None:
        text += f" (full dense: {_mean(dense, 'delta_ce'):.2f})"
    if "retention_zero" in one.metrics and "retention_mean" in one.metrics:
        text += (
            f"; it retains {_percent(_mean(one, 'retention_zero'))} of the full dense SAE's cross entropy recovered "
            f"in the zero form, {_percent(_mean(one, 'retention_mean'))} in the mean form"
        )
    twin = _twin(one, summaries)
    if twin is not None:
        text += (
            f". A dense SAE of the same size ({twin.n_latents} latents) leaves {_percent(_mean(twin, 'fvu'))} "
            f"and costs {_mean(twin, 'delta_ce'):.2f} nats"
        )
    return text + "."


def verdict(summaries: list[Summary]) -> str | None:
    """Who is ahead at equal size, counted over the degrees; None without matched controls."""
    pairs = [(s, twin) for s in summaries if s.family == "expander" and (twin := _twin(s, summaries)) is not None]
    if not pairs:
        return None
    parts = []
    for metric, sign, words in (("fvu", -1, "the lower fvu"), ("delta_ce", -1, "the lower cross entropy added")):
        measured = [(a, b) for a, b in pairs if metric in a.metrics and metric in b.metrics]
        if measured:
            ahead = sum(sign * _mean(a, metric) > sign * _mean(b, metric) for a, b in measured)
            parts.append(f"{words} in {ahead} of {len(measured)}")
    seeds = min(summary.metrics["fvu"].seeds for pair in pairs for summary in pair if "fvu" in summary.metrics)
    ahead_in = ", and ".join(parts)
    return (
        f"Against a dense SAE with as many learned values, the Expander SAE has {ahead_in} comparisons.{caution(seeds)}"
    )


def caution(seeds: int) -> str:
    """The sentence to add to a claim about trained SAEs that so many seeds do not carry; empty where they do."""
    return "" if seeds >= _SMALLEST_CLAIM else f" With {seeds} seed{'s' if seeds > 1 else ''} this is no claim yet."


def _twin(sparse: Summary, summaries: list[Summary]) -> Summary | None:
    matched = [s for s in summaries if s.family == "matched" and s.matched_degree == sparse.matched_degree]
    return matched[0] if matched else None


def _mean(summary: Summary, metric: str) -> float:
    spread = summary.metrics.get(metric)
    return float("nan") if spread is None else spread.mean


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _shown_columns(summaries: list[Summary]) -> list[tuple[str, str, int, int]]:
    return [column for column in COLUMNS if any(column[1] in summary.metrics for summary in summaries)]


def _rows(summaries: list[Summary]) -> list[dict[str, Any]]:
    """Cells as text; in each group of one size, the best of each column is marked."""
    rows = []
    for summary in summaries:
        # The full dense SAEs have no rivals of their size.
        degree = summary.matched_degree
        group = [s for s in summaries if degree is not None and s.matched_degree == degree]
        cells = []
        for _, metric, digits, better in _shown_columns(summaries):
            spread = summary.metrics.get(metric)
            if spread is None:
                cells.append({"text": "–", "spread": "", "best": False})
                continue
            rivals = [better * _mean(s, metric) for s in group if metric in s.metrics]
            best = better != 0 and len(set(rivals)) > 1 and better * spread.mean == max(rivals)
            _, _, seeds = spread.text(digits).partition("\n")
            half = "" if spread.interval is None else f"± {spread.interval:,.{digits}f} ({seeds})"
            cells.append({"text": f"{spread.mean:,.{digits}f}", "spread": half, "best": best})
        size = "–" if summary.bytes_on_disk is None else f"{summary.bytes_on_disk / 1024:,.0f} KiB"
        rows.append(
            {
                "name": summary.variant,
                "inference": summary.inference,
                "family": summary.family,
                "first": bool(rows) and rows[-1]["group"] != summary.matched_degree,
                "group": summary.matched_degree,
                "n_latents": f"{summary.n_latents:,}",
                "learned": f"{summary.learned_values:,}",
                "bytes": size,
                "cells": cells,
            }
        )
    return rows


def _first_evaluation(frontier: Frontier) -> EvaluationRecord | None:
    return next((record.evaluation for record in frontier.records if record.evaluation is not None), None)


def _baseline(frontier: Frontier) -> str | None:
    """The three runs that every ratio is made of."""
    one = _first_evaluation(frontier)
    if one is None or one.ce_clean is None or one.ce_zero is None or one.ce_mean is None:
        return None
    return (
        f"Cross entropy of the language model, in nats per token over {one.ce_tokens:,} predicted tokens: "
        f"{one.ce_clean:.3f} as it is, {one.ce_mean:.3f} with the layer's output replaced by its mean, "
        f"{one.ce_zero:.3f} replaced by zero."
    )


def _settings(frontier: Frontier) -> list[tuple[str, str]]:
    settings, one = frontier.settings, _first_evaluation(frontier)
    training, evaluation = settings["training"], settings["evaluation"]
    harvest = settings["activations"]
    rows = [
        ("k, active latents per token", str(settings["k"])),
        ("latents of the Expander and full dense SAEs", f"{settings['n_latents']:,}"),
        ("width of the activations, d_in", f"{settings['d_in']:,}"),
        ("seeds", ", ".join(map(str, settings["seeds"]))),
        ("TopK", "signed, no ReLU" if settings["signed"] else "after a ReLU"),
        ("masks", f"{settings['construction']}, the clustered control apart"),
        ("training tokens", f"{training['tokens']:,} (counting repeats), batches of {training['batch_size']:,}"),
        ("learning rate", f"{training['learning_rate']:g}, {training['schedule']}"),
    ]
    source = harvest.get("settings", {})
    rows.append(("language model", f"{source.get('model_id')} ({str(source.get('model_revision'))[:19]})"))
    rows.append(("activations", f"residual stream after block {source.get('layer')}, counted from 0"))
    if "text_source" in harvest:
        counts = harvest.get("tokens", {})
        held = {split: f"{counts[split]['ordinary']:,}" for split in ("train", "heldout") if split in counts}
        rows.append(
            (
                "text",
                f"{harvest['text_source']}: {held.get('train')} tokens to train on, {held.get('heldout')} held out",
            )
        )
    if one is not None:
        left_out = (
            "none"
            if one.outlier_medians is None
            else f"{one.outlier_tokens:,} above {one.outlier_medians:g} median norms"
        )
        rows.append(("tokens evaluated (fvu, dead, ...)", f"{one.tokens:,} held-out tokens; left out: {left_out}"))
        rows.append(("special tokens and first positions", "kept" if one.keep_special_tokens else "left out"))
    rows.append(("splice", _splice_words(evaluation["splice"])))
    times = [record.training.seconds for record in frontier.records if record.training.seconds]
    if times:
        by_seed = {record.seed: record.training.seconds for record in frontier.records}
        rows.append(("training time", f"{sum(by_seed.values()):,.0f} s for all SAEs together, one pass for each seed"))
    return rows


def _splice_words(splice: str) -> str:
    if splice == "everywhere":
        return "everywhere: every position is replaced, as in the paper"
    return "ordinary: positions left out above keep the model's own activation"


def _notes(frontier: Frontier) -> list[str]:
    """What a reader should mind, from the records and settings themselves."""
    settings = frontier.settings
    notes = [
        "A matched control has as many learned values as the Expander SAE of its degree (and as many in its decoder); "
        "bytes differ a little, see the table."
        + (" Latent biases come on top: the Expander SAE has more of them." if settings["latent_bias"] else ""),
        "Retention is cross entropy recovered divided by that of the full dense tied SAE of the same seed. The zero "
        "form flatters: a zeroed layer is often worse than a uniform guess. Δ CE hides nothing.",
        "“dead” is the share of latents that never fire on the held-out tokens evaluated, however few those are.",
        "Held-out text was split off by document before tokenising; nothing was trained on it.",
    ]
    if len(settings["seeds"]) < _SMALLEST_CLAIM:
        notes.append(
            f"{len(settings['seeds'])} seed(s): differences of the size of a seed's luck are not results. "
            "Three at least for a claim."
        )
    else:
        notes.append(
            "± is half the 95% interval of the mean (Student's t over seeds), every seed behind it; bars in the "
            "figures run from the lowest seed to the highest."
        )
    if settings["evaluation"]["outlier_medians"] is not None:
        notes.append(
            "Tokens of giant norm are left out of the reconstruction metrics, and (by the ordinary splice) "
            "keep their own activation; a handful of them would otherwise decide the fvu."
        )
    return notes + frontier.notes
