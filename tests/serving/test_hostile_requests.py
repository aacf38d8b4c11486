"""What a request can be that should not be one: a clear error with the right status; the next is answered."""

import io
import socket
import struct
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import save
from served import TEXTS, ask, encoded, make_model, make_saes, same_codes, served, start
from tiny_models import D_IN

from expander_sae.serving.limits import Limits
from expander_sae.serving.readers import Vectors
from expander_sae.web.guard import Access

LIMITS = Limits(tokens=64, batch=64, texts=4, body=200_000, reading=1.0)
GOOD = {"activations": torch.ones(2, D_IN).tolist()}
RAW, NPY, SAFE = ("application/octet-stream", "application/x-npy", "application/x-safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def client(folder):
    saes = make_saes(folder)
    with served({"stages": saes["stages"]}, model=make_model(folder), limits=LIMITS) as client:
        yield client


def npy(array, **header):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def said_npy(shape, kind="<f4", behind=b""):
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + behind


def row(value):
    return f'{{"activations": [[{value}{", 0" * (D_IN - 1)}]]}}'.encode()


CASES = {
    "deep": ("application/json", b"[" * 100_000, 400),
    "deep in place": ("application/json", b'{"activations": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", 400),
    "NaN": ("application/json", row("NaN"), 400),
    "infinite": ("application/json", row("-Infinity"), 400),
    "huge": ("application/json", row("1e39"), 422),
    "huge whole": ("application/json", row("1" + "0" * 400), 422),
    "digits": ("application/json", row("1" * 100_000), 400),
    "text in it": ("application/json", row('"1.5"'), 422),
    "true": ("application/json", row("true"), 422),
    "null": ("application/json", row("null"), 422),
    "list in it": ("application/json", row("[1]"), 422),
    "not UTF-8": ("application/json", b'{"activations": "\xff"}', 400),
    "UTF-16": ("application/json", '{"activations": []}'.encode("utf-16"), 400),
    "empty": ("application/json", b"", 400),
    "no object": ("application/json", b"[]", 422),
    "another field": ("application/json", b'{"activation": []}', 422),
    "a key twice": ("application/json", b'{"activations": [], "activations": []}', 400),
    "none": ("application/json", b'{"activations": []}', 422),
    "width": ("application/json", b'{"activations": [[1, 2, 3]]}', 422),
    "ragged": ("application/json", row("1")[:-3] + b"], [1]]}", 422),
    "too many": ("application/json", b'{"activations": [' + b"[]," * 64 + b"[]]}", 413),
    "raw, odd": (RAW, b"123", 422),
    "raw, NaN": (RAW, np.full(D_IN, np.nan, dtype=np.float32).tobytes(), 422),
    "raw, none": (RAW, b"", 422),
    "raw, too many": (RAW, bytes(4 * D_IN * 65), 413),
    "npy, none": (NPY, b"\x93NUMPY", 400),
    "npy, pickled": (NPY, npy(np.array([{}], dtype=object)), 422),
    "npy, absurd": (NPY, said_npy(f"(1000000000000, {D_IN})"), 400),
    "npy, negative": (NPY, said_npy(f"(-1, {D_IN})"), 400),
    "npy, code": (NPY, said_npy("(__import__('os').getpid(), 2)"), 400),
    "npy, cut off": (NPY, npy(np.ones((3, D_IN), dtype=np.float32))[:-1], 400),
    "npy, integers": (NPY, npy(np.ones((3, D_IN), dtype=np.int32)), 422),
    "npy, one axis": (NPY, npy(np.ones(D_IN, dtype=np.float32)), 422),
    "npy, infinite as float32": (NPY, npy(np.full((1, D_IN), 1e300)), 422),
    "safetensors, none": (SAFE, b"\xff" * 40, 400),
    "safetensors, absurd": (SAFE, struct.pack("<Q", 1 << 60) + b"{}", 400),
    "safetensors, named otherwise": (SAFE, save({"x": torch.ones(2, D_IN)}), 422),
    "safetensors, two": (SAFE, save({"activations": torch.ones(2, D_IN), "x": torch.ones(1)}), 422),
    "safetensors, integers": (SAFE, save({"activations": torch.ones(2, D_IN, dtype=torch.int64)}), 422),
    "safetensors, three axes": (SAFE, save({"activations": torch.ones(1, 2, D_IN)}), 422),
    "another kind": ("text/plain", b"1 2 3", 415),
    "no kind": ("", b"1 2 3", 415),
    "too large": (RAW, bytes(200_001), 413),
    "beyond float32 in the sums": (RAW, np.full(D_IN, 3e38, dtype=np.float32).tobytes(), 422),
}


@pytest.mark.parametrize("name", CASES)
def test_activations_that_are_none(client, name):
    kind, data, status = CASES[name]
    answer = client.post("/v1/activations", content=data, headers={"content-type": kind})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert "expected" in answer.json()["error"] or "beyond the numbers" in answer.json()["error"]
    assert len(answer.text) < 700
    assert same_codes(
        client.post("/v1/activations", json=GOOD), encoded(client.server.saes["stages"], torch.ones(2, D_IN))
    )


TEXT_CASES = {
    "no list": ({"texts": "a"}, 422),
    "none": ({"texts": []}, 422),
    "a number": ({"texts": ["a", 1]}, 422),
    "empty": ({"texts": ["a", ""]}, 422),
    "many": ({"texts": ["a"] * 5}, 413),
    "long": ({"texts": ["the old river " * 40]}, 413),
    "long together": ({"texts": [TEXTS[0] * 3] * 4}, 413),
    "longer than any": ({"texts": ["a" * 50_000]}, 413),
}


@pytest.mark.parametrize("name", TEXT_CASES)
def test_texts_that_are_none(client, name):
    told, status = TEXT_CASES[name]
    answer = client.post("/v1/texts", json=told)
    assert answer.status_code == status, answer.text
    assert "expected" in answer.json()["error"]
    assert client.post("/v1/texts", json={"texts": ["a stone"]}).status_code == 200


def test_half_a_surrogate_pair_and_texts_of_nothing_but_special_tokens(client):
    half = client.post("/v1/texts", content=b'{"texts": ["\\ud800"]}', headers={"content-type": "application/json"})
    assert half.status_code == 422
    special = client.post("/v1/texts", json={"texts": ["<|end|>", "\x00", "\x1b[31m\u202e"]})
    assert special.status_code == 200
    assert special.json()["texts"][0]["saes"]["stages"]["top"] == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/activations?sae=other", 404),
        ("/v1/activations?sae=stages&sae=stages", 422),
        ("/v1/activations?top=0", 422),
        ("/v1/activations?top=-1", 422),
        ("/v1/activations?top=99999999999", 422),
        ("/v1/texts?sae=other", 404),
        ("/v1/nothing", 404),
        ("/v1/activations?" + "x" * 9000, 414),
    ],
)
def test_addresses_that_are_none(client, path, status):
    answer = client.post(path, json={"texts": ["a"]} if "texts" in path else GOOD)
    assert answer.status_code == status
    assert "error" in answer.json()
    assert client.get("/v1/activations").status_code == 405


