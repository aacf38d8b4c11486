"""A handful of the decoder families that `make sweep-families` reads and splices; one of each kind."""

import importlib.util
from pathlib import Path

import pytest
import torch

from expander_sae.activations import n_blocks, residual_after_block
from expander_sae.activations.blocks import decoder_blocks
from expander_sae.interop.hooks import read_codes
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "families.py"
SPEC = importlib.util.spec_from_file_location("families", SCRIPT)
families = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(families)

RIGHT = ["openai-gpt", "xlm", "bloom", "bart", "qwen3_moe", "rwkv"]
"""Outputs in lists, lists of parts instead of blocks, ALiBi, the decoder of an encoder's model, experts, states."""


@pytest.fixture(autouse=True)
def one_thread():
    """Threads cost more than they give at this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("family", RIGHT)
def test_read_by_layer_and_spliced(family):
    assert families.check(families.tiny(family)) == ""


def test_parts_of_blocks_are_not_taken_for_blocks():
    model = families.tiny("xlm").eval()
    blocks = decoder_blocks(model)
    transformer = model.transformer
    assert all(blocks is not part for part in (transformer.attentions, transformer.layer_norm1, transformer.ffns))
    ids = torch.arange(5, 19).view(2, 7)
    with torch.no_grad():
        reported = model(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(residual_after_block(model, ids, None, 1), reported[2])


def test_several_streams_are_refused_by_layer_and_by_name():
    model = families.tiny("gemma3n_text").eval()
    with pytest.raises(ExpanderSaeError, match="hand on one stream"):
        n_blocks(model)
    name = next(name for name, _ in model.named_modules() if name.endswith("layers.1"))
    sae = ExpanderSae(d_in=families.D_IN, n_latents=128, degree=4, k=4, reading=Encoder())
    with pytest.raises(ExpanderSaeError, match="several streams"), read_codes(model, name, sae):
        model(torch.arange(5, 12)[None])


def test_lists_that_cannot_be_told_apart_are_refused():
    model = families.tiny("xlm").eval()
    model.forward = None  # nothing runs, so nothing is reported
    with pytest.raises(ExpanderSaeError, match="one list of its blocks"):
        decoder_blocks(model)
