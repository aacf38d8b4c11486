"""An SAE that meets activations of another model, place or scale: a warning, and a field of the record."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import ActivationStore, harvest, load_language_model
from expander_sae.cli.main import app
from expander_sae.compression import Recipe, compress
from expander_sae.evaluation import cross_entropy, evaluate
from expander_sae.interop import read_sae, write_sae
from expander_sae.interop.saebench import SaeBenchAdapter
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import (
    ExpanderSaeError,
    Provenance,
    ProvenanceWarning,
    check_provenance,
    read_json,
    write_json,
)
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae
from expander_sae.training import Inputs, StoreBatches, TrainConfig, train, with_own_encoder

COMMIT, OTHER = "a" * 40, "b" * 40
SAME = [
    ({"model": "EleutherAI/pythia-70m"}, {"model": "pythia-70m"}),
    ({"model": "gpt2"}, {"model": "openai-community/gpt2"}),
    ({"model": "gpt2-small"}, {"model": "gpt2"}),
    ({"model": "/data/models/Llama-3.1-8B"}, {"model": "meta-llama/Meta-Llama-3.1-8B"}),
    ({"model": "one", "revision": "sha256:1"}, {"model": "two", "revision": "sha256:1"}),
    ({"model": "old/name", "revision": COMMIT}, {"model": "new/name", "revision": COMMIT}),
    ({"model": "a/name", "revision": COMMIT}, {"model": "name", "revision": "sha256:1"}),
    ({"layer": 3}, {"module": "model.layers.3"}),
    ({"layer": 3}, {"module": "blocks.3.hook_resid_post"}),
    ({"layer": 2}, {"module": "blocks.3.hook_resid_pre"}),
    ({"layer": 3}, {"module": "_orig_mod.gpt_neox.layers.3"}),
    ({"layer": 3}, {"module": "resid_post_layer_3"}),
    ({"module": "blocks.3.hook_mlp_out"}, {"module": "transformer.h.3.mlp"}),
    ({"module": "layers.3.attention"}, {"module": "blocks.3.hook_attn_out"}),
    ({"module": "pooler"}, {"module": "bert.pooler"}),
    ({"layer": 3, "model": "a/x"}, {}),
    ({"normalisation": "none"}, {"model": "a/x", "d_in": 4}),
]
DIFFERENT = [
    ({"layer": 0}, {"layer": 2}, "after block 0, now after block 2"),
    ({"layer": 3}, {"module": "blocks.3.hook_resid_pre"}, "hook_resid_pre"),
    ({"layer": 3}, {"module": "model.layers.3.mlp"}, "mlp"),
    ({"module": "model.layers.3.mlp"}, {"module": "model.layers.3.self_attn"}, "self_attn"),
    ({"module": "encoder.layers.3"}, {"module": "decoder.layers.3"}, "decoder"),
    ({"model": "gpt2"}, {"model": "EleutherAI/pythia-70m"}, "pythia"),
    ({"model": "one/x"}, {"model": "two/x"}, "two/x"),
    ({"model": "x", "revision": COMMIT}, {"model": "x", "revision": OTHER}, "model"),
    ({"model": "x", "revision": "sha256:1"}, {"model": "x", "revision": "sha256:2"}, "sha256:2"),
    ({"normalisation": "layer_norm"}, {"normalisation": "none"}, "layer_norm, now none"),
    ({"d_in": 32}, {"d_in": 64}, "64"),
]


@pytest.mark.parametrize(("one", "another"), SAME)
def test_what_is_the_same_or_unknown_is_no_difference(one, another):
    for first, second in ((one, another), (another, one)):
        assert Provenance(**first).differences(Provenance(**second)) == []


@pytest.mark.parametrize(("one", "another", "says"), DIFFERENT)
def test_what_is_known_and_differs_is_said(one, another, says):
    found = Provenance(**one).differences(Provenance(**another))
    assert len(found) == 1
    assert says in found[0]
    assert len(Provenance(**another).differences(Provenance(**one))) == 1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, a text, and harvests after blocks 0 and 2."""
    folder = tmp_path_factory.mktemp("provenance")
    make_tiny_model(folder / "model")
    write_jsonl(folder / "text.jsonl", make_documents(16))
    lm = load_language_model(folder / "model", dtype="float32")
    for layer in (0, 2):
        harvest(lm, folder / "text.jsonl", folder / f"acts{layer}", layer=layer, context=32, progress=False)
    return folder


def sae_of(place, layer, kind=ExpanderSae):
    """An SAE of a layer, as `train` leaves it."""
    options = {"degree": 4, "reading": Stages(2)} if kind is ExpanderSae else {}
    sae = kind(d_in=D_IN, n_latents=64, k=4, **options)
    sae.metadata["activations"] = dict(ActivationStore.open(place / f"acts{layer}").manifest["settings"])
    return sae


CONFIG = TrainConfig(
    tokens=512, batch_size=128, fine_tune=True, inputs=Inputs(statistics_tokens=256), move_supports=None
)


def meet_evaluate(place, sae, store, folder):
    return evaluate({"s": sae}, store, progress=False)["s"].mismatches


def meet_train(place, sae, store, folder):
    record = train({"s": sae}, StoreBatches(store, CONFIG), CONFIG, folder=folder, progress=False)["s"]
    assert load_sae(folder / "s").metadata["training"]["mismatches"] == record.mismatches
    return record.mismatches


def meet_amortise(place, sae, store, folder):
    return meet_train(place, with_own_encoder(sae), store, folder)


