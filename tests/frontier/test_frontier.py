"""A whole small frontier on a tiny language model: trained, evaluated, written down, and picked up again."""

import re
from dataclasses import replace

import pytest
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import harvest, load_language_model
from expander_sae.frontier import (
    EvaluationSettings,
    SaeOptions,
    Sweep,
    load_frontier,
    passes,
    plan,
    run_frontier,
    sweep,
)
from expander_sae.frontier.experiments import find_experiment, write_reports
from expander_sae.frontier.experiments.frontier import headline, verdict
from expander_sae.pursuit import Stages
from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.records.sealed import write_sealed
from expander_sae.saes import load_sae
from expander_sae.training import Inputs, TrainConfig

CONFIG = TrainConfig(tokens=2000, batch_size=100, inputs=Inputs(statistics_tokens=500))
EVALUATION = EvaluationSettings(ce_tokens=200)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    return load_language_model(make_tiny_model(tmp_path_factory.mktemp("llama")), dtype="float32")


@pytest.fixture(scope="module")
def store(language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest")
    text = write_jsonl(folder / "text.jsonl", make_documents(24))
    out = folder / "acts"
    return harvest(language_model, text, out, context=32, heldout_share=0.25, compute_dtype="float32", progress=False)


def page_of(frontier, folder):
    frontier.save(folder)
    return write_reports([find_experiment("frontier")], folder).read_text(encoding="utf-8")


def variants(seeds=(0,), degrees=(4, 8)):
    return plan(degrees, ["dense", "matched"], d_in=D_IN, n_latents=64, k=4, seeds=seeds, note=lambda text: None)


@pytest.fixture(scope="module")
def finished(store, language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("frontier")
    frontier = run_frontier(
        Sweep(
            store,
            folder,
            variants((0, 1)),
            CONFIG,
            language_model,
            evaluation=EVALUATION,
            command="the command",
            progress=False,
        )
    )
    return folder, frontier


def test_every_sae_is_trained_saved_and_evaluated(finished):
    folder, frontier = finished
    assert len(frontier.records) == 2 * 5
    for record in frontier.records:
        sae = load_sae(folder / record.folder)
        assert record.evaluation is not None
        assert sae.learned_values() == record.evaluation.learned_values
        assert record.evaluation.bytes_on_disk == sum(
            (folder / record.folder / name).stat().st_size for name in ("config.json", "sae.safetensors")
        )
        assert record.evaluation.name == record.variant
        assert record.training.steps == 20
        assert 0 < record.evaluation.fvu < 1.5
        assert record.evaluation.delta_ce is not None


def test_retention_is_against_the_dense_sae_of_the_same_seed(finished):
    _, frontier = finished
    dense = {r.seed: r.evaluation.ce_recovered_zero for r in frontier.records if r.family == "dense"}
    assert set(dense) == {0, 1}
    for record in frontier.records:
        if dense[record.seed] > 0:
            expected = record.evaluation.ce_recovered_zero / dense[record.seed]
            assert record.retention_zero == pytest.approx(expected)
        else:
            assert record.retention_zero is None


def test_summaries_are_means_over_seeds(finished):
    _, frontier = finished
    for summary in frontier.summaries():
        values = [r.evaluation.fvu for r in frontier.records if r.variant == summary.variant]
        spread = summary.metrics["fvu"]
        assert spread.mean == pytest.approx(sum(values) / 2)
        assert spread.std == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        assert (spread.low, spread.high, spread.seeds) == (min(values), max(values), 2)


def test_the_file_gives_the_frontier_back(finished):
    folder, frontier = finished
    assert load_frontier(folder).records == frontier.records
    data = read_json(folder / "frontier.json")
    assert data["settings"]["command"] == "the command"
    assert data["versions"]["torch"]
    assert len(data["summaries"]) == 5


def test_a_rerun_does_nothing_twice(finished, store, monkeypatch):
    folder, frontier = finished

    def never(*args, **kwargs):
        raise AssertionError("this was finished")

    monkeypatch.setattr(passes, "train", never)
    monkeypatch.setattr(sweep, "evaluate", never)
    said = []
    again = run_frontier(
        Sweep(store, folder, variants((0, 1)), CONFIG, never, evaluation=EVALUATION, progress=False, say=said.append)
    )
    assert again.records == frontier.records
    assert len(said) == 3


def test_an_interrupted_run_goes_on_and_ends_the_same(store, language_model, tmp_path, monkeypatch):
    arguments = {"evaluation": EVALUATION, "progress": False}
    straight = run_frontier(Sweep(store, tmp_path / "a", variants(), CONFIG, language_model, **arguments))
    with monkeypatch.context() as patched:
        patched.setattr(sweep, "evaluate", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run_frontier(Sweep(store, tmp_path / "b", variants(degrees=(4,)), CONFIG, language_model, **arguments))
    trained = (tmp_path / "b/seed0/expander-d4/sae.safetensors").stat().st_mtime_ns
    # A degree more than the first time: only the new ones are trained, on the same batches.
    resumed = run_frontier(Sweep(store, tmp_path / "b", variants(), CONFIG, language_model, **arguments))
    assert (tmp_path / "b/seed0/expander-d4/sae.safetensors").stat().st_mtime_ns == trained
    for one, two in zip(straight.records, resumed.records, strict=True):
        assert one.variant == two.variant
        assert one.evaluation.fvu == two.evaluation.fvu
        assert one.evaluation.ce_recon == two.evaluation.ce_recon


def test_other_settings_need_another_folder(finished, store):
    folder, _ = finished
    with pytest.raises(ExpanderSaeError, match=r"config\.learning_rate was 0\.01, now 0\.1"):
        run_frontier(Sweep(store, folder, variants(), replace(CONFIG, learning_rate=0.1), progress=False))


def test_another_evaluation_evaluates_again_without_training(store, tmp_path, monkeypatch):
    run_frontier(Sweep(store, tmp_path, variants(), CONFIG, progress=False))
    monkeypatch.setattr(passes, "train", None)
    again = run_frontier(
        Sweep(store, tmp_path, variants(), CONFIG, evaluation=EvaluationSettings(max_tokens=50), progress=False)
    )
    assert {record.evaluation.tokens for record in again.records} == {50}


def test_a_diverged_run_is_told_and_not_evaluated(store, tmp_path, monkeypatch):
    real = passes.train

    def diverge(saes, *args, **kwargs):
        done = real(saes, *args, **kwargs)
        done["expander-d4"] = replace(done["expander-d4"], diverged=True, final_loss=float("nan"))
        return done

    monkeypatch.setattr(passes, "train", diverge)
    frontier = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, progress=False))
    assert [record.variant for record in frontier.records if record.evaluation is None] == ["expander-d4"]
    page = page_of(frontier, tmp_path)
    assert "diverged" in page
    assert "expander-d4 seed 0" in page


def test_the_report_needs_nothing_else(finished, tmp_path):
    _, frontier = finished
    page = page_of(frontier, tmp_path)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert "http" not in re.sub(r"base64,[^\"]*", "", page)
    assert page.count("<img ") == 10 == len(list((tmp_path / "figures").glob("*.svg")))
    for part in ("expander-d4", "dense-n8", "the command", "Δ CE", headline(frontier.summaries()).split(",")[0]):
        assert part in page
    for record in frontier.records:
        assert f"{record.evaluation.learned_values:,}" in page
    fvu = next(s for s in frontier.summaries() if s.variant == "expander-d8").metrics["fvu"].mean
    assert f"{100 * fvu:.1f}% of the variance" in headline(frontier.summaries())
    assert "2 seeds this is no claim" in verdict(frontier.summaries())


def test_the_report_without_a_language_model(store, tmp_path):
    frontier = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, progress=False))
    page = page_of(frontier, tmp_path)
    assert page.count("<img ") == 4
    assert "nats" not in headline(frontier.summaries())


