"""Encoders of their own beside dictionaries that have all of the budget: who learns what, and what is refused."""

import pytest
import torch
from experiment_place import make_place, small_settings

from expander_sae.frontier.experiments import encoders, find_experiment, run_experiment
from expander_sae.records import ExpanderSaeError, read_json
from expander_sae.saes import load_sae

OPTIONS = {
    "budgets": "4", "controls": "none", "dictionary_readings": "refit", "encoder_readings": "encoder,warm:2",
}  # fmt: skip
N, D_IN = 64, 32


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))[1]


def run(out, stores, **given):
    experiment = find_experiment("encoders")
    settings = small_settings(experiment, options=OPTIONS | given, seeds=(0,))
    return run_experiment(experiment, out, settings, stores=stores)


def test_half_of_the_budget_is_the_encoders_and_only_the_second_way_changes_the_dictionary(
    stores, tmp_path, monkeypatch
):
    page = run(tmp_path, stores)
    measured = read_json(tmp_path / "encoders/records.json")["measured"]
    values = {r["variant"]: r["evaluation"]["learned_values"] for r in [*measured["records"], *measured["encoders"]]}
    alone, shared = values["expander-d4"], values["expander-d2 + encoder, taught"]
    assert shared == alone + N  # the encoder's biases
    assert values["expander-d2 + encoder, end to end"] == shared
    source = load_sae(next(tmp_path.glob("saes/*/seed0/expander-d2")))
    taught, both = (
        load_sae(tmp_path / f"encoders/saes/expander-d2-seed0-{way}/sae") for way in ("taught", "end-to-end")
    )
    torch.testing.assert_close(taught.values, source.values)
    assert not torch.allclose(taught.encoder, source.values, atol=1e-3)
    assert not torch.allclose(both.values, source.values, atol=1e-3)
    assert torch.equal(both.rows, source.rows)
    one_pass = {r["variant"]: r["evaluation"]["fvu"] for r in measured["encoders"] if r["reading"] == "encoder"}
    assert one_pass["expander-d2 + encoder, end to end"] < one_pass["expander-d2 + encoder, taught"]

    def never(*args, **kwargs):
        raise AssertionError("this was finished")

    monkeypatch.setattr(encoders, "train", never)
    monkeypatch.setattr(encoders, "evaluate", never)
    assert run(tmp_path, stores) == page


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"budgets": "5"}, "even numbers"),
        ({"budgets": str(2 * D_IN)}, "even numbers"),
        ({"encoder_readings": "encodre"}, "a reading out of"),
    ],
)
def test_bad_options_are_refused_before_anything_is_trained(stores, tmp_path, given, says):
    with pytest.raises(ExpanderSaeError, match=says):
        run(tmp_path, stores, **given)
    assert not list(tmp_path.glob("saes/*"))


def test_the_papers_recipe_has_no_pursuit_to_learn_from(stores, tmp_path):
    experiment = find_experiment("encoders")
    settings = small_settings(experiment, options=OPTIONS, preset="paper")
    with pytest.raises(ExpanderSaeError, match="learn from pursuit"):
        run_experiment(experiment, tmp_path, settings, stores=stores)
