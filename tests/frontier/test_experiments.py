"""Every experiment runs on a tiny model, goes on where it stopped, and is drawn again from its records alone."""

import re
from dataclasses import replace

import pytest
from chat_server import chat_server, same_token_judge
from experiment_place import make_place, small_settings
from typer.testing import CliRunner

from expander_sae.cli import main
from expander_sae.frontier import passes, sweep
from expander_sae.frontier.experiments import (
    NAMES,
    Experiment,
    Page,
    find_experiment,
    recipes,
    run_experiment,
    write_reports,
)
from expander_sae.frontier.experiments.context import Context
from expander_sae.records import ExpanderSaeError, read_json

OPTIONS = {
    "frontier": {"probe_tokens": "300"},
    "active-latents": {"ks": "3,5"},
    "support": {"controls": "dense,diversity,pruned"},
    "steps": {"budgets": "0.5,1"},
    "data-efficiency": {"shares": "0.5,1"},
    "geometry": {"flatten_tokens": "100"},
    "certified-tokens": {"tokens": "60", "readings": "encoder,omp"},
    "constraints": {"tokens": "60", "degree": "4", "ways": "none,flatness=2+coherence=1+rewire_row_cap=4"},
    "synthetic": {
        "trials": "4",
        "d_in": "96",
        "n_latents": "256",
        "degrees": "7",
        "ks": "2,4",
        "constructions": "uniform",
        "noises": "0,0.05",
        "paper_degrees": "7",
        "paper_ks": "4",
    },
    "worlds": {
        "d_in": "32",
        "n_features": "100",
        "roots": "0",
        "n_latents": "48",
        "k": "4",
        "degrees": "4,16",
        "pool": "1000",
        "heldout": "400",
    },
    "certificate-gap": {"trials": "4", "sizes": "48x96x4"},
    "encoders": {
        "budgets": "4,8",
        "dictionary_readings": "refit,stages:2+8",
        "encoder_readings": "encoder,refit,warm:2",
    },
    "latents": {"tokens": "300"},
    "stability": {"tokens": "300", "agreement_tokens": "600", "readings": "refit,omp"},
    "coherence": {"latents": "12", "readings": "refit,omp"},
    "meaning": {"controls": "dense,pruned", "readings": "encoder", "tokens": "600", "noise_tokens": "100"},
    "recipes": {
        "recipes": "dense,expander,cut-oneshot",
        "degrees": "4",
        "tokens": "0,1000",
        "readings": "encoder,stages:2",
        "probe_tokens": "300",
    },
    "storage": {"calls": "5"},
}
"""Smaller ones than the defaults, by experiment."""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    return folder, *make_place(folder, layers=(1, 2))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("out")


# These two go along an axis as active-latents does, and train twice as much.
SLOW = ("steps", "data-efficiency")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]
)
def test_every_experiment_runs_and_is_drawn_from_its_records(name, place, out):
    _, model, stores = place
    experiment = find_experiment(name)
    assert experiment.name == name
    settings = small_settings(experiment, options=OPTIONS.get(name, {}))
    page = run_experiment(experiment, out, settings, stores=stores, language_model=lambda: model, command="the command")
    assert isinstance(page, Page)
    assert page.claim.endswith(".")
    assert "nan" not in page.claim.lower().split()
    stored = read_json(out / name / "page.json")
    assert stored["claim"] == page.claim
    assert stored["tables"]
    drawn = {path.stem: path.read_bytes() for path in (out / name / "figures").glob("*.svg")}
    assert drawn
    assert set(drawn) == set(stored["figures"])
    if experiment.beside is not None:
        assert [figure for figure in drawn if figure.endswith("beside_the_paper")]
        assert any(note.startswith("Grey: the paper's own numbers (pythia-70m") for note in stored["notes"])

    for path in (out / name / "figures").glob("*.svg"):
        path.unlink()
    report = write_reports([experiment], out).read_text(encoding="utf-8")
    assert {path.stem: path.read_bytes() for path in (out / name / "figures").glob("*.svg")} == drawn
    assert report.count("<img ") == len(drawn)
    assert experiment.question in report.replace("&#39;", "'")
    assert "the command" in report
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", report)


