"""A store that another process renames over while it is served."""

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from made_up import make_store
from rooms import server

from expander_sae.dashboard.current import CurrentStore
from expander_sae.latents import LabelFile
from expander_sae.records import ExpanderSaeError, write_atomically


def rebuild(path, mark):
    """A store whose every firing count and context block carries one mark."""
    with write_atomically(path) as temporary:
        temporary.unlink(missing_ok=True)
        make_store(temporary, views=("expander-d4, encoder",), hostile=False)
        connection = sqlite3.connect(temporary)
        with connection:
            connection.execute("UPDATE latents SET firings = ?, energy = ?", (mark, mark))
            connection.execute("UPDATE contexts SET activation = ?", (float(mark),))
            connection.execute("UPDATE meta SET value = ? WHERE key = 'created'", (json.dumps(f"mark {mark}"),))
            connection.execute("PRAGMA user_version = 1")
        connection.close()


def test_a_new_store_is_noticed_and_labels_stay(tmp_path):
    path = tmp_path / "latents.db"
    rebuild(path, 1)
    with server(path) as client:
        assert client.get("/api/store").json()["meta"]["created"] == "mark 1"
        client.labels.put(f"{0:064x}", 2, text="kept", seen=0)
        rebuild(path, 2)
        told = client.get("/api/store").json()
        assert (told["meta"]["created"], told["generation"]) == ("mark 2", 1)
        assert client.get("/api/latent/2").json()["label"]["text"] == "kept"


def test_twenty_readers_get_whole_answers_meanwhile(tmp_path):
    path = tmp_path / "latents.db"
    rebuild(path, 1)
    done = threading.Event()
    seen = set()

    def read(client):
        while not done.is_set():
            answer = client.get("/api/latent/0")
            assert answer.status_code == 200, answer.text
            told = answer.json()
            marks = {told["firings"], told["energy"], *(one["activation"] for one in told["contexts"]["top"])}
            assert len(marks) == 1, "one answer out of two stores"
            seen.update(marks)

    with server(path) as client, ThreadPoolExecutor(20) as pool:
        readers = [pool.submit(read, client) for _ in range(20)]
        for mark in range(2, 7):
            rebuild(path, mark)
        done.set()
        for reader in readers:
            reader.result(timeout=30)
        assert client.get("/api/latent/0").json()["firings"] == 6
    assert len(seen) > 1


def test_the_old_store_is_shown_while_the_new_one_is_none(tmp_path):
    path = tmp_path / "latents.db"
    rebuild(path, 1)
    with server(path) as client:
        assert client.get("/api/latent/0").status_code == 200
        with write_atomically(path) as temporary:
            temporary.write_bytes(b"no store")
        assert client.get("/api/store").json()["meta"]["created"] == "mark 1"
        rebuild(path, 3)
        assert client.get("/api/store").json()["meta"]["created"] == "mark 3"


def test_an_old_store_is_closed_once_its_last_reader_is_done(tmp_path):
    path = tmp_path / "latents.db"
    rebuild(path, 1)
    current = CurrentStore(path)

    def look(served):
        rebuild(path, 2)
        assert current.read(lambda newer: newer.store.meta["created"]) == "mark 2"
        # The one that was opened first still answers, until this reader leaves it.
        assert served.store.latent(0).firings == 1
        return served

    old = current.read(look)
    with pytest.raises(ExpanderSaeError, match="closed"):
        old.store.latent(0)
    current.close()


def test_what_is_made_of_the_whole_store_is_made_once_a_file(tmp_path):
    path = tmp_path / "latents.db"
    rebuild(path, 1)
    current, made = CurrentStore(path), []
    for mark in (1, 1, 2):
        if mark == 2:
            rebuild(path, 2)
        current.read(lambda served: served.once("key", lambda: made.append(served.generation)))
    current.close()
    assert made == [0, 1]


def test_no_store_is_one_error(tmp_path):
    with pytest.raises(ExpanderSaeError, match="no file"):
        CurrentStore(tmp_path / "nothing.db")
    assert LabelFile.beside(tmp_path / "nothing.db").all() == []
