import peer_files
import pytest
import torch
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.interop import read_sae
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.saes import ExpanderSae, load_sae

X = torch.randn(20, peer_files.D_IN, generator=torch.Generator().manual_seed(0))


def run(*command):
    return CliRunner().invoke(app, [str(part) for part in command], catch_exceptions=False)


@pytest.fixture
def saved(tmp_path):
    sae = ExpanderSae(d_in=peer_files.D_IN, n_latents=200, degree=3, k=4, reading=Stages(2))
    sae.save(tmp_path / "sae")
    return tmp_path / "sae"


def test_there_and_back_through_saelens(saved, tmp_path):
    result = run("export", saved, "--out", tmp_path / "lens", "--json", tmp_path / "sizes.json")
    assert "dense" not in result.output
    assert sorted(path.name for path in (tmp_path / "lens").iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert set(read_json(tmp_path / "sizes.json")["bytes"]) == {str(saved), str(tmp_path / "lens")}
    run("import", tmp_path / "lens", "--out", tmp_path / "back", "--quiet")
    one, other = load_sae(saved), load_sae(tmp_path / "back")
    assert one.describe() == other.describe()
    assert torch.equal(one.encode(X).indices, other.encode(X).indices)


@pytest.mark.parametrize("format", ["saelens-dense", "sparsify", "dictionary_learning", "openai"])
def test_dense_formats_say_their_size_first(saved, tmp_path, format):
    out = tmp_path / ("sae.pt" if format == "openai" else "dense")
    with pytest.raises(ExpanderSaeError, match="other codes"):
        run("export", saved, "--to", format, "--out", out)
    result = run("export", saved, "--to", format, "--out", out, "--inference", "encoder")
    assert result.output.startswith("dense: ")
    assert "times the SAE's" in result.output.splitlines()[0]
    result = run("import", out, "--out", tmp_path / "back", "--json", tmp_path / "said.json")
    assert f"from {format.removesuffix('-dense')}" in result.output or format == "saelens-dense"
    back = load_sae(tmp_path / "back")
    assert read_json(tmp_path / "said.json")["k"] == back.k == 4
    torch.testing.assert_close(back(X), load_sae(saved).read_by(Encoder())(X))


def test_a_hub_sae_is_imported_with_its_origin(tmp_path):
    weights = peer_files.random_weights()
    peer_files.saelens(tmp_path / "lens", weights, "topk", k=peer_files.K)
    result = run("import", tmp_path / "lens", "--out", tmp_path / "ours", "--values", "float16")
    assert "k 5, from saelens" in result.output
    sae = load_sae(tmp_path / "ours")
    assert sae.metadata["imported"]["hook_name"] == "blocks.8.hook_resid_post"
    torch.testing.assert_close(sae(X), read_sae(tmp_path / "lens")(X), rtol=1e-2, atol=1e-2)


def test_eval_reads_other_libraries_folders(tmp_path):
    from tiny_models import make_documents, make_tiny_model, write_jsonl

    from expander_sae.activations import harvest, load_language_model

    model = load_language_model(str(make_tiny_model(tmp_path / "model", "gpt2", d_in=peer_files.D_IN)), dtype="float32")
    harvest(model, write_jsonl(tmp_path / "text.jsonl", make_documents()), tmp_path / "acts", layer=1, context=32)
    peer_files.saelens(tmp_path / "relu", peer_files.random_weights(), "standard")
    peer_files.sparsify(tmp_path / "topk", peer_files.random_weights())
    folders = (tmp_path / "relu", tmp_path / "topk")
    run("eval", tmp_path / "acts", *folders, "--no-ce", "--json", tmp_path / "scores.json", "--quiet")
    records = read_json(tmp_path / "scores.json")
    assert records["topk"]["kind"] == "dense"
    assert records["topk"]["l0"] <= peer_files.K < records["relu"]["l0"]
    with pytest.raises(ExpanderSaeError, match="'encoder'"):
        run("eval", tmp_path / "acts", folders[0], "--no-ce", "--inference", "omp")


def test_what_cannot_be(saved, tmp_path):
    peer_files.saelens(tmp_path / "relu", peer_files.random_weights(), "standard")
    with pytest.raises(ExpanderSaeError, match="relu SAE"):
        run("import", tmp_path / "relu", "--out", tmp_path / "ours")
    with pytest.raises(ExpanderSaeError, match="another folder"):
        run("export", saved, "--out", saved)
    with pytest.raises(ExpanderSaeError, match="another folder"):
        run("import", saved, "--out", saved)
    with pytest.raises(ExpanderSaeError, match="format out of"):
        run("export", saved, "--out", tmp_path / "x", "--to", "onnx")
    with pytest.raises(ExpanderSaeError, match="expected an SAE in"):
        run("import", tmp_path, "--out", tmp_path / "x")
