"""The logit lens: which tokens a latent's column raises and lowers through the unembedding."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expander_sae.activations.blocks import decoder_blocks
from expander_sae.activations.running import uncompiled
from expander_sae.records import ExpanderSaeError


class LogitLens(NamedTuple):
    """What a direction of the residual stream adds to the logits, but for the length of the stream:

        logits(w) = U (g * (w - mean(w)))     LayerNorm: its weight g; the mean is taken off
        logits(w) = U (g * w)                 RMSNorm: its weight g (1 + weight where a family stores it so)
        logits(w) = U w                       no final norm

    The norm also divides by the stream's length, which is one number for all latents and tokens of a position, and adds
    a bias that no latent changes: both are left out, and so is the change of that length by w itself.
    """

    unembedding: Tensor
    """U, float32 [vocabulary, d_in], as far as the tokenizer goes."""
    scale: Tensor
    """g, float32 [d_in]."""
    centred: bool
    said: str
    """What was done, in words."""

    @torch.no_grad()
    def logits(self, columns: Tensor) -> Tensor:
        """Of columns [count, d_in]: [count, vocabulary]."""
        if self.centred:
            columns = columns - columns.mean(1, keepdim=True)
        return (columns * self.scale) @ self.unembedding.T


def logit_lens(model: Any, vocabulary: int) -> LogitLens:
    """The lens of a language model.

    The final norm is the module with "norm" or "ln" in its name that stands behind the blocks, beside their list. What
    it does is not read off its class but tried: on x = (1, -1, 1, ...), of mean 0 and variance 1, and on x + 1.

    Args:
        model: a causal language model of transformers.
        vocabulary: tokens that the tokenizer knows.

    Raises:
        ExpanderSaeError: it has no unembedding.
    """
    model = uncompiled(model)
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    weight = getattr(head, "weight", None)
    if weight is None:
        raise ExpanderSaeError(
            f"expected a language model with an unembedding, for the tokens that latents promote; got "
            f"{type(model).__name__}, which has none. Leave it out with --no-logit-lens."
        )
    unembedding = weight.detach().float().cpu()[:vocabulary]
    norm = _final_norm(model)
    d_in = unembedding.shape[1]
    if norm is None:
        return LogitLens(unembedding, torch.ones(d_in), False, "U w; no final norm was found")
    scale, centred = _tried(norm[1], d_in)
    said = "U (g * (w - mean(w)))" if centred else "U (g * w)"
    return LogitLens(unembedding, scale, centred, f"{said}, g the weight of {norm[0]}")


def _final_norm(model: Any) -> tuple[str, nn.Module] | None:
    """Name and module of what stands behind the blocks."""
    blocks = decoder_blocks(model)
    for name, module in model.named_modules():
        children = list(module.named_children())
        at = next((i for i, (_, child) in enumerate(children) if child is blocks), None)
        if at is not None:
            norms = [(n, m) for n, m in children[at + 1 :] if "norm" in n.lower() or n.lower().startswith("ln")]
            norms = [(n, m) for n, m in norms if any(p.ndim == 1 for p in m.parameters())]
            return (f"{name}.{norms[-1][0]}".lstrip("."), norms[-1][1]) if norms else None
    return None


@torch.no_grad()
def _tried(norm: nn.Module, d_in: int) -> tuple[Tensor, bool]:
    """The weight of a norm, and whether it takes off the mean."""
    norm = copy.deepcopy(norm).float().cpu()
    x = torch.ones(1, d_in)
    x[:, 1::2] = -1.0
    if d_in % 2:  # mean 0 and length sqrt(d_in) all the same
        x[:, -1] = 0.0
        x *= (d_in / (d_in - 1)) ** 0.5
    scale = (norm(x) - norm(-x))[0] / 2  # less the bias
    moved = (norm(x + 1) - norm(-x - 1))[0] / 2
    where = x[0] != 0
    centred = bool(torch.allclose(moved, scale, rtol=1e-3, atol=1e-4))
    weight = torch.where(where, scale / torch.where(where, x[0], 1.0), 0.0)
    if d_in % 2:  # the entry that x could not show
        y = x.roll(1, dims=1)
        weight[-1] = ((norm(y) - norm(-y))[0] / 2)[-1] / y[0, -1]
    return weight, centred
