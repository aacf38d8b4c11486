"""Codes planted in a dictionary, and how often each method finds their supports."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expander_sae.graphs import make_mask
from expander_sae.ops import Codes
from expander_sae.pursuit import OMP, Dictionary, MatchingPursuit, Stages
from expander_sae.records import ExpanderSaeError

METHODS = ("thresholding", "mp", "omp", "block omp", "omp, 1.5 k and pruned")
"""One-shot TopK of W^T y; matching pursuit for 5 k picks, the k largest kept; OMP for exactly k picks; the same in 8
blocks; OMP for 1.5 k picks, of which the k largest are kept."""
CODES = ("gaussian", "half-gaussian", "signs", "uniform")
"""Normal; its absolute value; plus or minus one; uniform in [0.5, 1.5] with random signs."""
VALUES = ("flat", "uneven", "gaussian")
"""Magnitudes of a column before it is scaled: all equal, uniform in [1, 2], normal; signs are random."""
_DENSE = "dense"


@dataclass(frozen=True)
class Planted:
    """Which dictionary, which codes, how much noise."""

    d_in: int
    n_latents: int
    degree: int
    construction: str = "balanced"
    values: str = "flat"
    codes: str = "gaussian"
    noise: float = 0.0
    """||e|| / ||W x||, white."""

    def __post_init__(self) -> None:
        if self.codes not in CODES or self.values not in VALUES or not self.noise >= 0:
            raise ExpanderSaeError(f"expected codes of {CODES}, values of {VALUES} and a noise >= 0, got {self}")

    @property
    def nonnegative(self) -> bool:
        """Whether codes have one sign, which every method is told."""
        return self.codes == "half-gaussian"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def but(self, **changes: Any) -> Planted:
        """The same with something else."""
        return replace(self, **changes)


@lru_cache(maxsize=4)
def dictionary(planted: Planted, seed: int) -> tuple[Tensor | None, Tensor]:
    """(rows int64, unit values) [n_latents, degree], or (None, matrix [n_latents, d_in]) of a dense Gaussian one."""
    draw = np.random.default_rng([seed, planted.d_in, planted.n_latents, planted.degree])
    sizes = {"d_in": planted.d_in, "n_latents": planted.n_latents, "degree": planted.degree}
    shape = (planted.n_latents, planted.degree)
    rows = None
    if planted.construction == _DENSE:
        values = draw.normal(size=(planted.n_latents, planted.d_in))
    else:
        rows = torch.from_numpy(make_mask(planted.construction, seed=seed, **sizes).rows.astype(np.int64))
        size = {"flat": lambda: np.ones(shape), "uneven": lambda: draw.uniform(1, 2, shape),
                "gaussian": lambda: np.abs(draw.normal(size=shape))}[planted.values]()  # fmt: skip
        values = size * draw.choice([-1.0, 1.0], shape)
    return rows, torch.from_numpy(values / np.linalg.norm(values, axis=1, keepdims=True)).float()


def plant(planted: Planted, seed: int, k: int, trials: int) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor]]:
    """(y [trials, d_in], supports [trials, k] sorted, dictionary)."""
    if not 1 <= k <= planted.n_latents:
        raise ExpanderSaeError(f"expected k from 1 to {planted.n_latents} latents; got {k}")
    # Neither codes nor noise enter the dictionary, and some masks take seconds to make.
    rows, values = dictionary(planted.but(codes="gaussian", noise=0.0), seed)
    draw = np.random.default_rng([seed, k, trials, 7])
    supports = np.stack([draw.choice(planted.n_latents, k, replace=False) for _ in range(trials)])
    code = {
        "gaussian": lambda: draw.normal(size=(trials, k)),
        "half-gaussian": lambda: np.abs(draw.normal(size=(trials, k))),
        "signs": lambda: draw.choice([-1.0, 1.0], (trials, k)),
        "uniform": lambda: draw.uniform(0.5, 1.5, (trials, k)) * draw.choice([-1.0, 1.0], (trials, k)),
    }[planted.codes]()
    found, weight = torch.from_numpy(supports), torch.from_numpy(code).float()
    chosen = values[found] * weight[:, :, None]
    if rows is None:
        y = chosen.sum(dim=1)
    else:
        y = torch.zeros(trials, planted.d_in, dtype=torch.float32, device="cpu").scatter_add_(
            1, rows[found].flatten(1), chosen.flatten(1)
        )
    noise = torch.from_numpy(draw.normal(size=(trials, planted.d_in))).float()
    y = y + planted.noise * y.norm(dim=1, keepdim=True) * noise / noise.norm(dim=1, keepdim=True)
    return y, found.sort(dim=1).values, (rows, values)


def exact_supports(planted: Planted, seed: int, k: int, trials: int, methods: tuple[str, ...]) -> dict[str, int]:
    """For each method, in how many of the trials it finds exactly the planted support.

    Raises:
        ExpanderSaeError: an unknown method, or a k that the dictionary does not have.
    """
    unknown = [method for method in methods if method not in METHODS]
    if unknown:
        raise ExpanderSaeError(f"expected methods out of {METHODS}; got {unknown}")
    y, supports, (rows, values) = plant(planted, seed, k, trials)
    return {
        method: int((_support(method, y, k, rows, values, planted) == supports).all(dim=1).sum()) for method in methods
    }


def _support(method: str, y: Tensor, k: int, rows: Tensor | None, values: Tensor, planted: Planted) -> Tensor:
    """[trials, k] sorted; slots that were not filled are -1."""
    signed = not planted.nonnegative
    source = Dictionary(rows, values, planted.d_in, signed=signed)
    if method == "thresholding":
        scores = source.correlate(y)
        return (scores.abs() if signed else scores).topk(k, dim=1).indices.sort(dim=1).values
    if method == "mp":
        codes = MatchingPursuit(steps=5 * k).codes(source, y, k)
    elif method == "omp":
        codes = OMP().codes(source, y, k)
    elif method == "block omp":
        codes = Stages(min(8, k)).codes(source, y, k)
    else:
        codes = _largest(OMP().codes(source, y, min(planted.n_latents, planted.d_in, -(-3 * k // 2))), k)
    return torch.where(codes.values != 0, codes.indices, -1).sort(dim=1).values


def _largest(codes: Codes, k: int) -> Codes:
    top = codes.values.abs().topk(k, dim=1).indices
    return Codes(codes.indices.gather(1, top), codes.values.gather(1, top))


def reach(rate: Callable[[int], float], ks: Iterable[int], share: float) -> int:
    """The largest k of a rising grid with at least that rate, there and at every smaller k of it; 0: none.

    Example:
        >>> reach(lambda k: 1.0 if k <= 12 or k > 40 else 0.0, (4, 8, 12, 16, 48), 0.95)
        12
    """
    found = 0
    for k in ks:
        if rate(k) < share:
            break
        found = k
    return found
