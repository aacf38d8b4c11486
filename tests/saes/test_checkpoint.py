import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from expander_sae.graphs import column_bits, make_mask, mask_from_rows
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError, read_json, sha256_file
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae


def rewrite(folder: Path, arrays=None, without=(), **fields) -> None:
    """Change arrays and config fields, with a hash that fits, as a careless program would."""
    path = folder / "sae.safetensors"
    if arrays is not None:
        save_file(arrays, path)
    config = read_json(folder / "config.json") | {"arrays_sha256": sha256_file(path)} | fields
    config = {name: value for name, value in config.items() if name not in without}
    config.pop("sha256", None)  # as files of earlier releases are
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(("stages", "spare", "reading"), [(0, 0, "encoder"), (3, 0, "stages:3"), (2, 4, "stages:2+4")])
@pytest.mark.parametrize("kind", [ExpanderSae, DenseTopKSae])
def test_folders_of_version_2_are_read(kind, stages, spare, reading, tmp_path):
    sizes = {"d_in": 40, "n_latents": 300, "k": 6} | ({"degree": 5} if kind is ExpanderSae else {})
    kind(**sizes).save(tmp_path)
    rewrite(tmp_path, without=["reading"], version=2, stages=stages, spare=spare)
    assert str(load_sae(tmp_path).reading) == reading
    rewrite(tmp_path, stages=7, spare=0)
    with pytest.raises(ExpanderSaeError, match=r"stages as a whole number in 1\.\.6"):
        load_sae(tmp_path)


@pytest.mark.parametrize(
    "sae",
    [
        ExpanderSae(d_in=40, n_latents=300, degree=5, k=6, reading=Encoder()),
        ExpanderSae(
            d_in=300,
            n_latents=400,
            degree=4,
            k=6,
            seed=7,
            construction="uniform",
            signed=True,
            latent_bias=True,
            reading=Encoder(),
        ),
        DenseTopKSae(d_in=40, n_latents=90, k=6),
        DenseTopKSae(d_in=40, n_latents=90, k=6, tied=False, latent_bias=True),
    ],
    ids=["expander", "expander-signed", "dense", "dense-untied"],
)
def test_round_trip(sae, tmp_path):
    torch.manual_seed(0)
    with torch.no_grad():
        sae.b_dec.normal_()
    sae.metadata["model"] = "tiny"
    sae.save(tmp_path)
    again = load_sae(tmp_path)
    x = torch.randn(17, sae.d_in)
    torch.testing.assert_close(again(x), sae(x))
    assert again.describe() == sae.describe()
    assert again.metadata == {"model": "tiny"}
    assert again.folder == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "sae.safetensors"]


