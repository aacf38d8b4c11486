"""`prepare`, `probe` and the verb: a whole probe of tiny SAEs, and what it refuses."""

import pytest
import torch
from scipy import sparse
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl
from typer.testing import CliRunner

from expander_sae import ExpanderSae
from expander_sae.activations import harvest, load_tokenizer
from expander_sae.cli import main
from expander_sae.evaluation.meaning import prepare, probe
from expander_sae.evaluation.meaning.features import Features
from expander_sae.evaluation.meaning.probe import OF_BLOCKS, SPLITS, score
from expander_sae.pursuit import Encoder
from expander_sae.records import NULLS, ExpanderSaeError, ProbeRecord, read_json
from expander_sae.saes import DenseTopKSae


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A harvest of a tiny model, its model's folder, and two saved SAEs."""
    folder = tmp_path_factory.mktemp("probe")
    model = make_tiny_model(folder / "model", "llama")
    text = write_jsonl(folder / "text.jsonl", make_documents(24))
    store = harvest(model, text, folder / "acts", layer=1, context=64, heldout_share=0.5, progress=False)
    sizes = {"d_in": D_IN, "n_latents": 96, "k": 4}
    for name, sae in (("sparse", ExpanderSae(**sizes, degree=4)), ("dense", DenseTopKSae(**sizes))):
        sae.b_dec.data.copy_(store.sample("train", 500, seed=0).mean(0))
        sae.eval().save(folder / name)
    return folder, store, model


@pytest.fixture(scope="module")
def probed(place):
    _, store, model = place
    return prepare(store, load_tokenizer(model))


def test_halves_share_neither_documents_nor_blocks(place, probed):
    _, store, _ = place
    assert probed.documents > 4
    assert all(len(half.fit) + len(half.test) == len(probed.x) for both in probed.splits for half in both)
    for concepts in (probed.broad, probed.narrow):
        for number, mine in probed.by_split(concepts).items():
            for place in mine:
                concept = concepts[place]
                assert (number == SPLITS) == (concept.group in OF_BLOCKS)
                for half in probed.splits[number]:
                    assert concept.labels[half.fit].sum() >= 8, concept.name
                    assert concept.labels[half.test].sum() >= 8, concept.name
    assert {c.group for c in probed.broad} - set(OF_BLOCKS)
    assert len(probed.x) == store.n_tokens("heldout")


def test_every_dictionary_and_null_gets_a_record(place, probed):
    _, store, _ = place
    sae = ExpanderSae(d_in=D_IN, n_latents=96, degree=4, k=4).eval()
    sample = store.sample("train", 500, seed=0)
    records = probe({"a": sae, "b": sae, "one pass": sae.read_by(Encoder())}, probed, sample)
    nulls = ["half untrained"] * 6 + ["untrained"] * 2 + ["coordinates"] * 2
    assert [r.kind for r in records] == ["expander"] * 3 + nulls
    assert [r.name for r in records[3:5]] == ["a, rows shuffled", "a, values redrawn"]
    a, b = records[:2]
    assert (a.f1_1, a.f1_5, a.narrow_f1) == (b.f1_1, b.f1_5, b.narrow_f1)
    for record in records:
        kept = (record.support_kept, record.energy_kept)
        assert kept == (None, None) if record.kind in NULLS else 0 < kept[0] <= kept[1] <= 1
    for record in records:
        assert ProbeRecord.from_dict(record.to_dict()) == record
        assert record.tokens == len(probed.x)
        assert 0 <= record.narrow_above_half <= 1
        # Where concepts stand is no luck: any feature tells them better than it tells the same labels elsewhere.
        assert record.f1_1 > record.shuffled_f1_1
    assert probe({"a": sae}, probed, sample, nulls=False)[0] == a


def test_a_dictionary_with_the_answers_gets_them(probed):
    """One latent for each concept, made by hand, is told from one without."""
    labels = torch.stack([torch.from_numpy(c.labels) for c in probed.narrow[:5]]).double()
    features = Features("known", sparse.csc_matrix(labels.T.numpy()))
    only = probed._replace(narrow=probed.narrow[:5])
    record = score(features, only, "standardised", 0, kind="known", reading="", learned_values=0)
    assert record.narrow_f1 == 1.0
    assert record.narrow_above_half == 1.0
    assert record.shuffled_narrow_f1 < 0.5


def test_an_sae_of_another_width_is_refused(place, probed):
    _, store, _ = place
    wide = ExpanderSae(d_in=D_IN + 1, n_latents=96, degree=4, k=4)
    with pytest.raises(ExpanderSaeError, match="expected an SAE of d_in 32"):
        probe({"wide": wide}, probed, store.sample("train", 100, seed=0))


def test_too_little_text_is_refused(place):
    _, store, model = place
    with pytest.raises(ExpanderSaeError, match="Harvest more held-out text"):
        prepare(store, load_tokenizer(model), max_tokens=10)


def call(*arguments):
    return CliRunner().invoke(main.app, [str(a) for a in arguments])


def test_the_verb(place):
    folder, _, model = place
    json = folder / "probe.json"
    where = ("--acts", folder / "acts", "--model", model, "--json", json)
    done = call("probe", folder / "sparse", folder / "dense", *where)
    assert done.exit_code == 0, done.output
    found = read_json(json)
    assert [r["name"] for r in found[:2]] == ["sparse", "dense"]
    assert [r["kind"] for r in found[2:]] == ["half untrained"] * 2 + ["untrained"] * 2 + ["coordinates"] * 2
    assert "raw" in done.output
    assert "principal" in done.output
    two = call("probe", folder / "sparse", *where, "--inference", "encoder,omp", "--no-nulls", "--quiet")
    assert two.exit_code == 0, two.output
    assert [(r["name"], r["reading"]) for r in read_json(json)] == [
        ("sparse encoder", "encoder"),
        ("sparse omp", "omp"),
    ]


def test_activations_of_another_layer_are_warned_of_and_recorded(place, tmp_path):
    folder, store, model = place
    sae = ExpanderSae(d_in=D_IN, n_latents=96, degree=4, k=4)
    sae.metadata = {"activations": {**store.manifest["settings"], "layer": 0}}
    sae.eval().save(tmp_path / "elsewhere")
    json = tmp_path / "probe.json"
    where = ("--acts", folder / "acts", "--model", model, "--json", json)
    done = call("probe", tmp_path / "elsewhere", *where, "--no-nulls", "--max-tokens", "600")
    assert done.exit_code == 0, done.output
    assert "now after block 1" in " ".join(done.output.split())
    (record,) = read_json(json)
    assert "after block 0, now after block 1" in record["mismatches"][0]


def test_the_verb_refuses_another_models_tokenizer_and_another_selection(place, tmp_path):
    folder, _, _ = place
    other = make_tiny_model(tmp_path / "other", "llama", adds_bos=True)
    done = call("probe", folder / "sparse", "--acts", folder / "acts", "--model", other)
    assert "expected the tokenizer" in str(done.exception)
    done = call("probe", folder / "sparse", "--acts", folder / "acts", "--model", other, "--selection", "best")
    assert "expected --selection out of" in str(done.exception)
