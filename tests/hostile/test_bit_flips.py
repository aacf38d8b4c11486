"""One bit of what a rerun goes on from: it is noticed, or what is read is what was written."""

import json
import random
import sys
from pathlib import Path

import pytest
import torch
from shop import call, shop_in

from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.records.sealed import read_sealed, write_sealed
from expander_sae.saes import ExpanderSae
from expander_sae.training import TrainConfig, Watch, run, train
from expander_sae.training.checkpointing import load_checkpoint, save_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from memory_source import MemorySource, sparse_activations

STATE = {"fingerprint": "f", "members": {"a": torch.randn(40, generator=torch.Generator().manual_seed(0))}, "step": 3}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some_bits(data, many=60):
    """Of everywhere, and many of the last bytes, where the checksum is."""
    bits = random.Random(0).sample(range(8 * len(data)), many)
    return [*bits, *range(8 * len(data) - 8 * 72, 8 * len(data), 5)]


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path):
    save_checkpoint(tmp_path, STATE)
    path = tmp_path / "checkpoint.pt"
    data = path.read_bytes()
    for bit in some_bits(data):
        path.write_bytes(flipped(data, bit))
        with pytest.raises(ExpanderSaeError, match=r"checkpoint.pt is damaged.*start this training pass anew"):
            load_checkpoint(tmp_path, "f")
    for size in (0, 1, 100, len(data) - 71, len(data) - 1):
        path.write_bytes(data[:size])
        with pytest.raises(ExpanderSaeError, match="damaged"):
            load_checkpoint(tmp_path, "f")
    path.write_bytes(data)
    assert torch.equal(load_checkpoint(tmp_path, "f")["members"]["a"], STATE["members"]["a"])


def test_a_flipped_bit_of_a_checkpoint_without_a_checksum_is_noticed_where_it_matters(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save(STATE, path)  # as earlier releases wrote it
    data = path.read_bytes()
    refused = 0
    for bit in some_bits(data):
        path.write_bytes(flipped(data, bit))
        try:
            found = load_checkpoint(tmp_path, "f")
        except ExpanderSaeError:
            refused += 1
        else:
            assert torch.equal(found["members"]["a"], STATE["members"]["a"])
            assert (found["step"], set(found)) == (3, set(STATE))
    assert refused > 40


@pytest.mark.parametrize("fine_tune", [False, True])
def test_a_checkpoint_of_an_earlier_release_is_gone_on_from(fine_tune, tmp_path, monkeypatch):
    x = sparse_activations()
    config = TrainConfig(tokens=256 * 8, batch_size=256, fine_tune=fine_tune, watch=Watch(checkpoint_every=0))

    def trained(folder, interrupt_at=None):
        source, sae = MemorySource(x), ExpanderSae(d_in=48, n_latents=96, degree=4, k=4, reading=Encoder())
        source.interrupt_at = interrupt_at
        train({"a": sae}, source, config, folder=tmp_path / folder, progress=False)
        return sae.state_dict()

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("parts", interrupt_at=5)
    path = tmp_path / "parts" / "checkpoint.pt"
    asked = []  # where a fine-tuning begins was not part of its fingerprint
    monkeypatch.setattr(run, "load_checkpoint", lambda *_, before_seals: asked.append(before_seals))
    trained("asked")
    monkeypatch.undo()
    torch.save(torch.load(path, weights_only=True) | {"fingerprint": asked[0]}, path)
    for name, value in trained("parts").items():
        assert torch.equal(whole[name], value), name


def test_every_flipped_bit_of_a_piece_is_noticed_or_harmless(tmp_path):
    piece = {"made_by": {"k": 4, "x": [1, 2.5]}, "training": {"fvu": 0.123456, "name": "é"}, "none": float("nan")}
    path = tmp_path / "piece.json"
    write_sealed(path, piece)
    data, whole = path.read_bytes(), read_sealed(path)
    assert whole == {**piece, "none": None}
    silent = 0
    for bit in range(0, 8 * len(data), 7):
        path.write_bytes(flipped(data, bit))
        try:
            found = read_sealed(path)
        except ExpanderSaeError:
            continue
        silent += 1
        assert {name: found[name] for name in whole} == whole
    assert silent < 0.1 / 7 * 8 * len(data)  # blanks, and the checksum's own name


def test_a_changed_number_of_a_frontier_is_noticed(shop, tmp_path):
    call([*shop.arguments("frontier", tmp_path), "--quiet"])
    path = tmp_path / "pieces" / "expander-d4-seed0.json"
    whole = path.read_text()
    for part in ("training", "evaluations"):
        piece = json.loads(whole)
        of = piece["training"] if part == "training" else next(iter(piece["evaluations"].values()))["record"]
        of["final_fvu" if part == "training" else "fvu"] *= 0.5
        path.write_text(json.dumps(piece))
        with pytest.raises(ExpanderSaeError, match=r"expander-d4-seed0.json is damaged: its checksum"):
            call([*shop.arguments("frontier", tmp_path), "--quiet"])
    path.write_text(whole)
    call([*shop.arguments("frontier", tmp_path), "--quiet"])


def test_a_piece_of_an_earlier_release_is_read(tmp_path):
    (tmp_path / "piece.json").write_text(json.dumps({"a": 1}))
    assert read_sealed(tmp_path / "piece.json") == {"a": 1}
