"""Cross entropy under the splice, against full forward passes and a float64 log-softmax."""

import math

import pytest
import torch
from tiny_models import D_IN, FAMILIES, OTHER_FAMILIES, make_documents, make_tiny_model

from expander_sae.activations.models import (
    LanguageModel,
    decoder_blocks,
    load_language_model,
    splice_after_block,
)
from expander_sae.activations.tokens import TokenBlocks
from expander_sae.evaluation import cross_entropy, spread_blocks
from expander_sae.evaluation.second_half import SecondHalf
from expander_sae.records import ExpanderSaeError

LAYER = 1


@pytest.fixture(scope="module")
def language_models(tmp_path_factory):
    loaded: dict[str, LanguageModel] = {}

    def load(family):
        if family not in loaded:
            folder = make_tiny_model(tmp_path_factory.mktemp(family), family)
            loaded[family] = load_language_model(folder, dtype="float32")
        return loaded[family]

    return load


def make_blocks(language_model, lengths=(24, 17, 24, 9, 24), width=24) -> TokenBlocks:
    ids = torch.zeros(len(lengths), width, dtype=torch.int32)
    special = torch.ones(len(lengths), width, dtype=torch.bool)
    for row, (length, text) in enumerate(zip(lengths, make_documents(len(lengths), seed=5), strict=True)):
        ids[row, :length] = torch.tensor(language_model.tokenizer(text)["input_ids"][:length])
        special[row, 1:length] = False
    special[0, 7] = True  # a special token in the middle of a text
    return TokenBlocks(ids, torch.tensor(lengths, dtype=torch.int32), special)


def shrink(x):
    return 0.6 * x + 0.1


def replaced_by_hand(blocks, row, position, splice):
    return splice == "everywhere" or (position > 0 and not bool(blocks.special[row, position]))


def by_hand(language_model, blocks, layer, change, splice):
    """Losses and log-probabilities, one sequence and one position at a time."""
    losses, log_probabilities = [], []
    for row, length in enumerate(blocks.lengths.tolist()):
        ids = blocks.input_ids[row : row + 1, :length].long()

        def fn(hidden, row=row):
            out = hidden.clone()
            for position in range(hidden.shape[1]):
                if replaced_by_hand(blocks, row, position, splice):
                    out[0, position] = change(hidden[0, position])
            return out

        with torch.no_grad(), splice_after_block(language_model.model, layer, fn):
            logits = language_model.model(input_ids=ids).logits[0].double()
        for position in range(length - 1):
            log_p = logits[position] - logits[position].logsumexp(0)
            losses.append(-float(log_p[ids[0, position + 1]]))
            log_probabilities.append(log_p)
    return sum(losses) / len(losses), log_probabilities


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("splice", ["ordinary", "everywhere"])
def test_every_number_against_the_formula(language_models, family, splice):
    language_model = language_models(family)
    blocks = make_blocks(language_model)
    mean = torch.linspace(-1, 1, D_IN, dtype=torch.float64)
    got = cross_entropy(
        {"shrink": shrink, "same": lambda x: x}, language_model, blocks, layer=LAYER, mean=mean, splice=splice
    )
    clean, clean_log_p = by_hand(language_model, blocks, LAYER, lambda x: x, splice)
    recon, recon_log_p = by_hand(language_model, blocks, LAYER, shrink, splice)
    zero, _ = by_hand(language_model, blocks, LAYER, torch.zeros_like, splice)
    ablated, _ = by_hand(language_model, blocks, LAYER, lambda x: mean.float(), splice)
    kl = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(clean_log_p, recon_log_p, strict=True))
    expected = {
        "ce_clean": clean,
        "ce_recon": recon,
        "ce_zero": zero,
        "ce_mean": ablated,
        "delta_ce": recon - clean,
        "ce_recovered_zero": (zero - recon) / (zero - clean),
        "ce_recovered_mean": (ablated - recon) / (ablated - clean),
        "kl": kl / len(clean_log_p),
    }
    for name, value in expected.items():
        assert getattr(got["shrink"], name) == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert got["shrink"].ce_tokens == 23 + 16 + 23 + 8 + 23 == len(clean_log_p)
    assert got["shrink"].ce_sequences == 5
    assert got["shrink"].splice == splice
    # Splicing the activation itself changes nothing at all.
    assert got["same"].ce_recon == got["same"].ce_clean
    assert got["same"].kl == 0
    assert got["same"].ce_recovered_zero == 1


def test_the_two_conventions_differ(language_models):
    language_model = language_models("llama")
    blocks = make_blocks(language_model)
    results = [
        cross_entropy({"s": shrink}, language_model, blocks, layer=LAYER, mean=torch.zeros(D_IN), splice=splice)
        for splice in ("ordinary", "everywhere")
    ]
    assert results[0]["s"].ce_clean == results[1]["s"].ce_clean
    assert results[0]["s"].ce_recon != results[1]["s"].ce_recon


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_FAMILIES])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_skipping_the_first_half_gives_the_logits_of_the_full_pass(language_models, family, layer, dtype):
    model = language_models(family).model.to(getattr(torch, dtype))
    try:
        blocks = make_blocks(language_models(family))
        before = list(decoder_blocks(model))
        second_half = SecondHalf(model, layer)
        hidden, clean = second_half.run_clean(blocks.input_ids, blocks.attention_mask)
        assert second_half.skips is True
        new = hidden * 0.5 + 0.25
        with torch.no_grad(), splice_after_block(model, layer, lambda _: new):
            full = model(input_ids=blocks.input_ids.long(), attention_mask=blocks.attention_mask).logits
        assert torch.equal(second_half.logits_with(hidden), clean)
        assert torch.equal(second_half.logits_with(new), full)
        assert list(decoder_blocks(model)) == before
    finally:
        model.to(torch.float32)


