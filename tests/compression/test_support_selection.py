import pytest
import torch

from expander_sae.compression import RULES, choose_support
from expander_sae.compression.supports import support_by_error
from expander_sae.ops import Codes
from expander_sae.records import ExpanderSaeError

D_IN, N, TOKENS, K = 24, 90, 400, 5


def columns(seed=0, crowded=True):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(N, D_IN, generator=generator)
    if crowded:  # a few strong coordinates that every column uses, and two that none does
        drawn[:, :3] *= 6
        drawn[:, -2:] *= 1e-4
    return torch.nn.functional.normalize(drawn, dim=1)


def some_codes(seed=0):
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(TOKENS, N, generator=generator).topk(K).indices
    return Codes(indices, torch.rand(TOKENS, K, generator=generator) + 0.5)


def decode(codes, support):
    wide = torch.zeros(N, D_IN).scatter(1, support.rows, support.values)
    return (codes.values[:, :, None] * wide[codes.indices]).sum(1)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_gives_degree_sorted_distinct_rows(rule):
    codes = some_codes()
    full = columns()
    x = (codes.values[:, :, None] * full[codes.indices]).sum(1)
    support = choose_support(full, 4, rule, x=x, codes=codes)
    assert support.rows.shape == support.values.shape == (N, 4)
    assert bool((support.rows.diff(dim=1) > 0).all())


def test_magnitude_keeps_the_largest_entries_as_they_are():
    full = columns()
    support = choose_support(full, 5, "magnitude")
    kept = full.gather(1, support.rows)
    assert torch.equal(support.values, kept)
    assert torch.allclose(kept.abs().sum(1), full.abs().sort(1, descending=True).values[:, :5].sum(1))


@pytest.mark.parametrize("row_cap", [1.3, 2.0, 4.0])
def test_balanced_rows_are_neither_starved_nor_crowded(row_cap):
    full = columns()
    right = torch.bincount(choose_support(full, 4, "magnitude").rows.reshape(-1), minlength=D_IN)
    mean = N * 4 / D_IN
    assert right.min() == 0
    assert right.max() > 4 * mean
    rows = choose_support(full, 4, "balanced", row_cap=row_cap).rows
    right = torch.bincount(rows.reshape(-1), minlength=D_IN)
    assert right.min() >= 1
    assert right.max() <= row_cap * mean


def test_a_loose_bound_is_the_magnitude_rule():
    full = columns(crowded=False)
    assert torch.equal(
        choose_support(full, 4, "balanced", row_cap=100.0).rows, choose_support(full, 4, "magnitude").rows
    )


def test_by_error_beats_magnitude_on_the_same_codes():
    codes, full = some_codes(), columns(crowded=False)
    x = (codes.values[:, :, None] * full[codes.indices]).sum(1)
    errors = {
        rule: float((x - decode(codes, choose_support(full, 4, rule, x=x, codes=codes))).square().sum())
        for rule in ("magnitude", "error")
    }
    assert errors["error"] < 0.97 * errors["magnitude"]


def test_by_error_finds_a_dictionary_that_is_sparse():
    codes, truth = some_codes(), choose_support(columns(1, crowded=False), 3, "magnitude")
    x = decode(codes, truth)
    noisy = torch.zeros(N, D_IN).scatter(1, truth.rows, truth.values) + 0.1 * columns(2, crowded=False)
    found = support_by_error(noisy, 3, x, codes)
    assert torch.equal(found.rows, truth.rows)
    torch.testing.assert_close(found.values, truth.values, atol=0.02, rtol=0)


def test_by_error_leaves_latents_that_never_fire_alone():
    codes, full = some_codes(), columns()
    codes.indices[codes.indices == 7] = 8
    support = choose_support(full, 4, "error", x=torch.zeros(TOKENS, D_IN), codes=codes)
    assert torch.equal(support.rows[7], choose_support(full, 4, "magnitude").rows[7])


@pytest.mark.parametrize(
    ("degree", "rule", "options", "says"),
    [
        (0, "magnitude", {}, "degree in 1"),
        (25, "magnitude", {}, "degree in 1"),
        (4, "random", {}, "support rule"),
        (4, "error", {}, "expected activations"),
        (4, "balanced", {"row_cap": 1.0}, "row bound"),
    ],
)
def test_what_cannot_be_chosen_is_an_error(degree, rule, options, says):
    with pytest.raises(ExpanderSaeError, match=says):
        choose_support(columns(), degree, rule, **options)
