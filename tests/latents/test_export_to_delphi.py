"""Codes as delphi's cache has them, read back by the steps of its loader."""

import numpy as np
import pytest
import torch
from peers import read_as_delphi

from expander_sae.activations import ActivationStore, harvest
from expander_sae.cli.export_latents import export_latents
from expander_sae.latents.building import Settings, build_store, sources
from expander_sae.latents.exports.delphi import write_delphi
from expander_sae.pursuit import parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import load_sae


@pytest.mark.parametrize("splits", [1, 5])
def test_every_firing_in_a_full_block_is_there(saes, activations, tmp_path, splits):
    sae = saes["sparse"]
    told = write_delphi(sae, activations, tmp_path, module="layers.1", model="m", splits=splits, batch_size=100)
    found, tokens, config, spans = read_as_delphi(tmp_path, "layers.1")
    text = activations.tokens("heldout")
    full = text.lengths == text.input_ids.shape[1]
    assert told["left_out"] == int((~full).sum()) > 0
    assert torch.equal(torch.from_numpy(tokens), text.input_ids[full])
    assert len(spans) == splits
    assert (spans[0][0], spans[-1][1]) == (0, sae.n_latents - 1)
    assert config["model_name"] == "m"

    x = torch.cat(list(activations.blocks("heldout"))).float()
    codes = sae.encode(x)
    table = torch.zeros(*text.input_ids.shape, sae.n_latents)
    at = (~text.special).nonzero()
    flat = torch.zeros(len(x), sae.n_latents).scatter_(1, codes.indices, codes.values.detach())
    table[at[:, 0], at[:, 1]] = flat
    table = table[full].numpy()
    expected = np.argwhere(np.abs(table) > 1e-5)
    assert told["firings"] == len(expected) == sum(len(locations) for locations, _ in found.values())
    for latent, (locations, values) in found.items():
        mine = expected[expected[:, 2] == latent]
        np.testing.assert_array_equal(locations, mine)
        np.testing.assert_array_equal(values, table[tuple(mine.T)].astype(np.float16))


def test_files_are_wide_where_they_have_to_be(saes, activations, tmp_path, monkeypatch):
    from expander_sae.latents.exports import delphi

    firings = np.zeros(2, dtype=delphi._FIRING)
    firings["row"] = [1, 70_000]
    delphi._write(tmp_path / "m" / "0_3.safetensors", firings, 0, torch.zeros(1, 4, dtype=torch.int32))
    from safetensors.numpy import load_file

    assert load_file(tmp_path / "m" / "0_3.safetensors")["locations"].dtype == np.uint32


def test_short_blocks_alone_are_an_error(saes, activations, language_model, articles, folder, tmp_path):
    short = harvest(
        language_model, articles, tmp_path / "acts", layer=1, context=250, heldout_share=0.5, dtype="float32",
        progress=False,
    )  # fmt: skip
    with pytest.raises(ExpanderSaeError, match="expected blocks of 250 tokens"):
        write_delphi(saes["sparse"], short, tmp_path / "out", module="m", model="m")
    with pytest.raises(ExpanderSaeError, match="from 1 to 96 files"):
        write_delphi(saes["sparse"], activations, tmp_path / "out", module="m", model="m", splits=97)


def test_the_verb_takes_the_stores_sae_and_reading(saes, activations, language_model, folder, tmp_path):
    sae = load_sae(folder / "saes" / "sparse")
    view = sources({"sparse": sae}, [parse_reading("stages:3")])
    store = tmp_path / "latents.db"
    build_store(view, activations, store, tokenizer=language_model.tokenizer, settings=Settings(), progress=False)
    common = {"store": store, "to": "delphi", "acts": activations.path, "quiet": True, "json": None}
    export_latents(out=tmp_path / "verb", sae=folder / "saes" / "sparse", **common)
    read = sae.read_by(parse_reading("stages:3"))
    write_delphi(read, ActivationStore.open(activations.path), tmp_path / "direct", module="layers.1", model="m")
    for file in (tmp_path / "direct" / "layers.1").glob("*.safetensors"):
        assert (tmp_path / "verb" / "layers.1" / file.name).read_bytes() == file.read_bytes()
    with pytest.raises(ExpanderSaeError, match=r"got another one\. Give it with --sae"):
        export_latents(out=tmp_path / "verb", sae=folder / "saes" / "dense", **common)
