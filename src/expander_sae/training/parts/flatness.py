"""Flat columns: magnitudes of one column within a factor of each other, as certificates ask for."""

from dataclasses import dataclass

import torch

from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae

from ..flat_columns import flatten_columns
from .part import Found, Part, Step, Trained


@dataclass(frozen=True)
class Flatness:
    """Projections on flat columns (`keep_flat`), after each step of the last part of a pass."""

    beta: float
    """Magnitudes of a column differ by at most this factor (`expander_sae.theory.flatness`)."""
    since: float = 0.8
    """Share of the steps after which that begins; 1: once, at the end. Before entries have settled it makes columns
    crowd on few rows (docs/concepts/what-is-guaranteed.md)."""

    def __post_init__(self) -> None:
        if not self.beta >= 1 or not 0 <= self.since <= 1:
            raise ExpanderSaeError(
                f"expected beta >= 1 and since in 0..1 in Flatness (--flatness); got {self.beta} and {self.since}"
            )


class FlatnessPart(Part):
    """Calls `keep_flat`."""

    def __init__(self, config: Flatness, trained: Trained) -> None:
        assert isinstance(trained.sae, ExpanderSae)
        self.beta, self.sae, self.since = config.beta, trained.sae, config.since * trained.steps

    def after_step(self, step: Step, found: Found) -> None:
        """Project, if it is late enough."""
        del found
        if step.number + 1 >= self.since:  # true of the last step
            keep_flat(self.sae, self.beta)


@torch.no_grad()
def keep_flat(sae: ExpanderSae, flatness: float) -> int:
    """Project every column on the nearest one with max_i |w_ij| / min_i |w_ij| <= flatness; how many were not.

    Args:
        sae: its `columns.raw` [n_latents, degree] change in place, by `flatten_columns`.
        flatness: at least 1; float32 rounding may leave a ratio a few ulp above it.

    Raises:
        ExpanderSaeError: flatness below 1, or a column that is zero or not finite.

    Source: projected gradient steps; the projection is `flatten_columns`.

    Example:
        >>> sae = ExpanderSae(d_in=16, n_latents=32, degree=4, k=2)
        >>> _ = keep_flat(sae, 2.0)
        >>> bool((sae.values.abs().amax(1) / sae.values.abs().amin(1) < 2.001).all())
        True
    """
    if not flatness >= 1:
        raise ExpanderSaeError(f"expected a flatness of at least 1; got {flatness}")
    raw = sae.columns.raw
    size = raw.abs()
    # A little slack, or the rounding of one projection would ask for the next.
    uneven = (size.amax(dim=1) > flatness * (1 + 1e-6) * size.amin(dim=1)).nonzero()[:, 0]
    if len(uneven):
        raw[uneven] = torch.from_numpy(flatten_columns(raw[uneven].cpu().numpy(), flatness)).to(raw)
    return len(uneven)
