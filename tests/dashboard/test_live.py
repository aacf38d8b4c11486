"""The live pages on a tiny model: what fires, what steering and taking away do, and a queue that is never long."""

import json
import threading
import time

import pytest
import torch
from made_up import make_store
from rooms import WRITES, server, tiny_live

from expander_sae.activations import load_language_model
from expander_sae.activations.models import residual_after_block, splice_after_block
from expander_sae.dashboard.live import WAITING, Live, NoModelError
from expander_sae.dashboard.sampling import Sampler, Spoken
from expander_sae.pursuit import Encoder
from expander_sae.saes import load_sae
from expander_sae.web.answers import BusyError

TEXT = "The old river holds the bright stone."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def client(folder):
    store = make_store(folder / "latents.db", n_latents=24)
    with server(store, live=tiny_live(folder, store)) as client:
        yield client


@pytest.fixture(scope="module")
def known(folder, client):
    return load_language_model(folder / "model", dtype="float32"), load_sae(folder / "sae").read_by(Encoder())


def post(client, what, told, **params):
    return client.post(f"/api/live/{what}", json=told, params=params, headers=WRITES)


def lines(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def joined(parts, name):
    return "".join(part.get(name, "") for part in parts)


def test_what_fires_is_what_the_sae_finds(client, known):
    lm, sae = known
    told = post(client, "fire", {"text": TEXT}).json()
    ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
    x = residual_after_block(lm.model, ids, torch.ones_like(ids), 1)[0]
    codes = sae.encode(x[1:])
    assert "".join(token["text"] for token in told["tokens"]) == TEXT
    assert [token["read"] for token in told["tokens"]] == [False] + [True] * (len(x) - 1)
    assert told["tokens"][0]["latents"] == []
    for token, indices, values in zip(told["tokens"][1:], codes.indices.tolist(), codes.values.tolist(), strict=True):
        expected = {j: v for j, v in zip(indices, values, strict=True) if v}
        assert {j for j, _ in token["latents"]} == set(expected)
        assert all(value == pytest.approx(expected[j], rel=1e-4) for j, value in token["latents"])
    fired = [j for token in told["tokens"] for j, _ in token["latents"]]
    assert {one["latent"]: one["times"] for one in told["latents"]} == {j: fired.count(j) for j in set(fired)}
    assert "tokens" in told["latents"][0]  # with its words, as in any list


def test_another_view_is_read_in_its_own_way(client, known):
    one = post(client, "fire", {"text": TEXT}).json()
    two = post(client, "fire", {"text": TEXT}, view="expander-d4, stages:8+auto").json()
    assert one["tokens"] != two["tokens"]


def test_a_view_whose_sae_is_elsewhere_says_so(client):
    answer = post(client, "fire", {"text": TEXT}, view="dense, encoder")
    assert answer.status_code == 400
    assert "--sae" in answer.json()["error"]


def test_taking_a_latent_away_changes_what_follows_it(client, known):
    told = post(client, "fire", {"text": TEXT}).json()
    latent = told["latents"][0]["latent"]
    first = next(i for i, token in enumerate(told["tokens"]) if latent in dict(token["latents"]))
    ablated = post(client, "ablate", {"prompt": TEXT, "latent": latent}).json()
    assert ablated["fires"] == told["latents"][0]["times"]
    kl = [token["kl"] for token in ablated["tokens"]]
    assert max(kl[:first], default=0.0) < 1e-6 < max(kl[first:])
    assert all(0 <= one["before"] <= 1 and 0 <= one["after"] <= 1 for one in ablated["next"])
    assert any(one["before"] != one["after"] for one in ablated["next"])
    # x without h_j w_j after block 1, by hand.
    lm, sae = known
    ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])

    def without(x):
        codes = sae.encode(x[0, 1:])
        h = (codes.values * (codes.indices == latent)).sum(1)
        column = sae.dictionary().columns(torch.tensor([latent]))[0]
        return torch.cat([x[:, :1], x[:, 1:] - (h[:, None] * column)[None]], 1)

    with torch.no_grad(), splice_after_block(lm.model, 1, without):
        after = lm.model(input_ids=ids).logits[0, -1].softmax(-1)
    assert max(one["after"] for one in ablated["next"]) == pytest.approx(float(after.max()), rel=1e-4)


def test_a_latent_that_does_not_fire_changes_nothing(client):
    fired = {one["latent"] for one in post(client, "fire", {"text": TEXT}).json()["latents"]}
    silent = next(j for j in range(24) if j not in fired)
    told = post(client, "ablate", {"prompt": TEXT, "latent": silent}).json()
    assert told["fires"] == 0
    assert all(one["before"] == pytest.approx(one["after"], abs=1e-6) for one in told["next"])


STEER = {"prompt": TEXT, "latent": 5, "strength": 4.0, "how": "clamp", "tokens": 12, "temperature": 0, "seed": 0}