def test_a_rerun_trains_nothing_and_says_the_same(place, tmp_path, monkeypatch):
    _, model, stores = place
    experiment = find_experiment("frontier")
    settings = small_settings(experiment, options={"controls": "dense,matched", "probe_tokens": "300"})
    first = run_experiment(experiment, tmp_path, settings, stores=stores, language_model=lambda: model)

    def never(*args, **kwargs):
        raise AssertionError("this was finished")

    monkeypatch.setattr(passes, "train", never)
    monkeypatch.setattr(sweep, "evaluate", never)
    assert run_experiment(experiment, tmp_path, settings, stores=stores, language_model=never) == first


def test_the_frontier_says_what_latents_tell_beside_their_nulls(place, tmp_path):
    _, model, stores = place
    experiment = find_experiment("frontier")
    settings = small_settings(experiment, options={"controls": "dense"})
    page = run_experiment(experiment, tmp_path, settings, stores=stores, language_model=lambda: model)
    rows = read_json(tmp_path / "frontier" / "records.json")["measured"]["concepts"]
    assert {(row["variant"], row["kind"]) for row in rows} == {
        ("raw coordinates", "coordinates"),
        *((name, kind) for name in ("expander-d4", "expander-d8", "dense") for kind in ("trained", "untrained")),
    }
    table = next(table for table in page.tables if table.title == "Do latents tell concepts?")
    assert [row[0] for row in table.rows] == ["expander-d4", "expander-d8", "dense", "raw coordinates"]
    assert table.columns[1:3] == ["broad, best latent", "untrained"]
    mine = [row for row in rows if row["variant"] == "dense" and row["kind"] == "untrained"]
    assert table.rows[2][2].found.values == tuple(row["f1_1"] for row in mine)
    assert any(note.startswith("Latents that tell concepts no better than raw coordinates") for note in page.notes)
    (frontier,) = (tmp_path / "saes").glob("*/frontier.json")
    assert read_json(frontier)["concepts"] == rows


@pytest.mark.parametrize("tokens", [0, 10])
def test_a_frontier_without_probes_says_why(tokens, place, tmp_path):
    """None were asked for, or there is too little text; records of earlier releases have none either."""
    _, model, stores = place
    experiment = find_experiment("frontier")
    options = {"controls": "none", "probe_tokens": str(tokens)}
    settings = replace(small_settings(experiment, options=options), seeds=(0,))
    page = run_experiment(experiment, tmp_path, settings, stores=stores, language_model=lambda: model)
    assert not [table for table in page.tables if "concepts" in table.title]
    measured = read_json(tmp_path / "frontier" / "records.json")["measured"]
    said = [note for note in measured["notes"] if note.startswith("Latents were not probed for concepts: expected")]
    assert len(said) == (tokens > 0)
    del measured["concepts"]
    assert experiment.show(measured).tables == page.tables


def test_a_recipe_is_judged_by_more_than_probes(place, tmp_path):
    _, model, stores = place
    experiment = find_experiment("meaning")
    settings = small_settings(experiment, options={**OPTIONS["meaning"], "degrees": "4"})
    run = {"stores": stores, "language_model": lambda: model}
    page = run_experiment(experiment, tmp_path, replace(settings, degrees=(4,)), **run)
    measured = read_json(tmp_path / "meaning" / "records.json")["measured"]
    trained = [row for row in measured["saes"] if row["kind"] == "trained"]
    assert len(trained) == 2 * (2 + 1 + 2)  # two seeds; sparse ones by stages and encoder
    for row in trained:
        assert 0 < row["noise"]["support_kept"] <= 1
        assert 0 < row["again"]["pw_mcc"] < 1
        assert row["delta_ce"] is not None
        assert row["cpu_seconds"] > 0
    cost = {(row["variant"], row["seed"]): row["cpu_seconds"] for row in trained}
    assert cost["pruned-d4", 0] > cost["dense", 0]
    assert list(page.tables[0].columns[:5]) == ["SAE", "read by", "values", "fvu", "Δ CE, nats"]
    assert page.tables[0].columns[-2:] == ["PW-MCC", "CPU seconds"]
    # Records of earlier releases have none of it but the probes.
    for row in trained:
        for name in ("noise", "again", "delta_ce", "cpu_seconds"):
            del row[name]
    assert "PW-MCC" not in experiment.show(measured).tables[0].columns


