"""What a latent is explained by, and what its explanation is scored on: windows of text, no block in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MARKED = 0.3
"""Tokens are highlighted from this share of the window's strongest firing on, as delphi does."""
FEWEST = 3
"""Held-out windows of a kind from which on there is a score."""


@dataclass(frozen=True)
class Window:
    """A piece of a block of text, and how strongly one latent fires on its tokens (0: not at all)."""

    document: int
    block: int
    tokens: tuple[str, ...]
    values: np.ndarray
    """float [tokens]."""

    @cached_property
    def marked(self) -> np.ndarray:
        """The tokens where it fires, but for those that are weak beside the strongest; bool [tokens]."""
        strength = np.abs(self.values)
        return (strength > 0) & (strength >= MARKED * strength.max(initial=0.0))


@dataclass(frozen=True)
class Evidence:
    """One latent's windows."""

    latent: int
    explain: tuple[Window, ...]
    """Where it fires: its top contexts, and some of each quarter of its firings."""
    firing: tuple[Window, ...]
    """Held out: others of each quarter."""
    silent: tuple[Window, ...]
    """Held out: where it does not fire, as many."""
    quiet: tuple[Window, ...] = ()
    """The rest of the pool in which it does not fire: may explain, is in no block that is held out."""

    @property
    def scored(self) -> bool:
        """Whether there are windows enough for a score."""
        return min(len(self.firing), len(self.silent)) >= FEWEST


def split(
    latent: int,
    top: Sequence[Window],
    quarters: Sequence[Sequence[Window]],
    pool: Sequence[Window],
    *,
    seed: int = 0,
) -> Evidence:
    """Divide what is known of a latent into what explains it and what its explanation is scored on.

    Every other window of each quarter of its firings is held out, and with it its whole block: what else is known of
    that block explains nothing. Silent windows are drawn from the pool, none in a block that explains.

    Args:
        latent: its number.
        top: windows of its strongest firings.
        quarters: windows of each quarter of its firings by strength, drawn evenly.
        pool: windows of the text in which it does not fire.
        seed: of the draw of silent windows.
    """
    firing = [window for quarter in quarters for window in quarter[::2]]
    firing = list({window.block: window for window in firing}.values())
    held = {window.block for window in firing}
    known = [*top, *(window for quarter in quarters for window in quarter)]
    explain = [window for window in known if window.block not in held]
    if len(explain) < FEWEST:  # a rare latent: all that is known of it explains it, and there is no score
        firing, explain = [], known
    used = {window.block for window in explain}
    fit = [window for window in pool if window.block not in used]
    order = np.random.default_rng((seed, latent)).permutation(len(fit))
    silent = [fit[place] for place in order[: len(firing)]]
    held = {window.block for window in (*firing, *silent)}
    quiet = [fit[place] for place in order[len(firing) :] if fit[place].block not in held]
    return Evidence(latent, tuple(_distinct(explain)), tuple(firing), tuple(silent), tuple(quiet))


def _distinct(windows: Sequence[Window]) -> list[Window]:
    """The windows once each: the strongest firings are top contexts and of the highest quarter."""
    return list({(window.block, window.tokens): window for window in windows}.values())
