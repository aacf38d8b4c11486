"""The verb: a port, a token where others can reach it, a quick start, an end in good order, and the pages as files."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from made_up import HOSTILE, make_store
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.dashboard.export import SHARD, export_site
from expander_sae.dashboard.opening import PORT, address_of
from expander_sae.latents import LabelFile, LatentStore
from expander_sae.records import ExpanderSaeError
from expander_sae.web.guard import Access
from expander_sae.web.listening import listen


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "latents.db", n_latents=40)


def start(store, *options):
    run = [sys.executable, "-m", "expander_sae.cli.main", "browse", str(store), "--no-open", "--port", "0", *options]
    env = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    return process, re.search(r"http://\S+", process.stdout.readline())[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_end(store, number):
    process, address = start(store)
    with urllib.request.urlopen(address + "api/store", timeout=20) as answer:
        assert json.load(answer)["title"] == "latents"
        assert "server" not in {name.lower() for name in answer.headers}
    process.send_signal(number)
    assert process.wait(20) == 0
    assert "Traceback" not in process.stdout.read()


def test_another_address_asks_for_the_printed_token(store):
    process, address = start(store, "--host", "0.0.0.0")
    try:
        base, token = address.split("?token=")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(base + "api/store", timeout=20)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        assert b"<title>" in opener.open(address, timeout=20).read()
        assert json.load(opener.open(base + "api/store", timeout=20))["title"] == "latents"
        assert len(token) >= 32
    finally:
        process.kill()
        process.wait()


def test_looking_needs_no_torch(store):
    code = (
        "import sys\nfrom pathlib import Path\nfrom expander_sae.dashboard.current import CurrentStore\n"
        "from expander_sae.dashboard.live import Live\nfrom expander_sae.web.guard import Access\n"
        "from expander_sae.dashboard.server import make_app\nfrom expander_sae.latents import LabelFile\n"
        f"path = Path({str(store)!r})\nmake_app(CurrentStore(path), LabelFile.beside(path), Live('m'), Access())\n"
        "print({'torch', 'transformers', 'matplotlib'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert shown.strip() == "set()"


def test_a_taken_port_is_one_error_and_the_usual_one_gives_way():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ExpanderSaeError, match="another --port"):
            listen("127.0.0.1", taken.getsockname()[1], usual=PORT)
    with pytest.raises(ExpanderSaeError, match="from 0 to 65535"):
        listen("127.0.0.1", 99999, usual=PORT)
    with pytest.raises(ExpanderSaeError, match="--host"):
        listen("203.0.113.1", 0, usual=PORT)  # of nobody: not an address of this machine
    with listen("127.0.0.1", None, usual=PORT) as first, listen("127.0.0.1", None, usual=PORT) as second:
        assert first.getsockname() != second.getsockname()


def test_the_printed_address_can_be_opened():
    assert address_of("::1", 80, Access()) == "http://[::1]:80/"
    assert address_of("0.0.0.0", 80, Access("t")) == "http://localhost:80/?token=t"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nothing.db"], "no file"),
        (["STORE", "--sae", "x"], "--model with --sae"),
        (["STORE", "--port", "-1"], "--port"),
    ],
)
def test_what_cannot_be_served_is_said(store, options, said):
    options = [str(store) if option == "STORE" else option for option in options]
    with pytest.raises(ExpanderSaeError, match=said):
        CliRunner().invoke(app, ["browse", "--no-open", *options], catch_exceptions=False)


def frozen(path):
    """The data of a script of a static site, and its name."""
    found = re.fullmatch(r'app\.frozen\(("[^"]+"),(.*)\);\n', path.read_text(encoding="ascii"))
    return json.loads(found[1]), json.loads(found[2])


def test_the_pages_as_files_hold_what_the_store_says(store, tmp_path):
    site = tmp_path / "site"
    with LabelFile.beside(store) as labels, LatentStore.open(store) as known:
        labels.put(known.views[0].sha256, 5, text="Rivers", seen=0)
        wrote = export_site(store, site, labels=labels)
        files = [path for path in site.rglob("*") if path.is_file()]
        assert (wrote.files, wrote.bytes) == (len(files), sum(path.stat().st_size for path in files))
        page = (site / "index.html").read_text()
        names = [part.split('"')[0] for part in page.split('src="')[1:]]
        assert "api.js" not in names
        assert all((site / name).is_file() for name in names)
        assert "default-src 'none'" in page
        for path in (site / "data").rglob("*.js"):
            assert frozen(path)[0] == path.relative_to(site / "data").with_suffix("").as_posix()
        assert frozen(site / "data/store.js")[1]["static"]
        shard = frozen(site / f"data/1/latents-{33 // SHARD}.js")[1]
        told, latent = shard["latents"][33 % SHARD], known.latent(33, view=1)
        context = told["contexts"]["top"][0]
        words = [shard["words"][number] for number in context["tokens"]]
        short = [(one, two) for one, two in zip(words, latent.contexts[0].tokens, strict=True) if len(two) <= 200]
        assert short
        assert all(one == two for one, two in short)
        assert frozen(site / "data/0/lines.js")[1][5]["label"] == "Rivers"
        assert any(HOSTILE[0] in line["tokens"] for line in frozen(site / "data/0/lines.js")[1])
        assert len(frozen(site / "data/0/compare-2.js")[1][2]) == 40


def test_an_export_replaces_nothing_unasked(store, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "mine.txt").write_text("mine")
    with pytest.raises(ExpanderSaeError, match="--overwrite"):
        CliRunner().invoke(app, ["browse", str(store), "--export", str(site)], catch_exceptions=False)
    found = CliRunner().invoke(
        app, ["browse", str(store), "--export", str(site), "--overwrite"], catch_exceptions=False
    )
    assert found.exit_code == 0
    assert "index.html" in found.output
    assert (site / "mine.txt").read_text() == "mine"
