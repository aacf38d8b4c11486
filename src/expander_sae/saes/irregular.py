"""An Expander SAE whose columns may have different degrees, at one total number of entries."""

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from expander_sae.graphs import mask_from_rows
from expander_sae.ops import Dictionary
from expander_sae.records import ExpanderSaeError

from .columns import version_of
from .expander import ExpanderSae


class IrregularSae(ExpanderSae):
    """Expander SAE of `entries` non-zeros in all, each column of 1 to `degree`, as irregular LDPC codes have them.

    An extension of the left-regular SAE: columns that fire on nearly everything may take entries from columns that
    hardly fire. In memory every column has `degree` slots, those without an entry holding a zero, so that all kernels
    of the regular SAE serve; they are handed the entries first (`dictionary`), and the C++ core stops where the zeros
    begin. On disk there are the entries alone. It
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
    _arranged: "_Arranged | None" = None

    @torch.inference_mode(False)
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

    @classmethod
    def averaging(cls, degree: int, *, d_in: int, n_latents: int, most: int = 8, **options: Any) -> Self:
        """One of `degree` entries a column on the average and up to min(d_in, most (degree + 1)) in each.

        Raises:
            ExpanderSaeError: impossible sizes.

        Example:
            >>> sae = IrregularSae.averaging(4, d_in=64, n_latents=512, k=8)
            >>> sae.entries, sae.degree
            (2048, 40)
        """
        slots = min(d_in, most * (degree + 1))
        return cls(d_in=d_in, n_latents=n_latents, degree=slots, entries=degree * n_latents, **options)

    def present(self) -> Tensor:
        """bool [n_latents, degree]: the slots that hold an entry."""
        return self.columns.raw.detach() != 0

    def dictionary(self) -> Dictionary:
        """As an Expander SAE's, with the entries of every column before its empty slots; dense while it has all."""
        w = super().dictionary()
        kept = self._arranged
        if kept is None or not kept.is_of(self, w.decoder):
            kept = self._arranged = _Arranged(self)
        if kept.entries == self.n_latents * self.d_in:
            return replace(w, rows=None)
        return replace(w, rows=kept.rows, decoder=kept.decoder(w.decoder))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arranged": None}

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
    def point_latent(self, latent: int, direction: Tensor, norm: float = 1.0) -> bool:
        """Point a column at direction [d_in] restricted to the rows of its entries."""
        kept = torch.zeros_like(direction)
        rows = self.rows[latent].long()[self.present()[latent]]
        kept[rows] = direction[rows]
        return super().point_latent(latent, kept, norm)

    def describe(self) -> dict[str, Any]:
        """As an Expander SAE, with `entries`; the mask is that of the entries, on the slots that a loader gives
        them."""
        rows, _ = _slots(pack(self.arrays(), self.present()), self.degree, self.d_in)
        mask = mask_from_rows(rows, d_in=self.d_in)
        return super().describe() | {
            "entries": self.entries,
            "mask": {"construction": self.kind, "seed": None, "sha256": mask.sha256()},
        }

    def on_disk(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """The entries alone; before rounding, which may make a small one zero, is what counts as an entry."""
        return pack(arrays, self.present())

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        """As an Expander SAE's, rows always among them; `pack` makes what is saved."""
        return super().arrays() | {"rows": torch.from_numpy(self.mask.rows.copy())}


class _Arranged:
    """An order of each column's slots that puts entries first, and the rows in it. A column that has lost entries since
    is still right in it: the core only stops later."""

    @torch.inference_mode(False)  # kept longer than that may last
    @torch.no_grad()
    def __init__(self, sae: IrregularSae) -> None:
        self.row_bytes, self.version = sae.row_bytes, version_of(sae.row_bytes)
        present = sae.present()
        self.entries = int(present.sum())
        self.order = present.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
        small = sae.rows.dtype == torch.uint16  # which torch cannot index
        rows = sae.rows.view(torch.int16) if small else sae.rows
        self.rows = rows.gather(1, self.order).view(sae.rows.dtype)
        self._values = self._decoder = torch.empty(0, device="cpu")

    def is_of(self, sae: IrregularSae, values: Tensor) -> bool:
        """Whether the rows are those of then, and as many slots are empty."""
        same = self.row_bytes is sae.row_bytes and self.version == version_of(sae.row_bytes)
        return same and (values is self._values or self.entries == int(sae.present().sum()))

    def decoder(self, values: Tensor) -> Tensor:
        """Columns in that order. Those that are read again and again (`UnitColumns` keeps them) are ordered once."""
        if values.requires_grad:
            return values.gather(1, self.order)
        if values is not self._values:
            with torch.inference_mode(False), torch.no_grad():
                self._values, self._decoder = values, values.gather(1, self.order)
        return self._decoder


def _start(raw: Tensor, entries: int) -> None:
    """Leave each column its largest few values, `entries` in all: random rows, since the values are random."""
    n, slots = raw.shape
    counts = torch.full((n,), entries // n, device="cpu") + (torch.arange(n, device="cpu") < entries % n)
    order = raw.abs().argsort(dim=1, descending=True, stable=True)
    drop = torch.arange(slots, device="cpu")[None] >= counts[:, None]
    raw[torch.zeros_like(drop).scatter_(1, order, drop)] = 0.0


def pack(arrays: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
    """`values` and `rows` [entries] column by column without the empty slots, and `counts` [n_latents], on the CPU.

    Args:
        arrays: `values` and `rows` [n_latents, degree], and others that are left as they are.
        present: the slots that hold an entry, bool [n_latents, degree].
    """
    arrays, present = {name: array.cpu() for name, array in arrays.items()}, present.cpu()
    # torch cannot index unsigned rows; numpy can.
    rows = torch.from_numpy(arrays["rows"].numpy()[present.numpy()])
    counts = present.sum(1)
    small = torch.uint8 if int(counts.max()) < 256 else torch.int32
    return arrays | {"values": arrays["values"][present], "rows": rows, "counts": counts.to(small)}


def _slots(packed: dict[str, Tensor], degree: int, d_in: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n_latents, degree], ascending, of packed arrays, and which slot each comes from when entries come first.

    Empty slots get free rows: those of column j from row j d_in / n_latents on. On common rows, empty slots would meet
    in every Gram matrix that a pursuit builds.
    """
    counts = packed["counts"].long().numpy()
    flat = packed["rows"].numpy().astype(np.int64)
    n = len(counts)
    first = np.arange(n)[:, None] * d_in
    window = (first // n + np.arange(min(d_in, 2 * degree))) % d_in
    taken = np.isin(first + window, np.repeat(first[:, 0], counts) + flat)
    order = np.argsort(taken, axis=1, kind="stable")[:, :degree]
    free = np.take_along_axis(window, order, axis=1)
    slots = np.arange(degree)[None]
    rows = np.take_along_axis(free, np.maximum(slots - counts[:, None], 0), axis=1)
    rows[slots < counts[:, None]] = flat
    order = np.argsort(rows, axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1), order


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
    counts = counts.long()
    rows, order = _slots(packed, degree, d_in)
    values = torch.zeros(rows.shape, dtype=packed["values"].dtype, device="cpu")
    values[torch.arange(degree, device="cpu") < counts[:, None]] = packed["values"]
    kind = packed["rows"].numpy().dtype
    return {k: v for k, v in packed.items() if k != "counts"} | {
        "values": values.gather(1, torch.from_numpy(order)),
        "rows": torch.from_numpy(rows.astype(kind)),
    }
