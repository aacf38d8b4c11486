"""An SAE inside a compiled model: read, splice or steer without a graph break.

The hooks of `expander_sae.interop.hooks` run outside of a graph. What is set here is traced into it: set it before the
model is compiled, and it becomes part of the graph, for as long as that graph is used. It checks little, since nothing
can be raised out of a graph; try the same change with those hooks first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.activations.modules import named_module
from expander_sae.activations.outputs import hidden_of, residual_of, with_hidden
from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError, whole_number
from expander_sae.saes import AbstractSae
from expander_sae.saes.in_graph import InGraphSae

from .hooks import direction_of

_KINDS = ("read", "splice", "steer")


class Carried:
    """What `carry` has set: the codes of the last forward pass, and a way to take it out again."""

    def __init__(self, sae: InGraphSae, most: int, residual: bool, kind: str, direction: Tensor | None) -> None:
        self.sae, self._residual, self._kind, self._direction = sae, residual, kind, direction
        device = sae.decoder.device
        self._indices = torch.zeros(most, sae.k, dtype=torch.int64, device=device)
        self._values = torch.zeros(most, sae.k, dtype=torch.float32, device=device)
        self._handle: Any = None

    def codes(self, vectors: int) -> Codes:
        """Codes of the first `vectors` activations of the last forward pass, in the order of its tokens, a copy."""
        return Codes(self._indices[:vectors].clone(), self._values[:vectors].clone())

    def remove(self) -> None:
        """Take it out; a graph that has been compiled with it keeps it."""
        self._handle.remove()

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        """The hook; traced into the graph."""
        update = hidden_of(output)
        x = update + residual_of(output) if self._residual else update
        if self._kind == "steer":
            assert self._direction is not None
            return with_hidden(output, update + self._direction.to(update.dtype))
        codes = self.sae.encode(x.detach().reshape(-1, self.sae.d_in).to(torch.float32))
        if self._kind == "read":
            count = codes.indices.shape[0]
            self._indices[:count].copy_(codes.indices)
            self._values[:count].copy_(codes.values.detach())
            return None
        new = self.sae.decode(codes).view(x.shape).to(x.dtype)
        return with_hidden(output, new - residual_of(output) if self._residual else new)


def carry(
    model: nn.Module,
    module: str,
    sae: AbstractSae,
    kind: str,
    *,
    strengths: Mapping[int, float] | None = None,
    most: int = 8192,
    residual: bool = False,
) -> Carried:
    """Set an SAE at module `module`, to be compiled with the model: `torch.compile(model, fullgraph=True)`.

    Args:
        model: not compiled yet, and on the device where it will run; the SAE is on the same.
        module: a name out of `model.named_modules()`.
        sae: read off as it is now.
        kind: "read" writes the codes of every forward pass where `codes` finds them; "splice" puts the reconstruction
            in the place of the activations; "steer" adds strength times its unit column for each latent of `strengths`.
        strengths: of "steer", in the units of the activations.
        most: activations (batch times positions) of a forward pass that are read, at most.
        residual: the module returns (update, residual), as vLLM's blocks do, and the activations are their sum.

    Raises:
        ExpanderSaeError: there is no such module, kind or latent.

    Example:
        >>> from expander_sae.saes import ExpanderSae
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU())
        >>> held = carry(model, "0", ExpanderSae(d_in=64, n_latents=256, degree=4, k=8), "read")
        >>> _ = torch.compile(model, fullgraph=True, backend="eager")(torch.randn(5, 8))
        >>> held.codes(5).indices.shape
        torch.Size([5, 8])
    """
    if kind not in _KINDS or (strengths is not None) != (kind == "steer"):
        raise ExpanderSaeError(
            f"expected kind as one of {', '.join(_KINDS)}, with strengths for steer alone; got {kind!r} "
            f"{'with' if strengths is not None else 'without'} strengths"
        )
    place, most = named_module(model, module), whole_number("most", most, least=1)
    direction = None if strengths is None else direction_of(sae, strengths)
    held = Carried(InGraphSae(sae), most if kind == "read" else 1, residual, kind, direction)
    held._handle = place.register_forward_hook(held)
    return held