def test_a_model_that_refuses_to_skip_gets_the_full_pass(language_models, monkeypatch):
    language_model = language_models("llama")
    blocks = make_blocks(language_model)
    arguments = {"layer": LAYER, "mean": torch.zeros(D_IN)}
    fast = cross_entropy({"s": shrink}, language_model, blocks, **arguments)
    before = list(decoder_blocks(language_model.model))

    def refuse(self, *args, **kwargs):
        raise RuntimeError("this block keeps something for a later one")

    monkeypatch.setattr("expander_sae.evaluation.second_half._Bypass.forward", refuse)
    slow = cross_entropy({"s": shrink}, language_model, blocks, **arguments)
    assert slow == fast
    assert list(decoder_blocks(language_model.model)) == before


def test_blocks_are_back_after_an_error(language_models):
    language_model = language_models("llama")
    blocks = make_blocks(language_model)
    before = list(decoder_blocks(language_model.model))
    with pytest.raises(ExpanderSaeError, match="bad"):
        cross_entropy({"bad": lambda x: x[:, :3]}, language_model, blocks, layer=LAYER, mean=torch.zeros(D_IN))
    second_half = SecondHalf(language_model.model, LAYER)
    hidden, _ = second_half.run_clean(blocks.input_ids, blocks.attention_mask)
    with pytest.raises(RuntimeError):
        second_half.logits_with(hidden[..., :5])
    assert list(decoder_blocks(language_model.model)) == before


def test_batches_and_steps_do_not_change_the_numbers(language_models, monkeypatch):
    language_model = language_models("gpt_neox")
    blocks = make_blocks(language_model)
    arguments = {"layer": LAYER, "mean": torch.zeros(D_IN)}
    whole = cross_entropy({"s": shrink}, language_model, blocks, **arguments)["s"]
    # Through sys.modules: the package's function `cross_entropy` hides the module of that name.
    import sys

    module = sys.modules["expander_sae.evaluation.cross_entropy"]
    monkeypatch.setattr(module, "_LOGITS_AT_ONCE", 1)
    monkeypatch.setattr(module, "_LOGITS_PER_STEP", 2000)
    seen = []
    pieces = cross_entropy({"s": shrink}, language_model, blocks, **arguments, progress=seen.append)["s"]
    assert seen == [1] * 5
    for name, value in whole._asdict().items():
        if name != "splice":
            assert getattr(pieces, name) == pytest.approx(value, rel=1e-5), name


def test_giant_tokens_can_be_spared(language_models):
    language_model = language_models("llama")
    blocks = make_blocks(language_model)
    arguments = {"layer": LAYER, "mean": torch.zeros(D_IN)}
    seen = []

    def look(x):
        seen.append(x.norm(dim=1))
        return shrink(x)

    cross_entropy({"s": look}, language_model, blocks, **arguments)
    norms = torch.cat(seen)
    limit = float(norms.median())
    seen.clear()
    cross_entropy({"s": look}, language_model, blocks, giant_norm=limit, **arguments)
    assert sorted(torch.cat(seen).tolist()) == sorted(norms[norms <= limit].tolist())


def test_without_an_effect_there_is_nothing_to_recover(language_models):
    language_model = language_models("llama")
    blocks = make_blocks(language_model)
    got = cross_entropy({"s": shrink}, language_model, blocks, layer=LAYER, mean=torch.zeros(D_IN), giant_norm=0.0)["s"]
    assert got.delta_ce == 0
    assert math.isnan(got.ce_recovered_zero)


def test_blocks_are_spread_over_the_text():
    blocks = TokenBlocks(
        torch.arange(100).reshape(100, 1).expand(100, 11).contiguous(),
        torch.full((100,), 11, dtype=torch.int32),
        torch.zeros(100, 11, dtype=torch.bool),
    )
    chosen = spread_blocks(blocks, 95)
    assert chosen.input_ids[:, 0].tolist() == list(range(0, 100, 10))
    assert len(spread_blocks(blocks, None).lengths) == len(spread_blocks(blocks, 10**9).lengths) == 100
    with pytest.raises(ExpanderSaeError, match="at least one token"):
        spread_blocks(blocks, 0)


def test_errors_say_what_is_wrong(language_models):
    language_model = language_models("llama")
    blocks = make_blocks(language_model)
    with pytest.raises(ExpanderSaeError, match="ordinary, everywhere"):
        cross_entropy({}, language_model, blocks, layer=LAYER, mean=torch.zeros(D_IN), splice="odd")
    with pytest.raises(ExpanderSaeError, match="layer from 0 to 2"):
        cross_entropy({}, language_model, blocks, layer=3, mean=torch.zeros(D_IN))
    with pytest.raises(ExpanderSaeError, match="d_in 16"):
        cross_entropy({}, language_model, blocks, layer=LAYER, mean=torch.zeros(16))
