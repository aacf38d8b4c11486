"""Every hook runs exactly once in a forward pass, on one stream of activations, or there is an error."""

import warnings
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_outputs import BaseModelOutput

from expander_sae.activations import harvest, load_language_model, residual_after_block, splice_after_block
from expander_sae.activations.modules import changed_output, output_of
from expander_sae.activations.outputs import hidden_of, with_hidden
from expander_sae.evaluation.at_module import AtModule
from expander_sae.evaluation.second_half import SecondHalf
from expander_sae.interop.hooks import read_codes, splice, steer
from expander_sae.pursuit import Stages
from expander_sae.records import ExpanderSaeError, ExpanderSaeWarning
from expander_sae.saes import ExpanderSae

BLOCK = "model.layers.0"
IDS = torch.arange(4, 10).reshape(2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def tiny_sae():
    return ExpanderSae(d_in=D_IN, n_latents=64, degree=4, k=4, reading=Stages(2), seed=0).eval()


def contexts(model, name=BLOCK):
    """Every hook of a user's own run, on one module."""
    return {
        "read_codes": read_codes(model, name, tiny_sae()),
        "splice": splice(model, name, tiny_sae()),
        "steer": steer(model, name, tiny_sae(), {1: 5.0}),
        "changed_output": changed_output(model, name, torch.zeros_like),
        "splice_after_block": splice_after_block(model, 0, torch.zeros_like),
    }


HOOKS = ("read_codes", "splice", "steer", "changed_output", "splice_after_block")


class _Stack(nn.Module):
    """A small language model; a large one takes seconds to compile."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=3, hidden_size=D_IN, vocab_size=20)
        self.embed = nn.Embedding(20, D_IN)
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(D_IN, D_IN), nn.Tanh()) for _ in range(3)])
        self.head = nn.Linear(D_IN, 20)

    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids)
        for layer in self.layers:
            x = layer(x)
        return SimpleNamespace(logits=self.head(x))


def whole(model):
    return torch.compile(model, backend="eager")


def in_place(model):
    model.compile(backend="eager")
    return model


def one_block(model):
    model.layers[0] = torch.compile(model.layers[0], backend="eager")
    return model


@pytest.mark.parametrize("compiled", [whole, in_place, one_block])
@pytest.mark.parametrize("ran_before", [True, False])
@pytest.mark.parametrize("hook", HOOKS)
def test_a_compiled_model_is_hooked_or_an_error(compiled, ran_before, hook):
    torch._dynamo.reset()
    model = _Stack().eval()
    with torch.no_grad():
        with contexts(model, "layers.0")[hook] as wanted:
            spliced = model(IDS).logits
        clean = model(IDS).logits
        other = compiled(model)
        if ran_before:
            other(IDS)
        refused = False
        try:
            with contexts(other, "layers.0")[hook] as seen:
                found = other(IDS).logits
        except ExpanderSaeError as error:
            refused = "did not run" in str(error)
        if not refused:
            torch.testing.assert_close(found, spliced)
            assert seen is None or len(seen) == len(wanted) == 1
        torch.testing.assert_close(other(IDS).logits, clean)


@pytest.mark.parametrize("compiled", [whole, in_place, one_block])
def test_our_own_runs_read_a_compiled_model(compiled):
    torch._dynamo.reset()
    model, mask = _Stack().eval(), torch.ones_like(IDS)
    expected = residual_after_block(model, IDS, mask, 0)
    other = compiled(model)
    with torch.no_grad():
        clean = other(IDS).logits
    assert torch.equal(residual_after_block(other, IDS, mask, 0), expected)
    for name in ("layers.0", "_orig_mod.layers.0"):
        assert torch.equal(output_of(other, name, input_ids=IDS), expected)
    for runner in (SecondHalf(other, 0), AtModule(other, "layers.0")):
        hidden, logits = runner.run_clean(IDS, mask)
        assert torch.equal(hidden, expected)
        torch.testing.assert_close(logits, clean)
        assert not torch.allclose(runner.logits_with(0 * hidden), clean, atol=1e-3)


def test_a_compiled_model_is_harvested(folder, tmp_path):
    lm = load_language_model(folder, dtype="float32")
    text = write_jsonl(tmp_path / "t.jsonl", make_documents(6))
    settings = {"layer": 1, "context": 16, "max_tokens": 64, "progress": False}
    plain = harvest(lm, text, tmp_path / "a", **settings)
    compiled = torch.compile(lm.model, backend="eager")
    with torch.no_grad():
        compiled(IDS)
    other = harvest(lm._replace(model=compiled), text, tmp_path / "b", **settings)
    assert other.manifest == plain.manifest


class _Unused(nn.Module):
    """Two layers, of which it runs one."""

    def __init__(self):
        super().__init__()
        self.config = None
        self.unused, self.used = nn.Linear(D_IN, D_IN), nn.Linear(D_IN, D_IN)

    def forward(self, x):
        return self.used(x)


class _Looped(nn.Module):
    """One layer, run twice."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(D_IN, D_IN)

    def forward(self, x):
        return self.layer(self.layer(x))


@pytest.mark.parametrize(
    ("module", "name", "says"), [(_Unused, "unused", "did not run"), (_Looped, "layer", "once in a forward pass")]
)
def test_never_and_twice_are_errors(module, name, says):
    other, x = module(), torch.randn(2, D_IN)
    for hook in HOOKS[:-1]:
        with pytest.raises(ExpanderSaeError, match=says), contexts_of_modules(other, name)[hook]:
            other(x)
    for _ in range(2):
        with pytest.raises(ExpanderSaeError, match=says):
            output_of(other, name, x=x)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in other.modules())