def test_recipes_are_measured_where_they_start_and_where_they_end(place, tmp_path, monkeypatch):
    _, model, stores = place
    experiment = find_experiment("recipes")
    options = {**OPTIONS["recipes"], "recipes": "dense-omp,cut-omp", "readings": "encoder"}
    settings = replace(small_settings(experiment, options=options), seeds=(0,), degrees=(4,))
    run = {"stores": stores, "language_model": lambda: model}
    first = run_experiment(experiment, tmp_path, settings, **run)
    rows = read_json(tmp_path / "recipes" / "records.json")["measured"]["rows"]
    assert {(row["recipe"], row["degree"], row["trained_on"]) for row in rows} == {
        (recipe, degree, tokens) for recipe, degree in (("dense-omp", None), ("cut-omp", 4)) for tokens in (0, 1000)
    }
    by_tokens = {(row["recipe"], row["trained_on"]): row for row in rows}
    assert by_tokens["cut-omp", 1000]["cpu_seconds"] > by_tokens["cut-omp", 0]["cpu_seconds"] > 0  # the dense one's
    assert by_tokens["dense-omp", 0]["cpu_seconds"] == 0
    assert by_tokens["cut-omp", 0]["fvu"] != by_tokens["cut-omp", 1000]["fvu"]

    def never(*args, **kwargs):
        raise AssertionError("this was finished")

    for module in (passes, recipes):
        monkeypatch.setattr(module, "train", never)
    assert run_experiment(experiment, tmp_path, settings, **{**run, "language_model": never}) == first
    unknown = replace(settings, options={**settings.options, "recipes": ["best"]})
    with pytest.raises(ExpanderSaeError, match="expected recipes out of"):
        run_experiment(experiment, tmp_path / "unknown", unknown, **run)


def test_claims_of_few_seeds_say_so_and_runs_worse_than_nothing_are_named(place, tmp_path):
    _, _, stores = place
    experiment = find_experiment("steps")
    options = {"budgets": "1", "controls": "none"}
    pages = [
        run_experiment(
            experiment, tmp_path, replace(small_settings(experiment, options=options), seeds=seeds), stores=stores
        )
        for seeds in ((0,), (0, 1, 2))
    ]
    assert pages[0].claim.endswith(" With 1 seed this is no claim yet.")
    assert "no claim" not in pages[1].claim
    measured = read_json(tmp_path / "steps" / "records.json")["measured"]
    record = measured["runs"][0]["frontier"]["records"][0]
    assert not [note for note in pages[1].notes if "Worse" in note]
    record["evaluation"]["rel_err"] = 1.13
    (note,) = [note for note in experiment.show(measured).notes if "Worse than reconstructing zero" in note]
    assert f"{record['variant']} seed 0 (1.13)" in note


def test_pieces_are_made_once_for_what_they_depend_on(tmp_path):
    context = Context(tmp_path, small_settings(find_experiment("frontier")), shared=tmp_path)
    made = []

    def make():
        made.append(1)
        return {"value": (1, float("nan"))}

    for _ in range(2):
        assert context.piece("one", {"seeds": (0, 1)}, make) == {"value": [1, None]}
    assert len(made) == 1
    context.piece("one", {"seeds": (0, 2)}, make)
    assert len(made) == 2


def test_what_an_experiment_needs_is_asked_for_first(tmp_path):
    experiment = find_experiment("frontier")
    with pytest.raises(ExpanderSaeError, match="--acts"):
        run_experiment(experiment, tmp_path, small_settings(experiment))
    with pytest.raises(ExpanderSaeError, match="got none"):
        write_reports([experiment], tmp_path)
    with pytest.raises(ExpanderSaeError, match="an experiment out of frontier"):
        find_experiment("frontiers")


def test_options_are_read_as_their_defaults_type():
    experiment = Experiment(
        "x",
        "?",
        lambda context: {},
        lambda measured: Page("."),
        options={"n": 3, "share": 0.5, "of": [1, 2], "on": True},
    )
    given = {"n": "7", "of": "4, 5", "on": "false"}
    assert experiment.read_options(given) == {"n": 7, "share": 0.5, "of": [4, 5], "on": False}
    with pytest.raises(ExpanderSaeError, match="type int"):
        experiment.read_options({"n": "many"})
    with pytest.raises(ExpanderSaeError, match="out of n, share, of, on"):
        experiment.read_options({"m": "1"})


