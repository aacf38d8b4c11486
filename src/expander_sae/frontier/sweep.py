"""Train every SAE of a frontier on the same batches, evaluate all on the same held-out tokens, write it down."""

from __future__ import annotations

from dataclasses import asdict, replace

from expander_sae.activations import LanguageModel
from expander_sae.evaluation import evaluate
from expander_sae.pursuit import parse_reading
from expander_sae.records import FrontierRecord
from expander_sae.records.versions import versions
from expander_sae.saes import load_sae

from .passes import Passes
from .pieces import Pieces
from .results import Frontier, settings_of, with_retention
from .settings import Sweep
from .variants import Variant


def run_frontier(sweep: Sweep) -> Frontier:
    """Train, save and evaluate the variants of a sweep, and write `frontier.json`; a rerun skips what is finished.

    All SAEs of one seed are trained in one pass, so that they see the same batches in the same order; the seed sets
    the initial values, the mask and the order. The SAEs evaluated are those read back from disk. Several processes may
    share a folder: each trains what no other has, one at a time for each seed.

    Raises:
        ExpanderSaeError: a folder with pieces of other settings, or what training and evaluation raise.
    """
    pieces, variants = Pieces(sweep), sweep.variants
    Passes(sweep, pieces).train_missing()
    _evaluate_missing(sweep, pieces)
    records = [_record(pieces, variant, None) for variant in variants]
    read = [_record(pieces, v, reading) for reading in sweep.readings for v in variants if v.can_be_read_by(reading)]
    frontier = Frontier(
        settings={
            "d_in": sweep.store.d_in,
            "k": variants[0].k,
            "n_latents": max(variant.n_latents for variant in variants),
            "seeds": sorted({variant.seed for variant in variants}),
            "degrees": sorted({v.degree for v in variants if v.family == "expander" and v.degree is not None}),
            **sweep.saes.to_dict(),
            "training": sweep.training.to_dict(),
            "evaluation": asdict(sweep.evaluation),
            "activations": settings_of(sweep.store.manifest),
            "train_tokens": sweep.train_tokens,
            "command": sweep.command,
        },
        versions=versions(),
        notes=list(sweep.notes),
        records=with_retention(records),
        readings=with_retention([*records, *read])[len(records) :],
    )
    frontier.save(sweep.folder)
    return frontier


def _record(pieces: Pieces, variant: Variant, reading: str | None) -> FrontierRecord:
    return FrontierRecord(
        variant=variant.name,
        family=variant.family,
        seed=variant.seed,
        matched_degree=variant.matched_degree,
        folder=variant.sae_path,
        training=pieces.training(variant),
        evaluation=pieces.evaluation(variant, reading),
        reading=reading,
    )


def _evaluate_missing(sweep: Sweep, pieces: Pieces) -> None:
    alive = [variant for variant in sweep.variants if not pieces.training(variant).diverged]
    readings, with_text = (None, *sweep.readings), sweep.language_model is not None
    wanted = [(v, reading) for v in alive for reading in readings if reading is None or v.can_be_read_by(reading)]
    missing = [pair for pair in wanted if not pieces.is_evaluated(*pair, with_text)]
    if len(missing) < len(wanted):
        sweep.say(f"{len(wanted) - len(missing)} of {len(wanted)} evaluations are already done")
    if not missing:
        return
    model = sweep.language_model
    if model is not None and not isinstance(model, LanguageModel):
        model = model()
    # Seed by seed: the runs that all SAEs share are made once for each, and an interruption loses one seed at most.
    for seed in dict.fromkeys(variant.seed for variant, _ in missing):
        now = [pair for pair in missing if pair[0].seed == seed]
        loaded = {variant.folder: load_sae(sweep.folder / variant.sae_path).to(sweep.device) for variant, _ in now}
        saes = {
            _name(variant, reading): loaded[variant.folder].read_by(None if reading is None else parse_reading(reading))
            for variant, reading in now
        }
        found = evaluate(
            saes, sweep.store, language_model=model, progress=sweep.progress, **asdict(sweep.evaluation)
        )  # fmt: skip
        for variant, reading in now:
            record = replace(found[_name(variant, reading)], name=variant.name)
            pieces.add_evaluation(variant, reading, record, with_text)


def _name(variant: Variant, reading: str | None) -> str:
    return variant.folder if reading is None else f"{variant.folder} {reading}"
