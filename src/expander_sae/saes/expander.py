"""The Expander SAE: degree non-zeros per column, placed by an expander graph, encoder tied to the decoder."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expander_sae.graphs import Mask, make_mask, pack_rows
from expander_sae.ops import Dictionary
from expander_sae.pursuit import DEFAULT_READING, Reading
from expander_sae.pursuit.reading import checked_reading
from expander_sae.records import ExpanderSaeError, whole_number

from .base import AbstractSae, check_sizes, one, zeros
from .columns import UnitColumns, random_columns
from .files import PACKED
from .rows import bytes_of, loaded_mask, rows_in


class ExpanderSae(AbstractSae):
    """SAE with a sparse tied dictionary W [d_in, n_latents], `degree` learned values per unit-norm column.

    Codes h are found by `reading`: by default by a pursuit in eight stages, and by `expander_sae.pursuit.Encoder()` as
    in arXiv 2607.01799, `h = TopK_k(relu(W^T (x - b_dec) + b_enc))`, without the ReLU when `signed`. Then
    `x_hat = W h + b_dec`. It learns `degree * n_latents + d_in` numbers (plus n_latents with `latent_bias`, plus
    `degree * n_latents` when not `tied`).

    Args:
        d_in: length of an activation.
        n_latents: dictionary columns.
        degree: non-zeros per column.
        k: active latents per token.
        seed: of the mask and of the initial values.
        construction: how the mask is made; see `expander_sae.graphs.CONSTRUCTIONS`.
        signed: keep the k largest signed pre-activations, no ReLU.
        latent_bias: learn b_enc.
        reading: how codes are read (`expander_sae.pursuit`); None: by eight stages of pursuit with spare
            columns. Pursuits leave b_enc unused.
        mask: use this mask instead of making one.
        tied: the encoder is the decoder; otherwise it has values of its own on the same rows, which start there.
        blank: leave the columns and the encoder unset, for a loader that fills them.

    Raises:
        ExpanderSaeError: impossible sizes, or a mask of other sizes.

    Example:
        >>> import torch
        >>> sae = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8)
        >>> sae.decode(sae.encode(torch.randn(10, 64))).shape
        torch.Size([10, 64])
    """

    kind = "expander"
    row_bytes: Tensor
    """Buffer uint8 [n_latents, degree * bytes of a row]: the memory of `rows`, in a type that every tool can move."""
    columns: UnitColumns

    @torch.inference_mode(False)  # tensors of inference mode could never be trained
    def __init__(
        self,
        *,
        d_in: int,
        n_latents: int,
        degree: int,
        k: int,
        seed: int = 0,
        construction: str = "balanced",
        signed: bool = False,
        latent_bias: bool = False,
        reading: Reading | None = None,
        mask: Mask | None = None,
        tied: bool = True,
        blank: bool = False,
    ) -> None:
        super().__init__()
        d_in, n_latents, k = check_sizes(d_in, n_latents, k)
        degree = whole_number("degree", degree, least=1)
        if mask is None:
            mask = make_mask(construction, d_in=d_in, n_latents=n_latents, degree=degree, seed=seed)
        if (mask.d_in, mask.n_latents, mask.degree) != (d_in, n_latents, degree):
            raise ExpanderSaeError(
                f"expected a mask with (d_in, n_latents, degree) = {(d_in, n_latents, degree)}; "
                f"got {(mask.d_in, mask.n_latents, mask.degree)}"
            )
        self.d_in, self.n_latents, self.degree, self.k = d_in, n_latents, degree, k
        self.signed, self.seed, self.tied = signed, seed, tied
        self.reading = DEFAULT_READING.fitted(k, n_latents) if reading is None else checked_reading(reading)
        self.reading.check(k, n_latents)
        self.metadata, self.folder = {}, None
        self.columns = UnitColumns.blank(n_latents, degree) if blank else random_columns(n_latents, degree, seed)
        with torch.no_grad():
            start = self.columns.raw if blank else self.columns()
            self.encoder = None if tied else nn.Parameter(torch.empty_like(start) if blank else start.clone())
        self.b_dec = nn.Parameter(zeros(d_in))
        self.b_enc = nn.Parameter(zeros(n_latents)) if latent_bias else None
        self.register_buffer("input_scale", one())
        self._mask = mask
        self.register_buffer("row_bytes", bytes_of(mask), persistent=False)  # `rows` in the state dict

    @property
    def rows(self) -> Tensor:
        """Rows of every column [n_latents, degree] in the kernels' integer type; shares the memory of `row_bytes`."""
        return rows_in(self.row_bytes, self.d_in)

    @property
    def mask(self) -> Mask:
        """The mask of the rows as they are now; it claims a construction and a seed only if those make these rows.

        Raises:
            ExpanderSaeError: something wrote rows that no mask has.
        """
        if self.row_bytes.device.type != "meta":
            rows = self.rows.cpu().numpy()
            if not np.array_equal(rows, self._mask.rows):
                self._mask = Mask(rows, d_in=self.d_in, construction="rows", seed=None)
        return self._mask

    def set_mask(self, mask: Mask) -> None:
        """Put the values on other rows; the values themselves are the caller's to move.

        Raises:
            ExpanderSaeError: the mask has other sizes.
        """
        if (mask.d_in, mask.n_latents, mask.degree) != (self.d_in, self.n_latents, self.degree):
            raise ExpanderSaeError(
                f"expected a mask with (d_in, n_latents, degree) = {(self.d_in, self.n_latents, self.degree)}; "
                f"got {(mask.d_in, mask.n_latents, mask.degree)}"
            )
        self._mask = mask
        self.row_bytes = bytes_of(mask).to(self.row_bytes.device)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}rows"] = self.rows.to(torch.int32)

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """As any module, with `rows` of any integer type; those that are no mask are refused before anything is set."""
        others = {name: value for name, value in state_dict.items() if name != f"{prefix}rows"}
        given = state_dict.get(f"{prefix}rows")
        if given is None:
            missing_keys += [f"{prefix}rows"] if strict else []
        elif (shape := [self.n_latents, self.degree]) != list(given.shape):
            error_msgs.append(f"size mismatch for {prefix}rows: expected {shape}; got {list(given.shape)}.")
        elif given.device.type != "meta":
            mask = loaded_mask(given, self.d_in)
            made = bytes_of(mask).to(given.device)
            if mask != self._mask:
                self._mask = mask
            if local_metadata.get("assign_to_params_buffers", False):
                self.row_bytes = made
            else:
                self.row_bytes.copy_(made)
        super()._load_from_state_dict(others, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Modules pickled by earlier releases have the mask as an attribute and its rows as a buffer.
        old = state["_buffers"].pop("rows", None)
        if old is not None:
            self._mask = vars(self).pop("mask")
            self.register_buffer("row_bytes", bytes_of(loaded_mask(old, self.d_in)), persistent=False)

    @torch.no_grad()
    def draw_as_dense(self) -> None:
        """Start at those values on the mask that a `DenseTopKSae` of the same sizes and seed starts with, as the source
        paper's SAEs do: V = M * G / sqrt(degree), where the dense one has G / sqrt(d_in)."""
        drawn = random_columns(self.n_latents, self.d_in, self.seed).raw
        self.columns.raw.copy_(drawn.gather(1, self.rows.long()) * (self.d_in / self.degree) ** 0.5)
        if self.encoder is not None:
            self.encoder.copy_(self.columns())

    @property
    def values(self) -> Tensor:
        """Unit-norm dictionary values [n_latents, degree]."""
        return self.columns()

    def dictionary(self) -> Dictionary:
        """Its columns with encoder, biases and sign rule, in the units of activations."""
        return Dictionary(
            self.rows,
            self.values,
            self.d_in,
            self.encoder,
            self.latent_bias(),
            self.center(),
            signed=self.signed,
            rows_checked=True,
        )

    @torch.no_grad()
    def point_latent(self, latent: int, direction: Tensor, norm: float = 1.0) -> bool:
        """Point a column, of raw length `norm`, and its encoder if it has one, at direction [d_in] restricted to its
        rows; its latent bias goes to zero."""
        wanted = direction[self.rows[latent].long()]
        length = wanted.norm()
        if not length > 0:
            return False
        self.columns.raw[latent] = wanted * (norm / length)
        if self.encoder is not None:
            self.encoder[latent] = wanted / length
        if self.b_enc is not None:
            self.b_enc[latent] = 0.0
        return True

    def decoder_values(self) -> int:
        """degree * n_latents."""
        return self.degree * self.n_latents

    def describe(self) -> dict[str, Any]:
        """Sizes, mode and how to make the mask again."""
        mask = self.mask
        return {
            "kind": self.kind,
            "d_in": self.d_in,
            "n_latents": self.n_latents,
            "degree": self.degree,
            "k": self.k,
            "tied": self.tied,
            "signed": self.signed,
            "latent_bias": self.b_enc is not None,
            "reading": str(self.reading),
            "seed": self.seed,
            "mask": {
                "construction": mask.construction,
                "seed": mask.seed,
                "sha256": mask.sha256(),
            },
        }

    @torch.no_grad()
    def arrays(self) -> dict[str, Tensor]:
        """`values` [n_latents, degree], `b_dec`, maybe `encoder`, `b_enc`, and `rows` where no seed can make them."""
        arrays = {"values": self.values.detach().contiguous(), "b_dec": self.b_dec.detach()}
        if self.encoder is not None:
            arrays["encoder"] = self.encoder.detach()
        if self.b_enc is not None:
            arrays["b_enc"] = self.b_enc.detach()
        mask = self.mask
        if mask.seed is None:
            arrays["rows"] = torch.from_numpy(mask.rows.copy())
        return arrays

    def on_disk(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """With the rows packed."""
        if "rows" in arrays:
            arrays = {name: array for name, array in arrays.items() if name != "rows"}
            arrays[PACKED] = torch.from_numpy(pack_rows(self.mask))
        return arrays
