"""`expander-sae features` as a user calls it."""

import json
import os
import signal

import pytest
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.latents import LabelFile, LatentStore
from expander_sae.latents.building import build_store, reading, sources
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import load_sae


def run(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


@pytest.fixture
def two(saes, folder):
    return [folder / "saes" / name for name in ("sparse", "dense")]


def test_features_of_activations(two, activations, model_folder, tmp_path):
    out = tmp_path / "latents.db"
    command = ["features", *two, "--acts", activations.path, "--model", model_folder, "--out", out]
    result = run(*command, "--reading", "encoder,stages:3", "--json", tmp_path / "told.json")
    assert result.exit_code == 0, result.output
    assert f"expander-sae browse {out}" in result.output.replace("\n", " ")
    told = json.loads((tmp_path / "told.json").read_text())
    names = ["sparse, encoder", "sparse, stages:3", "dense, encoder", "dense, stages:3"]
    assert [view["name"] for view in told["views"]] == names
    with LatentStore.open(out) as store:
        assert store.view().folder == str(two[0].resolve())
        assert store.view().config["mismatches"] is None
        assert store.meta["logit_lens"]
        assert len(store.contexts(store.search(order="density")[0].index)) > 4
    before = out.stat().st_ino
    assert run(*command, "--reading", "encoder,stages:3", "--quiet").output == ""
    assert out.stat().st_ino == before
    with pytest.raises(ExpanderSaeError, match="--overwrite"):
        run(*command)
    assert run(*command, "--overwrite").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["latents.db", "told.json"] or len(
        list(tmp_path.iterdir())
    ) == 2


def test_features_straight_from_a_text(two, activations, articles, model_folder, language_model, tmp_path):
    out = tmp_path / "latents.db"
    command = ["features", two[0], "--text", articles, "--model", model_folder, "--out", out, "--no-logit-lens"]
    result = run(*command, "--context", 48, "--compute-dtype", "float32", "--max-tokens", 500)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latents.db"]
    with LatentStore.open(out) as store:
        assert store.meta["hook"] == "residual stream after block 1"
        assert store.meta["logit_lens"] is None
        assert 400 < store.view().tokens <= 500
        assert store.latent(0).promoted == []
    kept = tmp_path / "acts"
    run(*command, "--context", 48, "--acts", kept, "--overwrite")
    assert (kept / "manifest.json").is_file()


def test_what_cannot_be_read(two, activations, tmp_path, folder):
    with pytest.raises(ExpanderSaeError, match="got neither"):
        run("features", two[0], "--out", tmp_path / "x.db")
    with pytest.raises(ExpanderSaeError, match="Give it with --model"):
        run("features", two[0], "--acts", activations.path, "--out", tmp_path / "x.db")
    with pytest.raises(ExpanderSaeError, match="twice"):
        run("features", two[0], "--acts", activations.path, "--model", folder / "model", "--reading",
            "omp,omp", "--out", tmp_path / "x.db")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_another_layer_is_a_warning_and_on_record(saes, folder, activations, model_folder, tmp_path):
    sae = load_sae(folder / "saes" / "sparse")
    sae.metadata = {"activations": {"model_id": "model", "layer": 2}}
    sae.save(tmp_path / "moved")
    out = tmp_path / "latents.db"
    result = run("features", tmp_path / "moved", "--acts", activations.path, "--model", model_folder, "--out", out)
    assert "after block 2" in result.stderr
    with LatentStore.open(out) as store:
        assert "block 2" in store.view().config["mismatches"][0]


def test_an_interrupt_says_that_the_same_command_goes_on(two, activations, model_folder, tmp_path, monkeypatch):
    out = tmp_path / "latents.db"
    plain = reading.Pass._add

    def stop(self, chunk):
        plain(self, chunk)
        os.kill(os.getpid(), signal.SIGINT)

    command = ["features", two[0], "--acts", activations.path, "--model", model_folder, "--out", out, "--quiet"]
    with monkeypatch.context() as patch:
        patch.setattr(reading.Pass, "_add", stop)
        result = CliRunner().invoke(app, [str(one) for one in command])
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr.replace("\n", " ")
    assert run(*command).exit_code == 0
    with LatentStore.open(out) as store:
        assert store.views[0].tokens == activations.n_tokens("heldout")


@pytest.fixture(scope="module")
def built(folder, saes, activations, language_model):
    return build_store(
        sources({"sparse": saes["sparse"]}), activations, folder / "shown.db", tokenizer=language_model.tokenizer,
        model=language_model, progress=False,
    )  # fmt: skip


def test_encode_prints_what_latents_are(built, two, articles, model_folder, saes, tmp_path):
    with LatentStore.open(built) as store, LabelFile.beside(built) as labels:
        common = store.search(order="density")[0].index
        labels.put(store.view().sha256, common, text="[red]café\x1b[31m \u202e", seen=0)
    command = ["encode", two[0], "--labels", built, "--text", articles, "--model", model_folder]
    result = run(*command, "--top", 6, "--max-tokens", 40, "--context", 48)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert len(lines) == 40
    assert f"  {common} " in result.output
    assert "[red]café\\x1b[31m \\u202e" in result.output
    assert "fires on" in result.output
    short = tmp_path / "short.txt"
    short.write_text("The old river.")
    assert run(*command[:4], "--text", short, "--model", model_folder).output.count("\n") in range(2, 14)


def test_encode_prints_codes_of_activations(built, two, activations, saes):
    result = run("encode", two[0], "--labels", built, "--acts", activations.path, "--max-tokens", 3, "--top", 1)
    codes = saes["sparse"].encode(next(activations.blocks("heldout")).float()[:3])
    for line, indices, values in zip(result.output.splitlines(), codes.indices, codes.values, strict=True):
        largest = int(values.abs().argmax())
        assert f"  {int(indices[largest])} {float(values[largest]):.3g} " in line


def test_encode_prints_one_latent(built, two):
    with LatentStore.open(built) as store:
        latent = store.latent(store.search(order="specific")[0].index)
    shown = run("encode", two[0], "--labels", built, "--latent", latent.index).output
    assert f"fires on {latent.firings} of" in shown
    assert len([line for line in shown.splitlines() if line.strip()]) >= 5 + len(latent.contexts)
    with pytest.raises(ExpanderSaeError, match="from 0 to 95"):
        run("encode", two[0], "--labels", built, "--latent", 96)
    with pytest.raises(ExpanderSaeError, match="feature store of this SAE"):
        run("encode", two[1], "--labels", built, "--latent", 1)
    for wrong in (
        ["--latent", 1],
        ["--labels", built, "--out", "x"],
        [],
        ["--labels", built, "--latent", 1, "--acts", "a"],
    ):
        with pytest.raises(ExpanderSaeError, match="expected"):
            run("encode", two[0], *wrong)