def test_steering_leaves_the_text_beside_it_as_the_model_writes_it(client, known):
    lm, _ = known
    parts = lines(post(client, "steer", STEER))
    assert not any("error" in part for part in parts)
    ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
    wrote = lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=0, pad_token_id=0
    )[0, ids.shape[1] :]
    ended = (wrote == 0).nonzero()
    wrote = wrote[: int(ended[0])] if len(ended) else wrote
    assert joined(parts, "plain") == lm.tokenizer.decode(wrote)
    assert joined(parts, "steered") != joined(parts, "plain")
    nothing = lines(post(client, "steer", {**STEER, "how": "add", "strength": 0.0}))
    assert joined(nothing, "steered") == joined(nothing, "plain") == joined(parts, "plain")


def test_drawing_is_by_seed_and_alike_in_both_texts(client):
    warm = {**STEER, "temperature": 1.5, "how": "add", "strength": 0.0}
    one, same, other = (lines(post(client, "steer", {**warm, "seed": seed})) for seed in (1, 1, 2))
    assert joined(one, "plain") == joined(same, "plain") != joined(other, "plain")
    assert joined(one, "plain") == joined(one, "steered")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("fire", {"text": ""}),
        ("fire", {"text": "x" * 5000}),
        ("fire", {"text": 3}),
        ("ablate", {"prompt": "x", "latent": 24}),
        ("ablate", {"prompt": "x", "latent": "1"}),
        ("steer", {**STEER, "tokens": 1000}),
        ("steer", {**STEER, "strength": 1e9}),
        ("steer", {**STEER, "how": "push"}),
        ("steer", {**STEER, "temperature": None}),
        ("steer", {**STEER, "latent": 3}),  # never fired: its largest activation is no unit
    ],
)
def test_what_is_too_much_or_senseless_is_refused_before_the_model_sees_it(client, what, told):
    answer = post(client, what, told)
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]


def test_without_a_model_the_live_pages_say_how_to_get_one(tmp_path):
    with server(make_store(tmp_path / "latents.db")) as client:
        answer = post(client, "fire", {"text": TEXT})
        assert answer.status_code == 404
        assert "--model" in answer.json()["error"]
    with pytest.raises(NoModelError):
        Live(None).submit(lambda session, stop: None)


def test_a_model_that_is_none_is_one_error_and_may_be_mended(tmp_path):
    with server(make_store(tmp_path / "latents.db"), live=Live(str(tmp_path / "no-model"))) as client:
        for _ in range(2):
            answer = post(client, "fire", {"text": TEXT})
            assert answer.status_code == 400
            assert "expected a model" in answer.json()["error"]


class _Slow(Live):
    """A queue whose model is made already."""

    def _opened(self):
        return None


def test_beyond_a_few_that_wait_there_is_a_clear_refusal():
    live, going, begun = _Slow("any"), threading.Event(), threading.Event()
    first = live.submit(lambda _session, _stop: (begun.set(), going.wait(10)))
    begun.wait(10)
    waiting = [live.submit(lambda _session, _stop: "done") for _ in range(WAITING)]
    with pytest.raises(BusyError, match="busy"):
        live.submit(lambda _session, _stop: None)
    waiting[0].cancelled.set()  # its visitor left
    going.set()
    assert first.future.result(10)
    assert [job.future.result(10) for job in waiting[1:]] == ["done"] * (WAITING - 1)
    assert waiting[0].future.cancelled()
    live.close()
    assert BusyError.status == 429


def test_closing_calls_off_what_runs_and_what_waits():
    live, begun = _Slow("any"), threading.Event()
    running = live.submit(lambda _session, stop: (begun.set(), stop.wait(20)))
    begun.wait(10)
    waiting = live.submit(lambda _session, _stop: "never")
    start = time.monotonic()
    live.close()
    assert time.monotonic() - start < 5
    assert running.future.done()
    assert waiting.future.cancelled()
    with pytest.raises(BusyError):
        live.submit(lambda _session, _stop: None)


def test_an_error_in_one_request_is_not_the_end_of_the_next():
    live = _Slow("any")
    with pytest.raises(ZeroDivisionError):
        live.submit(lambda _session, _stop: 1 / 0).future.result(10)
    assert live.submit(lambda _session, _stop: 7).future.result(10) == 7
    live.close()


class _Letters:
    """A tokenizer of bytes."""

    eos_token_id = 0

    def decode(self, ids, **_options):
        return bytes(ids).decode("utf-8", "replace")


def test_letters_of_several_tokens_are_said_once_they_are_whole():
    said = Spoken(_Letters())
    assert [said.more(byte) for byte in "aé河".encode()] == ["a", "", "é", "", "", "河"]
    assert said.more(0) == ""
    assert said.ended
    assert said.more(97) == ""


def test_at_no_temperature_the_likeliest_is_drawn():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 0.0, 1.0]])
    assert Sampler(temperature=0, seed=0).draw(logits).tolist() == [1, 0]
    drawn = Sampler(temperature=1.0, seed=0)
    counts = torch.bincount(torch.cat([drawn.draw(logits[:1]) for _ in range(4000)]), minlength=3) / 4000
    torch.testing.assert_close(counts, logits[0].softmax(-1), atol=0.03, rtol=0)
