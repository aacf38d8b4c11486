import warnings

import pytest
import torch
from tiny_models import D_IN, FAMILIES, OTHER_FAMILIES, make_tiny_model
from torch import nn
from transformers import AutoModelForCausalLM

from expander_sae.activations.models import residual_after_block
from expander_sae.activations.modules import changed_output, named_module, output_of
from expander_sae.activations.outputs import hidden_of, with_hidden
from expander_sae.interop.hooks import read_codes, splice, steer
from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError, ProvenanceWarning
from expander_sae.saes import ExpanderSae

BLOCK = {"llama": "model.layers.1", "qwen2": "model.layers.1", "gemma2": "model.layers.1"}
BLOCK |= {"gpt_neox": "gpt_neox.layers.1", "gpt2": "transformer.h.1"}
ATTENTION = {"llama": "self_attn", "qwen2": "self_attn", "gemma2": "self_attn", "gpt_neox": "attention", "gpt2": "attn"}
IDS = torch.randint(2, 400, (2, 9), generator=torch.Generator().manual_seed(0))


def tiny_sae(stages=2, seed=0):
    return ExpanderSae(
        d_in=D_IN, n_latents=128, degree=4, k=6, reading=Stages(stages) if stages else Encoder(), seed=seed
    ).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        family: AutoModelForCausalLM.from_pretrained(make_tiny_model(folder / family, family)).eval()
        for family in (*FAMILIES, *OTHER_FAMILIES)
    }


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])
def test_reading_a_block_reads_its_residual_stream_and_changes_nothing(models, family):
    model, sae = models[family], tiny_sae()
    clean = logits(model)
    with read_codes(model, BLOCK[family], sae) as seen:
        assert torch.equal(logits(model), clean)
    hidden = residual_after_block(model, IDS, None, 1)
    expected = sae.encode(hidden.reshape(-1, D_IN))
    assert len(seen) == 1
    assert seen[0].indices.shape == (2, 9, 6)
    assert torch.equal(seen[0].indices.reshape(-1, 6), expected.indices)
    logits(model)
    assert len(seen) == 1  # the hook is gone


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])
def test_attention_outputs_in_tuples_are_spliced(models, family):
    model, sae = models[family], tiny_sae()
    name = f"{BLOCK[family]}.{ATTENTION[family]}"
    clean = logits(model)
    with splice(model, name, sae), read_codes(model, name, sae) as seen:
        changed = logits(model)
    # The second hook reads what the first wrote: the reconstruction.
    x = output_of(model, name, input_ids=IDS).reshape(-1, D_IN)
    twice = sae.encode(sae(x).detach())
    torch.testing.assert_close(seen[0].values.reshape(-1, 6), twice.values, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(changed, clean, atol=1e-3)
    assert torch.equal(logits(model), clean)


def test_splicing_with_the_error_kept_changes_nothing_until_codes_are_edited(models):
    model, sae = models["llama"], tiny_sae()
    clean = logits(model)
    with splice(model, "model.layers.1", sae, keep_error=True):
        torch.testing.assert_close(logits(model), clean, rtol=1e-4, atol=1e-4)
    with splice(model, "model.layers.1", sae, edit=lambda codes: Codes(codes.indices, codes.values * 0)):
        silenced = logits(model)
    with changed_output(model, "model.layers.1", lambda x: sae.center().detach().expand_as(x)):
        torch.testing.assert_close(silenced, logits(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(silenced, clean, atol=1e-3)


def test_steering_adds_the_columns(models):
    model, sae = models["llama"], tiny_sae()
    wide = torch.zeros(128, D_IN).scatter(1, sae.rows.long(), sae.values.detach())
    with steer(model, "model.layers.1", sae, {3: 2.0, 100: -1.5}):
        steered = logits(model)
    with changed_output(model, "model.layers.1", lambda x: x + 2.0 * wide[3] - 1.5 * wide[100]):
        torch.testing.assert_close(steered, logits(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(steered, logits(model), atol=1e-3)


def test_generation_can_be_steered(models):
    model, sae = models["llama"], tiny_sae()
    prompt = IDS[:1, :4]
    plain = model.generate(prompt, max_new_tokens=8, do_sample=False)
    with steer(model, "model.layers.1", sae, {5: 60.0}):
        steered = model.generate(prompt, max_new_tokens=8, do_sample=False)
    assert not torch.equal(plain, steered)
    assert torch.equal(plain, model.generate(prompt, max_new_tokens=8, do_sample=False))


def test_where_spares_positions(models):
    model, sae = models["llama"], tiny_sae()

    def not_first(x):
        chosen = torch.ones(x.shape[:-1], dtype=torch.bool)
        chosen[:, 0] = False
        return chosen

    before = output_of(model, "model.layers.1", input_ids=IDS)
    with splice(model, "model.layers.1", sae, where=not_first):
        caught = []
        with changed_output(model, "model.layers.1", caught.append):
            logits(model)
    assert torch.equal(caught[0][:, 0], before[:, 0])
    torch.testing.assert_close(caught[0][:, 1:], sae(before.reshape(-1, D_IN)).detach().view(before.shape)[:, 1:])


@pytest.mark.parametrize("spared", [float("nan"), float("inf"), 1e30])
def test_what_where_spares_is_never_read(models, spared):
    model, sae = models["llama"], tiny_sae()
    real = torch.ones(IDS.shape, dtype=torch.bool)
    real[0, :3] = False  # padding on the left

    def broken(x):
        return torch.where(real[..., None], x, spared)

    clean = output_of(model, "model.layers.1", input_ids=IDS)
    expected = sae.encode(clean[real])
    with changed_output(model, "model.layers.1", broken):
        with read_codes(model, "model.layers.1", sae, where=lambda x: real) as seen:
            logits(model)
        after = []
        edited = []
        with (
            splice(
                model, "model.layers.1", sae, where=lambda x: real, edit=lambda codes: edited.append(codes) or codes
            ),
            changed_output(model, "model.layers.1", after.append),
        ):
            logits(model)
        with steer(model, "model.layers.1", sae, {1: 2.0}, where=lambda x: real):
            logits(model)
    assert torch.equal(seen[0].indices[real], expected.indices)
    assert torch.equal(seen[0].values[real], expected.values.detach())
    assert not seen[0].values[~real].any()
    assert torch.equal(seen[0].indices[~real], torch.arange(6).expand(3, 6))  # distinct and in range, as all codes are
    assert torch.equal(edited[0].indices, expected.indices)
    torch.testing.assert_close(after[0][real], sae.decode(expected).detach())
    assert torch.equal(after[0][~real], broken(clean)[~real]) or spared != spared
    with splice(model, "model.layers.1", sae, where=lambda x: torch.zeros_like(real)):
        nothing = logits(model)
    assert torch.equal(nothing, logits(model))


@pytest.mark.parametrize("hook", [read_codes, splice, lambda *it: steer(*it, {1: 1.0})])
def test_an_sae_of_another_place_or_model_is_warned_about(models, hook):
    model, sae = models["llama"], tiny_sae()
    name = model.config._name_or_path
    sae.metadata["activations"] = {"model_id": name, "layer": 1}
    with warnings.catch_warnings(), hook(model, "model.layers.1", sae):
        warnings.simplefilter("error")
        logits(model)
    for other, says in (({"layer": 0}, "after block 0, now model.layers.1"), ({"model_id": "gpt2"}, "model: gpt2")):
        sae.metadata["activations"] = {"model_id": name, "layer": 1} | other
        with pytest.warns(ProvenanceWarning, match=says) as caught, hook(model, "model.layers.1", sae):
            logits(model)
        assert caught[0].filename == __file__


@pytest.mark.parametrize("hook", [read_codes, splice])
def test_dropout_is_off_while_a_hook_is_there(hook):
    model = nn.Sequential(nn.Linear(8, D_IN), nn.Dropout(0.5), nn.Identity())
    x = torch.randn(5, 8)
    with hook(model, "2", tiny_sae()) as seen:
        first, again = model(x), model(x)
    assert torch.equal(first, again)
    assert seen is None or torch.equal(seen[0].indices, seen[1].indices)
    assert model.training
    assert model[1].training


def test_the_dtype_of_the_model_is_kept():
    model = nn.Sequential(nn.Linear(8, D_IN), nn.Linear(D_IN, 3)).to(torch.bfloat16)
    x = torch.randn(5, 8, dtype=torch.bfloat16)
    for context in (splice(model, "0", tiny_sae()), steer(model, "0", tiny_sae(), {1: 1.0})):
        with context:
            assert model(x).dtype == torch.bfloat16


class _Block(nn.Module):
    """A block that adds to its input, or, as vLLM's do, leaves that addition to the next one."""

    def __init__(self, fused):
        super().__init__()
        self.inner, self.fused = nn.Linear(D_IN, D_IN), fused

    def forward(self, x):
        if not self.fused:
            return x + self.inner(x)
        stream = x[0] + x[1] if isinstance(x, tuple) else x
        return self.inner(stream), stream


def test_blocks_that_leave_the_addition_to_the_next_one():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain, x = nn.Sequential(_Block(False), _Block(False)), torch.randn(7, D_IN)
    fused, sae = nn.Sequential(_Block(True), _Block(True)), tiny_sae()
    fused.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(sum(fused(x)), plain(x))
        for context, options in ((splice, {}), (steer, {"strengths": {3: 2.0}}), (splice, {"keep_error": True})):
            with context(plain, "0", sae, **options):
                expected = plain(x)
            with context(fused, "0", sae, **options, residual=True):
                torch.testing.assert_close(sum(fused(x)), expected, rtol=1e-4, atol=1e-5)
        with read_codes(plain, "0", sae) as wanted, read_codes(fused, "0", sae, residual=True) as seen:
            plain(x), fused(x)
        assert torch.equal(seen[0].indices, wanted[0].indices)
        with pytest.raises(ExpanderSaeError, match="residual=True"), splice(plain, "0", sae, residual=True):
            plain(x)


def test_a_hook_goes_away_when_the_block_raises(models):
    model = models["llama"]
    clean = logits(model)
    with pytest.raises(RuntimeError, match="mine"), splice(model, "model.layers.1", tiny_sae()):
        raise RuntimeError("mine")
    assert torch.equal(logits(model), clean)


def test_outputs_of_every_kind():
    from collections import namedtuple

    from transformers.modeling_outputs import BaseModelOutput

    x, new = torch.zeros(2, 3), torch.ones(2, 3)
    pair = namedtuple("pair", "first second")
    for output in (x, (x, "rest"), [x, "rest"], pair(x, "rest"), BaseModelOutput(last_hidden_state=x)):
        assert hidden_of(output) is x
        changed = with_hidden(output, new)
        assert type(changed) is type(output)
        assert torch.equal(hidden_of(changed), new)
        if not isinstance(output, torch.Tensor | BaseModelOutput):
            assert changed[1] == "rest"
        assert torch.equal(hidden_of(output), x)


def test_mistakes(models):
    model, sae = models["llama"], tiny_sae()
    with pytest.raises(ExpanderSaeError, match=r"model\.layers\.1"), read_codes(model, "model.layer.1", sae):
        pass
    with pytest.raises(ExpanderSaeError, match="got ''"):
        named_module(model, "")
    with pytest.raises(ExpanderSaeError, match="32 wide"), splice(model, "lm_head", sae):
        logits(model)
    with pytest.raises(ExpanderSaeError, match=r"0\.\.127"), steer(model, "model.layers.1", sae, {128: 1.0}):
        pass
    with pytest.raises(ExpanderSaeError, match="none"), steer(model, "model.layers.1", sae, {}):
        pass
    with (
        pytest.raises(ExpanderSaeError, match="`where`"),
        splice(model, "model.layers.1", sae, where=lambda x: x > 0),
    ):
        logits(model)
    with pytest.raises(ExpanderSaeError, match="did not run"):
        output_of(_Unused(), "unused", x=torch.zeros(1, 2))
    with pytest.raises(ExpanderSaeError, match="activations"):
        hidden_of((torch.zeros(3, dtype=torch.int64),))
    with pytest.raises(ExpanderSaeError, match="shape"), changed_output(model, "model.layers.1", lambda x: x[:, 1:]):
        logits(model)


class _Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused, self.used = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)
