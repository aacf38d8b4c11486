"""Which SAEs a frontier trains."""

import pytest

from expander_sae.frontier import SaeOptions, plan
from expander_sae.records import ExpanderSaeError

SIZES = {"d_in": 576, "n_latents": 4608, "k": 32}


def test_the_demo_frontier():
    notes = []
    variants = plan([4, 7, 16, 32, 64], d_in=576, n_latents=4608, k=32, note=notes.append)
    assert [variant.name for variant in variants] == [
        *(f"expander-d{d}" for d in (4, 7, 16, 32, 64)),
        *(f"dense-n{n}" for n in (32, 56, 128, 256, 512)),
        "dense",
    ]
    assert notes == []


def test_matched_controls_learn_as_many_numbers():
    variants = {variant.name: variant for variant in plan([7], ["matched"], **SIZES)}
    sparse, matched = (variants[name].build(576) for name in ("expander-d7", "dense-n56"))
    assert sparse.decoder_values() == matched.decoder_values() == 7 * 4608
    assert sparse.learned_values() == matched.learned_values() == 7 * 4608 + 576
    assert variants["dense-n56"].matched_degree == 7


def test_every_family_is_built_as_named():
    variants = {
        v.name: v for v in plan([4], ["dense", "dense-untied", "clustered"], d_in=32, n_latents=64, k=4, seeds=[5])
    }
    built = {name: variant.build(32, SaeOptions(signed=True)) for name, variant in variants.items()}
    assert built["clustered-d4"].mask.construction == "clustered"
    assert built["expander-d4"].mask.construction == "balanced"
    assert built["expander-d4"].mask.seed == 5
    assert (built["dense"].tied, built["dense-untied"].tied) == (True, False)
    assert all(sae.signed for sae in built.values())


def test_impossible_matches_are_left_out_with_a_note():
    notes = []
    variants = plan([1, 2, 32], d_in=32, n_latents=64, k=4, seeds=[0, 1], note=notes.append)
    assert [v.name for v in variants if v.family == "matched"] == ["dense-n4", "dense-n4"]
    assert len(notes) == 2
    assert "degree 1" in notes[0]
    assert "fewer than k = 4" in notes[0]
    assert "full dense" in notes[1]


def test_two_degrees_may_share_a_match():
    notes = []
    variants = plan([5, 6], ["matched"], d_in=100, n_latents=20, k=1, note=notes.append)
    assert [v.name for v in variants if v.family == "matched"] == ["dense-n1"]
    assert "shares" in notes[0]


def test_seeds_and_repeats():
    variants = plan([4, 4], ["dense", "dense"], seeds=[0, 1, 2, 2], **SIZES)
    assert len(variants) == 6
    assert len({variant.folder for variant in variants}) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"degrees": [4], "controls": ["densest"]}, "densest"),
        ({"degrees": [577]}, "from 1 to d_in = 576"),
        ({"degrees": [0]}, "from 1 to d_in = 576"),
        ({"degrees": [4], "k": 5000}, "k from 1 to n_latents"),
        ({"degrees": [], "controls": []}, "at least one"),
        ({"degrees": [4], "seeds": []}, "at least one"),
    ],
)
def test_impossible_plans(arguments, said):
    with pytest.raises(ExpanderSaeError, match=said):
        plan(**{**SIZES, **arguments})
