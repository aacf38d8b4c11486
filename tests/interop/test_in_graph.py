"""An SAE compiled into a model does what the hooks outside of the graph do."""

import pytest
import torch
from tiny_models import D_IN, make_tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from expander_sae.interop.hooks import read_codes, splice, steer
from expander_sae.interop.in_graph import carry
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae

IDS = torch.randint(2, 400, (2, 9), generator=torch.Generator().manual_seed(0))
BLOCK = "model.layers.1"


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def tiny_sae(reading):
    return ExpanderSae(d_in=D_IN, n_latents=128, degree=4, k=6, reading=reading).eval()


@pytest.mark.parametrize("reading", [Stages(2), Encoder()])
def test_codes_are_read_in_a_graph(model, reading):
    sae = tiny_sae(reading)
    with torch.no_grad():
        clean = model(IDS, use_cache=False).logits
        with read_codes(model, BLOCK, sae) as seen:
            model(IDS, use_cache=False)
        held = carry(model, BLOCK, sae, "read")
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        logits = compiled(IDS, use_cache=False).logits
        torch.testing.assert_close(logits, clean)
        codes = held.codes(IDS.numel())
        assert torch.equal(codes.indices, seen[0].indices.view(-1, 6))
        torch.testing.assert_close(codes.values, seen[0].values.view(-1, 6))
        compiled(IDS.flip(0), use_cache=False)  # the next pass writes anew
        assert torch.equal(held.codes(9).indices, codes.indices[9:])
    held.remove()
    assert not model.model.layers[1]._forward_hooks


@pytest.mark.parametrize("kind", ["steer", "splice"])
def test_a_graph_is_steered_and_spliced(model, kind):
    sae = tiny_sae(Stages(2))
    options = {"strengths": {5: 30.0}} if kind == "steer" else {}
    with torch.no_grad():
        clean = model(IDS, use_cache=False).logits
        with steer(model, BLOCK, sae, {5: 30.0}) if kind == "steer" else splice(model, BLOCK, sae):
            expected = model(IDS, use_cache=False).logits
        carry(model, BLOCK, sae, kind, **options)
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(IDS, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, clean, atol=1e-2)


class _Block(nn.Module):
    """As vLLM's: the addition is left to the next one."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(D_IN, D_IN)

    def forward(self, x):
        stream = x[0] + x[1] if isinstance(x, tuple) else x
        return self.inner(stream), stream


def test_blocks_that_leave_the_addition_to_the_next_one():
    model, x, sae = nn.Sequential(_Block(), _Block()), torch.randn(7, D_IN), tiny_sae(Stages(2))
    with torch.no_grad():
        with read_codes(model, "0", sae, residual=True) as seen:
            model(x)
        held = carry(model, "0", sae, "read", residual=True)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
        compiled(x)
        assert torch.equal(held.codes(7).indices, seen[0].indices)
        compiled(x[:3])
        assert torch.equal(held.codes(3).indices, seen[0].indices[:3])
        held.remove()
        for kind, context in (("splice", splice), ("steer", lambda *it, **more: steer(*it, {3: 2.0}, **more))):
            with context(model, "0", sae, residual=True):
                expected = sum(model(x))
            held = carry(model, "0", sae, kind, residual=True, strengths={3: 2.0} if kind == "steer" else None)
            torch._dynamo.reset()
            found = sum(torch.compile(model, fullgraph=True, backend="aot_eager")(x))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
            held.remove()


def test_mistakes(model):
    sae = tiny_sae(Encoder())
    for kind, options in (("look", {}), ("steer", {}), ("read", {"strengths": {1: 1.0}})):
        with pytest.raises(ExpanderSaeError, match="read, splice, steer"):
            carry(model, BLOCK, sae, kind, **options)
    with pytest.raises(ExpanderSaeError, match=r"0\.\.127"):
        carry(model, BLOCK, sae, "steer", strengths={128: 1.0})
    with pytest.raises(ExpanderSaeError, match="name of a module"):
        carry(model, "model.layer.1", sae, "read")
