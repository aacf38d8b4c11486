from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_source import MemorySource

from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder, Stages
from expander_sae.saes import ExpanderSae, load_sae
from expander_sae.training import MoveSupports, TrainConfig, Watch, train
from expander_sae.training.parts import move_supports
from expander_sae.training.parts.move_supports import Requests, apply_moves, plan_moves

CONFIG = TrainConfig(
    tokens=256 * 80,
    batch_size=256,
    learning_rate=1e-2,
    dead_after_tokens=2000,
    move_supports=MoveSupports(every=5),
    watch=Watch(checkpoint_every=20),
)


def sae_with_stages(**options):
    return ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Stages(4), **options)


def block_activations(tokens=4000):
    """Atoms that live on six neighbouring rows: supports worth learning."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.zeros(64, 48)
    for number in range(64):
        start = int(torch.randint(0, 43, (1,), generator=generator))
        atoms[number, start : start + 6] = torch.randn(6, generator=generator)
    codes = torch.zeros(tokens, 64)
    codes.scatter_(1, torch.rand(tokens, 64, generator=generator).topk(5).indices, 2.0)
    return codes @ atoms + 3.0


def fvu(sae, x):
    with torch.no_grad():
        return float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


def test_learned_supports_beat_fixed_ones_and_pursuit_beats_one_shot(tmp_path):
    x = block_activations()
    saes = {
        "oneshot": ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Encoder()),
        "fixed": sae_with_stages(),
        "learned": sae_with_stages(),
    }
    for name, sae in saes.items():
        config = CONFIG if name == "learned" else replace(CONFIG, move_supports=None)
        train({name: sae}, MemorySource(x), config, folder=tmp_path / name, progress=False)
    errors = {name: fvu(load_sae(tmp_path / name / name), x) for name in saes}
    assert errors["learned"] < 0.8 * errors["fixed"]
    assert errors["fixed"] < errors["oneshot"]


def test_the_mask_stays_left_regular_and_is_saved_as_rows(tmp_path):
    sae = sae_with_stages()
    before = sae.mask.rows.copy()
    train({"sae": sae}, MemorySource(block_activations()), CONFIG, folder=tmp_path, progress=False)
    again = load_sae(tmp_path / "sae")
    assert isinstance(again, ExpanderSae)
    assert not np.array_equal(again.mask.rows, before)
    assert again.mask.seed is None
    assert again.reading == Stages(4)
    assert (np.diff(again.mask.rows.astype(int), axis=1) > 0).all()
    assert (again.mask.right_degrees() > 0).all()
    assert torch.equal(again.rows.long(), torch.from_numpy(again.mask.rows.astype(np.int64)))


@pytest.mark.parametrize(("interrupt_at", "at_once"), [(41, 4096), (44, 600), (71, 4096)])
def test_resumed_rewiring_is_bit_identical(tmp_path, monkeypatch, interrupt_at, at_once):
    monkeypatch.setattr(
        move_supports, "TOKENS_AT_ONCE", at_once
    )  # 600: two batches are summed and one waits; 71: no more moves
    x = block_activations()
    whole, parts = sae_with_stages(), sae_with_stages()
    train({"sae": whole}, MemorySource(x), CONFIG, folder=tmp_path / "whole", progress=False)
    source = MemorySource(x)
    source.interrupt_at = interrupt_at
    with pytest.raises(KeyboardInterrupt):
        train({"sae": parts}, source, CONFIG, folder=tmp_path / "parts", progress=False)
    requests = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["members"]["sae"]["requests"]
    assert (None if requests is None else len(requests["waiting"])) == {41: 1, 44: 1, 71: None}[interrupt_at]
    parts = sae_with_stages()
    train({"sae": parts}, MemorySource(x), CONFIG, folder=tmp_path / "parts", progress=False)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key
    assert whole.mask == parts.mask


def asked(codes, residual, parts=3):
    """As several batches ask for it."""
    requests = Requests(256, 48, residual.device)
    for at in torch.tensor_split(torch.arange(len(residual)), parts):
        requests.add(Codes(codes.indices[at], codes.values[at]), residual[at])
    return requests


def planned(row_cap=None):
    torch.manual_seed(0)
    sae, x = sae_with_stages(), block_activations(500)
    out = sae.reconstruction_loss(x, keep_residual=True)
    assert out.residual is not None
    return sae, out, plan_moves(sae, asked(out.codes, out.residual), 2, row_cap)


def test_moves_against_the_formula():
    sae, out, moves = planned()
    assert out.residual is not None
    codes = torch.zeros(500, 256).scatter(1, out.codes.indices, out.codes.values)
    wanted, energy = codes.T @ out.residual, codes.square().sum(0)
    assert len(moves.latents) > 20
    for latent, slot, row, value in zip(*(part.tolist() for part in moves), strict=True):
        assert row not in sae.rows[latent].tolist()
        assert value == pytest.approx(float(wanted[latent, row] / energy[latent]), rel=1e-3, abs=1e-4)
        assert abs(value) > abs(float(sae.values[latent, slot].detach()))


def test_what_batches_ask_for_adds_up_until_it_is_forgotten(monkeypatch):
    sae, out, _ = planned()
    assert out.residual is not None
    monkeypatch.setattr(
        move_supports, "TOKENS_AT_ONCE", 200
    )  # some of the batches below are summed, the last ones wait
    parts, whole = asked(out.codes, out.residual, parts=7), asked(out.codes, out.residual, parts=1)
    again = Requests(256, 48, torch.device("cpu"))
    again.load_state_dict(parts.state_dict())
    assert len(again.state_dict()["waiting"]) == 1
    for requests in (parts, again):
        for found, expected in zip(requests.sums(), whole.sums(), strict=True):
            assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(again.sums(), parts.sums(), strict=True))
    parts.clear()
    assert len(plan_moves(sae, parts, 2, None).latents) == 0


@pytest.mark.parametrize(("given", "most"), [(None, 2), (4, 4), (1, 1)])
def test_a_quarter_of_a_column_may_move_at_a_time(tmp_path, given, most):
    config = replace(CONFIG, tokens=256 * 5, move_supports=MoveSupports(every=5, entries=given))
    sae = sae_with_stages()
    before = sae.mask.rows.copy()
    train({"sae": sae}, MemorySource(block_activations()), config, folder=tmp_path, progress=False)
    moved = [len(set(a) - set(b)) for a, b in zip(before.tolist(), sae.mask.rows.tolist(), strict=True)]
    assert max(moved) == most  # one move of six entries' columns: a quarter is less than the two that may move at least


@pytest.mark.parametrize("row_cap", [1.0, 1.1])
def test_row_bounds_are_kept(row_cap):
    sae, _, moves = planned(row_cap)
    apply_moves(sae, moves, torch.optim.Adam(sae.parameters()))
    degrees = sae.mask.right_degrees()
    assert degrees.max() <= row_cap * 256 * 6 / 48
    assert degrees.min() >= 1


def test_moved_entries_lose_their_moments_and_others_keep_theirs():
    sae, out, moves = planned()
    optimizer = torch.optim.Adam(sae.parameters())
    out.loss.backward()
    optimizer.step()
    state = optimizer.state[sae.columns.raw]
    # Follow an untouched entry through the sorting by its (column, row).
    touched = set(moves.latents.tolist())
    latent = next(j for j in range(256) if j not in touched)
    before = state["exp_avg"][latent].clone()
    assert apply_moves(sae, moves, optimizer) == len(moves.latents)
    assert torch.equal(state["exp_avg"][latent], before)
    moved_latent, moved_row = int(moves.latents[0]), int(moves.rows[0])
    slot = sae.rows[moved_latent].tolist().index(moved_row)
    assert state["exp_avg"][moved_latent, slot] == 0
    assert state["exp_avg_sq"][moved_latent, slot] == 0


def test_nothing_to_move():
    sae = sae_with_stages()
    codes = Codes(torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4, 8))
    moves = plan_moves(sae, asked(codes, torch.zeros(4, 48)), 2, None)
    assert apply_moves(sae, moves, torch.optim.Adam(sae.parameters())) == 0
