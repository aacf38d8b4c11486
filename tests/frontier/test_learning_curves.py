"""The page of learning curves, from records made by hand."""

import pytest

from expander_sae.frontier.experiments import find_experiment
from expander_sae.frontier.experiments.learning_curves import _curve
from expander_sae.records import ExpanderSaeError


def measured(points_of):
    keys = ("step", "tokens", "heldout_fvu", "heldout_rel_err", "fvu", "dead_fraction")
    curves = [
        {"variant": "expander-d7", "seed": seed, "points": [dict(zip(keys, point, strict=True)) for point in points]}
        for seed, points in points_of.items()
    ]
    return {"frontier": {"records": [], "diverged": []}, "curves": curves}


# Seed 1 left out ten tokens as outliers, and diverged after step 30.
POINTS = {
    0: [
        (9, 1000, 0.8, 0.9, 0.8, 0.1),
        (19, 2000, 0.6, 0.8, 0.6, 0.0),
        (29, 3000, 0.5, 0.7, 0.5, 0.0),
        (39, 4000, 0.3, 0.6, 0.3, 0.0),
    ],
    1: [
        (9, 990, 0.6, 0.9, 0.8, 0.1),
        (19, 1990, 0.4, 0.8, 0.6, 0.0),
        (29, 2990, 0.3, 0.7, 0.5, 0.0),
        (39, 3990, None, None, 0.3, 0.0),
    ],
}


def test_curves_are_means_over_seeds_step_by_step():
    found = _curve(measured(POINTS), "expander-d7", "heldout_fvu")
    assert [tokens for tokens, _ in found] == [995, 1995, 2995, 3995]
    assert [value.mean for _, value in found] == pytest.approx([0.7, 0.5, 0.4, 0.3])


def test_the_page_has_a_quarter_half_and_whole_of_every_pass():
    page = find_experiment("learning-curves").show(measured({0: POINTS[0]}))
    assert page.claim == "The second half of training lowers held-out fvu by: expander-d7 50.0%."
    assert [cell.text() for cell in page.tables[0].rows[0][1:]] == ["0.8000", "0.6000", "0.5000", "0.3000"]


def test_curves_of_training_batches_are_refused():
    old = measured(POINTS)
    for point in old["curves"][0]["points"]:
        del point["step"]
    with pytest.raises(ExpanderSaeError, match="of an earlier version"):
        find_experiment("learning-curves").show(old)
