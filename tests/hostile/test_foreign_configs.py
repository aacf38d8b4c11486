"""Readers refuse what changes the formula and what they do not know; what is known to change nothing is read."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "interop"))
import peer_files
from peer_files import D_IN, N_LATENTS, K, linear_state, random_weights

from expander_sae.interop import read_sae, write_sae
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError, read_json, sha256_file
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae


def dictionary_learning(folder):
    state = linear_state(random_weights(), b_dec=torch.zeros(D_IN), k=torch.tensor(K), threshold=torch.tensor(-1.0))
    return peer_files.dictionary_learning(folder, state, "AutoEncoderTopK")


MAKERS = {
    "saelens": (lambda folder: peer_files.saelens(folder, random_weights(), "topk", k=K), "cfg.json"),
    "saelens-ours": (lambda folder: write_sae(expander(), folder, "saelens"), "cfg.json"),
    "sparsify": (lambda folder: peer_files.sparsify(folder, random_weights()), "cfg.json"),
    "dictionary_learning": (dictionary_learning, "config.json"),
    "ours": (lambda folder: expander().save(folder), "config.json"),
    "ours-irregular": (lambda folder: irregular().save(folder), "config.json"),
    "ours-dense": (lambda folder: DenseTopKSae(d_in=12, n_latents=40, k=5).save(folder), "config.json"),
}


def expander():
    return ExpanderSae(d_in=12, n_latents=40, degree=3, k=5, reading=Encoder())


def irregular():
    return IrregularSae(d_in=12, n_latents=40, degree=6, entries=120, k=5, reading=Encoder())


def changed(form, folder, change, inside=None):
    make, name = MAKERS[form]
    make(folder)
    path = folder / name
    config = json.loads(path.read_text())
    (config if inside is None else config[inside]).update(change)
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("form", "change"),
    [
        *(("saelens", {"normalize_activations": how}) for how in ("layer_norm", "constant_norm_rescale", True, 3)),
        ("saelens", {"reshape_activations": "hook_z"}),
        ("saelens", {"activation_fn": "tanh-relu"}),
        ("saelens", {"activation_fn_kwargs": {"k": K, "signed": True}}),
        ("saelens", {"finetuning_scaling_factor": True}),
        ("saelens", {"apply_b_dec_to_input": "yes"}),
        ("saelens", {"rescale_acts_by_decoder_norm": 1}),
        ("saelens", {"architecture": "temporal"}),
        ("saelens", {"architecture": ["topk"]}),
        ("saelens", {"d_in": D_IN + 1}),
        ("saelens", {"d_sae": float(N_LATENTS)}),
        ("saelens", {"d_out": D_IN}),
        ("saelens", {"dtype": "float8"}),
        ("saelens-ours", {"apply_b_dec_to_input": False}),
        ("saelens-ours", {"signed": "no"}),
        ("sparsify", {"signed": True}),
        ("sparsify", {"embed_skip": True}),
        ("sparsify", {"gram_lookup": True}),
        ("sparsify", {"transcode": 1}),
        ("sparsify", {"activation": "groupmax"}),
        ("sparsify", {"num_latents": N_LATENTS + 1}),
        ("sparsify", {"d_in": D_IN + 1}),
        ("ours", {"tied": 1}),
        ("ours", {"version": 4}),
        *(("ours", {"reading": bad}) for bad in ("magic", "stages:99", "stages:2+9999", "warm:99", 3, None, [])),
        *((form, {"a_new_field": None}) for form in MAKERS),
        *((form, {"k": bad}) for form in MAKERS if form != "dictionary_learning" for bad in (True, 2.5, "5", -1, 0)),
        *((form, {"k": bad}) for form in MAKERS if form != "dictionary_learning" for bad in (float("nan"), 10**30, [])),
        *(("ours", {name: bad}) for name in ("d_in", "n_latents", "degree") for bad in (10**9, 10**6, -1, 1.0, None)),
        *(("ours", {"mask": bad}) for bad in (None, [], {}, {"construction": 1, "seed": 0, "sha256": ""})),
        *(("ours", {"seed": bad}) for bad in (10**40, "0", None)),
        *(("ours-irregular", {name: 10**9}) for name in ("degree", "n_latents", "entries", "d_in")),
        *(("ours-dense", {name: 10**6}) for name in ("n_latents", "d_in", "stages", "spare")),
    ],
    ids=str,
)
def test_what_a_reader_does_not_know_is_refused(form, change, tmp_path):
    if form == "ours-irregular" and "entries" in change:
        change = {"entries": -1}
    with pytest.raises(ExpanderSaeError):
        read_sae(changed(form, tmp_path / "sae", change))


@pytest.mark.parametrize("change", [{"k": K + 1}, {"activation_dim": 7}, {"dict_size": 7}, {"a_new_field": 1}])
def test_dictionary_learnings_trainer(change, tmp_path):
    with pytest.raises(ExpanderSaeError):
        read_sae(changed("dictionary_learning", tmp_path / "sae", change, "trainer"))


@pytest.mark.parametrize(
    ("form", "change", "inside"),
    [
        ("saelens", {"l1_coefficient": 5, "lr": 1e-3, "hook_layer": 3, "seqpos_slice": [None]}, None),
        (
            "saelens",
            {"dtype": "torch.bfloat16", "normalize_activations": None, "finetuning_scaling_factor": False},
            None,
        ),
        ("sparsify", {"multi_topk": True, "expansion_factor": 7, "signed": False, "num_latents": 0}, None),
        ("dictionary_learning", {"lr": 1e-4, "warmup_steps": 10, "activation_dim": D_IN, "k": K}, "trainer"),
    ],
)
def test_what_changes_nothing_is_read(form, change, inside, tmp_path):
    assert read_sae(changed(form, tmp_path / "sae", change, inside)).k == K


HOSTILE = {
    "deep": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "long integer": '{"k": ' + "9" * 10_000 + "}",
    "not UTF-8": b'{"k": "\xff\xfe"}',
    "zeros": b"\0" * 100,
    "list": "[]",
    "number": "5",
    "text": '"x"',
    "empty": "",
    "lone surrogate": '{"format": "\\ud83d"}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", MAKERS)
def test_configs_of_a_hostile_shape_are_one_error(form, content, tmp_path):
    make, name = MAKERS[form]
    make(tmp_path / "sae")
    (tmp_path / "sae" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ExpanderSaeError):
        read_sae(tmp_path / "sae")
    with pytest.raises(ExpanderSaeError):
        load_sae(tmp_path / "sae")


def test_a_folder_in_place_of_a_config_is_one_error(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ExpanderSaeError):
        read_json(tmp_path / "config.json")


def odd_tensors():
    return {
        "sparse": torch.eye(N_LATENTS, D_IN).to_sparse(),
        "csr": torch.eye(N_LATENTS, D_IN).to_sparse_csr(),
        "huge sparse": torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.int64), [1.0], (10**9, 10**9)),
        "meta": torch.empty(N_LATENTS, D_IN, device="meta"),
        "huge meta": torch.empty(10**9, 10**9, device="meta"),
        "quantised": torch.quantize_per_tensor(torch.zeros(N_LATENTS, D_IN), 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.zeros(D_IN)] * N_LATENTS),
        "strided": torch.zeros(1).expand(N_LATENTS, D_IN),
        "huge strided": torch.zeros(1).expand(10**6, 10**6),
        "integers": torch.zeros(N_LATENTS, D_IN, dtype=torch.int32),
        "complex": torch.zeros(N_LATENTS, D_IN, dtype=torch.complex64),
        "list": [1.0],
        "text": "x",
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("odd", odd_tensors())
@pytest.mark.parametrize("name", ["encoder.weight", "k"])
def test_pickled_tensors_that_are_not_ordinary_are_one_error(odd, name, tmp_path):
    dictionary_learning(tmp_path / "sae")
    path = tmp_path / "sae" / "ae.pt"
    torch.save(torch.load(path, weights_only=True) | {name: odd_tensors()[odd]}, path)
    with pytest.raises(ExpanderSaeError):
        read_sae(tmp_path / "sae")


def test_a_packed_pickle_is_refused_before_it_is_unpacked(tmp_path):
    import zipfile

    dictionary_learning(tmp_path / "sae")
    path = tmp_path / "sae" / "ae.pt"
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data if "/data/" not in name else b"\0" * 10**7)
    with pytest.raises(ExpanderSaeError, match="claims more than it holds"):
        read_sae(tmp_path / "sae")


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
@pytest.mark.parametrize("form", ["saelens", "sparsify", "dictionary_learning", "ours"])
def test_cut_off_arrays_are_one_error(form, keep, tmp_path):
    make, name = MAKERS[form]
    make(tmp_path / "sae")
    path = next(p for p in (tmp_path / "sae").iterdir() if p.name != name)
    path.write_bytes(path.read_bytes()[:keep])
    if form == "ours":
        config = json.loads((tmp_path / "sae" / name).read_text()) | {"arrays_sha256": sha256_file(path)}
        (tmp_path / "sae" / name).write_text(json.dumps(config))
    with pytest.raises(ExpanderSaeError):
        read_sae(tmp_path / "sae")
