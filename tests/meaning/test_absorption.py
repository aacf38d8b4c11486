"""Absorption of first letters: the scores of one word, splits, the words that are read, and the cautions."""

import numpy as np
import pytest
import torch
from scipy import sparse
from tiny_models import D_IN, make_tiny_model
from typer.testing import CliRunner

from expander_sae.activations import load_language_model
from expander_sae.activations.models import residual_after_block
from expander_sae.cli import main
from expander_sae.evaluation.meaning import absorption, cautions, read_words
from expander_sae.evaluation.meaning.absorption import (
    LETTERS,
    QUESTION,
    Words,
    absorbed,
    first_letter,
    split_latents,
    words_of,
)
from expander_sae.evaluation.meaning.features import Features
from expander_sae.records import AbsorptionRecord, ExpanderSaeError
from expander_sae.saes import DenseTopKSae


@pytest.mark.parametrize(
    ("projection", "codes", "cosines", "main", "expected"),
    [
        (2.0, [0.0, 2.0, 0.0], [0.9, 0.8, 0.5], [0], (1.0, True)),  # silent, and another says it
        (2.0, [0.0, 0.5, 0.0], [0.9, 0.8, 0.5], [0], (0.0, False)),  # the other says too little
        (2.0, [1.0, 1.0, 0.0], [0.9, 0.8, 0.5], [0], (0.8 / 1.7, False)),  # both say it
        (2.0, [3.0, 1.0, 0.0], [0.9, 0.8, 0.5], [0], (0.0, False)),  # it says it all itself
        (2.0, [0.0, 99.0, 0.0], [0.9, 0.02, 0.5], [0], (0.0, False)),  # the other is not along the probe
        (2.0, [0.0, 20.0, 0.0], [0.9, 0.05, 0.5], [0], (0.0, True)),  # along it for one score, not for the other
        (-1.0, [0.0, 2.0, 0.0], [0.9, 0.8, 0.5], [0], (0.0, False)),  # the stream does not say it
        (2.0, [0.0, 1.0, 1.0], [0.9, 0.8, 0.5], [0, 1], (0.0, False)),  # a letter of two latents
    ],
)
def test_scores_of_a_word(projection, codes, cosines, main, expected):
    share, wholly = absorbed(projection, np.array(codes), np.array(cosines), main)
    assert share == pytest.approx(expected[0])
    assert wholly == expected[1]


def test_a_letter_in_two_latents_is_split():
    draw = np.random.default_rng(0)
    labels = draw.random(600) < 0.3
    half = draw.random(600) < 0.5
    values = draw.random((600, 12)) * (draw.random((600, 12)) < 0.2)
    values[:, 3], values[:, 8] = labels & half, labels & ~half
    fit, test = np.arange(400), np.arange(400, 600)
    assert sorted(split_latents(Features("two", sparse.csc_matrix(values)), labels, fit, test)) == [3, 8]
    values[:, 3] = labels
    assert split_latents(Features("one", sparse.csc_matrix(values)), labels, fit, test) == [3]


def absorbing(every):
    """Words whose stream says their letter, and an SAE of a latent for each letter and one for some words of a (every
    so many of them, 0 for none), which says the letter as well."""
    draw = np.random.default_rng(1)
    letters = np.concatenate([np.arange(26 * 40) % 26, np.zeros(600, dtype=int)])
    columns = np.linalg.qr(draw.normal(size=(40, 40)))[0]
    taken = (letters == 0) & (np.cumsum(letters == 0) % every == 0) if every else np.zeros(len(letters), dtype=bool)
    stream = 5.0 * columns[letters]
    stream[taken] = 5.0 * (columns[0] + columns[30]) / 2**0.5
    sae = DenseTopKSae(d_in=40, n_latents=27, k=1)
    with torch.no_grad():
        sae.columns.raw.copy_(torch.from_numpy(np.vstack([columns[:26], columns[0] + columns[30]])).float())
        sae.b_dec.zero_()
    return sae.eval(), Words(torch.from_numpy(stream).float(), letters, draw.random(len(letters)) < 0.7)


def test_the_absorbed_share_is_found():
    clean, some, half = (absorption("made up", *absorbing(every)) for every in (0, 25, 2))
    for record in (clean, some, half):
        assert AbsorptionRecord.from_dict(record.to_dict()) == record
        assert record.letters == 26
        assert all(rate == 0.0 for letter, rate in record.full_absorption_by_letter.items() if letter != "a")
    assert clean.absorption_fraction == clean.full_absorption == 0.0
    assert clean.split_latents == some.split_latents == 1.0
    assert some.full_absorption_by_letter["a"] == pytest.approx(1 / 25, abs=0.02)
    assert some.absorption_fraction == pytest.approx(some.full_absorption_by_letter["a"] / 26)
    # A latent for half of the words is no absorber but a split of the letter.
    assert half.full_absorption == 0.0
    assert half.split_latents == pytest.approx(27 / 26)


def test_a_stream_that_cannot_spell_is_refused():
    sae, words = absorbing(0)
    noise = words._replace(x=torch.randn(words.x.shape, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ExpanderSaeError, match="at least 20 first letters"):
        absorption("noise", sae, noise)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("absorption") / "model", "llama")


def test_words_are_read_at_the_word(model):
    lm = load_language_model(model, dtype="float32")
    vocabulary = words_of(lm.tokenizer)
    assert all(word.isascii() and word.isalpha() for _, word in vocabulary)
    words = read_words(lm, 1, max_words=60, seed=3, sequences=7)
    assert words.x.shape == (60, D_IN)
    assert int(words.training.sum()) == 48
    # The last word by hand: the draws are the seed's, whichever prompts are batched together.
    again = read_words(lm, 1, max_words=60, seed=3, sequences=60)
    torch.testing.assert_close(words.x, again.x, atol=1e-5, rtol=1e-4)
    draw = np.random.default_rng(3)
    chosen = [vocabulary[place] for place in draw.permutation(len(vocabulary))[:60]]
    assert [LETTERS[letter] for letter in words.letters] == [first_letter(word) for _, word in chosen]
    pool = np.flatnonzero(words.training)
    others = draw.choice(pool[pool != 0], 10, replace=False)
    ids = lm.tokenizer("\n")["input_ids"]
    for other in others:
        answer = f"{QUESTION} {chosen[other][1][0].upper()}\n"
        ids += [chosen[other][0], *lm.tokenizer(answer)["input_ids"]]
    table = torch.tensor([[*ids, chosen[0][0]]])
    expected = residual_after_block(lm.model, table, torch.ones_like(table), 1)[0, -1]
    torch.testing.assert_close(words.x[0], expected.float(), atol=1e-5, rtol=1e-4)


def test_small_models_and_small_saes_are_cautioned(model, tmp_path):
    lm = load_language_model(model, dtype="float32")
    sae = DenseTopKSae(d_in=D_IN, n_latents=64, k=4).eval()
    said = cautions(lm, {"small": sae})
    assert len(said) == 2
    assert all("SAEBench does not advise" in sentence for sentence in said)
    sae.metadata = {"activations": {"model_id": "tiny", "layer": 1}}
    sae.save(tmp_path / "sae")
    done = CliRunner().invoke(
        main.app,
        ["probe", str(tmp_path / "sae"), "--first-letters", "--model", str(model), "--max-words", "200", "--quiet",
         "--compute-dtype", "float32"],
    )  # fmt: skip
    assert "does not advise" in done.output
    assert "at least 20 first letters" in str(done.exception)  # a random model cannot spell
