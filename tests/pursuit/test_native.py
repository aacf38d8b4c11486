"""The C++ core's pursuits against their plain definitions."""

from dataclasses import replace

import pytest
import torch
from by_method import pursue
from instances import sparse, tokens

from expander_sae.ops import Codes, encode_topk
from expander_sae.ops.backends import native_core
from expander_sae.pursuit import Dictionary, native

pytestmark = pytest.mark.skipif(native_core() is None, reason="the C++ core is not built")

METHODS = ("omp", "mp", "gradient", "nnomp", "cosamp", "niht")
# batch, d_in, n_latents, degree, k
SHAPES = [(40, 64, 500, 6, 12), (17, 33, 200, 4, 7), (5, 128, 3000, 7, 40), (70, 50, 300, 16, 9), (3, 20, 30, 5, 18)]


def both(x, dictionary, k, method, **options):
    """Codes of the core's one-at-a-time pursuit, whatever `pursue` would choose, and of the definition."""
    read = replace(dictionary, signed=options.get("signed", True), center=options.get("center"))
    steps = options.get("steps") or (50 if method in ("cosamp", "niht") else k)
    tracked = native.greedy(
        x, read, k, method, steps, tolerance=options.get("tolerance", 0.0), start=options.get("warm_start")
    )
    return [tracked, pursue(x, dictionary, k, method, backend="reference", **options)]


