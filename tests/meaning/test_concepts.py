"""Concepts read off a text: what each question answers, and which narrow ones a text brings."""

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_tokenizer

from expander_sae.activations import TokenBlocks
from expander_sae.evaluation.meaning import broad_concepts, narrow_concepts, read_text
from expander_sae.evaluation.meaning.concepts import BROAD, SENTENCE_LATE
from expander_sae.evaluation.meaning.narrow import BANDS, PER_BAND, band_of


def blocks_of(tokenizer, texts, length):
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"][:length] for text in texts]
    table = torch.zeros(len(ids), length, dtype=torch.int32)
    for row, mine in enumerate(ids):
        table[row, : len(mine)] = torch.tensor(mine)
    lengths = torch.tensor([len(mine) for mine in ids], dtype=torch.int32)
    special = torch.arange(length) >= lengths[:, None]
    special[:, 0] = True
    return TokenBlocks(table, lengths, special)


def text_of(*texts, length=64):
    tokenizer = make_tiny_tokenizer()
    return read_text(blocks_of(tokenizer, texts, length), tokenizer)


def words_where(text, name):
    """The words at whose first token a broad concept holds."""
    labels = next(c for c in broad_concepts(text) if c.name == name).labels
    return [text.word[place] for place in np.flatnonzero(labels & text.starts)]


def test_a_word_is_the_run_of_its_tokens():
    text = text_of("The unbelievable captain, in 1984.")
    whole = [word for word, starts, real in zip(text.word, text.starts, text.real, strict=True) if starts and real]
    assert whole == ["The", "unbelievable", "captain", ",", "in", "1984", "."]
    assert "".join(text.piece[text.real]) == "The unbelievable captain, in 1984."
    assert (~text.starts & text.real).any()  # the tiny tokenizer cuts long words


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("is a number", ["1984", "7"]),
        ("is of a year", ["1984"]),
        ("is capitalised", ["The", "Rome", "Rome", "It"]),
        ("is a determiner", ["The", "a"]),
        ("is a preposition", ["of", "in"]),
        ("is an auxiliary verb", ["was"]),
        ("word ends in -ing", ["burning"]),
        ("word begins with s", ["sea"]),
        ("next is a comma", [")", '"']),
        ("next is 'the'", []),
        ("after 'the'", ["burning"]),
        ("after a number", [",", "."]),
        ("in parentheses", ["of", "Rome"]),
        ("in quotation marks", ["a", "sea"]),
        ("starts a sentence", ["It"]),
    ],
)
def test_broad_questions(name, expected):
    text = text_of('The burning (of Rome), in 1984, "a sea", Rome. It was 7.')
    found = words_where(text, name)
    assert found == expected


def test_nothing_is_told_of_padding_and_nothing_leaks_between_blocks():
    text = text_of("the river", "the captain in Rome finds (the", "river) of 1984", length=24)
    for concept in broad_concepts(text):
        assert not (concept.labels & ~text.real).any(), concept.name
    assert words_where(text, "in parentheses") == ["the"]
    after = text.shifted(text.word == "the", -1)
    assert not after.reshape(-1, 24)[:, 0].any()


def test_position_questions_count_from_the_block():
    text = text_of("river " * 60, length=64)
    labels = {c.name: c.labels for c in broad_concepts(text)}
    assert np.flatnonzero(labels["is early in its block"]).tolist() == list(range(8))
    assert np.flatnonzero(labels["is late in its sentence"])[0] == SENTENCE_LATE


def test_documents_end_with_a_short_block():
    text = text_of("river " * 70, "stone", "bird " * 70, "lamp", length=32)
    assert text.document.reshape(-1, 32)[:, 0].tolist() == [0, 0, 1, 1]
    articles = [c for c in broad_concepts(text) if c.group == "article"]
    assert [int(c.labels.sum()) for c in articles] == [int((text.real & (text.document == d)).sum()) for d in (0, 1)]


def test_the_list_has_no_name_twice():
    names = [name for _, name, _ in BROAD]
    assert len(names) == len(set(names))


def test_narrow_concepts_are_in_their_bands_and_of_whole_words():
    draw = np.random.default_rng(0)
    lower = ["river", "stone", "bird", "winter", "letter"]
    texts = [
        " ".join(["the", *draw.choice(lower, 12, p=[0.4, 0.3, 0.15, 0.1, 0.05]), "Anna", "went"]) for _ in range(24)
    ]
    text = text_of(*texts, length=64)
    places = np.flatnonzero(text.real)
    found = narrow_concepts(text, places)
    assert found
    for concept in found:
        count = int(concept.labels[places].sum())
        assert band_of(count) != "-"
        if concept.group == "word":
            at = set(text.word[concept.labels].tolist())
            assert at == {concept.name}
            assert concept.name != "Anna"
    words = {c.name for c in found if c.group == "word"}
    counts = {word: int(((text.word == word) & text.starts).sum()) for word in lower}
    whole = {word for word in lower if (text.piece == f" {word}").any() or (text.piece == word).any()}
    assert words == {word for word in whole if band_of(counts[word]) != "-"} | (words - set(lower))
    assert all(
        sum(1 for c in found if c.group == g) <= PER_BAND * len(BANDS) for g in ("word", "name", "pair", "topic")
    )


def test_an_endless_word_takes_no_room():
    text = text_of(*(["river stone " * 4 + "q" * 3000] + ["the old river"] * 30), length=64)
    found = narrow_concepts(text, np.flatnonzero(text.real))
    assert "river" in {c.name for c in found}
    assert all(len(c.name) <= 2 * 40 + 1 for c in found)


def test_the_draw_is_the_seeds():
    text = text_of(*["the old river finds the quiet stone in a garden " * 3] * 12, length=64)
    places = np.flatnonzero(text.real)
    one, again = (narrow_concepts(text, places, seed=3) for _ in range(2))
    assert [c.name for c in one] == [c.name for c in again]
    assert all(np.array_equal(a.labels, b.labels) for a, b in zip(one, again, strict=True))
