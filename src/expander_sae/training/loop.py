"""One pass over the activations trains several SAEs: every batch is read once and shown to all of them."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from expander_sae.ops.autograd import own_precision
from expander_sae.records import ExpanderSaeError, Provenance, check_provenance, disk_errors, write_json
from expander_sae.records.files import remove_leftovers
from expander_sae.records.interrupts import held_back
from expander_sae.records.locks import alone_in
from expander_sae.records.progress import Bars
from expander_sae.records.results import TrainingRecord
from expander_sae.saes import AbstractSae, ExpanderSae, InputStatistics, IrregularSae, input_statistics
from expander_sae.saes.init import norm_limit, token_norms

from .amortise import EncoderMember
from .checkpointing import CHECKPOINT, fingerprint, load_checkpoint, save_checkpoint, truncate_metrics, values_hash
from .config import WATCHED, TrainConfig
from .finished import PASS, RECORDS, finished_records, recorded
from .irregular import IrregularMember
from .member import ExtraLoss, Member

METRICS = "metrics.jsonl"


class BatchSource(Protocol):
    """Where activations come from; `expander_sae.activations.ActivationStream` is one."""

    def __next__(self) -> Tensor:
        """x [batch, d_in], float32."""
        ...

    def sample(self, n: int, *, seed: int) -> Tensor:
        """Some ordinary activations [at most n, d_in]."""
        ...

    def describe(self) -> dict[str, Any]:
        """What the activations are, for records and for refusing to resume on others."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to where it was."""
        ...


@own_precision
@torch.inference_mode(False)  # with gradients, whatever is around it
def train(
    saes: Mapping[str, AbstractSae],
    stream: BatchSource,
    config: TrainConfig,
    *,
    folder: str | Path,
    progress: bool = True,
    extra_losses: Mapping[str, ExtraLoss] | None = None,
    heldout: Tensor | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda _text: None,
) -> dict[str, TrainingRecord]:
    """Train every SAE on the same batches, where it is (`sae.to("cuda")` first, for a GPU), save each to `folder/NAME`,
    and return how it went.

    Per batch and SAE: squared error (in units of the data's variance by default), its gradients from the sparse
    kernels, clip, Adam, and the auxiliary loss while some latents are dead. An interrupted call with the same arguments
    goes on from `folder/checkpoint.pt` and ends with the same numbers to the last bit (on the CPU of one machine, with
    the same number of threads); a finished one is not done again: its SAEs are read back. One process at a time trains
    in a folder. An SAE whose loss stops being finite is reported as diverged and not saved; the others go on.

    Args:
        saes: by name; trained in place.
        stream: endless shuffled activations.
        config: the settings of the pass.
        folder: gets one folder per SAE, `metrics.jsonl`, `training.json` and, meanwhile, the checkpoint.
        progress: show a progress bar.
        extra_losses: by SAE name, added to its own loss, such as one that keeps it near another SAE.
        heldout: activations [tokens, d_in] that are not trained on; every `config.heldout_every` steps and at the end
            each SAE's fvu and rel_err on them go to `metrics.jsonl`. What is learned does not depend on it.
        overwrite: train anew where this or another pass of these SAEs is finished, or another one was interrupted.
        say: told if this pass is finished already.

    Returns:
        One record per SAE.

    Raises:
        ExpanderSaeError: widths differ, the folder has work of another pass (interrupted, or finished SAEs of these
            names), another process trains in it, or it cannot be written.
    """
    folder = Path(folder)
    sample = stream.sample(config.statistics_tokens, seed=config.seed)
    _check(saes, sample)
    _check_heldout(heldout, sample)
    source = stream.describe()
    mismatches = {name: check_provenance(name, sae, Provenance.of_settings(source)) for name, sae in saes.items()}
    statistics = input_statistics(sample)
    largest_norm = _largest_norm(sample, config)
    # Where values of a seed are not the start, the start is part of what a pass is.
    starts = {name: values_hash(sae) for name, sae in saes.items()} if config.fine_tune or config.amortise else None
    members = [_member(name, sae, config, statistics) for name, sae in saes.items()]
    for name, extra_loss in (extra_losses or {}).items():
        _with_extra_loss(members, name, extra_loss)
    description = {
        "config": config.to_dict(),
        "saes": {name: sae.describe() for name, sae in saes.items()},
        "activations": source,
        "extra_losses": sorted(extra_losses or {}),
    }
    learned = {name: value for name, value in config.to_dict().items() if name not in WATCHED}
    before_seals = fingerprint({**description, "config": learned})
    mark = before_seals if starts is None else fingerprint({**description, "config": learned, "starts": starts})
    heldout = None if heldout is None else heldout.float()
    run = _Run(folder, members, stream, config, mark, largest_norm, heldout)
    with alone_in(folder, "training", "trains SAEs"):
        remove_leftovers(folder, CHECKPOINT, METRICS, RECORDS)
        if not (overwrite or (folder / CHECKPOINT).exists()):
            records = finished_records(folder, saes, mark, config)
            if records is not None:
                say(f"{folder} is finished: these SAEs were trained there by this very pass, and nothing is done again")
                return records
        run.resume(before_seals, overwrite)
        try:
            with _bar(progress, config.steps, run.step) as show:
                run.to_the_end(show)
        except (KeyboardInterrupt, BrokenPipeError, SystemExit):  # rich makes the last of the one before
            with held_back():
                run.save()
            raise
        with held_back():  # a pass that no checkpoint was due in has its SAEs only now
            return _finish(run, statistics, description, mismatches)


