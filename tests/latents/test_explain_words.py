"""Labels by words and token classes, and what they are scored on."""

import random

import numpy as np
import pytest

from expander_sae.latents.explain.evidence import Evidence, Window, split
from expander_sae.latents.explain.places import Places, Predicate
from expander_sae.latents.explain.rule import Background, Rule
from expander_sae.latents.explain.scores import KINDS, Sample, balanced_accuracy, others, samples, score
from expander_sae.latents.explain.words import Judge, explain

WORDS = ["the", "cat", "sat", "on", "mat", "of", "a", "12", "1999", "Paris", "running", "and", ",", ".", "University"]
WORDS += ["quickly", "it", "was", "state", "of", "by", "red", "blue", "fox"]


def text(rows=120, length=80, seed=0):
    draw = random.Random(seed)
    return [tuple(" " + draw.choice(WORDS) for _ in range(length)) for _ in range(rows)]


def windows(rows, fires, around=8):
    """A window around every place of the rows where `fires(row, place)`."""
    found = []
    for block, row in enumerate(rows):
        for place in range(around, len(row) - 4):
            if fires(row, place):
                values = np.zeros(around + 4)
                values[around] = 1.0
                found.append(Window(block // 4, block, row[place - around : place + 4], values))
    return found


def labelled(fires, rows=None, density=0.01):
    rows = text() if rows is None else rows
    found = windows(rows[:60], fires)
    assert len(found) > 10
    rule = explain(Evidence(0, tuple(found[:30]), (), ()), Background(rows), density)
    return None if rule is None else str(rule)


def word(row, place):
    return row[place].strip()


@pytest.mark.parametrize(
    ("fires", "label"),
    [
        (lambda row, place: word(row, place) == "of" and word(row, place - 1).isdigit(), "“of” · after a number"),
        (lambda row, place: word(row, place) in ("cat", "fox"), ("“cat”, “fox”", "“fox”, “cat”")),
        (lambda row, place: word(row, place).isdigit(), "numbers"),
        (lambda row, place: word(row, place - 1) == "Paris", "any word · after “paris”"),
        (lambda row, place: word(row, place + 1) == "quickly", "any word · before “quickly”"),
        (lambda row, place: word(row, place) == "running", ("“running”", "words in -ing")),
    ],
)
def test_what_a_latent_fires_on_is_named(fires, label):
    density = np.mean([fires(row, place) for row in text() for place in range(8, 76)])
    assert labelled(fires, density=density) in label


def test_what_a_latent_fires_on_at_random_has_no_label():
    draw = random.Random(1)
    chosen = {(row, place) for row in text() for place in range(80) if draw.random() < 0.01}
    assert labelled(lambda row, place: (row, place) in chosen) is None


def test_what_is_said_in_one_document_only_is_not_named():
    zebras = [tuple(" zebra" if place % 16 == 9 else token for place, token in enumerate(row)) for row in text(2)]
    assert labelled(lambda row, place: word(row, place) in ("zebra", "cat"), zebras + text(), density=0.04) == "“cat”"


def test_pieces_of_words_are_put_together():
    places = Places([(" Uni", "vers", "ity", " of", " Par", "is", ",", " 19", "9", "9")])
    assert places.words["word"].tolist() == [
        "uni", "univers", "university", "of", "par", "paris", ",", "19", "199", "1999",
    ]  # fmt: skip
    assert places.words["piece"].tolist() == ["", "vers", "ity", "", "", "is", "", "", "9", "9"]
    assert places.words["after"].tolist() == ["", "", "", "university", "of", "of", "paris", ",", ",", ","]
    assert places.words["before"].tolist() == ["", "", "of", "paris", "", ",", "1999", "", "", ""]
    assert places.holds(Predicate("near", "university")).nonzero()[0].tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert places.holds(Predicate("class", "numbers")).nonzero()[0].tolist() == [7, 8, 9]
    assert str(Predicate("piece", "ity")) == "“…ity”"


def test_rows_of_one_text_do_not_touch_each_other():
    places = Places([(" a", " b"), (" c",), (" d", " e")])
    assert places.real.tolist() == [True, True, True, False, True, True]
    assert places.words["after"][places.real].tolist() == ["", "a", "", "", "d"]
    assert not places.holds(Predicate("near", "a")).any()


def window(block, fires=True, length=10, at=5):
    values = np.zeros(length)
    values[at] = fires
    return Window(block // 3, block, tuple(f" w{n}" for n in range(length)), values)


def test_no_block_explains_and_scores():
    draw = np.random.default_rng(0)
    top = [window(block) for block in range(20)]
    quarters = [[window(int(block)) for block in draw.integers(0, 60, 5)] for _ in range(4)]
    pool = [window(block, False) for block in range(200)]
    found = split(7, top, quarters, pool)
    explaining = {one.block for one in found.explain}
    assert found.scored
    assert len(found.explain) > 10
    assert not explaining & {one.block for one in found.firing + found.silent}
    assert len(found.firing) == len(found.silent) == len({one.block for one in found.firing})
    assert all(one.marked.any() for one in found.firing)
    assert not any(one.marked.any() for one in found.silent)
    assert [one.block for one in split(7, top, quarters, pool).silent] == [one.block for one in found.silent]


def test_a_rare_latent_is_explained_by_all_there_is_and_not_scored():
    few = [window(block) for block in range(3)]
    found = split(0, few, [[few[0]], [few[1]], [], [few[2]]], [window(block, False) for block in range(9, 30)])
    assert len(found.explain) == 3
    assert not found.firing
    assert not found.scored


def evidence(fire, silent):
    return Evidence(
        3, (), tuple(window(block) for block in range(fire)), tuple(window(50 + b, False) for b in range(silent))
    )


def test_detection_shows_windows_as_they_are_and_fuzzing_highlights():
    one = evidence(4, 4)
    detection, fuzzing = (samples(one, kind) for kind in KINDS)
    assert [sample.marked for sample in detection] == [None] * 8
    assert sum(sample.fires for sample in detection) == sum(sample.fires for sample in fuzzing) == 4
    for sample in fuzzing:
        assert sample.marked.nonzero()[0].tolist() == [5]
        assert sample.fires == bool(sample.window.values[5])
    assert [sample.fires for sample in samples(one, "detection")] == [sample.fires for sample in detection]


def test_weak_firings_are_not_highlighted():
    assert Window(0, 0, ("a", "b", "c"), np.array([1.0, 0.29, -0.3])).marked.tolist() == [True, False, True]


def test_balanced_accuracy_counts_both_kinds_alike():
    asked = [Sample(window(0), None, fires) for fires in (True, True, True, False)]
    assert balanced_accuracy(asked, [True, True, False, False]) == pytest.approx((2 / 3 + 1) / 2)
    assert balanced_accuracy(asked, [True, None, None, True]) == 0.5
    assert balanced_accuracy(asked, [True, True, True, None]) is None
    assert score(asked, [True] * 4, []) == {"balanced_accuracy": 0.5, "null": None, "firing": 3, "silent": 1}


def test_a_rule_judges_windows_by_itself():
    one = evidence(3, 3)
    judge = Judge(one)
    rule, other = Rule((Predicate("word", "w5"),)), Rule((Predicate("word", "w6"),))
    assert judge.says(rule, samples(one, "detection")) == [True] * 6
    assert judge.says(rule, samples(one, "fuzzing")) == [True] * 6
    assert judge.says(other, samples(one, "detection")) == [True] * 6
    assert judge.says(other, samples(one, "fuzzing")) == [False] * 6
    assert judge.says(Rule((Predicate("word", "w10"),)), samples(one, "detection")) == [False] * 6


@pytest.mark.parametrize("count", [2, 3, 10])
def test_nobody_is_their_own_null(count):
    partner = others(count, seed=4)
    assert sorted(partner) == list(range(count))
    assert all(place != other for place, other in enumerate(partner))
