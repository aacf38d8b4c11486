"""Train every SAE of a frontier on the same batches, evaluate all on the same held-out tokens, write it down."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.evaluation import evaluate
from expander_sae.pursuit import Reading, as_numbers, parse_reading
from expander_sae.records import ExpanderSaeError, FrontierRecord
from expander_sae.saes import load_sae
from expander_sae.training import TrainConfig

from .passes import Passes
from .pieces import PIECES, EvaluationSettings, Pieces
from .results import Frontier, settings_of, versions, with_retention
from .variants import ONE_SHOT, Variant


def run_frontier(
    store: ActivationStore,
    folder: str | os.PathLike[str],
    variants: Sequence[Variant],
    train_config: TrainConfig,
    language_model: LanguageModel | Callable[[], LanguageModel] | None = None,
    *,
    evaluation: EvaluationSettings | None = None,
    signed: bool = False,
    latent_bias: bool = False,
    construction: str = "balanced",
    dense_draw: bool = False,
    reading: Reading = ONE_SHOT,
    readings: Sequence[str] = (),
    train_tokens: int | None = None,
    device: str = "cpu",
    command: str | None = None,
    notes: Sequence[str] = (),
    progress: bool = True,
    say: Callable[[str], None] = lambda _text: None,
) -> Frontier:
    """Train, save and evaluate `variants`, and write `frontier.json`; a rerun skips what is finished.

    All SAEs of one seed are trained in one pass, so that they see the same batches in the same order; the seed sets
    the initial values, the mask and the order. The SAEs evaluated are those read back from disk. Several processes may
    share a folder: each trains what no other has, one at a time for each seed.

    Args:
        store: harvested activations; trained on "train", evaluated on "heldout".
        folder: gets `seed*/NAME/` with each SAE (`seed*-fixed/NAME/` and so on, see `Variant.training`), `pieces/` with
            what is finished, and `frontier.json`.
        variants: what `plan` gave.
        train_config: settings of every pass; its seed is replaced by the variant's.
        language_model: for the cross-entropy part, or a function that loads it, called only if it is needed; None
            leaves that part out.
        evaluation: settings of the evaluation.
        signed: build every SAE with signed TopK.
        latent_bias: build every SAE with a latent bias.
        construction: how the masks of the Expander SAEs are made.
        dense_draw: start them at the values of the dense SAE of their seed, on their mask.
        reading: what finds the codes of the Expander SAEs, as far as the sizes of each allow.
        readings: other inferences (`expander_sae.pursuit.READINGS`) to read every SAE by as well; one that is
            impossible for k (more stages, say) is an error; SAEs with too few columns for its spare ones are left out.
        train_tokens: train on the first so many stored tokens only; None: on all of them.
        device: where the SAEs are trained and evaluated; finished pieces are taken over from any.
        command: the command line behind this run, for the report.
        notes: said in the report as they are.
        progress: draw progress bars.
        say: told which pieces are taken over from an earlier run.

    Raises:
        ExpanderSaeError: no variants, a folder with pieces of other settings, or what training and evaluation raise.
    """
    if not variants:
        raise ExpanderSaeError("expected at least one SAE in the frontier, got none")
    if len({variant.folder for variant in variants}) != len(variants):
        raise ExpanderSaeError("expected every variant once for each seed, got one twice")
    evaluation = evaluation or EvaluationSettings()
    folder = Path(folder)
    built = {
        "signed": signed,
        "latent_bias": latent_bias,
        "construction": construction,
        "dense_draw": dense_draw,
    }
    recorded = {**built, **as_numbers(reading)}
    shared = {**built, "reading": reading}
    pieces = Pieces(folder / PIECES, store, train_config, recorded, evaluation, train_tokens)
    for other in readings:
        parse_reading(other).check(
            variants[0].k, max(v.n_latents for v in variants)
        )  # before hours of training, not after
    passes = Passes(
        store, folder, variants, train_config, pieces, shared, evaluation.keep_special_tokens, train_tokens, device,
        progress, say,
    )  # fmt: skip
    passes.train_missing()
    _evaluate_missing(
        store, folder, variants, (None, *readings), language_model, pieces, evaluation, device, progress, say
    )
    records = [_record(pieces, variant, None) for variant in variants]
    read = [_record(pieces, v, other) for other in readings for v in variants if v.can_be_read_by(other)]
    frontier = Frontier(
        settings={
            "d_in": store.d_in,
            "k": variants[0].k,
            "n_latents": max(variant.n_latents for variant in variants),
            "seeds": sorted({variant.seed for variant in variants}),
            "degrees": sorted({v.degree for v in variants if v.family == "expander" and v.degree is not None}),
            **recorded,
            "training": train_config.to_dict(),
            "evaluation": asdict(evaluation),
            "activations": settings_of(store.manifest),
            "train_tokens": train_tokens,
            "command": command,
        },
        versions=versions(),
        notes=list(notes),
        records=with_retention(records),
        readings=with_retention([*records, *read])[len(records) :],
    )
    frontier.save(folder)
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


def _evaluate_missing(
    store: ActivationStore,
    folder: Path,
    variants: Sequence[Variant],
    readings: Sequence[str | None],
    language_model: LanguageModel | Callable[[], LanguageModel] | None,
    pieces: Pieces,
    evaluation: EvaluationSettings,
    device: str,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    alive = [variant for variant in variants if not pieces.training(variant).diverged]
    with_text = language_model is not None
    wanted = [(v, reading) for v in alive for reading in readings if reading is None or v.can_be_read_by(reading)]
    missing = [pair for pair in wanted if not pieces.is_evaluated(*pair, with_text)]
    if len(missing) < len(wanted):
        say(f"{len(wanted) - len(missing)} of {len(wanted)} evaluations are already done")
    if not missing:
        return
    model = language_model
    if model is not None and not isinstance(model, LanguageModel):
        model = model()
    # Seed by seed: the runs that all SAEs share are made once for each, and an interruption loses one seed at most.
    for seed in dict.fromkeys(variant.seed for variant, _ in missing):
        now = [pair for pair in missing if pair[0].seed == seed]
        loaded = {variant.folder: load_sae(folder / variant.sae_path).to(device) for variant, _ in now}
        saes = {_name(*pair): loaded[pair[0].folder].read_by(_reading(pair[1])) for pair in now}
        found = evaluate(saes, store, language_model=model, progress=progress, **asdict(evaluation))
        for variant, reading in now:
            record = replace(found[_name(variant, reading)], name=variant.name)
            pieces.add_evaluation(variant, reading, record, with_text)


def _name(variant: Variant, reading: str | None) -> str:
    return variant.folder if reading is None else f"{variant.folder} {reading}"


def _reading(text: str | None) -> Reading | None:
    return None if text is None else parse_reading(text)
