"""What compressing cost: reconstruction, cross entropy and bytes before and after, and the fate of every latent."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.evaluation import evaluate
from expander_sae.pursuit import Reading
from expander_sae.records import EvaluationRecord, write_tensors
from expander_sae.saes import ExpanderSae

from .agreement import LatentFates, cosines, firing_agreement, summarise
from .compress import DenseSae, ordinary_blocks

DENSE = "dense"


@dataclass(frozen=True)
class CompressionRecord:
    """A dense SAE and its compression, read in one or more ways, on the same held-out tokens."""

    recipe: dict[str, Any]
    dense: EvaluationRecord
    compressed: dict[str, EvaluationRecord]
    """By reading; the first is the SAE's own."""
    latents: dict[str, dict[str, Any]]
    """By reading: what `summarise` says of all latents together."""
    fates: LatentFates
    """Per latent, for the SAE's own reading."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the numbers of single latents are in `write_latents`'s file."""
        return {
            "recipe": self.recipe,
            "dense": self.dense.to_dict(),
            "compressed": {name: record.to_dict() for name, record in self.compressed.items()},
            "latents": self.latents,
            "retention": {name: retention(self.dense, record) for name, record in self.compressed.items()},
        }


def retention(dense: EvaluationRecord, compressed: EvaluationRecord) -> dict[str, float | None]:
    """Compressed over dense: explained variance, both forms of recovered cross entropy, sizes; None if unmeasured."""
    names = ("explained_variance", "ce_recovered_zero", "ce_recovered_mean", "bytes_on_disk", "learned_values")
    pairs = {name: (getattr(compressed, name), getattr(dense, name)) for name in names}
    return {name: None if None in pair or not pair[1] else pair[0] / pair[1] for name, pair in pairs.items()}


def describe_source(path: Path, dense: DenseSae) -> str:
    """A dense SAE's name and a hash of its dictionary, so that another one of the same name is told apart."""
    digest = hashlib.sha256(dense.values.detach().float().contiguous().numpy().tobytes()).hexdigest()
    return f"{path.resolve().name} ({digest[:16]})"


def measure(
    dense: Any,
    sae: ExpanderSae,
    store: ActivationStore,
    *,
    readings: Sequence[Reading] = (),
    language_model: LanguageModel | None = None,
    ce_tokens: int | None = 16_384,
    max_tokens: int | None = None,
    progress: bool = True,
) -> CompressionRecord:
    """Evaluate both on held-out tokens, and compare every latent's direction and firing with the original's.

    Args:
        dense: the original, evaluated as it reads itself.
        sae: its compression.
        store: the activations' held-out split is used.
        readings: more ways to read the compressed SAE.
        language_model: for the cross entropy; None leaves it out.
        ce_tokens: as in `evaluate`.
        max_tokens: as in `evaluate`.
        progress: draw progress bars.

    Raises:
        ExpanderSaeError: as in `evaluate`, or no such reading.
    """
    own = str(sae.reading)
    read = {own: sae} | {str(reading): sae.read_by(reading) for reading in readings}
    records = evaluate(
        {DENSE: dense, **read},
        store,
        language_model=language_model,
        ce_tokens=ce_tokens,
        max_tokens=max_tokens,
        progress=progress,
    )
    tokens = ordinary_blocks(store, "heldout", max_tokens)
    agreements = firing_agreement(dense.encode, {name: one.encode for name, one in read.items()}, tokens, sae.n_latents)
    with torch.no_grad():
        cosine = cosines(dense.values.float(), sae.rows, sae.values)
    fates = {name: LatentFates(cosine, agreement) for name, agreement in agreements.items()}
    return CompressionRecord(
        recipe=dict(sae.metadata.get("compression") or {}),
        dense=records.pop(DENSE),
        compressed=records,
        latents={name: summarise(fate) for name, fate in fates.items()},
        fates=fates[own],
    )


def write_latents(record: CompressionRecord, path: Path) -> None:
    """Write cosine, f1, jaccard (float32) and firings before and after (int64), all [n_latents], as safetensors."""
    agreement = record.fates.agreement
    arrays = {
        "cosine": record.fates.cosine.float(),
        "f1": agreement.f1.float(),
        "jaccard": agreement.jaccard.float(),
        "firings_before": agreement.before,
        "firings_after": agreement.after,
    }
    write_tensors(path, arrays, {"tokens": str(agreement.tokens)})
