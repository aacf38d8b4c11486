"""Harvests, SAEs and passes at an S3-compatible server that fails, delays and cuts answers."""

import http.client
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from shop import call, shop_in

from expander_sae.activations import ActivationStore, ActivationStream
from expander_sae.records import ExpanderSaeError, remote
from expander_sae.records.mirror import mirrored, published, withdraw
from expander_sae.records.remote import RemoteFolder, is_remote
from expander_sae.saes import ExpanderSae, load_sae

moto = pytest.importorskip("moto.server")
pytest.importorskip("s3fs")


class Troubled(BaseHTTPRequestHandler):
    """Hands requests on, and of every `often` answers spoils one: an error, half an answer, or silence."""

    protocol_version = "HTTP/1.1"
    target, often, seen, ways = ("127.0.0.1", 0), 0, 0, ("fail", "cut", "late")
    lost_bodies = 0

    def log_message(self, *_):
        pass

    def _any(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = type(self)
        kind.seen += 1
        way = kind.ways[kind.seen // kind.often % len(kind.ways)] if kind.often and kind.seen % kind.often == 0 else ""
        if way == "fail":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if way == "late":
            time.sleep(0.3)
        there = http.client.HTTPConnection(*self.target, timeout=20)
        there.request(self.command, self.path, body, dict(self.headers))
        answer = there.getresponse()
        data = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if way == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _any


@pytest.fixture(scope="module")
def server():
    """A bucket, behind the proxy; the proxy's class, to be told what to spoil."""
    real = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    real.start()
    Troubled.target = real.get_host_and_port()
    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Troubled)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem(config_kwargs={"retries": {"max_attempts": 1}}).mkdir("bucket")
        yield Troubled
    proxy.shutdown()
    real.stop()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EXPANDER_SAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EXPANDER_SAE_PATIENCE", "20")
    monkeypatch.setattr(remote, "_intact", set())
    return tmp_path / "cache"


@pytest.fixture
def troubled(server):
    server.seen, server.often = 0, 4
    yield server
    server.often = 0


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_which_places_are_urls():
    for place in ("s3://b/x", "memory://x", "hf://datasets/a/b", Path("s3://b/x"), "gcs://b"):
        assert is_remote(place), place
    for place in ("x", "./s3/x", "/a/b", "C:/x", "C:\\x", Path("/tmp/x"), "a:b", "s3:"):
        assert not is_remote(place), place
    with pytest.raises(ExpanderSaeError, match="expected a URL that fsspec can open; got nothing"):
        RemoteFolder("nothing://x")


def test_tensors_go_before_what_names_them_and_what_is_withdrawn_is_gone(cache, monkeypatch):
    sent, upload = [], RemoteFolder.upload
    monkeypatch.setattr(RemoteFolder, "upload", lambda self, path, name: (sent.append(name), upload(self, path, name)))
    with mirrored("memory://mirror") as folder:
        for name in ("a.json", "b.safetensors", "old.pt"):
            (folder / name).write_bytes(b"x")
        published(folder / "old.pt")
        withdraw(folder / "old.pt")
    assert sent == ["old.pt", "b.safetensors", "a.json"]
    assert set(RemoteFolder("memory://mirror").sizes()) == {"a.json", "b.safetensors"}
    with mirrored("memory://mirror") as again:  # elsewhere, what is there is fetched
        assert (again / "b.safetensors").read_bytes() == b"x"


def test_a_harvest_through_a_bad_connection_is_the_same_bytes(shop, cache, troubled, tmp_path):
    call([*shop.arguments("harvest", "s3://bucket/acts"), "--quiet"])
    troubled.often = 0
    call([*shop.arguments("harvest", tmp_path / "acts"), "--quiet"])
    wanted = {name: data for name, data in files_of(tmp_path / "acts").items() if not name.endswith(".lock")}
    there = RemoteFolder("s3://bucket/acts")
    assert set(there.sizes()) == set(wanted)
    troubled.often = 3
    assert all(there.read(name) == data for name, data in wanted.items())
    here, far = ActivationStore.open(tmp_path / "acts"), ActivationStore.open("s3://bucket/acts")
    for one, two in zip(here.blocks("train"), far.blocks("train"), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(here.tokens("heldout").input_ids, far.tokens("heldout").input_ids)
    far.verify()


def test_a_pass_at_a_url_is_that_of_a_folder_and_evaluate_reads_it(shop, cache, troubled, tmp_path):
    there = RemoteFolder("s3://bucket/pass-acts")
    for path in (shop.folder / "acts").iterdir():
        there.upload(path, path.name)
    saes = RemoteFolder("s3://bucket/saes")
    call([*shop.arguments("train", "s3://bucket/saes"), "--quiet"])
    call([*shop.arguments("train", tmp_path / "saes"), "--quiet"])
    assert saes.read("expander-d4/sae.safetensors") == (tmp_path / "saes/expander-d4/sae.safetensors").read_bytes()
    assert "checkpoint.pt" not in saes.sizes()
    told = call(["eval", str(there), f"{saes}/expander-d4", "--no-ce", "--json", str(tmp_path / "r.json")])
    assert "expander-d4" in told


def test_an_interrupted_pass_goes_on_elsewhere(shop, cache, server, tmp_path, monkeypatch):
    arguments = [*shop.arguments("train", "s3://bucket/parts", 3000), "--quiet"]
    following, done = ActivationStream.__next__, []

    def interrupted(self):
        done.append(1)
        if len(done) == 12:
            raise KeyboardInterrupt
        return following(self)

    monkeypatch.setattr(ActivationStream, "__next__", interrupted)
    with pytest.raises((KeyboardInterrupt, AssertionError, SystemExit)):
        call(arguments)
    assert "checkpoint.pt" in RemoteFolder("s3://bucket/parts").sizes()
    monkeypatch.setenv("EXPANDER_SAE_CACHE", str(tmp_path / "another machine"))
    call(arguments)
    assert len(done) < 12 + 30
    call([*shop.arguments("train", tmp_path / "whole", 3000), "--quiet"])
    mine = RemoteFolder("s3://bucket/parts/expander-d4").read("sae.safetensors")
    assert mine == (tmp_path / "whole/expander-d4/sae.safetensors").read_bytes()


def test_an_sae_is_saved_and_read_and_a_partial_upload_never_looks_finished(cache, troubled, monkeypatch):
    sae = ExpanderSae(d_in=32, n_latents=64, degree=4, k=4)
    sae.save("s3://bucket/one")
    sae.save(cache / "here")
    assert torch.equal(load_sae("s3://bucket/one").columns.raw, load_sae(cache / "here").columns.raw)
    troubled.often = 0
    upload = RemoteFolder.upload

    def killed(self, file, name):
        if name == "config.json":
            raise KeyboardInterrupt
        upload(self, file, name)

    monkeypatch.setattr(RemoteFolder, "upload", killed)
    with pytest.raises(KeyboardInterrupt):
        sae.save("s3://bucket/half")
    monkeypatch.undo()
    monkeypatch.setenv("EXPANDER_SAE_CACHE", str(cache))
    with pytest.raises(ExpanderSaeError, match=r"expected to read s3://bucket/half/config.json; got FileNotFoundError"):
        load_sae("s3://bucket/half")


def test_the_end_of_patience_is_one_error(cache, troubled, monkeypatch):
    monkeypatch.setenv("EXPANDER_SAE_PATIENCE", "1.5")
    troubled.often, before = 1, troubled.ways
    troubled.ways = ("fail",)
    try:
        with pytest.raises(ExpanderSaeError, match=r"expected to read s3://bucket/one/config.json; got .* times in"):
            load_sae("s3://bucket/one")
    finally:
        troubled.ways = before


def test_the_cache_is_bounded_and_what_is_damaged_in_it_is_fetched_again(cache, monkeypatch):
    there, sums = RemoteFolder("memory://cached"), {}
    for number in range(5):
        content = bytes([number]) * 1000
        there.write(f"{number}", content)
        sums[number] = remote.hashlib.sha256(content).hexdigest()
    monkeypatch.setenv("EXPANDER_SAE_CACHE_GB", "0.000003")
    monkeypatch.setattr(remote, "_YOUNG", -1.0)
    for number in range(5):
        path = there.cached(str(number), sums[number])
        os.utime(path, (number + 1, number + 1))
    assert sorted(path.name for path in path.parent.iterdir()) == sorted(sums[number] for number in (2, 3, 4))
    path.write_bytes(b"\xff" * 1000)
    remote._intact.clear()  # as another process
    assert there.cached("4", sums[4]).read_bytes() == bytes([4]) * 1000
    monkeypatch.setenv("EXPANDER_SAE_PATIENCE", "0")
    with pytest.raises(ExpanderSaeError, match="expected to read memory://cached/0; got OSError: a file of sha256"):
        there.cached("0", "0" * 64)
    with pytest.raises(ExpanderSaeError, match="below memory://cached"):
        there.read("../secret")
