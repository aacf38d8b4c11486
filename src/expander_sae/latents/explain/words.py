"""Labels by words and token classes: found, scored by the rule itself, and no model asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .evidence import Evidence
from .places import Places
from .rule import Background, Rule, find_rule
from .scores import Sample


def explain(evidence: Evidence, background: Background, density: float) -> Rule | None:
    """The rule that tells best where a latent fires; None where nothing is over-represented."""
    if not evidence.explain:
        return None
    places = Places([window.tokens for window in evidence.explain])
    weights = np.zeros((len(evidence.explain), places.length))
    for row, window in zip(weights, evidence.explain, strict=True):
        row[: len(window.tokens)] = np.abs(window.values) * window.marked
    document = np.repeat([window.document for window in evidence.explain], places.length)
    return find_rule(places, document, weights.ravel(), background, density)


class Judge:
    """Says what rules say of a latent's held-out windows.

    Detection: whether the rule holds anywhere in the window. Fuzzing: whether it holds on at least half of the
    highlighted tokens.
    """

    def __init__(self, evidence: Evidence) -> None:
        windows = (*evidence.firing, *evidence.silent)
        self._row = {id(window): row for row, window in enumerate(windows)}
        self._places = Places([window.tokens for window in windows])

    def says(self, rule: Rule, asked: Sequence[Sample]) -> list[bool | None]:
        """Yes or no for each window."""
        holds = rule.holds(self._places).reshape(-1, self._places.length)
        said: list[bool | None] = []
        for sample in asked:
            row = holds[self._row[id(sample.window)], : len(sample.window.tokens)]
            said.append(bool(row.any() if sample.marked is None else row[sample.marked].mean() >= 0.5))
        return said
