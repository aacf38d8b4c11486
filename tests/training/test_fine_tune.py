from dataclasses import replace

import pytest
import torch
from memory_source import MemorySource, sparse_activations
from test_training import SMALL, fvu

from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae, input_statistics, load_sae, set_input_scale
from expander_sae.training import train
from expander_sae.training.member import Member

GENTLE = replace(SMALL, fine_tune=True, learning_rate=1e-4, tokens=256 * 5, move_supports=None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    sae = ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, latent_bias=True, reading=Encoder())
    train({"sae": sae}, MemorySource(sparse_activations()), SMALL, folder=folder, progress=False)
    return folder / "sae"


def test_other_units_change_no_output(trained):
    sae, x = load_sae(trained), sparse_activations(100)
    with torch.no_grad():
        sae.b_enc.normal_()
        before = sae(x)
        set_input_scale(sae, 0.25)
        set_input_scale(sae, 3.0)
    assert float(sae.input_scale) == 3.0
    torch.testing.assert_close(sae(x), before, rtol=1e-4, atol=1e-4)


def test_a_fine_tuned_sae_starts_as_it_is_and_any_other_at_the_mean(trained):
    x = sparse_activations()
    statistics = input_statistics(x)
    for fine_tune in (True, False):
        sae = load_sae(trained)
        with torch.no_grad():
            sae.b_dec += 1.0
        center = sae.center().clone()
        Member("sae", sae, replace(GENTLE, fine_tune=fine_tune), statistics)
        expected = center if fine_tune else statistics.mean
        torch.testing.assert_close(sae.center(), expected, rtol=1e-5, atol=1e-5)
        assert float(sae.input_scale) == pytest.approx(statistics.scale)


def test_a_few_gentle_steps_end_near_where_they_began(trained, tmp_path):
    x = sparse_activations()
    before = load_sae(trained)
    sae = load_sae(trained)
    train({"sae": sae}, MemorySource(x), GENTLE, folder=tmp_path, progress=False)
    after = load_sae(tmp_path / "sae")
    assert not torch.equal(after.values, before.values)
    assert float((after.values - before.values).detach().abs().max()) < 0.02
    assert fvu(after, x) == pytest.approx(float(fvu(before, x)), rel=0.05)


def test_an_extra_loss_is_added_and_pulls(trained, tmp_path):
    x, config = sparse_activations(), replace(GENTLE, learning_rate=1e-2, tokens=256 * 20)
    start = load_sae(trained).values.detach().clone()
    seen = []

    def stay(sae, batch, codes):
        assert len(batch) == len(codes.indices) == 256
        seen.append(sae)
        return 100 * (sae.values - start).square().mean()

    moved = {}
    for name, extra in (("free", None), ("held", {"sae": stay})):
        folder = tmp_path / name
        train({"sae": load_sae(trained)}, MemorySource(x), config, folder=folder, progress=False, extra_losses=extra)
        moved[name] = float((load_sae(folder / "sae").values - start).norm().detach())
    assert len(seen) == 20
    assert moved["held"] < 0.7 * moved["free"]


def test_an_extra_loss_for_no_member_is_an_error(trained, tmp_path):
    with pytest.raises(ExpanderSaeError, match="'other'"):
        train(
            {"sae": load_sae(trained)},
            MemorySource(sparse_activations()),
            GENTLE,
            folder=tmp_path,
            progress=False,
            extra_losses={"other": lambda sae, x, codes: x.sum()},
        )
