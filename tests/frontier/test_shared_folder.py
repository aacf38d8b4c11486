"""Runs that share a folder of SAEs: one after the other, interrupted, and at the same time."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from filelock import FileLock
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import harvest, load_language_model
from expander_sae.frontier import EvaluationSettings, SaeOptions, Sweep, passes, plan, run_frontier, sweep
from expander_sae.pursuit import OMP, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.training import Inputs, MoveSupports, TrainConfig, Watch
from expander_sae.training.loop import METRICS
from expander_sae.training.recorded import flat

CONFIG = TrainConfig(tokens=2000, batch_size=100, inputs=Inputs(statistics_tokens=500))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("harvest")
    model = load_language_model(make_tiny_model(folder / "model"), dtype="float32")
    text = write_jsonl(folder / "text.jsonl", make_documents(24))
    out = folder / "acts"
    return harvest(model, text, out, context=32, heldout_share=0.25, compute_dtype="float32", progress=False)


def variants(degrees=(4, 8), controls=("dense",)):
    return plan(degrees, controls, d_in=D_IN, n_latents=64, k=4, seeds=(0,), note=lambda text: None)


def never(*args, **kwargs):
    raise AssertionError("this was finished")


def test_runs_with_other_evaluations_keep_each_others(store, tmp_path, monkeypatch):
    few, all_of_them = EvaluationSettings(max_tokens=50), EvaluationSettings()
    first = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, evaluation=few, progress=False))
    run_frontier(Sweep(store, tmp_path, variants(), CONFIG, evaluation=all_of_them, progress=False))
    monkeypatch.setattr(sweep, "evaluate", never)
    again = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, evaluation=few, progress=False))
    assert again.records == first.records
    assert {record.evaluation.tokens for record in again.records} == {50}


def test_evaluations_of_earlier_versions_are_taken_over(store, tmp_path, monkeypatch):
    first = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, progress=False))
    for path in (tmp_path / "pieces").glob("*.json"):
        piece = json.loads(path.read_text())
        piece["evaluations"] = {key.partition(" ")[0]: value for key, value in piece["evaluations"].items()}
        path.write_text(json.dumps(piece))
    monkeypatch.setattr(sweep, "evaluate", never)
    assert run_frontier(Sweep(store, tmp_path, variants(), CONFIG, progress=False)).records == first.records


def test_an_interrupted_pass_waits_while_others_train_in_the_folder(store, tmp_path, monkeypatch):
    straight = run_frontier(Sweep(store, tmp_path / "a", variants(), CONFIG, progress=False))
    short = replace(CONFIG, watch=Watch(checkpoint_every=4))
    steps, real = [], passes.StoreBatches.__next__

    def interrupt(self):
        steps.append(None)
        if len(steps) == 9:
            raise KeyboardInterrupt
        return real(self)

    with monkeypatch.context() as patched:
        patched.setattr(passes.StoreBatches, "__next__", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_frontier(Sweep(store, tmp_path / "b", variants(), short, progress=False))
    (checkpoint,) = (tmp_path / "b/seed0").glob("pass-*/checkpoint.pt")
    # Another run of the same settings, of other SAEs.
    other = run_frontier(Sweep(store, tmp_path / "b", variants((2,), ()), CONFIG, progress=False))
    assert [record.variant for record in other.records] == ["expander-d2"]
    assert checkpoint.is_file()
    steps.clear()
    monkeypatch.setattr(passes.StoreBatches, "__next__", lambda self: (steps.append(None), real(self))[1])
    resumed = run_frontier(Sweep(store, tmp_path / "b", variants(), short, progress=False))
    assert len(steps) == 20 - 8
    assert not list((tmp_path / "b/seed0").glob("pass-*"))
    for one, two in zip(straight.records, resumed.records, strict=True):
        assert (one.variant, one.evaluation.fvu) == (two.variant, two.evaluation.fvu)
    logs = [(tmp_path / place / "seed0/expander-d4" / METRICS).read_text() for place in "ab"]
    assert logs[0] == logs[1]
    assert logs[0]


def test_only_one_process_trains_the_saes_of_a_seed(store, tmp_path):
    run_frontier(Sweep(store, tmp_path / "alone", variants(), CONFIG, progress=False))
    said, waiting, found = [], threading.Event(), []

    def say(text):
        said.append(text)
        if "waiting" in text:
            waiting.set()

    def run():
        # Threads start with the default number; the numbers are compared with a run of the main one.
        torch.set_num_threads(threads)
        found.append(run_frontier(Sweep(store, tmp_path / "both", variants(), CONFIG, progress=False, say=say)))

    threads = torch.get_num_threads()
    (tmp_path / "both/pieces").mkdir(parents=True)
    other = threading.Thread(target=run)
    with FileLock(tmp_path / "both/pieces/seed0.lock"):
        other.start()
        assert waiting.wait(60)
        # What the first process finishes meanwhile is not trained again.
        for piece in (tmp_path / "alone/pieces").glob("dense*.json"):
            (tmp_path / "both/pieces" / piece.name).write_bytes(piece.read_bytes())
        (tmp_path / "both/seed0").mkdir()
        (tmp_path / "alone/seed0/dense").rename(tmp_path / "both/seed0/dense")
        marked = (tmp_path / "both/seed0/dense/config.json").stat().st_mtime_ns
    other.join(120)
    assert [record.variant for record in found[0].records] == [variant.name for variant in variants()]
    assert (tmp_path / "both/seed0/dense/config.json").stat().st_mtime_ns == marked
    assert any("1 of 3 SAEs are already trained" in text for text in said)


def test_a_disk_without_locks_is_told_before_training(store, tmp_path, monkeypatch):
    def refuse(self, **kwargs):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(ExpanderSaeError, match=r"got FileSystem does not appear .*seed0\.lock\. Choose"):
        run_frontier(Sweep(store, tmp_path, variants(), CONFIG, progress=False))
    assert not (tmp_path / "seed0").exists()


def test_two_notes_at_the_same_time_are_both_kept(store, tmp_path):
    found = run_frontier(Sweep(store, tmp_path, variants(), CONFIG, progress=False))
    names = [variant.folder for variant in variants()]
    before = {name: json.loads((tmp_path / f"pieces/{name}.json").read_text()) for name in names}
    # Both read the pieces before either writes; a reading is what each of them adds.
    real, met = sweep.evaluate, threading.Barrier(2, timeout=60)

    def meet(*args, **kwargs):
        done = real(*args, **kwargs)
        met.wait()
        return done

    sweep.evaluate = meet
    try:
        planned = [
            Sweep(store, tmp_path, variants(), CONFIG, readings=[reading], progress=False)
            for reading in ("omp", "refit")
        ]
        runs = [threading.Thread(target=run_frontier, args=(one,)) for one in planned]
        for run in runs:
            run.start()
        for run in runs:
            run.join(120)
    finally:
        sweep.evaluate = real
    for name in names:
        after = json.loads((tmp_path / f"pieces/{name}.json").read_text())
        assert {key.partition(" ")[0] for key in after["evaluations"]} == {"own", "omp", "refit"}
        assert after["training"] == before[name]["training"]
    assert len(found.records) == 3


def test_settings_of_moves_concern_only_saes_that_make_them(store, tmp_path, monkeypatch):
    given = {"saes": SaeOptions(reading=Stages(2))}
    first = run_frontier(Sweep(store, tmp_path, variants((4,), ("dense", "fixed")), CONFIG, **given, progress=False))
    other = replace(CONFIG, move_supports=MoveSupports(entries=1))
    monkeypatch.setattr(passes, "train", never)
    unmoved = [variant for variant in variants((4,), ("dense", "fixed")) if variant.family != "expander"]
    again = run_frontier(Sweep(store, tmp_path, unmoved, other, **given, progress=False))
    assert again.records == [record for record in first.records if record.family != "expander"]
    with pytest.raises(ExpanderSaeError, match="rewire_entries was None, now 1"):
        run_frontier(Sweep(store, tmp_path, variants((4,), ("dense",)), other, **given, progress=False))


def test_without_moves_their_settings_do_not_matter_but_that_there_are_none_does(store, tmp_path, monkeypatch):
    given, still = {"saes": SaeOptions(reading=Stages(2))}, replace(CONFIG, move_supports=None)
    with monkeypatch.context() as earlier:  # releases that wrote down settings of moves that they did not make
        earlier.setattr(TrainConfig, "to_dict", lambda config: flat(config) | {"rewire_entries": 1})
        first = run_frontier(Sweep(store, tmp_path, variants((4,)), still, **given, progress=False))
    monkeypatch.setattr(passes, "train", never)
    again = run_frontier(Sweep(store, tmp_path, variants((4,)), still, **given, progress=False))
    assert again.records == first.records
    with pytest.raises(ExpanderSaeError, match="rewire_every was 0, now 20"):
        run_frontier(Sweep(store, tmp_path, variants((4,)), CONFIG, **given, progress=False))


def test_more_stages_than_k_are_k_stages(store, tmp_path, monkeypatch):
    """Releases whose verb `frontier` wrote down what was asked for, and experiments k at most."""
    planned = plan([4], ["dense", "pca"], d_in=D_IN, n_latents=64, k=4, note=lambda text: None)

    def run(stages):
        saes = SaeOptions(reading=Stages(stages, spare=None))
        return run_frontier(Sweep(store, tmp_path, planned, CONFIG, saes=saes, progress=False))

    first = run(9)
    monkeypatch.setattr(passes, "train", never)
    monkeypatch.setattr(passes, "principal_directions", never)
    assert [one.evaluation for one in run(4).records] == [one.evaluation for one in first.records]
    with pytest.raises(ExpanderSaeError, match="stages was 4, now 3"):
        run(3)


def test_pieces_of_the_encoder_fit_whatever_spare_columns_stand_beside_it(store, tmp_path, monkeypatch):
    """Earlier releases noted spare columns beside 0 stages, where they mean nothing: none with `--stages 0`."""
    planned = plan([4], ["dense", "pca"], d_in=D_IN, n_latents=64, k=4, note=lambda text: None)
    first = run_frontier(Sweep(store, tmp_path, planned, CONFIG, progress=False))
    monkeypatch.setattr(passes, "train", never)
    monkeypatch.setattr(passes, "principal_directions", never)
    for spare in (None, 0, 4):
        for path in (tmp_path / "pieces").glob("*.json"):
            piece = json.loads(path.read_text())
            assert piece["made_by"]["stages"] == 0
            piece["made_by"]["spare"] = spare
            piece.pop("sha256", None)
            path.write_text(json.dumps(piece))
        again = run_frontier(Sweep(store, tmp_path, planned, CONFIG, progress=False))
        assert [one.evaluation for one in again.records] == [one.evaluation for one in first.records]


def test_saes_may_be_read_by_any_pursuit(store, tmp_path, monkeypatch):
    omp = {"saes": SaeOptions(reading=OMP()), "progress": False}
    first = run_frontier(Sweep(store, tmp_path, variants((4,)), CONFIG, **omp))
    assert first.settings["reading"] == "omp"
    assert [one.evaluation.inference for one in first.records] == ["omp", "encoder"]
    monkeypatch.setattr(passes, "train", never)
    assert run_frontier(Sweep(store, tmp_path, variants((4,)), CONFIG, **omp)).records == first.records
    with pytest.raises(ExpanderSaeError, match="reading was omp, now None"):
        run_frontier(Sweep(store, tmp_path, variants((4,)), CONFIG, progress=False))
