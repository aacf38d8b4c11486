"""Runs where TransformerLens is installed; 3 and 4 were tried."""

from importlib.metadata import version

import pytest
import torch
from tiny_models import make_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from expander_sae.interop.hooks import read_codes, splice, steer
from expander_sae.pursuit import Stages
from expander_sae.saes import ExpanderSae

transformer_lens = pytest.importorskip("transformer_lens")

SAE = ExpanderSae(d_in=32, n_latents=128, degree=4, k=6, reading=Stages(2))
IDS = torch.randint(2, 50, (2, 7), generator=torch.Generator().manual_seed(1))


def hooked_transformer(folder):
    if int(version("transformer-lens").partition(".")[0]) >= 4:
        pytest.skip("TransformerLens 4 has no HookedTransformer")
    config = transformer_lens.HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=16, d_head=8, n_heads=4, d_vocab=50, act_fn="gelu", seed=0
    )
    return transformer_lens.HookedTransformer(config).eval(), "blocks.1.hook_resid_post"


def bridge(folder):
    from transformer_lens.model_bridge import TransformerBridge

    path = str(make_tiny_model(folder))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    found = TransformerBridge.boot_transformers(path, hf_model=model, tokenizer=tokenizer, device="cpu")
    return found, "blocks.1.hook_out"


@pytest.fixture(params=[hooked_transformer, bridge], ids=["HookedTransformer", "TransformerBridge"])
def model_and_point(request, tmp_path):
    return request.param(tmp_path)


def test_codes_are_those_of_the_cached_activations(model_and_point):
    model, point = model_and_point
    with torch.no_grad(), read_codes(model, point, SAE) as seen:
        _, cache = model.run_with_cache(IDS)
    assert torch.equal(seen[0].indices.reshape(-1, 6), SAE.encode(cache[point].reshape(-1, 32)).indices)


def test_splicing_equals_transformer_lens_s_own_hooks(model_and_point):
    model, point = model_and_point
    with torch.no_grad():
        expected = model.run_with_hooks(IDS, fwd_hooks=[(point, lambda x, hook: SAE(x.reshape(-1, 32)).view(x.shape))])
        with splice(model, point, SAE):
            torch.testing.assert_close(model(IDS), expected)
        assert not torch.allclose(model(IDS), expected, atol=1e-4)


def test_steering_equals_transformer_lens_s_own_hooks(model_and_point):
    model, point = model_and_point
    direction = torch.zeros(32).scatter(0, SAE.rows[9].long(), SAE.values[9].detach())
    with torch.no_grad():
        expected = model.run_with_hooks(IDS, fwd_hooks=[(point, lambda x, hook: x + 3 * direction)])
        with steer(model, point, SAE, {9: 3.0}):
            torch.testing.assert_close(model(IDS), expected)
        assert not torch.allclose(model(IDS), expected, atol=1e-4)