def test_a_bad_request_in_a_batch_fails_alone(client):
    sae = client.server.saes["stages"]
    x = torch.randn(3, D_IN)
    works = [Vectors(sae, x), Vectors(sae, torch.full((1, D_IN), 3e38)), Vectors(sae, 2 * x)]
    client.server._reader.run(works)
    assert "beyond" in str(works[1].future.exception())
    for work, scale in ((works[0], 1), (works[2], 2)):
        assert torch.equal(work.future.result().values, encoded(sae, scale * x).values)


def test_who_may_ask(client, folder):
    assert client.get("/v1/saes", headers={"host": "evil.example"}).status_code == 421
    for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert client.post("/v1/activations", json=GOOD, headers=headers).status_code == 403
    token = "a" * 15 + "\u00e9b"
    with served({"stages": folder / "stages"}, access=Access(token)) as guarded:
        for given in (None, "", "Bearer", "Bearer wrong", f"Basic {token}", "Bearer " + "a" * 16):
            headers = {} if given is None else {"authorization": given.encode()}
            answer = guarded.get("/metrics", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert token not in answer.text
        assert guarded.get("/health").status_code == 200
    with served({"stages": folder / "stages"}, access=Access("t" * 20)) as guarded:
        headers = {"authorization": "Bearer " + "t" * 20}
        assert guarded.post("/v1/activations", json=GOOD, headers=headers).status_code == 200
        assert "t" * 20 not in repr(Access("t" * 20))


@pytest.fixture(scope="module")
def port(folder, client):
    process, port = start([folder / "stages"], "--max-mb", "1")
    yield port
    process.kill()
    process.wait()


def test_slow_clients_are_dropped_and_hold_up_nobody(port, client):
    head = f"POST /v1/activations HTTP/1.1\r\nhost: localhost:{port}\r\ncontent-type: {RAW}\r\n".encode()
    begun = time.monotonic()
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
    for number, one in enumerate(slow):
        one.settimeout(30)
        one.sendall(b"POST /v1/act" if number % 2 else head + b"content-length: 128\r\n\r\n" + b"abc")

    for _ in range(3):
        assert ask(port, "/v1/activations", torch.ones(1, D_IN).numpy().tobytes(), kind=RAW)[0] == 200
    told = [one.recv(4096) for one in slow]
    assert 5 < time.monotonic() - begun < 25
    assert all(answer == b"" for answer in told[1::2])  # who never said what he wants
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in told[::2])


def test_clients_that_leave_make_room(port):

    data = torch.ones(4, D_IN).numpy().tobytes()
    head = f"POST /v1/activations HTTP/1.1\r\nhost: localhost\r\ncontent-type: {RAW}\r\n"
    head += f"content-length: {len(data)}\r\n\r\n"

    def leave():
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(head.encode() + data)

    threads = [threading.Thread(target=leave) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ask(port, "/v1/activations", data, kind=RAW)[0] == 200
    text = ask(port, "/metrics")[2].decode()
    assert "expander_sae_queue_requests 0.0" in text


def test_bytes_that_are_no_http(port):

    for junk in (
        b"\x16\x03\x01\x02\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n" * 1000,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n",
    ):
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.settimeout(20)
            one.sendall(junk + b"\r\n\r\n")
            one.shutdown(socket.SHUT_WR)
            answer = one.recv(200)
            assert b" 200 " not in answer
    assert ask(port, "/health")[0] == 200
