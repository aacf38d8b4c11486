"""More requests than can be answered, and ends of all kinds: every request that was taken is answered, and rightly."""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from made_up import make_store
from served import TEXTS, Crowd, ask, make_model, make_saes, served, start
from starlette.testclient import TestClient
from tiny_models import D_IN
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.latents.identity import sae_sha256
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import load_sae
from expander_sae.serving.batching import Batcher, Work
from expander_sae.serving.limits import Limits, RefusedError
from expander_sae.serving.opening import named_folders
from expander_sae.web.answers import BusyError

RAW = "application/octet-stream"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_saes(tmp_path_factory.mktemp("serving"))


class Gate:
    """What answers batches, but only once it is opened; it keeps what each was made of."""

    def __init__(self):
        self.open, self.begun, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, batch):
        self.batches.append([work.size for work in batch])
        self.begun.set()
        self.open.wait(20)
        for work in batch:
            work.future.set_result(work.size)


def test_a_full_queue_refuses_at_once_and_loses_nothing():
    gate = Gate()
    batcher = Batcher(gate, Limits(queue=3, window=0.01))
    works = [Work(size) for size in (1, 2, 3, 4, 5)]
    batcher.submit(works[0])
    gate.begun.wait(10)
    for work in works[1:4]:
        batcher.submit(work)
    begun = time.monotonic()
    with pytest.raises(BusyError, match="3 requests are waiting"):
        batcher.submit(works[4])
    with pytest.raises(BusyError):
        batcher.check_room()
    assert time.monotonic() - begun < 1
    assert batcher.waiting() == (3, 9)
    assert batcher.retry_after() >= 1
    works[2].cancelled.set()  # who leaves makes room
    batcher.submit(works[4])
    batcher.stop()
    with pytest.raises(RefusedError, match="stopping"):
        batcher.submit(Work(1))
    gate.open.set()
    batcher.close()
    assert [work.future.result(10) for work in (*works[:2], *works[3:])] == [1, 2, 4, 5]
    assert works[2].future.cancelled()
    assert gate.batches == [[1], [2, 4, 5]]


def test_a_batch_is_no_larger_than_it_may_be_and_waits_no_longer_than_its_window():
    gate = Gate()
    gate.open.set()
    batcher = Batcher(gate, Limits(batch=10, window=5.0))
    works = [Work(size) for size in (4, 6, 5, 30)]
    begun = time.monotonic()
    for work in works[:3]:
        batcher.submit(work)
    assert works[1].future.result(10) == 6
    assert time.monotonic() - begun < 4  # full, so it did not wait
    batcher.submit(works[3])
    assert works[3].future.result(20) == 30
    batcher.close()
    assert gate.batches == [[4, 6], [5], [30]]


def test_an_error_is_told_to_whoever_asked_and_the_thread_goes_on():
    def broken(batch):
        raise MemoryError("no more")

    batcher = Batcher(broken, Limits(window=0))
    for _ in range(2):
        work = Work(1)
        batcher.submit(work)
        with pytest.raises(MemoryError):
            work.future.result(10)
    assert batcher.alive
    batcher.close()


def test_past_the_limit_some_are_refused_quickly_and_all_others_answered(folders):
    limits = Limits(queue=2, window=0.05)
    gate, xs = threading.Event(), [torch.randn(3, D_IN) for _ in range(24)]
    with served({"stages": folders["stages"]}, limits=limits) as client, ThreadPoolExecutor(24) as pool:
        run = client.server.batcher._run_batch
        client.server.batcher._run_batch = lambda batch: (gate.wait(20), run(batch))
        sae = client.server.saes["stages"].sae

        def post(x):
            begun = time.monotonic()
            told = client.post("/v1/activations", content=x.numpy().tobytes(), headers={"content-type": RAW})
            return told, time.monotonic() - begun

        first = pool.submit(post, xs[0])
        while client.server.batcher.waiting()[0] or not client.server._held:
            time.sleep(0.01)
        asked = [pool.submit(post, x) for x in xs[1:]]
        deadline = time.monotonic() + 15
        while sum(one.done() for one in asked) < 21 and time.monotonic() < deadline:
            time.sleep(0.01)
        refused = [one.result() for one in asked if one.done()]
        assert [answer.status_code for answer, _ in refused] == [429] * 21
        assert all(int(answer.headers["retry-after"]) >= 1 for answer, _ in refused)
        assert client.get("/health").status_code == 200
        gate.set()
        with torch.no_grad():
            for x, one in zip(xs, [first, *asked], strict=True):
                answer, _ = one.result(20)
                if answer.status_code == 200:
                    assert answer.json()["indices"] == sae.encode(x).indices.tolist()
        assert sum(one.result()[0].status_code == 200 for one in [first, *asked]) == 3
        text = client.get("/metrics").text
        assert 'expander_sae_requests_total{path="/v1/activations",status="429"} 21.0' in text
        assert 'expander_sae_encoded_tokens_total{sae="stages"} 9.0' in text
        assert client.server._held == 0


