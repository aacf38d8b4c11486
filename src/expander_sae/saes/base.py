"""What every SAE of this package can do. Subclasses implement the interface and override nothing that has a body."""

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from expander_sae.ops import Codes, ReconstructionLoss, reconstruction_loss, sparse_decode
from expander_sae.records import ExpanderSaeError

from .columns import UnitColumns
from .inference import Inference, infer


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

    stages: int
    """0: codes are the one-shot TopK. T > 0: codes come from block OMP in T stages."""
    spare: int = 0
    """Columns each of those stages picks beyond its share and drops again."""

    @abstractmethod
    def dictionary(self) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """(rows or None when dense, unit-norm decoder values, encoder values or None when tied), differentiable."""

    @abstractmethod
    def sub_dictionary(self, latents: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, Tensor | None]:
        """(rows, decoder values, encoder values or None when tied, bias or None) of some latents, differentiable."""

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

    inference: Inference | None = None
    """How `encode` reads codes unless told otherwise; None: in the SAE's own `stages`. Not saved."""

    def encode(self, x: Tensor, *, inference: str | Inference | None = None) -> Codes:
        """Codes of x [batch, d_in] by the SAE's own inference or another of `INFERENCES`.

        The SAE's own is `self.inference`, or else block OMP in `stages` stages, the encoder where that is 0. Only the
        encoder is differentiable; see `expander_sae.pursuit.refit_codes` for gradients of a pursuit.

        Raises:
            ExpanderSaeError: x has another width, or holds NaN or infinity; or there is no such inference.

        Example:
            >>> from expander_sae.saes import ExpanderSae
            >>> sae = ExpanderSae(d_in=64, n_latents=512, degree=4, k=8)
            >>> sae.encode(torch.randn(10, 64), inference="omp").values.shape
            torch.Size([10, 8])
        """
        check_input(x, self.d_in)
        if isinstance(inference, str):
            inference = Inference.parse(inference, self.k)
        return infer(self, x, inference or self.own_inference())

    def own_inference(self) -> Inference:
        """What `encode` uses when not told otherwise."""
        return self.inference or Inference.of_stages(self.stages, self.spare)

    def read_by(self, inference: str | Inference | None) -> Self:
        """The same SAE, sharing every parameter, whose `encode` uses this inference; None: its own.

        Raises:
            ExpanderSaeError: there is no such inference.
        """
        other = copy.copy(self)
        other.inference = Inference.parse(inference, self.k) if isinstance(inference, str) else inference
        return other

    def decode(self, codes: Codes) -> Tensor:
        """x_hat [batch, d_in] = W h + b_dec."""
        rows, decoder, _ = self.dictionary()
        return sparse_decode(codes, rows, decoder, self.d_in) + self.center()

    def reconstruction_loss(
        self, x: Tensor, *, keep_residual: bool = False, inference: Inference | None = None
    ) -> ReconstructionLoss:
        """Sum of ||x - x_hat||^2 over x [batch, d_in], with its gradients made in one pass.

        `inference`: how the codes are found, None for the SAE's own way; those of a pursuit are held fixed.

        Raises:
            ExpanderSaeError: x has another width, or holds NaN or infinity.
        """
        check_input(x, self.d_in)
        inference = inference or Inference.of_stages(self.stages, self.spare)
        rows, decoder, encoder = self.dictionary()
        return reconstruction_loss(
            x,
            rows,
            decoder,
            self.k,
            center=self.center(),
            bias=self.latent_bias(),
            encoder=encoder,
            signed=self.signed,
            codes=None if inference.name == "encoder" else infer(self, x, inference),
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

    def save(self, folder: str | Path, *, values: str = "float32") -> Path:
        """Write `config.json` and `sae.safetensors`, the dictionary's values in float32, float16, bfloat16 or int8.

        Raises:
            ExpanderSaeError: as in `expander_sae.saes.save_sae`.
        """
        from .checkpoint import save_sae  # checkpoint imports this file

        return save_sae(self, folder, values=values)


def zeros(*sizes: int) -> Tensor:
    """float32 zeros on the CPU, whatever torch's default type and device are."""
    return torch.zeros(sizes, dtype=torch.float32, device="cpu")


def one() -> Tensor:
    """The input scale that changes nothing."""
    return torch.ones((), dtype=torch.float32, device="cpu")


def check_sizes(d_in: int, n_latents: int, k: int) -> None:
    """Raise unless an SAE can have these sizes."""
    for name, value in (("d_in", d_in), ("n_latents", n_latents), ("k", k)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ExpanderSaeError(f"expected {name} as a positive integer; got {value!r}")
    if k > n_latents:
        raise ExpanderSaeError(f"expected k <= n_latents = {n_latents}; got k = {k}")


def check_input(x: Tensor, d_in: int) -> None:
    """Raise unless x is [batch, d_in]."""
    if x.ndim != 2 or x.shape[1] != d_in:
        raise ExpanderSaeError(
            f"expected x as [batch, d_in={d_in}]; got {list(x.shape)}. Was the SAE trained on another model or layer?"
        )


def check_stages(stages: int, spare: int, k: int, n_latents: int) -> tuple[int, int]:
    """`stages` and `spare` if an SAE can have them: 0 (one-shot TopK) to k stages (one column each), and no spare
    columns without stages.

    Raises:
        ExpanderSaeError: it cannot.
    """
    if isinstance(stages, bool) or not isinstance(stages, int) or not 0 <= stages <= k:
        raise ExpanderSaeError(f"expected stages in 0..k = {k}; got {stages!r}")
    most = n_latents - k if stages else 0
    if isinstance(spare, bool) or not isinstance(spare, int) or not 0 <= spare <= most:
        raise ExpanderSaeError(f"expected spare in 0..{most} with {stages} stages; got {spare!r}")
    return stages, spare
