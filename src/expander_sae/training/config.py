"""How an SAE is trained. One frozen object, no hidden defaults elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expander_sae.pursuit import Encoder, Reading, Stages
from expander_sae.records import ExpanderSaeError

from .optimizer import Adam, Schedule
from .parts import Anneal, Coherence, Flatness, MoveSupports, OnePass, Resample, Revive
from .recorded import RECORDED, flat, grouped


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        if not getattr(config, name) > 0:
            raise ExpanderSaeError(f"expected {name} > 0 in the training config; got {getattr(config, name)!r}")


@dataclass(frozen=True)
class Inputs:
    """What of the activations is trained on, and in which units."""

    scale: bool = True
    """Train in units where the mean activation norm is sqrt(d_in); folded away at save."""
    center: bool = True
    """Start b_dec at the mean of a large sample (norm outliers left out) rather than at zero."""
    outlier_medians: float | None = 5.0
    """Leave tokens with a norm above this many medians out of the loss; None keeps all."""
    with_replacement: bool = False
    """Draw every batch independently from the whole split instead of reading it epoch by epoch."""
    statistics_tokens: int = 65_536
    """Sample behind the input scale, b_dec and the outlier threshold."""

    def __post_init__(self) -> None:
        _check_positive(self, "statistics_tokens")


@dataclass(frozen=True)
class Watch:
    """How a pass is followed and saved; what it learns does not depend on it."""

    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    heldout_every: int = 50
    """Steps between measurements on held-out activations, where `train` is given some; 0: never."""
    checkpoint_every: int = 200
    """Steps between checkpoints; 0: only when interrupted."""

    def __post_init__(self) -> None:
        _check_positive(self, "log_every")
        if self.heldout_every < 0:
            raise ExpanderSaeError(
                f"expected heldout_every >= 0 in Watch, 0 to measure never; got {self.heldout_every}"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training pass; every SAE in the pass shares them.

    The parts of training (`revive` to `coherence`) have settings of their own; None: the part is off.

    Raises:
        ExpanderSaeError: settings that nothing can be trained with.

    Example:
        >>> config = TrainConfig(tokens=200_000, learning_rate=3e-3, move_supports=None, flatness=Flatness(beta=2.0))
        >>> config.steps, config.revive
        (391, Revive(weight=0.03125, k=None))
    """

    tokens: int = 1_000_000
    """Activations seen, counting repeats."""
    batch_size: int = 512
    learning_rate: float = 1e-2
    """Peak, for inputs scaled to mean norm sqrt(d_in)."""
    seed: int = 0
    """Order of the activations and draws of the parts; initial values have their own seed."""
    fine_tune: bool = False
    """Start from the SAE as it is, biases too; nothing but its units changes (so `inputs.center` is not asked)."""
    reading: Reading | None = field(default_factory=lambda: Stages(4, spare=4))
    """What finds the codes while training. `Stages(T, spare=S)`: of SAEs that are read in stages, no more stages and
    spare columns than these (fewer than they encode with are enough and faster; S = None: the SAE's own); other SAEs
    are trained by their own reading. `Encoder()`: one-shot TopK for all of them. None: each one's own."""
    loss_unit: str = "variance"
    """"variance": squared error over the data's variance (so the loss is the batch's fvu); "token": per token, raw."""
    dead_after_tokens: int = 65_536
    """A latent is dead once it has not fired for this many tokens."""
    schedule: Schedule = field(default_factory=Schedule)
    """Of the learning rate."""
    adam: Adam = field(default_factory=Adam)
    inputs: Inputs = Inputs()
    revive: Revive | None = field(default_factory=Revive)
    """The auxiliary loss that lets dead latents explain the residual."""
    resample: Resample | None = None
    """The paper's resampling of rarely firing latents."""
    move_supports: MoveSupports | None = field(default_factory=MoveSupports)
    """Moves of dictionary entries to rows where the residual wants them."""
    flatness: Flatness | None = None
    """Projections on columns of nearly equal magnitudes, for Expander SAEs."""
    coherence: Coherence | None = None
    """A penalty on the largest inner products of columns."""
    anneal: Anneal | None = None
    """A degree that falls to the SAE's own while training, for Expander SAEs; needs move_supports=None."""
    one_pass: OnePass | None = None
    """Training by the encoder too, of SAEs that are read by pursuit."""
    amortise: bool = False
    """Train only the encoder of an Expander SAE that has its own, towards the codes that the SAE's reading finds; the
    dictionary stays as it is, and no other part does anything."""
    watch: Watch = Watch()

    def __post_init__(self) -> None:
        _check_positive(self, "tokens", "batch_size", "learning_rate", "dead_after_tokens")
        if self.amortise and (self.flatness is not None or self.coherence is not None):
            raise ExpanderSaeError(
                "expected no flatness and no coherence beside amortise, which leaves the dictionary; got one"
            )
        if self.reading is not None and not isinstance(self.reading, Encoder | Stages):
            raise ExpanderSaeError(
                "expected reading as Stages(...), Encoder() or None, each SAE's own, in the training config; got "
                f"{self.reading!r}. Give another reading to the SAE, and None here."
            )
        if self.anneal is not None:
            others = {"move_supports": None, "flatness": None, "amortise": False, "fine_tune": False}
            for name, off in others.items():
                if getattr(self, name) != off:
                    raise ExpanderSaeError(
                        f"expected {name}={off} beside anneal, which chooses columns and rows itself; got "
                        f"{getattr(self, name)}"
                    )
        if self.loss_unit not in ("variance", "token"):
            raise ExpanderSaeError(f"expected loss_unit 'variance' or 'token'; got {self.loss_unit!r}")

    @property
    def steps(self) -> int:
        """Optimiser steps: tokens / batch_size, rounded up."""
        return -(-self.tokens // self.batch_size)

    def rate(self, step: int) -> float:
        """The learning rate of optimiser step `step`, 0-based."""
        return self.schedule.rate(self.learning_rate, step, self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, under the flat names of records (`expander_sae.training.recorded`)."""
        return flat(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """The settings of a record; what an earlier release did not have yet is at its default.

        Raises:
            ExpanderSaeError: a name that no record has, or settings that nothing can be trained with.

        Example:
            >>> TrainConfig.from_dict({"rewire_every": 0, "flatness": 2.0}).flatness
            Flatness(beta=2.0, since=0.8)
        """
        unknown = sorted(settings.keys() - RECORDED.keys())
        if unknown:
            raise ExpanderSaeError(f"expected settings of training out of {', '.join(RECORDED)}; got {unknown[0]!r}")
        fields = grouped({**flat(cls()), **settings})
        for name, group in _GROUPS.items():
            if fields[name] is not None:
                fields[name] = group(**fields[name])
        return cls(**fields)


_GROUPS: dict[str, type] = {
    "schedule": Schedule,
    "adam": Adam,
    "inputs": Inputs,
    "revive": Revive,
    "resample": Resample,
    "move_supports": MoveSupports,
    "flatness": Flatness,
    "coherence": Coherence,
    "anneal": Anneal,
    "one_pass": OnePass,
    "watch": Watch,
}
