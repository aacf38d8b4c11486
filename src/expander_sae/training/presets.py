"""Whole recipes by name: how SAEs are built, trained and measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from expander_sae.pursuit import DEFAULT_READING, Encoder, Reading, Stages, in_stages
from expander_sae.records import ExpanderSaeError

from .config import Inputs, TrainConfig, Watch
from .optimizer import Schedule
from .parts import Anneal, OnePass, Resample


@dataclass(frozen=True)
class Preset:
    """One recipe. What a user says stands above it: `obeying`."""

    training: TrainConfig = field(default_factory=TrainConfig)
    signed: bool = False
    """TopK without a ReLU."""
    latent_bias: bool = False
    """A learned bias per latent."""
    construction: str = "balanced"
    """How masks are made."""
    irregular: bool = False
    """Columns of Expander SAEs may have different degrees, of the mean that is asked for."""
    dense_draw: bool = False
    """Expander SAEs start at the values of the dense SAE of their seed."""
    reading: Reading = DEFAULT_READING
    """How Expander SAEs find codes."""
    keep_special_tokens: bool = False
    """Train and measure on first positions and special tokens too."""
    splice: str = "ordinary"
    """Where reconstructions go for the cross entropy: "ordinary" tokens or "everywhere"."""

    def obeying(
        self,
        *,
        tokens: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        stages: int | None = None,
        spare: int | None = None,
        **given: Any,
    ) -> Preset:
        """This recipe with what was said explicitly, a field of it, one of the three of `training` or one of the two
        that options of commands say of `reading` (`expander_sae.pursuit.in_stages`); None: not said.

        Example:
            >>> changed = PRESETS["paper"].obeying(stages=4, signed=False, latent_bias=None, tokens=1000)
            >>> str(changed.reading), changed.signed, changed.latent_bias, changed.training.steps
            ('stages:4', False, True, 4)
        """
        trained = {"tokens": tokens, "batch_size": batch_size, "learning_rate": learning_rate}
        said = {"reading": in_stages(self.reading, stages, spare), **_said(given)}
        return replace(self, training=replace(self.training, **_said(trained)), **said)

    def sae_options(self) -> dict[str, Any]:
        """How SAEs are built, as `expander_sae.frontier.SaeOptions` has it."""
        names = ("signed", "latent_bias", "construction", "dense_draw", "reading", "irregular")
        return {name: getattr(self, name) for name in names}


PRESETS = {
    # Latents that tell concepts first, fidelity second: columns find their directions on many rows, in one pass, and
    # the pursuit comes beside the encoder at the end. Columns that fire on much keep more entries than those that
    # hardly fire. No spare columns: which latents fire would hang on noise.
    "meaning": Preset(
        training=TrainConfig(reading=Stages(4, spare=0), move_supports=None, anneal=Anneal(), one_pass=OnePass()),
        irregular=True,
        reading=Stages(8, spare=0),
    ),
    # The least variance left unexplained: pursuit from random columns whose entries move.
    "fidelity": Preset(),
    # arXiv 2607.01799: 5,000 steps of 256 draws with replacement, raw squared error, cosine 3e-4 -> 1e-5, no warm-up,
    # residual resampling every 1,000 steps; signed TopK with a latent bias on uniform masks without an empty row.
    "paper": Preset(
        training=TrainConfig(
            tokens=5_000 * 256,
            batch_size=256,
            learning_rate=3e-4,
            reading=None,
            loss_unit="token",
            schedule=Schedule("cosine", warmup=0.0, decay=0.0, final=1e-5),
            inputs=Inputs(scale=False, center=False, outlier_medians=None, with_replacement=True),
            revive=None,
            resample=Resample(every=1_000),
            move_supports=None,
            watch=Watch(heldout_every=250),
        ),
        signed=True,
        latent_bias=True,
        construction="repaired",
        dense_draw=True,
        reading=Encoder(),
        keep_special_tokens=True,
        splice="everywhere",
    ),
}


DEFAULT_PRESET = "meaning"
"""Of commands that train, and of `fit`."""


def find_preset(name: str) -> Preset:
    """The recipe of a name; "default" is what releases before 0.2 called "fidelity".

    Raises:
        ExpanderSaeError: there is none.
    """
    name = "fidelity" if name == "default" else name
    if name not in PRESETS:
        raise ExpanderSaeError(f"expected --preset (preset=) out of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]


def _said(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