def meet_compress(place, sae, store, folder):
    layer = sae.metadata["activations"]["layer"]
    dense, recipe = sae_of(place, layer, DenseTopKSae), Recipe(degree=4, tokens=0, sample_tokens=256)
    compress(dense, store, recipe, folder=folder, progress=False)
    return load_sae(folder / "expander-d4").metadata.get("mismatches")


def meet_cross_entropy(place, sae, store, folder):
    lm = load_language_model(place / "model", dtype="float32")
    blocks = store.tokens("heldout")[:1]
    cross_entropy({"s": sae}, lm, blocks, layer=store.layer, mean=torch.zeros(D_IN))
    return None


@pytest.mark.parametrize("meet", [meet_evaluate, meet_train, meet_amortise, meet_compress, meet_cross_entropy])
def test_every_meeting_in_the_library(place, tmp_path, meet):
    store = ActivationStore.open(place / "acts2")
    with pytest.warns(ProvenanceWarning, match="after block 0, now after block 2") as caught:
        found = meet(place, sae_of(place, 0), store, tmp_path / "a")
    assert len(caught) == 1
    assert meet is meet_cross_entropy or found == ["layer or module: after block 0, now after block 2"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert meet(place, sae_of(place, 2), store, tmp_path / "b") is None


@pytest.mark.parametrize("verb", ["eval", "encode", "certify"])
def test_every_meeting_on_the_command_line(place, tmp_path, verb, capfd):
    sae = sae_of(place, 0).save(tmp_path / "s")
    acts, out = str(place / "acts2"), str(tmp_path / "out.json")
    arguments = {
        "eval": [acts, str(sae), "--no-ce"],
        "encode": [str(sae), "--acts", acts, "--out", str(tmp_path / "c.safetensors")],
        "certify": [str(sae), "--acts", acts, "--max-tokens", "64"],
    }[verb]
    app([verb, *arguments, "--quiet", "--json", out], standalone_mode=False)
    shown = capfd.readouterr().err.splitlines()
    assert len(shown) == 1
    assert shown[0].startswith("warning: the SAE s was trained on other activations")
    written = read_json(out)
    found = {"eval": lambda: written["s"], "encode": lambda: written, "certify": lambda: written["codes"]}[verb]()
    assert "after block 0, now after block 2" in json.dumps(found["mismatches"])
    if verb == "encode":
        with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
            assert "after block 2" in file.metadata()["mismatches"]


def test_the_language_model_of_the_cross_entropy_is_compared_too(place, tmp_path):
    make_tiny_model(tmp_path / "model", seed=1)
    lm = load_language_model(tmp_path / "model", dtype="float32")
    store, sae = ActivationStore.open(place / "acts2"), sae_of(place, 2)
    with pytest.warns(ProvenanceWarning, match="another model than the cross entropy"):
        record = evaluate({"s": sae}, store, language_model=lm, ce_tokens=64, progress=False)["s"]
    assert record.mismatches is not None
    assert record.mismatches[0].startswith("cross entropy: model: model (sha256:")


@pytest.mark.parametrize(
    ("config", "differs"),
    [
        ({"hook_name": "blocks.2.hook_resid_post"}, None),
        ({"hook_name": "blocks.3.hook_resid_pre"}, None),
        ({"hook_name": "blocks.2.hook_resid_pre"}, "hook_resid_pre, now after block 2"),
        ({"hook_name": "blocks.2.hook_mlp_out"}, "hook_mlp_out"),
        ({"model_name": "gpt2-small"}, "gpt2-small"),
        ({"model_name": "someone/model"}, None),
    ],
)
def test_saes_of_other_libraries(place, tmp_path, config, differs):
    folder = write_sae(DenseTopKSae(d_in=D_IN, n_latents=64, k=4, tied=False), tmp_path / "s", "saelens-dense")
    written = read_json(folder / "cfg.json")
    write_json(folder / "cfg.json", written | {"metadata": config})
    read = read_sae(folder)
    store = ActivationStore.open(place / "acts2")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        record = evaluate({"s": read}, store, progress=False)["s"]
    if differs is None:
        assert record.mismatches is None
        assert not caught
    else:
        assert differs in record.mismatches[0]
        assert [warning.category for warning in caught] == [ProvenanceWarning]


def test_an_sae_that_reads_normalised_activations(place):
    sae = sae_of(place, 2)
    sae.metadata = {"imported": {"format": "openai", "input": "layer_norm"}}
    with pytest.warns(ProvenanceWarning, match="normalisation: layer_norm, now none"):
        evaluate({"s": sae}, ActivationStore.open(place / "acts2"), progress=False)


def test_garbled_records_are_unknown_and_widths_are_an_error():
    sae = ExpanderSae(d_in=D_IN, n_latents=64, degree=4, k=4, reading=Encoder())
    for metadata in ({"activations": 3}, {"activations": {"layer": "two", "model_id": 7}}, {"imported": []}):
        sae.metadata = metadata
        assert check_provenance("s", sae, Provenance(model="x", layer=2)) is None
    with pytest.raises(ExpanderSaeError, match="d_in 32, that of the SAE s; got 64"):
        check_provenance("s", sae, Provenance(d_in=64))


def test_saebench_is_told_of_another_layer(place):
    with pytest.warns(ProvenanceWarning, match="after block 1"):
        SaeBenchAdapter(sae_of(place, 2), layer=1)


def test_the_installed_command_says_it_in_one_line(place, tmp_path):
    sae = sae_of(place, 0).save(tmp_path / "s")
    command = [Path(sys.executable).with_name("expander-sae"), "eval", place / "acts2", sae, "--no-ce"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr.startswith("warning: the SAE s was trained on other activations (layer or module: after block 0")
    assert len(done.stderr.splitlines()) == 1
