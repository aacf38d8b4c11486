"""Do latents come back under another seed, and codes under noise?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from expander_sae.evaluation.features import best_cosine
from expander_sae.evaluation.firing import Firings, best_jaccard, firings
from expander_sae.pursuit import parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from ..drawing import Line, lines
from ..page import Page, Row, Table, by, known, over_seeds, table_by
from .context import Context, name_of, next_seed, ways_to_read, written
from .experiment import Experiment, Measured
from .quality import diverged

if TYPE_CHECKING:  # with scikit-learn, which pages do not need
    from expander_sae.evaluation.meaning import Features

_AGREEMENT = {
    "median best Jaccard": ("median_jaccard", 3),
    "Jaccard > 0.3": ("matched_jaccard_0.3", 3),
    "median best cosine": ("median_cosine", 3),
    "cosine > 0.7": ("matched_cosine_0.7", 3),
}
_BY_ENERGY = {
    "cosine, one to one": ("again/pw_mcc", 3),
    "by energy": ("again/pw_mcc_by_energy", 3),
    "correlation of activations": ("again/correlation", 3),
    "of these, by energy": ("again/correlation_by_energy", 3),
    "overlap of the strongest columns' spans": ("again/subspace", 3),
    "of random spans": ("again/subspace_by_chance", 3),
}
_NOISE = {
    "latents kept": ("support_kept", 3),
    "energy kept": ("energy_kept", 3),
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
            "readings": readings, "kept": kept, "strongest": context.option("strongest"),
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
    from expander_sae.evaluation.meaning import agreement, under_noise

    tokens = context.option("agreement_tokens")  # many, since sets of a few firings agree by chance
    found, theirs = (firings(one, context.heldout_batches(), tokens)[0] for one in (sae, twin))
    alive = found.counts() > 0
    jaccard, cosine = best_jaccard(found, theirs)[alive].double(), best_cosine(sae, twin)[alive].double()
    return {
        "median_jaccard": float(jaccard.median()),
        "matched_jaccard_0.3": float((jaccard > 0.3).double().mean()),
        "median_cosine": float(cosine.median()),
        "matched_cosine_0.7": float((cosine > 0.7).double().mean()),
        "again": asdict(agreement(sae, twin, _codes(found), _codes(theirs), strongest=context.option("strongest"))),
        "noise": {
            str(way): under_noise(sae.read_by(way), context.heldout_blocks(context.option("tokens")), noises)
            for way in ways_to_read(sae, readings)
        },
    }


def _codes(found: Firings) -> Features:
    from scipy import sparse

    from expander_sae.evaluation.meaning import Features

    at = (found.token.numpy(), found.latent.numpy())
    return Features("codes", sparse.csc_matrix((found.value.double().numpy(), at), (found.n_tokens, found.n_latents)))


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
            *_weighted(of, under),
            table_by("Codes under noise", noise, known(_NOISE, noise),
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


def _weighted(of: Mapping[str, Sequence[Row]], under: str) -> list[Table]:
    """Agreement by the energy of latents."""
    columns = known(_BY_ENERGY, of)
    note = (
        "Cosine: columns of both SAEs in pairs, one to one, mean of |cosine| (PW-MCC). Correlation: best match of each "
        "living latent. By energy: each latent with the weight of its squared codes. Overlap: mean squared cosine of "
        "the principal angles between the spans of the columns of most energy."
    )
    return [table_by("The same, by the weight of the codes", of, columns, under + note)] if columns else []


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
        "strongest": 64, "noises": [0.01, 0.03, 0.1, 0.3], "readings": [],
    },
)  # fmt: skip
