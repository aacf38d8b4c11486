"""A short form of `make fuzz` on the ordinary core, and calls that once went wrong."""

import functools

import core_fuzz
import numpy as np
import pytest
import torch
from by_method import pursue

from expander_sae import ExpanderSae
from expander_sae.ops import block_omp, encode_topk, sparse_decode, unit_columns
from expander_sae.ops.backends import native_core
from expander_sae.pursuit import Dictionary, Encoder, parse_reading
from expander_sae.records import ExpanderSaeError

pytestmark = pytest.mark.skipif(native_core() is None, reason="the C++ core is not built")


def test_random_calls_give_codes_in_form_or_one_error():
    seen = core_fuzz.run(600)
    for label in ("encode", "block", *core_fuzz.METHODS):
        assert seen[label] > 2, seen
    assert sum(count for what, count in seen.items() if "refused" in what) > 50


def test_what_an_earlier_call_left_in_scratch_is_no_result():
    """A zero token beside others, read with spare columns after a larger dictionary filled the scratch."""
    for seed in range(12):
        torch.manual_seed(seed)
        large, small = (
            ExpanderSae(d_in=64, n_latents=512, degree=7, k=k, seed=seed, reading=Encoder()).read_by(
                parse_reading("stages:8+16")
            )
            for k in (48, 8)
        )
        large.encode(100 * torch.randn(33, 64))
        x = torch.randn(17, 64)
        x[seed] = small.center().detach()
        codes = small.encode(x)
        assert (codes.values[seed] == 0).all()
        assert codes.indices[seed].tolist() == list(range(8))


def test_more_spare_columns_than_are_independent():
    """k + spare beyond d_in: what is left after dropping is at most k columns, whatever rounding does to their cost."""
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.rand(63, 8, generator=generator).argsort(1)[:, :2].sort(1).values
        values = torch.randn(63, 2, generator=generator)
        x = torch.randn(65, 8, generator=generator)
        codes = block_omp(x, rows, values / values.norm(dim=1, keepdim=True), 2, block=1, spare=16)
        core_fuzz.check_codes(codes.indices.numpy(), codes.values.numpy(), 63, by_size=True)


@pytest.mark.parametrize("power", [-140, -60, 60, 100])
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("method", core_fuzz.METHODS)
def test_codes_are_proportional_to_the_token(method, backend, power):
    """A token of 1e-36 or 1e+30 has the code of its like at one, bit for bit; its squares are no numbers in float32."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(90, 24, generator=generator).argsort(1)[:, :5].sort(1).values
    values = unit_columns(torch.randn(90, 5, generator=generator))
    dictionary = Dictionary(rows, values, 24)
    x = torch.randn(5, 24, generator=generator)
    x = torch.where(x.abs() < 0.1, 0.1, x)
    if power == -140:  # numbers below 2^-126 have fewer digits
        x = (x * 4).round() / 4
    sized = x * 2.0**power if abs(power) < 127 else x * 2.0**-70 * 2.0**-70
    sized[1] = x[1]
    warm = encode_topk(x, rows, values, 4) if method == "refit" else None
    want, got = (pursue(part, dictionary, 6, method, warm_start=warm, backend=backend) for part in (x, sized))
    if power == -140:
        torch.testing.assert_close(got.values[2:] * 2.0**70 * 2.0**70, want.values[2:], rtol=1e-2, atol=1e-3)
        return
    assert torch.equal(got.indices, want.indices)
    factors = torch.full((5, 1), 2.0**power)
    factors[1] = 1
    assert torch.equal(got.values, want.values * factors)


@pytest.mark.parametrize("where", ["x", "values", "center"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("op", ["encode", "block_omp", *core_fuzz.METHODS])
def test_every_input_is_checked(op, dense, backend, bad, where):
    rows = None if dense else torch.tensor([[0, 1], [1, 2], [0, 3], [2, 3]])
    x, values, center = torch.ones(3, 4), unit_columns(torch.ones(4, 4 if dense else 2)), torch.zeros(4)
    warm = encode_topk(x, rows, values, 2) if op == "refit" else None
    {"x": x, "values": values, "center": center}[where].view(-1)[-1] = bad
    calls = {
        "encode": lambda: encode_topk(x, rows, values, 2, center=center, backend=backend),
        "block_omp": lambda: block_omp(x, rows, values, 2, center=center, backend=backend),
    }
    by_name = functools.partial(
        pursue, x, Dictionary(rows, values, 4), 2, op, center=center, warm_start=warm,
        backend="auto" if dense else backend,
    )  # fmt: skip
    with pytest.raises(ExpanderSaeError, match=rf"{where}.* NaN or infinity"):
        calls.get(op, by_name)()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("dense", [False, True])
def test_biases_codes_and_warm_starts_are_checked(dense, backend, bad):
    rows = None if dense else torch.tensor([[0, 1], [1, 2], [0, 3], [2, 3]])
    x, values = torch.ones(3, 4), unit_columns(torch.ones(4, 4 if dense else 2))
    with pytest.raises(ExpanderSaeError, match="NaN or infinity"):
        encode_topk(x, rows, values, 2, bias=torch.tensor([0, 0, bad, 0]), backend=backend)
    codes = encode_topk(x, rows, values, 2)
    codes.values[1, 0] = bad
    with pytest.raises(ExpanderSaeError, match="codes holds NaN or infinity"):
        sparse_decode(codes, rows, values, 4, backend=backend)
    with pytest.raises(ExpanderSaeError, match="start holds NaN or infinity"):
        pursue(x, Dictionary(rows, values, 4), 2, "refit", warm_start=codes)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_an_overflow_names_its_token(dense, backend):
    rows = None if dense else torch.tensor([[0, 1], [1, 2], [0, 3], [2, 3]])
    values = torch.ones(4, 4 if dense else 2)
    x = torch.ones(3, 4)
    x[2] = 3e38
    with pytest.raises(ExpanderSaeError, match="token 2 is beyond the numbers of float32"):
        encode_topk(x, rows, values, 2, backend=backend)


@pytest.mark.parametrize("backend", ["auto", "native", "reference"])
def test_columns_without_an_entry_are_refused(backend):
    with pytest.raises(ExpanderSaeError, match="at least one entry"):
        unit_columns(torch.zeros(3, 0), backend=backend)


def test_a_lazy_negative_keeps_its_sign():
    rows, values = torch.tensor([[0, 1], [1, 2]]), torch.ones(2, 2)
    x = torch.tensor([[1.0, -2.0, 4.0], [-3.0, 1.0, 1.0]])
    for given in (torch._neg_view(-x), torch._neg_view(-x.T).T):
        assert torch.equal(encode_topk(given, rows, values, 1).values, encode_topk(x, rows, values, 1).values)
        assert torch.equal(block_omp(given, rows, values, 1).values, block_omp(x, rows, values, 1).values)


def test_too_much_memory_is_an_error_also_in_a_team_of_threads():
    n = 60_000  # least squares on 55,000 columns would take terabytes
    rows = np.zeros((n, 1), np.uint16)
    out = np.empty((64, 55_000), np.int64), np.empty((64, 55_000), np.float32)
    values, x = np.ones((n, 1), np.float32), np.ones((64, 2), np.float32)
    with pytest.raises(MemoryError):
        native_core().block_omp(x, None, rows, values, 55_000, 1, 4, True, 0.0, 2, *out)
