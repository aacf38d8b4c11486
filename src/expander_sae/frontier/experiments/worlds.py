"""How much of made-up activations' true features does each SAE find again?"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from expander_sae.evaluation.nulls import untrained
from expander_sae.records import ExpanderSaeError
from expander_sae.records.spread import Spread
from expander_sae.saes import AbstractSae
from expander_sae.training import train
from expander_sae.training.memory import MemoryBatches

from ..drawing import Line, lines
from ..families import title_of
from ..page import Figure, Page, Row, Table, by, numbers, over_seeds
from ..variants import Variant, plan
from .context import Context, ways_to_read
from .experiment import Experiment, Measured

if TYPE_CHECKING:  # with scikit-learn, which pages do not need
    from expander_sae.evaluation.meaning.worlds import Sample, World, WorldSettings

_WORLDS = ("dense", "sparse")
"""True directions on all rows, or on a few."""
_KINDS = {
    "expander": "Expander", "oneshot": "Expander, one-shot", "matched": "dense of as many values",
    "matched-omp": "dense of as many values, by pursuit",
}  # fmt: skip
"""In the legend."""
_COLUMNS = {
    "MCC": ("mcc", 3),
    "recovered": ("recovered", 3),
    "uniqueness": ("uniqueness", 3),
    "F1 of latents": ("f1", 3),
    "F1 of features": ("feature_f1", 3),
    "L0": ("l0", 1),
    "explained variance": ("explained_variance", 3),
    "dead": ("dead", 3),
}


def measure(context: Context) -> Measured:
    """One piece for each world and seed: its SAEs trained in one pass, and everything read in every way."""
    worlds = [str(world) for world in context.option("worlds")]
    if not worlds or not set(worlds) <= set(_WORLDS):
        raise ExpanderSaeError(f"expected worlds out of {', '.join(_WORLDS)}; got {worlds}")
    rows: list[dict[str, Any]] = []
    for world in worlds:
        for seed in context.settings.seeds:
            rows += _world(context, world, seed)
            for preset in context.option("presets"):
                if preset != context.settings.preset:
                    rows += _world(context, world, seed, str(preset))
    shared = {name: context.option(name) for name in ("k", "sparse_degree")}
    return {"rows": rows, "world": _settings(context, "dense", 0).to_dict(), **shared}


def _settings(context: Context, world: str, seed: int) -> WorldSettings:
    from expander_sae.evaluation.meaning.worlds import WorldSettings

    sizes = {name: context.option(name) for name in ("d_in", "n_features", "roots")}
    return WorldSettings(**sizes, degree=None if world == "dense" else context.option("sparse_degree"), seed=seed)


def _world(context: Context, place: str, seed: int, preset: str = "") -> list[dict[str, Any]]:
    """The rows of one world: every SAE by the recipe of the command line, or the sparse ones by another preset."""
    from expander_sae.evaluation.meaning.worlds import World

    option, settings = context.option, _settings(context, place, seed)
    recipe = replace(context.settings, preset=preset) if preset else context.settings
    config, built = recipe.training(), recipe.sae_options()
    # No token is out of the way here, and where most have hardly a feature the others would seem so.
    config = replace(config, inputs=replace(config.inputs, outlier_medians=None))
    readings = [str(reading) for reading in option("readings")]
    variants = plan(
        option("degrees"), () if preset else option("controls"), d_in=settings.d_in, n_latents=option("n_latents"),
        k=option("k"), seeds=[seed], note=context.say,
    )  # fmt: skip
    depends = {
        "world": settings.to_dict(), "training": config.to_dict(), "built": built.to_dict(), "readings": readings,
        "saes": [variant.to_dict() for variant in variants],
        **{size: option(size) for size in ("pool", "heldout")},
    }  # fmt: skip
    name = f"{place}-seed{seed}" + (f"-{preset}" if preset else "")

    def make() -> list[dict[str, Any]]:
        context.say(f"{place} world, seed {seed}" + (f", preset {preset}" if preset else ""))
        world = World(settings)
        pool, heldout = world.sample(option("pool"), seed=0), world.sample(option("heldout"), seed=1)
        saes = {variant.name: variant.build(settings.d_in, built) for variant in variants}
        room = context.folder / "passes" / name
        batches = MemoryBatches(pool.x, config.batch_size, seed)
        done = train(saes, batches, config, folder=room, progress=context.progress)
        rows = []
        for variant in variants:
            if not done[variant.name].diverged:
                by_preset = f", {preset}" if preset else ""
                what = {"variant": variant.name + by_preset, "family": variant.family + by_preset}
                rows += _read(what, saes[variant.name], world, heldout, readings)
        if not preset:
            for family, variant, sae in _controls(variants, saes, pool, world, option("n_latents")):
                what = {"variant": variant, "family": family, "learned_values": 0}
                rows += _read(what, sae, world, heldout, readings)
        shutil.rmtree(room)
        return rows

    found = context.piece(name, depends, make)
    return [{"world": place, "seed": seed, **row} for row in found]


def _controls(
    variants: Sequence[Variant], saes: Mapping[str, AbstractSae], pool: Sample, world: World, n_latents: int
) -> Iterator[tuple[str, str, AbstractSae]]:
    """The most frequent true directions as they are, and SAEs that were never trained."""
    count = np.diff(pool.truth.values.indptr)
    most = np.argsort(-count, kind="stable")[:n_latents]
    own = next(saes[v.name] for v in variants if v.family == "expander")
    yield "true directions", "true directions", world.dictionary(most, k=own.k, reading=own.reading)
    for variant in variants:
        if variant.family in ("expander", "dense"):
            never = untrained(saes[variant.name], pool.x, seed=variant.seed + 100)
            yield "untrained", f"untrained {variant.name}", never


def _read(
    row: dict[str, Any], sae: AbstractSae, world: World, heldout: Sample, readings: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each way of reading that the SAE has columns enough for, its own first."""
    from expander_sae.evaluation.meaning.worlds import recovery

    sae.eval()
    values = {"learned_values": sae.learned_values(), **row}
    return [
        {**values, "reading": str(way), "own": place == 0, **asdict(recovery(sae.read_by(way), world, heldout))}
        for place, way in enumerate(ways_to_read(sae, readings))
    ]


