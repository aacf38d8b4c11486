"""What earlier runs of a frontier finished, and whether it still fits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from expander_sae.activations import ActivationStore
from expander_sae.records import EvaluationRecord, ExpanderSaeError, TrainingRecord, read_json, write_json
from expander_sae.records.locks import locked
from expander_sae.records.sealed import seal, unseal
from expander_sae.training import TrainConfig
from expander_sae.training.recorded import WATCHED

from .families import FAMILY
from .settings import Sweep
from .variants import Variant

PIECES = "pieces"
OWN = "own"
"""The key of an SAE's evaluation by its own inference."""
_NOT_LEARNED = ("seed", *WATCHED)
"""Settings of training that leave what is learned as it is, or are the variant's own."""


class Pieces:
    """What earlier runs finished: one JSON file for each SAE, with a mark of everything its numbers depend on.

    Several processes may share a folder: one at a time trains the SAEs of a seed, and notes are added, not replaced.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.folder = sweep.folder / PIECES
        # Whether special tokens are kept is one setting for training and evaluation.
        kept = sweep.evaluation.keep_special_tokens
        # How often a pass writes its log and its checkpoint, or is measured, does not change what it learns.
        learned = {name: v for name, v in sweep.training.to_dict().items() if name not in _NOT_LEARNED}
        self._train_mark = {
            "config": learned,
            **sweep.saes.to_dict(),
            "keep_special_tokens": kept,
            "activations": _identity(sweep.store),
        }
        if sweep.train_tokens is not None:  # left out otherwise, so that folders of earlier versions still fit
            self._train_mark["train_tokens"] = sweep.train_tokens
        self._evaluate_mark = asdict(sweep.evaluation)
        self._known: dict[str, dict[str, Any]] = {}

    def _piece(self, variant: Variant) -> dict[str, Any]:
        if variant.folder not in self._known:
            self._known[variant.folder] = self._read(variant)
        return self._known[variant.folder]

    def _read(self, variant: Variant) -> dict[str, Any]:
        path = self.folder / f"{variant.folder}.json"
        piece = _unsealed(read_json(path), path) if path.is_file() else {}
        mark, made = self._mark(variant), _concerning(variant, _with_defaults(piece.get("made_by")))
        if piece and made != mark:
            raise ExpanderSaeError(
                f"{path} belongs to a frontier with other settings or activations: {_difference(made, mark)}. "
                "Choose another output folder, or delete this one to start anew."
            )
        return piece

    @contextmanager
    def alone(self, seed: int, say: Callable[[str], None]) -> Iterator[None]:
        """Within it no other process trains SAEs of this seed here, and what others trained before is known."""
        self.folder.mkdir(parents=True, exist_ok=True)
        waiting = f"seed {seed}: waiting for another process that trains SAEs in {self.folder.parent}"
        with locked(self.folder / f"seed{seed}.lock", lambda: say(waiting)):
            self._known.clear()
            yield

    def _mark(self, variant: Variant) -> dict[str, Any]:
        # Through JSON, so that it compares equal to what was read back.
        return _concerning(variant, json.loads(json.dumps({"variant": variant.to_dict(), **self._train_mark})))

    def is_trained(self, variant: Variant, sae_folder: Path) -> bool:
        """Whether its training is finished and, unless it diverged, the SAE is there."""
        if "training" not in self._piece(variant):
            return False
        return self.training(variant).diverged or (sae_folder / "config.json").is_file()

    def is_evaluated(self, variant: Variant, reading: str | None, with_text: bool) -> bool:
        """Whether it was evaluated by this reading with the settings of this run."""
        found = self._evaluated(variant, reading)
        return found is not None and (bool(found["with_language_model"]) or not with_text)

    def _evaluated(self, variant: Variant, reading: str | None) -> dict[str, Any] | None:
        of_all = self._piece(variant).get("evaluations", {})
        # The second key is that of earlier versions, which kept the evaluation by one settings only.
        for key in (self._key(reading), reading or OWN):
            if key in of_all and of_all[key]["evaluated_by"] == self._evaluate_mark:
                return of_all[key]
        return None

    def _key(self, reading: str | None) -> str:
        settings = json.dumps(self._evaluate_mark, sort_keys=True)
        return f"{reading or OWN} {hashlib.sha256(settings.encode()).hexdigest()[:12]}"

    def training(self, variant: Variant) -> TrainingRecord:
        """The training record of a finished piece."""
        return TrainingRecord.from_dict(self._piece(variant)["training"])

    def evaluation(self, variant: Variant, reading: str | None) -> EvaluationRecord | None:
        """The evaluation record of a finished piece; None where training diverged."""
        found = self._evaluated(variant, reading)
        return None if found is None else EvaluationRecord.from_dict(found["record"])

    def add_training(self, variant: Variant, record: TrainingRecord) -> None:
        """Note a finished training; an evaluation of an earlier one is forgotten."""
        self._write(variant, {"made_by": self._mark(variant), "training": record.to_dict()})

    def add_evaluation(self, variant: Variant, reading: str | None, record: EvaluationRecord, with_text: bool) -> None:
        """Note a finished evaluation."""
        made = {
            "evaluated_by": self._evaluate_mark,
            "with_language_model": with_text,
            "record": record.to_dict(),
        }
        with locked(self.folder / "evaluations.lock"):
            piece = self._read(variant)
            self._write(variant, {**piece, "evaluations": {**piece.get("evaluations", {}), self._key(reading): made}})

    def _write(self, variant: Variant, piece: dict[str, Any]) -> None:
        # Each evaluation has a checksum of its own: they are added one by one.
        evaluations = {name: seal(found) for name, found in piece.get("evaluations", {}).items()}
        sealed = seal({name: value for name, value in piece.items() if name != "evaluations"})
        write_json(
            self.folder / f"{variant.folder}.json", sealed | ({"evaluations": evaluations} if evaluations else {})
        )
        self._known[variant.folder] = piece


def _unsealed(piece: Any, path: Path) -> dict[str, Any]:
    """A piece as it was before it was written; those of earlier releases have no checksums."""
    evaluations = piece.pop("evaluations", {}) if isinstance(piece, dict) else {}
    found = unseal(piece, path)
    if not isinstance(evaluations, dict):
        raise ExpanderSaeError(f"{path} is damaged: its evaluations are no object. Delete it: it is made anew.")
    evaluations = {name: unseal(one, path) for name, one in evaluations.items()}
    return found | ({"evaluations": evaluations} if evaluations else {})


def _identity(store: ActivationStore) -> str:
    """A hash of the harvest: its settings and the checksums of its shards."""
    parts = {"settings": store.manifest["settings"], "shards": [e["sha256"] for e in store.manifest["shards"]]}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _with_defaults(mark: Any) -> Any:
    """A mark with the settings that did not exist when it was made: they were at their defaults."""
    if not isinstance(mark, dict) or not isinstance(mark.get("config"), dict):
        return mark
    known = {name: v for name, v in TrainConfig().to_dict().items() if name not in _NOT_LEARNED}
    return {"spare": 0, "dense_draw": False, **mark, "config": {**known, **mark["config"]}}


def _concerning(variant: Variant, mark: Any) -> Any:
    """A mark without what makes no difference to this SAE: settings of moves that it does not make, too many stages,
    spare columns of none."""
    if not isinstance(mark, dict) or not isinstance(mark.get("config"), dict):
        return mark
    # No more stages than k do anything, and none in a closed form; earlier versions wrote down what was asked for.
    most = 0 if variant.training == "closed" else variant.k
    stages = min(mark.get("stages", 0), most)
    mark = mark | {"stages": stages} | ({} if stages else {"spare": 0})
    config = mark["config"]
    if not FAMILY[variant.family].moves:
        kept = ()
    elif config["rewire_every"]:
        return mark
    else:
        kept = ("rewire_every",)  # that there are no moves matters
    config = {name: v for name, v in config.items() if name in kept or not name.startswith("rewire_")}
    return mark | {"config": config}


def _difference(made: Any, mark: dict[str, Any]) -> str:
    """The first setting that differs, in words."""
    before = _flat(made) if isinstance(made, dict) else {}
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
