"""Sparse probing of labelled texts, by SAEBench's definition: `expander-sae probe --labelled`.

Karvonen et al., "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders in Language Model Interpretability", 2025;
the probes are those of Gurnee et al., "Finding Neurons in a Haystack", 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import torch
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from expander_sae.activations import LanguageModel
from expander_sae.records import LabelledProbeRecord
from expander_sae.saes import AbstractSae

from ..codes import text_batches
from .features import Features, principal_components, untrained_twins
from .labelled import Dealt, Task
from .means import CONTEXT, Means, one_block_each, text_means, tokenised
from .probing import ranked

KS = (1, 2, 5)
"""Features that a probe may use."""
SAMPLE_TEXTS = 256
"""Training texts whose tokens give the nulls their mean and principal components."""


def largest_differences(features: Features, task: Task) -> np.ndarray:
    """Features by falling |mean over positives - mean over negatives| on the texts to fit on, int64 [features]."""
    labels = np.zeros((1, features.n_tokens), dtype=bool)
    labels[0, task.fit[task.fit_labels]] = True
    return ranked(features, labels, task.fit, "mean difference")[0]


def accuracy(features: Features, task: Task, chosen: np.ndarray | None = None) -> float:
    """Test accuracy of a logistic regression on chosen features, or on all.

    l2-regularised with C = 1 on features as they are, in float32, at most 1,000 iterations.

    Args:
        features: rows are texts.
        task: where to fit and to test.
        chosen: features; None: all of them.

    Example:
        >>> import numpy as np
        >>> from scipy import sparse
        >>> yes = np.arange(8) % 2 == 0
        >>> task = Task("even", np.arange(4), yes[:4], np.arange(4, 8), yes[4:])
        >>> accuracy(Features("known", sparse.csc_matrix(9.0 * yes[:, None])), task)
        1.0
    """
    if chosen is None:
        rows = sparse.csr_matrix(features.values, dtype=np.float32)
        fit, test = rows[task.fit], rows[task.test]
        if features.values.nnz > 0.5 * features.n_tokens * features.n_features:
            fit, test = fit.toarray(), test.toarray()
    else:
        columns = np.sort(chosen)
        fit = np.stack([features.column(int(f), task.fit) for f in columns], 1).astype(np.float32)
        test = np.stack([features.column(int(f), task.test) for f in columns], 1).astype(np.float32)
    with warnings.catch_warnings():
        # Where it stopped is what is tested, as in SAEBench.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=1000).fit(fit, task.fit_labels)
    return float((model.predict(test) == task.test_labels).mean())


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
    also: Callable[[Features, Dealt], dict[str, float]] = lambda _features, _dealt: {},
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
        also: what else is measured of each set of features, for the record's `auc`.
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
    records = []
    for name, sae in saes.items():
        records.append(_record(means.latents[name], means, dealt, also(means.latents[name], dealt), kind=sae.kind,
                               reading=str(sae.reading), learned_values=sae.learned_values()))  # fmt: skip
    for name, twin in twins.items():
        records.append(_record(means.latents[name], means, dealt, also(means.latents[name], dealt), kind="untrained",
                               reading=str(twin.reading), learned_values=0))  # fmt: skip
    for features in baselines:
        records.append(_record(features, means, dealt, also(features, dealt), kind="coordinates", reading="",
                               learned_values=0))  # fmt: skip
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
    auc: dict[str, float],
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
        auc=auc,
    )
