"""Every format of file, damaged in every way: an error that names the file, or exactly what was written."""

import ast
import hashlib
import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any, NamedTuple

import damage
import numpy as np
import pytest
import torch
from shop import call, shop_in

import expander_sae
from expander_sae.activations import ActivationStore, ActivationStream
from expander_sae.cli.push import _records
from expander_sae.frontier import load_frontier
from expander_sae.frontier.experiments.run import read_record
from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.interop import read_sae
from expander_sae.latents import LabelFile, LatentStore
from expander_sae.latents.explanations import Explanation
from expander_sae.records import ExpanderSaeError
from expander_sae.records.sealed import read_sealed, write_sealed
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae
from expander_sae.training.checkpointing import load_checkpoint, save_checkpoint
from expander_sae.training.finished import recorded

sys.path.append(str(Path(__file__).parents[1] / "interop"))
import peer_files

STATE = {"fingerprint": "f", "members": {"a": torch.randn(40, generator=torch.Generator().manual_seed(0))}, "step": 3}
MOST = 700
"""Characters of an error, however much the file says."""


class Format(NamedTuple):
    """Files that are read together."""

    make: Any
    """Puts them into a folder, given it and the shop."""
    read: Any
    """Everything that is in them, given the folder."""
    files: tuple[str, ...]
    """Each is damaged in turn."""
    empty: bool = False
    """Whether an object without fields is one: nothing was finished then."""
    checked: bool = True
    """Whether a checksum tells other content from what was written; else it may be read if it has the right form."""


def sae_of(kind):
    def make(folder, shop):
        sizes = {"d_in": 32, "n_latents": 64, "k": 4, "seed": 1}
        if kind == "expander":
            sae = ExpanderSae(**sizes, degree=4)
        elif kind == "packed rows":
            rows = make_mask("uniform", d_in=32, n_latents=64, degree=4, seed=3).rows
            sae = ExpanderSae(**sizes, degree=4, mask=mask_from_rows(rows, d_in=32))
        elif kind == "irregular":
            sae = IrregularSae(**sizes, degree=6, entries=256)
        else:
            sae = DenseTopKSae(**sizes, tied=False)
        sae.metadata["activations"] = {"layer": 1}
        sae.save(folder)

    return make


def all_of_an_sae(folder):
    sae = load_sae(folder)
    rows = sae.mask.rows if isinstance(sae, ExpanderSae) else None
    return dict(sae.state_dict()), str(sae.reading), sae.k, sae.signed, sae.metadata, rows


def all_of_a_harvest(folder):
    store = ActivationStore.open(folder)
    blocks = [store.tokens(split) for split in ("train", "heldout")]
    batches = list(ActivationStream(store, batch_size=256, seed=0, epochs=1))
    return store.manifest, batches, [(one.input_ids, one.lengths, one.special) for one in blocks]


def copied(place):
    return lambda folder, shop: shutil.copytree(shop.folder / place, folder, dirs_exist_ok=True)


def by_verb(verb, name=""):
    return lambda folder, shop: call([*shop.arguments(verb, folder / name if name else folder), "--quiet"])


def all_of_a_store(folder):
    with LatentStore.open(folder / "latents.db") as store:
        latents = [store.latent(j).as_dict() for j in range(store.view().n_latents)]
        return store.meta, store.view().as_dict(), latents


def make_labels(folder, shop):
    with LabelFile(folder / "s.labels.db") as labels:
        for latent in range(40):
            labels.put(f"{latent % 2:064x}", latent, text=f"label {latent}", note="n" * latent, seen=0)
        labels.put_explanations([Explanation("0" * 64, 3, "encoder", "words", "rivers", {"f1": 0.5}, "2026")])
    connection = sqlite3.connect(folder / "s.labels.db")
    connection.execute("PRAGMA journal_mode=DELETE")  # one file, as a copy of it is
    connection.close()


def all_labels(folder):
    with LabelFile(folder / "s.labels.db") as labels:
        return labels.all(), labels.explanations("0" * 64)


