"""The list of certificates: numbers, labels, and words."""

import json

import numpy as np
import pytest
from small_dictionaries import complete_graph_mask, sparse

from expander_sae.graphs import Mask, make_mask
from expander_sae.records import ExpanderSaeError
from expander_sae.theory import Certificate, certify_dictionary, certify_mask


def _by_name(found: list[Certificate]) -> dict[str, Certificate]:
    table = {certificate.name: certificate for certificate in found}
    assert len(table) == len(found)
    return table


@pytest.fixture(scope="module")
def uniform() -> Mask:
    return make_mask("uniform", d_in=512, n_latents=4096, degree=7, seed=0)


def test_a_uniform_mask_at_the_size_of_the_tables(uniform: Mask) -> None:
    found = _by_name(certify_mask(uniform, k=15, search_restarts=2))
    assert found["unique_codes_any_values_random"].value == 17
    assert not found["unique_codes_any_values_random"].vacuous
    assert "at most 17 active latents" in found["unique_codes_any_values_random"].sentence
    assert "probability at least 0.99" in found["unique_codes_any_values_random"].sentence
    assert found["unique_codes_generic_values_random"].value == 122
    assert found["coherence_ceiling"].value == 12
    assert found["largest_overlap"].value in (3, 4, 5)
    assert found["omp_from_overlap"].value == 1
    assert found["omp_from_overlap"].vacuous
    assert found["omp_from_overlap"].sentence.startswith("Vacuous at k = 15")
    assert found["stable_codes_random"].value == 5  # all sets of 10 columns lose less than half
    assert found["nonnegative_codes_random"].value == 4
    assert found["expansion_loss_spectral"].vacuous
    assert 60 < found["stopping_set_found"].value < 140
    for certificate in found.values():
        assert certificate.status == "certified"
        assert certificate.cost_seconds >= 0
        assert certificate.vacuous == certificate.sentence.startswith("Vacuous"), certificate
    assert "beyond k = 12" in found["omp_from_overlap"].sentence


def test_beyond_its_reach_a_certificate_says_so(uniform: Mask) -> None:
    found = _by_name(certify_mask(uniform, k=32, search_restarts=0))
    assert found["unique_codes_any_values_random"].vacuous
    assert found["unique_codes_any_values_random"].sentence.startswith("Vacuous at k = 32")
    assert "stopping_set_found" not in found


def test_whatever_is_made_vacuous_says_so_and_names_the_barrier() -> None:
    """Every record of dictionaries with twins, zero values, far too large a k and a wide dynamic range."""
    mask = make_mask("balanced", d_in=128, n_latents=512, degree=6, seed=0)
    twins = make_mask("clustered", d_in=64, n_latents=256, degree=8, seed=0)
    values = np.random.default_rng(0).normal(size=mask.rows.shape)
    zero = np.ones(twins.rows.shape)
    zero[5, 2] = 0.0
    first = certify_dictionary(sparse(mask, values), mask, k=16, dynamic_range=10.0, search_restarts=1)
    everything = [
        *first,
        *certify_dictionary(sparse(twins, zero), k=16, search_restarts=0),
        *certify_mask(twins, k=16, search_restarts=1),
        *certify_mask(make_mask("balanced", d_in=60, n_latents=64, degree=3, seed=0), k=2),
    ]
    for certificate in everything:
        assert certificate.vacuous == certificate.sentence.startswith("Vacuous"), certificate
    vacuous = {certificate.name for certificate in everything if certificate.vacuous}
    assert {"largest_overlap", "expansion_loss", "flatness", "unique_codes_any_values", "omp", "one_shot", "omp_noise",
            "one_shot_noise", "matching_pursuit_rate", "stable_codes", "l1_recovery", "coherence_ceiling",
            "unique_codes_coherence", "nonnegative_codes"} <= vacuous  # fmt: skip
    found = _by_name(first)
    for name in ("omp", "one_shot", "omp_noise", "one_shot_noise", "matching_pursuit_rate", "unique_codes_coherence",
                 "omp_from_overlap", "one_shot_from_overlap"):  # fmt: skip
        assert f"cumulative-coherence test beyond k = {found['coherence_ceiling'].value}." in found[name].sentence
    assert "beyond" not in found["stable_codes"].sentence


