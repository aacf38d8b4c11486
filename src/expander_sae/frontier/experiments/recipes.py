"""When does training lose meaning? fvu against F1 of the best latent, a curve a recipe, by degree and by tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from expander_sae.evaluation import evaluate
from expander_sae.evaluation.nulls import untrained
from expander_sae.pursuit import Encoder, parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, DenseTopKSae, load_sae
from expander_sae.training import StoreBatches, train
from expander_sae.training.closed_form import pruned_sae

from ..drawing import Line, lines, short_number
from ..page import Figure, Page, Row, Table, by, numbers, over_seeds
from .context import Context, written
from .experiment import Experiment, Measured

if TYPE_CHECKING:  # with scikit-learn, which pages do not need
    from .probes import Probes

_FAMILIES = {
    "dense": "dense, one pass",
    "dense-omp": "dense, pursuit",
    "oneshot": "random columns, one pass",
    "expander": "random columns, pursuit",
}
"""Recipes that are families of a grid, in words."""
_CUTS = {"cut-oneshot": "cut from dense, one pass", "cut-omp": "cut from dense, pursuit"}
_WORDS = {**_FAMILIES, **_CUTS}
_EVALUATED = ("max_tokens", "keep_special_tokens", "outlier_medians", "batch_size")
"""Settings of an evaluation that fvu depends on."""
_COLUMNS = {
    "values": ("values", 0),
    "fvu": ("fvu", 3),
    "broad, best latent": ("f1_1", 3),
    "best 5": ("f1_5", 3),
    "narrow": ("narrow_f1", 3),
    "CPU seconds": ("cpu_seconds", 1),
}
_DRAWN = {"f1_1": "broad concepts", "narrow_f1": "narrow concepts"}


def measure(context: Context) -> Measured:
    """Every recipe at every degree after every number of tokens, read in every way; 0 tokens are where it starts."""
    from .probes import Probes  # needs scikit-learn, which pages do not

    recipes = [str(recipe) for recipe in context.option("recipes")]
    if not recipes or not set(recipes) <= set(_WORDS):
        raise ExpanderSaeError(f"expected recipes out of {', '.join(_WORDS)}; got {recipes}")
    for reading in context.option("readings"):
        parse_reading(reading).check(context.settings.k, context.settings.n_for(context.store.d_in))
    probes = Probes(context, context.option("probe_tokens"), ks=(1, 5))
    rows = [*_of_grids(context, probes, recipes), *_cut_from_dense(context, probes, recipes)]
    return {"rows": rows, "coordinates": probes.raw_coordinates(), "recipes": recipes}


def _of_grids(context: Context, probes: Probes, recipes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Recipes that are families: a grid for each number of tokens, and the untrained twins of the last one."""
    families = [recipe for recipe in recipes if recipe in _FAMILIES]
    degrees = context.chosen_degrees() if {"oneshot", "expander"} & set(families) else []
    controls, full = [family for family in families if family != "expander"], context.settings.training()
    budgets = sorted({int(tokens) for tokens in context.option("tokens")})
    for tokens in [tokens for tokens in budgets if tokens and families]:
        config = replace(full, tokens=tokens)
        label = "" if tokens == full.tokens else f"tokens{tokens}"
        grid = context.grid(degrees=degrees, controls=controls, config=config, label=label, cross_entropy=False)
        for record, sae in grid.saes():
            if record.family in families:
                name, depends = f"{record.variant}-seed{record.seed}", grid.depends_on(record)
                what = {"recipe": record.family, "degree": record.matched_degree, "seed": record.seed}
                cost = {"trained_on": tokens, "cpu_seconds": grid.cpu_seconds(record)}
                yield from _read(context, probes, sae, f"{name}-{tokens}", depends, **what, **cost)
                if tokens == budgets[-1] and 0 in budgets:
                    twin, cost = (
                        untrained(sae, probes.sample, seed=record.seed + 1),
                        {"trained_on": 0, "cpu_seconds": 0.0},
                    )
                    yield from _read(context, probes, twin, f"{name}-0", depends, **what, **cost)


