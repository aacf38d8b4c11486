"""What a feature store is made with, and of which SAEs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from expander_sae.pursuit import Reading
from expander_sae.records import ExpanderSaeError, whole_number

from ..identity import sae_sha256


@dataclass(frozen=True)
class Settings:
    """How much is read, and how much of it is shown. Whole numbers."""

    split: str = "heldout"
    max_tokens: int | None = None
    """Of the text, in whole blocks; None: all."""
    keep_special_tokens: bool = False
    outlier_medians: float | None = 5.0
    """Leave out tokens whose norm is above this many medians, as `evaluate` does: a few giant ones would be the highest
    activation of every latent. None keeps all."""
    contexts: int = 20
    """Of the highest activations."""
    per_quantile: int = 5
    """Contexts of each quarter of the firings."""
    before: int = 24
    """Tokens of a context before the one in question."""
    after: int = 8
    """And behind it."""
    tokens: int = 10
    """Top tokens, and tokens promoted and suppressed."""
    neighbours: int = 10
    """Nearest latents of each kind."""
    chunk: int = 8_192
    """Tokens read at once, or the least more that make whole blocks."""
    seed: int = 0
    """Of the samples."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), int(field.name in ("contexts", "tokens", "chunk"))
            if field.type == "int":
                whole_number(field.name, value, least=least, most=1 << 20)
        if self.outlier_medians is not None and not self.outlier_medians > 1:
            raise ExpanderSaeError(f"expected an outlier limit above 1 median; got {self.outlier_medians}")
        if self.max_tokens is not None:
            whole_number("max_tokens", self.max_tokens, least=1)

    @property
    def window(self) -> int:
        """Tokens of a context."""
        return self.before + 1 + self.after


@dataclass(frozen=True, eq=False)
class Source:
    """One view to be: an SAE that reads in one way."""

    name: str
    sae_name: str
    sae: Any
    sha256: str
    reading: str


def sources(saes: Mapping[str, Any], readings: Iterable[Reading] | None = None) -> list[Source]:
    """A view for each reading of each SAE; None: each SAE's own.

    Raises:
        ExpanderSaeError: there is no SAE, a reading does not fit one, or a reading stands twice.
    """
    if not saes:
        raise ExpanderSaeError("expected one SAE at least; got none")
    chosen = None if readings is None else list(readings)
    found = []
    for name, sae in saes.items():
        sha256 = sae_sha256(sae)
        for reading in [sae.reading] if chosen is None else chosen:
            found.append(Source(f"{name}, {reading}", name, sae.read_by(reading), sha256, str(reading)))
    if len({one.name for one in found}) < len(found):
        raise ExpanderSaeError("expected every reading once; got one twice")
    return found
