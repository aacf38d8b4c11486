"""How codes are read from an SAE: one pass of its encoder, or a pursuit over its dictionary."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from expander_sae.ops import Codes, block_omp, encode_topk
from expander_sae.pursuit import Dictionary, pursue
from expander_sae.records import ExpanderSaeError

if TYPE_CHECKING:
    from .base import AbstractSae

INFERENCES = {
    "encoder": "one pass of the encoder and TopK",
    "refit": "the encoder's support, least squares on it",
    "stages:T": "block orthogonal matching pursuit in T stages; in stages:T+S each picks S columns more and drops S",
    "omp": "orthogonal matching pursuit, one column at a time",
    "warm:M": "the encoder's M best columns, then OMP for the rest",
    "nnomp": "non-negative OMP",
    "mp": "matching pursuit; mp:N takes N steps instead of k",
    "gradient": "gradient pursuit; gradient:N takes N steps instead of k",
    "cosamp": "CoSaMP; cosamp:N iterates at most N times instead of 50",
    "niht": "normalised iterative hard thresholding; niht:N iterates at most N times instead of 50",
}
"""Every way to read codes, in words."""

_NUMBERED = {"stages": True, "warm": True, "mp": False, "gradient": False, "cosamp": False, "niht": False}
"""Which take a number, and whether they need it."""


@dataclass(frozen=True)
class Inference:
    """A way to read codes: a name out of `INFERENCES` and its number, if it has one."""

    name: str
    number: int | None = None
    spare: int = 0
    """Of "stages": columns a stage picks beyond its share and drops again."""

    def __str__(self) -> str:
        number = "" if self.number is None else f":{self.number}"
        return self.name + number + (f"+{self.spare}" if self.spare else "")

    @classmethod
    def parse(cls, text: str, k: int) -> "Inference":
        """The inference written as NAME, NAME:NUMBER or stages:NUMBER+SPARE, for codes of k latents.

        Raises:
            ExpanderSaeError: no such inference, a number that is missing, out of range, or where none belongs.

        Example:
            >>> Inference.parse("stages:8", 32)
            Inference(name='stages', number=8, spare=0)
        """
        name, colon, digits = text.partition(":")
        digits, plus, spare = digits.partition("+")
        if name not in {known.partition(":")[0] for known in INFERENCES}:
            raise ExpanderSaeError(f"expected an inference out of {', '.join(INFERENCES)}; got {text!r}")
        if not colon and not _NUMBERED.get(name, False):
            return cls(name)
        most = k if name in ("stages", "warm") else 10**6
        good_spare = not plus or (name == "stages" and spare.isdecimal())
        if (
            len(text) > 40
            or name not in _NUMBERED
            or not digits.isdecimal()
            or not 1 <= int(digits) <= most
            or not good_spare
        ):
            wanted = f"{name}:N with N in 1..{most}" if name in _NUMBERED else f"{name} without a number"
            wanted += " (and maybe +SPARE)" if name == "stages" else ""
            raise ExpanderSaeError(f"expected {wanted}; got {text!r}")
        return cls(name, int(digits), int(spare or 0))

    @classmethod
    def of_stages(cls, stages: int, spare: int = 0) -> "Inference":
        """That of an SAE whose own codes come in so many stages; 0 is the encoder."""
        return cls("stages", stages, spare) if stages else cls("encoder")

    def fits(self, k: int, n_latents: int) -> bool:
        """Whether an SAE of these sizes has columns enough for k and the spare ones together."""
        return self.spare <= n_latents - k

    def stages(self) -> int | None:
        """How many stages of block OMP this is, 0 for the encoder; None for anything else."""
        return {"encoder": 0, "stages": self.number}.get(self.name)


def usual_spare(k: int, stages: int, n_latents: int) -> int:
    """Spare columns that pay for themselves: two for each that a stage adds (docs/pursuit.md has the measurement).

    Example:
        >>> usual_spare(32, 8, 4096)
        8
    """
    return min(2 * -(-k // stages), n_latents - k) if stages else 0


def infer(sae: "AbstractSae", x: Tensor, inference: Inference) -> Codes:
    """Codes of x [batch, d_in]; `signed` SAEs pick columns by size of the correlation, others by positive correlation.

    Raises:
        ExpanderSaeError: as in `pursue`.
    """
    rows, decoder, encoder = sae.dictionary()
    name, number, center = inference.name, inference.number, sae.center()
    if name == "stages":
        assert number is not None
        block = -(-sae.k // number)
        return block_omp(
            x,
            rows,
            decoder,
            sae.k,
            block=block,
            spare=inference.spare,
            signed=sae.signed,
            center=center.detach(),
        )
    start = None
    if name in ("encoder", "refit", "warm"):
        k = sae.k if number is None else number
        weights = decoder if encoder is None else encoder
        start = encode_topk(x, rows, weights, k, bias=sae.latent_bias(), center=center, signed=sae.signed)
        if name == "encoder":
            return start
        start = Codes(start.indices, start.values.detach())
    return pursue(
        x,
        Dictionary(rows, decoder.detach(), sae.d_in),
        sae.k,
        "omp" if name == "warm" else name,
        signed=sae.signed,
        center=center.detach(),
        warm_start=start,
        steps=number if name in ("mp", "gradient", "cosamp", "niht") else None,
    )
