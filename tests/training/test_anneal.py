"""A degree that falls while training, and the encoder trained beside the pursuit."""

import math
import shutil

import pytest
import torch

from expander_sae import ExpanderSae, fit
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, IrregularSae, load_sae
from expander_sae.training import TrainConfig, train
from expander_sae.training.config import Watch
from expander_sae.training.loss import SquaredError
from expander_sae.training.memory import MemoryBatches
from expander_sae.training.parts import Anneal, OnePass
from expander_sae.training.parts.anneal import cut, widen


def activations(tokens=1500, d_in=24, features=60, seed=0):
    draw = torch.Generator().manual_seed(seed)
    codes = torch.relu(torch.randn(tokens, features, generator=draw) - 1.5)
    return codes @ torch.randn(features, d_in, generator=draw) + 0.3


def made(degree=4, **options):
    return ExpanderSae(d_in=24, n_latents=60, degree=degree, k=4, **options)


def uneven(**options):
    return IrregularSae(d_in=24, n_latents=60, degree=8, entries=240, k=4, **options)


def config(**options):
    return TrainConfig(**{"tokens": 8000, "batch_size": 200, "learning_rate": 5e-3, "move_supports": None} | options)


def trained(sae, settings, folder, x=None, **options):
    source = MemoryBatches(activations() if x is None else x, settings.batch_size, settings.seed)
    return train({"one": sae}, source, settings, folder=folder, progress=False, **options)["one"]


def test_the_degree_falls_as_the_schedule_says(tmp_path):
    seen = []

    class Watched(ExpanderSae):
        def resize(self, mask, values):
            seen.append(mask.degree)
            super().resize(mask, values)

    sae = Watched(d_in=24, n_latents=60, degree=4, k=4, reading=Encoder())
    settings = config(anneal=Anneal(start=2 / 3, since=0.1, until=0.5, every=2))
    trained(sae, settings, tmp_path)
    first, last = 0.1 * settings.steps, 0.5 * settings.steps
    wanted = [16] + [4 + round(12 * min(1.0, (last - t) / (last - first)) ** 3) for t in range(2, 21, 2)]
    assert seen == [w for w, before in zip(wanted, [None, *wanted], strict=False) if w != before]
    assert sae.degree == 4
    assert load_sae(tmp_path / "one").degree == 4


def test_a_finished_pass_is_found_finished_and_a_refused_one_leaves_the_sae_alone(tmp_path):
    settings = config(tokens=1000, anneal=Anneal())
    first = made()
    trained(first, settings, tmp_path)
    again = made()
    trained(again, settings, tmp_path)
    assert torch.equal(again.values, first.values)
    assert torch.equal(again.rows.long(), first.rows.long())
    other = made(seed=1)
    before = other.columns.raw.detach().clone()
    with pytest.raises(ExpanderSaeError, match="holds finished work already"):
        trained(other, settings, tmp_path)
    assert other.degree == 4
    assert torch.equal(other.columns.raw, before)


def test_a_cut_keeps_the_largest_entries_their_moments_and_the_length():
    sae = made(degree=8)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    sae.reconstruction_loss(activations(50)).loss.backward()
    optimizer.step()
    raw, rows = sae.columns.raw.detach().clone(), sae.rows.long().clone()
    state = optimizer.state[sae.columns.raw]
    moments = {name: state[name].clone() for name in ("exp_avg", "exp_avg_sq")}
    parameter = sae.columns.raw
    cut(sae, 3, optimizer)
    assert sae.columns.raw is parameter
    assert sae.degree == sae.mask.degree == 3
    for latent in range(60):
        kept = raw[latent].abs().topk(3).indices.sort().values
        assert torch.equal(sae.rows[latent].long(), rows[latent, kept])
        scale = raw[latent].norm() / raw[latent, kept].norm()
        assert torch.allclose(sae.columns.raw[latent], raw[latent, kept] * scale)
        for name, moment in moments.items():
            assert torch.equal(state[name][latent], moment[latent, kept])
    sae.reconstruction_loss(activations(50)).loss.backward()
    optimizer.step()
    assert bool(torch.isfinite(sae.columns.raw).all())


