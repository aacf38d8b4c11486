import json
import math
from dataclasses import replace

import pytest
import torch
from memory_source import MemorySource, sparse_activations

from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae
from expander_sae.training import (
    PRESETS,
    Adam,
    Inputs,
    MoveSupports,
    Resample,
    Revive,
    Schedule,
    TrainConfig,
    Watch,
    train,
)
from expander_sae.training.firing import FiringHistory
from expander_sae.training.parts.resample import resample
from expander_sae.training.parts.revive import auxiliary_loss

SMALL = TrainConfig(
    tokens=256 * 60,
    batch_size=256,
    learning_rate=1e-2,
    dead_after_tokens=2000,
    watch=Watch(log_every=10, checkpoint_every=20),
)


def some_saes():
    return {
        "expander": ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Encoder()),
        "signed": ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, signed=True, latent_bias=True, reading=Encoder()),
        "dense": DenseTopKSae(d_in=48, n_latents=256, k=8),
        "untied": DenseTopKSae(d_in=48, n_latents=64, k=8, tied=False, latent_bias=True),
    }


def test_every_sae_learns_and_is_saved_with_its_history(tmp_path):
    x = sparse_activations()
    saes = some_saes()
    before = {name: float(fvu(sae, x)) for name, sae in saes.items()}
    records = train(saes, MemorySource(x), SMALL, folder=tmp_path, progress=False)
    for name, record in records.items():
        sae = load_sae(tmp_path / name)
        assert fvu(sae, x) < 0.92 * min(1.0, before[name]), name
        assert record.final_fvu == pytest.approx(float(fvu(sae, x)), rel=0.2)
        assert record.steps == 60
        assert record.tokens == 256 * 60
        assert not record.diverged
        assert sae.metadata["activations"]["source"] == "memory"
        assert sae.metadata["training"]["config"]["batch_size"] == 256
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["name"] == "dense"] == [9, 19, 29, 39, 49, 59]
    assert {"loss", "fvu", "dead_fraction", "learning_rate", "tokens"} <= set(lines[0])
    assert set(read_json(tmp_path / "training.json")) == set(saes)
    assert not (tmp_path / "checkpoint.pt").exists()


def fvu(sae, x):
    with torch.no_grad():
        return (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum()


def test_a_pass_is_followed_on_held_out_activations_without_being_changed(tmp_path):
    x = sparse_activations()
    alone, followed = some_saes(), some_saes()
    train(alone, MemorySource(x), SMALL, folder=tmp_path / "alone", progress=False)
    config, heldout = replace(SMALL, watch=Watch(log_every=10, heldout_every=25)), x[:300]
    train(followed, MemorySource(x), config, folder=tmp_path / "followed", progress=False, heldout=heldout)
    lines = [json.loads(line) for line in (tmp_path / "followed" / "metrics.jsonl").read_text().splitlines()]
    for name, sae in followed.items():
        for key, value in alone[name].state_dict().items():
            assert torch.equal(value, sae.state_dict()[key]), (name, key)
        measured = [line for line in lines if line["name"] == name and "heldout_fvu" in line]
        assert [line["step"] for line in measured] == [24, 49, 59]
        assert measured[-1]["heldout_fvu"] == pytest.approx(float(fvu(sae, heldout)), rel=1e-4)
        with torch.no_grad():
            ratios = (heldout - sae(heldout)).norm(dim=1) / heldout.norm(dim=1)
        assert measured[-1]["heldout_rel_err"] == pytest.approx(float(ratios.mean()), rel=1e-4)
        assert measured[-1]["heldout_fvu"] < measured[0]["heldout_fvu"]


@pytest.mark.parametrize(
    ("heldout", "message"),
    [
        (torch.ones(5, 47), r"\[two or more, 48\] of a floating type; got \[5, 47\]"),
        (torch.ones(1, 48), "two or more"),
        (torch.full((4, 48), math.nan), "finite held-out"),
        (torch.ones(4, 48, dtype=torch.int64), "floating type"),
    ],
)
def test_held_out_activations_are_checked_before_training(tmp_path, heldout, message):
    with pytest.raises(ExpanderSaeError, match=message):
        train(some_saes(), MemorySource(sparse_activations()), SMALL, folder=tmp_path, progress=False, heldout=heldout)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_held_out_activations_of_half_precision_are_measured_in_float32(tmp_path, dtype):
    x, config = sparse_activations(), replace(SMALL, tokens=256 * 4)
    heldout = (100 * x[:300]).to(dtype)  # its variance overflows float16
    measured = []
    for name, given in (("half", heldout), ("float", heldout.float())):
        saes = {"sae": DenseTopKSae(d_in=48, n_latents=64, k=8)}
        train(saes, MemorySource(100 * x), config, folder=tmp_path / name, progress=False, heldout=given)
        measured.append(json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["heldout_fvu"])
    assert measured[0] == measured[1]
    assert 0 < measured[0] < 2


def test_held_out_numbers_that_are_not_finite_are_null(tmp_path):
    saes = {"sae": DenseTopKSae(d_in=48, n_latents=64, k=8)}
    config, heldout = replace(SMALL, tokens=512), torch.zeros(5, 48)
    train(saes, MemorySource(sparse_activations()), config, folder=tmp_path, progress=False, heldout=heldout)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1], parse_constant=pytest.fail)
    assert line["heldout_fvu"] is None
    assert line["heldout_rel_err"] is None