def test_a_seeded_mask_is_not_stored_and_given_rows_are_packed(tmp_path):
    seeded = ExpanderSae(d_in=200, n_latents=300, degree=5, k=6, reading=Encoder())
    seeded.save(tmp_path / "seeded")
    assert set(load_file(tmp_path / "seeded" / "sae.safetensors")) == {"values", "b_dec"}
    mask = mask_from_rows(make_mask(d_in=200, n_latents=300, degree=5, seed=3).rows, d_in=200)
    given = ExpanderSae(d_in=200, n_latents=300, degree=5, k=6, mask=mask, reading=Encoder())
    given.save(tmp_path / "given")
    arrays = load_file(tmp_path / "given" / "sae.safetensors")
    assert set(arrays) == {"values", "b_dec", "packed_rows"}
    assert [read_json(tmp_path / name / "config.json")["version"] for name in ("seeded", "given")] == [3, 3]
    assert arrays["packed_rows"].nbytes == -(-300 * column_bits(200, 5) // 8) < mask.rows.nbytes
    again = load_sae(tmp_path / "given")
    assert isinstance(again, ExpanderSae)
    assert np.array_equal(again.mask.rows, mask.rows)


def test_rows_as_integers_of_earlier_versions_are_read_and_damaged_ones_refused(tmp_path):
    mask = mask_from_rows(make_mask(d_in=200, n_latents=300, degree=5, seed=3).rows, d_in=200)
    sae = ExpanderSae(d_in=200, n_latents=300, degree=5, k=6, mask=mask, reading=Encoder())
    sae.save(tmp_path)
    packed_so = load_sae(tmp_path).values
    arrays = {name: array.clone() for name, array in load_file(tmp_path / "sae.safetensors").items()}
    packed = arrays.pop("packed_rows")
    rewrite(tmp_path, arrays | {"rows": torch.from_numpy(mask.rows.copy())}, ["reading"], version=1, stages=3)
    again = load_sae(tmp_path)
    assert again.mask == mask
    assert again.reading == Stages(3)  # version 1 had no spare columns
    rewrite(tmp_path, version=3, reading="encoder", without=["stages"])
    assert torch.equal(again.values, packed_so)
    rewrite(tmp_path, arrays | {"packed_rows": packed[:-1]})
    with pytest.raises(ExpanderSaeError, match="expected packed rows as uint8"):
        load_sae(tmp_path)
    rewrite(tmp_path, arrays | {"packed_rows": ~packed})
    with pytest.raises(
        ExpanderSaeError, match=r"sae.safetensors: expected 5 rows in every packed column.*copy it again"
    ):
        load_sae(tmp_path)
    rewrite(tmp_path, arrays | {"packed_rows": packed.to(torch.bfloat16)})
    with pytest.raises(ExpanderSaeError, match=r"as uint8 in .*; got torch\.bfloat16"):
        load_sae(tmp_path)
    rewrite(tmp_path, arrays | {"packed_rows": packed, "rows": torch.from_numpy(mask.rows.copy())})
    with pytest.raises(ExpanderSaeError, match="without rows beside them"):
        load_sae(tmp_path)
    ExpanderSae(d_in=200, n_latents=300, degree=5, k=6, reading=Encoder()).save(tmp_path / "seeded")
    rewrite(tmp_path / "seeded", load_file(tmp_path / "seeded" / "sae.safetensors") | {"packed_rows": packed})
    with pytest.raises(ExpanderSaeError, match="whose mask has no seed"):
        load_sae(tmp_path / "seeded")


def test_saving_folds_the_scale_but_not_in_memory(tmp_path):
    sae, x = ExpanderSae(d_in=40, n_latents=300, degree=5, k=6, reading=Encoder()), torch.randn(9, 40)
    with torch.no_grad():
        sae.b_dec.normal_()
        sae.input_scale.fill_(0.25)
    sae.save(tmp_path)
    assert float(sae.input_scale) == 0.25
    torch.testing.assert_close(load_sae(tmp_path)(x), sae(x))


@pytest.fixture
def saved(tmp_path):
    ExpanderSae(d_in=40, n_latents=300, degree=5, k=6, reading=Encoder()).save(tmp_path)
    return tmp_path


def test_a_flipped_byte_is_seen(saved):
    path = saved / "sae.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ExpanderSaeError, match="is damaged"):
        load_sae(saved)


def test_truncated_or_missing_files(saved):
    path = saved / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    rewrite(saved)
    with pytest.raises(ExpanderSaeError, match="not a whole safetensors file"):
        load_sae(saved)
    path.unlink()
    with pytest.raises(ExpanderSaeError, match="got none"):
        load_sae(saved)
    with pytest.raises(ExpanderSaeError, match="expected a JSON file"):
        load_sae(saved / "nowhere")


def test_wrong_shape_dtype_or_numbers(saved):
    arrays = load_file(saved / "sae.safetensors")
    rewrite(saved, arrays | {"values": arrays["values"][:, :4].contiguous()})
    with pytest.raises(ExpanderSaeError, match=r"expected values as torch.float32 \[300, 5\]"):
        load_sae(saved)
    rewrite(saved, arrays | {"values": arrays["values"].half()})
    with pytest.raises(ExpanderSaeError, match=r"got torch\.float16"):
        load_sae(saved)
    rewrite(saved, arrays | {"b_dec": torch.full((40,), float("nan"))})
    with pytest.raises(ExpanderSaeError, match=r"got NaN or infinity in b_dec"):
        load_sae(saved)
    rewrite(saved, {"values": arrays["values"]})
    with pytest.raises(ExpanderSaeError, match="expected arrays"):
        load_sae(saved)


def test_a_mask_that_comes_out_otherwise_is_refused(saved):
    mask = read_json(saved / "config.json")["mask"]
    rewrite(saved, mask=mask | {"seed": 1})
    with pytest.raises(ExpanderSaeError, match="wrong rows"):
        load_sae(saved)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"format": "other"}, "something else"),
        ({"version": 99}, "version 1"),
        ({"kind": "x"}, "kind"),
        ({"k": None}, "k as a"),
    ],
)
def test_a_garbled_config(saved, fields, says):
    rewrite(saved, **fields)
    with pytest.raises(ExpanderSaeError, match=says):
        load_sae(saved)


def test_a_diverged_sae_is_not_saved_and_the_old_one_stays(saved):
    sae = ExpanderSae(d_in=40, n_latents=300, degree=5, k=6, reading=Encoder())
    with torch.no_grad():
        sae.columns.raw.fill_(float("nan"))
    before = (saved / "sae.safetensors").read_bytes()
    with pytest.raises(ExpanderSaeError, match="diverged"):
        sae.save(saved)
    assert (saved / "sae.safetensors").read_bytes() == before
