"""What the command line says to every experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from expander_sae.pursuit import Stages, as_numbers
from expander_sae.records import ExpanderSaeError
from expander_sae.training import Preset, TrainConfig, find_preset

from ..settings import EvaluationSettings
from ..variants import SaeOptions

_LATER = ("spare", "signed", "irregular", "keep_special_tokens", "splice")
"""Options that came after the first version."""


@dataclass(frozen=True)
class Settings:
    """What the command line says to every experiment."""

    preset: str = "fidelity"
    """A name of `expander_sae.training.PRESETS`. `paper`: its training, SAEs (signed TopK, latent bias, uniform masks
    with no empty row, initial values shared with the dense SAE, no pursuit), tokens and splice."""
    degrees: tuple[int, ...] = (4, 7, 16, 30, 64, 200)
    k: int = 32
    expansion: int = 8
    n_latents: int | None = None
    """Instead of `expansion`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    tokens: int | None = None
    """Training tokens of each SAE, counting repeats; None: the preset's. So for the next two."""
    batch_size: int | None = None
    learning_rate: float | None = None
    stages: int | None = None
    """Of the pursuit that Expander SAEs encode by; None: the preset's. So for the next four."""
    spare: int | None = None
    signed: bool | None = None
    irregular: bool | None = None
    keep_special_tokens: bool | None = None
    splice: str | None = None
    max_tokens: int | None = None
    ce_tokens: int | None = 16_384
    options: Mapping[str, Any] = field(default_factory=dict)
    """Those of the experiment alone."""

    def __post_init__(self) -> None:
        find_preset(self.preset)
        if not self.seeds or not self.degrees:
            raise ExpanderSaeError("expected at least one seed and one degree; got none")

    @property
    def paper(self) -> bool:
        """Whether this is the paper's recipe."""
        return self.preset == "paper"

    def obeyed(self) -> Preset:
        """The preset with what was given in its place."""
        given = ("tokens", "batch_size", "learning_rate", *_LATER, "stages")
        return find_preset(self.preset).obeying(**{name: getattr(self, name) for name in given})

    def n_for(self, d_in: int) -> int:
        """Latents of the Expander and full dense SAEs."""
        return self.expansion * d_in if self.n_latents is None else self.n_latents

    def training(self) -> TrainConfig:
        """The preset with what was given."""
        config = self.obeyed().training
        # Ten places along a short pass, too.
        heldout_every = min(config.watch.heldout_every, max(1, config.steps // 10))
        return replace(config, watch=replace(config.watch, heldout_every=heldout_every))

    def evaluation(self) -> EvaluationSettings:
        """How SAEs are measured."""
        return EvaluationSettings(
            max_tokens=self.max_tokens,
            ce_tokens=self.ce_tokens,
            splice=self.obeyed().splice,
            keep_special_tokens=self.obeyed().keep_special_tokens,
            outlier_medians=self.training().inputs.outlier_medians,
        )

    def sae_options(self) -> SaeOptions:
        """How every SAE is built."""
        options = SaeOptions(**self.obeyed().sae_options())
        reading = options.reading
        return replace(options, reading=reading.at_most(self.k)) if isinstance(reading, Stages) else options

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what came after the first version is left out where it was not given."""
        stages = as_numbers(self.obeyed().reading)["stages"]
        plain = {**asdict(self), "stages": stages, "options": dict(self.options)}
        return {name: value for name, value in plain.items() if name not in _LATER or value is not None}
