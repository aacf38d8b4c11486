import numpy as np
import pytest
import torch
from dictionaries import gaussian, grid, needs_native, random_rows
from sklearn.linear_model import orthogonal_mp

from expander_sae.ops import Codes, block_omp, correlate, encode_topk, sparse_decode, support_gram
from expander_sae.ops.block_omp import reference as definition
from expander_sae.ops.in_full import in_full
from expander_sae.records import ExpanderSaeError

pytestmark = needs_native

# batch, d_in, n_latents, degree, k, block
# The last two have columns that share few rows (128 degree^2 <= d_in^2), whose Gram matrices are made in another way.
SHAPES = [
    (5, 33, 200, 4, 7, 1),
    (40, 64, 500, 7, 12, 3),
    (17, 50, 300, 5, 10, 10),
    (70, 128, 900, 16, 9, 4),
    (40, 300, 700, 7, 12, 3),
    (19, 210, 500, 6, 9, 9),
]


def problem(batch, d_in, n_latents, degree, seed=0):
    x, rows = gaussian(batch, d_in, seed=seed + 1), random_rows(n_latents, degree, d_in, seed=seed)
    return x, rows, torch.nn.functional.normalize(gaussian(n_latents, degree, seed=seed + 2), dim=1)


def dense(rows, values, d_in):
    return torch.zeros(len(rows), d_in, dtype=values.dtype).scatter(1, rows, values)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_equals_the_definition(shape, signed):
    batch, d_in, n_latents, degree, k, block = shape
    x, rows, values = problem(batch, d_in, n_latents, degree)
    center = gaussian(d_in, seed=9)
    want = block_omp(x, rows, values, k, block=block, signed=signed, center=center, backend="reference")
    got = block_omp(x, rows, values, k, block=block, signed=signed, center=center, backend="native")
    same = (got.indices.sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
    assert same.float().mean() > 0.97  # float32 may break a near tie the other way
    torch.testing.assert_close(got.values[same], want.values[same], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("gathered", "makes"), [(0.0, False), (1e9, True)], ids=["gathered columns", "whole Gram"])
def test_matrix_products_equal_the_kernel_by_either_gram_matrix(monkeypatch, gathered, makes):
    batch, d_in, n_latents, degree, k, block = SHAPES[3]
    x, rows, values = problem(batch, d_in, n_latents, degree)
    monkeypatch.setattr(definition, "GATHERED", gathered)
    assert definition._gram_pays(batch, n_latents, k, block, 3) is makes
    indices, codes, _ = definition.forward(x, dense(rows, values, d_in), k, block, 3, False, 0.0)
    want = block_omp(x, rows, values, k, block=block, spare=3, signed=False, backend="native")
    same = (indices.sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
    assert same.float().mean() > 0.95  # float32 may break a near tie the other way
    torch.testing.assert_close(codes[same], want.values[same], rtol=1e-3, atol=1e-3)


def test_a_gram_matrix_of_the_dictionary_is_made_where_many_tokens_share_it():
    assert definition._gram_pays(512, 512, 32, 8, 4)
    assert not definition._gram_pays(512, 4608, 32, 8, 4)
    assert definition._gram_pays(20_000, 4608, 32, 8, 4)
    assert not definition._gram_pays(10**9, 8192, 32, 8, 4)  # too large to hold


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("shape", "spare"), list(zip(SHAPES, (3, 6, 5, 8, 6, 4), strict=True)), ids=str)
def test_native_equals_the_definition_with_spare_columns(shape, spare, signed):
    batch, d_in, n_latents, degree, k, block = shape
    x, rows, values = problem(batch, d_in, n_latents, degree)
    options = {"block": block, "spare": spare, "signed": signed, "center": gaussian(d_in, seed=9)}
    want = block_omp(x, rows, values, k, backend="reference", **options)
    got = block_omp(x, rows, values, k, backend="native", **options)
    same = (got.indices.sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
    assert same.float().mean() > 0.95  # float32 may break a near tie the other way
    torch.testing.assert_close(got.values[same], want.values[same], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("k", [4, 20, 24, 30])
def test_no_more_spare_columns_are_picked_than_there_are_coordinates(k):
    x, rows, values = problem(60, 24, 300, 5)
    beyond, most = (block_omp(x, rows, values, k, block=-(-k // 4), spare=s) for s in (250, max(0, 24 - k)))
    assert torch.equal(beyond.indices, most.indices)
    assert torch.equal(beyond.values, most.values)
    want = block_omp(x, rows, values, k, block=-(-k // 4), spare=250, backend="reference")
    left = [(x - sparse_decode(codes, rows, values, 24)).square().sum() for codes in (beyond, want)]
    assert abs(left[0] - left[1]) < 0.01 * x.square().sum()


def test_dependent_columns_give_their_place_back():
    """Blocks of copies of few columns: a stage that skips some goes on with others, in the core and by definition."""
    x, rows, values = problem(50, 20, 12, 4)
    rows, values = rows.repeat_interleave(5, 0), values.repeat_interleave(5, 0)
    for block, spare in ((1, 0), (4, 0), (5, 6), (10, 0)):
        got, want = (
            block_omp(x, rows, values, 10, block=block, spare=spare, backend=backend)
            for backend in ("native", "reference")
        )
        assert torch.equal((got.values != 0).sum(1), (want.values != 0).sum(1))
        assert ((got.values != 0).sum(1) == 10).all()
        same = (got.indices.sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
        assert same.float().mean() > 0.9
        torch.testing.assert_close(got.values[same], want.values[same], rtol=1e-3, atol=1e-3)


def test_spare_columns_explain_more():
    x, rows, values = problem(200, 64, 1000, 7)

    def error(spare):
        codes = block_omp(x, rows, values, 16, block=4, spare=spare)
        assert codes.indices.shape == (200, 16)
        assert all(len(set(row)) == 16 for row in codes.indices.tolist())
        return (x - sparse_decode(codes, rows, values, 64)).square().sum()

    errors = [error(spare) for spare in (0, 4, 12)]
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("degree", [7, 20])
def test_spare_columns_stay_accurate_on_crowded_rows(degree):
    """Learned supports crowd: columns come close to each other, and the inverse goes through many ups and downs."""
    generator = torch.Generator().manual_seed(3)
    weights = 1.0 / torch.arange(1, 97).float()
    rows = torch.stack([torch.multinomial(weights, degree, generator=generator).sort().values for _ in range(2000)])
    values = torch.nn.functional.normalize(torch.randn(2000, degree, generator=generator), dim=1)
    x = torch.randn(50, 96, generator=generator) + 4 * torch.randn(96, generator=generator)
    codes = block_omp(x, rows, values, 32, block=4, spare=12)
    residual = x - sparse_decode(codes, rows, values, 96)
    columns = dense(rows, values, 96)[codes.indices]
    assert torch.einsum("bkr,br->bk", columns, residual).abs().max() < 1e-3


def test_omp_is_scikit_learns():
    x, rows, values = problem(30, 60, 400, 6)
    codes = block_omp(x, rows, values, 8)
    w = dense(rows, values, 60).double().numpy()
    solution = orthogonal_mp(w.T, x.double().numpy().T, n_nonzero_coefs=8)
    ours = np.zeros_like(solution)
    ours[codes.indices.T.numpy(), np.arange(30)] = codes.values.T.numpy()
    assert np.abs(ours - solution).max() < 1e-4


@pytest.mark.parametrize("block", [1, 4])
def test_residual_is_orthogonal_to_the_support_and_no_latent_repeats(block):
    x, rows, values = problem(50, 100, 1500, 7)
    codes = block_omp(x, rows, values, 20, block=block)
    residual = x - sparse_decode(codes, rows, values, 100)
    columns = dense(rows, values, 100)[codes.indices]
    assert torch.einsum("bkr,br->bk", columns, residual).abs().max() < 1e-4
    assert all(len(set(row)) == 20 for row in codes.indices.tolist())
    assert (codes.values.abs().diff(dim=1) <= 0).all()


def test_it_explains_more_than_one_shot_topk():
    x, rows, values = problem(200, 64, 1000, 7)

    def error(codes):
        return (x - sparse_decode(codes, rows, values, 64)).square().sum()

    errors = [error(block_omp(x, rows, values, 16, block=block)) for block in (1, 4, 16)]
    assert errors[0] < errors[1] < errors[2] < error(encode_topk(x, rows, values, 16))


def test_exact_recovery_of_separated_columns():
    rows = torch.arange(60).reshape(20, 3)
    values = torch.full((20, 3), 3**-0.5)
    truth = Codes(torch.tensor([[17, 2, 5]]), torch.tensor([[3.0, -2.0, 1.0]]))
    x = sparse_decode(truth, rows, values, 60)
    for block in (1, 3):
        codes = block_omp(x, rows, values, 3, block=block)
        assert torch.equal(codes.indices, truth.indices)
        torch.testing.assert_close(codes.values, truth.values)


def test_degenerate_inputs():
    rows, values = torch.tensor([[0, 1], [0, 1], [2, 3], [1, 2]]), torch.full((4, 2), 2**-0.5)
    zero = block_omp(torch.zeros(2, 4), rows, values, 3, block=2)
    assert torch.equal(zero.values, torch.zeros(2, 3))
    assert zero.indices.tolist() == [[0, 1, 2]] * 2
    twins = block_omp(torch.tensor([[1.0, 1.0, 0.5, 0.5]]), rows, values, 4, block=2)
    assert {0, 1} - set(twins.indices[0][twins.values[0] != 0].tolist())  # never both of two equal columns
    residual = torch.tensor([[1.0, 1.0, 0.5, 0.5]]) - sparse_decode(twins, rows, values, 4)
    assert residual.abs().max() < 1e-5


def test_tolerance_stops_early():
    x, rows, values = problem(20, 40, 600, 5)
    loose = block_omp(x, rows, values, 30, tolerance=0.5)
    residual = x - sparse_decode(loose, rows, values, 40)
    assert (residual.norm(dim=1) <= 0.5 * x.norm(dim=1)).all()
    assert ((loose.values != 0).sum(1) < 30).all()
    want = block_omp(x, rows, values, 30, tolerance=0.5, backend="reference")
    assert torch.equal((loose.values != 0).sum(1), (want.values != 0).sum(1))


@pytest.mark.parametrize("shape", [(1, 9, 20, 3), (17, 33, 100, 5), (40, 64, 333, 7)], ids=str)
def test_correlations_and_grams(shape):
    batch, d_in, n_latents, degree = shape
    x, rows, values = grid(batch, d_in, seed=1), random_rows(n_latents, degree, d_in), grid(n_latents, degree, seed=2)
    assert torch.equal(correlate(x, rows, values), x @ dense(rows, values, d_in).T)
    assert torch.equal(correlate(x, rows, values, backend="reference"), correlate(x, rows, values, backend="native"))
    indices = torch.randint(0, n_latents, (batch, 6), generator=torch.Generator().manual_seed(0))
    want = support_gram(indices, rows, values, d_in, backend="reference")
    assert torch.equal(support_gram(indices, rows, values, d_in, backend="native"), want)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.full((2, 8), float("nan"))}, "NaN"),
        ({"k": 21}, "k in 1"),
        ({"block": 4}, "block in 1"),
        ({"spare": 18}, "spare in 0"),
        ({"spare": -1}, "spare in 0"),
        ({"tolerance": 1.0}, "tolerance"),
        ({"rows": None}, "dense"),
    ],
)
def test_bad_input(change, says):
    arguments = {"x": torch.ones(2, 8), "rows": random_rows(20, 2, 8), "values": torch.ones(20, 2), "k": 3, "block": 1}
    with pytest.raises(ExpanderSaeError, match=says):
        block_omp(**(arguments | change))


@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("block", [1, 4, 12])
@pytest.mark.parametrize("signed", [True, False])
def test_dense_dictionaries(block, signed, spare):
    x, values = gaussian(30, 40, seed=1), torch.nn.functional.normalize(gaussian(150, 40, seed=2), dim=1)
    want = block_omp(x, None, values, 12, block=block, spare=spare, signed=signed, backend="reference")
    got = block_omp(x, None, values, 12, block=block, spare=spare, signed=signed, backend="native")
    same = (got.indices.sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
    assert same.float().mean() > 0.9
    torch.testing.assert_close(got.values[same], want.values[same], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("spare", [0, 4])
def test_matrix_products_on_the_whole_dictionary_give_the_same_codes(signed, spare):
    """What a device without a kernel of ours runs."""
    x, rows, values = problem(60, 64, 500, 7)
    whole = in_full(rows, values, 64)
    assert torch.equal(whole, dense(rows, values, 64))
    indices, codes, skipped = definition.forward(x, whole, 12, 4, spare, signed, 0.0)
    want = block_omp(x, rows, values, 12, block=4, spare=spare, signed=signed, backend="native")
    same = (indices.sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
    assert same.float().mean() > 0.9
    assert skipped == 0
    torch.testing.assert_close(codes[same], want.values[same], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("spare", [0, 4])
def test_on_the_gpu(device, spare):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    x, rows, values = problem(60, 64, 500, 7)
    want = block_omp(x, rows, values, 12, block=4, spare=spare)
    got = block_omp(x.to(device), rows.to(device), values.to(device), 12, block=4, spare=spare)
    assert got.values.device.type == device
    same = (got.indices.cpu().sort(dim=1).values == want.indices.sort(dim=1).values).all(dim=1)
    assert same.float().mean() > 0.9
    torch.testing.assert_close(got.values.cpu()[same], want.values[same], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spare", [0, 3])
def test_dense_dictionaries_skip_dependent_columns(spare):
    single = torch.nn.functional.normalize(gaussian(20, 6, seed=2), dim=1)
    x, values = gaussian(40, 6, seed=1), torch.cat([single, single])
    codes = block_omp(x, None, values, 12, block=3, spare=spare, backend="native")  # twice the rank
    used = codes.values != 0
    assert used.sum(dim=1).max() <= 6
    picked = torch.where(used, codes.indices % 20, -1 - torch.arange(12))
    assert all(len(set(row)) == 12 for row in picked.tolist())  # never a column and its copy
    assert (x - sparse_decode(codes, None, values, 6)).abs().max() < 1e-3
    *_, skipped = definition.forward(x, values, 12, 3, spare, True, 0.0)
    assert skipped > 0


def test_dense_zero_input_and_tolerance():
    values = torch.nn.functional.normalize(gaussian(150, 40, seed=2), dim=1)
    assert torch.equal(block_omp(torch.zeros(2, 40), None, values, 5).values, torch.zeros(2, 5))
    x = gaussian(30, 40, seed=1)
    codes = block_omp(x, None, values, 30, tolerance=0.5)
    residual = x - sparse_decode(codes, None, values, 40)
    assert (residual.norm(dim=1) <= 0.5 * x.norm(dim=1)).all()
    assert ((codes.values != 0).sum(1) < 30).all()
