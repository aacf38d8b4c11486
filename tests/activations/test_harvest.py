import json
import os
import sys

import pytest
import torch
from safetensors import safe_open
from tiny_models import D_IN, FAMILIES, make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import ActivationStore, harvest, load_language_model, residual_after_block
from expander_sae.activations import shards as shards_module
from expander_sae.activations.models import as_dtype
from expander_sae.records import ExpanderSaeError

SETTINGS = {
    "layer": 1,
    "context": 32,
    "batch_size": 3,
    "shard_tokens": 320,
    "heldout_share": 0.3,
    "compute_dtype": "float32",
    "progress": False,
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("text") / "text.jsonl", make_documents(24))


def files(folder):
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_stored_activations_are_those_of_the_model(model, text, tmp_path):
    store = harvest(model, text, tmp_path / "h", **SETTINGS)
    lm = load_language_model(model, dtype="float32")
    assert store.manifest["dtype"] == "float16"
    assert store.manifest["settings"]["model_revision"] == lm.revision
    assert (store.d_in, store.layer) == (D_IN, 1)
    for split in ("train", "heldout"):
        tokens = store.tokens(split)
        hidden = residual_after_block(lm.model, tokens.input_ids, tokens.attention_mask, 1)
        real = tokens.attention_mask.bool()
        everything = torch.cat(list(store.blocks(split, keep_special_tokens=True, rows_at_once=50)))
        torch.testing.assert_close(everything.float(), hidden[real], rtol=2e-3, atol=2e-3)
        ordinary = torch.cat(list(store.blocks(split)))
        first = list(store.blocks(split, max_tokens=70, rows_at_once=50))
        assert torch.equal(torch.cat(first), ordinary[:70])
        torch.testing.assert_close(ordinary.float(), hidden[~tokens.special], rtol=2e-3, atol=2e-3)
        assert store.n_tokens(split) == len(ordinary)
        assert store.n_tokens(split, keep_special_tokens=True) == len(everything) == tokens.n_tokens
        columns = {
            name: torch.cat([store.read_column(file, name) for file, _ in store.shards(split)])
            for name in ("position", "block", "token_id", "special")
        }
        block, position = columns["block"].long(), columns["position"].long()
        assert torch.equal(tokens.input_ids[block, position], columns["token_id"])
        assert torch.equal(tokens.special[block, position], columns["special"])
    assert len(store.shards("train")) > 2
    store.verify()


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_resumed_harvest_has_the_same_bytes(model, text, tmp_path, monkeypatch, after):
    harvest(model, text, tmp_path / "whole", **SETTINGS)
    real, written = shards_module.write_shard, []

    def fail_later(folder, number, split, tensors):
        if len(written) == after:
            raise Interrupted
        written.append(number)
        return real(folder, number, split, tensors)

    module = sys.modules["expander_sae.activations.harvest"]
    monkeypatch.setattr(module, "write_shard", fail_later)
    with pytest.raises(Interrupted):
        harvest(model, text, tmp_path / "broken", **SETTINGS)
    with pytest.raises(ExpanderSaeError, match="interrupted"):
        ActivationStore.open(tmp_path / "broken")
    resumed = []
    monkeypatch.setattr(module, "write_shard", lambda *a: resumed.append(a[1]) or real(*a))
    store = harvest(model, text, tmp_path / "broken", **SETTINGS)
    assert resumed == list(range(after, len(store.manifest["shards"])))
    assert files(tmp_path / "whole") == files(tmp_path / "broken")


def test_a_damaged_or_lost_shard_is_written_again(model, text, tmp_path):
    harvest(model, text, tmp_path / "h", **SETTINGS)
    before = files(tmp_path / "h")
    victim = tmp_path / "h" / "shard-00001.safetensors"
    victim.write_bytes(victim.read_bytes()[:-7] + b"damaged")
    os.remove(tmp_path / "h" / "shard-00000.safetensors")
    (tmp_path / "h" / ".shard-00002.safetensors.x.part").write_bytes(b"of a killed run")
    harvest(model, text, tmp_path / "h", **SETTINGS)
    assert files(tmp_path / "h") == before


