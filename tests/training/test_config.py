"""Settings of training: in Python in groups, in records and fingerprints under the flat names they always had."""

from dataclasses import replace

import pytest

from expander_sae.pursuit import OMP, Encoder, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae
from expander_sae.training import (
    PRESETS,
    Coherence,
    Flatness,
    MoveSupports,
    Resample,
    Revive,
    TrainConfig,
    Watch,
    find_preset,
)
from expander_sae.training.loss import reading_in_training

RECORDED = {
    "tokens": 1000000, "batch_size": 512, "learning_rate": 0.01, "final_learning_rate": 0.0, "schedule": "trapezoid",
    "warmup": 0.05, "decay": 0.2, "beta1": 0.9, "beta2": 0.999, "clip": 1.0, "loss_unit": "variance",
    "scale_inputs": True, "center_on_mean": True, "fine_tune": False, "outlier_medians": 5.0,
    "with_replacement": False, "dead_after_tokens": 65536, "aux_coefficient": 0.03125, "aux_k": None,
    "resample_every": 0, "resample_firings": 5, "stages": 4, "spare": 4, "rewire_every": 20, "rewire_entries": None,
    "rewire_until": 0.85, "rewire_row_cap": None, "flatness": None, "flatness_from": 0.8, "coherence": 0.0,
    "coherence_columns": 256, "amortise": False, "seed": 0, "statistics_tokens": 65536, "log_every": 20,
    "heldout_every": 50, "checkpoint_every": 200,
}  # fmt: skip
"""Of the default settings, as the first releases wrote them."""

PAPER = {
    "tokens": 1280000, "batch_size": 256, "learning_rate": 0.0003, "final_learning_rate": 1e-05, "schedule": "cosine",
    "warmup": 0.0, "decay": 0.0, "loss_unit": "token", "scale_inputs": False, "center_on_mean": False,
    "outlier_medians": None, "with_replacement": True, "aux_coefficient": 0.0, "resample_every": 1000, "stages": None,
    "spare": None, "rewire_every": 0, "heldout_every": 250,
}  # fmt: skip
"""What the paper's differ in."""


def test_records_have_the_names_and_the_order_of_the_first_releases():
    assert list(TrainConfig().to_dict().items()) == list(RECORDED.items())
    assert PRESETS["fidelity"].training.to_dict() == RECORDED
    assert PRESETS["paper"].training.to_dict() == RECORDED | PAPER


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(),
        PRESETS["paper"].training,
        TrainConfig(amortise=True, revive=None, move_supports=None),
        TrainConfig(
            revive=Revive(0.5, k=3),
            resample=Resample(7, fewer_than=2),
            move_supports=MoveSupports(3, entries=1, until=0.5, row_cap=2.0),
            flatness=Flatness(2.0, since=0.0),
            coherence=Coherence(0.1, columns=5),
            watch=Watch(1, 2, 3),
        ),
    ],
    ids=["default", "paper", "amortise", "all parts"],
)
def test_a_record_gives_the_settings_back(config):
    assert TrainConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("reading", "stages", "spare"),
    [
        (None, None, None),
        (Encoder(), 0, 4),
        (Stages(3), 3, 0),
        (Stages(3, spare=None), 3, None),
        (Stages(10**9 - 1, spare=2), None, 2),
    ],
    ids=str,
)
def test_the_reading_is_two_numbers_in_records(reading, stages, spare):
    settings = RECORDED | {"stages": stages, "spare": spare}
    assert TrainConfig(reading=reading).to_dict() == settings
    assert TrainConfig.from_dict(settings) == TrainConfig(reading=reading)


@pytest.mark.parametrize(
    ("limit", "of_stages"),
    [
        (None, "stages:4+6"),
        (Encoder(), "encoder"),
        (Stages(2), "stages:2"),
        (Stages(3, spare=None), "stages:3+6"),
        (Stages(9, spare=9), "stages:4+6"),
    ],
    ids=str,
)
def test_stages_have_a_limit_in_training_and_other_readings_have_none(limit, of_stages):
    sizes = {"d_in": 16, "n_latents": 64, "degree": 4, "k": 8}
    assert str(reading_in_training(ExpanderSae(**sizes, reading=Stages(4, spare=6)), limit)) == of_stages
    omp = reading_in_training(ExpanderSae(**sizes, reading=OMP()), limit)
    assert omp == (Encoder() if limit == Encoder() else OMP())
    with pytest.raises(ExpanderSaeError, match=r"expected reading as Stages\(...\), Encoder\(\) or None"):
        TrainConfig(reading=OMP())


def test_what_an_earlier_release_did_not_record_is_at_its_default():
    early = {name: value for name, value in RECORDED.items() if not name.startswith(("flatness", "coherence"))}
    assert TrainConfig.from_dict(early | {"tokens": 99}) == replace(TrainConfig(), tokens=99)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rates": 1.0}, "got 'learning_rates'"),
        ({"flatness_from": 0.0}, "flatness_from = 0.0 has no effect while flatness is None"),
        ({"rewire_every": 0, "rewire_row_cap": 2.0}, "rewire_row_cap = 2.0 has no effect while rewire_every is 0"),
        ({"rewire_every": -1}, "every >= 1"),
    ],
)
def test_records_that_say_nothing_are_refused(settings, message):
    with pytest.raises(ExpanderSaeError, match=message):
        TrainConfig.from_dict(settings)


def test_what_is_said_stands_above_a_preset_and_the_rest_is_its_own():
    paper = PRESETS["paper"]
    said = paper.obeying(learning_rate=1e-3, signed=False, construction="balanced", stages=None)
    assert said.training == replace(paper.training, learning_rate=1e-3)
    assert (said.signed, said.construction) == (False, "balanced")
    assert replace(said, training=paper.training, signed=True, construction="repaired") == paper
    with pytest.raises(ExpanderSaeError, match=r"--preset .* out of meaning, fidelity, paper; got 'new'"):
        find_preset("new")
    assert find_preset("default") == PRESETS["fidelity"]  # in records and commands of earlier releases
