"""An SAE inside any PyTorch model: read its codes, run on its reconstruction, steer along its latents.

Plain forward hooks on a module by name, so it works wherever modules have names: transformers, TransformerLens (its
hook points are modules: "blocks.3.hook_resid_post"), nnsight (the model it wraps), timm, your own. Each is a context
manager that takes its hook away again. They may be nested; the one opened first acts first.

The blocks of vLLM's models return (update, residual) and leave the addition to the next block: `residual=True` takes
the sum, the residual stream that SAEs are trained on.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from expander_sae.activations.modules import changed_output
from expander_sae.ops import Codes, sparse_decode
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

Where = Callable[[Tensor], Tensor]
"""From activations [..., d_in] to bool [...]: which of them to touch."""


@contextmanager
def read_codes(model: nn.Module, module: str, sae: AbstractSae, *, residual: bool = False) -> Iterator[list[Codes]]:
    """While open, every forward pass appends the codes of module `module`'s output to the yielded list.

    Their `indices` and `values` have the output's leading axes: [batch, position, k] for a language model. The model's
    own computation is left alone. With `residual` the activations are the sum of the pair that the module returns.

    Raises:
        ExpanderSaeError: there is no such module, or its width is not the SAE's.

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
        codes = sae.encode(_flat(hidden, sae))
        shape = (*hidden.shape[:-1], codes.indices.shape[1])
        seen.append(Codes(codes.indices.view(shape), codes.values.detach().view(shape)))

    with changed_output(model, module, read, residual=residual):
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

    `edit` changes the codes first (indices and values [vectors, k]). With `keep_error` what the SAE does not explain
    stays: x + W (edit(h) - h), which is x itself without an edit. `where` picks the vectors to replace; the others keep
    the model's own, as first positions and tokens of giant norm should (SAEs are not trained on them). With `residual`
    x is the sum of the pair that the module returns.

    Raises:
        ExpanderSaeError: there is no such module, its width is not the SAE's, or `where` returns another shape.

    Example:
        >>> with splice(lm, "model.layers.3", sae, where=lambda x: x.norm(dim=-1) < 500):  # doctest: +SKIP
        ...     logits = lm(input_ids).logits
    """

    def replace(hidden: Tensor) -> Tensor:
        x = _flat(hidden, sae)
        codes = sae.encode(x)
        new = sae.decode(codes if edit is None else edit(codes))
        if keep_error:
            new = new + x - sae.decode(codes)
        return _chosen(hidden, new.view(hidden.shape), where)

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
        ExpanderSaeError: there is no such module or latent, its width is not the SAE's, or `where` returns another
            shape.

    Example:
        >>> with steer(lm, "model.layers.3", sae, {1234: 40.0}):  # doctest: +SKIP
        ...     lm.generate(input_ids)
    """
    direction = _direction(sae, strengths)

    def add(hidden: Tensor) -> Tensor:
        _check_width(hidden, sae)
        return _chosen(hidden, hidden + direction.to(hidden.device, hidden.dtype), where)

    with changed_output(model, module, add, residual=residual):
        yield


def _direction(sae: AbstractSae, strengths: Mapping[int, float]) -> Tensor:
    """sum_j strength_j w_j [d_in]."""
    latents = list(strengths)
    wrong = [j for j in latents if isinstance(j, bool) or not isinstance(j, int) or not 0 <= j < sae.n_latents]
    if wrong or not latents:
        raise ExpanderSaeError(f"expected latents in 0..{sae.n_latents - 1} to steer along; got {wrong or 'none'}")
    device = sae.b_dec.device
    values = torch.tensor([[float(strengths[j]) for j in latents]], device=device, dtype=torch.float32)
    with torch.no_grad():
        rows, decoder, _ = sae.dictionary()
        return sparse_decode(Codes(torch.tensor([latents], device=device), values), rows, decoder, sae.d_in)[0]


def _check_width(hidden: Tensor, sae: AbstractSae) -> None:
    if hidden.shape[-1] != sae.d_in:
        raise ExpanderSaeError(
            f"expected a module whose output is {sae.d_in} wide, as the SAE is; got {list(hidden.shape)}. "
            "Was the SAE trained on another model or module?"
        )


def _flat(hidden: Tensor, sae: AbstractSae) -> Tensor:
    """x [vectors, d_in] float32, where the SAE is; without a gradient to the model."""
    _check_width(hidden, sae)
    return hidden.detach().reshape(-1, sae.d_in).to(sae.b_dec.device, torch.float32)


def _chosen(hidden: Tensor, new: Tensor, where: Where | None) -> Tensor:
    """`new` where it is wanted, `hidden` elsewhere."""
    new = new.to(hidden.device, hidden.dtype)
    if where is None:
        return new
    chosen = where(hidden)
    if chosen.shape != hidden.shape[:-1] or chosen.dtype != torch.bool:
        raise ExpanderSaeError(
            f"expected `where` to return bool {list(hidden.shape[:-1])}; got {chosen.dtype} {list(chosen.shape)}"
        )
    return torch.where(chosen[..., None], new, hidden)
