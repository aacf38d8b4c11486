"""`expander-sae explain` from its command line to the label file."""

import json

import pytest
from made_up import make_store
from misbehaving import answering, misbehaving
from typer.testing import CliRunner

from expander_sae.cli.explain import numbers
from expander_sae.cli.main import app
from expander_sae.latents import LabelFile, LatentStore
from expander_sae.records import ExpanderSaeError


def run(*arguments):
    return CliRunner().invoke(app, ["explain", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "latents.db", n_latents=40)


def test_labels_by_words_are_kept_beside_the_store(store, tmp_path):
    labels = LabelFile.beside(store)
    with LatentStore.open(store) as opened:
        view = opened.views[1]
    labels.put(view.sha256, 1, text="mine", seen=0)
    shown = run(store, "--view", view.name, "--json", tmp_path / "out.json")
    assert shown.exit_code == 0, shown.output
    told = json.loads((tmp_path / "out.json").read_text())
    kept = labels.explanations(view.sha256)
    assert [one.as_dict() for one in kept] == told
    assert len(kept) > 3
    assert {(one.method, one.reading) for one in kept} == {("words", view.reading)}
    assert all(one.latent % 4 != 3 and one.text and "rule" in one.scores for one in kept)
    assert labels.explanations(view.sha256, kept[0].latent) == [kept[0]]
    assert labels.explanations(view.sha256, reading="other") == []
    assert labels.get(view.sha256, 1).text == "mine"


def test_a_chat_model_is_asked_after_the_price_is_said(store, monkeypatch):
    monkeypatch.setenv("EXPANDER_SAE_JUDGE_KEY", "secret")
    with misbehaving(answering) as (url, seen):
        chat = ("--method", "chat", "--url", url, "--chat-model", "small", "--latents", "0,4-6")
        shown = run(store, *chat, "--price", "2,10", "--yes")
        assert shown.exit_code == 0, shown.output
        asked = len(seen.requests)
        again = run(store, *chat, "--yes")
    assert asked > 4
    assert len(seen.requests) == asked
    assert set(seen.keys) == {"Bearer secret"}
    assert "questions (0 more are known)" in shown.output
    assert f"= {(100 * 2 + 7 * 10) * asked / 1e6:,.2f} by --price" in shown.output
    assert "about 0 questions (" in again.output
    with LatentStore.open(store) as opened:
        found = LabelFile.beside(store).explanations(opened.view().sha256)
    assert [(one.latent, one.method, one.made_by) for one in found] == [(j, "chat", "small") for j in (0, 4, 5, 6)]


def test_nothing_is_asked_where_nobody_can_say_yes(store):
    with (
        misbehaving(answering) as (url, seen),
        pytest.raises(ExpanderSaeError, match="expected --yes where nobody can be asked"),
    ):
        run(store, "--method", "chat", "--url", url, "--chat-model", "small", "--top", 2)
    assert seen.requests == []


def test_answers_that_cannot_be_read_are_said_and_kept_nowhere(store):
    with misbehaving(lambda _: "\x1b[31mno") as (url, _):
        shown = run(store, "--method", "chat", "--url", url, "--chat-model", "m", "--latents", "0", "--yes")
    assert shown.exit_code == 0
    assert "1 questions got three answers that cannot be read" in shown.output
    assert "\x1b" not in shown.output
    with LatentStore.open(store) as opened:
        assert LabelFile.beside(store).explanations(opened.view().sha256) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "magic"), "--method out of words, embedding, chat"),
        (("--latents", "1", "--top", "3"), "--latents or --top; got both"),
        (("--latents", "39-41"), r"below 40; got '39-41'"),
        (("--latents", "3,7"), "that fire; got none"),
        (("--top", "0"), "--top of one at least"),
        (("--view", "nothing"), "expected a view out of"),
        (("--method", "chat"), "--url URL and --chat-model NAME"),
        (("--method", "chat", "--price", "1"), "--price as two numbers"),
    ],
)
def test_bad_input_is_one_error(options, said, store):
    with pytest.raises(ExpanderSaeError, match=said):
        run(store, *options)


def test_numbers_are_lists_and_ranges():
    assert numbers("5, 1,2-4,2", 6) == [5, 1, 2, 3, 4]
    for text in ("", "a", "1-", "-3", "4-2", "1,,2", "²"):
        with pytest.raises(ExpanderSaeError, match="--latents as 1,2,5-9"):
            numbers(text, 6)
