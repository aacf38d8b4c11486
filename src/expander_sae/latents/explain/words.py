"""Labels by words and token classes: found, scored by the rule itself, and no model asked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .evidence import Evidence, Window
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
    return find_rule(places, weights.ravel(), background, density)


def judge(rule: Rule | None, asked: Sequence[Sample]) -> list[bool | None]:
    """What a rule says of windows.

    Detection: whether it holds anywhere in the window. Fuzzing: whether it holds on at least half of the highlighted
    tokens. Without a rule there is no answer.
    """
    if rule is None or not asked:
        return [None] * len(asked)
    windows: list[Window] = [sample.window for sample in asked]
    places = Places([window.tokens for window in windows])
    holds = rule.holds(places).reshape(len(windows), places.length)
    said: list[bool | None] = []
    for sample, row in zip(asked, holds, strict=True):
        if sample.marked is None:
            said.append(bool(row.any()))
        else:
            said.append(bool(row[: len(sample.marked)][sample.marked].mean() >= 0.5))
    return said
