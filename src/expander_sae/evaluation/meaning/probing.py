"""Sparse probing: how well the best few latents tell a concept, chosen on one half of a text and tested on the other.

Latents are chosen by the difference of their means over the tokens with and without the concept (SAEBench, Karvonen et
al., "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders", 2025), here divided by their standard deviation, or
as they are. What the probe says is judged by F1, since most concepts hold on few tokens and accuracy then flatters.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from .features import Features

Selection = Literal["standardised", "mean difference"]
LEAST_POSITIVES = 8
"""A concept that holds on fewer tokens of a half, or is missing on fewer, is not probed there."""


class Halves(NamedTuple):
    """Tokens to choose and fit on, and tokens to test on; int64 indices."""

    fit: np.ndarray
    test: np.ndarray


def halves(groups: np.ndarray, *, seed: int = 0) -> list[Halves]:
    """Tokens in two halves of about equal size that share no group (a block, a document), once either way round.

    Args:
        groups: the group of each token, int64 [tokens].
        seed: of the order in which groups are dealt.

    Example:
        >>> import numpy as np
        >>> one, other = halves(np.array([0, 0, 1, 1]))
        >>> sorted(one.fit.tolist() + one.test.tolist()), one.fit.tolist() == other.test.tolist()
        ([0, 1, 2, 3], True)
    """
    names, size = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[np.argsort(-size[order], kind="stable")]  # large ones first, each to the smaller half
    taken, totals = [[], []], [0, 0]
    for place in order.tolist():
        side = int(totals[1] < totals[0])
        taken[side].append(names[place])
        totals[side] += int(size[place])
    first = np.isin(groups, taken[0])
    one, other = np.flatnonzero(first), np.flatnonzero(~first)
    return [Halves(one, other), Halves(other, one)]


def can_be_probed(labels: np.ndarray, half: Halves) -> bool:
    """Whether a concept holds, and does not hold, on tokens enough of both halves."""
    counts = [(int(labels[rows].sum()), len(rows)) for rows in half]
    return all(LEAST_POSITIVES <= yes <= rows - LEAST_POSITIVES for yes, rows in counts)


def evenness(labels: np.ndarray, half: Halves) -> int:
    """Tokens of a concept in the half that has fewer of them."""
    return min(int(labels[rows].sum()) for rows in half)


def ranked(features: Features, labels: np.ndarray, rows: np.ndarray, selection: Selection) -> np.ndarray:
    """Features by falling score for each concept on the tokens `rows`: int64 [concepts, features].

        score = |mean over positives - mean over negatives|  (/ standard deviation)

    Args:
        features: values at all tokens.
        labels: bool [concepts, tokens].
        rows: tokens that count.
        selection: whether to divide by the standard deviation of the feature.
    """
    values = features.values[rows]
    yes = labels[:, rows].astype(np.float64)
    total = np.asarray(values.sum(0)).ravel()
    sums = np.asarray((values.T @ yes.T).T)
    counts = yes.sum(1, keepdims=True)
    score = np.abs(sums / np.maximum(counts, 1) - (total - sums) / np.maximum(len(rows) - counts, 1))
    if selection == "standardised":
        mean = total / len(rows)
        spread = np.sqrt(np.maximum(np.asarray(values.multiply(values).sum(0)).ravel() / len(rows) - mean**2, 0))
        score = np.where(spread > 0, score / np.where(spread > 0, spread, 1), 0)
    return np.argsort(-score, axis=1, kind="stable")


def f1_of_probe(features: Features, chosen: np.ndarray, labels: np.ndarray, half: Halves) -> float:
    """F1 on the test half of a logistic regression on chosen features, fitted on the other half.

    Features are scaled to unit variance; the threshold is the one with the best F1 where it was fitted, since a
    threshold of 1/2 would call no rare concept present.

    Args:
        features: values at all tokens.
        chosen: features to use.
        labels: bool [tokens].
        half: where to fit and to test.
    """
    fit = np.stack([features.column(int(f), half.fit) for f in chosen], 1)
    test = np.stack([features.column(int(f), half.test) for f in chosen], 1)
    mean, spread = fit.mean(0), fit.std(0)
    spread[spread == 0] = 1.0
    fit, test = (fit - mean) / spread, (test - mean) / spread
    known = labels[half.fit]
    if len(chosen) == 1:
        # A regression on one feature keeps its order or turns it round.
        sign = 1.0 if fit[known].mean() >= fit[~known].mean() else -1.0
        scored, asked = sign * fit[:, 0], sign * test[:, 0]
    else:
        model = LogisticRegression(max_iter=1000).fit(fit, known)
        scored, asked = model.decision_function(fit), model.decision_function(test)
    return f1(asked >= best_threshold(scored, known), labels[half.test])


def best_threshold(scores: np.ndarray, labels: np.ndarray) -> float:
    """The threshold t with the best F1 of `scores >= t`; in the middle between two scores.

    Example:
        >>> import numpy as np
        >>> best_threshold(np.array([0.0, 1.0, 2.0]), np.array([False, True, True]))
        0.5
    """
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    found = np.cumsum(labels[order])
    called = np.arange(1, len(scores) + 1)
    quality = 2 * found / (called + found[-1])
    ends = np.append(sorted_scores[1:] != sorted_scores[:-1], True)  # equal scores are called together
    best = int(np.argmax(np.where(ends, quality, -1.0)))
    below = sorted_scores[best + 1] if best + 1 < len(scores) else sorted_scores[best] - 1.0
    return float((sorted_scores[best] + below) / 2)


def f1(called: np.ndarray, labels: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN); 0 where nothing was found.

    Example:
        >>> import numpy as np
        >>> f1(np.array([True, True, False]), np.array([True, False, False]))
        0.6666666666666666
    """
    hits = int((called & labels).sum())
    return 2 * hits / (int(called.sum()) + int(labels.sum())) if hits else 0.0