def contexts_of_modules(model, name):
    return {
        "read_codes": read_codes(model, name, tiny_sae()),
        "splice": splice(model, name, tiny_sae()),
        "steer": steer(model, name, tiny_sae(), {1: 5.0}),
        "changed_output": changed_output(model, name, torch.zeros_like),
    }


def test_a_context_in_which_nothing_runs_is_noticed(model):
    with pytest.warns(ExpanderSaeWarning, match="no forward pass"), splice(model, BLOCK, tiny_sae()):
        pass
    with warnings.catch_warnings(), splice(model, BLOCK, tiny_sae()):
        warnings.simplefilter("error")
        model.model(IDS)  # a part of the model alone is no forward pass of it, but the hook runs


def test_a_block_at_two_depths_is_refused_and_the_others_are_not(model, tmp_path):
    before = residual_after_block(model, IDS, None, 0)
    model.model.layers[2] = model.model.layers[1]
    assert torch.equal(residual_after_block(model, IDS, None, 0), before)
    for layer in (1, 2):
        with pytest.raises(ExpanderSaeError, match="blocks 1, 2 of this"):
            residual_after_block(model, IDS, None, layer)
        with pytest.raises(ExpanderSaeError, match="blocks 1, 2"), splice_after_block(model, layer, torch.clone):
            pass
        with pytest.raises(ExpanderSaeError, match="blocks 1, 2"):
            SecondHalf(model, layer).run_clean(IDS, torch.ones_like(IDS))
        name = f"model.layers.{layer}"
        with pytest.raises(ExpanderSaeError, match="got a second run"):
            output_of(model, name, input_ids=IDS)
        with pytest.raises(ExpanderSaeError, match="got a second run"):
            AtModule(model, f"{name}.mlp").run_clean(IDS, torch.ones_like(IDS))
        for hook in (read_codes, splice):
            with pytest.raises(ExpanderSaeError, match="got a second run"), hook(model, name, tiny_sae()):
                model(IDS)


