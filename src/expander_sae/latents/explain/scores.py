"""How well an explanation tells held-out text: detection and fuzzing, as delphi defines them (EleutherAI/delphi,
delphi/scorers/classifier).

Detection: does the latent fire in this window, yes or no? Half of the windows are firings from every quarter of its
activation, half are windows in which it is silent.

Fuzzing: is the highlighting right? In windows where the latent fires, its firings are highlighted (from 0.3 of the
window's strongest on); in windows where it is silent, the places at which another window has its firings.

Both are reported as balanced accuracy, (share of firing windows said yes to + share of silent ones said no to) / 2;
one half is chance. Beside it stands a null: the explanation of another latent on the same windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .evidence import Evidence, Window

KINDS = ("detection", "fuzzing")


@dataclass(frozen=True)
class Sample:
    """A window to judge: with tokens highlighted (fuzzing) or not (detection), and what is true of it."""

    window: Window
    marked: np.ndarray | None
    """bool [tokens]; None in detection."""
    fires: bool


def samples(evidence: Evidence, kind: str, *, seed: int = 0) -> list[Sample]:
    """The held-out windows of a latent as questions of one kind, shuffled."""
    draw = np.random.default_rng((seed, evidence.latent, KINDS.index(kind)))
    if kind == "detection":
        found = [Sample(window, None, True) for window in evidence.firing]
        found += [Sample(window, None, False) for window in evidence.silent]
    else:
        found = [Sample(window, window.marked, True) for window in evidence.firing]
        found += [Sample(window, _elsewhere(window, evidence.firing, draw), False) for window in evidence.silent]
    return [found[place] for place in draw.permutation(len(found))]


def _elsewhere(window: Window, firing: Sequence[Window], draw: np.random.Generator) -> np.ndarray:
    """The places that a firing window drawn at random highlights, in this window; its last token if it is too short."""
    marked = np.zeros(len(window.tokens), dtype=bool)
    theirs = firing[draw.integers(len(firing))].marked[: len(marked)]
    marked[: len(theirs)] = theirs
    if not marked.any():
        marked[-1] = True
    return marked


def balanced_accuracy(asked: Sequence[Sample], said: Sequence[bool | None]) -> float | None:
    """Mean of the share of firing windows said yes to and of silent ones said no to; None where one has no answer."""
    shares = []
    for fires in (True, False):
        mine = [yes for sample, yes in zip(asked, said, strict=True) if sample.fires == fires]
        answers = [yes == fires for yes in mine if yes is not None]
        if not answers:
            return None
        shares.append(sum(answers) / len(answers))
    return sum(shares) / 2


def score(asked: Sequence[Sample], said: Sequence[bool | None], null: Sequence[bool | None]) -> dict[str, Any]:
    """What is stored of a kind of questions: the balanced accuracy, the null's, and on how many windows."""
    firing = sum(sample.fires for sample in asked)
    return {
        "balanced_accuracy": balanced_accuracy(asked, said), "null": balanced_accuracy(asked, null),
        "firing": firing, "silent": len(asked) - firing,
    }  # fmt: skip


def others(count: int, *, seed: int = 0) -> list[int]:
    """Whose explanation is each one's null: a permutation without a fixed point (of one, itself)."""
    order = np.random.default_rng(seed).permutation(count)
    partner = np.empty(count, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return partner.tolist()
