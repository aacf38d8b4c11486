"""Labels: two writers, what is imported, and files that are none."""

import json
import threading

import pytest

from expander_sae.latents import Conflict, LabelFile
from expander_sae.records import ExpanderSaeError

SAE, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def labels(tmp_path):
    with LabelFile.beside(tmp_path / "latents.db") as opened:
        yield opened


def test_nothing_is_made_before_the_first_label(labels):
    assert labels.path.name == "latents.labels.db"
    assert labels.get(SAE, 1) is None
    assert labels.all() == []
    assert not labels.path.exists()


def test_what_is_not_given_stays(labels):
    first = labels.put(SAE, 1, text="rivers", star=True, seen=0)
    second = labels.put(SAE, 1, note="see 2", seen=1)
    assert (second.text, second.note, second.star, second.version) == ("rivers", "see 2", True, 2)
    assert labels.get(SAE, 1) == second
    assert first.version == 1
    labels.put(OTHER, 1, text="stones", seen=0)
    assert labels.all(SAE) == [second]
    assert len(labels.all()) == 2


def test_two_tabs_do_not_overwrite_each_other(labels):
    seen = labels.put(SAE, 1, text="rivers", seen=0)
    mine = LabelFile(labels.path)
    labels.put(SAE, 1, text="streams", seen=seen.version)
    with pytest.raises(Conflict, match="version 2, 'streams'") as conflict:
        mine.put(SAE, 1, text="water", seen=seen.version)
    assert conflict.value.current.text == "streams"
    with pytest.raises(Conflict):
        mine.put(SAE, 1, text="water", seen=0)
    with pytest.raises(Conflict, match="there is none"):
        mine.put(SAE, 2, text="water", seen=3)
    mine.close()


def test_writers_at_once_lose_nothing(labels):
    def write(writer):
        with LabelFile(labels.path) as own:
            for _ in range(10):
                while True:
                    now = own.get(SAE, 0)
                    said = "" if now is None else now.text
                    try:
                        own.put(SAE, 0, text=f"{said}{writer}", seen=0 if now is None else now.version)
                    except Conflict:
                        continue
                    break

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    label = labels.get(SAE, 0)
    assert label.version == 30
    assert sorted(label.text) == sorted("abc" * 10)


def test_exported_labels_come_back_and_the_later_change_stays(labels, tmp_path):
    labels.put(SAE, 1, text="rivers", seen=0)
    labels.put(SAE, 2, text="<b>\ud800\x00</b>", note="n", star=True, seen=0)
    told = json.loads(json.dumps(labels.export_json()))
    with LabelFile(tmp_path / "other.db") as other:
        assert other.import_json(told) == {"taken": 2, "left": 0}
        assert [label.text for label in other.all()] == ["rivers", "<b>\\ud800\x00</b>"]
        assert other.import_json(told) == {"taken": 0, "left": 2}
        told["labels"][0] |= {"text": "later", "changed": "2999-01-01T00:00:00+00:00"}
        told["labels"][1] |= {"text": "earlier", "changed": "1999-01-01T00:00:00+00:00"}
        assert other.import_json(told) == {"taken": 1, "left": 1}
        assert [(label.text, label.version) for label in other.all()] == [("later", 2), ("<b>\\ud800\x00</b>", 1)]


@pytest.mark.parametrize(
    "told",
    [
        [],
        None,
        {"format": "other"},
        {"format": "expander-sae labels 1", "labels": [{"latent": 1}, 3]},
        {"format": "expander-sae labels 1", "labels": [{"sha256": "a", "latent": -1}]},
        {"format": "expander-sae labels 1", "labels": [{"sha256": "a", "latent": 1, "text": "x" * 2_001}]},
        {"format": "expander-sae labels 1", "labels": [{"sha256": "a", "latent": 1, "score": "high"}]},
    ],
)
def test_what_are_no_labels_are_not_taken(labels, told):
    with pytest.raises(ExpanderSaeError, match="expected labels"):
        labels.import_json(told)
    assert labels.all() == []


def test_lengths_are_bounded(labels):
    with pytest.raises(ExpanderSaeError, match="text of 2,000 characters"):
        labels.put(SAE, 1, text="x" * 2_001, seen=0)


def test_a_damaged_file_is_one_error(labels):
    labels.path.write_bytes(b"no database, but longer than its header of a hundred bytes" * 10)
    for attempt in (lambda: labels.get(SAE, 1), lambda: labels.put(SAE, 1, text="x", seen=0)):
        with pytest.raises(ExpanderSaeError, match="expected a file of labels"):
            attempt()
    assert labels.path.stat().st_size > 500
