"""Training passes of a frontier: the SAEs of one seed that are not there yet, on the same batches."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expander_sae.activations import ActivationStore
from expander_sae.records import TrainingRecord, write_atomically
from expander_sae.saes import AbstractSae
from expander_sae.training import StoreBatches, TrainConfig, heldout_sample, train
from expander_sae.training.checkpointing import fingerprint
from expander_sae.training.run import METRICS

from .closed_form import principal_saes, pruned_sae
from .first_tokens import FirstTokens
from .pieces import Pieces
from .variants import Variant


@dataclass(frozen=True)
class Passes:
    """What `run_frontier` trains, and with what."""

    store: ActivationStore
    folder: Path
    variants: Sequence[Variant]
    config: TrainConfig
    pieces: Pieces
    shared: dict[str, Any]
    """How SAEs are built."""
    keep_special_tokens: bool
    train_tokens: int | None
    device: str
    progress: bool
    say: Callable[[str], None]

    def train_missing(self) -> None:
        """Every SAE that is not there, seed by seed; another process that shares the folder is waited for."""
        for seed in dict.fromkeys(variant.seed for variant in self.variants):
            if not self._missing(seed):
                self.say(f"seed {seed}: all SAEs are already trained")
                continue
            with self.pieces.alone(seed, self.say):
                missing = self._missing(seed)
                many = sum(variant.seed == seed for variant in self.variants)
                if len(missing) < many:
                    self.say(f"seed {seed}: {many - len(missing)} of {many} SAEs are already trained")
                # In this order: what is pruned comes out of a dense SAE of the first pass.
                for way in ("", "fixed", "pruned", "closed"):
                    now = [variant for variant in missing if variant.training == way]
                    if now:
                        self._train(way, now, replace(self.config, seed=seed))

    def _missing(self, seed: int) -> list[Variant]:
        return [
            variant
            for variant in self.variants
            if variant.seed == seed and not self.pieces.is_trained(variant, self.folder / variant.sae_path)
        ]

    def _train(self, way: str, now: Sequence[Variant], config: TrainConfig) -> None:
        if way == "closed":
            done = principal_saes(
                now, self.store, config, (self.folder / now[0].sae_path).parent,
                keep_special_tokens=self.keep_special_tokens, train_tokens=self.train_tokens,
            )  # fmt: skip
        elif way == "pruned" and (dead_end := self._diverged_dense(now[0])) is not None:
            # Nothing to prune: the runs are as lost as the one they start from.
            done = {v.name: replace(dead_end, name=v.name) for v in now}
        else:
            self._pass(way, now, config)
            return
        for variant in now:
            self.pieces.add_training(variant, done[variant.name])

    def _pass(self, way: str, now: Sequence[Variant], config: TrainConfig) -> None:
        """Train in a room of its own, named after who is trained, and move the SAEs out of it: a pass of others that
        was interrupted leaves its checkpoint in another."""
        settings = _settings_of_pass(way, config)
        names = sorted(variant.name for variant in now)
        room = (self.folder / now[0].sae_path).parent / f"pass-{fingerprint({'saes': names})[:12]}"
        saes = {name: sae.to(self.device) for name, sae in self._start(way, now).items()}
        heldout = heldout_sample(self.store, settings, keep_special_tokens=self.keep_special_tokens)
        done = train(
            saes, self._batches(settings), settings, folder=room, progress=self.progress, heldout=heldout
        )  # fmt: skip
        _keep_logs(room / METRICS, names)
        for variant in now:
            place = self.folder / variant.sae_path
            shutil.rmtree(place, ignore_errors=True)
            (room / variant.name).replace(place)
            self.pieces.add_training(variant, done[variant.name])
        shutil.rmtree(room)

    def _diverged_dense(self, pruned: Variant) -> TrainingRecord | None:
        """The training of the full dense SAE of the same seed, if it diverged."""
        for variant in self.variants:
            if variant.family == "dense" and variant.seed == pruned.seed and self.pieces.training(variant).diverged:
                return self.pieces.training(variant)
        return None

    def _start(self, way: str, now: Sequence[Variant]) -> dict[str, AbstractSae]:
        d_in = self.store.d_in
        if way != "pruned":
            return {variant.name: variant.build(d_in, **self.shared) for variant in now}
        dense = [replace(v, name="dense", family="dense", degree=None, matched_degree=None) for v in now]
        reading = self.shared["reading"]
        return {v.name: pruned_sae(v, self.folder / d.sae_path, reading) for v, d in zip(now, dense, strict=True)}

    def _batches(self, config: TrainConfig) -> StoreBatches | FirstTokens:
        kept = self.keep_special_tokens
        if self.train_tokens is None:
            return StoreBatches(self.store, config, keep_special_tokens=kept)
        return FirstTokens(self.store, config, self.train_tokens, keep_special_tokens=kept)


def _settings_of_pass(way: str, config: TrainConfig) -> TrainConfig:
    if way == "":
        return config
    # A support that is the question must not be moved by the training.
    return replace(config, move_supports=None, fine_tune=way == "pruned")


def _keep_logs(log: Path, names: Sequence[str]) -> None:
    """Each SAE's lines of a pass's log, beside the SAE: the log of the pass goes with its room."""
    lines: dict[str, list[str]] = {name: [] for name in names}
    for line in log.read_text(encoding="utf-8").splitlines():
        lines[json.loads(line)["name"]].append(line + "\n")
    for name, of_it in lines.items():
        with write_atomically(log.parent / name / METRICS) as temporary:
            temporary.write_text("".join(of_it), encoding="utf-8")
