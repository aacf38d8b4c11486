import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.interop import write_sae
from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.saes import load_sae

SMALL = ("--tokens", 10_000, "--batch-size", 256, "--stages", 2, "--ce-tokens", 200)


def run(*arguments):
    done = CliRunner().invoke(app, ["compress", *map(str, arguments)])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_compress_writes_an_sae_a_record_and_every_fate(tiny, tmp_path):
    folder, *_ = tiny
    common = (folder / "saes" / "dense", "--acts", folder / "acts", "--model", folder / "model", "--out", tmp_path)
    out = run(*common, "--degree", 8, "--inference", "refit", "--json", tmp_path / "c.json", *SMALL)
    assert "degree 8" in out
    written = read_json(tmp_path / "c.json")
    assert written["dense"]["bytes_on_disk"] > written["compressed"]["stages:2"]["bytes_on_disk"]
    assert written["dense"]["delta_ce"] is not None
    assert read_json(tmp_path / "expander-d8" / "compression.json") == {
        key: value for key, value in written.items() if key not in ("degree", "searched")
    }
    assert len(load_file(tmp_path / "expander-d8" / "latents.safetensors")["cosine"]) == 96
    assert load_sae(tmp_path / "expander-d8").n_latents == 96


def test_a_saelens_release_folder_is_compressed(tiny, tmp_path):
    folder, _, _, dense = tiny
    write_sae(dense, tmp_path / "release", "saelens-dense", dtype="float16")
    common = (tmp_path / "release", "--acts", folder / "acts", "--out", tmp_path, "--no-ce", "--quiet")
    run(*common, "--degree", 8, "--tokens", 0, "--max-tokens", 500, "--spare", 1, "--stages", 2)
    written = read_json(tmp_path / "expander-d8" / "compression.json")
    assert written["recipe"]["source"].startswith("release (")
    assert list(written["compressed"]) == ["stages:2+1"]
    fates = load_file(tmp_path / "expander-d8" / "latents.safetensors")
    own = load_sae(tmp_path / "expander-d8")
    wide = torch.zeros(96, dense.d_in).scatter(1, own.rows.long(), own.values.detach())
    torch.testing.assert_close(fates["cosine"], (wide * dense.values.detach()).sum(1), rtol=1e-2, atol=1e-2)


def test_auto_searches(tiny, tmp_path):
    folder, *_ = tiny
    common = (folder / "saes" / "dense", "--acts", folder / "acts", "--out", tmp_path, "--no-ce", "--quiet")
    target = ("--target-metric", "explained_variance", "--target-retention", 0.8)
    run(*common, "--degree", "auto", *target, "--json", tmp_path / "c.json", *SMALL)
    written = read_json(tmp_path / "c.json")
    own = next(iter(written["retention"].values()))
    assert own["explained_variance"] >= 0.8
    assert len(written["searched"]) > 1
    smaller = [degree for degree in written["searched"] if degree < written["degree"]]
    for degree in smaller:
        other = read_json(tmp_path / f"expander-d{degree}" / "compression.json")
        assert next(iter(other["retention"].values()))["explained_variance"] < 0.8


def test_mistakes(tiny, tmp_path):
    folder, *_ = tiny
    common = (folder / "saes" / "dense", "--acts", folder / "acts", "--out", tmp_path, "--quiet")
    with pytest.raises(ExpanderSaeError, match="number or auto"):
        run(*common, "--degree", "seven", "--no-ce")
    with pytest.raises(ExpanderSaeError, match="--ce"):
        run(*common, "--degree", "auto", "--no-ce")
    run(*common, "--degree", 4, "--no-ce", "--tokens", 0)
    with pytest.raises(ExpanderSaeError, match="sparse one"):
        run(tmp_path / "expander-d4", "--acts", folder / "acts", "--out", tmp_path, "--degree", 4, "--no-ce")
