"""A JSON endpoint that is asked until it answers."""

import pytest

from expander_sae.evaluation.endpoint import NoAnswer, patiently


def failing(*errors):
    left = list(errors)

    def ask():
        if left:
            raise left.pop(0)
        return "answer"

    return ask


def test_a_fault_that_passes_is_waited_out():
    waits = []
    ask = failing(NoAnswer("429", passing=True, wait=7.0), NoAnswer("500", passing=True), NoAnswer("500", passing=True))
    assert patiently(ask, tries=4, sleep=waits.append) == "answer"
    assert [7.0 <= waits[0] < 9, 2.0 <= waits[1] < 3, 4.0 <= waits[2] < 5.1] == [True] * 3


def test_a_fault_that_stays_is_raised_at_once():
    waits = []
    with pytest.raises(NoAnswer, match="401"):
        patiently(failing(NoAnswer("401", passing=False)), tries=4, sleep=waits.append)
    assert waits == []


def test_patience_has_an_end():
    waits = []
    with pytest.raises(NoAnswer, match="last"):
        patiently(failing(NoAnswer("first", passing=True), NoAnswer("last", passing=True)), tries=2, sleep=waits.append)
    assert len(waits) == 1
