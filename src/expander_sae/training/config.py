"""How an SAE is trained. One frozen object, no hidden defaults elsewhere."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError

WATCHED = ("log_every", "heldout_every", "checkpoint_every")
"""Settings by which a pass is watched and saved: what it learns does not depend on them."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training pass; every SAE in the pass shares them."""

    tokens: int = 1_000_000
    """Activations seen, counting repeats."""
    batch_size: int = 512
    learning_rate: float = 1e-2
    """Peak, for inputs scaled to mean norm sqrt(d_in)."""
    final_learning_rate: float = 0.0
    schedule: str = "trapezoid"
    """"trapezoid": warm up, hold, decay linearly over the last `decay` of the steps; "cosine": to the final rate."""
    warmup: float = 0.05
    """Share of the steps."""
    decay: float = 0.2
    """Share of the steps (trapezoid only)."""
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 1.0
    """Largest global gradient norm of one SAE."""
    loss_unit: str = "variance"
    """"variance": squared error over the data's variance (so the loss is the batch's fvu); "token": per token, raw."""
    scale_inputs: bool = True
    """Train in units where the mean activation norm is sqrt(d_in); folded away at save."""
    center_on_mean: bool = True
    """Start b_dec at the mean of a large sample (norm outliers left out) rather than at zero."""
    fine_tune: bool = False
    """Start from the SAE as it is, biases too; nothing but its units changes (so `center_on_mean` is not asked)."""
    outlier_medians: float | None = 5.0
    """Leave tokens with a norm above this many medians out of the loss; None keeps all."""
    with_replacement: bool = False
    """Draw every batch independently from the whole split instead of reading it epoch by epoch."""
    dead_after_tokens: int = 65_536
    """A latent is dead once it has not fired for this many tokens."""
    aux_coefficient: float = 1 / 32
    """Weight of the auxiliary loss that lets dead latents explain the residual; 0 turns it off."""
    aux_k: int | None = None
    """Dead latents per token in that loss; None: min(256, d_in / 2)."""
    resample_every: int = 0
    """Steps between the paper's resamplings of rarely firing latents; 0: never."""
    resample_firings: int = 5
    """Fewer firings than this since the last check make a latent a candidate."""
    stages: int | None = 4
    """Stages of the pursuit while training, for SAEs that encode by pursuit (fewer than they encode with are enough
    and faster); None: as many as the SAE's own. SAEs with one-shot TopK are not touched by it."""
    spare: int | None = 4
    """Columns each of those stages picks beyond its share and drops again, if the SAE's own pick more; None: as many as
    the SAE's own."""
    rewire_every: int = 20
    """Steps between moves of dictionary entries to rows where the residual wants them; 0: never. Only for Expander SAEs
    that encode by pursuit: learned supports crowd on strong coordinates, which one-shot TopK cannot disentangle.
    While they move, each SAE holds n_latents * d_in floats of what tokens ask for (134 MB at 2048 x 16384) and
    residuals of up to 4,096 tokens."""
    rewire_entries: int | None = None
    """Most entries of one column moved at a time; None: a quarter of them, two at least."""
    rewire_until: float = 0.85
    """Share of the steps after which the mask stays as it is, so that the values can settle."""
    rewire_row_cap: float | None = None
    """No row gets more columns than this many times the mean; None: no bound."""
    flatness: float | None = None
    """After a step each column of an Expander SAE becomes the nearest one whose magnitudes differ by at most this
    factor (the beta of `expander_sae.theory.flatness`); None: no bound."""
    flatness_from: float = 0.8
    """Share of the steps after which that begins; 1: once, at the end. Before entries have settled it makes columns
    crowd on few rows (docs/certificates.md)."""
    coherence: float = 0.0
    """Weight of the mean square of the k largest inner products of sampled columns with others (the terms of the
    cumulative coherence mu_1(k)), added to the loss; 0: none."""
    coherence_columns: int = 256
    """Columns sampled for it in each step."""
    amortise: bool = False
    """Train only the encoder of an Expander SAE that has its own, towards the codes that pursuit in its `stages` finds;
    the dictionary stays as it is."""
    seed: int = 0
    """Order of the activations and resampling; initial values have their own seed."""
    statistics_tokens: int = 65_536
    """Sample behind the input scale, b_dec and the outlier threshold."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    heldout_every: int = 50
    """Steps between measurements on held-out activations, where `train` is given some; 0: never."""
    checkpoint_every: int = 200
    """Steps between checkpoints; 0: only when interrupted."""

    def __post_init__(self) -> None:
        positive = (
            "tokens",
            "batch_size",
            "learning_rate",
            "clip",
            "statistics_tokens",
            "log_every",
            "dead_after_tokens",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ExpanderSaeError(f"expected {name} > 0 in the training config; got {getattr(self, name)!r}")
        if self.heldout_every < 0:
            raise ExpanderSaeError(
                f"expected heldout_every >= 0 in the training config, 0 to measure never; got {self.heldout_every}"
            )
        if self.rewire_every < 0 or (self.rewire_entries or 1) < 1 or (self.rewire_row_cap or 1.0) < 1.0:
            raise ExpanderSaeError(
                "expected rewire_every >= 0, rewire_entries >= 1 (or none) and rewire_row_cap >= 1 (or none); got "
                f"{self.rewire_every}, {self.rewire_entries}, {self.rewire_row_cap}"
            )
        if not (self.flatness is None or self.flatness >= 1) or not 0 <= self.flatness_from <= 1:
            raise ExpanderSaeError(
                "expected flatness >= 1 (or none) and flatness_from in 0..1; got "
                f"{self.flatness} and {self.flatness_from}"
            )
        if not 0 <= self.coherence < math.inf or self.coherence_columns < 1:
            raise ExpanderSaeError(
                "expected a finite coherence >= 0 and coherence_columns >= 1; got "
                f"{self.coherence} and {self.coherence_columns}"
            )
        if self.amortise and (self.flatness is not None or self.coherence):
            raise ExpanderSaeError("expected no flatness and no coherence beside amortise: it leaves the dictionary")
        if self.schedule not in ("trapezoid", "cosine"):
            raise ExpanderSaeError(f"expected schedule 'trapezoid' or 'cosine'; got {self.schedule!r}")
        if self.loss_unit not in ("variance", "token"):
            raise ExpanderSaeError(f"expected loss_unit 'variance' or 'token'; got {self.loss_unit!r}")
        if not (0 <= self.warmup <= 1 and 0 <= self.decay <= 1 and self.warmup + self.decay <= 1):
            raise ExpanderSaeError(f"expected warmup + decay <= 1; got {self.warmup} + {self.decay}")

    @property
    def steps(self) -> int:
        """Optimiser steps: tokens / batch_size, rounded up."""
        return -(-self.tokens // self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return dataclasses.asdict(self)


DEFAULT_RECIPE = TrainConfig()
"""What `train`, `fit` and the experiments train by unless told otherwise."""

PRESETS: dict[str, TrainConfig] = {
    "default": DEFAULT_RECIPE,
    # arXiv 2607.01799: 5,000 steps of 256 draws with replacement, raw squared error, cosine 3e-4 -> 1e-5, no warm-up,
    # residual resampling every 1,000 steps. (Its SAEs are `signed` and have a latent bias: see `paper_sae_options`.)
    "paper": TrainConfig(
        tokens=5_000 * 256,
        batch_size=256,
        learning_rate=3e-4,
        final_learning_rate=1e-5,
        schedule="cosine",
        warmup=0.0,
        decay=0.0,
        loss_unit="token",
        scale_inputs=False,
        center_on_mean=False,
        outlier_medians=None,
        with_replacement=True,
        stages=None,
        spare=None,
        rewire_every=0,
        aux_coefficient=0.0,
        resample_every=1_000,
        heldout_every=250,
    ),
}


def paper_sae_options() -> dict[str, Any]:
    """Constructor options that make an SAE the paper's: signed TopK in one pass, a latent bias."""
    return {"signed": True, "latent_bias": True, "reading": Encoder()}


def paper_grid_options() -> dict[str, Any]:
    """What makes many SAEs the paper's: `paper_sae_options`, its masks and shared initial values, no pursuit."""
    return {
        "signed": True, "latent_bias": True, "construction": "repaired", "dense_draw": True, "stages": 0, "spare": 0,
    }  # fmt: skip