def same_share(got, want):
    """Share of tokens with the same support; float32 may break a near tie the other way."""
    same = (got.indices.sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
    torch.testing.assert_close(got.values[same], want.values[same], rtol=2e-3, atol=2e-3)
    return same.float().mean()


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_equals_the_definition(shape, method, signed):
    batch, d_in, n_latents, degree, k = shape
    x, dictionary = tokens(batch, d_in, dtype=torch.float32), sparse(n_latents, d_in, degree, dtype=torch.float32)
    center = tokens(1, d_in, 5, torch.float32)[0]
    tracked, plain = both(x, dictionary, k, method, signed=signed, center=center)
    if method == "niht" and k > d_in / 2:  # ill-conditioned: fifty steps apart by rounding, yet as good a fit
        w = torch.zeros(n_latents, d_in).scatter(1, dictionary.rows, dictionary.decoder)
        left = [
            (x - center - torch.einsum("bk,bkd->bd", c.values, w[c.indices])).norm().item() for c in (tracked, plain)
        ]
        assert left[0] == pytest.approx(left[1], rel=0.02)
        return
    assert same_share(tracked, plain) > 0.9


@pytest.mark.parametrize("k", [20, 24, 48])
def test_non_negative_pursuit_of_more_columns_than_coordinates_is_the_definition(k):
    """Members whose coefficient is zero span nothing: a column may depend on them, and more than d_in come in."""
    x, dictionary = tokens(40, 24, dtype=torch.float32) + 0.5, sparse(256, 24, 5, dtype=torch.float32)
    dictionary = replace(dictionary, decoder=dictionary.decoder.abs())
    core, plain = both(x, dictionary, k, "nnomp", signed=False)
    assert same_share(core, plain) > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_crowded_rows_and_correlated_tokens_change_nothing(method):
    """Learned supports crowd on few rows, and real activations share strong directions."""
    generator = torch.Generator().manual_seed(3)
    weights = 1.0 / torch.arange(1, 97).float()
    rows = torch.stack([torch.multinomial(weights, 7, generator=generator).sort().values for _ in range(2000)])
    values = torch.nn.functional.normalize(torch.randn(2000, 7, generator=generator), dim=1)
    x = torch.randn(50, 96, generator=generator) + 4 * torch.randn(96, generator=generator)
    assert same_share(*both(x, Dictionary(rows, values, 96), 16, method)) > 0.9


def test_nonnegative_codes_meet_the_optimality_conditions():
    """On crowded rows columns leave the fit and return; W_S^T r is zero where z is positive."""
    generator = torch.Generator().manual_seed(4)
    weights = 1.0 / torch.arange(1, 65).float()
    rows = torch.stack([torch.multinomial(weights, 6, generator=generator).sort().values for _ in range(900)])
    values = torch.nn.functional.normalize(torch.randn(900, 6, generator=generator), dim=1)
    x, dictionary = torch.randn(200, 64, generator=generator), Dictionary(rows, values, 64)
    codes = pursue(x, dictionary, 24, "nnomp", backend="native")
    want = pursue(x, dictionary, 24, "nnomp", backend="reference")
    assert (codes.values >= 0).all()
    assert ((want.values == 0).any(1)).any()  # some column did leave
    w = torch.zeros(900, 64).scatter(1, rows, values)
    residual = x - torch.einsum("bk,bkd->bd", codes.values, w[codes.indices])
    slopes = torch.einsum("bkd,bd->bk", w[codes.indices], residual)
    assert slopes[codes.values > 0].abs().max() < 1e-4
    assert same_share(codes, want) > 0.9


@pytest.mark.parametrize("method", ["mp", "gradient", "cosamp", "niht"])
@pytest.mark.parametrize("steps", [3, 60])
def test_steps(method, steps):
    x, dictionary = tokens(30, 40, dtype=torch.float32), sparse(300, 40, 5, dtype=torch.float32)
    tracked, plain = both(x, dictionary, 8, method, steps=steps)
    assert same_share(tracked, plain) > 0.85
    if method in ("mp", "gradient"):  # a step is a pick
        assert ((tracked.values != 0).sum(1) <= min(8, steps)).all()


@pytest.mark.parametrize("method", METHODS)
def test_each_token_stops_at_the_tolerance(method):
    x, dictionary = tokens(30, 40, dtype=torch.float32), sparse(300, 40, 5, dtype=torch.float32)
    if method in ("cosamp", "niht"):  # they always use k columns, and stop early
        tracked, plain = both(x, dictionary, 8, method, tolerance=0.6)
        assert same_share(tracked, plain) > 0.9
        assert not torch.equal(tracked.values, both(x, dictionary, 8, method)[0].values)
        return
    tracked, plain = both(x, dictionary, 30, method, tolerance=0.4)
    assert torch.equal((tracked.values != 0).sum(1), (plain.values != 0).sum(1))
    assert (tracked.values != 0).sum(1).max() < 30


@pytest.mark.parametrize("method", ["omp", "refit"])
def test_a_warm_start(method):
    x, dictionary = tokens(40, 64, dtype=torch.float32), sparse(500, 64, 6, dtype=torch.float32)
    start = encode_topk(x, dictionary.rows, dictionary.decoder, 6)
    start.values[::3, 4:] = 0  # unused slots
    assert same_share(*both(x, dictionary, 12, method, warm_start=start)) == 1


@pytest.mark.parametrize("method", METHODS)
def test_zeros_duplicates_and_a_batch_of_one(method):
    dictionary = sparse(60, 24, 4, dtype=torch.float32)
    twice = Dictionary(dictionary.rows.repeat(2, 1), torch.cat([dictionary.decoder, -dictionary.decoder]), 24)
    x = tokens(5, 24, dtype=torch.float32)
    x[2] = 0
    x[3] = 2 * torch.zeros(24).scatter(0, dictionary.rows[7], dictionary.decoder[7])
    tracked, plain = both(x, twice, 6, method)
    assert tracked.values[2].tolist() == [0.0] * 6
    assert tracked.indices[2].tolist() == [0, 1, 2, 3, 4, 5]
    assert tracked.indices[3, 0] == 7
    if method != "niht":  # which thresholds a gradient step, and is not there yet
        assert tracked.values[3, 0] == pytest.approx(2, rel=1e-5)
    if method == "nnomp":  # a column and its negative are two different columns there
        assert (tracked.values >= 0).all()
    else:
        assert (tracked.indices[tracked.values != 0] < 60).all()  # the lower of two equal columns
    assert same_share(tracked, plain) == 1
    alone = pursue(x[:1], twice, 6, method, backend="native")
    assert torch.equal(alone.indices, tracked.indices[:1])
    assert pursue(x[:0], twice, 6, method, backend="native").indices.shape == (0, 6)


def test_least_squares_residuals_are_orthogonal_at_many_columns():
    x, dictionary = tokens(20, 256, dtype=torch.float32), sparse(2000, 256, 7, dtype=torch.float32)
    codes = pursue(x, dictionary, 100, backend="native")
    w = torch.zeros(2000, 256).scatter(1, dictionary.rows, dictionary.decoder)
    residual = x - torch.einsum("bk,bkd->bd", codes.values, w[codes.indices])
    assert torch.einsum("bkd,bd->bk", w[codes.indices], residual).abs().max() < 1e-4
    assert all(len(set(row)) == 100 for row in codes.indices.tolist())


@pytest.mark.parametrize("method", METHODS)
def test_every_instruction_set_picks_the_same(method):
    core = native_core()
    before = core.instruction_set()
    x, dictionary = tokens(33, 64, dtype=torch.float32), sparse(700, 64, 7, dtype=torch.float32)
    try:
        found = {}
        for name in core.available_instruction_sets().split(","):
            assert core.select_instruction_set(name)
            found[name] = pursue(x, dictionary, 10, method, backend="native")
    finally:
        core.select_instruction_set(before)
    first = found.pop(before)
    for codes in found.values():
        assert same_share(codes, first) > 0.9


def test_a_warm_start_outside_the_dictionary_is_refused():
    from expander_sae.records import ExpanderSaeError

    x, dictionary = tokens(3, 12, dtype=torch.float32), sparse(30, 12, 4, dtype=torch.float32)
    start = Codes(torch.full((3, 2), 30), torch.ones(3, 2))
    with pytest.raises(ExpanderSaeError, match="not below n_latents"):
        pursue(x, dictionary, 4, warm_start=start)


def test_omp_is_tracked_where_lists_are_short_and_scanned_where_they_are_long():
    assert native.tracking_pays(sparse(16384, 2048, 7, dtype=torch.float32))
    assert not native.tracking_pays(sparse(4000, 512, 7, dtype=torch.float32))
    assert not native.tracking_pays(sparse(1000, 64, 20, dtype=torch.float32))
    crowded = Dictionary(torch.arange(7).repeat(4000, 1), torch.ones(4000, 7) / 7**0.5, 512)
    assert not native.tracking_pays(crowded)
    x, dictionary = tokens(20, 64, dtype=torch.float32), sparse(1000, 64, 20, dtype=torch.float32)
    scanned = pursue(x, dictionary, 8, backend="native")
    for found in both(x, dictionary, 8, "omp"):
        assert same_share(found, scanned) > 0.9


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_on_the_gpu(method):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, dictionary = tokens(30, 64, dtype=torch.float32), sparse(400, 64, 6, dtype=torch.float32)
    there = Dictionary(dictionary.rows.cuda(), dictionary.decoder.cuda(), 64)
    got = pursue(x.cuda(), there, 8, method)
    assert got.values.device.type == "cuda"
    got = Codes(got.indices.cpu(), got.values.cpu())
    assert same_share(got, pursue(x, dictionary, 8, method, backend="reference")) > 0.9