def _member(name: str, sae: AbstractSae, config: TrainConfig, statistics: InputStatistics) -> Member:
    if not config.amortise:
        if isinstance(sae, IrregularSae):
            return IrregularMember(name, sae, config, statistics)
        return Member(name, sae, config, statistics)
    if not isinstance(sae, ExpanderSae):
        raise ExpanderSaeError(f"expected an Expander SAE to amortise; {name!r} is {sae.kind}")
    return EncoderMember(name, sae, config, statistics)


def _with_extra_loss(members: list[Member], name: str, extra_loss: ExtraLoss) -> None:
    found = [member for member in members if member.name == name]
    if not found or isinstance(found[0], EncoderMember):
        raise ExpanderSaeError(f"expected extra losses for SAEs that are trained and not amortised; got {name!r}")
    found[0].extra_loss = extra_loss


def _check(saes: Mapping[str, AbstractSae], sample: Tensor) -> None:
    if not saes:
        raise ExpanderSaeError("expected at least one SAE to train; got none")
    for name, sae in saes.items():
        if sae.d_in != sample.shape[1]:
            raise ExpanderSaeError(f"SAE {name!r} has d_in = {sae.d_in}, the activations have {sample.shape[1]}")
        if not name or "/" in name or name.startswith("."):
            raise ExpanderSaeError(f"expected SAE names that can be folder names; got {name!r}")


def _check_heldout(heldout: Tensor | None, sample: Tensor) -> None:
    if heldout is None:
        return
    fits = heldout.ndim == 2 and heldout.shape[1] == sample.shape[1] and len(heldout) > 1
    if not fits or not heldout.is_floating_point():
        raise ExpanderSaeError(
            f"expected held-out activations [two or more, {sample.shape[1]}] of a floating type; got "
            f"{list(heldout.shape)} of {heldout.dtype}. Take some like those that are trained on, or None."
        )
    if not bool(torch.isfinite(heldout).all()):
        raise ExpanderSaeError(
            "expected finite held-out activations; some are NaN or infinite. Leave those tokens out, or give None."
        )


def _largest_norm(sample: Tensor, config: TrainConfig) -> float | None:
    if config.outlier_medians is None:
        return None
    return norm_limit(token_norms(sample, "activations"), config.outlier_medians)


