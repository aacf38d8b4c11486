"""Which SAEs a frontier trains: one dial, the degree, and the dense controls that make its numbers mean something."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae

CONTROLS = ("dense", "dense-untied", "matched", "matched-omp", "oneshot", "clustered")
"""`dense`: a full dense SAE of the same n_latents, tied; `dense-untied`: the same with an encoder of its own;
`matched`: for each degree a small dense tied SAE with as many learned values; `matched-omp`: the same, trained and read
by pursuit as the Expander SAEs are; `oneshot`: for each degree an Expander SAE on a fixed mask with the one-shot TopK
encoder, trained and read that way; `clustered`: for each degree a sparse
SAE whose columns live in disjoint blocks of rows instead of on an expander."""


@dataclass(frozen=True)
class Variant:
    """One SAE to train: what it is, with which seed."""

    name: str
    """The same for every seed: `expander-d7`, `dense`, `dense-untied`, `dense-n56`, `clustered-d7`."""
    family: str
    """`expander`, or the control: `matched`, `matched-omp`, `oneshot`, `dense`, `dense-untied`, `clustered`."""
    n_latents: int
    k: int
    seed: int
    degree: int | None = None
    """Non-zeros per column; None for a dense SAE."""
    matched_degree: int | None = None
    """The degree whose decoder values it has; None for a full dense SAE."""

    @property
    def folder(self) -> str:
        """Name of its folder, one for each seed."""
        return f"{self.name}-seed{self.seed}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)

    def build(
        self,
        d_in: int,
        *,
        signed: bool = False,
        latent_bias: bool = False,
        construction: str = "balanced",
        stages: int = 0,
    ) -> AbstractSae:
        """The untrained SAE; `construction` is the mask of an Expander SAE.

        `stages` is how many stages of block OMP find the codes of the families `expander`, `clustered` and
        `matched-omp`
        (0: one-shot TopK); the other controls always use one-shot TopK.

        Raises:
            ExpanderSaeError: impossible sizes.
        """
        shared: dict[str, Any] = {
            "d_in": d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "seed": self.seed,
            "signed": signed,
            "latent_bias": latent_bias,
        }
        if self.family in ("expander", "clustered", "matched-omp"):
            shared["stages"] = min(stages, self.k)
        if self.degree is None:
            return DenseTopKSae(**shared, tied=self.family != "dense-untied")
        construction = "clustered" if self.family == "clustered" else construction
        return ExpanderSae(**shared, degree=self.degree, construction=construction)


def plan(
    degrees: Iterable[int],
    controls: Iterable[str] = ("dense", "matched"),
    *,
    d_in: int,
    n_latents: int,
    k: int,
    seeds: Iterable[int] = (0,),
    note: Callable[[str], None] = print,
) -> list[Variant]:
    """List the SAEs of a frontier, seed by seed.

    A matched control has n′ = degree · n_latents / d_in latents (rounded), so that its decoder has as many learned
    values as the sparse one's; both being tied, all learned values match too. Where n′ < k there is no TopK of k
    and the control is left out, with a note.

    Args:
        degrees: non-zeros per column of the Expander SAEs.
        controls: any of `CONTROLS`.
        d_in: length of an activation.
        n_latents: columns of the Expander SAEs and of the full dense controls.
        k: active latents per token, for every SAE.
        seeds: one SAE of each variant for each.
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
    variants: list[Variant] = []
    for seed in seeds:
        told = note if seed == seeds[0] else _say_nothing
        variants += _of_one_seed(degrees, controls, d_in, n_latents, k, seed, told)
    return variants


def _of_one_seed(
    degrees: list[int],
    controls: list[str],
    d_in: int,
    n_latents: int,
    k: int,
    seed: int,
    note: Callable[[str], None],
) -> list[Variant]:
    found = [Variant(f"expander-d{d}", "expander", n_latents, k, seed, d, d) for d in degrees]
    if "clustered" in controls:
        found += [Variant(f"clustered-d{d}", "clustered", n_latents, k, seed, d, d) for d in degrees]
    if "oneshot" in controls:
        found += [Variant(f"oneshot-d{d}", "oneshot", n_latents, k, seed, d, d) for d in degrees]
    if "matched" in controls or "matched-omp" in controls:
        taken: set[int] = set()
        for degree in degrees:
            n_matched = round(degree * n_latents / d_in)
            if n_matched < k:
                note(
                    f"no matched dense control for degree {degree}: it would have {n_matched} latents, "
                    f"fewer than k = {k}"
                )
            elif n_matched == n_latents and "dense" in controls:
                note(f"the matched dense control for degree {degree} is the full dense control")
            elif n_matched in taken:
                note(f"degree {degree} shares its matched dense control, n' = {n_matched}, with a smaller degree")
            else:
                taken.add(n_matched)
                if "matched" in controls:
                    found.append(Variant(f"dense-n{n_matched}", "matched", n_matched, k, seed, None, degree))
                if "matched-omp" in controls:
                    found.append(Variant(f"dense-n{n_matched}-omp", "matched-omp", n_matched, k, seed, None, degree))
    if "dense" in controls:
        found.append(Variant("dense", "dense", n_latents, k, seed))
    if "dense-untied" in controls:
        found.append(Variant("dense-untied", "dense-untied", n_latents, k, seed))
    return found


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))


def _say_nothing(_text: str) -> None:
    """The same note for every seed is told once."""