def test_only_uniform_masks_get_the_random_mask_theorems() -> None:
    balanced = make_mask("balanced", d_in=64, n_latents=128, degree=4, seed=0)
    assert not any("random" in certificate.name for certificate in certify_mask(balanced, k=2))
    claimed = Mask(balanced.rows, d_in=64, construction="uniform", seed=0)
    assert not any("random" in certificate.name for certificate in certify_mask(claimed, k=2))


def test_a_dictionary_gets_them_only_with_the_mask_that_was_drawn() -> None:
    mask = make_mask("uniform", d_in=64, n_latents=128, degree=4, seed=0)
    w = sparse(mask, np.ones(mask.rows.shape))
    rows_alone = [certificate.name for certificate in certify_dictionary(w, k=2, search_restarts=0)]
    drawn = [certificate.name for certificate in certify_dictionary(w, mask, k=2, search_restarts=0)]
    assert not any("random" in name for name in rows_alone)
    assert [name for name in drawn if "random" not in name] == rows_alone
    assert "stable_codes_random" in drawn


def test_a_sample_is_never_called_certified(uniform: Mask) -> None:
    w = sparse(uniform, np.ones(uniform.rows.shape))
    for certificate in certify_dictionary(w, uniform, k=4, budget=1_000_000, search_restarts=0):
        exact = ("flatness", "coherence_ceiling", "expansion_loss_spectral")
        counted = certificate.name in exact or certificate.name.endswith("_random")
        assert certificate.status == ("certified" if counted else "estimated"), certificate.name
        if not counted:
            assert any("sampled" in assumption for assumption in certificate.assumptions)


def test_a_flat_dictionary_on_a_complete_graph() -> None:
    """Degree 7, overlap 1: pursuit to k = 3, uniqueness to 2k = 7, and both are the truth."""
    mask = complete_graph_mask(8)
    found = _by_name(certify_dictionary(sparse(mask, np.ones(mask.rows.shape)), k=3))
    assert found["flatness"].value == 1
    assert found["coherence"].value == pytest.approx(1 / 7)
    assert found["omp"].value == found["omp_from_overlap"].value == 3
    assert found["unique_codes_any_values"].value == found["unique_codes_coherence"].value == 3
    assert found["stable_codes"].value == 3
    assert found["stopping_set_found"].value == 8
    assert found["one_shot"].value == found["one_shot_from_overlap"].value == 3
    assert found["nonnegative_codes"].value >= 3
    assert found["matching_pursuit_rate"].value == pytest.approx(1 - (1 - 2 / 7) / 3)
    assert found["one_shot_noise"].value == pytest.approx(found["omp_noise"].value)
    assert "<= " in found["stable_codes"].sentence
    assert found["omp_noise"].value == pytest.approx(1 / 7)
    assert not found["omp"].vacuous


def test_a_wide_dynamic_range_costs_thresholding_its_reach() -> None:
    mask = complete_graph_mask(8)
    w = sparse(mask, np.ones(mask.rows.shape))
    found = _by_name(certify_dictionary(w, k=2, dynamic_range=2.5, search_restarts=0))
    assert found["one_shot"].value == found["one_shot_from_overlap"].value == 1  # 2.5 (2k - 1) / 7 < 1
    assert found["omp"].value == 3


def test_zero_values_switch_off_what_needs_non_zero_ones() -> None:
    mask = complete_graph_mask(5)
    values = np.ones(mask.rows.shape)
    values[0, 0] = 0
    found = _by_name(certify_dictionary(sparse(mask, values), k=2))
    assert found["flatness"].vacuous
    assert found["flatness"].value == np.inf
    assert "unique_codes_any_values" not in found
    assert "stable_codes" not in found
    assert "omp" in found


def test_records_are_json() -> None:
    found = certify_mask(complete_graph_mask(5), k=2)
    text = json.dumps([certificate.to_dict() for certificate in found])
    assert json.loads(text)[0]["name"] == "largest_overlap"


def test_nonsense_is_refused(uniform: Mask) -> None:
    with pytest.raises(ExpanderSaeError, match="k of at least 1"):
        certify_mask(uniform, k=0)
    with pytest.raises(ExpanderSaeError, match="ratio"):
        certify_mask(uniform, beta=0.5)
    with pytest.raises(ExpanderSaeError, match="mask of the dictionary's rows"):
        certify_dictionary(sparse(uniform, np.ones(uniform.rows.shape)), complete_graph_mask(8))