def make_checkpoint(folder, shop):
    folder.mkdir(exist_ok=True)
    save_checkpoint(folder, STATE)


def peer(library):
    def make(folder, shop):
        weights = peer_files.random_weights()
        if library == "saelens":
            peer_files.saelens(folder, weights, "topk", k=peer_files.K, rescale_acts_by_decoder_norm=False)
        elif library == "sparsify":
            peer_files.sparsify(folder, weights)
        elif library == "openai":
            peer_files.openai(folder / "sae.pt", weights, activation="TopK", activation_state_dict={"k": peer_files.K})
        else:
            state = peer_files.linear_state(weights, b_dec=weights[3], k=torch.tensor(peer_files.K))
            peer_files.dictionary_learning(folder, state, "AutoEncoderTopK")

    return make


def all_of_a_peer(folder):
    return dict(read_sae(folder).state_dict())


SAE = ("config.json", "sae.safetensors")
FORMATS = {
    "an Expander SAE": Format(sae_of("expander"), all_of_an_sae, SAE),
    "an Expander SAE with packed rows": Format(sae_of("packed rows"), all_of_an_sae, SAE),
    "an irregular SAE": Format(sae_of("irregular"), all_of_an_sae, SAE),
    "a dense SAE": Format(sae_of("dense"), all_of_an_sae, SAE),
    "a harvest": Format(
        copied("acts"), all_of_a_harvest, ("manifest.json", "shard-00000.safetensors", "tokens-train.safetensors")
    ),
    "a checkpoint": Format(make_checkpoint, lambda at: load_checkpoint(at, "f"), ("checkpoint.pt",)),
    "a piece": Format(
        lambda at, shop: write_sealed(at / "piece.json", {"made_by": {"k": 4}, "x": [1, 2.5], "none": float("nan")}),
        lambda at: read_sealed(at / "piece.json"),
        ("piece.json",),
        empty=True,
    ),
    "a frontier": Format(by_verb("frontier"), lambda at: load_frontier(at).to_dict(), ("frontier.json",)),
    "an experiment": Format(
        by_verb("experiment"), lambda at: read_record(at / "geometry/records.json"), ("geometry/records.json",)
    ),
    "evaluations": Format(
        by_verb("eval", "r.json"), lambda at: _records(at / "r.json"), ("r.json",), checked=False
    ),
    "records of training": Format(
        copied("saes"), lambda at: recorded(at), ("training.json",), checked=False
    ),
    "a feature store": Format(by_verb("features", "latents.db"), all_of_a_store, ("latents.db",)),
    "labels": Format(make_labels, all_labels, ("s.labels.db",), checked=False),
    "SAELens": Format(peer("saelens"), all_of_a_peer, ("cfg.json", "sae_weights.safetensors"), checked=False),
    "sparsify": Format(peer("sparsify"), all_of_a_peer, ("cfg.json", "sae.safetensors"), checked=False),
    "dictionary_learning": Format(peer("dictionary_learning"), all_of_a_peer, ("config.json", "ae.pt"), checked=False),
    "OpenAI": Format(peer("openai"), lambda at: all_of_a_peer(at / "sae.pt"), ("sae.pt",), checked=False),
}  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


@pytest.fixture(scope="module")
def made(shop, tmp_path_factory):
    """A folder with the files of a format, made once."""
    known = {}

    def make(name):
        if name not in known:
            known[name] = tmp_path_factory.mktemp("made")
            FORMATS[name].make(known[name], shop)
        return known[name]

    return make


def digest(value):
    """Of tensors, arrays, records and plain values in any nesting."""
    if isinstance(value, torch.Tensor):
        value = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    if isinstance(value, np.ndarray):
        return hashlib.sha256(value.tobytes() + str(value.shape).encode()).hexdigest()
    if isinstance(value, dict):
        value = [[str(name), digest(one)] for name, one in value.items()]
    elif isinstance(value, list | tuple):
        value = [digest(one) for one in value]
    return hashlib.sha256(repr(value).encode()).hexdigest()