class Stops(MemoryBatches):
    """Activations whose reader is interrupted at one of the batches."""

    def __init__(self, at):
        super().__init__(activations(), 200, 0)
        self.left = at

    def __next__(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().__next__()


@pytest.mark.parametrize("made", [made, uneven])
def test_an_interrupted_pass_ends_with_the_same_bits(made, tmp_path):
    settings = config(
        anneal=Anneal(start=2 / 3, since=0.0, until=0.6, every=3), one_pass=OnePass(0.5, alone=0.7),
        reading=Stages(2, 0),
        watch=Watch(checkpoint_every=7),
    )  # fmt: skip
    whole = made()
    trained(whole, settings, tmp_path / "whole")
    for stop_at in (5, 20, 35):  # while the degree falls, after, and beside the pursuit
        folder, sae = tmp_path / f"stopped{stop_at}", made()
        with pytest.raises(KeyboardInterrupt):
            train({"one": sae}, Stops(stop_at), settings, folder=folder, progress=False)
        copy = shutil.copytree(folder, tmp_path / f"copy{stop_at}")
        for again, where in ((made(), copy), (sae, folder)):
            trained(again, settings, where)
            assert torch.equal(again.columns.raw, whole.columns.raw)
            assert torch.equal(again.rows.long(), whole.rows.long())


def test_wide_columns_are_where_it_begins(tmp_path):
    wide = made(degree=12, seed=5)
    sae = made()
    settings = config(tokens=200, anneal=Anneal(since=0.0, until=1.0), learning_rate=1e-9)
    trained(sae, settings, tmp_path, wide={"one": wide})
    kept = wide.values.abs().topk(4, dim=1).indices.sort(dim=1).values
    assert torch.equal(sae.rows.long(), wide.rows.long().gather(1, kept))


def test_wide_columns_of_other_sizes_and_for_others_are_refused(tmp_path):
    settings = config(anneal=Anneal())
    for sae, wide in ((made(), made(degree=4)), (made(), ExpanderSae(d_in=24, n_latents=30, degree=8, k=4))):
        with pytest.raises(ExpanderSaeError, match="expected wide columns of"):
            trained(sae, settings, tmp_path, wide={"one": wide})
    with pytest.raises(ExpanderSaeError, match="that are annealed"):
        trained(made(), config(), tmp_path, wide={"one": made(degree=8)})
    dense = DenseTopKSae(d_in=24, n_latents=60, k=4)
    with pytest.raises(ExpanderSaeError, match="that are annealed"):
        trained(dense, settings, tmp_path, wide={"one": made(degree=8)})


def test_others_in_the_pass_keep_their_columns(tmp_path):
    sae = DenseTopKSae(d_in=24, n_latents=60, k=4)
    trained(sae, config(tokens=400, anneal=Anneal()), tmp_path)
    assert sae.degree == 24


def test_irregular_columns_give_up_what_matters_least(tmp_path):
    seen = []

    class Watched(IrregularSae):
        def resize(self, mask, values):
            seen.append((self.entries, mask.degree))
            super().resize(mask, values)

    sae = Watched(d_in=24, n_latents=60, degree=8, entries=240, k=4, reading=Encoder())
    settings = config(anneal=Anneal(since=0.1, until=0.5, every=2))
    trained(sae, settings, tmp_path)
    first, last = 0.1 * settings.steps, 0.5 * settings.steps
    due = [4 + 20 * max(0.0, (last - t) / (last - first)) ** 3 for t in range(6, 21, 2)]
    # Widened first; then as many entries as the schedule says, and twice the mean degree in slots, as at the end.
    assert seen[1:] == [(round(60 * d), max(8, min(24, round(2 * d)))) for d in due]
    assert sae.entries == int(sae.present().sum()) == 240
    degrees = sae.column_degrees()
    assert 2 <= int(degrees.min()) < int(degrees.max()) <= 8
    codes = sae.eval().encode(activations())
    energy = torch.zeros(60).index_add_(0, codes.indices.reshape(-1), codes.values.detach().square().reshape(-1))
    strong, weak = energy.argsort(descending=True).split(30)
    assert degrees[strong].float().mean() > 1.5 * degrees[weak].float().mean()
    again = load_sae(tmp_path / "one")
    assert isinstance(again, IrregularSae)
    assert again.entries == 240
    assert torch.equal(again.encode(activations()).indices, codes.indices)


def test_while_no_entry_is_missing_an_irregular_dictionary_is_dense():
    sae = uneven()
    widen(sae, 24)
    assert sae.dictionary().rows is None
    full = sae.dictionary().dense()
    sae.columns.raw.data[3, 5] = 0.0
    left = sae.dictionary()
    assert left.rows is not None
    assert torch.equal(left.dense()[:3], full[:3])
    assert left.dense()[3, 5] == 0.0


def test_an_encoder_is_trained_alone_first_then_beside_the_pursuit():
    sae = made().train()
    x = activations(100)
    loss = SquaredError(sae, 2.0, unit="variance", reading=Stages(2, 0), one_pass=OnePass(0.25, alone=0.5), steps=10)
    encoder = sae.reconstruction_loss(x, reading=Encoder()).loss / 200
    pursuit = sae.reconstruction_loss(x, reading=Stages(2, 0)).loss / 200
    assert torch.allclose(loss(x, number=4).loss, encoder)
    late = loss(x, number=5)
    assert torch.allclose(late.loss, pursuit + 0.25 * encoder)
    assert float(late.fvu) == pytest.approx(pursuit.item())
    only = SquaredError(made(reading=Encoder()), 2.0, unit="variance", reading=None, one_pass=OnePass(), steps=10)
    assert only.one_pass is None


def test_both_readings_get_better_by_it(tmp_path):
    x = activations(3000)
    pursuit, both = made(), made()
    trained(pursuit, config(tokens=40_000), tmp_path / "pursuit", x)
    trained(both, config(tokens=40_000, one_pass=OnePass(0.5, alone=0.0)), tmp_path / "both", x)

    def left(sae, reading):
        with torch.no_grad():
            return float(
                (x - sae.decode(sae.encode(x, reading=reading))).square().sum() / (x - x.mean(0)).square().sum()
            )

    assert left(both, Encoder()) < 0.8 * left(pursuit, Encoder())
    assert left(both, None) < 1.2 * left(pursuit, None)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"start": 1.5}, "start <= 1"), ({"since": 0.7}, "since < until"), ({"every": 0}, "every >= 1"),
    ],
)  # fmt: skip
def test_impossible_anneals_are_refused(options, match):
    with pytest.raises(ExpanderSaeError, match=match):
        Anneal(**options)


