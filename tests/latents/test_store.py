"""A store read back: what was written is what is shown; what cannot be read is one clear error."""

import itertools
import json
import sqlite3
import subprocess
import sys
import threading

import numpy as np
import pytest
from made_up import BLOCKS, HOSTILE, LENGTH, fires, make_store

from expander_sae.latents import LatentStore, StoreChanged
from expander_sae.records import ExpanderSaeError

N = 24


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("made up") / "latents 50%.db", n_latents=N)


@pytest.fixture
def store(path):
    with LatentStore.open(path) as opened:
        yield opened


def test_views_by_name_and_number(store):
    assert [view.name for view in store.views] == [
        "expander-d4, encoder",
        "expander-d4, stages:8+auto",
        "dense, encoder",
    ]
    assert store.view() is store.view(0) is store.view("expander-d4, encoder")
    assert store.view(2).degree is None
    assert store.view(0).sha256 == store.view(1).sha256 != store.view(2).sha256
    assert store.meta["tokens"] == BLOCKS * LENGTH == store.view().tokens
    with pytest.raises(ExpanderSaeError, match=r"expected a view out of 0 .*got 'encoder'"):
        store.view("encoder")


def test_a_latent_is_whole_and_json(store):
    latent = store.latent(4)
    assert latent.density == latent.firings / (BLOCKS * LENGTH) > 0
    assert latent.histogram.sum() == latent.firings
    assert latent.edges[-1] == 4
    assert [len(latent.promoted), len(latent.suppressed), len(latent.top_tokens)] == [6, 6, 6]
    assert latent.promoted[0].value >= latent.promoted[-1].value >= 0 >= latent.suppressed[-1].value
    assert latent.suppressed[0].value <= latent.suppressed[-1].value
    assert [near.latent for near in latent.nearest] == [5, 6, 7, 8, 9]
    assert latent.rows.shape == latent.weights.shape == (4,)
    assert len(latent.contexts) == 8
    assert {part: len(found) for part, found in latent.quantiles.items()} == {1: 3, 2: 3, 3: 3, 4: 3}
    assert set(latent.matches) == {"expander-d4, stages:8+auto", "dense, encoder"}
    for context in [*latent.contexts, *latent.quantiles[1]]:
        assert len(context.tokens) == len(context.values) <= 33
        assert context.values[context.peak] == context.activation
        assert context.document == context.block // 4
    json.dumps(latent.as_dict(), allow_nan=False)
    assert store.latent(4, view=2).rows is None


def test_a_latent_that_never_fired(store):
    latent = store.latent(3)
    assert latent.dead
    assert (latent.firings, latent.max, latent.token_entropy, latent.contexts) == (0, None, None, [])
    assert latent.as_dict()["mean"] is None
    assert "0.000%" in latent._repr_html_()


@pytest.mark.parametrize("j", [-1, N, 2**70, True, "0", 1.0])
def test_a_latent_that_is_none(store, j):
    with pytest.raises(ExpanderSaeError, match="expected a latent from 0 to 23"):
        store.latent(j)


def test_contexts_by_quantile(store):
    assert store.contexts(4) == store.latent(4).contexts
    assert store.contexts(4, quantile=2, limit=2) == store.latent(4).quantiles[2][:2]
    assert store.contexts(np.int64(4), view=1)[0].part == 0
    with pytest.raises(ExpanderSaeError, match="quantile"):
        store.contexts(4, quantile=0)


def test_search_orders_and_limits(store):
    alive = np.flatnonzero(fires(N)).tolist()
    assert [line.index for line in store.search(order="latent")] == alive
    assert len(store.search(alive=False)) == N
    for order in ("specific", "density", "max"):
        lines = store.search(order=order, limit=7)
        keys = [getattr(line, order) for line in lines]
        assert keys == sorted(keys, reverse=True)
        assert [line.index for line in store.search(order=order, limit=3, offset=4)] == [x.index for x in lines[4:]]
    middle = sorted(line.density for line in store.search())[9]
    assert all(line.density <= middle for line in store.search(density=(0, middle)))
    assert len(store.search(density=(0, middle))) == 10
    assert store.search(limit=0) == []
    with pytest.raises(ExpanderSaeError, match="order"):
        store.search(order="best")


def test_search_by_token_and_text(store):
    expected = {
        j for j in range(N) if any(one.token == " river" for one in store.latent(j).top_tokens)
    }  # fmt: skip
    assert expected
    for token in ("river", " River ", 1):
        assert {line.index for line in store.search(token=token)} == expected
    share = [
        next(one.firings for one in store.latent(line.index).top_tokens if one.id == 1) ** 2 / line.firings
        for line in store.search(token=1)
    ]
    assert share == sorted(share, reverse=True)
    said = {line.index for line in store.search("cafe river")}  # letters without their accents find those with
    assert said == {line.index for line in store.search("café riv")} != set()
    assert {line.index for line in store.search("river", token="river")} == expected
    assert store.search("nothing-of-the-kind") == []
    assert store.search("<") != []
    for hostile in ('"', "a OR b", "NEAR(", "*", "'; DROP TABLE latents; --", "\x00", "x" * 9_999, "col:x", "\ud800a"):
        store.search(hostile)
        store.search(token=hostile)
    with pytest.raises(ExpanderSaeError, match="characters"):
        store.search("x" * 10_001)