def test_damaged_files_are_refused(finished, tmp_path):
    folder, _ = finished
    data = read_json(folder / "frontier.json")
    for change, said in (
        ({"format": "other"}, "to be an"),
        ({"records": [{}]}, "missing"),
        ({"notes": None}, "garbles"),
    ):
        write_sealed(tmp_path / "frontier.json", data | change)
        with pytest.raises(ExpanderSaeError, match=said):
            load_frontier(tmp_path)


def test_nothing_to_do_is_an_error(store, tmp_path):
    with pytest.raises(ExpanderSaeError, match="at least one SAE"):
        run_frontier(Sweep(store, tmp_path, [], CONFIG))
    with pytest.raises(ExpanderSaeError, match="one twice"):
        run_frontier(Sweep(store, tmp_path, variants() * 2, CONFIG))


def test_other_readings_share_the_training(store, language_model, tmp_path, monkeypatch):
    options = {"evaluation": EVALUATION, "saes": SaeOptions(reading=Stages(2, spare=None)), "progress": False}
    run_frontier(Sweep(store, tmp_path, variants(), CONFIG, language_model, **options))
    monkeypatch.setattr(passes, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    readings = ("encoder", "refit", "omp", "mp:3")
    frontier = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, language_model, **options, readings=readings))
    assert [r.reading for r in frontier.readings] == [reading for reading in readings for _ in range(5)]
    of = {(r.variant, r.reading): r.evaluation for r in frontier.readings}
    own = {r.variant: r.evaluation for r in frontier.records}
    assert own["expander-d4"].inference == "stages:2+4"  # two spare columns for each that a stage adds
    assert own["dense"].inference == "encoder"
    assert of["expander-d4", "omp"].inference == "omp"
    assert of["expander-d4", "mp:3"].inference == "mp:3"
    for variant in own:  # least squares on the same support can only help
        assert of[variant, "refit"].fvu <= of[variant, "encoder"].fvu
    assert of["dense", "encoder"].fvu == own["dense"].fvu
    assert of["expander-d4", "omp"].fvu < of["expander-d4", "encoder"].fvu
    controls = {r.reading: r for r in frontier.readings if r.variant == "dense"}
    assert controls["omp"].retention_zero == pytest.approx(
        of["dense", "omp"].ce_recovered_zero / own["dense"].ce_recovered_zero
    )
    assert load_frontier(tmp_path) == frontier

    monkeypatch.setattr(sweep, "evaluate", lambda *args, **kwargs: pytest.fail("evaluated again"))
    again = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, language_model, **options, readings=readings))
    assert again.readings == frontier.readings
    page = page_of(frontier, tmp_path)
    assert "read in other ways" in page
    assert (tmp_path / "figures/fvu_by_speed.svg").stat().st_size > 5000


def test_an_unknown_reading_is_refused_before_training(store, tmp_path, monkeypatch):
    monkeypatch.setattr(passes, "train", lambda *args, **kwargs: pytest.fail("trained"))
    with pytest.raises(ExpanderSaeError, match="expected a reading"):
        run_frontier(Sweep(store, tmp_path, variants(), CONFIG, readings=("lasso",)))
