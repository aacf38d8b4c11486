import json
from dataclasses import replace

import pytest
import torch
from memory_source import MemorySource
from test_move_supports import CONFIG, block_activations, fvu, sae_with_stages

from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder, Stages, parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae, input_statistics, load_sae
from expander_sae.training import amortisation_loss, train, with_own_encoder
from expander_sae.training.member import Member

AMORTISE = replace(CONFIG, amortise=True, revive=None, tokens=256 * 120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train({"sae": sae_with_stages()}, MemorySource(block_activations()), CONFIG, folder=folder, progress=False)
    return load_sae(folder / "sae")


def test_the_encoder_learns_what_pursuit_finds_and_the_dictionary_stays(trained, tmp_path):
    x = block_activations()
    train({"sae": with_own_encoder(trained)}, MemorySource(x), AMORTISE, folder=tmp_path, progress=False)
    sae = load_sae(tmp_path / "sae")
    torch.testing.assert_close(sae.values, trained.values, rtol=0, atol=1e-6)
    torch.testing.assert_close(sae.b_dec, trained.b_dec, rtol=1e-4, atol=1e-5)
    assert sae.learned_values() == trained.learned_values() + 256 * 6 + 256
    assert fvu(sae.read_by(Encoder()), x) < 0.5 * fvu(trained.read_by(Encoder()), x)
    assert fvu(sae.read_by(parse_reading("refit")), x) < fvu(trained.read_by(parse_reading("refit")), x)
    assert fvu(sae, x) == pytest.approx(fvu(trained, x), rel=1e-4)  # pursuit reads the dictionary alone


def test_an_encoder_is_followed_on_held_out_activations_by_itself(trained, tmp_path):
    x, sae = block_activations(), with_own_encoder(trained)
    heldout = x[:300]
    train({"sae": sae}, MemorySource(x), AMORTISE, folder=tmp_path, progress=False, heldout=heldout)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    measured = [line["heldout_fvu"] for line in lines if "heldout_fvu" in line]
    assert len(measured) == 3  # steps 50, 100 and the last
    assert measured[-1] == pytest.approx(float(fvu(sae.read_by(Encoder()), heldout)), rel=1e-4)
    assert measured[-1] > 1.05 * float(fvu(sae, heldout))  # what pursuit, its own inference, leaves


def test_interrupted_training_of_an_encoder_ends_the_same(trained, tmp_path):
    x = block_activations()
    train({"sae": with_own_encoder(trained)}, MemorySource(x), AMORTISE, folder=tmp_path / "a", progress=False)
    source = MemorySource(x)
    source.interrupt_at = 50
    with pytest.raises(KeyboardInterrupt):
        train({"sae": with_own_encoder(trained)}, source, AMORTISE, folder=tmp_path / "b", progress=False)
    train({"sae": with_own_encoder(trained)}, MemorySource(x), AMORTISE, folder=tmp_path / "b", progress=False)
    one, other = (load_sae(tmp_path / name / "sae") for name in "ab")
    assert torch.equal(one.encoder, other.encoder)
    assert torch.equal(one.b_enc, other.b_enc)


def test_the_loss_is_its_formula():
    torch.manual_seed(0)
    sae = with_own_encoder(sae_with_stages())
    x = torch.randn(5, 48)
    with torch.no_grad():
        sae.encoder += 0.1 * torch.randn_like(sae.encoder)
        sae.b_enc.normal_(std=0.1)
    target = sae.encode(x)
    wide = torch.zeros(256, 48).scatter(1, sae.rows.long(), sae.encoder.detach())
    pre = (x - sae.center()) @ wide.T + sae.b_enc
    wanted = torch.zeros_like(pre).scatter(1, target.indices, target.values)
    inside = torch.zeros_like(pre).scatter(1, target.indices, 1.0).bool()
    own = Codes(*(part.detach() for part in sae.encode(x, reading=Encoder())))
    outside = torch.zeros_like(pre).scatter(1, own.indices, 1.0).bool() & ~inside
    error = ((pre - wanted).square() * inside).sum() + (pre.relu().square() * outside).sum()
    loss = amortisation_loss(sae, x, Codes(target.indices, target.values), own)
    torch.testing.assert_close(loss, error / target.values.square().sum(), rtol=1e-5, atol=1e-6)
    loss.backward()
    assert sae.encoder.grad.abs().sum() > 0
    assert sae.columns.raw.grad is None


def test_an_sae_with_its_own_encoder_trains_and_comes_back(tmp_path):
    x = block_activations()
    sae = ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, tied=False, latent_bias=True, reading=Encoder())
    train({"sae": sae}, MemorySource(x), CONFIG, folder=tmp_path, progress=False)
    again = load_sae(tmp_path / "sae")
    assert again.tied is False
    assert not torch.equal(again.encoder, again.values)
    assert torch.equal(again.encode(x[:20]).indices, sae.encode(x[:20]).indices)


@pytest.mark.parametrize(
    "sae",
    [
        DenseTopKSae(d_in=48, n_latents=60, k=8, reading=Stages(2)),
        ExpanderSae(d_in=48, n_latents=60, degree=4, k=8, reading=Encoder()),
        ExpanderSae(d_in=48, n_latents=60, degree=4, k=8, reading=Stages(2), signed=True),
        ExpanderSae(d_in=48, n_latents=60, degree=4, k=8, reading=Stages(2), tied=False),
    ],
    ids=["dense", "one-shot", "signed", "untied"],
)
def test_what_cannot_be_amortised_is_an_error(sae):
    with pytest.raises(ExpanderSaeError, match="expected a tied Expander SAE"):
        with_own_encoder(sae)


def test_a_tied_sae_cannot_be_trained_towards_pursuit(tmp_path):
    with pytest.raises(ExpanderSaeError, match="encoder of its own"):
        train({"sae": sae_with_stages()}, MemorySource(block_activations()), AMORTISE, folder=tmp_path, progress=False)


def test_an_encoder_that_is_taught_further_starts_as_it_is(trained):
    x, sae = block_activations(), with_own_encoder(trained)
    with torch.no_grad():
        sae.b_enc.normal_(std=0.5)
        before = sae.encode(x, reading=Encoder())
        Member("sae", sae, AMORTISE, input_statistics(x))
        after = sae.encode(x, reading=Encoder())
    assert float(sae.input_scale) != 1.0  # trained in other units
    torch.testing.assert_close(after.values, before.values, rtol=1e-4, atol=1e-4)
