"""Flat columns and low coherence as settings of training."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_source import MemorySource, sparse_activations

from expander_sae.pursuit import Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae
from expander_sae.theory import dictionary_coherence, flatness
from expander_sae.training import Coherence, Flatness, MoveSupports, TrainConfig, Watch, train
from expander_sae.training.flat_columns import flatten_columns
from expander_sae.training.parts.coherence import coherence_penalty
from expander_sae.training.parts.flatness import keep_flat

CONFIG = TrainConfig(
    tokens=256 * 40,
    batch_size=256,
    learning_rate=1e-2,
    move_supports=MoveSupports(every=5),
    watch=Watch(checkpoint_every=10),
)


def expander(**options):
    return ExpanderSae(d_in=48, n_latents=128, degree=6, k=8, reading=Stages(4), **options)


def trained(folder, config, sae=None):
    train({"sae": sae or expander()}, MemorySource(sparse_activations()), config, folder=folder, progress=False)
    return load_sae(folder / "sae")


def test_columns_are_projected_where_they_are_uneven_and_left_alone_elsewhere():
    sae = expander()
    with torch.no_grad():
        sae.columns.raw[3] = torch.tensor([1.0, -1.5, 2.0, 1.0, -1.0, 1.9])
    before = sae.columns.raw.detach().clone()
    uneven = (before.abs().amax(1) / before.abs().amin(1)) > 2
    assert keep_flat(sae, 2.0) == int(uneven.sum()) > 100
    after = sae.columns.raw.detach()
    assert torch.equal(after[~uneven], before[~uneven])
    assert not uneven[3]
    assert torch.equal(after.sign(), before.sign())
    assert after.allclose(torch.from_numpy(flatten_columns(before.numpy(), 2.0)).float(), atol=1e-6)
    assert keep_flat(sae, 2.0) == 0
    with pytest.raises(ExpanderSaeError, match="at least 1"):
        keep_flat(sae, 0.5)


@pytest.mark.parametrize(("beta", "since"), [(1.0, 1.0), (1.5, 0.8), (3.0, 0.0)])
def test_training_keeps_columns_flat_while_entries_move(tmp_path, beta, since):
    sae = trained(tmp_path, replace(CONFIG, flatness=Flatness(beta, since)))
    assert flatness(sae.values.detach().numpy()).largest <= beta * (1 + 1e-5)
    assert sae.mask.seed is None  # entries did move
    assert sae.metadata["training"]["config"]["flatness"] == beta


@pytest.mark.parametrize("sae", [expander(), DenseTopKSae(d_in=12, n_latents=40, k=3)], ids=["expander", "dense"])
def test_the_penalty_is_that_of_the_gram_matrix(sae):
    columns = torch.tensor([5, 0, 33])
    gram = (sae.dictionary().dense() @ sae.dictionary().dense().T).square().fill_diagonal_(0)
    for p in (1, 4, 20):
        expected = gram[columns].topk(p, dim=1).values.mean()
        assert coherence_penalty(sae, columns, p).item() == pytest.approx(expected.item(), rel=1e-4)
    sae.zero_grad()
    coherence_penalty(sae, columns, 4).backward()
    got = sae.columns.raw.grad.clone()
    sae.zero_grad()
    w = sae.dictionary().dense()
    (w @ w.T).square().fill_diagonal_(0)[columns].topk(4).values.mean().backward()
    assert got.allclose(sae.columns.raw.grad, atol=1e-5)
    with pytest.raises(ExpanderSaeError, match="p from 1"):
        coherence_penalty(sae, columns, sae.n_latents)


def test_the_penalty_lowers_coherence(tmp_path):
    plain, apart = (
        trained(tmp_path / str(weight), replace(CONFIG, coherence=Coherence(weight) if weight else None))
        for weight in (0.0, 3.0)
    )
    babel = [dictionary_coherence(sae.dictionary(), p_max=8).babel[8] for sae in (plain, apart)]
    assert babel[1] < 0.9 * babel[0]


def test_a_constrained_pass_resumes_bit_identical(tmp_path):
    config = replace(CONFIG, coherence=Coherence(0.5, columns=16), flatness=Flatness(3.0, since=0.2))
    whole, parts = expander(), expander()
    train({"sae": whole}, MemorySource(sparse_activations()), config, folder=tmp_path / "whole", progress=False)
    source = MemorySource(sparse_activations())
    source.interrupt_at = 25
    with pytest.raises(KeyboardInterrupt):
        train({"sae": parts}, source, config, folder=tmp_path / "parts", progress=False)
    parts = expander()
    train({"sae": parts}, MemorySource(sparse_activations()), config, folder=tmp_path / "parts", progress=False)
    assert torch.equal(whole.values, parts.values)
    assert torch.equal(whole.rows.long(), parts.rows.long())


@pytest.mark.parametrize(
    "given",
    [
        lambda: Flatness(0.9),
        lambda: Flatness(0.0),
        lambda: Flatness(2.0, since=1.1),
        lambda: Coherence(-1.0),
        lambda: Coherence(math.inf),
        lambda: Coherence(1.0, columns=0),
        lambda: TrainConfig(amortise=True, flatness=Flatness(2.0)),
        lambda: TrainConfig(amortise=True, coherence=Coherence(1.0)),
    ],
)
def test_impossible_constraints_are_refused(given):
    with pytest.raises(ExpanderSaeError, match=r"expected .*([Ff]latness|[Cc]oherence)"):
        given()


@pytest.mark.parametrize("beta", [1.0, 1.5, 4.0, 100.0])
def test_flattened_columns_are_the_nearest_flat_ones(beta):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6)) * np.exp(rng.normal(size=(40, 1)))
    flat = flatten_columns(values, beta)
    assert (np.sign(flat) == np.sign(values)).all()
    assert flatness(flat).largest <= beta * (1 + 1e-9)
    distance = np.linalg.norm(flat - values, axis=1)
    for low in np.geomspace(0.01, 5, 200):
        other = np.sign(values) * np.clip(np.abs(values), low, beta * low)
        assert (np.linalg.norm(other - values, axis=1) >= distance - 1e-9).all()
    already = flatness(values).beta <= beta
    assert flat[already] == pytest.approx(values[already])


@pytest.mark.parametrize(
    ("values", "beta", "match"),
    [
        ([[1.0, 2.0]], 0.5, "at least 1; got 0.5"),
        ([1.0, 2.0], 2.0, r"got shape \(2,\)"),
        ([[1.0, math.nan]], 2.0, "got NaN"),
        ([[1.0, 2.0], [0.0, 0.0]], 2.0, "zeros in column 1"),
    ],
)
def test_what_cannot_be_flattened_is_refused(values, beta, match):
    with pytest.raises(ExpanderSaeError, match=match):
        flatten_columns(np.array(values), beta)