def test_bytes_that_all_requests_hold_are_bounded(folders):
    with served({"stages": folders["stages"]}, limits=Limits(held=1000)) as client:
        data = np.ones((20, D_IN), dtype=np.float32).tobytes()
        answer = client.post("/v1/activations", content=data, headers={"content-type": RAW})
        assert answer.status_code == 429
        assert client.server._held == 0
        small = client.post("/v1/activations", content=data[: 4 * D_IN], headers={"content-type": RAW})
        assert small.status_code == 200


@pytest.fixture(scope="module")
def answers(folders):
    """Activations as bytes, and what must be answered to each."""
    sae = load_sae(folders["stages"]).eval()
    found = []
    with torch.no_grad():
        for n in (1, 4, 30):
            x = torch.randn(n, D_IN)
            codes = sae.encode(x)
            found.append((x.numpy().tobytes(), [codes.indices.tolist(), codes.values.tolist()]))
    return found


def test_killed_or_told_to_stop_no_answer_is_wrong_and_the_next_start_is_as_the_first(folders, answers):
    process, port = start([folders["stages"]])
    crowd = Crowd(port, answers, clients=4)
    crowd.until(20)
    process.kill()
    process.wait(20)
    crowd.end()
    assert crowd.wrong == 0
    assert sorted(path.name for path in folders["stages"].iterdir()) == ["config.json", "sae.safetensors"]
    process, port = start([folders["stages"]], "--window-ms", "50", "--port", str(port))
    crowd = Crowd(port, answers)
    crowd.until(40)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    crowd.end()
    assert crowd.wrong == 0
    assert crowd.cut == 0  # what was sent in full and taken was answered in full
    assert "Traceback" not in process.stdout.read()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/health")


def test_others_than_this_machine_need_a_token(folders, tmp_path):
    token = tmp_path / "token"
    token.write_text("0123456789abcdef\n")
    process, port = start([f"mine={folders['stages']}"], "--host", "0.0.0.0", "--token-file", str(token))
    try:
        assert ask(port, "/v1/saes")[0] == 401
        told = json.loads(ask(port, "/v1/saes", authorization="Bearer 0123456789abcdef")[2])
        assert [one["name"] for one in told["saes"]] == ["mine"]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert "0123456789abcdef" not in process.stdout.read()
    finally:
        process.kill()


def test_a_token_is_made_and_printed_where_none_was_given(folders, monkeypatch):
    def run(asgi, listening, *, ready, **_options):
        ready()
        listening.close()
        with TestClient(asgi, base_url="http://127.0.0.1") as client:
            seen.append(client.get("/v1/saes").status_code)

    seen = []
    monkeypatch.setattr("expander_sae.web.listening.serve", run)
    for host, status in (("0.0.0.0", 401), ("127.0.0.1", 200)):
        run_with = ["serve", "--port", "0", "--host", host, str(folders["stages"])]
        said = CliRunner().invoke(app, run_with, catch_exceptions=False).output
        assert ("Bearer " in said) == (status == 401)
        assert seen.pop() == status


def test_answers_name_latents_where_there_is_a_store(folders, tmp_path):
    import sqlite3

    store = make_store(tmp_path / "latents.db", n_latents=96)
    with sqlite3.connect(store) as connection:
        connection.execute("UPDATE views SET sha256 = ?", (sae_sha256(load_sae(folders["stages"])),))
    model = make_model(tmp_path)
    both = {"stages": folders["stages"], "encoder": folders["encoder"]}
    with served(both, model=model, labels=store) as client:
        x = torch.randn(2, D_IN).tolist()
        told = client.post("/v1/activations?sae=stages", json={"activations": x}).json()
        assert set(told["labels"]) == {str(j) for row in told["indices"] for j in row}
        assert all(text for text in told["labels"].values())
        assert "labels" not in client.post("/v1/activations?sae=encoder", json={"activations": x}).json()
        texts = client.post("/v1/texts?top=2", json={"texts": TEXTS}).json()
        assert set(texts["labels"]) == {"stages"}
        named = {j for one in texts["texts"] for line in one["saes"]["stages"]["tokens"] for j, _ in line}
        assert {int(j) for j in texts["labels"]["stages"]} == named
    with (
        pytest.raises(ExpanderSaeError, match="feature store of one of"),
        served({"encoder": folders["encoder"]}, labels=store),
    ):
        pass


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nowhere"], "nowhere"),
        (["SAE", "SAE"], "NAME=FOLDER"),
        (["SAE", "--queue", "0"], "--queue"),
        (["SAE", "--window-ms", "-1"], "--window-ms"),
        (["SAE", "--token-file", "SHORT"], "at least 16"),
        (["SAE", "--inference", "omp:9"], "expected"),
        (["SAE", "--model", "nowhere"], "at nowhere"),
    ],
)
def test_what_cannot_be_served_is_said(folders, tmp_path, options, said):
    short = tmp_path / "token"
    short.write_text("short")
    named = {"SAE": str(folders["stages"]), "SHORT": str(short)}
    with pytest.raises(ExpanderSaeError, match=said):
        CliRunner().invoke(
            app, ["serve", "--port", "0", *(named.get(one, one) for one in options)], catch_exceptions=False
        )


def test_names_of_saes():
    assert list(named_folders(["a/layer-3/", "b=c"])) == ["layer-3", "b"]
