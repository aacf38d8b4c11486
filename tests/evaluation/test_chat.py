"""A chat model as the judge: what it is shown, what is made of its answers, and what goes wrong."""

import pytest
import torch
from chat_server import chat_server, same_token_judge

from expander_sae.evaluation.chat import ChatJudge
from expander_sae.records import ExpanderSaeError

IDS = torch.tensor([5, 6, 7, 8, 5, 9, 6, 5])
BLOCKS = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


class Words:
    """A tokenizer: every id is a word of its own."""

    def decode(self, ids):
        return "".join(f" w{one}" for one in ids)


def judge(url, **given):
    return ChatJudge(IDS, BLOCKS, Words(), url=url, model="small", **given)


def ask(url, **given):
    return judge(url, **given).scores(torch.tensor([0, 4]), torch.tensor([2]), torch.tensor([7, 3, 5]))


def test_passages_stay_within_their_block_and_mark_one_token():
    one = judge("http://127.0.0.1:9/v1", width=2)
    assert one.passage(1) == " w5« w6» w7 w8"
    assert one.passage(3) == " w6 w7« w8»"
    assert one.passage(4) == "« w5» w9 w6"


def test_its_numbers_are_the_scores():
    with chat_server(same_token_judge) as (url, got):
        scores = ask(url, api_key="secret")
    assert scores.tolist() == [10.0, 0.0, 0.0]
    (request,) = got
    assert (request["path"], request["authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert (request["model"], request["temperature"]) == ("small", 0.0)
    assert "JSON list of 3 numbers" in request["messages"][0]["content"]
    fires, silent, asked = request["messages"][1]["content"].split("\n\n")
    assert (fires.count("«"), silent.count("«"), asked.count("«")) == (2, 1, 3)
    assert "\n3.  w5« w9» w6 w5" in asked


def test_no_key_is_sent_where_none_is_given(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_hub")
    with chat_server(same_token_judge) as (url, got):
        ask(url + "/")
    assert (got[0]["path"], got[0]["authorization"]) == ("/v1/chat/completions", None)


def test_an_endpoint_that_refuses_is_an_error():
    def refuse(_request):
        raise PermissionError("no such key")

    with (
        chat_server(refuse) as (url, _),
        pytest.raises(ExpanderSaeError, match=r"judge small at .* got HTTP Error 403: Forbidden: no such key"),
    ):
        ask(url)


def test_another_protocol_is_an_error():
    with (
        chat_server(same_token_judge) as (url, _),
        pytest.raises(ExpanderSaeError, match=r"in the OpenAI chat protocol from .* got HTTP Error 404"),
    ):
        ask(url.removesuffix("/v1") + "/other")


def test_talk_around_the_list_is_passed_over_and_a_bad_answer_is_asked_for_again():
    answers = iter(["I cannot say.", "[1, 2]", "Between [0, 10], thinking...\n[3, 0.5, 10]"])
    with chat_server(lambda _request: next(answers)) as (url, got):
        assert ask(url).tolist() == [3.0, 0.5, 10.0]
    assert len({request["seed"] for request in got}) == 3


@pytest.mark.parametrize(
    "answer",
    [
        "no",
        '[1, 2, "x"]',
        "[1, 2, NaN]",
        "[1, 2, 3, 4]",
        "[1, 2,]",
        "[1, 2, 1e999]",
        "[1, 2, true]",
        f"[1, 2, {9 * '9'}e400]",
        "[1, 2, " + "9" * 5000 + "]",
    ],
)
def test_no_list_of_numbers_is_an_error(answer):
    with (
        chat_server(lambda _request: answer) as (url, got),
        pytest.raises(ExpanderSaeError, match=r"a JSON list of 3 numbers from small at .* got 3 times something else"),
    ):
        ask(url)
    assert len(got) == 3


def test_a_server_that_is_not_there_is_an_error():
    with chat_server(same_token_judge) as (url, _):
        pass
    with pytest.raises(ExpanderSaeError, match=r"from the judge small at .* got URLError.*run the same command again"):
        ask(url)