def _cut_from_dense(context: Context, probes: Probes, recipes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The largest entries of the full dense SAE's columns, trained on for each number of tokens."""
    cuts = [recipe for recipe in recipes if recipe in _CUTS]
    if not cuts:
        return
    grid = context.grid(degrees=[], controls=["dense"], cross_entropy=False)
    for record, dense in grid.saes():
        assert isinstance(dense, DenseTopKSae)
        spent = record.training.cpu_seconds
        for recipe in cuts:
            for degree in context.chosen_degrees():
                for tokens in sorted({int(tokens) for tokens in context.option("tokens")}):
                    name = f"{recipe}-d{degree}-seed{record.seed}-{tokens}"
                    make = partial(_trained_cut, context, dense, recipe, degree, tokens, record.seed, name)
                    depends = {**grid.depends_on(record), "training": context.settings.training().to_dict()}
                    made = context.piece(f"{name}-training", depends, make)
                    folder = context.folder / "cut" / name / "sae"
                    if made["diverged"]:
                        continue
                    own = made["cpu_seconds"]
                    yield from _read(
                        context, probes, load_sae(folder), name, {"sae": written(folder)}, recipe=recipe, degree=degree,
                        seed=record.seed, trained_on=tokens, cpu_seconds=None if spent is None else spent + own,
                    )  # fmt: skip


def _trained_cut(
    context: Context, dense: DenseTopKSae, recipe: str, degree: int, tokens: int, seed: int, name: str
) -> dict[str, Any]:
    """Cut, train on and save one SAE."""
    context.say(f"training {name}")
    sae = pruned_sae(dense, degree, seed=seed, reading=context.settings.sae_options().reading)
    folder = context.folder / "cut" / name
    if tokens == 0:
        sae.eval().save(folder / "sae")
        return {"diverged": False, "cpu_seconds": 0.0}
    full = context.settings.training()
    config = replace(
        full, tokens=tokens, seed=seed, fine_tune=True, move_supports=None, anneal=None,
        reading=Encoder() if recipe == "cut-oneshot" else full.reading,
    )  # fmt: skip
    kept = context.settings.evaluation().keep_special_tokens
    batches = StoreBatches(context.store, config, keep_special_tokens=kept)
    saes = {"sae": sae.to(context.device)}
    # A finished pass of these settings is a piece; what is here besides was made from another dense SAE.
    done = train(saes, batches, config, folder=folder, progress=context.progress, overwrite=True)["sae"]
    return {"diverged": done.diverged, "cpu_seconds": done.cpu_seconds}


def _read(
    context: Context, probes: Probes, sae: AbstractSae, name: str, depends: Mapping[str, Any], **what: Any
) -> Iterator[dict[str, Any]]:
    """One row for each way of reading that the SAE has columns enough for."""
    settings = context.settings.evaluation()
    fidelity: dict[str, Any] = {name: getattr(settings, name) for name in _EVALUATED}
    for way in map(parse_reading, context.option("readings")):
        if not way.fits(sae.k, sae.n_latents):
            continue
        read, piece = sae.read_by(way), f"{name}-{way}".replace(":", "")

        def make(read: AbstractSae = read, piece: str = piece) -> dict[str, Any]:
            context.say(f"reading {piece}")
            found = evaluate({"sae": read}, context.store, progress=False, **fidelity)["sae"]
            return {"fvu": found.fvu, **probes.of_sae(read)}

        depends_on = {**depends, **probes.depends, "evaluation": fidelity}
        yield {**what, "read_by": str(way), "values": sae.learned_values(), **context.piece(piece, depends_on, make)}


def show(measured: Measured) -> Page:
    """Meaning against fidelity: at the most tokens a curve a recipe along degrees, at each degree one along tokens."""
    rows = measured["rows"]
    most = max((row["trained_on"] for row in rows), default=0)
    ended = [row for row in rows if row["trained_on"] == most]
    figures = [
        _figure(path, "", f"after {most:,} training tokens, by degree", ended, "degree", measured) for path in _DRAWN
    ]
    for degree in sorted({row["degree"] for row in rows if row["degree"] is not None}):
        mine = [row for row in rows if row["degree"] in (degree, None)]
        words = f"at degree {degree}, by training tokens"
        figures.append(_figure("f1_1", f"_degree{degree}", words, mine, "trained_on", measured))
    groups = by(rows, "recipe", "degree", "trained_on", "read_by")
    cells = [
        [_WORDS[recipe], degree, tokens, reading, *numbers(mine, _COLUMNS)]
        for (recipe, degree, tokens, reading), mine in groups.items()
    ]
    note = (
        "F1 of the best latents (docs/concepts/meaning.md). Tokens of what is cut from dense: after the cut; its CPU "
        "seconds count the dense SAE's. Mean over seeds ± half width of the 95% interval, below it every seed."
    )
    notes = [
        "0 tokens: an untrained dictionary, and a dense one cut and not trained on. Points that leave more than the "
        "mean does (fvu above 1) are in the table only."
    ]
    head = ["recipe", "degree", "training tokens", "read by"]
    return Page(_claim(ended, most), [Table("Every recipe", [*head, *_COLUMNS], cells, note)], figures, notes)


def _figure(path: str, suffix: str, words: str, rows: Sequence[Row], along: str, measured: Measured) -> Figure | None:
    """A curve for each recipe and reading."""
    drawn = []
    for (recipe, reading), mine in by(rows, "recipe", "read_by").items():
        points, labels = [], []
        for place, of in sorted(by(mine, along).items(), key=lambda pair: pair[0] or 0):
            left, found = over_seeds(of, "fvu"), over_seeds(of, path)
            if left is not None and found is not None and left.mean <= 1:
                points.append((left.mean, found))
                labels.append("" if place is None else short_number(place))
        drawn.append(
            Line(
                f"{_WORDS[recipe]}; {reading}",
                points,
                labels=labels,
                dashed=reading != "encoder",
                place=list(_WORDS).index(recipe),
            )
        )
    return lines(
        f"{path}_against_fvu{suffix}", f"F1 of the best latent for {_DRAWN[path]} against fvu {words}", drawn,
        x="fvu", y="F1 of the best latent", title=f"{_DRAWN[path].capitalize()}, {words}",
        levels=[("raw coordinates", measured["coordinates"][path])],
    )  # fmt: skip


def _claim(ended: Sequence[Row], most: int) -> str:
    parts = []
    for (recipe, degree, reading), mine in by(ended, "recipe", "degree", "read_by").items():
        found, left = over_seeds(mine, "f1_1"), over_seeds(mine, "fvu")
        if found is not None and left is not None and reading == "encoder":
            at = "" if degree is None else f" at degree {degree}"
            parts.append(f"{_WORDS[recipe]}{at} {found.mean:.3f}")
    if not parts:
        return "No SAE was read by its encoder."
    return f"F1 of the best latent for broad concepts after {most:,} tokens, by the encoder: {'; '.join(parts)}."


EXPERIMENT = Experiment(
    name="recipes",
    question="When does training lose what latents mean?",
    measure=measure,
    show=show,
    options={
        "recipes": list(_WORDS),
        "degrees": [7, 16, 30, 32, 64, 200],
        "tokens": [0, 50_000, 200_000, 1_000_000],
        "readings": ["encoder", "stages:8"],
        "probe_tokens": 20_000,
    },
)