def test_a_pass_goes_on_however_it_is_watched(tmp_path):
    x, saes = sparse_activations(), some_saes()
    source = MemorySource(x)
    source.interrupt_at = 30
    with pytest.raises(KeyboardInterrupt):
        train(
            saes, source, replace(SMALL, watch=Watch(heldout_every=20)), folder=tmp_path, progress=False, heldout=x[:50]
        )
    saes = some_saes()
    train(
        saes,
        MemorySource(x),
        replace(SMALL, watch=Watch(log_every=7, heldout_every=0)),
        folder=tmp_path,
        progress=False,
    )
    whole = some_saes()
    train(whole, MemorySource(x), SMALL, folder=tmp_path / "whole", progress=False)
    for name, sae in whole.items():
        for key, value in sae.state_dict().items():
            assert torch.equal(value, saes[name].state_dict()[key]), (name, key)


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    x = sparse_activations()
    config = replace(SMALL, resample=Resample(every=25))
    whole, parts = some_saes(), some_saes()
    train(whole, MemorySource(x), config, folder=tmp_path / "whole", progress=False)
    source = MemorySource(x)
    source.interrupt_at = 33
    with pytest.raises(KeyboardInterrupt):
        train(parts, source, config, folder=tmp_path / "parts", progress=False)
    assert (tmp_path / "parts" / "checkpoint.pt").exists()
    parts = some_saes()
    train(parts, MemorySource(x), config, folder=tmp_path / "parts", progress=False)
    for name in whole:
        for key, value in whole[name].state_dict().items():
            assert torch.equal(value, parts[name].state_dict()[key]), (name, key)
    whole_lines, parts_lines = ((tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "parts"))
    assert whole_lines == parts_lines


def test_a_checkpoint_of_another_pass_or_a_damaged_one_is_refused(tmp_path):
    source = MemorySource(sparse_activations())
    source.interrupt_at = 5
    with pytest.raises(KeyboardInterrupt):
        train(some_saes(), source, SMALL, folder=tmp_path, progress=False)
    with pytest.raises(ExpanderSaeError, match="other settings"):
        train(some_saes(), MemorySource(source.x), replace(SMALL, seed=1), folder=tmp_path, progress=False)
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ExpanderSaeError, match="damaged"):
        train(some_saes(), MemorySource(source.x), SMALL, folder=tmp_path, progress=False)


def test_outlier_tokens_are_left_out_of_the_loss(tmp_path):
    x = sparse_activations()
    giant = torch.cat([x, torch.full((40, 48), 1e4)])
    sae = {"sae": ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Encoder())}
    record = train(sae, MemorySource(giant[torch.randperm(len(giant))]), SMALL, folder=tmp_path, progress=False)["sae"]
    assert record.tokens < 256 * 60
    assert fvu(load_sae(tmp_path / "sae"), x) < 0.7


def test_a_diverged_sae_is_reported_and_the_others_go_on(tmp_path):
    saes = {
        "good": ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Encoder()),
        "bad": DenseTopKSae(d_in=48, n_latents=64, k=8),
    }
    saes["bad"].b_dec.register_hook(lambda gradient: gradient * float("inf"))
    records = train(saes, MemorySource(sparse_activations()), SMALL, folder=tmp_path, progress=False)
    assert records["bad"].diverged
    assert not records["good"].diverged
    assert (tmp_path / "good" / "config.json").exists()
    assert not (tmp_path / "bad").exists()


def test_the_auxiliary_loss_moves_dead_latents_only_and_leaves_b_dec_alone():
    torch.manual_seed(0)
    sae, x = (
        ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, latent_bias=True, reading=Encoder()),
        sparse_activations(200),
    )
    dead = torch.tensor([3, 70, 201])
    residual = sae.reconstruction_loss(x, keep_residual=True).residual
    assert residual is not None
    auxiliary_loss(sae, x, residual, dead, 2).backward()
    gradient = sae.columns.raw.grad
    assert gradient is not None
    assert set(gradient.abs().sum(1).nonzero()[:, 0].tolist()) <= set(dead.tolist())
    assert gradient[dead].abs().sum() > 0
    assert sae.b_dec.grad is None


