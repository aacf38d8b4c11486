"""Training passes of a frontier: the SAEs of one seed that are not there yet, on the same batches."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from expander_sae.records import ExpanderSaeError, TrainingRecord, write_atomically
from expander_sae.saes import AbstractSae, DenseTopKSae, load_sae
from expander_sae.training import StoreBatches, TrainConfig, heldout_sample, train
from expander_sae.training.batches import FirstTokens
from expander_sae.training.checkpointing import fingerprint
from expander_sae.training.closed_form import principal_directions, pruned_sae
from expander_sae.training.run import METRICS

from .pieces import Pieces
from .settings import Sweep
from .variants import Variant


@dataclass(frozen=True)
class Passes:
    """What `run_frontier` trains."""

    sweep: Sweep
    pieces: Pieces

    def train_missing(self) -> None:
        """Every SAE that is not there, seed by seed; another process that shares the folder is waited for."""
        variants, say = self.sweep.variants, self.sweep.say
        for seed in dict.fromkeys(variant.seed for variant in variants):
            if not self._missing(seed):
                say(f"seed {seed}: all SAEs are already trained")
                continue
            with self.pieces.alone(seed, say):
                missing = self._missing(seed)
                many = sum(variant.seed == seed for variant in variants)
                if len(missing) < many:
                    say(f"seed {seed}: {many - len(missing)} of {many} SAEs are already trained")
                # In this order: what is pruned comes out of a dense SAE of the first pass.
                for way in ("", "fixed", "pruned", "closed"):
                    now = [variant for variant in missing if variant.training == way]
                    if now:
                        self._train(way, now, replace(self.sweep.training, seed=seed))

    def _folder(self, variant: Variant) -> Path:
        return self.sweep.folder / variant.sae_path

    def _missing(self, seed: int) -> list[Variant]:
        of_seed = [variant for variant in self.sweep.variants if variant.seed == seed]
        return [variant for variant in of_seed if not self.pieces.is_trained(variant, self._folder(variant))]

    def _train(self, way: str, now: Sequence[Variant], config: TrainConfig) -> None:
        if way == "closed":
            self._in_closed_form(now, config)
        elif way == "pruned" and (dead_end := self._diverged_dense(now[0])) is not None:
            # Nothing to prune: the runs are as lost as the one they start from.
            for variant in now:
                self.pieces.add_training(variant, replace(dead_end, name=variant.name))
        else:
            self._pass(way, now, config)

    def _in_closed_form(self, now: Sequence[Variant], config: TrainConfig) -> None:
        started, sweep = time.perf_counter(), self.sweep
        found = principal_directions(
            sweep.store, config, keep_special_tokens=sweep.evaluation.keep_special_tokens,
            train_tokens=sweep.train_tokens,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        for variant in now:
            found.sae(variant.n_latents, variant.k, variant.seed).save(self._folder(variant))
            left = found.beyond(variant.n_latents) if variant.k == variant.n_latents else float("nan")
            record = TrainingRecord(
                name=variant.name,
                steps=0,
                tokens=found.tokens,
                seconds=seconds,
                tokens_per_second=found.tokens / seconds if seconds else float("nan"),
                final_loss=left,
                final_fvu=left,
                final_dead_fraction=0.0,
                config=config.to_dict(),
            )
            self.pieces.add_training(variant, record)

    def _pass(self, way: str, now: Sequence[Variant], config: TrainConfig) -> None:
        """Train in a room of its own, named after who is trained, and move the SAEs out of it: a pass of others that
        was interrupted leaves its checkpoint in another."""
        settings, sweep = _settings_of_pass(way, config), self.sweep
        names = sorted(variant.name for variant in now)
        room = self._folder(now[0]).parent / f"pass-{fingerprint({'saes': names})[:12]}"
        start = self._pruned if way == "pruned" else self._new
        saes = {variant.name: start(variant).to(sweep.device) for variant in now}
        kept = sweep.evaluation.keep_special_tokens
        heldout = heldout_sample(sweep.store, settings, keep_special_tokens=kept)
        if sweep.train_tokens is None:
            batches = StoreBatches(sweep.store, settings, keep_special_tokens=kept)
        else:
            batches = FirstTokens(sweep.store, settings, sweep.train_tokens, keep_special_tokens=kept)
        done = train(saes, batches, settings, folder=room, progress=sweep.progress, heldout=heldout)
        _keep_logs(room / METRICS, names)
        for variant in now:
            place = self._folder(variant)
            shutil.rmtree(place, ignore_errors=True)
            (room / variant.name).replace(place)
            self.pieces.add_training(variant, done[variant.name])
        shutil.rmtree(room)

    def _diverged_dense(self, pruned: Variant) -> TrainingRecord | None:
        """The training of the full dense SAE of the same seed, if it diverged."""
        for variant in self.sweep.variants:
            if variant.family == "dense" and variant.seed == pruned.seed and self.pieces.training(variant).diverged:
                return self.pieces.training(variant)
        return None

    def _new(self, variant: Variant) -> AbstractSae:
        return variant.build(self.sweep.store.d_in, self.sweep.saes)

    def _pruned(self, variant: Variant) -> AbstractSae:
        """Out of the full dense SAE of its seed."""
        assert variant.degree is not None
        folder = self._folder(replace(variant, name="dense", family="dense", degree=None, matched_degree=None))
        if not (folder / "config.json").is_file():
            raise ExpanderSaeError(
                f"expected the full dense SAE in {folder} to prune {variant.name} out of; got none. Did it diverge?"
            )
        dense = load_sae(folder)
        sizes = (variant.n_latents, variant.k)
        if not isinstance(dense, DenseTopKSae) or (dense.n_latents, dense.k) != sizes:
            raise ExpanderSaeError(
                f"expected a dense SAE of {variant.n_latents} latents and k = {variant.k} in {folder}; got a "
                f"{dense.kind} one of {dense.n_latents} and {dense.k}"
            )
        return pruned_sae(dense, variant.degree, seed=variant.seed, reading=self.sweep.saes.reading)


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
