"""Sparse probing: how well the best few latents tell a concept, chosen on one half of a text and tested on the other.

Latents are chosen by the difference of their means over the tokens with and without the concept (SAEBench, Karvonen et
al., "SAEBench: A Comprehensive Benchmark for Sparse Autoencoders", 2025), here divided by their standard deviation, or
as they are. What the probe says is judged by F1, since most concepts hold on few tokens and accuracy then flatters.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
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


class Sorted(NamedTuple):
    """The values above zero of all features, feature by feature, each by falling value; arrays [entries]."""

    token: np.ndarray
    value: np.ndarray
    feature: np.ndarray

    @classmethod
    def of(cls, features: Features, sign: float) -> Sorted:
        """Those of the features as they are (1.0) or turned round (-1.0)."""
        value = sign * features.values.data
        feature = np.repeat(np.arange(features.n_features), np.diff(features.values.indptr))
        some = value > 0
        token, value, feature = features.values.indices[some], value[some], feature[some]
        order = np.lexsort((token, -value, feature))
        return cls(token[order], value[order], feature[order])


class BestLatents:
    """The one feature and threshold that tell a concept best on a half of the text, over all features there are.

    Features are taken as they are and, where they have negative values, turned round as well.
    """

    def __init__(self, features: Features) -> None:
        self.features = features
        signs = (1.0, -1.0) if (features.values.data < 0).any() else (1.0,)
        self._all = {sign: Sorted.of(features, sign) for sign in signs}
        self._half: Halves | None = None
        self._here: dict[float, _Columns] = {}

    def best(self, labels: np.ndarray, half: Halves) -> tuple[int, float, float]:
        """The best feature of a concept (bool [tokens]), its F1 where it was chosen, and on the other half."""
        if self._half is not half:
            inside = np.zeros(len(labels), dtype=bool)
            inside[half.fit] = True
            self._half, self._here = half, {sign: _Columns(entries, inside) for sign, entries in self._all.items()}
        positives = int(labels[half.fit].sum())
        found = max((columns.best(labels, positives), sign) for sign, columns in self._here.items())
        (here, feature, threshold), sign = found
        if here == 0.0:
            return 0, 0.0, 0.0
        called = sign * self.features.column(feature, half.test) >= threshold
        return feature, here, f1(called, labels[half.test])


class _Columns:
    """The entries of one half, with what every search for a threshold needs."""

    def __init__(self, entries: Sorted, inside: np.ndarray) -> None:
        kept = inside[entries.token]
        self.token, self.value, self.feature = (part[kept] for part in entries)
        count = len(self.token)
        new = np.ones(count, dtype=bool)
        new[1:] = self.feature[1:] != self.feature[:-1]
        self.begins = np.flatnonzero(new)
        self.first = self.begins[np.cumsum(new) - 1] if count else np.zeros(0, dtype=np.int64)
        self.rank = np.arange(count) - self.first + 1
        self.ends = np.ones(count, dtype=bool)  # the last of equal values of a feature: those are called together
        self.ends[:-1] = new[1:] | (self.value[1:] != self.value[:-1])

    def best(self, labels: np.ndarray, positives: int) -> tuple[float, int, float]:
        """The best F1 of `value >= threshold`, its feature and threshold; 0 where none calls a positive."""
        if not len(self.token):
            return 0.0, 0, 1.0
        known = labels[self.token]
        hits = np.cumsum(known)
        before = (hits - known)[self.first]
        quality = np.where(self.ends, 2 * (hits - before) / (self.rank + positives), 0.0)
        place = int(np.argmax(quality))
        same = place + 1 < len(self.token) and self.feature[place + 1] == self.feature[place]
        below = self.value[place + 1] if same else 0.0
        return float(quality[place]), int(self.feature[place]), float((self.value[place] + below) / 2)