class _Run:
    """The moving state of one pass."""

    def __init__(
        self,
        folder: Path,
        members: list[Member],
        stream: BatchSource,
        config: TrainConfig,
        mark: str,
        largest_norm: float | None,
        heldout: Tensor | None,
    ) -> None:
        self.folder, self.members, self.stream = folder, members, stream
        self.config, self.mark, self.largest_norm = config, mark, largest_norm
        self.heldout = heldout
        self.step, self.tokens, self.seconds, self.outliers = 0, 0, 0.0, 0
        self.saved: int | None = None

    def resume(self, before_seals: str, overwrite: bool) -> None:
        """Load the checkpoint of an interrupted pass, if there is one; `overwrite` begins anew where it is not of this
        pass."""
        try:
            state = load_checkpoint(self.folder, self.mark, before_seals=before_seals)
        except ExpanderSaeError:
            if not overwrite:
                raise
            (self.folder / CHECKPOINT).unlink()
            state = None
        names = {member.name for member in self.members}
        truncate_metrics(self.folder / METRICS, state["step"] if state else 0, names)
        if state is None:
            return
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.outliers = state["outliers"]
        self.stream.load_state_dict(state["stream"])
        for member in self.members:
            member.load_state_dict(state["members"][member.name])

    def save(self) -> None:
        """Write a checkpoint, unless the last one is of this step."""
        if self.saved == self.step:
            return
        save_checkpoint(
            self.folder,
            {
                "fingerprint": self.mark,
                "step": self.step,
                "tokens": self.tokens,
                "seconds": self.seconds,
                "outliers": self.outliers,
                "stream": self.stream.state_dict(),
                "members": {member.name: member.state_dict() for member in self.members},
            },
        )
        self.saved = self.step

    def to_the_end(self, show: "_Show") -> None:
        """Every step that is left."""
        config = self.config
        # A checkpoint must see the stream and the members at the same step, and must be written whole: an interrupt
        # waits for both, however often it comes.
        with held_back() as interrupts:
            while self.step < config.steps:
                started = time.perf_counter()
                self._one_step()
                self.seconds += time.perf_counter() - started
                measured = self._measures_heldout()
                if measured or self.step % config.log_every == 0 or self.step == config.steps:
                    self._log(measured)
                    show(self)
                if interrupts or (config.checkpoint_every and self.step % config.checkpoint_every == 0):
                    self.save()
                if interrupts:
                    break

    def _one_step(self) -> None:
        x = next(self.stream)
        norms = token_norms(x, f"activations in the batch of step {self.step}")
        if self.largest_norm is not None:
            keep = norms <= self.largest_norm
            if not bool(keep.all()):
                self.outliers += int((~keep).sum())
                x = x[keep]
        if x.shape[0]:
            there: dict[torch.device, Tensor] = {}
            for member in self.members:
                if member.device not in there:
                    there[member.device] = x.to(member.device)
                member.step(self.step, there[member.device])
        self.step += 1
        self.tokens += x.shape[0]

    def _measures_heldout(self) -> bool:
        every = self.config.heldout_every
        return self.heldout is not None and every > 0 and (self.step % every == 0 or self.step == self.config.steps)

    def _log(self, measured: bool) -> None:
        there: dict[torch.device, Tensor] = {}
        lines = []
        for member in self.members:
            line = {"step": self.step - 1, "tokens": self.tokens, "name": member.name, **member.last}
            if measured and self.heldout is not None:
                if member.device not in there:
                    there[member.device] = self.heldout.to(member.device)
                line |= member.measure(there[member.device])
            lines.append(json.dumps(line | {"diverged": member.diverged}) + "\n")
        path = self.folder / METRICS
        with disk_errors(path), open(path, "a", encoding="utf-8") as metrics:
            metrics.write("".join(lines))


class _Show(Protocol):
    def __call__(self, run: _Run) -> None: ...


@contextmanager
def _bar(progress: bool, steps: int, done: int) -> Iterator[_Show]:
    """A progress bar with the numbers of all SAEs in the pass: best and worst."""
    with Bars("train", show=progress) as bars:
        bar = bars.begin(total=steps, done=done)

        def show(run: _Run) -> None:
            live = [member.last for member in run.members if member.last]
            if not live:
                return
            spans = [
                f"{name} {min(m[key] for m in live):.3f}"
                + (f"..{max(m[key] for m in live):.3f}" if len(live) > 1 else "")
                for name, key in (("loss", "loss"), ("fvu", "fvu"), ("dead", "dead_fraction"))
            ]
            speed = run.tokens / run.seconds if run.seconds else 0.0
            bars.update(bar, done=run.step, text=f"{'  '.join(spans)}  {speed:,.0f} tokens/s")

        yield show


def _finish(
    run: _Run,
    statistics: InputStatistics,
    description: dict[str, Any],
    mismatches: Mapping[str, list[str] | None],
) -> dict[str, TrainingRecord]:
    """Save what was trained and say how it went."""
    records = {}
    for member in run.members:
        member.sae.eval()
        record = TrainingRecord(
            name=member.name,
            steps=run.step,
            tokens=run.tokens,
            seconds=run.seconds,
            tokens_per_second=run.tokens / run.seconds if run.seconds else float("nan"),
            final_loss=member.last.get("loss", float("nan")),
            final_fvu=member.last.get("fvu", float("nan")),
            final_dead_fraction=member.last.get("dead_fraction", float("nan")),
            config=run.config.to_dict(),
            diverged=member.diverged,
            device=str(member.device),
            mismatches=mismatches[member.name],
        )
        records[member.name] = record
        if not member.diverged:
            member.sae.metadata |= {
                "activations": description["activations"],
                "training": record.to_dict(),
                "input_scale": statistics.scale if run.config.scale_inputs else 1.0,
                "outlier_tokens_left_out": run.outliers,
                PASS: run.mark,
            }
            member.sae.fold_input_scale()
            member.sae.save(run.folder / member.name)
    together = recorded(run.folder) | records  # other passes may have trained other SAEs here
    write_json(run.folder / RECORDS, {name: record.to_dict() for name, record in together.items()})
    (run.folder / CHECKPOINT).unlink(missing_ok=True)
    return records
