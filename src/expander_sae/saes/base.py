"""What every SAE of this package can do. Subclasses implement the interface and override nothing that has a body."""

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from expander_sae.ops import Codes, Dictionary, ReconstructionLoss, reconstruction_loss
from expander_sae.pursuit import Encoder, Reading, of_numbers
from expander_sae.pursuit.reading import checked_reading
from expander_sae.records import ExpanderSaeError, whole_number

from .columns import UnitColumns
from .config import check_reading
from .files import check_precision, stored, write_folder


class AbstractSae(nn.Module, ABC):
    """Explains activations x [batch, d_in] with at most k of n_latents dictionary columns per token.

    Inputs, codes and reconstructions are always in the units of the activations. Training works on activations scaled
    by `input_scale` (so that one learning rate suits every model); the scale lives in the parameters' units only and is
    folded away by `fold_input_scale`, which `save` calls.
    """

    kind: str
    """Name in `config.json`: "expander", "irregular" or "dense"."""
    d_in: int
    n_latents: int
    degree: int
    """Values a column holds; d_in where the dictionary is dense."""
    k: int
    signed: bool
    columns: UnitColumns
    """The dictionary, unit-norm by parametrisation."""
    b_dec: nn.Parameter
    """Decoder bias [d_in], in scaled units."""
    b_enc: nn.Parameter | None
    """Latent bias [n_latents], in scaled units, or None."""
    input_scale: Tensor
    """Scalar buffer; 1 once folded."""
    metadata: dict[str, Any]
    """Where the activations came from and how it was trained; saved with the SAE."""
    folder: Path | None
    """Where it was last saved or loaded."""

    reading: Reading
    """How `encode` reads codes and the loss finds them; saved with the SAE."""

    @abstractmethod
    def dictionary(self) -> Dictionary:
        """Its unit-norm columns with encoder, biases and sign rule, in the units of activations; differentiable."""

    @abstractmethod
    def point_latent(self, latent: int, direction: Tensor, norm: float = 1.0) -> bool:
        """Set one column to the unit vector of direction [d_in], as far as its support allows; False if it is zero
        there. `norm`: the raw column's length, by which Adam's steps turn it less or more."""

    @abstractmethod
    def decoder_values(self) -> int:
        """Learned numbers in the decoder."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Everything `config.json` needs to build this SAE again, without its learned numbers."""

    @abstractmethod
    def arrays(self) -> dict[str, Tensor]:
        """The learned numbers, and rows that no seed can make again; `save` rounds and packs them."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # Modules pickled by earlier releases say by two numbers how they are read.
        stages, spare = vars(self).pop("stages", None), vars(self).pop("spare", 0)
        if stages is not None:
            self.reading = of_numbers(stages, spare)

    def on_disk(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """`arrays`, rounded already, as they are stored."""
        return arrays

    def encode(self, x: Tensor, *, reading: Reading | None = None) -> Codes:
        """Codes of x [batch, d_in] by the SAE's own reading or another.

        Only `expander_sae.pursuit.Encoder` is differentiable; see `expander_sae.pursuit.refit_codes` for gradients of a
        pursuit.

        Raises:
            ExpanderSaeError: x has another width, or holds NaN or infinity; or the reading does not fit the SAE.

        Example:
            >>> from expander_sae.pursuit import OMP
            >>> from expander_sae.saes import ExpanderSae
            >>> sae = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8)
            >>> sae.encode(torch.randn(10, 64), reading=OMP()).values.shape
            torch.Size([10, 8])
        """
        check_input(x, self.d_in)
        return self._chosen(reading).codes(self.dictionary(), x, self.k)

    def _chosen(self, reading: Reading | None) -> Reading:
        return self.reading if reading is None else checked_reading(reading)

    def read_by(self, reading: Reading | None) -> Self:
        """The same SAE, sharing every parameter, with another reading; None: its own.

        Raises:
            ExpanderSaeError: the reading does not fit the SAE's sizes.
        """
        other = copy.copy(self)
        if reading is not None:
            other.reading = checked_reading(reading)
            reading.check(self.k, self.n_latents)
        return other

    def decode(self, codes: Codes) -> Tensor:
        """x_hat [batch, d_in] = W h + b_dec."""
        return self.dictionary().decode(codes)

    def reconstruction_loss(
        self, x: Tensor, *, keep_residual: bool = False, reading: Reading | None = None
    ) -> ReconstructionLoss:
        """Sum of ||x - x_hat||^2 over x [batch, d_in], with its gradients made in one pass.

        `reading`: how the codes are found, None for the SAE's own; those of a pursuit are held fixed.

        Raises:
            ExpanderSaeError: x has another width, or holds NaN or infinity; or the reading does not fit the SAE.
        """
        check_input(x, self.d_in)
        reading, w = self._chosen(reading), self.dictionary()
        assert w.center is not None
        return reconstruction_loss(
            x,
            w.rows,
            w.decoder,
            self.k,
            center=w.center,
            bias=w.bias,
            encoder=w.encoder,
            signed=self.signed,
            codes=None if isinstance(reading, Encoder) else reading.codes(w, x, self.k),
            keep_residual=keep_residual,
        )

    def forward(self, x: Tensor) -> Tensor:
        """x_hat [batch, d_in]."""
        return self.decode(self.encode(x))

    def learned_values(self) -> int:
        """All learned numbers: decoder, encoder if it has its own, biases."""
        return sum(parameter.numel() for parameter in self.parameters())

    def center(self) -> Tensor:
        """b_dec in the units of the activations [d_in]."""
        return self.b_dec / self.input_scale

    def latent_bias(self) -> Tensor | None:
        """b_enc in the units of the activations [n_latents], or None."""
        return None if self.b_enc is None else self.b_enc / self.input_scale

    @torch.no_grad()
    def fold_input_scale(self) -> None:
        """Put the input scale into the biases; outputs do not change."""
        self.b_dec.div_(self.input_scale)
        if self.b_enc is not None:
            self.b_enc.div_(self.input_scale)
        self.input_scale.fill_(1.0)

    def learned(self) -> dict[str, Tensor]:
        """The parameters by their names on disk."""
        found = {"values": self.columns.raw, "b_dec": self.b_dec, "b_enc": self.b_enc}
        found["encoder"] = getattr(self, "encoder", None)
        return {name: parameter for name, parameter in found.items() if parameter is not None}

    def save(self, folder: str | Path, *, values: str = "float32") -> Path:
        """Write the SAE into `folder`, its input scale folded away (the SAE in memory is not changed).

        `config.json` says what it is and `sae.safetensors` what it learned. The mask is stored as its seed; as packed
        rows (`expander_sae.graphs.pack_rows`) where no seed can make it again (columns of different degrees: as
        integers). Saving over an SAE replaces both files at one moment: whatever happens, the folder holds the old one
        or the new one; other files in it are left alone.

        Args:
            folder: made if need be.
            values: the type of the dictionary's values on disk: float32, float16, bfloat16 or int8; they are float32
                again when read.

        Raises:
            ExpanderSaeError: a learned number is not finite, no such type, or the folder cannot be written.
        """
        folder = Path(folder)
        check_precision(values)
        check_reading(self.reading, self.k, self.n_latents)
        sae = self
        if float(self.input_scale) != 1.0:
            sae = copy.deepcopy(self)
            sae.fold_input_scale()
        arrays = sae.on_disk(stored(sae.arrays(), values))
        write_folder(folder, sae.describe(), arrays, values, sae.metadata)
        self.folder = folder
        return folder


def zeros(*sizes: int) -> Tensor:
    """float32 zeros on the CPU, whatever torch's default type and device are."""
    return torch.zeros(sizes, dtype=torch.float32, device="cpu")


