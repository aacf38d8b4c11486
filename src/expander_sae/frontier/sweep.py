"""Train every SAE of a frontier on the same batches, evaluate all on the same held-out tokens, write it down."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.evaluation import evaluate
from expander_sae.records import (
    EvaluationRecord,
    ExpanderSaeError,
    FrontierRecord,
    TrainingRecord,
    read_json,
    write_json,
)
from expander_sae.saes import Inference, load_sae
from expander_sae.training import StoreBatches, TrainConfig, train

from .first_tokens import FirstTokens
from .results import Frontier, settings_of, versions, with_retention
from .variants import Variant

PIECES = "pieces"
OWN = "own"
"""The key of an SAE's evaluation by its own inference."""


@dataclass(frozen=True)
class EvaluationSettings:
    """How a frontier is evaluated; see `expander_sae.evaluation.evaluate`."""

    max_tokens: int | None = None
    ce_tokens: int | None = 16_384
    splice: str = "ordinary"
    keep_special_tokens: bool = False
    outlier_medians: float | None = 5.0
    batch_size: int = 2048


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
    stages: int = 0,
    readings: Sequence[str] = (),
    train_tokens: int | None = None,
    command: str | None = None,
    notes: Sequence[str] = (),
    progress: bool = True,
    say: Callable[[str], None] = lambda _text: None,
) -> Frontier:
    """Train, save and evaluate `variants`, and write `frontier.json`; a rerun skips what is finished.

    All SAEs of one seed are trained in one pass, so that they see the same batches in the same order; the seed sets
    the initial values, the mask and the order. The SAEs evaluated are those read back from disk.

    Args:
        store: harvested activations; trained on "train", evaluated on "heldout".
        folder: gets `seed*/NAME/` with each SAE, `pieces/` with what is finished, and `frontier.json`.
        variants: what `plan` gave.
        train_config: settings of every pass; its seed is replaced by the variant's.
        language_model: for the cross-entropy part, or a function that loads it, called only if it is needed; None
            leaves that part out.
        evaluation: settings of the evaluation.
        signed: build every SAE with signed TopK.
        latent_bias: build every SAE with a latent bias.
        construction: how the masks of the Expander SAEs are made.
        stages: stages of block OMP that find the codes of the Expander SAEs; 0: one-shot TopK.
        readings: other inferences (`expander_sae.saes.INFERENCES`) to read every SAE by as well; one that does not fit
            an SAE (more stages than k, say) is an error.
        train_tokens: train on the first so many stored tokens only; None: on all of them.
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
    shared = {"signed": signed, "latent_bias": latent_bias, "construction": construction, "stages": stages}
    pieces = _Pieces(folder / PIECES, store, train_config, shared, evaluation, train_tokens)
    for reading in readings:
        Inference.parse(reading, variants[0].k)  # before hours of training, not after
    _train_missing(store, folder, variants, train_config, pieces, shared, evaluation, train_tokens, progress, say)
    _evaluate_missing(store, folder, variants, (None, *readings), language_model, pieces, evaluation, progress, say)
    records = [_record(pieces, variant, None) for variant in variants]
    read = [_record(pieces, variant, reading) for reading in readings for variant in variants]
    frontier = Frontier(
        settings={
            "d_in": store.d_in,
            "k": variants[0].k,
            "n_latents": max(variant.n_latents for variant in variants),
            "seeds": sorted({variant.seed for variant in variants}),
            "degrees": sorted({v.degree for v in variants if v.family == "expander" and v.degree is not None}),
            **shared,
            "training": asdict(train_config),
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


def _record(pieces: _Pieces, variant: Variant, reading: str | None) -> FrontierRecord:
    return FrontierRecord(
        variant=variant.name,
        family=variant.family,
        seed=variant.seed,
        matched_degree=variant.matched_degree,
        folder=_sae_path(variant),
        training=pieces.training(variant),
        evaluation=pieces.evaluation(variant, reading),
        reading=reading,
    )


def _sae_path(variant: Variant) -> str:
    return f"seed{variant.seed}/{variant.name}"


def _train_missing(
    store: ActivationStore,
    folder: Path,
    variants: Sequence[Variant],
    config: TrainConfig,
    pieces: _Pieces,
    shared: dict[str, Any],
    evaluation: EvaluationSettings,
    train_tokens: int | None,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    for seed in dict.fromkeys(variant.seed for variant in variants):
        of_seed = [variant for variant in variants if variant.seed == seed]
        missing = [variant for variant in of_seed if not pieces.is_trained(variant, folder / _sae_path(variant))]
        if len(missing) < len(of_seed):
            say(f"seed {seed}: {len(of_seed) - len(missing)} of {len(of_seed)} SAEs are already trained")
        if not missing:
            continue
        saes = {variant.name: variant.build(store.d_in, **shared) for variant in missing}
        of_this_seed = replace(config, seed=seed)
        batches = _batches(store, of_this_seed, evaluation.keep_special_tokens, train_tokens)
        done = train(saes, batches, of_this_seed, folder=folder / f"seed{seed}", progress=progress)
        for variant in missing:
            pieces.add_training(variant, done[variant.name])


def _batches(
    store: ActivationStore, config: TrainConfig, keep_special_tokens: bool, train_tokens: int | None
) -> StoreBatches | FirstTokens:
    if train_tokens is None:
        return StoreBatches(store, config, keep_special_tokens=keep_special_tokens)
    return FirstTokens(store, config, train_tokens, keep_special_tokens=keep_special_tokens)


def _evaluate_missing(
    store: ActivationStore,
    folder: Path,
    variants: Sequence[Variant],
    readings: Sequence[str | None],
    language_model: LanguageModel | Callable[[], LanguageModel] | None,
    pieces: _Pieces,
    evaluation: EvaluationSettings,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    alive = [variant for variant in variants if not pieces.training(variant).diverged]
    with_text = language_model is not None
    wanted = [(variant, reading) for variant in alive for reading in readings]
    missing = [pair for pair in wanted if not pieces.is_evaluated(*pair, with_text)]
    if len(missing) < len(wanted):
        say(f"{len(wanted) - len(missing)} of {len(wanted)} evaluations are already done")
    if not missing:
        return
    loaded = {variant.folder: load_sae(folder / _sae_path(variant)) for variant, _ in missing}
    saes = {_name(*pair): loaded[pair[0].folder].read_by(pair[1]) for pair in missing}
    model = language_model
    if model is not None and not isinstance(model, LanguageModel):
        model = model()
    found = evaluate(saes, store, language_model=model, progress=progress, **asdict(evaluation))
    for variant, reading in missing:
        record = replace(found[_name(variant, reading)], name=variant.name)
        pieces.add_evaluation(variant, reading, record, with_text)


def _name(variant: Variant, reading: str | None) -> str:
    return variant.folder if reading is None else f"{variant.folder} {reading}"


class _Pieces:
    """What earlier runs finished: one JSON file for each SAE, with a mark of everything its numbers depend on."""

    def __init__(
        self,
        folder: Path,
        store: ActivationStore,
        config: TrainConfig,
        shared: dict[str, Any],
        evaluation: EvaluationSettings,
        train_tokens: int | None,
    ) -> None:
        self.folder = folder
        # Whether special tokens are kept is one setting for training and evaluation.
        kept = evaluation.keep_special_tokens
        # How often a pass writes its log and its checkpoint does not change what it learns.
        learned = {
            name: v for name, v in asdict(config).items() if name not in ("seed", "log_every", "checkpoint_every")
        }
        self._train_mark = {"config": learned, **shared, "keep_special_tokens": kept, "activations": _identity(store)}
        if train_tokens is not None:  # left out otherwise, so that folders of earlier versions still fit
            self._train_mark["train_tokens"] = train_tokens
        self._evaluate_mark = asdict(evaluation)
        self._known: dict[str, dict[str, Any]] = {}

    def _piece(self, variant: Variant) -> dict[str, Any]:
        if variant.folder not in self._known:
            path = self.folder / f"{variant.folder}.json"
            piece = read_json(path) if path.is_file() else {}
            mark = self._mark(variant)
            if piece and piece.get("made_by") != mark:
                raise ExpanderSaeError(
                    f"{path} belongs to a frontier with other settings or activations: {_difference(piece, mark)}. "
                    "Choose another output folder, or delete this one to start anew."
                )
            self._known[variant.folder] = piece
        return self._known[variant.folder]

    def _mark(self, variant: Variant) -> dict[str, Any]:
        # Through JSON, so that it compares equal to what was read back.
        return json.loads(json.dumps({"variant": variant.to_dict(), **self._train_mark}))

    def is_trained(self, variant: Variant, sae_folder: Path) -> bool:
        """Whether its training is finished and, unless it diverged, the SAE is there."""
        if "training" not in self._piece(variant):
            return False
        return self.training(variant).diverged or (sae_folder / "config.json").is_file()

    def is_evaluated(self, variant: Variant, reading: str | None, with_text: bool) -> bool:
        """Whether it was evaluated by this reading with the settings of this run."""
        found = self._piece(variant).get("evaluations", {}).get(reading or OWN)
        if found is None or found["evaluated_by"] != self._evaluate_mark:
            return False
        return bool(found["with_language_model"]) or not with_text

    def training(self, variant: Variant) -> TrainingRecord:
        """The training record of a finished piece."""
        return TrainingRecord.from_dict(self._piece(variant)["training"])

    def evaluation(self, variant: Variant, reading: str | None) -> EvaluationRecord | None:
        """The evaluation record of a finished piece; None where training diverged."""
        found = self._piece(variant).get("evaluations", {}).get(reading or OWN)
        return None if found is None else EvaluationRecord.from_dict(found["record"])

    def add_training(self, variant: Variant, record: TrainingRecord) -> None:
        """Note a finished training; an evaluation of an earlier one is forgotten."""
        self._write(variant, {"made_by": self._mark(variant), "training": record.to_dict()})

    def add_evaluation(self, variant: Variant, reading: str | None, record: EvaluationRecord, with_text: bool) -> None:
        """Note a finished evaluation."""
        piece = self._piece(variant)
        made = {
            "evaluated_by": self._evaluate_mark,
            "with_language_model": with_text,
            "record": record.to_dict(),
        }
        self._write(variant, {**piece, "evaluations": {**piece.get("evaluations", {}), reading or OWN: made}})

    def _write(self, variant: Variant, piece: dict[str, Any]) -> None:
        write_json(self.folder / f"{variant.folder}.json", piece)
        self._known[variant.folder] = piece


def _identity(store: ActivationStore) -> str:
    """A hash of the harvest: its settings and the checksums of its shards."""
    parts = {"settings": store.manifest["settings"], "shards": [e["sha256"] for e in store.manifest["shards"]]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _difference(piece: dict[str, Any], mark: dict[str, Any]) -> str:
    """The first setting that differs, in words."""
    before = _flat(piece.get("made_by", {}))
    after = _flat(mark)
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            return f"{name} was {before.get(name)}, now {after.get(name)}"
    return "it is damaged"


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