def test_overview_places_compare(store):
    view = store.view(1)
    overview = store.overview(1)
    assert overview.dead == view.dead == 6
    assert overview.density.counts.sum() == overview.energy.counts.sum() == N - 6
    assert overview.firings == sum(store.latent(j, view=1).firings for j in range(N))
    places = store.places(1)
    assert len(places.x) == len(places.y) == len(places.density) == N
    assert np.abs([places.x, places.y]).max() <= 1
    pairs = store.compare(0, 2)
    assert sorted(pair.latent for pair in pairs) == list(range(N))
    assert all(a.cosine >= b.cosine for a, b in itertools.pairwise(pairs))
    assert store.latent(pairs[0].latent).matches["dense, encoder"] == pairs[0]
    with pytest.raises(ExpanderSaeError, match="two views"):
        store.compare(0, 0)


def test_tables_of_other_libraries(store):
    frame = pytest.importorskip("pandas") and store.table(1)
    arrow = pytest.importorskip("pyarrow") and store.arrow(1)
    assert len(frame) == arrow.num_rows == N
    assert frame.loc[4, "max"] == arrow["max"][4].as_py() == store.latent(4, view=1).max
    assert arrow["max"][3].as_py() is None


def test_hostile_tokens_are_kept_and_shown_harmlessly(store):
    said = {one.token for j in range(N) for one in store.latent(j).top_tokens}
    assert said >= {text.encode("utf-8", "backslashreplace").decode() for text in HOSTILE}
    for j in range(N):
        shown = store.latent(j)._repr_html_()
        assert "<script" not in shown
        assert "onmouseover='" not in shown
        assert not set(shown) & {"\x1b", "\x00", "\u202e"}
        assert "x" * 1_000 not in shown


def test_threads_read_at_once_and_a_closed_store_says_so(path):
    store = LatentStore.open(path)
    found, wrong = [], []

    def read(j):
        try:
            found.extend(store.latent(j).index for _ in range(10))
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(j,)) for j in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(found) == 80
    store.close()
    with pytest.raises(ExpanderSaeError, match="closed"):
        store.latent(0)


def test_what_is_no_store_is_one_error(path, tmp_path):
    with pytest.raises(ExpanderSaeError, match="got no file"):
        LatentStore.open(tmp_path / "none.db")
    with pytest.raises(ExpanderSaeError, match="got no file"):
        LatentStore.open(tmp_path)
    other = tmp_path / "other.db"
    for content in (
        b"",
        b"not a database, though as long as a header of one would be" * 20,
        path.read_bytes()[:20_000],
    ):
        other.write_bytes(content)
        with pytest.raises(ExpanderSaeError, match="damaged"):
            LatentStore.open(other)


@pytest.mark.parametrize(
    "harm",
    [
        "UPDATE contexts SET fires = x'00'",
        "UPDATE contexts SET fires = x'FF0000000000'",
        "UPDATE contexts SET length = 70000",
        "UPDATE latents SET histogram = x'00'",
        "UPDATE blocks SET tokens = x'00'",
        "DELETE FROM latents WHERE latent = 4",
        "DROP TABLE neighbours",
        "UPDATE arrays SET data = x'0000'",
        "UPDATE views SET overview = '{}'",
        "UPDATE meta SET value = 'no JSON'",
    ],
)
def test_harm_to_any_part_is_one_error(path, tmp_path, harm):
    other = tmp_path / "latents.db"
    other.write_bytes(path.read_bytes())
    with sqlite3.connect(other) as connection:
        connection.execute(harm)
    connection.close()

    def everything():
        with LatentStore.open(other) as opened:
            opened.latent(4)
            opened.overview()
            opened.places()
            opened.summaries([4])

    with pytest.raises(ExpanderSaeError, match="damaged"):
        everything()


def test_a_later_format_is_named(path, tmp_path):
    other = tmp_path / "latents.db"
    other.write_bytes(path.read_bytes())
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE meta SET value = '2' WHERE key = 'format'")
    connection.close()
    with pytest.raises(ExpanderSaeError, match=r"format 1 at most in .*; got 2"):
        LatentStore.open(other)


def test_reading_needs_no_torch(path):
    code = f"""
import sys
from expander_sae.latents import LatentStore, StoreChanged
LatentStore.open({str(path)!r}).latent(4)._repr_html_()
print(*(name for name in ("torch", "transformers", "pandas", "rich") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == ""


def test_a_new_thread_does_not_read_a_file_that_took_the_place(path, tmp_path):
    place = tmp_path / "latents.db"
    place.write_bytes(path.read_bytes())
    with LatentStore.open(place) as store:
        before = store.latent(4).firings
        make_store(tmp_path / "new.db", seed=1).replace(place)
        assert store.latent(4).firings == before
        raised = []

        def read():
            try:
                store.latent(4)
            except StoreChanged as error:
                raised.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        assert len(raised) == 1


def test_a_disk_that_fills_up_while_a_store_is_written(tmp_path):
    from full_disk import files_of_at_most

    for size in (0, 60_000):
        with files_of_at_most(size), pytest.raises(ExpanderSaeError, match=r"cannot write .*latents.db"):
            make_store(tmp_path / "latents.db", n_latents=400)
        (tmp_path / "latents.db").unlink()
