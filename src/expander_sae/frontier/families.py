"""Every family of SAEs once: what it is, how it is built and named, and how it is drawn.

A new family is one entry of `FAMILIES`. `plan` trains it, `Variant.build` makes it, pages list it in this order,
figures take colour and marker from it, and `--controls`, `docs/developers/experiments.md` and the tables of
documents its words.
No torch is imported here, so that `--help` can read it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Width = Callable[[int, int, int], int]
"""n' of (degree, n_latents, d_in)."""


@dataclass(frozen=True)
class Family:
    """One kind of SAE that a frontier trains or an experiment reads."""

    name: str
    words: str
    """What it is, for who chooses controls."""
    label: str
    """In the legend of a figure."""
    title: str
    """One of its SAEs in a document; {d} is the degree, {n} the number of latents, {k} the active ones."""
    color: str
    marker: str
    pattern: str
    """The name of one of its SAEs (a variant), of the same parts and {dial}."""
    sparse: bool = False
    """Whether its dictionary is."""
    pursuit: bool = False
    """Trained and read by pursuit, where the settings ask for it; otherwise by one pass."""
    encoder: Literal["tied", "own", "random"] = "tied"
    """That of a dense one; `own` starts at the decoder."""
    training: Literal["", "fixed", "pruned", "closed", "elsewhere"] = ""
    """In the pass of the settings; in one that moves no entry; out of the dense SAE; without steps; by experiments."""
    width: Width | None = None
    """How many latents a dense one has that is matched to a degree; None: as many as all others."""
    mask: Literal["", "clustered", "banded", "shared", "dialled"] = ""
    """A mask of its own instead of the settings'."""
    irregular: bool = False
    """Whether its columns have different degrees."""
    control: bool = True
    """Whether it can be asked for by name."""

    @property
    def moves(self) -> bool:
        """Whether training may move the entries of its dictionary."""
        return self.sparse and self.pursuit and not self.training

    def parts(self, variant: str) -> dict[str, str] | None:
        """What is in the name of one of its SAEs, by part of `pattern`; None for the name of another family's."""
        number = {"{d}": r"(?P<d>\d+)", "{n}": r"(?P<n>\d+)", "{k}": r"(?P<k>\d+)", "{dial}": r"(?P<dial>[\d.]+)"}
        pattern = self.pattern
        for part, found in number.items():
            pattern = pattern.replace(part, found)
        match = re.fullmatch(pattern, variant)
        return None if match is None or not variant else match.groupdict()


def _values(degree: int, n_latents: int, d_in: int) -> int:
    return round(degree * n_latents / d_in)


def _half(degree: int, n_latents: int, d_in: int) -> int:
    return round(degree * n_latents / (2 * d_in))


def _bytes(degree: int, n_latents: int, d_in: int) -> int:
    from expander_sae.graphs import column_bits

    column = 4 * degree + column_bits(d_in, degree) / 8  # float32 values and their rows
    return round(n_latents * column / (4 * d_in))


def _directions(degree: int, n_latents: int, d_in: int) -> int:
    return min(d_in, round(degree * n_latents / d_in))


# Okabe and Ito's palette and two greys: told apart under every common colour blindness; markers say the same again.
# Blue, sky and green are sparse; red, orange, brown and greys dense; purple the rest.
_BLUE, _SKY, _GREEN, _PURPLE = "#0072B2", "#56B4E9", "#009E73", "#CC79A7"
_RED, _ORANGE, _BROWN, _DARK, _GREY = "#D55E00", "#E69F00", "#8C6D1F", "#333333", "#777777"