def one() -> Tensor:
    """The input scale that changes nothing."""
    return torch.ones((), dtype=torch.float32, device="cpu")


def check_sizes(d_in: int, n_latents: int, k: int) -> tuple[int, int, int]:
    """The sizes of an SAE, whole numbers of any integer type, as Python's own; raise unless it can have them."""
    named = (("d_in", d_in), ("n_latents", n_latents), ("k", k))
    d_in, n_latents, k = (whole_number(name, value, least=1) for name, value in named)
    if k > n_latents:
        raise ExpanderSaeError(f"expected k <= n_latents = {n_latents}; got k = {k}")
    return d_in, n_latents, k


def check_input(x: Tensor, d_in: int) -> None:
    """Raise unless x is [batch, d_in]."""
    if not isinstance(x, Tensor):
        raise ExpanderSaeError(f"expected x as a tensor [batch, d_in={d_in}]; got {type(x).__name__}")
    if x.ndim != 2 or x.shape[1] != d_in:
        hint = "Was the SAE trained on another model or layer?"
        if x.ndim > 2 and x.shape[-1] == d_in:
            hint = f"Flatten it: x.reshape(-1, {d_in})."
        raise ExpanderSaeError(f"expected x as [batch, d_in={d_in}]; got {list(x.shape)}. {hint}")
