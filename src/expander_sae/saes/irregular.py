"""An Expander SAE whose columns may have different degrees, at one total number of entries."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from expander_sae.graphs import mask_from_rows
from expander_sae.records import ExpanderSaeError

from .expander import ExpanderSae


def usual_slots(degree: int, d_in: int) -> int:
    """Slots of a column where columns have `degree` entries on the average: 4 degree + 4, at most d_in."""
    return min(d_in, 4 * degree + 4)


class IrregularSae(ExpanderSae):
    """Expander SAE of `entries` non-zeros in all, each column of 1 to `degree`, as irregular LDPC codes have them.

    An extension of the left-regular SAE: columns that fire on nearly everything may take entries from columns that
    hardly fire. In memory every column has `degree` slots, those without an entry holding a zero, so that all kernels
    of the regular SAE serve (and cost what they cost at degree `degree`); on disk there are the entries alone. It
    starts with entries / n_latents entries in each column; only training that moves entries makes the degrees differ.
    Certificates that count on a left-regular graph do not apply to it.

    Args:
        entries: learned values of the dictionary, n_latents to degree * n_latents.
        degree: slots of a column, its most entries.
        options: as for `ExpanderSae`; the encoder is tied.

    Raises:
        ExpanderSaeError: impossible sizes.

    Source: Luby, Mitzenmacher, Shokrollahi and Spielman, "Improved low-density parity-check codes using irregular
    graphs", IEEE Trans. Information Theory 47, 2001, for the idea.

    Example:
        >>> sae = IrregularSae(d_in=64, n_latents=512, degree=16, entries=4 * 512, k=8)
        >>> sae.learned_values() - sae.d_in, sae.column_degrees().tolist()[:3]
        (2048, [4, 4, 4])
    """

    kind = "irregular"

    def __init__(self, *, entries: int, degree: int, blank: bool = False, **options: Any) -> None:
        super().__init__(degree=degree, blank=blank, tied=True, **options)
        n = self.n_latents
        if isinstance(entries, bool) or not isinstance(entries, int) or not n <= entries <= degree * n:
            raise ExpanderSaeError(
                f"expected entries from n_latents = {n} to degree * n_latents = {degree * n}; got {entries!r}"
            )
        self.entries = entries
        if not blank:
            _start(self.columns.raw.data, entries)

    def present(self) -> Tensor:
        """bool [n_latents, degree]: the slots that hold an entry."""
        return self.columns.raw.detach() != 0

    def column_degrees(self) -> Tensor:
        """Entries of each column, int64 [n_latents]."""
        return self.present().sum(1)

    def learned_values(self) -> int:
        """Entries and biases."""
        return super().learned_values() - self.columns.raw.numel() + self.entries

    def decoder_values(self) -> int:
        """entries."""
        return self.entries

    @torch.no_grad()
    def point_latent(self, latent: int, direction: Tensor) -> bool:
        """Point a column at direction [d_in] restricted to the rows of its entries."""
        kept = torch.zeros_like(direction)
        rows = self.rows[latent].long()[self.present()[latent]]
        kept[rows] = direction[rows]
        return super().point_latent(latent, kept)

    def describe(self) -> dict[str, Any]:
        """As an Expander SAE, with `entries`; the mask is that of the entries, on the slots that a loader gives
        them."""
        stored = stored_rows(pack(self.arrays()), self.degree, self.d_in)
        mask = mask_from_rows(stored, d_in=self.d_in)
        return super().describe() | {
            "entries": self.entries,
            "mask": {"construction": self.kind, "seed": None, "sha256": mask.sha256()},
        }

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        """As an Expander SAE's, rows always among them; `pack` makes what is saved."""
        return super().arrays() | {"rows": torch.from_numpy(self.mask.rows.copy())}


def _start(raw: Tensor, entries: int) -> None:
    """Leave each column its largest few values, `entries` in all: random rows, since the values are random."""
    n, slots = raw.shape
    counts = torch.full((n,), entries // n) + (torch.arange(n) < entries % n)
    order = raw.abs().argsort(dim=1, descending=True, stable=True)
    drop = torch.arange(slots)[None] >= counts[:, None]
    raw[torch.zeros_like(drop).scatter_(1, order, drop)] = 0.0


def pack(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """`values` and `rows` [entries] column by column without the empty slots, and `counts` [n_latents]."""
    present = arrays["values"] != 0
    # torch cannot index unsigned rows; numpy can.
    rows = torch.from_numpy(arrays["rows"].numpy()[present.numpy()])
    counts = present.sum(1)
    small = torch.uint8 if int(counts.max()) < 256 else torch.int32
    return arrays | {"values": arrays["values"][present], "rows": rows, "counts": counts.to(small)}


def stored_rows(packed: dict[str, Tensor], degree: int, d_in: int) -> np.ndarray:
    """Rows [n_latents, degree] of packed arrays: the entries', and for empty slots free rows.

    Column j takes the free rows from row j d_in / n_latents on: on common rows, empty slots would meet in every Gram
    matrix that a pursuit builds.
    """
    counts = packed["counts"].long().numpy()
    flat = packed["rows"].numpy().astype(np.int64)
    n = len(counts)
    latents = np.repeat(np.arange(n), counts)
    taken = np.zeros((n, d_in), bool)
    taken[latents, flat] = True
    window = (np.arange(n)[:, None] * d_in // n + np.arange(min(d_in, 2 * degree))) % d_in
    order = np.argsort(np.take_along_axis(taken, window, axis=1), axis=1, kind="stable")[:, :degree]
    free = np.take_along_axis(window, order, axis=1)
    slots = np.arange(degree)[None]
    rows = np.take_along_axis(free, np.maximum(slots - counts[:, None], 0), axis=1)
    rows[slots < counts[:, None]] = flat
    rows.sort(axis=1)
    return rows


def unpack(packed: dict[str, Tensor], degree: int, d_in: int) -> dict[str, Tensor]:
    """The arrays that `pack` was given, up to the rows of empty slots.

    Raises:
        ExpanderSaeError: the arrays do not fit each other.
    """
    lengths = {name: tuple(packed[name].shape) for name in ("values", "rows", "counts") if name in packed}
    counts = packed.get("counts")
    total = -1 if counts is None else int(counts.long().sum())
    fits = counts is not None and counts.ndim == 1 and int(counts.min()) >= 0 and int(counts.max()) <= degree
    if not fits or lengths.get("values") != (total,) or lengths.get("rows") != (total,):
        raise ExpanderSaeError(
            f"expected values and rows [entries] and counts [n_latents] of at most {degree} that sum to entries; "
            f"got shapes {lengths}"
        )
    assert counts is not None
    flat = packed["rows"].numpy().astype(np.int64)
    if len(flat) and int(flat.max()) >= d_in:
        raise ExpanderSaeError(f"expected rows below d_in = {d_in}; got {int(flat.max())}")
    rows = stored_rows(packed, degree, d_in)
    latents = torch.repeat_interleave(torch.arange(len(counts)), counts.long())
    whole = torch.zeros(len(counts), d_in, dtype=packed["values"].dtype)
    whole[latents, torch.from_numpy(flat)] = packed["values"]
    values = whole.gather(1, torch.from_numpy(rows))
    kind = packed["rows"].numpy().dtype
    return {k: v for k, v in packed.items() if k != "counts"} | {
        "values": values,
        "rows": torch.from_numpy(rows.astype(kind)),
    }