FAMILIES = (
    Family(
        "expander", "an Expander SAE whose entries training may move", "Expander", "degree {d}", _BLUE, "o",
        "expander-d{d}", sparse=True, pursuit=True, control=False,
    ),
    Family(
        "irregular", "per degree, an Expander SAE of as many entries in all, whose columns may have from half of the "
        "degree to 4 degree + 4 of them; learned as the Expander SAE's rows are",
        "Expander, irregular", "degree {d} on the average, irregular", _BLUE, "P", "irregular-d{d}",
        sparse=True, pursuit=True, irregular=True,
    ),
    Family(
        "pruned", "per degree, the largest entries of each column of the full dense SAE of that seed, retuned for as "
        "many steps again; needs `dense`",
        "pruned", "degree {d}, cut out of the full dense SAE and retuned", _PURPLE, "X", "pruned-d{d}",
        sparse=True, pursuit=True, training="pruned",
    ),
    Family(
        "fixed", "per degree, an Expander SAE whose mask stays as it is", "fixed mask", "degree {d}, random mask",
        _SKY, "s", "fixed-d{d}", sparse=True, pursuit=True, training="fixed",
    ),
    Family(
        "oneshot", "per degree, an Expander SAE on a fixed mask, trained and read by the one-shot TopK encoder",
        "Expander, fixed mask, one-shot", "degree {d}, fixed mask, one-shot", _SKY, "v", "oneshot-d{d}", sparse=True,
    ),
    Family(
        "diversity", "per degree, fixed masks from disjoint blocks (0) to balanced (1), every row reachable",
        "dial of diversity", "degree {d}, diversity {dial}", _GREEN, "D", "diversity{dial}-d{d}",
        sparse=True, pursuit=True, training="fixed", mask="dialled",
    ),
    Family(
        "shared", "per degree, a fixed mask with few distinct supports", "few supports",
        "degree {d}, few supports, shared", _GREEN, "P", "shared-d{d}",
        sparse=True, pursuit=True, training="fixed", mask="shared",
    ),
    Family(
        "banded", "per degree, a fixed mask of windows of neighbouring rows", "windows",
        "degree {d}, windows of neighbouring rows", _GREEN, "s", "banded-d{d}",
        sparse=True, pursuit=True, training="fixed", mask="banded",
    ),
    Family(
        "clustered", "per degree, a fixed mask of disjoint row blocks; left-over rows are out of reach, as in the "
        "paper",
        "clustered", "degree {d}, disjoint blocks as in the paper", _GREEN, "^", "clustered-d{d}",
        sparse=True, pursuit=True, training="fixed", mask="clustered",
    ),
    Family(
        "matched", "per degree, a dense tied one-shot SAE with as many learned values: n' = degree n / d_in",
        "dense, matched learned values", "dense, n′ = {n}", _RED, "s", "dense-n{n}", width=_values,
    ),
    Family(
        "matched-omp", "the same, trained and read by pursuit as the Expander SAEs are", "dense, matched, by pursuit",
        "dense, n′ = {n}, pursuit", _ORANGE, "D", "dense-n{n}-omp", pursuit=True, width=_values,
    ),
    Family(
        "matched-decoder", "per degree, a dense SAE with its own encoder and as many decoder values (twice as many "
        "learned ones): n'",
        "dense with an encoder of its own, matched decoder",
        "dense, own encoder, n′ = {n} (decoder values of degree {d})", _RED, "^", "dense-n{n}-decoder",
        encoder="own", width=_values,
    ),
    Family(
        "matched-untied", "per degree, a dense SAE with its own encoder and as many learned values: n' / 2",
        "dense with an encoder of its own, matched learned values",
        "dense, own encoder, n′ = {n} (learned values of degree {d})", _RED, "v", "dense-n{n}-untied",
        encoder="own", width=_half,
    ),
    Family(
        "matched-bytes", "per degree, a dense tied one-shot SAE of as many bytes, float32 values and learned rows "
        "counted",
        "dense, matched bytes", "dense of degree {d}'s bytes, n′ = {n}", _BROWN, "s", "dense-n{n}-bytes", width=_bytes,
    ),
    Family(
        "matched-bytes-omp", "the same, trained and read by pursuit", "dense, matched bytes, by pursuit",
        "dense of degree {d}'s bytes, n′ = {n}, pursuit", _BROWN, "D", "dense-n{n}-bytes-omp",
        pursuit=True, width=_bytes,
    ),
    Family(
        "pca", "per degree, the leading n' principal directions: all of them, and the best k of them for each token",
        "principal directions, all", "{n} directions, all used", _PURPLE, "o", "pca-r{n}",
        training="closed", width=_directions,
    ),
    Family(
        "pca-topk", "the best k principal directions for each token", "principal directions, best k",
        "best {k} of {n} directions", _PURPLE, "v", "pca-r{n}-k{k}",
        training="closed", width=_directions, control=False,
    ),
    Family(
        "dense", "the full dense SAE of the same n_latents, tied, one-shot", "full dense", "full dense", _DARK, "o",
        "dense",
    ),
    Family(
        "dense-untied", "the same with an encoder of its own that starts at the decoder",
        "full dense, encoder of its own", "full dense, encoder of its own", _GREY, "^", "dense-untied", encoder="own",
    ),
    Family(
        "dense-randinit", "the same with an encoder of its own that starts at random", "full dense, random encoder",
        "full dense, random encoder", _GREY, "v", "dense-randinit", encoder="random",
    ),
    Family(
        "dense-omp", "the full dense SAE trained and read by pursuit as the Expander SAEs are",
        "full dense, by pursuit", "full dense, trained and read by pursuit", _DARK, "D", "dense-omp", pursuit=True,
    ),
    Family(
        "taught", "an encoder of its own on the dictionary's rows, taught the codes that pursuit finds",
        "Expander, taught encoder", "degree {d}, taught encoder", _SKY, "*", "", sparse=True, training="elsewhere",
        control=False,
    ),
    Family(
        "end to end", "the same, then encoder and dictionary trained on the reconstruction that one pass gives",
        "Expander, encoder trained end to end", "degree {d}, encoder trained end to end", _BLUE, "*", "", sparse=True,
        training="elsewhere", control=False,
    ),
)  # fmt: skip
"""In the order of pages: at one degree in this order, full dense ones last."""

FAMILY = {family.name: family for family in FAMILIES}
CONTROLS = {family.name: family.words for family in FAMILIES if family.control}
"""What an Expander SAE can be compared with, in words."""


def controls_in_words() -> str:
    """The names of all controls by kind, for a help text."""
    kinds: dict[str, list[str]] = {"full": [], "small": [], "directions": [], "sparse": []}
    for family in FAMILIES:
        if family.control:
            small = "directions" if family.training == "closed" else "small"
            kind = "sparse" if family.sparse else small if family.width else "full"
            kinds[kind].append(family.name)
    full, small, directions, sparse = (", ".join(names) for names in kinds.values())
    return (
        f"full dense SAEs ({full}), small ones of each degree's size ({small}), principal directions ({directions}), "
        f"and for each degree other supports or ways to train ({sparse})"
    )


def title_of(variant: str, degree: int | None = None) -> str:
    """What documents call an SAE of this name; any other text as it is, what follows a comma (a reading) kept.

    `degree` is the one it is matched to, which not every name says.

    Example:
        >>> title_of("oneshot-d7, omp"), title_of("dense-n70-bytes", 7)
        ('degree 7, fixed mask, one-shot, omp', "dense of degree 7's bytes, n′ = 70")
    """
    name, comma, reading = variant.partition(", ")
    for family in FAMILIES:
        parts = family.parts(name)
        if parts is not None:
            known = parts if degree is None else {"d": str(degree), **parts}
            if "{d}" in family.title and "d" not in known:
                return variant
            return family.title.format(**known) + comma + reading
    return variant
