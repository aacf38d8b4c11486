"""Which SAEs a frontier trains: one dial, the degree, and the controls that make its numbers mean something."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from expander_sae.graphs.diversity import DIVERSITIES, banded_mask, dialled_mask, shared_mask
from expander_sae.pursuit import Encoder, Reading, as_numbers, parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae, IrregularSae

from .families import CONTROLS, FAMILIES, FAMILY, Family


@dataclass(frozen=True)
class SaeOptions:
    """How every SAE of a frontier is built."""

    signed: bool = False
    """TopK without a ReLU."""
    latent_bias: bool = False
    construction: str = "balanced"
    """How the masks of the Expander SAEs are made."""
    dense_draw: bool = False
    """Start them at the values of the dense SAE of their seed (`ExpanderSae.draw_as_dense`)."""
    irregular: bool = False
    """The Expander SAEs may have columns of different degrees, of the mean that is asked for."""
    reading: Reading = field(default_factory=Encoder)
    """What finds the codes of the families with `pursuit`, as far as the sizes of each allow; all others use one-shot
    TopK."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the names of records: the reading as `expander_sae.pursuit.as_numbers`; `irregular`, which
        came later, only where it is on."""
        plain = {name: value for name, value in vars(self).items() if name != "reading"} | as_numbers(self.reading)
        if not self.irregular:
            del plain["irregular"]
        return plain


AS_USUAL = SaeOptions()


@dataclass(frozen=True)
class Variant:
    """One SAE to train: what it is, with which seed."""

    name: str
    """The same for every seed: `expander-d7`, `dense`, `dense-untied`, `dense-n56`, `clustered-d7`."""
    family: str
    """A name of `FAMILIES`."""
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
        """How it is made, see `Family.training`."""
        return FAMILY[self.family].training

    @property
    def sae_path(self) -> str:
        """Where the SAE is, below the frontier's folder."""
        return f"seed{self.seed}{self.training and '-' + self.training}/{self.name}"

    def can_be_read_by(self, reading: str) -> bool:
        """Whether this inference means anything for it: principal directions have one best way, and a small SAE may
        have fewer columns than k and the spare ones together."""
        return self.training != "closed" and parse_reading(reading).fits(self.k, self.n_latents)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings; what came after the first version is left out where it is not used, so that
        finished pieces of earlier versions still fit."""
        plain = asdict(self)
        if self.diversity is None:
            del plain["diversity"]
        return {**plain, "training": self.training} if self.training else plain

    def build(self, d_in: int, options: SaeOptions = AS_USUAL) -> AbstractSae:
        """The untrained SAE.

        Raises:
            ExpanderSaeError: impossible sizes, or a variant that is not built but made in closed form.
        """
        if self.training == "closed":
            raise ExpanderSaeError(f"expected an SAE that is trained; got {self.name}, which is made in closed form")
        family = FAMILY[self.family]
        shared: dict[str, Any] = {
            "d_in": d_in,
            "n_latents": self.n_latents,
            "k": self.k,
            "seed": self.seed,
            "signed": options.signed,
            "latent_bias": options.latent_bias,
            "reading": options.reading.fitted(self.k, self.n_latents) if family.pursuit else Encoder(),
        }
        if self.degree is None:
            sae = DenseTopKSae(**shared, tied=family.encoder == "tied")
            if family.encoder == "random":
                sae.draw_encoder()
            return sae
        if family.irregular or (options.irregular and self.family == "expander"):
            # Where entries move (the family) there must be rows to move to.
            most = 4 if family.irregular else 8
            return IrregularSae.averaging(self.degree, **shared, most=most, construction=options.construction)
        masks: dict[str, Callable[..., Any]] = {"banded": banded_mask, "shared": shared_mask, "dialled": self._dialled}
        sizes = {"d_in": d_in, "n_latents": self.n_latents, "degree": self.degree, "seed": self.seed}
        mask = masks[family.mask](**sizes) if family.mask in masks else None
        construction = "clustered" if family.mask == "clustered" else options.construction
        sae = ExpanderSae(**shared, degree=self.degree, construction=construction, mask=mask)
        if options.dense_draw:
            sae.draw_as_dense()
        return sae

    def _dialled(self, **sizes: int) -> Any:
        assert self.diversity is not None
        return dialled_mask(self.diversity, **sizes)


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
    """List the SAEs of a frontier, seed by seed, family by family in the order of `FAMILIES`.

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
        raise ExpanderSaeError(
            f"expected the control dense beside pruned, which is made out of it; got {list(controls)}"
        )
    chosen = [family for family in FAMILIES if family.name in ("expander", *controls)]
    dials = _unique(diversities)
    variants: list[Variant] = []
    for seed in seeds:
        # The same note for every seed is told once.
        told = note if seed == seeds[0] else lambda _text: None
        found = _Planner(d_in, n_latents, k, seed, told, "dense" in controls)
        for family in chosen:
            if family.sparse:
                variants += found.sparse(family, degrees, dials)
            elif family.training == "closed":
                variants += found.principal(family, degrees) if seed == seeds[0] else ()
            elif family.width is not None:
                variants += found.matched(family, degrees)
            else:
                variants.append(Variant(family.name, family.name, n_latents, k, seed))
    return variants


@dataclass(frozen=True)
class _Planner:
    """The variants of one seed."""

    d_in: int
    n_latents: int
    k: int
    seed: int
    note: Callable[[str], None]
    with_full: bool
    """Whether the full dense control is there too."""

    def sparse(self, family: Family, degrees: list[int], dials: list[float]) -> Iterator[Variant]:
        """A sparse SAE of each degree, and of each place of the dial where the family has one."""
        sizes = (family.name, self.n_latents, self.k, self.seed)
        for degree in degrees:
            for dial in dials if family.mask == "dialled" else [None]:
                name = family.pattern.format(d=degree, dial="" if dial is None else f"{dial:g}")
                yield Variant(name, *sizes, degree, degree, dial)

    def matched(self, family: Family, degrees: list[int]) -> Iterator[Variant]:
        """One dense control of each degree's size, where there is one."""
        assert family.width is not None
        taken: set[int] = set()
        for degree in degrees:
            n_matched = family.width(degree, self.n_latents, self.d_in)
            what = f"no {family.name} dense control for degree {degree}"
            if n_matched < self.k:
                self.note(f"{what}: it would have {n_matched} latents, fewer than k = {self.k}")
            elif n_matched == self.n_latents and self.with_full and family.name == "matched":
                self.note(f"the matched dense control for degree {degree} is the full dense control")
            elif n_matched in taken:
                self.note(
                    f"degree {degree} shares its {family.name} dense control, n' = {n_matched}, with a smaller degree"
                )
            else:
                taken.add(n_matched)
                name = family.pattern.format(n=n_matched)
                yield Variant(name, family.name, n_matched, self.k, self.seed, None, degree)

    def principal(self, family: Family, degrees: list[int]) -> Iterator[Variant]:
        """Principal directions of each degree's size: all of them, and the best k."""
        assert family.width is not None
        best, taken = FAMILY["pca-topk"], set[int]()
        for degree in degrees:
            directions = family.width(degree, self.n_latents, self.d_in)
            if directions in taken or directions < 1:
                continue
            taken.add(directions)
            # All d_in directions give x back: nothing to compare.
            if directions < self.d_in:
                name = family.pattern.format(n=directions)
                yield Variant(name, family.name, directions, directions, self.seed, None, degree)
            if self.k < directions:
                name = best.pattern.format(n=directions, k=self.k)
                yield Variant(name, best.name, directions, self.k, self.seed, None, degree)


def _unique(items: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(items))