def test_impossible_settings_are_refused():
    with pytest.raises(ExpanderSaeError, match="weight >= 0"):
        OnePass(weight=-1.0)
    with pytest.raises(ExpanderSaeError, match="expected move_supports=None beside anneal"):
        TrainConfig(anneal=Anneal())
    with pytest.raises(ExpanderSaeError, match="expected fine_tune=False beside anneal"):
        config(anneal=Anneal(), fine_tune=True)


def test_records_have_them_only_where_they_are_on():
    plain = config()
    assert not [name for name in plain.to_dict() if name.startswith(("anneal", "one_pass"))]
    settings = config(anneal=Anneal(start=0.5), one_pass=OnePass(weight=0.1))
    assert TrainConfig.from_dict(settings.to_dict()) == settings
    assert TrainConfig.from_dict(plain.to_dict()) == plain


def test_fit_anneals_too():
    sae = made()
    record = fit(sae, activations(), config=config(anneal=Anneal(), one_pass=OnePass()), progress=False)
    assert sae.degree == 4
    assert math.isfinite(record.final_fvu)


def test_widening_is_the_seeds():
    one, other = made(), made()
    widen(one, 12)
    widen(other, 12)
    assert torch.equal(one.columns.raw, other.columns.raw)
    assert one.mask == other.mask
