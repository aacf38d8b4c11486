"""Do latents come back under another seed, and codes under noise?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from expander_sae.evaluation.features import best_cosine
from expander_sae.evaluation.firing import best_jaccard, firings
from expander_sae.ops import Codes
from expander_sae.pursuit import parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from ..drawing import Line, lines
from ..page import Page, Row, by, over_seeds, table_by
from .context import Context, name_of, next_seed, written
from .experiment import Experiment, Measured
from .quality import diverged

_AGREEMENT = {
    "median best Jaccard": ("median_jaccard", 3),
    "Jaccard > 0.3": ("matched_jaccard_0.3", 3),
    "median best cosine": ("median_cosine", 3),
    "cosine > 0.7": ("matched_cosine_0.7", 3),
}
_NOISE = {
    "latents kept": ("support_kept", 3),
    "change of the code": ("code_change", 3),
    "change of x̂ / noise": ("output_change", 3),
}


def measure(context: Context) -> Measured:
    """Every SAE against the one of its own kind and the next seed; and its codes of tokens with noise added."""
    context.need_two_seeds("those of another one")
    noises = [float(noise) for noise in context.option("noises")]
    if not noises or min(noises) <= 0:
        raise ExpanderSaeError(f"expected noises as numbers above 0, got {noises}")
    readings = [str(reading) for reading in context.option("readings")]
    for reading in readings:
        parse_reading(reading).check(context.settings.k, context.settings.n_for(context.store.d_in))
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"))
    found = {(record.variant, record.seed): (record, sae) for record, sae in grid.saes()}
    tokens = {name: context.option(name) for name in ("tokens", "agreement_tokens")}
    kept = context.settings.evaluation().keep_special_tokens
    rows = []
    for (variant, seed), (record, sae) in found.items():
        twin = next_seed(seed, [s for v, s in found if v == variant])
        if twin == seed:
            continue  # its twins diverged
        depends = {
            "sae": written(grid.folder / record.folder), "twin": twin, **tokens, "noises": noises,
            "readings": readings, "kept": kept,
        }  # fmt: skip
        context.say(f"stability of {variant}, seed {seed}")
        make = partial(_stability, context, sae, found[variant, twin][1], noises, readings)
        rows.append(context.row(record, name_of(record), depends, make, against=twin))
    return {"saes": rows, **tokens, "frontier": grid.records()}


def _stability(
    context: Context, sae: AbstractSae, twin: AbstractSae, noises: Sequence[float], readings: Sequence[str]
) -> dict[str, Any]:
    """How well each living latent is matched by one of its twin's, and what noise does to the codes of every reading:
    its own, then the others that it has columns enough for."""
    tokens = context.option("agreement_tokens")  # many, since sets of a few firings agree by chance
    found, theirs = (firings(one, context.heldout_batches(), tokens)[0] for one in (sae, twin))
    alive = found.counts() > 0
    jaccard, cosine = best_jaccard(found, theirs)[alive].double(), best_cosine(sae, twin)[alive].double()
    fitting = [way for way in map(parse_reading, readings) if way.fits(sae.k, sae.n_latents)]
    ways = dict.fromkeys([sae.reading, *fitting])
    return {
        "median_jaccard": float(jaccard.median()),
        "matched_jaccard_0.3": float((jaccard > 0.3).double().mean()),
        "median_cosine": float(cosine.median()),
        "matched_cosine_0.7": float((cosine > 0.7).double().mean()),
        "noise": {str(way): _noise(context, sae.read_by(way), noises) for way in ways},
    }


@torch.no_grad()
def _noise(context: Context, sae: AbstractSae, noises: Sequence[float]) -> list[dict[str, float]]:
    """For each size of noise: latents that stay, and how far code and reconstruction move.

    Noise is Gaussian, of norm eta ||x - b_dec|| for each token. Kept: |S ∩ S'| / |S| over tokens with codes S and S'.
    Change of the code: ||h - h'|| / ||h||. Change of x̂: ||x̂ - x̂'|| / ||noise||; 1 passes the noise on. All are means
    over tokens.
    """
    sums: list[dict[str, float]] = [dict.fromkeys((key for key, _ in _NOISE.values()), 0.0) for _ in noises]
    generator = torch.Generator().manual_seed(0)
    tokens = 0
    for x in context.heldout_blocks(context.option("tokens")):
        tokens += len(x)
        direction = torch.randn(x.shape, generator=generator, dtype=torch.float32, device="cpu")
        unit = direction / direction.norm(dim=1, keepdim=True) * (x - sae.center()).norm(dim=1, keepdim=True)
        codes = sae.encode(x)
        clean, output = _spread_out(codes, sae.n_latents), sae.decode(codes)
        for place, noise in enumerate(noises):
            again = sae.encode(x + noise * unit)
            noisy = _spread_out(again, sae.n_latents)
            kept = ((clean != 0) & (noisy != 0)).sum(1) / (clean != 0).sum(1).clamp_min(1)
            change = (clean - noisy).norm(dim=1) / clean.norm(dim=1).clamp_min(1e-30)
            moved = (sae.decode(again) - output).norm(dim=1) / (noise * unit).norm(dim=1).clamp_min(1e-30)
            for name, values in (("support_kept", kept), ("code_change", change), ("output_change", moved)):
                sums[place][name] += float(values.double().sum())
    return [
        {"noise": noise, **{name: total / tokens for name, total in part.items()}}
        for noise, part in zip(noises, sums, strict=True)
    ]


def _spread_out(codes: Codes, n_latents: int) -> Tensor:
    return torch.zeros(len(codes.indices), n_latents, dtype=torch.float32, device="cpu").scatter_(
        1, codes.indices, codes.values
    )


def show(measured: Measured) -> Page:
    """Agreement of twins, and what noise does."""
    of = by(measured["saes"], "variant")
    noise: dict[tuple[str, str, str], list[Row]] = {}
    drawn = []
    for name, rows in of.items():
        for way, parts in rows[0]["noise"].items():
            kept = []
            for place, part in enumerate(parts):
                found = [row["noise"][way][place] for row in rows]
                noise[name, way, f"{part['noise']:g}"] = found
                kept.append((part["noise"], over_seeds(found, "support_kept")))
            drawn.append(Line(f"{name}, {way}", kept))
    under = "Mean over seeds ± half width of the 95% interval, below it every seed. "
    return Page(
        claim=_claim(of),
        tables=[
            table_by("Latents found again under another seed", of, _AGREEMENT,
                     under + "Over latents that fire. Best match of each by firing sets (Jaccard) and by direction."),
            table_by("Codes under noise", noise, _NOISE,
                     under + "Gaussian noise; change of x̂ / noise is 1 where all of it comes through.",
                     "SAE", "read by", "noise / ‖x − b‖"),
        ],
        figures=[
            lines("support_kept_by_noise", "share of the active latents that stay, by size of the noise",
                  drawn, x="noise / ‖x − b‖", y="share of active latents kept", log_x=True),
        ],
        notes=[
            f"Agreement on {measured.get('agreement_tokens', measured['tokens']):,} held-out tokens at most, codes "
            f"under noise on {measured['tokens']:,}.",
            "A small dense SAE has few latents that fire on much: they are found again more easily, and keep firing.",
            *diverged(measured["frontier"]),
        ],
    )  # fmt: skip


def _claim(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    parts, size = [], 0.0
    for name, rows in of.items():
        if rows[0]["family"] not in ("expander", "dense"):
            continue
        own = next(iter(rows[0]["noise"]))
        size = rows[0]["noise"][own][0]["noise"]
        matched = over_seeds(rows, "matched_jaccard_0.3")
        kept = over_seeds([row["noise"][own][0] for row in rows], "support_kept")
        if matched is not None and kept is not None:
            parts.append(f"{name} {matched.mean:.1%} and {kept.mean:.1%}")
    if not parts:
        return "No SAE had a twin of another seed."
    return (
        f"Latents with a counterpart (Jaccard 0.3) under another seed, and active latents kept under {size:.0%} "
        f"noise: {', '.join(parts)}."
    )


EXPERIMENT = Experiment(
    name="stability",
    question="Do latents come back under another seed, and do codes survive noise?",
    measure=measure,
    show=show,
    options={
        "degrees": [7, 30, 200], "controls": ["dense", "matched"], "tokens": 4096, "agreement_tokens": 20_000,
        "noises": [0.01, 0.03, 0.1, 0.3], "readings": [],
    },
)  # fmt: skip
