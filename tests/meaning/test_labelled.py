"""Labelled texts: reading them, dealing balanced tasks, means over tokens, accuracies, and the verb."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from tiny_models import D_IN, make_tiny_model
from typer.testing import CliRunner

from expander_sae import ExpanderSae
from expander_sae.activations import load_language_model
from expander_sae.activations.models import residual_after_block
from expander_sae.cli import main
from expander_sae.evaluation.meaning import (
    LabelledTexts,
    deal,
    labelled_probe,
    probe_labelled,
    read_labelled,
    text_means,
)
from expander_sae.evaluation.meaning.accuracy import accuracy, largest_differences
from expander_sae.evaluation.meaning.features import Features
from expander_sae.evaluation.meaning.hub_sets import HUB_SETS, LEAST_CODE, LICENSE_CHARACTERS, read_hub_set
from expander_sae.evaluation.meaning.perturbation import ABLATED
from expander_sae.evaluation.meaning.regularised import mean_auc
from expander_sae.records import ExpanderSaeError, LabelledProbeRecord, read_json
from expander_sae.saes import DenseTopKSae

TOPICS = {
    "water": "the old river finds the quiet bird",
    "house": "a heavy lamp breaks the narrow map",
    "count": "12 90 7",
}


def make_labelled(each=60, **more):
    """Texts of three topics, no two the same."""
    draw = np.random.default_rng(0)
    texts, labels = [], []
    for name, words in TOPICS.items():
        for number in range(each):
            texts.append(" ".join(draw.permutation(words.split())) + f" {number}")
            labels.append(name)
    return LabelledTexts("made up", texts, labels, **more)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("labelled") / "model", "llama")


def make_sae(kind=ExpanderSae, **more):
    sae = kind(d_in=D_IN, n_latents=96, k=4, **more).eval()
    sae.metadata = {"activations": {"model_id": "tiny", "layer": 1}}
    return sae


def test_a_folder_and_lines_say_the_same(tmp_path):
    rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(6)]
    for n, row in enumerate(rows):
        (tmp_path / "set" / row["label"]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / row["label"] / f"{n}.txt").write_text(row["text"])
    lines = read_labelled(write_lines(tmp_path / "set.jsonl", [*rows, {"text": "  ", "label": "a"}]))
    folder = read_labelled(tmp_path / "set")
    assert sorted(zip(lines.texts, lines.labels, strict=True)) == sorted(zip(folder.texts, folder.labels, strict=True))
    assert lines.name == folder.name == "set"
    assert lines.classes == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"text": "a", "label": "x"}], "two classes or more"),
        ([{"text": "a"}], "a text and a label"),
        ([{"text": "a", "label": "x", "split": "dev"}, {"text": "b", "label": "y"}], "split train or test"),
        ([{"text": "a", "label": "x", "split": "test"}, {"text": "b", "label": "y"}], "in every row"),
        ([["a", "x"]], "a JSON object"),
    ],
)
def test_rows_that_are_not_labelled_are_refused(tmp_path, rows, said):
    with pytest.raises(ExpanderSaeError, match=said):
        read_labelled(write_lines(tmp_path / "bad.jsonl", rows))
    with pytest.raises(ExpanderSaeError, match="expected labelled texts"):
        read_labelled(tmp_path / "nothing")


def test_tasks_are_balanced_and_share_no_text_between_sides():
    labelled = make_labelled(60)
    dealt = deal(labelled, train_size=80, test_size=20)
    assert [task.name for task in dealt.tasks] == sorted(TOPICS)
    for task in dealt.tasks:
        for rows, labels in ((task.fit, task.fit_labels), (task.test, task.test_labels)):
            assert len(set(rows)) == len(rows)
            assert labels.sum() * 2 == len(rows)
            assert ((dealt.labels[rows] == task.name) == labels).all()
            counts = [int((dealt.labels[rows] == name).sum()) for name in TOPICS if name != task.name]
            assert abs(counts[0] - counts[1]) <= 1
        assert len(task.fit) == 80
        assert len(task.test) == 20
        assert dealt.training[task.fit].all()
        assert not dealt.training[task.test].any()
    again = deal(labelled, train_size=80, test_size=20)
    assert all(np.array_equal(a.fit, b.fit) for a, b in zip(dealt.tasks, again.tasks, strict=True))


def test_a_split_and_an_attribute_are_kept():
    splits = (["train"] * 40 + ["test"] * 20) * 3
    attributes = (["x"] * 30 + ["y"] * 10 + ["x", "y"] * 10) * 3
    dealt = deal(make_labelled(60, splits=splits, attributes=attributes), train_size=80, test_size=40)
    for name in TOPICS:
        for training in (True, False):
            here = dealt.attributes[(dealt.labels == name) & (dealt.training == training)]
            assert (here == "x").sum() == (here == "y").sum() == 10
    texts = make_labelled(60).texts
    assert {splits[texts.index(text)] for text in np.array(dealt.texts)[dealt.training]} == {"train"}


def test_too_few_texts_are_refused():
    with pytest.raises(ExpanderSaeError, match="Give more texts"):
        deal(make_labelled(12))
    with pytest.raises(ExpanderSaeError, match="at least 40 texts"):
        deal(make_labelled(60), train_size=10)


def test_means_are_those_of_each_text_by_itself(model):
    lm = load_language_model(model, dtype="float32")
    saes = {"one": make_sae(degree=4), "two": make_sae(DenseTopKSae, signed=True)}
    texts = ["the old river", "a heavy lamp breaks the narrow map 12", "x", "the quiet bird " * 20]
    means = text_means(texts, lm, 1, saes, context=16, sequences=2)
    tokens = 0
    for row, text in enumerate(texts):
        ids = torch.tensor([lm.tokenizer(text)["input_ids"][:16]])
        x = residual_after_block(lm.model, ids, torch.ones_like(ids), 1)[0, 1:].float()
        tokens += len(x)
        expected = x.mean(0) if len(x) else torch.zeros(D_IN)
        torch.testing.assert_close(
            torch.from_numpy(means.channels.values.toarray()[row]).float(), expected, atol=1e-5, rtol=1e-4
        )
        for name, sae in saes.items():
            full = torch.zeros(len(x), 96)
            if len(x):
                codes = sae.encode(x)
                full.scatter_(1, codes.indices, codes.values)
            mine = torch.from_numpy(means.latents[name].values.toarray()[row]).float()
            torch.testing.assert_close(mine, full.sum(0) / max(1, len(x)), atol=1e-5, rtol=1e-4)
    assert means.tokens == tokens


def test_an_sae_of_another_width_is_refused(model):
    lm = load_language_model(model, dtype="float32")
    wide = ExpanderSae(d_in=D_IN + 1, n_latents=96, degree=4, k=4)
    with pytest.raises(ExpanderSaeError, match=f"expected an SAE of d_in {D_IN}"):
        text_means(["the old river"], lm, 1, {"wide": wide})


def test_a_latent_that_is_the_class_is_found_and_told():
    dealt = deal(make_labelled(60), train_size=80, test_size=20)
    draw = np.random.default_rng(1)
    values = draw.random((len(dealt.texts), 30)) * (draw.random((len(dealt.texts), 30)) < 0.3)
    values[:, 11] = dealt.labels == "water"
    features = Features("known", sparse.csc_matrix(values))
    task = next(task for task in dealt.tasks if task.name == "water")
    assert largest_differences(features, task)[0] == 11
    assert accuracy(features, task, np.array([11])) == 1.0
    other = next(task for task in dealt.tasks if task.name == "count")
    guess = LogisticRegression(max_iter=1000).fit(values[other.fit].astype(np.float32), other.fit_labels)
    expected = (guess.predict(values[other.test].astype(np.float32)) == other.test_labels).mean()
    assert accuracy(features, other) == pytest.approx(expected)


def test_every_dictionary_and_null_gets_a_record(model):
    lm = load_language_model(model, dtype="float32")
    saes = {"one": make_sae(degree=4), "same": make_sae(degree=4), "dense": make_sae(DenseTopKSae)}
    records = probe_labelled(saes, deal(make_labelled(40), train_size=48, test_size=20), lm, 1, context=16)
    assert [r.kind for r in records] == ["expander", "expander", "dense", *["untrained"] * 2, *["coordinates"] * 2]
    assert records[0].accuracy_5 == records[1].accuracy_5
    for record in records:
        assert LabelledProbeRecord.from_dict(record.to_dict()) == record
        assert record.tasks == len(record.accuracy_1_by_task) == 3
        assert record.accuracy_1 == pytest.approx(np.mean(list(record.accuracy_1_by_task.values())))
        # Words tell these classes, and the stream has them.
        assert record.accuracy_all > 0.8


@pytest.mark.parametrize("name", sorted(HUB_SETS))
def test_saebenchs_sets_are_read_in_their_own_columns(name):
    """Made-up rows in the columns of each set: the hub is not asked."""
    chosen = HUB_SETS[name]
    asked = []

    def load(repo, *configuration, split, streaming):
        assert streaming
        asked.append((repo, *configuration, split))
        for number in range(6):
            for label in (*chosen.classes, "-7"):
                for attribute in (0, 1):
                    word = f"{label} {attribute} {number} {split}"
                    if name == "europarl":
                        yield {"translation": dict.fromkeys(configuration[0].split("-"), word)}
                    elif name == "github-code":
                        head = "#" * LICENSE_CHARACTERS
                        yield {"code": head + word + "x" * LEAST_CODE * (attribute + number % 2), "language": label}
                    else:
                        typed = float(label) if name.endswith("sentiment") else int(label)
                        row = {chosen.text: word, chosen.label: typed}
                        yield row | ({chosen.attribute: attribute} if chosen.attribute else {})

    read = read_hub_set(name, load)
    assert read.name == name
    assert set(read.labels) == set(chosen.classes)
    assert {place[0] for place in asked} == {chosen.repo}
    assert (read.splits is not None) == chosen.own_split
    assert (read.attributes is not None) == (chosen.attribute is not None)
    assert not any(text.startswith("#") for text in read.texts)
    if name == "github-code":
        assert all(len(text) > LEAST_CODE for text in read.texts)
        assert len(read.texts) == 5 * (6 + 3)


def test_no_more_rows_are_read_than_a_set_needs():
    def endless(repo, *, split, streaming):
        number = 0
        while True:
            yield {"text": f"{split} {number}", "label": number % 4}
            number += 1

    read = read_hub_set("ag_news", endless)
    assert len(read.texts) == 4 * (2000 + 500)
    with pytest.raises(ExpanderSaeError, match="expected the columns"):
        read_hub_set("ag_news", lambda repo, **_: [{"words": "a"}])
    with pytest.raises(ExpanderSaeError, match="expected a set out of"):
        read_hub_set("imdb")


def call(*arguments):
    return CliRunner().invoke(main.app, [str(a) for a in arguments])


def test_the_verb(model, tmp_path):
    make_sae(degree=4).save(tmp_path / "sae")
    labelled = make_labelled(40)
    rows = [{"text": t, "label": label} for t, label in zip(labelled.texts, labelled.labels, strict=True)]
    where = write_lines(tmp_path / "topics.jsonl", rows)
    given = ("probe", tmp_path / "sae", "--labelled", where, "--model", model, "--context", 16)
    sizes = ("--train-texts", 48, "--test-texts", 20, "--compute-dtype", "float32")
    done = call(*given, *sizes, "--json", tmp_path / "out.json")
    assert done.exit_code == 0, done.output
    assert "channels" in done.output
    found = read_json(tmp_path / "out.json")
    assert found[0]["name"] == "sae"
    assert {r["dataset"] for r in found} == {"topics"}
    bare = call(*given, *sizes, "--no-nulls", "--quiet", "--json", tmp_path / "bare.json")
    assert bare.exit_code == 0
    assert bare.output == ""
    assert [r["name"] for r in read_json(tmp_path / "bare.json")] == ["sae", "channels"]
    assert read_json(tmp_path / "bare.json")[0] == found[0]


def test_the_verb_measures_what_else_it_is_asked_for(model, tmp_path, monkeypatch):
    make_sae(degree=4).save(tmp_path / "sae")
    labelled = make_labelled(80)
    rows = [
        {"text": t, "label": label, "attribute": "xy"[n % 2]}
        for n, (t, label) in enumerate(zip(labelled.texts, labelled.labels, strict=True))
        if label != "count"
    ]
    where = write_lines(tmp_path / "topics.jsonl", rows)
    monkeypatch.setattr(labelled_probe, "mean_auc", partial(mean_auc, counts=(2,)))
    done = call(
        "probe", tmp_path / "sae", "--labelled", where, "--model", model, "--context", 16, "--auc", "--perturb",
        "--train-texts", 48, "--test-texts", 20, "--compute-dtype", "float32", "--json", tmp_path / "out.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    sae, twin, *coordinates = read_json(tmp_path / "out.json")
    for record in (sae, twin):
        assert list(record["tpp"]) == list(record["scr"]) == [str(count) for count in ABLATED]
    assert all(record["tpp"] == record["scr"] == {} for record in coordinates)
    assert all(list(record["auc"]) == ["l1 2", "l2 2"] for record in (sae, twin, *coordinates))
    assert "Targeted probe perturbation" in done.output
    assert "Spurious correlation" in done.output


def test_the_verb_refuses_two_sources_and_options_of_the_other(model, tmp_path):
    make_sae(degree=4).save(tmp_path / "sae")
    assert "got none" in str(call("probe", tmp_path / "sae").exception)
    both = call("probe", tmp_path / "sae", "--acts", tmp_path, "--labelled", "x.jsonl")
    assert "got --acts and --labelled" in str(both.exception)
    done = call("probe", tmp_path / "sae", "--labelled", "x.jsonl", "--split", "train", "--max-words", 9)
    assert "got --max-words, --split" in str(done.exception)
    done = call("probe", tmp_path / "sae", "--acts", tmp_path, "--auc")
    assert "expected options that --acts has; got --auc" in str(done.exception)
