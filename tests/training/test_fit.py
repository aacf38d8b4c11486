"""`fit` in Python is the command line's `train`: the same numbers, whatever the activations come in."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from expander_sae import ExpanderSae, fit, harvest, load_sae
from expander_sae.cli.train import train as verb
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.training import MoveSupports, StoreBatches, TrainConfig

SIZES = {"d_in": D_IN, "n_latents": 4 * D_IN, "degree": 4, "k": 6}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    make_tiny_model(folder / "model")
    text = write_jsonl(folder / "text.jsonl", make_documents(40))
    return harvest(folder / "model", text, folder / "acts", context=32, heldout_share=0.2, progress=False)


def activations(tokens=3000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(40, D_IN, generator=torch.Generator().manual_seed(1))
    return torch.relu(torch.randn(tokens, 40, generator=generator) - 1) @ directions


@torch.no_grad()
def left(sae, x):
    return float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


@pytest.mark.parametrize("preset", ["meaning", "fidelity"])
def test_the_same_batches_give_the_command_lines_sae_to_the_last_bit(preset, store, tmp_path):
    app = typer.Typer()
    app.command()(verb)
    sizes = ("--degree", 4, "--k", 6, "--n-latents", 4 * D_IN, "--tokens", 20_000, "--goal", preset, "--regular")
    result = CliRunner().invoke(app, [str(part) for part in (store.path, "--out", tmp_path / "cli", *sizes)])
    assert result.exit_code == 0, result.output
    sae = ExpanderSae(**SIZES)
    source = StoreBatches(store, TrainConfig())
    record = fit(sae, source, tokens=20_000, preset=preset, folder=tmp_path / "python", progress=False)
    theirs = load_sae(tmp_path / "cli" / "expander-d4")
    assert torch.equal(sae.rows, theirs.rows)
    assert torch.equal(load_sae(tmp_path / "python" / "sae").values, theirs.values)
    assert record.final_fvu == theirs.metadata["training"]["final_fvu"]
    # The same activations as a tensor come in another order: the same quality.
    ordinary = torch.cat([block.float() for block in store.blocks("train")])
    other = ExpanderSae(**SIZES)
    fit(other, ordinary, tokens=20_000, preset=preset, progress=False)
    held = torch.cat([block.float() for block in store.blocks("heldout")])
    assert left(other, held) == pytest.approx(left(sae, held), abs=0.03)


def test_arrays_loaders_and_generators_train_too():
    x = activations()
    forms = {
        "tensor": lambda: x,
        "array": lambda: x.numpy(),
        "read-only array": lambda: np.frombuffer(x.numpy().tobytes(), dtype=np.float32).reshape(x.shape),
        "float64, by position": lambda: x.double().reshape(30, 100, D_IN),
        "loader": lambda: DataLoader(TensorDataset(x), batch_size=300, shuffle=True),
        "list": lambda: [part.numpy() for part in x.split(700)],
        "generator": lambda: (part for _ in range(4) for part in x.split(50)),
    }
    heldout = activations(seed=7)
    for form, make in forms.items():
        sae = ExpanderSae(**SIZES)
        record = fit(sae, make(), tokens=12_000, progress=False)
        assert record.tokens >= 12_000, form
        assert not sae.training
        assert sae.mask.construction == "rows", form  # entries moved
        assert left(sae, heldout) < 0.6, form


def test_a_one_pass_sae_keeps_its_mask_and_its_reading():
    sae = ExpanderSae(**SIZES, reading=Encoder())
    before = sae.mask
    fit(sae, activations(), tokens=3000, preset="fidelity", progress=False)
    assert sae.mask == before
    assert sae.reading == Encoder()


def test_an_interrupted_call_on_a_tensor_goes_on_and_a_finished_one_is_read_back(tmp_path, monkeypatch):
    from expander_sae.training.run import Run

    x, whole = activations(), ExpanderSae(**SIZES)
    fit(whole, x, tokens=6000, progress=False)
    step, calls = Run._one_step, []

    def interrupted(run):
        calls.append(run.step)
        if len(calls) == 6:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(Run, "_one_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(ExpanderSae(**SIZES), x, tokens=6000, folder=tmp_path, progress=False)
    sae = ExpanderSae(**SIZES)
    fit(sae, x, tokens=6000, folder=tmp_path, progress=False)
    assert calls[6] > 0
    assert torch.equal(sae.values, whole.values)
    done = len(calls)
    again = ExpanderSae(**SIZES)
    fit(again, x, tokens=6000, folder=tmp_path, progress=False)
    assert len(calls) == done
    assert torch.equal(again.values, whole.values)
    with pytest.raises(ExpanderSaeError, match="finished work already"):
        fit(ExpanderSae(**SIZES), activations(seed=5), tokens=6000, folder=tmp_path, progress=False)


@pytest.mark.parametrize("fine_tune", [False, True])
def test_an_interrupted_call_goes_on_with_the_same_sae(tmp_path, monkeypatch, fine_tune):
    from expander_sae.training.run import Run

    config = TrainConfig(tokens=9000, batch_size=256, move_supports=MoveSupports(5), fine_tune=fine_tune)
    x, whole, sae = activations(), ExpanderSae(**SIZES), ExpanderSae(**SIZES)
    fit(whole, x, config=config, progress=False)
    step, calls = Run._one_step, []

    def interrupted(run):
        calls.append(run.step)
        if len(calls) == 20:
            raise KeyboardInterrupt
        step(run)

    monkeypatch.setattr(Run, "_one_step", interrupted)
    rows = sae.rows.clone()
    with pytest.raises(KeyboardInterrupt):
        fit(sae, x, config=config, folder=tmp_path, progress=False)
    assert not torch.equal(sae.rows, rows)  # entries have moved: it is no longer what the pass began with
    with pytest.raises(ExpanderSaeError, match="Go on with the SAE that was interrupted"):
        fit(sae, x, config=replace(config, learning_rate=1e-3), folder=tmp_path, progress=False)
    fit(sae, x, config=config, folder=tmp_path, progress=False)
    assert calls[20] == 19
    assert torch.equal(sae.rows, whole.rows)
    assert torch.equal(sae.values, whole.values)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        ("acts", "expected activations as a tensor"),
        (torch.zeros(100, D_IN, dtype=torch.int64), "of a floating type"),
        (torch.zeros(100), r"\[..., d_in\]"),
        (torch.randn(100, 9), f"d_in = {D_IN}"),
        (torch.empty(0, D_IN), "got none"),
        (torch.full((100, D_IN), float("nan")), "finite"),
        ([], "iterable without any"),
        ([torch.randn(50, D_IN), torch.randn(50, D_IN + 1)], "one d_in"),
        ([[1.0, 2.0]], "got list"),
    ],
    ids=["a path", "integers", "one axis", "another d_in", "no row", "nan", "no batch", "two d_in", "lists"],
)
def test_what_cannot_be_trained_on_is_one_clear_error(x, says):
    with pytest.raises(ExpanderSaeError, match=says):
        fit(ExpanderSae(**SIZES), x, tokens=1000, progress=False)


def test_an_iterator_that_ends_says_what_to_do():
    with pytest.raises(ExpanderSaeError, match=r"got 2000, where the iterator ended.*gone through again"):
        fit(ExpanderSae(**SIZES), iter(activations(2000).split(100)), tokens=12_000, progress=False)


def test_few_tokens_are_seen_as_often_as_was_asked_for():
    for x in (activations(50), list(activations(50).split(20))):
        assert fit(ExpanderSae(**SIZES), x, tokens=5000, progress=False).tokens >= 5000


def test_an_iterable_that_is_empty_the_second_time_ends():
    class Once:
        def __init__(self):
            self.batches = iter(activations(1000).split(100))

        def __iter__(self):
            return self.batches

    with pytest.raises(ExpanderSaeError, match="got 1000, where the iterator ended"):
        fit(ExpanderSae(**SIZES), Once(), tokens=12_000, progress=False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda sae: sae.double(), "in float32, all of it requiring gradients; got float64"),
        (lambda sae: sae.b_dec.requires_grad_(False), "got b_dec that do not"),
    ],
)
def test_an_sae_that_cannot_be_trained_whole_is_refused(change, says):
    sae = ExpanderSae(**SIZES)
    change(sae)
    with pytest.raises(ExpanderSaeError, match=says):
        fit(sae, activations(), tokens=1000, progress=False)


@pytest.mark.parametrize(
    "options", [{"tokens": True}, {"tokens": 1.5}, {"tokens": "9"}, {"seed": True}, {"config": {}}]
)
def test_numbers_that_are_none_are_refused(options):
    with pytest.raises(ExpanderSaeError, match=r"expected (tokens|seed|config) as"):
        fit(ExpanderSae(**SIZES), activations(), progress=False, **options)


def test_numbers_of_any_integer_type_count():
    sae = ExpanderSae(d_in=np.int64(D_IN), n_latents=np.int32(64), degree=np.int64(4), k=np.int8(6))
    assert fit(sae, activations(), tokens=np.int64(2000), progress=False).tokens >= 2000


def test_a_mean_far_from_zero_is_warned_of():
    with pytest.warns(UserWarning, match="subtract it before training"):
        fit(ExpanderSae(**SIZES), activations() + 1e4, tokens=1000, progress=False)