def damages(data, name):
    many = 10 if len(data) > 50_000 else 25
    yield from damage.of_any_file(data, many)
    if name.endswith(".json"):
        yield from damage.of_json(data)
    if name.endswith(".safetensors"):
        yield from damage.of_safetensors(data)


def tried(form, folder, names):
    """The digest of what is read, None if it is refused; and what is wrong with the refusal, or nothing."""
    try:
        return digest(form.read(folder)), ""
    except ExpanderSaeError as error:
        said = str(error)
        well = any(one in said for one in names) and len(said) <= MOST
        return None, "" if well else f"names no file, or is long: {said[:MOST]}"
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error)[:MOST]}"


@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_is_named_or_read_as_it_was_written(name, made, tmp_path):
    form = FORMATS[name]
    folder = shutil.copytree(made(name), tmp_path / "f")
    whole, names = digest(form.read(folder)), [path.name for path in folder.rglob("*")]
    wrong, refused = [], 0
    for file in form.files:
        path = folder / file
        data = path.read_bytes()
        for what, changed in damages(data, file):
            path.write_bytes(changed)
            found, complaint = tried(form, folder, names)
            refused += found is None
            if found and form.checked and found != whole and not (form.empty and what == "only {}"):
                complaint = "read as something else"
            wrong += [f"{file}, {what}: {complaint}"] * bool(complaint)
        path.write_bytes(data)
    assert digest(form.read(folder)) == whole
    assert refused > 10
    assert not wrong, "\n".join(wrong)


def resealed(value):
    """As a liar would: without the checksum, as files of earlier releases are."""
    return json.dumps({name: one for name, one in json.loads(value).items() if name != "sha256"}).encode()


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form.files[0].endswith(".json")])
def test_fields_that_no_checksum_guards_are_of_their_type_or_refused(name, made, tmp_path):
    form = FORMATS[name]
    folder = shutil.copytree(made(name), tmp_path / "f")
    path, names = folder / form.files[0], [path.name for path in folder.rglob("*")]
    wrong, refused = [], 0
    for what, changed in damage.of_json(resealed(path.read_bytes())):
        path.write_bytes(changed)
        found, complaint = tried(form, folder, names)
        refused += found is None
        wrong += [f"{what}: {complaint}"] * bool(complaint)
    assert refused > 5
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("kind", ["an Expander SAE with packed rows", "an irregular SAE", "a dense SAE"])
def test_arrays_of_noise_with_the_right_checksum_are_refused_or_an_sae(kind, made, tmp_path):
    folder = shutil.copytree(made(kind), tmp_path / "f")
    path = folder / "sae.safetensors"
    data, told = path.read_bytes(), json.loads((folder / "config.json").read_text())
    del told["sha256"]
    refused = []
    for what, changed in (*damage.of_safetensors(data), *damage.of_any_file(data, 60)):
        path.write_bytes(changed)
        (folder / "config.json").write_text(json.dumps(told | {"arrays_sha256": hashlib.sha256(changed).hexdigest()}))
        try:
            sae = load_sae(folder)
        except ExpanderSaeError as error:
            refused.append(what)
            assert any(one in str(error) for one in SAE), what  # noqa: PT017
            continue
        codes = sae.encode(torch.randn(3, 32))
        assert bool(torch.isfinite(sae.decode(codes)).all()), what
        if isinstance(sae, ExpanderSae):
            assert int(sae.mask.rows.max()) < 32, what
    assert len(refused) > 20


