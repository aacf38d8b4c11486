"""What training, evaluation and a frontier write down: frozen records with the project's metric names."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from .errors import ExpanderSaeError
from .fields import shown


class _Record:
    """`to_dict` and a strict `from_dict` for the frozen dataclasses below."""

    def to_dict(self) -> dict[str, Any]:
        """The record as plain dicts, lists, numbers and strings, in field order."""
        return dataclasses.asdict(typing.cast(Any, self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Rebuild a record; JSON's null in a `float` field becomes NaN, as `write_json` made it from one.

        Raises:
            ExpanderSaeError: a field is missing, unknown, or of the wrong type.
        """
        if not isinstance(data, Mapping):
            raise ExpanderSaeError(f"expected the fields of a {cls.__name__}; got {type(data).__name__}")
        hints = typing.get_type_hints(cls)
        fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
        unknown = sorted(set(data) - set(fields))
        required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
        missing = sorted(required - set(data))
        if unknown or missing:
            raise ExpanderSaeError(
                f"expected exactly the fields of a {cls.__name__}; got some missing: {_few(missing)}, "
                f"unknown {_few(unknown)}. Was it written by another version of expander-sae?"
            )
        where = cls.__name__
        return cls(**{name: _read(value, hints[name], f"{where}.{name}") for name, value in data.items()})


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{shown(', '.join(names[:5]))}{more}" if names else "none"


def _read(value: Any, hint: Any, where: str) -> Any:
    """Check one JSON value against a field's type, and rebuild nested records."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(choice for choice in typing.get_args(hint) if choice is not type(None))
    if isinstance(hint, type) and issubclass(hint, _Record):
        return value if isinstance(value, hint) else hint.from_dict(value)
    plain = typing.get_origin(hint) or hint
    if plain is float:
        if value is None:
            return float("nan")
        if isinstance(value, float):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
            return float(value)
    elif plain is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif isinstance(value, plain):
        return value
    raise ExpanderSaeError(f"expected {getattr(hint, '__name__', hint)} for {where}; got {shown(value)}")


@dataclass(frozen=True)
class EvaluationRecord(_Record):
    """Every metric of one SAE on one set of held-out tokens; `docs/reference/metrics.md` has the formulas.

    The `ce_*`, `delta_ce` and `kl` fields, in nats per predicted token, are None where no language model ran.
    """

    name: str
    kind: str
    d_in: int
    n_latents: int
    degree: int
    """Learned numbers per decoder column, their mean where columns differ; d_in for a dense SAE."""
    k: int
    signed: bool
    construction: str | None
    """How the mask was made; None for a dense SAE."""
    mask_seed: int | None
    seed: int | None
    """The seed of the initialisation, where the SAE knows it."""
    learned_values: int
    decoder_values: int
    bytes_on_disk: int | None
    """Size of every file in the SAE's folder; None where it was never saved."""

    model_id: str | None
    model_revision: str | None
    layer: int | None
    split: str
    keep_special_tokens: bool
    outlier_medians: float | None
    """Tokens whose norm is above this many medians were left out; None where none were."""
    tokens: int
    """Tokens in the reconstruction metrics and in `dead_fraction`."""
    outlier_tokens: int
    """Tokens left out by `outlier_medians`."""

    fvu: float
    explained_variance: float
    rel_err: float
    cosine: float
    l0: float
    dead_fraction: float
    encode_tokens_per_second: float
    inference: str = "encoder"
    """How codes were read; see `expander_sae.saes.INFERENCES`."""
    module: str | None = None
    """The module whose output was harvested; None for the residual stream after `layer`."""
    mismatches: list[str] | None = None
    """How these activations differ from those the SAE was trained on (model, place, scale), and the language model from
    theirs; None where nothing known does."""

    splice: str | None = None
    """`ordinary`: excluded positions keep the model's own activation; `everywhere`: all are replaced."""
    ce_tokens: int | None = None
    """Predicted tokens behind every `ce_*` number: the weights of the mean."""
    ce_sequences: int | None = None
    ce_clean: float | None = None
    ce_recon: float | None = None
    ce_zero: float | None = None
    ce_mean: float | None = None
    delta_ce: float | None = None
    ce_recovered_zero: float | None = None
    ce_recovered_mean: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class TrainingRecord(_Record):
    """How one SAE was trained and how that ended; the final numbers are training's own, not held-out."""

    name: str
    steps: int
    tokens: int
    seconds: float
    """Wall time of the whole pass, shared by every SAE trained in it."""
    tokens_per_second: float
    final_loss: float
    final_fvu: float
    final_dead_fraction: float
    config: dict[str, Any]
    diverged: bool = False
    device: str = "cpu"
    """Where, as torch names it."""
    mismatches: list[str] | None = None
    """How the activations differ from those the SAE had been trained on before; None where nothing known does."""
    cpu_seconds: float | None = None
    """Processor time of all threads in this SAE's own steps: what its training costs, whoever else is in the pass; None
    in records of earlier releases. On a GPU it is not what the training costs."""