def show(measured: Measured) -> Page:
    """How much is found again, by world, SAE and reading."""
    groups = by(measured["rows"], "world", "variant", "reading")
    own = [rows for rows in groups.values() if rows[0]["own"]]
    table = Table(
        "What is found again",
        ["world", "SAE", "read by", "values", *_COLUMNS],
        [
            [world, title_of(variant), reading, rows[0]["learned_values"], *numbers(rows, _COLUMNS)]
            for (world, variant, reading), rows in groups.items()
        ],
        "Mean over seeds ± half width of the 95% interval, below it every seed; each seed is another world.",
    )
    settings, active = measured["world"], over_seeds(measured["rows"], "true_l0")
    about = "" if active is None else f" {active.mean:.1f} of them fire on a token;"
    return Page(
        claim=_claim(own),
        tables=[table],
        figures=[_figure(world, own) for world in dict.fromkeys(rows[0]["world"] for rows in own)],
        notes=[
            f"{settings['n_features']:,} true directions in {settings['d_in']} dimensions, made as SynthSAEBench "
            f"describes (arXiv 2602.14687); in the sparse world each is on {measured['sparse_degree']} random rows."
            f"{about} SAEs have k = {measured['k']}.",
            "MCC: learned and true directions in pairs, mean |cosine|. Recovered: true directions with a |cosine| of "
            "0.8 at least. F1 of latents: of each latent, for the true direction nearest to it. F1 of features: of "
            "each true feature, by the latent paired with it, 0 without one.",
            "A smaller SAE has fewer pairs, so its MCC is over its easier ones; F1 of features counts all features.",
        ],
    )  # fmt: skip


def _figure(world: str, own: Sequence[Sequence[Row]]) -> Figure | None:
    families: dict[str, list[Sequence[Row]]] = {}
    for rows in own:
        if rows[0]["world"] == world:
            families.setdefault(rows[0]["family"], []).append(rows)
    drawn = [
        Line(
            _kind(family),
            [_point(o) for o in of],
            joined=False,
            labels=[_short(o) for o in of],
        )
        for family, of in families.items()
    ]
    caption = (
        f"{world} world: F1 of the true features against explained variance, a point for each SAE read its own way"
    )
    return lines(f"features_by_variance_{world}", caption, drawn, x="explained variance", y="F1 of true features",
                 title=f"{world} world")  # fmt: skip


def _kind(family: str) -> str:
    """A family in the legend; what follows a comma is the preset."""
    name, comma, preset = family.partition(", ")
    return _KINDS.get(name, name) + comma + preset


def _point(rows: Sequence[Row]) -> tuple[float, Spread | None]:
    variance = over_seeds(rows, "explained_variance")
    return (0.0 if variance is None else variance.mean), over_seeds(rows, "feature_f1")


def _short(rows: Sequence[Row]) -> str:
    """What tells an SAE from the others of its kind: the number in its name."""
    return "".join(re.findall(r"(?:-[dn])(\d+)", rows[0]["variant"]))


def _claim(own: Sequence[Sequence[Row]]) -> str:
    parts: dict[str, list[str]] = {}
    for rows in own:
        first, found, matched = rows[0], over_seeds(rows, "feature_f1"), over_seeds(rows, "mcc")
        if first["family"] != "untrained" and found is not None and matched is not None:
            name = title_of(first["variant"])
            parts.setdefault(first["world"], []).append(f"{name} {found.mean:.2f} ({matched.mean:.2f})")
    if not parts:
        return "No SAE was left to compare: all runs diverged."
    said = "; ".join(f"in the {world} world {', '.join(of)}" for world, of in parts.items())
    return f"F1 of the true features (MCC of directions), each SAE read its own way: {said}."


EXPERIMENT = Experiment(
    name="worlds",
    question="How many of a made-up world's true features does each SAE find again?",
    measure=measure,
    show=show,
    options={
        "worlds": list(_WORLDS), "d_in": 128, "n_features": 1024, "roots": 8, "sparse_degree": 7, "n_latents": 512,
        "k": 8, "degrees": [7, 32], "controls": ["oneshot", "matched", "dense"], "presets": ["meaning"],
        "readings": ["encoder", "stages:8+2"], "pool": 200_000, "heldout": 20_000,
    },
)  # fmt: skip
