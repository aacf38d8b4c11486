"""A label without a model: the rule over words and token classes that tells a latent's firings best.

Candidates are words and classes that are over-represented at firings. For a candidate with weight a of all weight A at
firings and count b of B places of the text, with a prior of `PRIOR` observations as in the text, the log odds ratio is

    delta = log((a + p) / (A - a + PRIOR - p)) - log((b + p) / (B - b + PRIOR - p)),   p = PRIOR (b + 1/2) / (B + 1)

and its z-score delta / sqrt(1 / (a + p) + 1 / (b + p)) (Monroe, Colaresi and Quinn 2008, "Fightin' Words"). The rule is
put together from the candidates with the largest z, a part at a time, as long as its Dice coefficient with the firings
grows:

    dice = 2 d r / (d + q),   d: the latent's density,  r: share of firings where the rule holds,  q: share of the text

(the F1 of rule and firing over the whole text, estimated from a sample of each).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .places import CLASSES, SURROUNDINGS, Places, Predicate

PRIOR = 10.0
SHORTLIST = 8
"""Candidates of each kind."""
HEADS = 5
"""Words or classes that a label names at most."""
_SUPPORT = 1.5
"""Firings (in weight) that a word has to be at: what is there once names nothing."""
_GAIN = 1.04
"""By how much each further part has to raise the Dice coefficient."""
_HEADS, _AROUND = ("word", "piece", "class"), ("after", "near", "before", "around")


@dataclass(frozen=True)
class Rule:
    """Holds where one of `heads` does (anywhere, if there are none), and `condition` if there is one."""

    heads: tuple[Predicate, ...] = ()
    condition: Predicate | None = None
    dice: float = 0.0
    """Of rule and firings, over the text."""
    share: float = 0.0
    """Of the firings at which it holds, by weight."""

    def holds(self, places: Places) -> np.ndarray:
        """bool [places]."""
        found = places.real.copy()
        if self.heads:
            found &= np.logical_or.reduce([places.holds(head) for head in self.heads])
        return found if self.condition is None else found & places.holds(self.condition)

    def __str__(self) -> str:
        parts = [", ".join(map(str, self.heads)) or "any word"]
        return " · ".join(parts if self.condition is None else [*parts, str(self.condition)])


class Background:
    """The text that firings are compared with: a sample of its blocks.

    Args:
        rows: tokens of each block, as text.
    """

    def __init__(self, rows: list[tuple[str, ...]]) -> None:
        self.places = Places(rows)
        self.size = int(self.places.real.sum())
        self.counts = {kind: self.places.counts(kind) for kind in ("word", "piece", "after", "before")}

    def count(self, predicate: Predicate) -> int:
        """Places of the sample where it holds."""
        if predicate.kind in self.counts:
            return self.counts[predicate.kind].get(predicate.key, 0)
        return int(self.places.holds(predicate).sum())


def find_rule(places: Places, weights: np.ndarray, background: Background, density: float) -> Rule | None:
    """The best rule for a latent; None where no candidate is over-represented.

    Args:
        places: of the windows that explain it.
        weights: of each place: how strongly it fires there, 0 where it does not; float [places].
        background: a sample of the text.
        density: share of the text's tokens on which it fires.
    """
    at = weights.nonzero()[0]
    weight = weights[at]
    search = _Search(places, at, weight / weight.mean(), background, density)
    return search.best()


class _Search:
    def __init__(
        self, places: Places, at: np.ndarray, weight: np.ndarray, background: Background, density: float
    ) -> None:
        self.places, self.at, self.weight, self.background, self.density = places, at, weight, background, density
        self.total = float(weight.sum())

    def best(self) -> Rule | None:
        heads, conditions = self._shortlist(_HEADS), self._shortlist(_AROUND)
        starts = [Rule((head,)) for head in heads] + [Rule((), condition) for condition in conditions]
        if not starts:
            return None
        rule = max(map(self._judged, starts), key=lambda one: one.dice)
        while True:
            further = [Rule((*rule.heads, head), rule.condition) for head in heads if self._adds(rule, head)]
            if rule.condition is None:
                further += [Rule(rule.heads, condition) for condition in conditions]
            better = max(map(self._judged, further), key=lambda one: one.dice, default=rule)
            if better.dice <= _GAIN * rule.dice:
                return rule
            rule = better

    @staticmethod
    def _adds(rule: Rule, head: Predicate) -> bool:
        return head not in rule.heads and len(rule.heads) < HEADS and (bool(rule.heads) or rule.condition is not None)

    def _judged(self, rule: Rule) -> Rule:
        share = float(self.weight[rule.holds(self.places)[self.at]].sum()) / self.total
        text = max(float(rule.holds(self.background.places).sum()) / self.background.size, self.density * share)
        dice = 2 * self.density * share / (self.density + text)
        return Rule(rule.heads, rule.condition, dice, share)

    def _shortlist(self, kinds: tuple[str, ...]) -> list[Predicate]:
        """The candidates of each kind with the largest z-scores."""
        chosen = []
        for kind in kinds:
            scored = [(self.score(one, found), one) for one, found in self._weights(kind).items() if found >= _SUPPORT]
            scored = sorted((pair for pair in scored if pair[0] > 1.0), key=lambda pair: (-pair[0], pair[1]))
            chosen += [one for _, one in scored[:SHORTLIST]]
        return chosen

    def _weights(self, kind: str) -> dict[Predicate, float]:
        """Weight at firings of all that a kind of predicate could ask for."""
        if kind in ("class", "around"):
            names = CLASSES if kind == "class" else SURROUNDINGS
            asked = [Predicate(kind, name) for name in names]
            return {one: float(self.weight[self.places.holds(one)[self.at]].sum()) for one in asked}
        found: dict[Predicate, float] = {}
        words = self.places.around(self.at) if kind == "near" else [{word} for word in self.places.words[kind][self.at]]
        for here, weight in zip(words, self.weight.tolist(), strict=True):
            for word in here - {""}:
                one = Predicate(kind, word)
                found[one] = found.get(one, 0.0) + weight
        return found

    def score(self, predicate: Predicate, found: float) -> float:
        """The z-score of the log odds ratio."""
        seen, size = self.background.count(predicate), self.background.size
        prior = PRIOR * (seen + 0.5) / (size + 1)
        odds = math.log((found + prior) / (self.total - found + PRIOR - prior))
        usual = math.log((seen + prior) / (size - seen + PRIOR - prior))
        return (odds - usual) / math.sqrt(1 / (found + prior) + 1 / (seen + prior))
