"""What every op promises of derivatives: the first ones, by backward, alike on every backend; else one error."""

import pytest
import torch
from by_method import pursue

from expander_sae.interop.saelens_codes import decode_dense, spread_codes
from expander_sae.ops import (
    Codes,
    block_omp,
    correlate,
    encode_topk,
    reconstruction_loss,
    sparse_decode,
    support_gram,
    unit_columns,
)
from expander_sae.pursuit import Dictionary, Encoder, refit_codes
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae

ROWS = ExpanderSae(d_in=16, n_latents=48, degree=3, k=4, reading=Encoder()).rows
CENTER = torch.zeros(16)


def codes_of(x, values):
    return Codes(*(part.detach() for part in encode_topk(x, ROWS, values, 4)))


DIFFERENTIABLE = {
    "encode": lambda x, v, backend: encode_topk(x, ROWS, v, 4, backend=backend).values,
    "decode": lambda x, v, backend: sparse_decode(codes_of(x, v), ROWS, v, 16, backend=backend),
    "loss": lambda x, v, backend: reconstruction_loss(x, ROWS, v, 4, center=CENTER, backend=backend).loss,
    "unit": lambda x, v, backend: unit_columns(v, backend=backend),
    "dense encode": lambda x, v, backend: encode_topk(x[:, :3], None, v, 4, backend=backend).values,
    "refit": lambda x, v, backend: refit_codes(x, codes_of(x, v).indices, _dictionary(v)).codes.values,
}
OTHERS = {
    "block_omp": lambda x, v, backend: block_omp(x, ROWS, unit_columns(v.detach()), 4, backend=backend).values,
    "correlate": lambda x, v, backend: correlate(x, ROWS, v, backend=backend),
    "gram": lambda x, v, backend: support_gram(torch.zeros(2, 3, dtype=torch.int64), ROWS, v, 16, backend=backend),
    "pursue": lambda x, v, backend: pursue(x, _dictionary(v), 4, backend=backend).values,
}


def _dictionary(values):
    return Dictionary(ROWS, values, 16)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 16, generator=generator), torch.randn(48, 3, generator=generator)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_second_derivatives_are_refused(name, backend, inputs):
    x, values = (tensor.requires_grad_() for tensor in inputs)
    out = DIFFERENTIABLE[name](x, values, backend)
    with pytest.raises(ExpanderSaeError, match="second derivatives"):
        torch.autograd.grad(out.sum(), values, create_graph=True)


@pytest.mark.parametrize(
    "sae",
    [ExpanderSae(d_in=16, n_latents=48, degree=3, k=4, reading=Encoder()), DenseTopKSae(d_in=16, n_latents=48, k=4)],
)
def test_a_gradient_penalty_is_refused_not_dropped(sae, inputs):
    x = inputs[0].requires_grad_()
    with pytest.raises(ExpanderSaeError, match="second derivatives"):
        torch.autograd.grad(sae(x).sum(), x, create_graph=True)
    with pytest.raises(ExpanderSaeError, match="second derivatives"):
        torch.autograd.grad(decode_dense(sae, spread_codes(sae, x)).sum(), x, create_graph=True)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("name", [*DIFFERENTIABLE, *OTHERS])
def test_transforms_and_forward_mode_are_refused(name, backend, inputs):
    x, values = inputs
    function = (DIFFERENTIABLE | OTHERS)[name]
    with pytest.raises(ExpanderSaeError, match=r"outside torch\.func"):
        torch.func.vmap(lambda one: function(one[None], values, backend))(x)
    with pytest.raises(ExpanderSaeError, match=r"outside torch\.func"):
        torch.func.grad(lambda v: function(x, v, backend).sum())(values)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ExpanderSaeError, match="forward-mode"):
        function(*(torch.autograd.forward_ad.make_dual(t, torch.ones_like(t)) for t in inputs), backend)


def test_the_loss_gives_x_no_gradient_on_any_backend(inputs):
    for backend in ("native", "reference"):
        x, values = inputs[0].clone().requires_grad_(), inputs[1].clone().requires_grad_()
        reconstruction_loss(x, ROWS, values, 4, center=CENTER, backend=backend).loss.backward()
        assert x.grad is None
        assert float(values.grad.abs().sum()) > 0


def test_a_second_backward_through_one_loss_is_one_error(inputs):
    loss = reconstruction_loss(inputs[0], ROWS, inputs[1].requires_grad_(), 4, center=CENTER).loss
    loss.backward(retain_graph=True)
    with pytest.raises(ExpanderSaeError, match="got a second"):
        loss.backward()


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_backward_inside_autocast_is_in_its_own_precision(backend, inputs):
    found = []
    for on in (False, True):
        values = inputs[1].clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            encode_topk(inputs[0][:, :3], None, values, 4, backend=backend).values.square().sum().backward()
        found.append(values.grad)
    assert torch.equal(*found)
