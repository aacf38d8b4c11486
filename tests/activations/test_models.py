import pytest
import torch
from tiny_models import D_IN, FAMILIES, N_BLOCKS, OTHER_FAMILIES, make_tiny_model

from expander_sae.activations import (
    d_in_of,
    load_language_model,
    n_blocks,
    residual_after_block,
    splice_after_block,
)
from expander_sae.activations.models import decoder_blocks
from expander_sae.records import ExpanderSaeError


def count_hooks(model):
    """All of them: transformers itself leaves some behind after output_hidden_states."""
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.fixture(scope="module", params=[*FAMILIES, *OTHER_FAMILIES])
def tiny(request, tmp_path_factory):
    folder = make_tiny_model(tmp_path_factory.mktemp(request.param), request.param)
    return load_language_model(folder, dtype="float32")


@pytest.fixture(scope="module")
def batch():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 300, (3, 10), generator=generator, dtype=torch.int32)
    mask = torch.ones(3, 10, dtype=torch.int64)
    mask[1, 7:] = 0
    return ids, mask


def test_loads_frozen_with_its_sizes(tiny):
    assert n_blocks(tiny.model) == N_BLOCKS
    assert d_in_of(tiny.model) == D_IN
    assert len(decoder_blocks(tiny.model)) == N_BLOCKS
    assert not tiny.model.training
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert tiny.revision.startswith("sha256:")


@pytest.mark.parametrize("layer", range(N_BLOCKS - 1))
def test_residual_equals_the_hidden_states_of_the_whole_forward(tiny, batch, layer):
    ids, mask = batch
    whole = tiny.model(input_ids=ids.long(), attention_mask=mask, output_hidden_states=True)
    found = residual_after_block(tiny.model, ids, mask, layer)
    real = mask.bool()
    torch.testing.assert_close(found[real], whole.hidden_states[layer + 1][real], rtol=1e-5, atol=1e-5)


def test_last_layer_is_the_input_of_the_final_norm(tmp_path, batch):
    lm = load_language_model(make_tiny_model(tmp_path, "llama"), dtype="float32")
    ids, mask = batch
    found = lm.model.lm_head(lm.model.model.norm(residual_after_block(lm.model, ids, mask, N_BLOCKS - 1)))
    torch.testing.assert_close(found, lm.model(input_ids=ids.long(), attention_mask=mask).logits)


def test_later_blocks_never_run_and_hooks_are_removed(tiny, batch):
    ran = []
    handles = [
        block.register_forward_pre_hook(lambda *_, i=i: ran.append(i))
        for i, block in enumerate(decoder_blocks(tiny.model))
    ]
    before = count_hooks(tiny.model)
    residual_after_block(tiny.model, *batch, 0)
    for handle in handles:
        handle.remove()
    assert ran == [0]
    assert count_hooks(tiny.model) == before


def test_hooks_are_removed_when_the_forward_fails(tiny):
    before = count_hooks(tiny.model)
    with pytest.raises(Exception):  # noqa: B017 (whatever the model raises for a token it does not have)
        residual_after_block(tiny.model, torch.full((1, 4), 10**6), None, 1)
    assert count_hooks(tiny.model) == before


def test_splice_with_the_identity_changes_nothing(tiny, batch):
    ids, mask = batch
    clean = tiny.model(input_ids=ids.long(), attention_mask=mask).logits
    with splice_after_block(tiny.model, 1, lambda hidden: hidden):
        spliced = tiny.model(input_ids=ids.long(), attention_mask=mask).logits
    assert torch.equal(clean, spliced)


def test_splice_replaces_the_stream_and_ends(tiny, batch):
    ids, mask = batch
    seen = []
    before = count_hooks(tiny.model)

    def double(hidden):
        seen.append(hidden.shape)
        return 2 * hidden

    with splice_after_block(tiny.model, 0, double):
        changed = residual_after_block(tiny.model, ids, mask, 1)
    assert seen == [torch.Size([3, 10, D_IN])]
    after = residual_after_block(tiny.model, ids, mask, 1)
    assert not torch.allclose(changed, after)
    assert count_hooks(tiny.model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_models_keep_their_dtype(tmp_path, family, batch):
    lm = load_language_model(make_tiny_model(tmp_path, family))
    ids, mask = batch
    assert residual_after_block(lm.model, ids, mask, 1).dtype == torch.bfloat16
    seen = []

    def in_float32(hidden):
        seen.append(hidden.dtype)
        return hidden.float()

    with splice_after_block(lm.model, 1, in_float32):
        logits = lm.model(input_ids=ids.long(), attention_mask=mask).logits
    assert seen == [torch.bfloat16]
    assert torch.equal(logits, lm.model(input_ids=ids.long(), attention_mask=mask).logits)


def test_the_revision_follows_the_weights(tmp_path):
    one = load_language_model(make_tiny_model(tmp_path / "one", "llama", seed=0))
    same = load_language_model(make_tiny_model(tmp_path / "same", "llama", seed=0))
    other = load_language_model(make_tiny_model(tmp_path / "other", "llama", seed=1))
    assert one.revision == same.revision != other.revision


@pytest.mark.parametrize("layer", [-1, N_BLOCKS, 99])
def test_a_layer_out_of_range_is_refused(tiny, batch, layer):
    with pytest.raises(ExpanderSaeError, match="0 to 2"):
        residual_after_block(tiny.model, *batch, layer)
    with pytest.raises(ExpanderSaeError, match="0 to 2"), splice_after_block(tiny.model, layer, torch.clone):
        pass


def test_a_splice_must_keep_the_shape(tiny, batch):
    with (
        pytest.raises(ExpanderSaeError, match="keep the shape"),
        splice_after_block(tiny.model, 1, lambda hidden: hidden[..., :-1]),
    ):
        tiny.model(input_ids=batch[0].long())
