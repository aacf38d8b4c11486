"""What a frontier trains and measures, and with what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.pursuit import parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.training import TrainConfig

from .variants import AS_USUAL, SaeOptions, Variant


@dataclass(frozen=True)
class EvaluationSettings:
    """How a frontier is evaluated; see `expander_sae.evaluation.evaluate`."""

    max_tokens: int | None = None
    ce_tokens: int | None = 16_384
    splice: str = "ordinary"
    keep_special_tokens: bool = False
    """In training too."""
    outlier_medians: float | None = 5.0
    batch_size: int = 2048


@dataclass(frozen=True)
class Sweep:
    """A frontier to be trained and evaluated.

    Raises:
        ExpanderSaeError: no variants, one twice, or a reading that is none or impossible for k.
    """

    store: ActivationStore
    """Trained on "train", evaluated on "heldout"."""
    folder: Path
    """Gets `seed*/NAME/` with each SAE (`seed*-fixed/NAME/` and so on, see `Variant.training`), `pieces/` with what is
    finished, and `frontier.json`."""
    variants: Sequence[Variant]
    """What `plan` gave."""
    training: TrainConfig
    """Settings of every pass; its seed is replaced by the variant's."""
    language_model: LanguageModel | Callable[[], LanguageModel] | None = None
    """For the cross-entropy part, or a function that loads it, called only if it is needed; None leaves that out."""
    evaluation: EvaluationSettings = EvaluationSettings()
    saes: SaeOptions = AS_USUAL
    readings: Sequence[str] = ()
    """Other inferences (`expander_sae.pursuit.READINGS`) to read every SAE by as well; SAEs with too few columns for
    the spare ones of a reading are left out of it."""
    train_tokens: int | None = None
    """Train on the first so many stored tokens only; None: on all of them."""
    device: str = "cpu"
    """Where SAEs are trained and evaluated; finished pieces are taken over from any."""
    command: str | None = None
    """The command line behind this run, for the report."""
    notes: Sequence[str] = ()
    """Said in the report as they are."""
    progress: bool = True
    """Draw bars."""
    say: Callable[[str], None] = lambda _text: None
    """Told which pieces are taken over from an earlier run."""

    def __post_init__(self) -> None:
        if not self.variants:
            raise ExpanderSaeError("expected at least one SAE in the frontier, got none")
        if len({variant.folder for variant in self.variants}) != len(self.variants):
            raise ExpanderSaeError("expected every variant once for each seed, got one twice")
        for reading in self.readings:  # before hours of training, not after
            parse_reading(reading).check(self.variants[0].k, max(v.n_latents for v in self.variants))
