"""Every tutorial runs at tiny sizes, and its numbers are what it says they are."""

import re
import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted(path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.py"))
TINY = {
    "quickstart": {"TOKENS = 2_000": "TOKENS = 300"},
    "tutorials/train-your-own": {
        "TOKENS, N_LATENTS, STEPS_OF_512 = 20_000, 1_152, 160": "TOKENS, N_LATENTS, STEPS_OF_512 = 3_000, 64, 60"
    },
    "tutorials/look-at-latents": {"one.firings >= 50": "one.firings >= 5"},
    "tutorials/read-and-steer": {"model.layers.14": "model.layers.1"},
    "tutorials/compress-a-dense-sae": {
        "DEGREES = (8, 16, 32, 64)": "DEGREES = (4, 8, 16)",
        "TOKENS, SAMPLE = 60_000, 8_192": "TOKENS, SAMPLE = 20_000, 2_048",
    },
    "tutorials/pursuit-for-compressed-sensing": {"TRIALS = 256, 1_024, 8, 200": "TRIALS = 256, 1_024, 8, 20"},
    "tutorials/embeddings": {"SENTENCES, EPOCHS = 800, 80": "SENTENCES, EPOCHS = 200, 30"},
}
"""The sizes that are smaller here."""


@pytest.fixture
def run(demo, tmp_path, monkeypatch, capsys):
    """Runs a notebook beside a tiny demo; its names, and what it printed."""
    backend = matplotlib.get_backend()
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-out").symlink_to(demo / "demo-out")

    def run_one(name):
        source = (DOCS / f"{name}.py").read_text(encoding="utf-8")
        for size, tiny in TINY[name].items():
            assert source.count(size) == 1, size
            source = source.replace(size, tiny)
        (tmp_path / "notebook.py").write_text(source, encoding="utf-8")
        capsys.readouterr()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            names = runpy.run_path(str(tmp_path / "notebook.py"))
        return names, capsys.readouterr().out

    yield run_one
    plt.close("all")
    matplotlib.use(backend)


def test_all_are_run_here():
    assert set(NOTEBOOKS) == set(TINY)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_reads_well(name):
    """A title first, text and code in turns, at least one figure, and links to pages that are there."""
    source = (DOCS / f"{name}.py").read_text(encoding="utf-8")
    assert source.startswith("# %% [markdown]\n# # ")
    assert source.count("# %% [markdown]") >= 4
    assert source.count("plt.subplots") >= 1
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", source):
        assert (DOCS / f"{name}.py").parent.joinpath(target).is_file(), target


def test_quickstart(run):
    names, printed = run("quickstart")
    assert "128 latents of a 32-wide model, k = 16" in printed
    assert names["codes"].indices.shape == (300, 16)
    left = names["by_stages"]
    assert left[0] > left[2] > left[5]  # more stages leave less
    assert names["others"]["omp"] < names["others"]["encoder"]


def test_train_your_own(run):
    names, printed = run("tutorials/train-your-own")
    sae, dense = names["sae"], names["dense"]
    assert int(names["degrees"].sum()) == 16 * 64  # sixteen on the average
    assert len(set(names["degrees"].tolist())) > 1
    assert dense.n_latents == 32
    assert names["fvu"](sae) < 0.9
    assert "['config.json', 'sae.safetensors']" in printed


def test_look_at_latents(run):
    names, printed = run("tutorials/look-at-latents")
    assert "128 latents on" in printed
    best = names["best"]
    assert all(one.firings >= 5 for one in best)
    assert [one.specific for one in best] == sorted((one.specific for one in best), reverse=True)
    latent = names["latent"]
    assert latent.histogram.sum() == latent.firings
    assert names["contexts"][0].activation == pytest.approx(latent.max)


def test_read_and_steer(run):
    names, printed = run("tutorials/read-and-steer")
    assert names["codes"].indices.shape == (*names["input_ids"].shape, 16)
    assert 0 < names["kl"] < 5
    moved = names["moved"]
    torch.testing.assert_close(moved[0], names["plain"].softmax(-1))  # a strength of zero changes nothing
    assert float((moved[-1] - moved[0]).abs().sum()) > float((moved[1] - moved[0]).abs().sum()) > 0
    assert "strongest at the last token" in printed


def test_compress_a_dense_sae(run):
    names, _ = run("tutorials/compress-a-dense-sae")
    cut = [names["fvu"](names["cut"][degree]) for degree in names["DEGREES"]]
    assert cut == sorted(cut, reverse=True)  # more entries leave less
    assert names["cut"][8].learned_values() == 8 * 128 + 32
    assert names["tuned"].n_latents == names["dense"].n_latents
    assert 0 <= names["kept"].min() <= names["kept"].max() <= 1


def test_pursuit_for_compressed_sensing(run):
    names, _ = run("tutorials/pursuit-for-compressed-sensing")
    shares = names["shares"]
    assert shares["OMP"][0] > 0.8
    assert shares["OMP"][-1] < 0.5
    assert sum(shares["OMP"]) > sum(shares["one pass"])
    assert names["sensing"].dense().shape == (1_024, 256)
    assert (names["sensing"].dense() != 0).sum() == 1_024 * 8


def test_embeddings(run):
    names, printed = run("tutorials/embeddings")
    assert names["x"].shape[1] == 32
    torch.testing.assert_close(names["x"].norm(dim=1), torch.ones(len(names["x"])))
    assert len(names["strongest"]) == 4
    assert names["record"].final_fvu < 0.9
    assert printed.count("\nlatent ") == 4
