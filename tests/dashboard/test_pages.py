"""Every page's data over HTTP: whole, right, and JSON whatever the tokens are."""

import base64
import json
import sqlite3

import numpy as np
import pytest
from made_up import HOSTILE, make_store
from rooms import WRITES, put_label, server

from expander_sae.dashboard.pages import LONG
from expander_sae.latents import LatentStore

SPARSE, OTHER, DENSE = "expander-d4, encoder", "expander-d4, stages:8+auto", "dense, encoder"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "latents.db", n_latents=40)


@pytest.fixture(scope="module")
def client(store):
    with server(store) as client:
        yield client


@pytest.fixture(scope="module")
def known(store):
    with LatentStore.open(store) as known:
        yield known


def test_every_file_of_the_page_is_served_with_its_type(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    names = [part.split('"')[0] for part in page.text.split('src="')[1:]]
    assert names
    assert names[0] == "dom.js"
    assert names[-1] == "main.js"
    for name in [*names, "base.css", "parts.css", "icon.svg"]:
        found = client.get(f"/{name}")
        assert found.status_code == 200
        assert len(found.content) > 200
    assert client.get("/dom.js").headers["content-type"].startswith("text/javascript")


def test_the_store_and_its_views(client, known):
    told = client.get("/api/store").json()
    assert [view["name"] for view in told["views"]] == [SPARSE, OTHER, DENSE]
    assert told["views"][0]["same"] == [SPARSE, OTHER]
    assert told["views"][2]["degree"] is None
    assert told["meta"]["hook"] == known.meta["hook"]
    assert told["live"] == {"enabled": False, "model": None, "ready": False}
    assert "folder" not in told["views"][0]


def test_the_overview_counts_what_the_store_does(client, known):
    told = client.get("/api/overview", params={"view": DENSE}).json()
    assert told["alive"] + told["dead"] == 40
    assert sum(told["density"]["counts"]) == known.overview(DENSE).density.counts.sum()
    assert len(told["energy"]["edges"]) == len(told["energy"]["counts"]) + 1


def test_places_are_the_stores_in_little_endian(client, known):
    told = client.get("/api/places").json()
    x = np.frombuffer(base64.b64decode(told["x"]), "<i2") / 32767
    density = np.frombuffer(base64.b64decode(told["density"]), "<f4")
    assert told["n"] == 40
    np.testing.assert_allclose(x, known.places().x, atol=1e-4)
    np.testing.assert_allclose(density, known.places().density, rtol=1e-6)


def test_search_finds_what_the_store_finds_in_pages(client, known):
    first = client.get("/api/search", params={"q": "river", "limit": 3}).json()
    second = client.get("/api/search", params={"q": "river", "limit": 3, "offset": 3}).json()
    found = [item["latent"] for item in first["items"] + second["items"]]
    assert found == [one.index for one in known.search("river", limit=6)]
    assert first["more"]
    exact = client.get("/api/search", params={"q": " stone", "in": "token"}).json()
    assert [item["latent"] for item in exact["items"]] == [one.index for one in known.search(token="stone", limit=50)]
    assert exact["items"]


def test_search_by_density_order_and_the_dead(client, known):
    dead = client.get("/api/search", params={"alive": "dead", "order": "latent"}).json()["items"]
    assert [item["latent"] for item in dead] == [j for j in range(40) if j % 4 == 3]
    specific = client.get("/api/search", params={"order": "specific"}).json()["items"]
    values = [item["specific"] for item in specific]
    assert values == sorted(values, reverse=True)
    between = client.get("/api/search", params={"lo": "0.1", "hi": "0.15"}).json()["items"]
    assert between
    assert all(0.1 <= item["density"] <= 0.15 for item in between)


def test_one_latent_has_everything(client, known):
    told, latent = client.get("/api/latent/5").json(), known.latent(5)
    assert told["rows"] == latent.rows.tolist()
    assert sum(told["histogram"]) == latent.firings
    assert [len(told["contexts"][part]) for part in ("top", "1", "2", "3", "4")] == [8, 3, 3, 3, 3]
    context = told["contexts"]["top"][0]
    assert len(context["tokens"]) == len(context["values"])
    assert context["values"][context["peak"]] == pytest.approx(latent.contexts[0].activation, rel=1e-3)
    assert [one["latent"] for one in told["nearest"]] == [one.latent for one in latent.nearest]
    assert all(one["rows"] for one in told["row_neighbours"])
    assert [one["view"] for one in told["readings"]] == [SPARSE, OTHER]
    assert {one["view"] for one in told["matches"]} == {OTHER, DENSE}
    assert told["label"] == {"text": "", "note": "", "star": False, "version": 0}


def test_dead_and_dense_latents_are_told_too(client):
    dead = client.get("/api/latent/3").json()
    assert dead["dead"]
    assert dead["max"] is None
    assert dead["contexts"]["top"] == []
    dense = client.get("/api/latent/0", params={"view": DENSE}).json()
    assert dense["rows"] == []
    assert dense["row_neighbours"] == []


def test_comparing_two_dictionaries(client, known):
    told = client.get("/api/compare", params={"view": SPARSE, "other": DENSE, "limit": 5}).json()
    pairs = known.compare(SPARSE, DENSE)
    assert told["total"] == len(pairs) == sum(told["counts"])
    assert [item["cosine"] for item in told["items"]] == [one.cosine for one in reversed(pairs[-5:])]
    assert told["items"][0]["other"]["latent"] == pairs[-1].other
    alike = client.get("/api/compare", params={"view": SPARSE, "other": DENSE, "order": "alike"}).json()
    assert alike["items"][0]["cosine"] == pairs[0].cosine


def test_hostile_tokens_come_as_text_and_cut(client):
    texts = []
    for j in range(0, 40, 4):
        answer = client.get(f"/api/latent/{j}")
        assert answer.content.isascii()
        for context in answer.json()["contexts"]["top"]:
            texts += context["tokens"]
    assert max(map(len, texts)) <= LONG
    assert any("10,000 characters" in text for text in texts)
    assert HOSTILE[0] in texts
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/latent/40", 400, "a latent from 0 to 39"),
        ("/api/latent/-1", 404, "no such page"),
        ("/api/latent/99999999999999999999999", 400, "a latent from 0 to 39"),
        ("/api/latent/1?view=nothing", 400, "a view out of"),
        ("/api/search?order=sideways", 400, "order as one of"),
        ("/api/search?lo=nan", 400, "a density from 0 to 1"),
        ("/api/search?limit=100000", 400, "limit as a whole number"),
        ("/api/search?offset=-1", 400, "offset as a whole number"),
        ("/api/summaries?latents=1,x", 400, "latents as a whole number"),
        ("/api/compare?other=nothing", 400, "a view out of"),
        ("/api/compare?other=expander-d4%2C%20encoder", 400, "two views"),
        ("/api/nothing", 404, "no such page"),
        ("/../pyproject.toml", 404, "no such page"),
        ("/api/live/fire", 405, "no such page"),
    ],
)
def test_what_cannot_be_answered_is_said(client, path, status, said):
    answer = client.get(path)
    assert answer.status_code == status
    assert said in answer.json()["error"]