def test_other_settings_are_refused_and_nothing_is_touched(model, text, tmp_path):
    harvest(model, text, tmp_path / "h", **SETTINGS)
    before = files(tmp_path / "h")
    with pytest.raises(ExpanderSaeError, match="layer = 0; got 1"):
        harvest(model, text, tmp_path / "h", **{**SETTINGS, "layer": 0})
    other = write_jsonl(tmp_path / "other.jsonl", make_documents(24, seed=5))
    with pytest.raises(ExpanderSaeError, match="text_sha256"):
        harvest(model, other, tmp_path / "h", **SETTINGS)
    assert files(tmp_path / "h") == before


def test_wide_ranges_are_stored_as_bfloat16(text, tmp_path):
    lm = load_language_model(make_tiny_model(tmp_path / "m", "llama"), dtype="float32")
    lm.model.model.embed_tokens.weight.data.mul_(1e5)
    store = harvest(lm, text, tmp_path / "h", **SETTINGS)
    assert store.dtype == torch.bfloat16
    with safe_open(tmp_path / "h" / "shard-00000.safetensors", framework="pt") as tensors:
        assert torch.isfinite(tensors.get_tensor("x")).all()


def test_stored_as_the_model_computes_them(text, tmp_path):
    model = load_language_model(make_tiny_model(tmp_path / "m"), dtype="float32")
    exact = harvest(model, text, tmp_path / "a", context=32, dtype="float32", progress=False)
    half = harvest(model, text, tmp_path / "b", context=32, dtype="float16", progress=False)
    assert exact.dtype == torch.float32
    x, rounded = next(iter(exact.blocks("train"))), next(iter(half.blocks("train")))
    assert not torch.equal(x, rounded.float())
    assert torch.equal(x.half(), rounded)


def test_the_middle_layer_and_a_fast_dtype_are_the_defaults(text, tmp_path):
    store = harvest(make_tiny_model(tmp_path / "m", "gpt_neox"), text, tmp_path / "h", context=32, progress=False)
    assert store.layer == 1
    assert store.manifest["settings"]["model_dtype"] == str(as_dtype("auto")).removeprefix("torch.")


def test_sample_is_spread_and_repeatable(model, text, tmp_path):
    store = harvest(model, text, tmp_path / "h", **SETTINGS)
    everything = torch.cat(list(store.blocks("train"))).float()
    assert torch.equal(store.sample("train", 10**9, 0), everything)
    x = store.sample("train", 40, 3)
    assert x.shape == (40, D_IN)
    assert x.dtype == torch.float32
    assert torch.equal(x, store.sample("train", 40, 3))
    assert not torch.equal(x, store.sample("train", 40, 4))
    rows = {tuple(row) for row in everything.tolist()}
    assert all(tuple(row) in rows for row in x.tolist())
    with_special = torch.cat(list(store.blocks("train", keep_special_tokens=True))).float()
    assert len(with_special) > len(everything)
    assert torch.equal(store.sample("train", 10**9, 0, keep_special_tokens=True), with_special)
    drawn = store.sample("train", 40, 3, keep_special_tokens=True)
    assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in with_special.tolist()}


def test_the_manifest_says_what_it_is(model, text, tmp_path):
    harvest(model, text, tmp_path / "h", **SETTINGS)
    manifest = json.loads((tmp_path / "h" / "manifest.json").read_text())
    assert manifest["format_version"] == 1
    assert manifest["complete"] is True
    assert manifest["text_source"] == "text.jsonl"
    assert manifest["documents"]["train"] + manifest["documents"]["heldout"] == 24
    assert {"torch", "transformers"} <= set(manifest["libraries"])
    assert str(tmp_path) not in json.dumps(manifest)  # no folder names: two machines give the same bytes
