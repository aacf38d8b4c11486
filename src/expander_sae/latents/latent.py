"""What a feature store says of latents: frozen records that are JSON-ready."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from expander_sae.records.files import plain


class _Shown:
    """`as_dict` for the records below."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and text, as JSON has them: NaN is None."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    if isinstance(value, _Shown):
        return value.as_dict()
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return plain(value)


@dataclass(frozen=True)
class View(_Shown):
    """One SAE, read in one way."""

    id: int
    name: str
    """Of the SAE and its reading: "expander-d7, stages:8+auto"."""
    sae: str
    folder: str
    sha256: str
    """Of its learned numbers; the same for every reading of one SAE."""
    reading: str
    kind: str
    d_in: int
    n_latents: int
    degree: int | None
    """Entries of a column, on average; None: dense."""
    k: int
    tokens: int
    """Read."""
    fvu: float | None
    dead: int
    """Latents that never fired on them."""
    energy: float
    """Mean over tokens of the sum of squared codes."""
    config: dict[str, Any]


@dataclass(frozen=True)
class Context(_Shown):
    """A stretch of text on which a latent fires."""

    activation: float
    """|code| on the token in question."""
    document: int
    block: int
    position: int
    """Of the token in its block."""
    tokens: list[str]
    """The window."""
    values: list[float]
    """The latent's code on each of its tokens."""
    peak: int
    """Which of them is the token in question."""
    part: int
    """0: one of the highest activations; 1 to 4: of a quarter of the firings by activation, 4 the highest."""


@dataclass(frozen=True)
class TokenWeight(_Shown):
    """A token whose logit a latent raises or lowers."""

    token: str
    id: int
    value: float


@dataclass(frozen=True)
class TokenCount(_Shown):
    """A token on which a latent fires."""

    token: str
    id: int
    firings: int
    mean: float
    """Of |code| on it."""


@dataclass(frozen=True)
class Neighbour(_Shown):
    """Another latent of the same view."""

    latent: int
    value: float


@dataclass(frozen=True)
class Match(_Shown):
    """A latent and the one of another view whose column is nearest."""

    latent: int
    other: int
    cosine: float


@dataclass(frozen=True)
class Summary(_Shown):
    """One line about a latent."""

    view: str
    index: int
    firings: int
    density: float
    max: float | None
    specific: float
    top_tokens: list[str]


@dataclass(frozen=True, eq=False)
class Latent(_Shown):
    """Everything a store says of one latent; docs/guides/latent-store.md defines the numbers."""

    view: str
    index: int
    firings: int
    density: float
    """Share of the tokens."""
    mean: float | None
    """Of |code| over its firings; None: it never fired, as below."""
    max: float | None
    energy: float
    """Share of the view's."""
    token_entropy: float | None
    """Bits."""
    specific: float
    """Bits."""
    dead: bool
    histogram: np.ndarray
    """Firings by |code|, int64 [32]."""
    edges: np.ndarray
    """Of its bins, float64 [33]."""
    promoted: list[TokenWeight]
    suppressed: list[TokenWeight]
    top_tokens: list[TokenCount]
    nearest: list[Neighbour]
    """By cosine of columns."""
    together: list[Neighbour]
    """By cosine of the sets of tokens they fire on."""
    row_neighbours: list[Neighbour]
    """By shared rows; the value is how many."""
    rows: np.ndarray | None
    """int64 [degree]; None: a dense column, as below."""
    weights: np.ndarray | None
    """float32 [degree]."""
    contexts: list[Context]
    """The highest activations, one of a block at most."""
    quantiles: dict[int, list[Context]]
    """Contexts of the quarters 1 (lowest) to 4 of its firings."""
    matches: dict[str, Match]
    """The nearest latent of each other view of the same width."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it; the keys of `quantiles` are text."""
        found = super().as_dict()
        found["quantiles"] = {str(part): _plain(contexts) for part, contexts in self.quantiles.items()}
        found["matches"] = {name: match.as_dict() for name, match in self.matches.items()}
        return found

    def _repr_html_(self) -> str:
        from .notebook import latent_html

        return latent_html(self)


@dataclass(frozen=True, eq=False)
class Histogram(_Shown):
    """Counts between edges."""

    edges: np.ndarray
    """float64 [bins + 1]."""
    counts: np.ndarray
    """int64 [bins]."""


@dataclass(frozen=True, eq=False)
class Overview(_Shown):
    """A view at a glance: how many latents have which density and share of the energy; the dead are in neither."""

    view: View
    density: Histogram
    energy: Histogram
    dead: int
    firings: int
    """Of all latents."""


@dataclass(frozen=True, eq=False)
class Places(_Shown):
    """The map of a view's latents by similarity: arrays [n_latents]."""

    latent: np.ndarray
    x: np.ndarray
    """In [-1, 1], as y."""
    y: np.ndarray
    density: np.ndarray
