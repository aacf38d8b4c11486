"""The moving state of one pass: which step it is at, its members, and what is written on the way."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from expander_sae.distributed import ALONE, Ranks
from expander_sae.records import ExpanderSaeError, disk_errors
from expander_sae.records.interrupts import held_back
from expander_sae.records.mirror import withdraw
from expander_sae.records.progress import Bars
from expander_sae.saes.init import token_norms

from .checkpointing import CHECKPOINT, load_checkpoint, save_checkpoint, truncate_metrics, values_hash
from .config import TrainConfig
from .member import Member

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


class Run:
    """The moving state of one pass, the same on every rank; the first one writes."""

    def __init__(
        self,
        folder: Path,
        members: list[Member],
        stream: BatchSource,
        config: TrainConfig,
        mark: str,
        largest_norm: float | None,
        heldout: Tensor | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.folder, self.members, self.stream, self.ranks = folder, members, stream, ranks
        self.config, self.mark, self.largest_norm = config, mark, largest_norm
        self.heldout = heldout
        self.step, self.tokens, self.seconds, self.outliers = 0, 0, 0.0, 0
        self.saved: int | None = None
        self._exchanged: list[int] = []
        """Bytes handed to collectives, by step."""

    def resume(self, before_seals: str, overwrite: bool) -> None:
        """Load the checkpoint of an interrupted pass, if there is one; `overwrite` begins anew where it is not of this
        pass."""
        try:
            state = load_checkpoint(self.folder, self.mark, before_seals=before_seals)
        except ExpanderSaeError:
            if not overwrite:
                raise
            state = None
        self.ranks.wait()  # all of them have read it
        if self.ranks.first:
            if state is None:
                withdraw(self.folder / CHECKPOINT)
            names = {member.name for member in self.members}
            truncate_metrics(self.folder / METRICS, state["step"] if state else 0, names)
        if state is None:
            return
        self.step, self.tokens, self.seconds = state["step"], state["tokens"], state["seconds"]
        self.outliers = state["outliers"]
        self.stream.load_state_dict(state["stream"])
        for member in self.members:
            member.load_state_dict(state["members"][member.name])
            member.cpu_seconds = state.get("cpu_seconds", {}).get(member.name, 0.0)  # earlier releases counted none

    def save(self) -> None:
        """Write a checkpoint, unless the last one is of this step; every rank calls this at the same step.

        Raises:
            ExpanderSaeError: the ranks' copies of an SAE differ, or the file cannot be written.
        """
        if self.saved == self.step:
            return
        self.check_copies()
        state = {
            "fingerprint": self.mark,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "cpu_seconds": {member.name: member.cpu_seconds for member in self.members},
            "outliers": self.outliers,
            "stream": self.stream.state_dict(),
            "members": {member.name: member.state_dict() for member in self.members},
        }
        if self.ranks.first:
            save_checkpoint(self.folder, state)
        self.saved = self.step

    def check_copies(self) -> None:
        """Compare the ranks' copies of the SAEs: they see the same sums and take the same steps, so they are equal.

        Raises:
            ExpanderSaeError: they are not.
        """
        if not self.ranks.alone:
            for member in self.members:
                self.ranks.agree(f"numbers in {member.name!r} at step {self.step}", values_hash(member.sae))

    def exchanged(self) -> str:
        """What a step exchanges, in words: measured, beside what the gradients of dense SAEs of the sizes would be."""
        dense = 4 * sum(member.sae.d_in * (member.sae.n_latents + 1) for member in self.members)
        mean = sum(self._exchanged) / max(1, len(self._exchanged))
        last = self._exchanged[-1] if self._exchanged else 0
        return (
            f"{self.ranks.size} ranks summed {mean / 1e6:,.3f} MB a step, {last / 1e6:,.3f} MB in the last one; the "
            f"gradients of dense SAEs of the same sizes are {dense / 1e6:,.3f} MB"
        )

    def to_the_end(self, show: "_Show") -> None:
        """Every step that is left."""
        config, watch = self.config, self.config.watch
        # A checkpoint must see the stream and the members at the same step, and must be written whole: an interrupt
        # waits for both, however often it comes.
        with held_back() as interrupts:
            while self.step < config.steps:
                started = time.perf_counter()
                before = self.ranks.bytes
                self._one_step()
                self._exchanged.append(self.ranks.bytes - before)
                self.seconds += time.perf_counter() - started
                measured = self._measures_heldout()
                logged = measured or self.step % watch.log_every == 0 or self.step == config.steps
                if logged and self.ranks.first:
                    self._log(measured)
                    show(self)
                interrupted = self.ranks.any(bool(interrupts))  # wherever it came, all ranks stop at one step
                if interrupted or (watch.checkpoint_every and self.step % watch.checkpoint_every == 0):
                    self.save()
                if interrupted:
                    if not interrupts:
                        interrupts.append(signal.SIGINT)  # another rank's, and raised here too
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
            share = self.ranks.share(x)
            for member in self.members:
                if member.device not in there:
                    there[member.device] = share.to(member.device)
                member.step(self.step, there[member.device], x.shape[0])
        self.step += 1
        self.tokens += x.shape[0]

    def _measures_heldout(self) -> bool:
        every = self.config.watch.heldout_every
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
    def __call__(self, run: Run) -> None: ...


@contextmanager
def bar(progress: bool, steps: int, done: int) -> Iterator[_Show]:
    """A progress bar with the numbers of all SAEs in the pass: best and worst."""
    with Bars("train", show=progress) as bars:
        one = bars.begin(total=steps, done=done)

        def show(run: Run) -> None:
            live = [member.last for member in run.members if member.last]
            if not live:
                return
            spans = [
                f"{name} {min(m[key] for m in live):.3f}"
                + (f"..{max(m[key] for m in live):.3f}" if len(live) > 1 else "")
                for name, key in (("loss", "loss"), ("fvu", "fvu"), ("dead", "dead_fraction"))
            ]
            speed = run.tokens / run.seconds if run.seconds else 0.0
            bars.update(one, done=run.step, text=f"{'  '.join(spans)}  {speed:,.0f} tokens/s")

        yield show
