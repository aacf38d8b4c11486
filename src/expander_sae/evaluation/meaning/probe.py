"""Probe dictionaries for concepts, each beside what needs no training: the numbers of `expander-sae probe`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits  # scikit-learn brings it
from torch import Tensor

from expander_sae.activations import ActivationStore
from expander_sae.records import ExpanderSaeError, ProbeRecord
from expander_sae.saes import AbstractSae, ExpanderSae

from ..codes import store_batches
from ..nulls import redrawn_values, shuffled_rows, untrained_twins
from .concepts import Concept, broad_concepts
from .features import (
    Features,
    coordinates,
    latent_features,
    principal_components,
)
from .narrow import band_of, narrow_concepts
from .probing import BestLatents, Halves, Selection, can_be_probed, evenness, f1_of_probe, halves, ranked
from .stability import under_noise
from .text import read_text

KS = (1, 2, 5)
"""Latents that a probe may use."""
OF_BLOCKS = ("article", "topic")
"""Groups of concepts that live in one document: their halves share documents, but no block."""
NOISE = 0.01
"""Norm of the noise under which active latents should stay, as a share of ||x - b_dec||."""
NOISY_TOKENS = 4096
APART = ("topic",)
"""Groups of narrow concepts that are not in the mean over all of them: no dictionary tells them, dense ones neither."""
SPLITS = 4
"""Ways to halve the documents among which each narrow concept finds the one that halves its own tokens best."""


class TooLittleText(ExpanderSaeError):
    """No concept is on tokens enough to be probed."""


class Probed(NamedTuple):
    """Tokens with the concepts that can be probed on them."""

    x: Tensor
    """Activations [tokens, d_in], float32."""
    broad: list[Concept]
    """Labels are bool [tokens]."""
    narrow: list[Concept]
    splits: list[list[Halves]]
    """Ways to halve the text, each both ways round: `SPLITS` by documents, the last one by blocks."""
    split_of: dict[tuple[str, str], int]
    """By which of them a concept (group, name) is probed."""
    documents: int

    def by_split(self, concepts: Sequence[Concept]) -> dict[int, list[int]]:
        """The places of concepts, by the number of their split."""
        found: dict[int, list[int]] = {}
        for place, concept in enumerate(concepts):
            found.setdefault(self.split_of[concept.group, concept.name], []).append(place)
        return found


def prepare(
    store: ActivationStore,
    tokenizer: Any,
    *,
    split: str = "heldout",
    max_tokens: int | None = None,
    keep_special_tokens: bool = False,
    seed: int = 0,
) -> Probed:
    """Read activations with their text, and keep the concepts that both halves of it have tokens enough of.

    Raises:
        TooLittleText: there is too little of it.
        ExpanderSaeError: there is no text behind the activations.
    """
    parts, block, position, done = [], [], [], 0
    for batch in store_batches(store, split, keep_special_tokens=keep_special_tokens):
        count = len(batch.x) if max_tokens is None else min(len(batch.x), max_tokens - done)
        if count <= 0:
            break
        parts.append(batch.x[:count].float())
        block.append(batch.block[:count].numpy())
        position.append(batch.position[:count].numpy())
        done += count
    if not parts:
        raise TooLittleText(f"expected {split} activations to probe; got none in {store.path}")
    text = read_text(store.tokens(split), tokenizer)
    places = text.places(np.concatenate(block), np.concatenate(position))
    documents = text.document[places]
    groups = documents if len(np.unique(documents)) > 1 else text.block[places]
    splits = [halves(groups, seed=seed + number) for number in range(SPLITS)]
    splits.append(halves(text.block[places], seed=seed))
    broad, narrow, split_of = [], [], {}
    for concepts, kept, several in (
        (broad_concepts(text), broad, 1),
        (narrow_concepts(text, places, seed=seed), narrow, SPLITS),
    ):
        for concept in concepts:
            here = concept._replace(labels=concept.labels[places])
            allowed = [SPLITS] if concept.group in OF_BLOCKS else range(several)
            number = max(allowed, key=lambda n: evenness(here.labels, splits[n][0]))
            if can_be_probed(here.labels, splits[number][0]):
                kept.append(here)
                split_of[concept.group, concept.name] = number
    if not broad:
        raise TooLittleText(
            f"expected text in which some concept is on eight tokens of each half; got {done:,} tokens of "
            f"{len(np.unique(documents))} documents. Harvest more held-out text."
        )
    return Probed(torch.cat(parts), broad, narrow, splits, split_of, len(np.unique(documents)))


def probe(
    saes: Mapping[str, AbstractSae],
    probed: Probed,
    sample: Tensor,
    *,
    selection: Selection = "standardised",
    nulls: bool = True,
    seed: int = 0,
    say: Callable[[str], None] = lambda _text: None,
) -> list[ProbeRecord]:
    """How well the latents of SAEs tell concepts, and how well what was never trained does.

    Args:
        saes: by name.
        probed: what `prepare` gave.
        sample: training activations [tokens, d_in], for the nulls.
        selection: how the latents of a probe are chosen.
        nulls: also probe an untrained twin of every SAE, the halves of every Expander SAE (its rows dealt out among the
            columns, its values redrawn), raw coordinates, and principal components.
        seed: of untrained dictionaries and of the shuffled labels.
        say: told what is being probed.

    Returns:
        One record for each SAE, then those of the nulls.

    Raises:
        ExpanderSaeError: an SAE of another width.
    """
    records: list[ProbeRecord] = []
    half_trained: dict[str, ExpanderSae] = {}
    for name, sae in saes.items():
        if sae.d_in != probed.x.shape[1]:
            raise ExpanderSaeError(
                f"expected an SAE of d_in {probed.x.shape[1]}, that of the activations; got {sae.d_in} in {name}"
            )
        say(name)
        features = latent_features(name, sae, probed.x)
        found = score(features, probed, selection, seed, kind=sae.kind, reading=str(sae.reading),
                      learned_values=sae.learned_values())  # fmt: skip
        kept = under_noise(sae, probed.x[:NOISY_TOKENS].split(512), [NOISE])[0]
        records.append(replace(found, support_kept=kept["support_kept"], energy_kept=kept["energy_kept"]))
        if nulls and isinstance(sae, ExpanderSae):
            half_trained[f"{name}, rows shuffled"] = shuffled_rows(sae, seed=seed + 1)
            half_trained[f"{name}, values redrawn"] = redrawn_values(sae, seed=seed + 1)
    for name, part in half_trained.items():
        say(name)
        records.append(score(latent_features(name, part, probed.x), probed, selection, seed, kind="half untrained",
                             reading=str(part.reading), learned_values=0))  # fmt: skip
    if nulls:
        for name, twin in untrained_twins(saes, sample, seed=seed + 1).items():
            say(name)
            records.append(score(latent_features(name, twin, probed.x), probed, selection, seed, kind="untrained",
                                 reading=str(twin.reading), learned_values=0))  # fmt: skip
        for features in (coordinates(probed.x), principal_components(probed.x, sample)):
            say(features.name)
            records.append(score(features, probed, selection, seed, kind="coordinates", reading="", learned_values=0))
    return records


def score(
    features: Features,
    probed: Probed,
    selection: Selection,
    seed: int,
    *,
    kind: str,
    reading: str,
    learned_values: int,
    ks: Sequence[int] = KS,
) -> ProbeRecord:
    """Every number of one set of features; F1 of k latents is NaN for a k that is not among `ks`."""
    broad = _broad(features, probed, selection, ks)
    search = BestLatents(features)
    best = _narrow(search, probed)
    draw = np.random.default_rng(seed).permutation(len(probed.x))
    moved = probed._replace(
        broad=[c._replace(labels=c.labels[draw]) for c in probed.broad],
        narrow=[c._replace(labels=c.labels[draw]) for c in probed.narrow],
    )
    counted = [(c, *found) for c, found in zip(probed.narrow, best, strict=True) if c.group not in APART]
    narrow = [f for _, f, _, _ in counted]
    covering = {feature for _, f, feature, _ in counted if f > 0.5}
    shuffled = [f for c, (f, _, _) in zip(probed.narrow, _narrow(search, moved), strict=True) if c.group not in APART]
    return ProbeRecord(
        name=features.name,
        kind=kind,
        reading=reading,
        n_features=features.n_features,
        learned_values=learned_values,
        tokens=len(probed.x),
        documents=probed.documents,
        selection=selection,
        f1_1=_mean(broad[1]),
        f1_2=_mean(broad.get(2, ())),
        f1_5=_mean(broad.get(5, ())),
        shuffled_f1_1=_mean(_broad(features, moved, selection, ks=(1,))[1]),
        broad_concepts=len(probed.broad),
        broad_by_group=_means([c.group for c in probed.broad], broad[1]),
        narrow_f1=_mean(narrow),
        narrow_above_half=_mean([f > 0.5 for f in narrow]),
        shuffled_narrow_f1=_mean(shuffled),
        narrow_concepts=len(narrow),
        narrow_by_group=_means([c.group for c in probed.narrow], [f for f, _, _ in best]),
        narrow_by_band=_means([band_of(int(c.labels.sum())) for c, _, _, _ in counted], narrow),
        covering_latents=len(covering),
        density=float(np.median([density for _, _, _, density in counted])) if counted else float("nan"),
    )


def _broad(features: Features, probed: Probed, selection: Selection, ks: Sequence[int] = KS) -> dict[int, list[float]]:
    """F1 of the best k latents for every broad concept, the mean of both ways round."""
    found = {k: [0.0] * len(probed.broad) for k in ks}
    with threadpool_limits(1):  # regressions are so small that waking a second thread takes longer
        for number, mine in probed.by_split(probed.broad).items():
            labels = np.stack([probed.broad[place].labels for place in mine])
            for half in probed.splits[number]:
                order = ranked(features, labels, half.fit, selection)
                for row, place in enumerate(mine):
                    for k in ks:
                        found[k][place] += f1_of_probe(features, order[row, :k], labels[row], half) / 2
    return found


def _narrow(search: BestLatents, probed: Probed) -> list[tuple[float, int, float]]:
    """For every narrow concept F1 of the best latent (mean of both ways round), one best latent and its density."""
    density = search.features.density()
    found: list[list[tuple[float, int]]] = [[] for _ in probed.narrow]
    for number, mine in probed.by_split(probed.narrow).items():
        for half in probed.splits[number]:
            for place in mine:
                feature, _, there = search.best(probed.narrow[place].labels, half)
                found[place].append((there, feature))
    return [(float(np.mean([f for f, _ in both])), both[0][1], float(density[both[0][1]])) for both in found]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _means(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    grouped: dict[str, list[float]] = {}
    for name, value in zip(names, values, strict=True):
        grouped.setdefault(name, []).append(value)
    return {name: _mean(of) for name, of in sorted(grouped.items())}