class _Sorted:
    """The values above zero of all features (turned round where `sign` is -1), feature by feature, by falling value."""

    def __init__(self, features: Features, sign: float) -> None:
        values = features.values * sign
        values.data[values.data < 0] = 0.0
        values.eliminate_zeros()
        ends = values.indptr
        parts = [a + np.argsort(-values.data[a:b], kind="stable") for a, b in pairwise(ends.tolist())]
        order = np.concatenate(parts) if len(parts) else np.zeros(0, dtype=np.int64)
        self.value, self.token = values.data[order], values.indices[order]
        self.feature = np.repeat(np.arange(features.n_features), np.diff(ends))
        self.first = ends[:-1].astype(np.int64)[self.feature]
        tied = np.zeros(len(order), dtype=bool)  # with the next one: equal values of a feature are called together
        tied[:-1] = (self.feature[1:] == self.feature[:-1]) & (self.value[1:] == self.value[:-1])
        last = np.flatnonzero(~tied)
        self.last = last[np.searchsorted(last, np.arange(len(order)))]
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        by_token = sparse.csc_matrix((place, values.indices, ends), shape=values.shape).tocsr()
        self._places, self._begins = by_token.data, by_token.indptr

    def of_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """Where the values of these tokens are, from the first place to the last."""
        parts = [self._places[self._begins[token] : self._begins[token + 1]] for token in tokens.tolist()]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, dtype=np.int64)

    def best(self, known: np.ndarray, seen: np.ndarray) -> tuple[float, int, float]:
        """The best F1 of `value >= threshold` on a half, its feature and threshold; 0 where none calls a positive.

        It is at the value of a token with the concept: from there to the next such value more is called, and nothing
        found.

        Args:
            known: tokens of the half with the concept, int64.
            seen: values of tokens of the half up to each place, int64; of `counted`.
        """
        mine = self.of_tokens(known)
        if not len(mine):
            return 0.0, 0, 1.0
        feature = self.feature[mine]
        new = np.ones(len(mine), dtype=bool)
        new[1:] = feature[1:] != feature[:-1]
        hits = np.arange(len(mine)) - np.flatnonzero(new)[np.cumsum(new) - 1] + 1
        before = np.where(self.first[mine] > 0, seen[self.first[mine] - 1], 0)
        quality = 2 * hits / (seen[self.last[mine]] - before + len(known))
        found = int(np.argmax(quality))
        place = int(mine[found])
        below = int(np.searchsorted(seen, seen[self.last[place]] + 1))  # the next value of a token of the half
        same = below < len(seen) and self.feature[below] == self.feature[place]
        threshold = (self.value[place] + (self.value[below] if same else 0.0)) / 2
        return float(quality[found]), int(self.feature[place]), float(threshold)

    def counted(self, half: np.ndarray) -> np.ndarray:
        """Values of tokens of a half (bool [tokens]) up to each place."""
        return np.cumsum(half[self.token])


class BestLatents:
    """The one feature and threshold that tell a concept best on a half of the text, over all features there are.

    Features are taken as they are and, where they have negative values, turned round as well.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        signs = (1.0, -1.0) if (features.values.data < 0).any() else (1.0,)
        self._all = {sign: _Sorted(features, sign) for sign in signs}
        self._half: Halves | None = None
        self._seen: dict[float, np.ndarray] = {}

    def best(self, labels: np.ndarray, half: Halves) -> tuple[int, float, float]:
        """The best feature of a concept (bool [tokens]), its F1 where it was chosen, and on the other half."""
        if self._half is not half:
            inside = np.zeros(len(labels), dtype=bool)
            inside[half.fit] = True
            self._half, self._seen = half, {sign: entries.counted(inside) for sign, entries in self._all.items()}
        known = half.fit[labels[half.fit]]
        found = max((entries.best(known, self._seen[sign]), sign) for sign, entries in self._all.items())
        (here, feature, threshold), sign = found
        if here == 0.0:
            return 0, 0.0, 0.0
        called = sign * self.features.column(feature, half.test) >= threshold
        return feature, here, f1(called, labels[half.test])
