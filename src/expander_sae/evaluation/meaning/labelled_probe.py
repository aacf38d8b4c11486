"""Sparse probing of labelled texts, by SAEBench's definition: `expander-sae probe --labelled`.

Karvonen et al., "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders in Language Model Interpretability", 2025;
the probes are those of Gurnee et al., "Finding Neurons in a Haystack", 2023.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from expander_sae.activations import LanguageModel
from expander_sae.records import LabelledProbeRecord
from expander_sae.saes import AbstractSae

from ..codes import text_batches
from ..nulls import untrained_twins
from .accuracy import accuracy, largest_differences
from .features import Features, principal_components
from .labelled import Dealt
from .means import CONTEXT, Means, one_block_each, text_means, tokenised
from .perturbation import Attack, columns_of
from .regularised import mean_auc

KS = (1, 2, 5)
"""Features that a probe may use."""
SAMPLE_TEXTS = 256
"""Training texts whose tokens give the nulls their mean and principal components."""


def probe_labelled(
    saes: Mapping[str, AbstractSae],
    dealt: Dealt,
    language_model: LanguageModel,
    layer: int,
    *,
    context: int = CONTEXT,
    keep_special_tokens: bool = False,
    nulls: bool = True,
    seed: int = 0,
    auc: bool = False,
    perturbation: bool = False,
    say: Callable[[int], None] = lambda _texts: None,
) -> list[LabelledProbeRecord]:
    """How well the latents of SAEs tell classes of texts, beside the model's channels and what was never trained.

    Args:
        saes: by name.
        dealt: what `deal` gave.
        language_model: whose stream the SAEs explain.
        layer: after which block, counted from 0.
        context: tokens read of each text.
        keep_special_tokens: also count special tokens and first positions.
        nulls: also probe an untrained twin of every SAE and principal components.
        seed: of the untrained dictionaries.
        auc: also measure the area under the curve of larger probes, as sae-probes does.
        perturbation: also ablate latents, for TPP and SCR; coordinates have none.
        say: told how many texts the model has read.

    Returns:
        A record for each SAE, then those of the nulls; the model's channels are always among them.
    """
    twins: dict[str, AbstractSae] = {}
    sample: Tensor | None = None
    if nulls:
        sample = stream_sample(dealt, language_model, layer, context=context, keep_special_tokens=keep_special_tokens)
        twins = untrained_twins(saes, sample, seed=seed + 1)
    means = text_means(
        dealt.texts, language_model, layer, {**saes, **twins}, context=context, keep_special_tokens=keep_special_tokens,
        say=say,
    )  # fmt: skip
    baselines = [means.channels]
    if sample is not None:
        channels = torch.from_numpy(means.channels.values.toarray())
        baselines.append(principal_components(channels, sample))
    attack = Attack(means.channels, dealt, seed=seed) if perturbation else None
    records = []
    for name, sae in {**saes, **twins}.items():
        features = means.latents[name]
        record = _record(
            features, means, dealt, auc,
            kind="untrained" if name in twins else sae.kind,
            reading=str(sae.reading),
            learned_values=0 if name in twins else sae.learned_values(),
        )  # fmt: skip
        if attack is not None:
            record = dataclasses.replace(record, **attack.measures(features, columns_of(sae)))
        records.append(record)
    for features in baselines:
        records.append(_record(features, means, dealt, auc, kind="coordinates", reading="", learned_values=0))
    return records


def stream_sample(
    dealt: Dealt, language_model: LanguageModel, layer: int, *, context: int, keep_special_tokens: bool
) -> Tensor:
    """The stream at the tokens of the first training texts, [tokens, d_in] float32."""
    rows = np.flatnonzero(dealt.training)
    rows = rows[np.linspace(0, len(rows) - 1, min(SAMPLE_TEXTS, len(rows))).astype(int)]
    ids = tokenised([dealt.texts[row] for row in rows], language_model.tokenizer, context)
    blocks = one_block_each(ids, language_model.tokenizer)
    batches = text_batches(blocks, language_model, layer, keep_special_tokens=keep_special_tokens)
    return torch.cat([batch.x.float() for batch in batches])


def _record(
    features: Features,
    means: Means,
    dealt: Dealt,
    auc: bool,
    *,
    kind: str,
    reading: str,
    learned_values: int,
) -> LabelledProbeRecord:
    found: dict[int, list[float]] = {k: [] for k in KS}
    whole = []
    for task in dealt.tasks:
        order = largest_differences(features, task)
        for k in KS:
            found[k].append(accuracy(features, task, order[:k]))
        whole.append(accuracy(features, task))
    return LabelledProbeRecord(
        name=features.name,
        kind=kind,
        reading=reading,
        dataset=dealt.name,
        n_features=features.n_features,
        learned_values=learned_values,
        texts=len(dealt.texts),
        tokens=means.tokens,
        tasks=len(dealt.tasks),
        accuracy_1=float(np.mean(found[1])),
        accuracy_2=float(np.mean(found[2])),
        accuracy_5=float(np.mean(found[5])),
        accuracy_all=float(np.mean(whole)),
        accuracy_1_by_task={task.name: value for task, value in zip(dealt.tasks, found[1], strict=True)},
        auc=mean_auc(features, dealt) if auc else {},
    )