def test_a_module_that_becomes_shared_is_noticed(model):
    output_of(model, "model.layers.1", input_ids=IDS)
    model.model.layers[2] = model.model.layers[1]
    with pytest.raises(ExpanderSaeError, match="got a second run"):
        output_of(model, "model.layers.1", input_ids=IDS)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_reads_once_and_splices_alike(folder, reentrant):
    gradients, codes = [], []
    for checkpointed in (False, True):
        model = AutoModelForCausalLM.from_pretrained(folder)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            model.enable_input_require_grads()
        with splice(model, BLOCK, tiny_sae(), keep_error=True), read_codes(model, "model.layers.1", tiny_sae()) as seen:
            model.train()
            model(IDS, use_cache=False).logits.square().mean().backward()
        assert len(seen) == 1
        codes.append(seen[0])
        gradients.append(model.model.layers[2].mlp.up_proj.weight.grad)
    assert torch.equal(codes[0].indices, codes[1].indices)
    torch.testing.assert_close(gradients[0], gradients[1])


class _Streams(nn.Module):
    """Blocks that return several streams, as Gemma 3n's do: [streams, batch, position, d_in]."""

    def __init__(self):
        super().__init__()
        self.embed, self.block = nn.Embedding(20, D_IN), nn.Linear(D_IN, D_IN)

    def forward(self, input_ids):
        return self.block(torch.stack([self.embed(input_ids)] * 3)).mean(0)


def test_several_streams_of_one_text_are_refused(model):
    other = _Streams()
    for hook in (read_codes, splice):
        with pytest.raises(ExpanderSaeError, match=r"several streams"), hook(other, "block", tiny_sae()):
            other(IDS)
    with pytest.raises(ExpanderSaeError, match=r"several streams"), steer(other, "block", tiny_sae(), {1: 1.0}):
        other(input_ids=IDS)


def test_images_keep_their_axes():
    other = nn.Sequential(nn.Linear(3, D_IN))
    with read_codes(other, "0", tiny_sae()) as seen:
        other(torch.randn(2, 4, 4, 3))
    assert seen[0].indices.shape == (2, 4, 4, 4)


PAIR = namedtuple("PAIR", "first second")
FORMS = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x, "rest"),
    "list": lambda x: [x, "rest"],
    "named tuple": lambda x: PAIR(x, "rest"),
    "dict": lambda x: {"hidden_states": x, "rest": "rest"},
    "dict with it last": lambda x: {"weights": torch.zeros(3, 3), "hidden_states": x},
    "ModelOutput": lambda x: BaseModelOutput(last_hidden_state=x),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_output_is_read_spliced_and_skipped(form, monkeypatch):
    x, new = torch.zeros(2, 3), torch.ones(2, 3)
    output = form(x)
    assert hidden_of(output) is x
    changed = with_hidden(output, new)
    assert type(changed) is type(output)
    assert torch.equal(hidden_of(changed), new)
    assert hidden_of(output) is x

    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"hidden_size": D_IN, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
        model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=50, **sizes)).eval()
    expected = residual_after_block(model, IDS, None, 1)
    half = SecondHalf(model, 1)
    half.run_clean(IDS, torch.ones_like(IDS))
    zeroed = half.logits_with(0 * expected)
    for number, block in enumerate(model.model.layers):  # each gives another form, and reads the one before
        forward = block.forward
        block.forward = lambda hidden, *args, forward=forward, **kwargs: form(
            forward(hidden_of(hidden), *args, **kwargs)
        )
        if number == 2:
            block.register_forward_hook(lambda _module, _inputs, output: hidden_of(output))
    assert torch.equal(residual_after_block(model, IDS, None, 1), expected)
    half = SecondHalf(model, 1)
    half.run_clean(IDS, torch.ones_like(IDS))
    assert torch.equal(half.logits_with(0 * expected), zeroed)
    with torch.no_grad(), splice_after_block(model, 1, torch.zeros_like):
        torch.testing.assert_close(model(IDS).logits, zeroed)
