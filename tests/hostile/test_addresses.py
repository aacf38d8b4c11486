"""What a chat endpoint's address can be, and what an endpoint can do: nothing but http(s), no key elsewhere, an end."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from expander_sae.evaluation import endpoint
from expander_sae.evaluation.chat import ChatJudge
from expander_sae.records import ExpanderSaeError

KEY = "sk-do-not-tell"


class Words:
    def decode(self, ids):
        return "".join(f" w{one}" for one in ids)


def judge(url, **given):
    ids = torch.arange(8)
    return ChatJudge(ids, ids * 0, Words(), url=url, model="m", api_key=KEY, **given)


def ask(url, **given):
    return judge(url, **given).scores(torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))


@contextmanager
def server(reply):
    """URL of a server that does `reply(handler)` to every request of either kind, and the headers it got."""
    got = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            got.append(dict(self.headers))
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            reply(self)

        do_POST = do_GET

        def log_message(self, format, *args):
            pass

    it = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=it.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{it.server_port}/v1", got
    finally:
        it.shutdown()
        it.server_close()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_redirect_is_followed_and_the_key_stays(code, host):
    with server(deep) as (elsewhere, got):
        there = elsewhere.replace("127.0.0.1", host) + "/chat/completions"

        def redirect(handler):
            handler.send_response(code)
            handler.send_header("Location", there)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

        with server(redirect) as (url, _), pytest.raises(ExpanderSaeError, match=f"a redirect to {there}") as caught:
            ask(url)
    assert got == []
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://host/v1", "data:text/plain,{}", "http://", "https:///v1", "host/v1", "",
        "//host/v1", "http://host/v1 x", "http://ho\nst/v1", "http://host:99999/v1", "http://[::1/v1", "http://höst/v1",
    ],
)  # fmt: skip
def test_other_addresses_are_refused_before_anything_is_asked(url):
    with pytest.raises(ExpanderSaeError, match=r"http://HOST/v1 or https://HOST/v1"):
        judge(url)


def test_credentials_in_the_address_are_refused_and_not_repeated():
    with pytest.raises(ExpanderSaeError, match="no credentials") as caught:
        judge("http://me:secret@host/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["a\nb", "a b ", "ä", "a\x00"])
def test_a_key_that_is_no_header_is_refused_and_not_repeated(key):
    with pytest.raises(ExpanderSaeError, match="printable ASCII") as caught:
        ChatJudge(torch.arange(2), torch.arange(2), Words(), url="http://host/v1", model="m", api_key=key)
    assert key not in str(caught.value)


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x" * 65536)
    except OSError:
        return


def slow(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.02)
    except OSError:
        return


def deep(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"[" * 100_000)


def cut_off(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{}")


def no_http(handler):
    handler.wfile.write(b"hello\r\n\r\n")


def not_text(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"\xff\xfe\xff")


def another_shape(handler):
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(json.dumps({"choices": [{"message": {"content": 5}}]}).encode())


@pytest.mark.parametrize("reply", [endless, slow, deep, cut_off, no_http, not_text, another_shape])
def test_an_endpoint_that_is_none_is_one_error_in_time(reply, monkeypatch):
    monkeypatch.setattr(endpoint, "REPLY_BYTES", 1 << 20)
    started = time.monotonic()
    with (
        server(reply) as (url, _),
        pytest.raises(ExpanderSaeError, match="expected an answer in the OpenAI chat protocol"),
    ):
        ask(url, timeout=0.5)
    assert time.monotonic() - started < 5