@dataclass(frozen=True)
class FrontierRecord(_Record):
    """One SAE of a frontier: what it is, how it was trained, what it scored, and its retention.

    `retention_zero` and `retention_mean` are ce_recovered of this SAE over ce_recovered of the full dense
    tied control of the same seed, in the zero and the mean form; None where either is missing.
    """

    variant: str
    family: str
    seed: int
    matched_degree: int | None
    """The degree whose decoder values this SAE has (its own, for a sparse one); None for a full dense one."""
    folder: str
    training: TrainingRecord
    evaluation: EvaluationRecord | None
    """None where training diverged, so that there was nothing to evaluate."""
    retention_zero: float | None = None
    retention_mean: float | None = None
    reading: str | None = None
    """The inference asked for; None is the SAE's own."""


NULLS = ("half untrained", "untrained", "coordinates")
"""What stands beside a probed SAE in `ProbeRecord.kind`."""


@dataclass(frozen=True)
class ProbeRecord(_Record):
    """How well the features of one dictionary tell concepts; `docs/reference/metrics.md` has the definitions.

    Every F1 is of the half of the text on which nothing was chosen or fitted, and the mean of both ways round.
    """

    name: str
    kind: str
    """The kind of SAE, or one of `NULLS`."""
    reading: str
    """How codes were read; empty for coordinates."""
    n_features: int
    learned_values: int
    """0 for what was not learned."""
    tokens: int
    documents: int
    """As told by blocks that are shorter than the rest."""
    selection: str
    """How the latents of a probe of broad concepts are chosen."""
    f1_1: float
    """Mean F1 over broad concepts of the best latent."""
    f1_2: float
    f1_5: float
    shuffled_f1_1: float
    """The same as `f1_1` with labels at other tokens: what chance gives."""
    broad_concepts: int
    broad_by_group: dict[str, float]
    """Mean F1 of the best latent for each group of broad concepts."""
    narrow_f1: float
    """Mean F1 over narrow concepts of the best latent at its best threshold."""
    narrow_above_half: float
    """Share of narrow concepts with an F1 above 1/2."""
    shuffled_narrow_f1: float
    narrow_concepts: int
    narrow_by_group: dict[str, float]
    narrow_by_band: dict[str, float]
    """By occurrences among the tokens, as `24-47`."""
    covering_latents: int
    """Different latents that tell a narrow concept with an F1 above 1/2."""
    density: float
    """Median, over narrow concepts, of the share of tokens on which the best latent fires."""
    support_kept: float | None = None
    """Share of the active latents that stay active under Gaussian noise of 1% of ||x - b_dec||; None for nulls."""
    energy_kept: float | None = None
    """The same, of the squared codes."""
    mismatches: list[str] | None = None
    """How the activations differ from those the SAE was trained on; None where nothing known does."""


@dataclass(frozen=True)
class LabelledProbeRecord(_Record):
    """How well the features of one dictionary tell the classes of labelled texts (docs/concepts/meaning.md).

    Accuracies are means over balanced one-vs-rest tasks, on texts on which nothing was chosen or fitted: chance is 1/2.
    """

    name: str
    kind: str
    """The kind of SAE; `untrained` and `coordinates` for the nulls."""
    reading: str
    """How codes were read; empty for coordinates."""
    dataset: str
    n_features: int
    learned_values: int
    """0 for what was not learned."""
    texts: int
    tokens: int
    tasks: int
    accuracy_1: float
    """Of the feature with the largest difference of means."""
    accuracy_2: float
    accuracy_5: float
    accuracy_all: float
    """Of all features: SAEBench's `sae_test_accuracy` or `llm_test_accuracy`, but for how it is fitted."""
    accuracy_1_by_task: dict[str, float]
    auc: dict[str, float] = dataclasses.field(default_factory=dict)
    """Test area under the curve by penalty and latents, as `l1 16`; empty where it was not asked for."""
    tpp: dict[str, float] = dataclasses.field(default_factory=dict)
    """Targeted probe perturbation by how many latents are ablated; empty where it was not asked for."""
    scr: dict[str, float] = dataclasses.field(default_factory=dict)
    """Spurious correlation removal, likewise; empty also where texts have no attribute."""


@dataclass(frozen=True)
class AbsorptionRecord(_Record):
    """How much of the first letters of words is absorbed by other latents (docs/concepts/meaning.md)."""

    name: str
    kind: str
    reading: str
    words: int
    """Tokens of the vocabulary that were asked for their first letter."""
    letters: int
    """Letters that the stream's own probe tells."""
    absorption_fraction: float
    """Mean share of a word that other latents say, where the stream says the letter."""
    full_absorption: float
    """Share of words on which the letter's latents are silent and one other latent speaks."""
    split_latents: float
    """Latents that a letter is split into, mean."""
    full_absorption_by_letter: dict[str, float]
    cautions: list[str]
    """Why these numbers should not be leaned on."""
