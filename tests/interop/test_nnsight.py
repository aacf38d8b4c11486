"""Runs where nnsight is installed; 0.3 and 0.8 were tried."""

import pytest
import torch
from tiny_models import D_IN, make_tiny_model
from transformers import AutoModelForCausalLM

from expander_sae.interop.hooks import read_codes, splice
from expander_sae.pursuit import Stages
from expander_sae.saes import ExpanderSae

nnsight = pytest.importorskip("nnsight")

BLOCK = "model.layers.1"
SAE = ExpanderSae(d_in=D_IN, n_latents=128, degree=4, k=6, reading=Stages(2))
IDS = torch.randint(2, 400, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return AutoModelForCausalLM.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("model"))).eval()


def now(saved):
    """What was saved in a trace: up to 0.3 it is behind a proxy."""
    found = getattr(saved, "value", saved)
    return found[0] if isinstance(found, tuple) else found


def test_codes_inside_a_trace(plain):
    wrapped = nnsight.NNsight(plain)
    with torch.no_grad(), read_codes(plain, BLOCK, SAE) as seen, wrapped.trace(IDS):
        hidden = wrapped.model.layers[1].output.save()
    assert torch.equal(seen[0].indices.reshape(-1, 6), SAE.encode(now(hidden).reshape(-1, D_IN)).indices)


def test_a_splice_inside_a_trace(plain):
    with torch.no_grad(), splice(plain, BLOCK, SAE):
        expected = plain(IDS).logits
    wrapped = nnsight.NNsight(plain)
    with torch.no_grad(), splice(plain, BLOCK, SAE), wrapped.trace(IDS):
        logits = wrapped.output.logits.save()
    torch.testing.assert_close(now(logits), expected)