def test_auxiliary_loss_against_its_formula():
    torch.manual_seed(0)
    sae, x, dead = DenseTopKSae(d_in=12, n_latents=30, k=4), torch.randn(20, 12), torch.tensor([1, 5, 9])
    residual = (x - sae(x)).detach()
    w = sae.values[dead]
    pre = torch.relu((x - sae.b_dec) @ w.T)
    kept = torch.zeros_like(pre).scatter(1, pre.topk(2).indices, pre.topk(2).values)
    want = (residual - kept @ w).square().sum() / residual.square().sum()
    torch.testing.assert_close(auxiliary_loss(sae, x, residual, dead, 2), want)


def test_firing_history():
    history = FiringHistory(4)
    history.update(torch.tensor([1, 0, 0, 1], dtype=torch.uint8), 100)
    history.update(torch.tensor([1, 1, 0, 0], dtype=torch.uint8), 50)
    assert history.tokens_since.tolist() == [0, 0, 150, 50]
    assert history.dead(50).tolist() == [2]
    history.count(Codes(torch.tensor([[0, 1], [0, 2]]), torch.tensor([[1.0, 2.0], [1.0, 0.0]])))
    assert history.firings.tolist() == [2, 1, 0, 0]


def test_resampling_points_rare_latents_at_residuals_on_their_support():
    sae = ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, latent_bias=True, reading=Encoder())
    history = FiringHistory(256)
    history.firings += 100
    history.firings[7] = 4
    residual = torch.zeros(300, 48)
    residual[11] = torch.arange(48.0) + 1
    before = sae.columns.raw.detach().clone()
    assert resample(sae, residual, history, 5, torch.Generator().manual_seed(0)) == 1
    wanted = residual[11][sae.rows[7].long()]
    # At a raw length of 1 / sqrt(degree), as in the paper: Adam turns it faster than the columns of about unit length.
    torch.testing.assert_close(sae.columns.raw[7].detach(), wanted / wanted.norm() / 6**0.5)
    unchanged = torch.arange(256) != 7
    assert torch.equal(sae.columns.raw[unchanged], before[unchanged])
    assert history.firings.sum() == 0
    assert resample(sae, residual, history, 5, torch.Generator().manual_seed(0)) == 0  # all are candidates: skipped


def test_schedules():
    config = TrainConfig(tokens=1000, batch_size=10, learning_rate=1.0, schedule=Schedule(warmup=0.1, decay=0.2))
    rates = [config.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:80] == [1.0] * 70
    assert rates[-1] == pytest.approx(0.05)
    paper = PRESETS["paper"].training
    assert paper.steps == 5000
    assert paper.rate(0) == pytest.approx(3e-4)
    assert paper.rate(2500) == pytest.approx((3e-4 + 1e-5) / 2)
    assert paper.rate(4999) == pytest.approx(1e-5, rel=1e-2)


def test_the_paper_preset_runs(tmp_path):
    config = replace(PRESETS["paper"].training, tokens=256 * 30, resample=Resample(every=10))
    sae = ExpanderSae(d_in=48, n_latents=128, degree=6, k=8, construction="repaired", signed=True, latent_bias=True)
    record = train({"sae": sae}, MemorySource(sparse_activations()), config, folder=tmp_path, progress=False)["sae"]
    assert math.isfinite(record.final_fvu)
    assert float(load_sae(tmp_path / "sae").input_scale) == 1.0


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: TrainConfig(tokens=0),
        lambda: TrainConfig(loss_unit="l1"),
        lambda: Adam(clip=0.0),
        lambda: Schedule("step"),
        lambda: Schedule(warmup=0.9, decay=0.2),
        lambda: Watch(log_every=0),
        lambda: Inputs(statistics_tokens=0),
        lambda: Revive(weight=0.0),
        lambda: Resample(every=0),
        lambda: MoveSupports(every=0),
        lambda: MoveSupports(row_cap=0.5),
    ],
)
def test_impossible_settings(impossible):
    with pytest.raises(ExpanderSaeError, match="expected"):
        impossible()


def test_widths_and_names_are_checked(tmp_path):
    source = MemorySource(sparse_activations())
    with pytest.raises(ExpanderSaeError, match="d_in = 40"):
        train(
            {"a": ExpanderSae(d_in=40, n_latents=99, degree=4, k=5, reading=Encoder())},
            source,
            SMALL,
            folder=tmp_path,
            progress=False,
        )
    with pytest.raises(ExpanderSaeError, match="folder names"):
        train({"a/b": DenseTopKSae(d_in=48, n_latents=99, k=5)}, source, SMALL, folder=tmp_path, progress=False)
    with pytest.raises(ExpanderSaeError, match="at least one"):
        train({}, source, SMALL, folder=tmp_path, progress=False)
