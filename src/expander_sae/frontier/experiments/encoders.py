"""Where should a budget of learned values go: all into the dictionary, or half of it into an encoder?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from expander_sae.evaluation import evaluate
from expander_sae.pursuit import Encoder, parse_reading
from expander_sae.records import EvaluationRecord, ExpanderSaeError, FrontierRecord, TrainingRecord
from expander_sae.records.metrics import METRIC
from expander_sae.saes import ExpanderSae, load_sae
from expander_sae.training import StoreBatches, TrainConfig, train, with_own_encoder

from ..drawing import SPEED, by_speed
from ..families import FAMILY
from ..page import Figure, Page
from ..results import Summary, summarise
from .context import Context, Grid, name_of, written
from .experiment import Experiment, Measured
from .quality import diverged, mean_of, quality_table, records_from

_METRICS = ("fvu", "delta_ce")
_WAYS = {way: FAMILY[way].words for way in ("taught", "end to end")}
_FAMILIES = ("expander", "oneshot", "matched", *_WAYS)


def measure(context: Context) -> Measured:
    """For each budget of entries a column: a dictionary of all of them, and one of half with an encoder of half."""
    settings, budgets = context.settings, sorted(set(context.option("budgets")))
    readings = {way: [str(one) for one in context.option(way)] for way in ("dictionary_readings", "encoder_readings")}
    for reading in [reading for given in readings.values() for reading in given]:
        parse_reading(reading).check(settings.k, settings.n_for(context.store.d_in))  # before training, not after
    reading = settings.sae_options().reading
    if settings.paper or not reading.least_squares:
        raise ExpanderSaeError(
            "expected the default preset and --stages above 0, since the encoders learn from pursuit; got "
            f"{settings.preset} and {reading}"
        )
    if not budgets or any(budget < 2 or budget % 2 or budget > context.store.d_in for budget in budgets):
        raise ExpanderSaeError(f"expected budgets as even numbers of 2 to d_in = {context.store.d_in}; got {budgets}")
    degrees = sorted({degree for budget in budgets for degree in (budget, budget // 2)})
    grid = context.grid(degrees=degrees, controls=context.option("controls"), readings=readings["dictionary_readings"])
    found: list[dict[str, Any]] = []
    for record in grid.frontier.records:
        halves = record.family == "expander" and record.matched_degree in {budget // 2 for budget in budgets}
        if halves and record.evaluation is not None:
            found += [one.to_dict() for one in _with_encoders(context, grid, record, readings["encoder_readings"])]
    kept = grid.frontier.to_dict()
    return {"records": kept["records"], "readings": kept["readings"], "encoders": found, "budgets": budgets}


def _with_encoders(
    context: Context, grid: Grid, record: FrontierRecord, readings: Sequence[str]
) -> list[FrontierRecord]:
    """Every way of making an encoder for one trained dictionary, read in every way."""
    source = grid.folder / record.folder
    config = replace(
        context.settings.training(),
        seed=record.seed,
        learning_rate=context.option("learning_rate"),
        revive=None,
        amortise=True,
    )
    configs = {"taught": config, "end to end": replace(config, amortise=False, fine_tune=True, reading=Encoder())}
    teacher = load_sae(source)
    assert isinstance(teacher, ExpanderSae)
    start, found = with_own_encoder(teacher), []
    for way, settings in configs.items():
        name = f"{name_of(record)}-{way.replace(' ', '-')}"
        folder = context.folder / "saes" / name
        context.say(f"{_WAYS[way]}: {name}")
        depends = {"sae": written(source), "training": settings.to_dict()}
        make = partial(_train, context, start, settings, folder)
        trained = TrainingRecord.from_dict(context.piece(f"training-{name}", depends, make))
        made: dict[str, Any] = {}
        if not trained.diverged:
            again = load_sae(folder / "sae").to(context.device)
            assert isinstance(again, ExpanderSae)
            start = again
            depends = {
                "sae": written(folder / "sae"), "readings": list(readings),
                "evaluation": vars(context.settings.evaluation()), "language_model": context.has_language_model,
            }  # fmt: skip
            made = context.piece(f"evaluation-{name}", depends, partial(_evaluate, context, start, readings))
        assert record.matched_degree is not None
        found += [
            FrontierRecord(
                variant=f"{record.variant} + encoder, {way}",
                family=way,
                seed=record.seed,
                matched_degree=2 * record.matched_degree,
                folder=str(Path("saes") / name),
                training=trained,
                evaluation=EvaluationRecord.from_dict(made[reading]) if made else None,
                reading=reading,
            )
            for reading in readings
        ]
        if trained.diverged:
            break
    return found


def _train(context: Context, sae: ExpanderSae, config: TrainConfig, folder: Path) -> dict[str, Any]:
    stream = StoreBatches(context.store, config)
    saes = {"sae": sae.to(context.device)}
    return train(saes, stream, config, folder=folder, progress=context.progress)["sae"].to_dict()


def _evaluate(context: Context, sae: ExpanderSae, readings: Sequence[str]) -> dict[str, Any]:
    found = evaluate(
        {reading: sae.read_by(parse_reading(reading)) for reading in readings},
        context.store,
        language_model=context.language_model(),
        progress=context.progress,
        **vars(context.settings.evaluation()),
    )
    return {reading: record.to_dict() for reading, record in found.items()}


def show(measured: Measured) -> Page:
    """Fidelity against speed, one figure for each budget."""
    summaries = _summaries(measured)
    figures: list[Figure | None] = []
    for budget in measured["budgets"]:
        mine = [s for s in summaries if s.matched_degree == budget and s.metrics["fvu"].mean <= 1]
        for metric in _METRICS:
            caption = (
                f"{METRIC[metric].heading} against the speed of reading codes with {budget} learned entries a latent: "
                "all in the dictionary, or half of them in an encoder; readings that leave more than the mean does are "
                "in the table only"
            )
            figures.append(by_speed(f"{metric}_by_speed_budget{budget}", caption, metric, mine))
    return Page(
        claim=_claim(summaries, measured["budgets"]),
        tables=[quality_table("Every way to spend a budget, read in every way", summaries, inference=True)],
        figures=figures,
        notes=[
            *(f"{way.capitalize()}: {meaning}." for way, meaning in _WAYS.items()),
            "One-shot: a dictionary of the whole budget on a fixed mask, trained with its tied one-pass encoder.",
            "An encoder has a bias for each latent besides, which the budget does not count. An encoder that only "
            "scales each latent's column and adds a bias is one of those on the dictionary's rows, so it can do no "
            "better than the best of them.",
            *diverged({"records": [*measured["records"], *measured["encoders"]]}),
        ],
    )


def _summaries(measured: Mapping[str, Any]) -> list[Summary]:
    """Those of every budget: the dictionaries that have all of it, and those that share it."""
    records = records_from([*measured["records"], *measured["readings"], *measured["encoders"]])
    budgets = measured["budgets"]
    mine = [s for s in summarise(records) if s.matched_degree in budgets and s.family in _FAMILIES and s.metrics]
    return sorted(mine, key=lambda s: (s.matched_degree, _FAMILIES.index(s.family)))


def _claim(summaries: Sequence[Summary], budgets: Sequence[int]) -> str:
    parts = []
    for budget in budgets:
        mine = [s for s in summaries if s.matched_degree == budget]
        shared = min((s for s in mine if s.family in _WAYS and s.inference == "encoder"), key=_fvu, default=None)
        alone = min((s for s in mine if s.family == "expander"), key=_fvu, default=None)
        if shared is not None and alone is not None:
            parts.append(f"of {budget} entries {_said(shared)}, the dictionary alone {_said(alone)}")
    return (
        f"One pass of an encoder leaves, in fvu, {'; '.join(parts)}." if parts else "No encoder was read in one pass."
    )


def _said(summary: Summary) -> str:
    speed = mean_of(summary, SPEED) or 0.0
    return f"{_fvu(summary):.3f} ({summary.variant} by {summary.inference}, {speed:,.0f} tokens/s)"


def _fvu(summary: Summary) -> float:
    return summary.metrics["fvu"].mean


EXPERIMENT = Experiment(
    name="encoders",
    question="Is a budget of learned values better spent on the dictionary alone, or shared with an encoder?",
    measure=measure,
    show=show,
    options={
        "budgets": [8, 16, 32],
        "controls": ["oneshot"],
        "learning_rate": 3e-3,
        "dictionary_readings": ["refit", "stages:2", "stages:4", "stages:2+32", "stages:4+16"],
        "encoder_readings": ["encoder", "refit", "warm:8", "stages:8+8"],
    },
)