class Oracle:
    """A judge that knows nothing but the text's places: earlier ones score higher."""

    def __init__(self, ids, blocks, store):
        assert len(ids) == len(blocks)
        assert store.layer == 1

    def scores(self, examples, counterexamples, candidates):
        return -candidates.double()


def test_another_judge_of_coherence(place, tmp_path):
    _, _, stores = place
    experiment = find_experiment("coherence")
    options = {"latents": "12", "judge": f"{__name__}:Oracle"}
    settings = small_settings(experiment, options=options)
    run_experiment(experiment, tmp_path, settings, stores=stores)
    stored = read_json(tmp_path / "coherence" / "records.json")["measured"]
    assert stored["judge"] == f"{__name__}:Oracle"
    words = tmp_path / "words"
    run_experiment(experiment, words, small_settings(experiment, options={"latents": "12"}), stores=stores)
    tables = [read_json(out / "coherence" / "page.json")["tables"] for out in (tmp_path, words)]
    assert tables[0] != tables[1]
    for wrong in ("oracle", "no_such_module:Oracle", f"{__name__}:Missing"):
        settings = small_settings(experiment, options={"latents": "12", "judge": wrong})
        with pytest.raises(ExpanderSaeError, match="judge as tf-idf, chat or module:function"):
            run_experiment(experiment, tmp_path, settings, stores=stores)


def test_a_chat_model_as_the_judge_of_coherence(place, tmp_path, monkeypatch):
    _, model, stores = place
    experiment = find_experiment("coherence")
    options = {"latents": "8", "controls": "none", "judge": "chat", "chat_model": "small"}
    monkeypatch.setenv("EXPANDER_SAE_JUDGE_KEY", "a key")
    with chat_server(same_token_judge) as (url, got):
        settings = small_settings(experiment, degrees=(4,), seeds=(0,), options=options | {"chat_url": url})
        for _ in range(2):  # the second run asks nothing
            run_experiment(experiment, tmp_path, settings, stores=stores, language_model=lambda: model)
        asked = len(got)
        with pytest.raises(ExpanderSaeError, match="the language model whose tokens are shown"):
            run_experiment(experiment, tmp_path / "b", settings, stores=stores)
    row, untrained = read_json(tmp_path / "coherence" / "records.json")["measured"]["saes"]
    assert untrained["variant"] == f"{row['variant']}, untrained"
    assert sum(len(one[kind]) for one in (row, untrained) for kind in ("aucs", "null")) == asked == len(got)
    assert {request["authorization"] for request in got} == {"Bearer a key"}
    assert sum(row["aucs"]) / len(row["aucs"]) > 0.6  # a latent of a random model follows its token
    notes = read_json(tmp_path / "coherence" / "page.json")["notes"]
    assert any(note.startswith("Judge: chat, small.") for note in notes)
    with pytest.raises(ExpanderSaeError, match="--set chat_url=URL and --set chat_model=NAME"):
        run_experiment(
            experiment, tmp_path / "c", small_settings(experiment, degrees=(4,), seeds=(0,), options=options),
            stores=stores, language_model=lambda: model,
        )  # fmt: skip


def test_the_command(place, tmp_path):
    folder, _, _ = place

    def call(*arguments):
        result = CliRunner().invoke(main.app, [str(argument) for argument in arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    listed = call("experiment", "--list")
    assert all(name in listed for name in NAMES)
    output = call(
        "experiment", "frontier", "--out", tmp_path, "--acts", folder / "acts1", "--model", folder / "model",
        "--degrees", 4, "--n-latents", 64, "--k", 4, "--seeds", 0, "--tokens", 1000, "--batch-size", 100,
        "--ce-tokens", 100, "--set", "controls=dense", "--quiet",
    )  # fmt: skip
    assert output == ""
    (tmp_path / "report.html").unlink()
    assert "report.html" in call("report", tmp_path).replace("\n", "")
    assert "expander-d4" in (tmp_path / "report.html").read_text(encoding="utf-8")
    frontier = tmp_path / "saes" / "layer1-n64-k4-default"
    call("report", frontier)
    assert "expander-d4" in (frontier / "report.html").read_text(encoding="utf-8")
