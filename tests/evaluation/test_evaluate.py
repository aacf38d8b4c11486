"""The whole evaluation: which tokens count, what a record holds, and what is refused."""

import math

import pytest
import torch
from memory_store import MemoryStore, harvest_in_memory
from tiny_models import D_IN, make_tiny_model

from expander_sae.activations.models import load_language_model
from expander_sae.evaluation import cross_entropy, evaluate
from expander_sae.pursuit import Encoder
from expander_sae.records import EvaluationRecord, ExpanderSaeError, read_json, write_json
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return load_language_model(make_tiny_model(tmp_path_factory.mktemp("llama")), dtype="float32")


def make_saes():
    return {
        "d4": ExpanderSae(d_in=D_IN, n_latents=64, degree=4, k=6, seed=3, reading=Encoder()),
        "dense": DenseTopKSae(d_in=D_IN, n_latents=64, k=6, seed=3),
    }


def direct_fvu(sae, x):
    x = x.double()
    x_hat = sae(x.float()).double()
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


@torch.no_grad()
def test_a_full_record(language_model, tmp_path):
    store = harvest_in_memory(language_model)
    saes = make_saes()
    saes["d4"].save(tmp_path / "d4")
    records = evaluate(saes, store, language_model=language_model, ce_tokens=None, batch_size=64, progress=False)
    assert list(records) == ["d4", "dense"]
    x = store.x["heldout"][~store.special["heldout"]]
    for name, record in records.items():
        assert record.name == name
        assert record.tokens == len(x)
        assert record.fvu == pytest.approx(direct_fvu(saes[name], x), rel=1e-6)
        assert record.explained_variance == 1 - record.fvu
        assert record.encode_tokens_per_second > 0
        assert record.ce_tokens == 12 * 23
        assert record.splice == "ordinary"
    alone = cross_entropy(
        {"dense": saes["dense"]}, language_model, store.text["heldout"], layer=1, mean=x.double().mean(0)
    )["dense"]
    assert {name: getattr(records["dense"], name) for name in alone._fields} == alone._asdict()
    sparse = records["d4"]
    assert (sparse.kind, sparse.degree, sparse.construction, sparse.mask_seed) == ("expander", 4, "balanced", 3)
    assert sparse.decoder_values == 4 * 64
    assert sparse.learned_values == 4 * 64 + D_IN
    files = [file for file in (tmp_path / "d4").iterdir() if not file.name.startswith(".")]
    assert sparse.bytes_on_disk == sum(file.stat().st_size for file in files)
    dense = records["dense"]
    assert (dense.kind, dense.degree, dense.construction, dense.bytes_on_disk) == ("dense", D_IN, None, None)
    assert (dense.model_id, dense.layer) == ("tiny", 1)
    write_json(tmp_path / "record.json", sparse.to_dict())
    assert EvaluationRecord.from_dict(read_json(tmp_path / "record.json")) == sparse


def test_without_a_language_model_there_is_no_cross_entropy(language_model):
    records = evaluate(make_saes(), harvest_in_memory(language_model), progress=False)
    assert records["d4"].ce_clean is None
    assert records["d4"].splice is None
    assert math.isfinite(records["d4"].fvu)


@torch.no_grad()
def test_special_tokens_are_left_out_unless_kept():
    x = torch.randn(300, D_IN) + 1
    special = torch.arange(300) % 10 == 0
    store = MemoryStore({"heldout": x}, {"heldout": special})
    saes = make_saes()
    for keep, rows in ((False, x[~special]), (True, x)):
        record = evaluate(saes, store, keep_special_tokens=keep, progress=False)["d4"]
        assert (record.tokens, record.keep_special_tokens) == (len(rows), keep)
        assert record.fvu == pytest.approx(direct_fvu(saes["d4"], rows), rel=1e-6)


@torch.no_grad()
def test_giant_tokens_are_left_out_counted_and_can_be_kept():
    x = torch.randn(500, D_IN)
    x[[3, 250, 499]] *= 200
    store = MemoryStore({"heldout": x})
    saes = make_saes()
    record = evaluate(saes, store, batch_size=64, progress=False)["d4"]
    ordinary = x[x.norm(dim=1) <= 5 * x.norm(dim=1).median()]
    assert (record.tokens, record.outlier_tokens, record.outlier_medians) == (497, 3, 5.0)
    assert record.fvu == pytest.approx(direct_fvu(saes["d4"], ordinary), rel=1e-6)
    kept = evaluate(saes, store, outlier_medians=None, progress=False)["d4"]
    assert (kept.tokens, kept.outlier_tokens) == (500, 0)
    assert kept.fvu == pytest.approx(direct_fvu(saes["d4"], x), rel=1e-6)


@torch.no_grad()
def test_the_first_tokens_only():
    x = torch.randn(500, D_IN)
    saes = make_saes()
    record = evaluate(saes, MemoryStore({"heldout": x}), max_tokens=130, progress=False)["dense"]
    assert record.tokens == 130
    assert record.fvu == pytest.approx(direct_fvu(saes["dense"], x[:130]), rel=1e-6)


def test_training_mode_is_as_it_was():
    saes = make_saes()
    saes["d4"].eval()
    evaluate(saes, MemoryStore({"heldout": torch.randn(50, D_IN)}), progress=False)
    assert not saes["d4"].training
    assert saes["dense"].training


def test_other_weights_than_the_harvested_ones_are_noticed(language_model):
    store = harvest_in_memory(language_model)
    store.manifest["settings"]["model_revision"] = "sha256:another"
    with pytest.warns(UserWarning, match="activations come from"):
        evaluate(make_saes(), store, language_model=language_model, progress=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"splice": "odd"}, "ordinary, everywhere"),
        ({"batch_size": 0}, "positive batch size"),
        ({"max_tokens": 0}, "positive number of tokens"),
        ({"outlier_medians": 0.5}, "above 1 median"),
    ],
)
def test_impossible_settings(arguments, said):
    with pytest.raises(ExpanderSaeError, match=said):
        evaluate(make_saes(), MemoryStore({"heldout": torch.randn(9, D_IN)}), progress=False, **arguments)


def test_saes_of_another_width_or_none_at_all_or_no_tokens():
    store = MemoryStore({"heldout": torch.randn(9, D_IN + 1)})
    with pytest.raises(ExpanderSaeError, match=f"d_in {D_IN + 1}.*got d4 of {D_IN}"):
        evaluate(make_saes(), store, progress=False)
    with pytest.raises(ExpanderSaeError, match="at least one SAE"):
        evaluate({}, store, progress=False)
    with pytest.raises(ExpanderSaeError, match="at least one token"):
        evaluate(make_saes(), MemoryStore({"heldout": torch.randn(0, D_IN)}), progress=False)


def test_a_loaded_sae_scores_as_it_did(tmp_path):
    store = MemoryStore({"heldout": torch.randn(200, D_IN)})
    sae = make_saes()["d4"]
    sae.save(tmp_path / "sae")
    loaded = load_sae(tmp_path / "sae")
    records = evaluate({"one": sae, "two": loaded}, store, progress=False)
    assert records["one"].fvu == pytest.approx(records["two"].fvu, rel=1e-6)
