"""Text by the name of a dataset."""

import json

import datasets
import zstandard

from expander_sae.activations.documents import read_documents


def test_a_dataset_of_compressed_lines_is_streamed(tmp_path, monkeypatch):
    # As the Pile is stored; its name leads to this folder instead of the hub.
    texts = ["one document", "and another"]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (tmp_path / "train.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    load, asked = datasets.load_dataset, []

    def local(name, *args, **options):
        asked.append((name, options["streaming"]))
        return load(str(tmp_path), *args, **options)

    monkeypatch.setattr(datasets, "load_dataset", local)
    assert list(read_documents("monology/pile-uncopyrighted")) == texts
    assert asked == [("monology/pile-uncopyrighted", True)]
