import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from expander_sae.cli.main import app
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae

# Largest relative error of a column of unit length, with a margin.
WORST = {"float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3, "int8": 2e-2}
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@pytest.mark.parametrize("kind", ["expander", "dense"])
@pytest.mark.parametrize("values", WORST)
def test_values_come_back_as_near_as_their_type_allows(values, kind, tmp_path):
    sae = (
        ExpanderSae(d_in=40, n_latents=300, degree=5, k=6, reading=Encoder())
        if kind == "expander"
        else DenseTopKSae(d_in=40, n_latents=90, k=6)
    )
    with torch.no_grad():
        sae.b_dec.normal_()
    sae.save(tmp_path, values=values)
    again = load_sae(tmp_path)
    error = (again.values - sae.values).norm(dim=1).max()
    assert error < WORST[values]
    assert (error > 1e-6) == (values != "float32")
    assert torch.equal(again.b_dec, sae.b_dec)
    torch.testing.assert_close(again.values.norm(dim=1), torch.ones(len(again.values)))
    stored = load_file(tmp_path / "sae.safetensors")["values"]
    assert stored.element_size() == SIZES[values]
    again.save(tmp_path / "second", values=values)  # rounding what is rounded loses nothing more
    assert (load_sae(tmp_path / "second").values - sae.values).norm(dim=1).max() < WORST[values]


def test_what_cannot_be_stored_is_an_error(tmp_path):
    with pytest.raises(ExpanderSaeError, match="float32, float16, bfloat16, int8"):
        ExpanderSae(d_in=40, n_latents=300, degree=5, k=6, reading=Encoder()).save(tmp_path, values="int4")
    with pytest.raises(ExpanderSaeError, match="encoder of its own"):
        DenseTopKSae(d_in=40, n_latents=90, k=6, tied=False).save(tmp_path, values="int8")
    assert not list(tmp_path.iterdir())
    DenseTopKSae(d_in=40, n_latents=90, k=6, tied=False).save(tmp_path, values="float16")
    assert load_file(tmp_path / "sae.safetensors")["encoder"].dtype == torch.float16
    assert load_sae(tmp_path).encoder.dtype == torch.float32


def test_the_command(tmp_path):
    ExpanderSae(d_in=40, n_latents=3000, degree=5, k=6, reading=Encoder()).save(tmp_path / "a")
    command = [
        "convert",
        str(tmp_path / "a"),
        "--out",
        str(tmp_path / "b"),
        "--values",
        "int8",
        "--json",
        str(tmp_path / "j"),
    ]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert "KiB" in result.output
    before, after = read_json(tmp_path / "j")["bytes"].values()
    assert after < 0.35 * before
    with pytest.raises(ExpanderSaeError, match="another folder"):
        CliRunner().invoke(app, ["convert", str(tmp_path / "a"), "--out", str(tmp_path / "a")], catch_exceptions=False)
