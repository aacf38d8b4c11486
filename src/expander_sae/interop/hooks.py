"""An SAE inside any PyTorch model: read its codes, run on its reconstruction, steer along its latents.

Plain forward hooks on a module by name, so it works wherever modules have names: transformers, TransformerLens (its
hook points are modules: "blocks.3.hook_resid_post"), nnsight (the model it wraps), timm, your own. Each is a context
manager that takes its hook away again. They may be nested; the one opened first acts first. Meanwhile the model is in
eval mode, because dropout would be in the codes; call `model.train()` inside to train it so. A module that never runs,
or more than once in a forward pass, is an error; an SAE of another model or place is a warning.

The blocks of vLLM's models return (update, residual) and leave the addition to the next block: `residual=True` takes
the sum, the residual stream that SAEs are trained on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from expander_sae.activations.models import source_of
from expander_sae.activations.modules import changed_output
from expander_sae.ops import Codes, sparse_decode
from expander_sae.records import ExpanderSaeError, Provenance, check_provenance
from expander_sae.saes import AbstractSae

Where = Callable[[Tensor], Tensor]
"""From activations [..., d_in] to bool [...]: which of them to touch."""


@contextmanager
def read_codes(
    model: nn.Module, module: str, sae: AbstractSae, *, where: Where | None = None, residual: bool = False
) -> Iterator[list[Codes]]:
    """While open, every forward pass appends the codes of module `module`'s output to the yielded list.

    Their `indices` and `values` have the output's leading axes: [batch, position, k] for a language model. The model's
    own computation is left alone. `where` picks the vectors to encode; the codes of the others are zero. With
    `residual` the activations are the sum of the pair that the module returns.

    Raises:
        ExpanderSaeError: there is no such module, its width is not the SAE's, it does not run exactly once in a forward
            pass, or `where` returns another shape.

    Example:
        >>> from expander_sae.saes import ExpanderSae
        >>> model = nn.Sequential(nn.Linear(8, 64), nn.ReLU())
        >>> with read_codes(model, "0", ExpanderSae(d_in=64, n_latents=256, degree=4, k=8)) as seen:
        ...     _ = model(torch.randn(2, 5, 8))
        >>> seen[0].indices.shape
        torch.Size([2, 5, 8])
    """
    seen: list[Codes] = []

    def read(hidden: Tensor) -> None:
        chosen = _chosen(hidden, sae, where)
        with torch.no_grad():  # nothing of it may be saved for a backward pass of the model
            codes = sae.encode(chosen.x)
        seen.append(_spread(codes, chosen.mask, hidden.shape[:-1]))

    _compare(model, module, sae)
    with changed_output(model, module, read, residual=residual, reads_only=True):
        yield seen


@contextmanager
def splice(
    model: nn.Module,
    module: str,
    sae: AbstractSae,
    *,
    edit: Callable[[Codes], Codes] | None = None,
    keep_error: bool = False,
    where: Where | None = None,
    residual: bool = False,
) -> Iterator[None]:
    """While open, the output x of module `module` is replaced by the SAE's reconstruction of it.

    `edit` changes the codes first (indices and values [vectors, k], of the vectors that are replaced). With
    `keep_error` what the SAE does not explain stays: x + W (edit(h) - h), which is x itself without an edit. `where`
    picks the vectors to replace; the others are not read and keep the model's own, as first positions and tokens of
    giant norm should (SAEs are not trained on them). With `residual` x is the sum of the pair that the module returns.

    Raises:
        ExpanderSaeError: there is no such module, its width is not the SAE's, it does not run exactly once in a
            forward pass, or `where` returns another shape.

    Example:
        >>> with splice(lm, "model.layers.3", sae, where=lambda x: x.norm(dim=-1) < 500):  # doctest: +SKIP
        ...     logits = lm(input_ids).logits
    """

    def replace(hidden: Tensor) -> Tensor:
        chosen = _chosen(hidden, sae, where)
        if len(chosen.x) == 0:
            return hidden
        codes = sae.encode(chosen.x)
        new = sae.decode(codes if edit is None else edit(codes))
        if keep_error:
            new = new + chosen.x - sae.decode(codes)
        return chosen.back(hidden, new)

    _compare(model, module, sae)
    with changed_output(model, module, replace, residual=residual):
        yield


@contextmanager
def steer(
    model: nn.Module,
    module: str,
    sae: AbstractSae,
    strengths: Mapping[int, float],
    *,
    where: Where | None = None,
    residual: bool = False,
) -> Iterator[None]:
    """While open, strength times its unit-norm dictionary column is added to the output for each latent given.

    x + sum_j strength_j w_j: strengths are in the units of the activations, as codes are. Nothing is encoded.

    Raises:
        ExpanderSaeError: there is no such module or latent, its width is not the SAE's, it does not run exactly once in
            a forward pass, or `where` returns another shape.

    Example:
        >>> with steer(lm, "model.layers.3", sae, {1234: 40.0}):  # doctest: +SKIP
        ...     lm.generate(input_ids)
    """
    direction = direction_of(sae, strengths)

    def add(hidden: Tensor) -> Tensor:
        _check_width(hidden, sae)
        steered = hidden + direction.to(hidden.device, hidden.dtype)
        return steered if where is None else torch.where(_mask(hidden, where)[..., None], steered, hidden)

    _compare(model, module, sae)
    with changed_output(model, module, add, residual=residual):
        yield


def direction_of(sae: AbstractSae, strengths: Mapping[int, float]) -> Tensor:
    """sum_j strength_j w_j [d_in]."""
    latents = list(strengths)
    wrong = [j for j in latents if isinstance(j, bool) or not isinstance(j, int) or not 0 <= j < sae.n_latents]
    if wrong or not latents:
        raise ExpanderSaeError(f"expected latents in 0..{sae.n_latents - 1} to steer along; got {wrong or 'none'}")
    device = sae.b_dec.device
    values = torch.tensor([[float(strengths[j]) for j in latents]], device=device, dtype=torch.float32)
    with torch.no_grad():
        w = sae.dictionary()
        return sparse_decode(Codes(torch.tensor([latents], device=device), values), w.rows, w.decoder, w.d_in)[0]


def _check_width(hidden: Tensor, sae: AbstractSae) -> None:
    if hidden.shape[-1] != sae.d_in:
        raise ExpanderSaeError(
            f"expected a module whose output is {sae.d_in} wide, as the SAE is; got {list(hidden.shape)}. "
            "Was the SAE trained on another model or module?"
        )


def _compare(model: nn.Module, module: str, sae: AbstractSae) -> None:
    """Warn if the SAE is known to be of another model or place; of the model what it says of itself."""
    name, revision = source_of(model)
    check_provenance("in this hook", sae, Provenance(model=name, revision=revision, module=module), stacklevel=4)


class _Chosen(NamedTuple):
    """The activations of an output that an SAE is to see."""

    x: Tensor
    """[vectors, d_in] float32, where the SAE is; without a gradient to the model."""
    mask: Tensor | None
    """Which they are, bool [...]; None for all."""

    def back(self, hidden: Tensor, new: Tensor) -> Tensor:
        """`hidden` with these vectors replaced by new [vectors, d_in]."""
        new = new.to(hidden.device, hidden.dtype)
        if self.mask is None:
            return new.view(hidden.shape)
        changed = hidden.clone()
        changed[self.mask] = new
        return changed


def _chosen(hidden: Tensor, sae: AbstractSae, where: Where | None) -> _Chosen:
    """Only what `where` picks is read at all: what it spares may be NaN, as padding is in some models."""
    _check_width(hidden, sae)
    mask = None if where is None else _mask(hidden, where)
    x = hidden.detach().reshape(-1, sae.d_in) if mask is None else hidden.detach()[mask]
    return _Chosen(x.to(sae.b_dec.device, torch.float32), mask)


def _mask(hidden: Tensor, where: Where) -> Tensor:
    mask = where(hidden)
    if not isinstance(mask, Tensor) or mask.shape != hidden.shape[:-1] or mask.dtype != torch.bool:
        seen = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise ExpanderSaeError(f"expected `where` to return bool {list(hidden.shape[:-1])}; got {seen}")
    return mask.to(hidden.device)


def _spread(codes: Codes, mask: Tensor | None, shape: tuple[int, ...]) -> Codes:
    """Codes with the axes of the output; those of vectors that were not read are zero, on the lowest latents."""
    k = codes.indices.shape[1]
    if mask is None:
        return Codes(codes.indices.view(*shape, k), codes.values.detach().view(*shape, k))
    indices = torch.arange(k, device=codes.indices.device).expand(*shape, k).clone()
    values = torch.zeros(*shape, k, dtype=codes.values.dtype, device=codes.values.device)
    there = mask.to(values.device)
    indices[there], values[there] = codes.indices, codes.values.detach()
    return Codes(indices, values)