def test_files_that_changed_places_are_noticed(made, tmp_path):
    folder = shutil.copytree(made("a harvest"), tmp_path / "acts")
    one, two = (folder / f"shard-0000{number}.safetensors" for number in (0, 1))
    data = one.read_bytes(), two.read_bytes()
    one.write_bytes(data[1])
    two.write_bytes(data[0])
    with pytest.raises(ExpanderSaeError, match=r"shard-0000\d.safetensors"):
        all_of_a_harvest(folder)
    for mine, other in (("an Expander SAE", "an irregular SAE"), ("a dense SAE", "an Expander SAE")):
        for file in SAE:
            folder = shutil.copytree(made(mine), tmp_path / mine, dirs_exist_ok=True)
            shutil.copy(made(other) / file, folder / file)
            with pytest.raises(ExpanderSaeError, match=r"sae\.safetensors is damaged"):
                load_sae(folder)
    shutil.copy(made("labels") / "s.labels.db", tmp_path / "latents.db")
    with pytest.raises(ExpanderSaeError, match=r"latents.db"):
        all_of_a_store(tmp_path)
    shutil.copy(made("a feature store") / "latents.db", tmp_path / "s.labels.db")
    assert all_labels(tmp_path) == ([], [])  # it has none


READERS = {"read_json", "read_sealed", "safe_open", "load_file", "json.loads", "torch.load", "np.load", "np.memmap",
           "sqlite3.connect", "tomllib.loads", "zipfile.ZipFile", "csv.DictReader"}  # fmt: skip
"""Calls by which what is in a file becomes values."""
TESTED = {
    "records.sealed": "a piece",
    "records.files": "a piece",
    "saes.files": "an Expander SAE",
    "saes.tensor_files": "an Expander SAE",
    "activations.shards": "a harvest",
    "activations.tokens": "a harvest",
    "training.checkpointing": "a checkpoint",
    "training.finished": "records of training",
    "frontier.pieces": "a piece",
    "frontier.results": "a frontier",
    "frontier.experiments.run": "an experiment",
    "frontier.experiments.report": "an experiment",
    "frontier.experiments.context": "a piece",
    "latents.connection": "a feature store",
    "latents.store": "a feature store",
    "latents.writing": "a feature store",
    "latents.labels": "labels",
    "latents.explanations": "labels",
    "interop.tensors": "sparsify",
    "cli.push": "evaluations",
}
"""Which format above goes through a module."""
ELSEWHERE = {
    "activations.documents": "text: tests/hostile/test_text_and_hub.py",
    "activations.harvest": "the manifest of a harvest that goes on: tests/activations/test_harvest.py",
    "activations.offline": "the wheels, by checksum: tests/hostile/test_activations_hostile.py",
    "cli.encode": "only asks whether a file is one of codes",
    "compression.compress": "asks load_sae too",
    "dashboard.asked": "the body of a request: tests/dashboard",
    "evaluation.chat": "what a chat model says: tests/meaning",
    "evaluation.endpoint": "what an endpoint says: tests/meaning",
    "evaluation.meaning.labelled": "labelled texts: tests/meaning",
    "frontier.experiments.learning_curves": "lines of the pass's own log",
    "frontier.passes": "lines of the pass's own log",
    "latents.building.pairs": "the work folder of an interrupted run: tests/latents/test_resume.py",
    "latents.building.reading": "the work folder of an interrupted run: tests/latents/test_resume.py",
    "latents.explain.answers": "answers of a chat model: tests/latents/test_explain_chat.py",
    "latents.explain.embedding": "answers that were kept: tests/latents/test_explain_embedding.py",
    "latents.explain.prompts": "what a chat model says: tests/latents/test_explain_chat.py",
    "latents.exports.upload": "the answer of a server: tests/latents/test_exports_of_latents.py",
    "paper.results": "tables that are part of the package",
    "recipes.recipe": "recipes: tests/recipes",
    "serving.wire": "the body of a request: tests/serving/test_hostile_requests.py",
}


def test_whoever_reads_a_new_kind_of_file_enters_it_here():
    root = Path(expander_sae.__file__).parent
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS:
                found.add(".".join(path.relative_to(root).with_suffix("").parts))
    assert sorted(found) == sorted({**TESTED, **ELSEWHERE})
    assert set(TESTED.values()) <= set(FORMATS)
