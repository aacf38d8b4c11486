"""Latents in other tools' files, checked against the fields that their newest sources read (`peers.py`)."""

import gzip
import json

import numpy as np
import pytest
from made_up import fires, make_store
from misbehaving import misbehaving
from peers import check_dashboard_batch, check_row, check_upload_body
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.latents import Explanation, LabelFile, LatentStore
from expander_sae.latents.exports.exported import Exported, groups, quarter_edges, texts
from expander_sae.records import ExpanderSaeError

N = 180


def run(*arguments):
    shown = CliRunner().invoke(app, ["export-latents", *map(str, arguments)], catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    return shown.output


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = make_store(tmp_path_factory.mktemp("store") / "latents.db", n_latents=N)
    labels = LabelFile.beside(path)
    with LatentStore.open(path) as opened:
        view = opened.view()
    labels.put(view.sha256, 0, text="a person's", seen=0)
    told = [(0, "chat", "a chat's"), (0, "words", "a rule's"), (1, "words", "another rule's"), (2, "chat", "x" * 2000)]
    labels.put_explanations([Explanation(view.sha256, view.reading, *one) for one in told])
    return path


@pytest.fixture(scope="module")
def bodies(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("neuronpedia")
    run(store, "--to", "neuronpedia", "--out", out, "--model", "Model", "--source-set", "res-made")
    return out


def test_upload_bodies_satisfy_the_routes_schema(bodies):
    files = sorted(bodies.iterdir())
    told = [json.loads(file.read_text()) for file in files]
    for body in told:
        check_upload_body(body)
        assert (body["modelId"], body["source"]) == ("model", "1-res-made")
    features = [feature for body in told for feature in body["features"]]
    assert [feature["index"] for feature in features] == np.flatnonzero(fires(N)).tolist()
    assert [len(body["features"]) for body in told] == [128, 7]
    assert {len(feature["activations"]) for feature in features} == {8 + 4 * 3}
    assert any("\u2400" in token for f in features for a in f["activations"] for token in a["tokens"])


def test_a_persons_label_comes_first_and_a_rules_where_there_is_no_other(bodies):
    first = json.loads((bodies / "upload-00000.json").read_text())["features"]
    said = {feature["index"]: [one["text"] for one in feature.get("explanations", [])] for feature in first}
    assert said[0] == ["a person's", "a chat's"]
    assert said[1] == ["another rule's"]
    assert said[2] == ["x" * 511 + "…"]
    assert said[4] == []


def test_the_bulk_folder_has_the_columns_of_the_tables(store, tmp_path):
    options = ("--source-set", "res-made", "--suffix", "a", "--creator-name", "me", "--method-name", "rule")
    run(store, "--to", "neuronpedia-bulk", "--out", tmp_path, *options)
    folder = tmp_path / "made-up" / "1-res-made__a"
    rows = {}
    for name in ("release", "model", "sourceset", "source"):
        (rows[name],) = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    assert rows["source"]["id"] == folder.name
    assert rows["sourceset"]["releaseName"] == rows["release"]["name"]
    for name in ("features", "activations", "explanations"):
        files = sorted((folder / name).glob("batch-*.jsonl.gz"))
        lines = [line for file in files for line in gzip.decompress(file.read_bytes()).splitlines()]
        rows[name] = [json.loads(line) for line in lines]
        assert len({tuple(row) for row in rows[name]}) == 1  # the importer takes the columns of the first
    for name, found in rows.items():
        for row in found if isinstance(found, list) else [found]:
            check_row(name, row)
    assert [row["index"] for row in rows["features"]] == [str(one) for one in range(N)]
    assert len({row["id"] for row in rows["activations"]}) == len(rows["activations"])
    for row in rows["activations"]:
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        assert row["values"][row["qualifyingTokenIndex"]] > 0
    assert [(row["index"], row["typeName"]) for row in rows["explanations"]][:3] == [("0", "rule")] * 2 + [
        ("1", "rule")
    ]


def test_dashboard_batches_have_the_fields_of_its_objects(store, tmp_path):
    run(store, "--to", "saedashboard", "--out", tmp_path)
    batches = [json.loads((tmp_path / f"batch-{number}.json").read_text()) for number in range(2)]
    for batch in batches:
        check_dashboard_batch(batch)
    features = [feature for batch in batches for feature in batch["features"]]
    assert [feature["feature_index"] for feature in features] == list(range(N))
    assert [not feature["activations"] for feature in features] == (~fires(N)).tolist()
    with LatentStore.open(store) as opened:
        latent = opened.latent(0)
    strongest = int(np.argmax(np.abs(latent.weights)))
    assert features[0]["neuron_alignment_indices"][0] == latent.rows[strongest]
    assert features[0]["neuron_alignment_values"][0] == pytest.approx(latent.weights[strongest], rel=1e-5)
    assert sum(features[0]["freq_hist_data_bar_heights"]) == latent.firings


def test_the_same_store_is_the_same_bytes(store, bodies, tmp_path):
    run(store, "--to", "neuronpedia", "--out", tmp_path, "--model", "model", "--source-set", "res-made")
    for file in bodies.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_quarters_are_between_quantiles_of_the_activation(store):
    with LatentStore.open(store) as opened:
        latent = opened.latent(0)
    edges = quarter_edges(latent)
    assert edges == sorted(edges)
    width = float(latent.edges[1] - latent.edges[0])
    for share, edge in zip((0.25, 0.5, 0.75), edges[1:4], strict=True):
        below = latent.histogram[latent.edges[1:] <= edge].sum() / latent.firings
        above = latent.histogram[latent.edges[1:] <= edge + width].sum() / latent.firings
        assert below <= share + 1e-6 <= above + 2e-6
    assert [(group.low, group.high) for group in groups(latent)[1:]] == list(
        zip(edges[3::-1], edges[:0:-1], strict=True)
    )


def test_texts_that_no_database_holds_are_made_ones_it_does():
    assert texts(["", "a\0b", "\ud800", " ok\n"]) == ["\u2205", "a\u2400b", "?", " ok\n"]


def upload(store, out, url, monkeypatch):
    monkeypatch.setenv("NEURONPEDIA_API_KEY", "secret")
    return run(
        store, "--to", "neuronpedia", "--out", out, "--model", "model", "--source-set", "res-made", "--post", url
    )


def test_bodies_are_posted_once_each_until_they_are_taken(store, tmp_path, monkeypatch):
    with misbehaving(lambda _: "", lambda number, _: ["503", "429"][number] if number < 2 else "well") as (url, seen):
        shown = upload(store, tmp_path, url.removesuffix("/v1"), monkeypatch)
        again = upload(store, tmp_path, url.removesuffix("/v1"), monkeypatch)
    assert "posted 2" in shown
    assert "posted 0" in again
    assert len(seen.requests) == 4
    assert seen.paths == ["/api/feature/upload-batch"] * 4
    assert seen.keys == ["secret"] * 4
    for request in seen.requests:
        check_upload_body({name: request[name] for name in ("modelId", "source", "features")})


def test_an_upload_goes_on_where_it_was_refused(store, tmp_path, monkeypatch):
    with misbehaving(lambda _: "", lambda number, _: "401" if number == 1 else "well") as (url, seen):
        with pytest.raises(ExpanderSaeError, match=r"to take upload-00001.json; got HTTP Error 401.*uploaded.jsonl"):
            upload(store, tmp_path, url.removesuffix("/v1"), monkeypatch)
        with open(tmp_path / "uploaded.jsonl", "a") as file:
            file.write('{"url": "cut o')
        assert "posted 1" in upload(store, tmp_path, url.removesuffix("/v1"), monkeypatch)
    assert [request["features"][0]["index"] for request in seen.requests][1:] == [170, 170]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--to", "elsewhere"), "--to out of neuronpedia"),
        (("--to", "saedashboard", "--post", "http://host"), "--post with --to neuronpedia only"),
        (("--to", "neuronpedia", "--acts", "acts"), "--acts with --to delphi only"),
        (("--to", "neuronpedia", "--post", "http://host"), "NEURONPEDIA_API_KEY"),
        (("--to", "delphi"), "--acts FOLDER with --to delphi"),
        (("--to", "saedashboard", "--source-set", "a b"), "names of small letters"),
    ],
)
def test_bad_input_is_one_error(options, said, store, tmp_path, monkeypatch):
    monkeypatch.delenv("NEURONPEDIA_API_KEY", raising=False)
    with pytest.raises(ExpanderSaeError, match=said):
        run(store, "--out", tmp_path, *options)


def test_a_module_has_no_name_there(store):
    with LatentStore.open(store) as opened:
        opened.meta["layer"] = "transformer.wte"
        with pytest.raises(ExpanderSaeError, match="the stream after a block"):
            _ = Exported(opened, opened.view(), LabelFile.beside(store), "m", "s").source
