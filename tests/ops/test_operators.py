"""The ops as custom operators of torch: torch's own checks of them, and compiled modules without a graph break."""

import pytest
import torch
from dictionaries import needs_native
from torch import nn
from torch.library import opcheck

from expander_sae.ops import Codes, encode_topk, sparse_decode
from expander_sae.ops.operators import OPERATORS
from expander_sae.pursuit import OMP, Encoder, Refit, Stages
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae
from expander_sae.saes.in_graph import InGraphSae

D_IN, N, K = 24, 64, 4
SIZES = {"d_in": D_IN, "n_latents": N, "k": K}


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch._dynamo.reset()


def saes():
    return {
        "encoder": ExpanderSae(**SIZES, degree=4, reading=Encoder(), tied=False, latent_bias=True),
        "signed": ExpanderSae(**SIZES, degree=4, reading=Encoder(), signed=True),
        "stages": ExpanderSae(**SIZES, degree=4, reading=Stages(2, spare=3)),
        "omp": ExpanderSae(**SIZES, degree=4, reading=OMP(tolerance=0.1)),
        "refit": ExpanderSae(**SIZES, degree=4, reading=Refit()),
        "irregular": IrregularSae(**SIZES, degree=12, entries=4 * N),
        "dense": DenseTopKSae(**SIZES),
    }


def samples():
    """Arguments of every operator, dense and sparse, with what is optional and without."""
    torch.manual_seed(0)
    x, rows = torch.randn(5, D_IN), ExpanderSae(**SIZES, degree=4).rows
    values, dense = torch.randn(N, 4), torch.randn(N, D_IN)
    bias, center = torch.randn(N), torch.randn(D_IN)
    codes = encode_topk(x, rows, values, K)
    gradient, out = torch.randn(5, K), torch.randn(5, D_IN)
    for r, v in ((rows, values), (None, dense)):
        for b, c, signed in ((None, None, True), (bias, center, False)):
            yield "encode_topk", (x, r, v, K, b, c, signed)
            yield "encode_topk_backward", (gradient, x, r, v, K, b, c, signed)
        yield "sparse_decode", (codes.indices, codes.values, r, v, D_IN)
        yield "sparse_decode_backward", (out, codes.indices, codes.values, r, v, D_IN)
        unit = v / v.norm(dim=1, keepdim=True)
        yield "read_codes", (x, r, unit, None, None, center, False, K, "stages:2+3")


SAMPLES = list(samples())


def test_every_operator_is_checked():
    assert {name for name, _ in SAMPLES} == set(OPERATORS)


@needs_native
@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_torch_finds_nothing_wrong_with_them(number):
    name, arguments = SAMPLES[number]
    given = [one.clone() if isinstance(one, torch.Tensor) else one for one in arguments]
    if name in ("encode_topk", "sparse_decode"):
        for one in given:
            if isinstance(one, torch.Tensor) and one.is_floating_point():
                one.requires_grad_()
    operator = getattr(torch.ops.expander_sae, name).default
    assert set(opcheck(operator, tuple(given)).values()) == {"SUCCESS"}


@needs_native
@pytest.mark.parametrize("name", saes())
def test_a_compiled_sae_has_the_bits_of_the_sae(name):
    sae, x = saes()[name], torch.randn(9, D_IN)
    held = InGraphSae(sae)
    compiled = torch.compile(held.encode, fullgraph=True, backend="aot_eager", dynamic=True)
    with torch.no_grad():
        for batch in (x, x[:3], x[:1]):
            codes, expected = compiled(batch), sae.eval().encode(batch)
            assert torch.equal(codes.indices, expected.indices)
            assert torch.equal(codes.values, expected.values)
        assert torch.equal(torch.compile(held, fullgraph=True, backend="aot_eager")(x), sae(x))
    assert torch._dynamo.explain(held)(x).graph_break_count == 0
    assert not held.state_dict()


@needs_native
@pytest.mark.slow
def test_inductors_code_carries_it():
    sae, x = saes()["stages"], torch.randn(9, D_IN)
    with torch.no_grad():
        assert torch.equal(torch.compile(InGraphSae(sae), fullgraph=True)(x), sae.eval()(x))


class Loss(nn.Module):
    """A loss on an encoder's codes and their reconstruction, in the parameters of plain tensors."""

    def __init__(self):
        super().__init__()
        self.rows = ExpanderSae(**SIZES, degree=4).rows
        self.values = nn.Parameter(torch.randn(N, 4))
        self.bias, self.center = nn.Parameter(torch.randn(N) / 9), nn.Parameter(torch.randn(D_IN) / 9)

    def forward(self, x):
        codes = encode_topk(x, self.rows, self.values, K, bias=self.bias, center=self.center)
        found = sparse_decode(codes, self.rows, self.values, D_IN) + self.center
        return (found - x).square().sum() + codes.values.abs().sum()


@needs_native
def test_gradients_of_a_compiled_loss_are_those_of_the_ops():
    loss, x = Loss(), torch.randn(9, D_IN, requires_grad=True)
    inputs = [x, *loss.parameters()]
    plain = loss(x)
    expected = torch.autograd.grad(plain, inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, plain)
    for got, want in zip(torch.autograd.grad(compiled, inputs), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_no_gradient_leaves_a_pursuit():
    held, x = InGraphSae(saes()["stages"]), torch.randn(3, D_IN, requires_grad=True)
    codes = held.encode(x)
    assert not codes.values.requires_grad
    by_encoder = InGraphSae(saes()["encoder"])
    by_encoder.encode(x).values.sum().backward()
    assert bool(x.grad.any())


def test_an_error_at_run_time_is_the_ops_own():
    from expander_sae.records import ExpanderSaeError

    compiled = torch.compile(InGraphSae(saes()["encoder"]), fullgraph=True, backend="eager")
    with torch.no_grad(), pytest.raises(ExpanderSaeError, match="NaN"):
        compiled(torch.full((2, D_IN), torch.nan))
    assert isinstance(InGraphSae(saes()["dense"]).encode(torch.randn(2, D_IN)), Codes)