def test_searches_of_any_signs_are_no_sql(client):
    for q in ('"', "'; DROP TABLE latents; --", "NEAR(", "a* OR b", "\x00", "%", "(" * 50, "\u202e", "*"):
        answer = client.get("/api/search", params={"q": q})
        assert answer.status_code == 200, answer.text
    assert client.get("/api/latent/0").status_code == 200


def test_labels_are_found_counted_and_kept(client):
    label = put_label(client, 5, {"text": "Rivers", "note": "of Europe", "star": True, "seen": 0}).json()["label"]
    assert label["version"] == 1
    assert client.get("/api/latent/5").json()["label"]["text"] == "Rivers"
    # Of the SAE, not of one reading of it.
    assert client.get("/api/latent/5", params={"view": OTHER}).json()["label"]["star"]
    assert client.get("/api/latent/5", params={"view": DENSE}).json()["label"]["version"] == 0
    found = client.get("/api/search", params={"q": "rivers europe", "in": "label"}).json()
    assert [(item["latent"], item["label"]) for item in found["items"]] == [(5, "Rivers")]
    assert found["total"] == 1
    assert client.get("/api/search", params={"labelled": "1", "q": "zzzz"}).json()["items"] == []
    (item,) = client.get("/api/labels").json()["items"]
    assert (item["latent"], item["view"], item["text"]) == (5, SPARSE, "Rivers")


def test_a_second_writer_is_told_what_the_first_wrote(client):
    first = put_label(client, 6, {"text": "one", "note": "", "star": False, "seen": 0})
    second = put_label(client, 6, {"text": "two", "note": "", "star": False, "seen": 0})
    assert (first.status_code, second.status_code) == (200, 409)
    assert second.json()["current"] == {"text": "one", "note": "", "star": False, "version": 1}
    again = put_label(client, 6, {"text": "two", "note": "", "star": False, "seen": 1})
    assert again.json()["label"]["version"] == 2


def test_labels_go_out_and_come_in(client, tmp_path, store):
    put_label(client, 8, {"text": "kept \u202e\x07", "note": "", "star": False, "seen": 0})
    told = client.get("/api/labels/export").json()
    fresh = tmp_path / "other.db"
    fresh.write_bytes(store.read_bytes())
    with server(fresh) as other:
        assert other.get("/api/labels").json()["items"] == []
        taken = other.post("/api/labels/import", json=told, headers=WRITES).json()
        assert taken["taken"] == len(told["labels"])
        assert other.get("/api/latent/8").json()["label"]["text"] == "kept \u202e\x07"
        bad = other.post("/api/labels/import", json={"labels": 3}, headers=WRITES)
        assert bad.status_code == 400


@pytest.mark.parametrize(
    "told",
    [
        {"text": 3, "note": "", "star": False, "seen": 0},
        {"text": "x" * 3000, "note": "", "star": False, "seen": 0},
        {"text": "", "note": "", "star": "yes", "seen": 0},
        {"text": "", "note": "", "star": False, "seen": -1},
        {"text": "", "note": "", "star": False},
        [],
        None,
    ],
)
def test_a_label_that_is_none_is_refused(client, told):
    answer = put_label(client, 9, told)
    assert answer.status_code == 400
    assert "expected" in answer.json()["error"]


def test_the_store_itself_is_never_written(client, store):
    before = store.read_bytes()
    put_label(client, 12, {"text": "x", "note": "", "star": True, "seen": 0})
    client.get("/api/search", params={"q": "river"})
    assert store.read_bytes() == before
    assert sqlite3.connect(client.labels.path).execute("SELECT count(*) FROM labels").fetchone()[0] > 0


def test_answers_hold_no_nan(client):
    for path in ("store", "overview", "search", "latent/3", "compare?other=dense%2C%20encoder"):
        json.loads(client.get(f"/api/{path}").text, parse_constant=pytest.fail)
