"""Which SAEs a frontier trains: one dial, the degree, and the controls that make its numbers mean something."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from expander_sae.graphs import column_bits
from expander_sae.pursuit import Encoder, Reading, Stages, parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import (
    AbstractSae,
    DenseTopKSae,
    ExpanderSae,
    IrregularSae,
)

from .supports import DIVERSITIES, banded_mask, dialled_mask, shared_mask

CONTROLS = {
    "dense": "the full dense SAE of the same n_latents, tied, one-shot",
    "dense-untied": "the same with an encoder of its own that starts at the decoder",
    "dense-randinit": "the same with an encoder of its own that starts at random",
    "dense-omp": "the full dense SAE trained and read by pursuit as the Expander SAEs are",
    "matched": "per degree, a dense tied one-shot SAE with as many learned values: n' = degree n / d_in",
    "matched-omp": "the same, trained and read by pursuit as the Expander SAEs are",
    "matched-decoder": "per degree, a dense SAE with its own encoder and as many decoder values: n'",
    "matched-untied": "per degree, a dense SAE with its own encoder and as many learned values: n' / 2",
    "matched-bytes": "per degree, a dense tied one-shot SAE of as many bytes, float32 values and learned rows counted",
    "matched-bytes-omp": "the same, trained and read by pursuit",
    "pca": "per degree, the leading n' principal directions: all of them, and the best k of them for each token",
    "irregular": "per degree, an Expander SAE of as many entries whose columns may have up to 4 degree + 4 of them",
    "oneshot": "per degree, an Expander SAE on a fixed mask, trained and read by the one-shot TopK encoder",
    "fixed": "per degree, an Expander SAE whose mask stays as it is",
    "clustered": "per degree, a fixed mask of disjoint row blocks; left-over rows are out of reach, as in the paper",
    "banded": "per degree, a fixed mask of windows of neighbouring rows",
    "shared": "per degree, a fixed mask with few distinct supports",
    "diversity": "per degree, fixed masks from disjoint blocks (0) to balanced (1), every row reachable",
    "pruned": "per degree, the largest entries of the full dense SAE, which are then retuned; needs `dense`",
}
"""What an Expander SAE can be compared with, in words."""

_BY_PURSUIT = ("expander", "irregular", "matched-omp", "matched-bytes-omp", "dense-omp")
_FIXED = ("fixed", "clustered", "banded", "shared", "diversity")
_CLOSED = ("pca", "pca-topk")
_UNTIED = ("dense-untied", "dense-randinit", "matched-decoder", "matched-untied")


@dataclass(frozen=True)
class Variant:
    """One SAE to train: what it is, with which seed."""

    name: str
    """The same for every seed: `expander-d7`, `dense`, `dense-untied`, `dense-n56`, `clustered-d7`."""
    family: str
    """`expander`, or the control."""
    n_latents: int
    k: int
    seed: int
    degree: int | None = None
    """Non-zeros per column; None for a dense SAE."""
    matched_degree: int | None = None
    """The degree whose size it has; None for a full dense SAE."""
    diversity: float | None = None
    """Place of the dial, for the family `diversity`."""

    @property
    def folder(self) -> str:
        """Name of its folder, one for each seed."""
        return f"{self.name}-seed{self.seed}"

    @property
    def training(self) -> str:
        """How it is made: "" in the pass of the settings, "fixed" in one that moves no entry, "pruned" out of the dense
        SAE, "closed" without steps."""
        if self.family in _FIXED:
            return "fixed"
        if self.family in _CLOSED:
            return "closed"
        return "pruned" if self.family == "pruned" else ""

    @property
    def sae_path(self) -> str:
        """Where the SAE is, below the frontier's folder."""
        return f"seed{self.seed}{self.training and '-' + self.training}/{self.name}"

    def can_be_read_by(self, reading: str) -> bool:
        """Whether this inference means anything for it: principal directions have one best way, and a small SAE may
        have fewer columns than k and the spare ones together."""
        return self.family not in _CLOSED and parse_reading(reading).fits(self.k, self.n_latents)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings; what came after the first version is left out where it is not used, so that
        finished pieces of earlier versions still fit."""
        plain = asdict(self)
        if self.diversity is None:
            del plain["diversity"]
        return {**plain, "training": self.training} if self.training else plain

    def build(
        self,
        d_in: int,
        *,
        signed: bool = False,
        latent_bias: bool = False,
        construction: str = "balanced",
        dense_draw: bool = False,
        stages: int = 0,
        spare: int | None = None,
    ) -> AbstractSae:
        """The untrained SAE; `construction` is the mask of an Expander SAE, `dense_draw` starts it at the values of the
        dense SAE of its seed (`ExpanderSae.draw_as_dense`).

        `stages` is how many stages of block OMP find the codes of the Expander SAEs, of the controls on fixed masks and
        of those whose name says `omp` (0: one-shot TopK), `spare` how many columns too many each stage picks (None: two
        for each it adds); the other controls always use one-shot TopK.

        Raises:
            ExpanderSaeError: impossible sizes, or a variant that is not built but made in closed form.
        """
        if self.training == "closed":
            raise ExpanderSaeError(f"expected an SAE that is trained; {self.name} is made in closed form")
        shared: dict[str, Any] = {
            "d_in": d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "seed": self.seed,
            "signed": signed,
            "latent_bias": latent_bias,
        }
        by_pursuit = self.family in (*_BY_PURSUIT, *_FIXED)
        shared["reading"] = self.reading(stages, spare) if by_pursuit else Encoder()
        if self.degree is None:
            sae = DenseTopKSae(**shared, tied=self.family not in _UNTIED)
            return _random_encoder(sae) if self.family == "dense-randinit" else sae
        if self.family == "irregular":
            return IrregularSae.averaging(self.degree, **shared, construction=construction)
        masks: dict[str, Callable[..., Any]] = {"banded": banded_mask, "shared": shared_mask}
        sizes = {"d_in": d_in, "n_latents": self.n_latents, "degree": self.degree, "seed": self.seed}
        if self.family == "diversity":
            assert self.diversity is not None
            mask = dialled_mask(self.diversity, **sizes)
        else:
            mask = masks[self.family](**sizes) if self.family in masks else None
        construction = "clustered" if self.family == "clustered" else construction
        sae = ExpanderSae(**shared, degree=self.degree, construction=construction, mask=mask)
        if dense_draw:
            sae.draw_as_dense()
        return sae

    def reading(self, stages: int, spare: int | None) -> Reading:
        """The pursuit of this SAE, with as many stages and spare columns of those asked for as its sizes allow; 0
        stages: the encoder."""
        return Stages(stages, spare).fitted(self.k, self.n_latents) if stages else Encoder()


@torch.no_grad()
def _random_encoder(sae: DenseTopKSae) -> DenseTopKSae:
    assert sae.encoder is not None
    generator = torch.Generator().manual_seed(sae.seed)
    torch.randn(
        sae.encoder.shape, generator=generator, dtype=torch.float32, device="cpu"
    )  # the decoder's draw, from which the encoder's must differ
    sae.encoder.copy_(
        torch.randn(sae.encoder.shape, generator=generator, dtype=torch.float32, device="cpu") / sae.d_in**0.5
    )
    return sae


def plan(
    degrees: Iterable[int],
    controls: Iterable[str] = ("dense", "matched"),
    *,
    d_in: int,
    n_latents: int,
    k: int,
    seeds: Iterable[int] = (0,),
    diversities: Iterable[float] = DIVERSITIES,
    note: Callable[[str], None] = print,
) -> list[Variant]:
    """List the SAEs of a frontier, seed by seed.

    A matched control has n′ = degree · n_latents / d_in latents (rounded), so that its decoder has as many learned
    values as the sparse one's; both being tied, all learned values match too. Where n′ < k there is no TopK of k
    and the control is left out, with a note. So for the other controls that are matched. Principal directions need no
    seed: the first one has them.

    Args:
        degrees: non-zeros per column of the Expander SAEs.
        controls: any of `CONTROLS`.
        d_in: length of an activation.
        n_latents: columns of the Expander SAEs and of the full dense controls.
        k: active latents per token, for every SAE.
        seeds: one SAE of each variant for each.
        diversities: places of the dial, for the control `diversity`.
        note: told what is left out, and why.

    Raises:
        ExpanderSaeError: nothing to train, an unknown control, or a size no SAE can have.
    """
    degrees, controls, seeds = _unique(degrees), _unique(controls), _unique(seeds)
    unknown = [control for control in controls if control not in CONTROLS]
    if unknown:
        raise ExpanderSaeError(f"expected controls out of {', '.join(CONTROLS)}; got {', '.join(unknown)}")
    if not seeds or not (degrees or controls):
        raise ExpanderSaeError("expected at least one degree or control, and one seed; got none")
    for degree in degrees:
        if not 1 <= degree <= d_in:
            raise ExpanderSaeError(f"expected degrees from 1 to d_in = {d_in}; got {degree}")
    if not 1 <= k <= n_latents:
        raise ExpanderSaeError(f"expected k from 1 to n_latents = {n_latents}; got {k}")
    if "pruned" in controls and "dense" not in controls:
        raise ExpanderSaeError("expected the control dense beside pruned, which is made out of it")
    variants: list[Variant] = []
    for seed in seeds:
        told = note if seed == seeds[0] else _say_nothing
        found = _Planner(d_in, n_latents, k, seed, told)
        found.sparse(degrees, controls, _unique(diversities))
        for control in controls:
            if control in _WIDTHS:
                found.matched(degrees, control, "dense" in controls)
        if "pca" in controls and seed == seeds[0]:
            found.principal(degrees)
        full = [c for c in ("dense", "dense-untied", "dense-randinit", "dense-omp") if c in controls]
        found.variants += [Variant(name, name, n_latents, k, seed) for name in full]
        variants += found.variants
    return variants


def _bytes_width(degree: int, n_latents: int, d_in: int) -> int:
    column = 4 * degree + column_bits(d_in, degree) / 8  # float32 values and their rows
    return round(n_latents * column / (4 * d_in))


_WIDTHS: dict[str, tuple[Callable[[int, int, int], int], str]] = {
    # n' of (degree, n_latents, d_in), and what is added to the name
    "matched": (lambda d, n, m: round(d * n / m), ""),
    "matched-omp": (lambda d, n, m: round(d * n / m), "-omp"),
    "matched-decoder": (lambda d, n, m: round(d * n / m), "-decoder"),
    "matched-untied": (lambda d, n, m: round(d * n / (2 * m)), "-untied"),
    "matched-bytes": (_bytes_width, "-bytes"),
    "matched-bytes-omp": (_bytes_width, "-bytes-omp"),
}


class _Planner:
    """The variants of one seed."""

    def __init__(self, d_in: int, n_latents: int, k: int, seed: int, note: Callable[[str], None]) -> None:
        self.d_in, self.n_latents, self.k, self.seed, self.note = d_in, n_latents, k, seed, note
        self.variants: list[Variant] = []

    def sparse(self, degrees: list[int], controls: list[str], diversities: list[float]) -> None:
        """The Expander SAEs and the controls that are sparse themselves."""
        n, k, seed = self.n_latents, self.k, self.seed
        self.variants += [Variant(f"expander-d{d}", "expander", n, k, seed, d, d) for d in degrees]
        for family in ("irregular", "oneshot", "fixed", "clustered", "banded", "shared", "pruned"):
            if family in controls:
                self.variants += [Variant(f"{family}-d{d}", family, n, k, seed, d, d) for d in degrees]
        if "diversity" in controls:
            self.variants += [
                Variant(f"diversity{dial:g}-d{d}", "diversity", n, k, seed, d, d, dial)
                for d in degrees
                for dial in diversities
            ]

    def matched(self, degrees: list[int], control: str, with_full: bool) -> None:
        """One dense control of each degree's size, where there is one."""
        width, ending = _WIDTHS[control]
        taken: set[int] = set()
        for degree in degrees:
            n_matched = width(degree, self.n_latents, self.d_in)
            what = f"no {control} dense control for degree {degree}"
            if n_matched < self.k:
                self.note(f"{what}: it would have {n_matched} latents, fewer than k = {self.k}")
            elif n_matched == self.n_latents and with_full and control == "matched":
                self.note(f"the matched dense control for degree {degree} is the full dense control")
            elif n_matched in taken:
                self.note(
                    f"degree {degree} shares its {control} dense control, n' = {n_matched}, with a smaller degree"
                )
            else:
                taken.add(n_matched)
                name = f"dense-n{n_matched}{ending}"
                self.variants.append(Variant(name, control, n_matched, self.k, self.seed, None, degree))

    def principal(self, degrees: list[int]) -> None:
        """Principal directions of each degree's size: all of them, and the best k."""
        taken: set[int] = set()
        for degree in degrees:
            directions = min(self.d_in, round(degree * self.n_latents / self.d_in))
            if directions in taken or directions < 1:
                continue
            taken.add(directions)
            shared: dict[str, Any] = {"seed": self.seed, "matched_degree": degree}
            # All d_in directions give x back: nothing to compare.
            if directions < self.d_in:
                self.variants.append(Variant(f"pca-r{directions}", "pca", directions, directions, **shared))
            if self.k < directions:
                name = f"pca-r{directions}-k{self.k}"
                self.variants.append(Variant(name, "pca-topk", directions, self.k, **shared))


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _say_nothing(_text: str) -> None:
    """The same note for every seed is told once."""
