"""`expander-sae features` as a user calls it."""

import json
import os
import signal

import pytest
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.latents import LatentStore
from expander_sae.latents.building import reading
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
