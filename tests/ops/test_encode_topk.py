import pytest
import torch
from dictionaries import SHAPES, gaussian, grid, needs_native, random_rows

from expander_sae.ops import Codes, encode_topk
from expander_sae.ops.backends import native_core
from expander_sae.ops.encode_topk import native
from expander_sae.records import ExpanderSaeError

pytestmark = needs_native


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_on_an_integer_grid_ties_included(shape, signed):
    batch, d_in, n_latents, degree, k = shape
    x, rows = grid(batch, d_in, seed=1), random_rows(n_latents, degree, d_in)
    values, bias = grid(n_latents, degree, seed=2, low=-2, high=3), grid(n_latents, seed=3)
    center = grid(d_in, seed=4)
    want = encode_topk(x, rows, values, k, bias=bias, center=center, signed=signed, backend="reference")
    got = encode_topk(x, rows, values, k, bias=bias, center=center, signed=signed, backend="native")
    assert torch.equal(got.values, want.values)
    assert torch.equal(got.indices, want.indices)


@pytest.mark.parametrize("tile", [1, 8, 16, 32, 64])
def test_every_tile_gives_the_same_codes(tile):
    x, rows, values = gaussian(150, 96, seed=1), random_rows(5000, 7, 96), gaussian(5000, 7, seed=2)
    want = native.forward(x, rows, values, 32, None, None, False, 16)
    got = native.forward(x, rows, values, 32, None, None, False, tile)
    torch.testing.assert_close(got[1], want[1], rtol=1e-5, atol=1e-6)
    assert (got[0] == want[0]).float().mean() > 0.999  # float order may swap two codes that agree to the last bits


def test_every_instruction_set_agrees_on_the_grid():
    core = native_core()
    assert core is not None
    x, rows = grid(40, 60, seed=1), random_rows(1000, 6, 60)
    values = grid(1000, 6, seed=2)
    want = encode_topk(x, rows, values, 16, backend="reference")
    names = core.available_instruction_sets().split(",")
    assert "baseline" in names
    best = core.instruction_set()
    try:
        for name in names:
            assert core.select_instruction_set(name)
            got = encode_topk(x, rows, values, 16, backend="native")
            assert torch.equal(got.indices, want.indices), name
            assert torch.equal(got.values, want.values), name
    finally:
        core.select_instruction_set(best)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_codes(threads):
    x, rows, values = gaussian(37, 80, seed=1), random_rows(3000, 7, 80), gaussian(3000, 7, seed=2)
    before = torch.get_num_threads()
    want = encode_topk(x, rows, values, 20, backend="native")
    try:
        torch.set_num_threads(threads)
        for batch in (1, 4, 37):
            got = encode_topk(x[:batch], rows, values, 20, backend="native")
            torch.testing.assert_close(got.values, want.values[:batch], rtol=1e-5, atol=1e-6)
            assert torch.equal(got.indices, want.indices[:batch])
    finally:
        torch.set_num_threads(before)


def test_a_misleading_sample_still_gives_the_exact_topk():
    """All large pre-activations sit on latents the threshold sample looks at, or on none of them."""
    d_in, n_latents, k = 64, 8192, 32
    rows, values = random_rows(n_latents, 4, d_in), gaussian(n_latents, 4, seed=5).abs() * 0.01
    x = gaussian(66, d_in, seed=6).abs()
    for chosen in (slice(0, None, 16), slice(1, None, 16), slice(0, 40), slice(n_latents - 40, None)):
        tilted = values.clone()
        tilted[chosen] *= 100
        want = encode_topk(x, rows, tilted.double(), k, backend="reference")
        got = encode_topk(x, rows, tilted, k, backend="native")
        torch.testing.assert_close(got.values.double(), want.values, rtol=1e-5, atol=1e-6)


def test_fewer_than_k_positive_fills_with_the_lowest_free_latents():
    rows, values = torch.tensor([[0], [1], [2], [3]]), torch.ones(4, 1)
    x = torch.tensor([[-1.0, 2.0, -1.0, -1.0]])
    for backend in ("reference", "native"):
        assert encode_topk(x, rows, values, 3, backend=backend).indices.tolist() == [[1, 0, 2]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_activations_are_read_directly(dtype):
    x = gaussian(70, 96, seed=1).to(dtype)
    rows, values = random_rows(2000, 7, 96), gaussian(2000, 7, seed=2)
    want = encode_topk(x.float(), rows, values, 16, backend="native")
    got = encode_topk(x, rows, values, 16, backend="native")
    assert torch.equal(got.indices, want.indices)
    assert torch.equal(got.values, want.values)


def test_row_types_do_not_matter():
    x, rows, values = grid(9, 30, seed=1), random_rows(200, 3, 30), grid(200, 3, seed=2)
    want = encode_topk(x, rows, values, 5)
    for dtype in (torch.uint8, torch.uint16, torch.int32):
        assert torch.equal(encode_topk(x, rows.to(dtype), values, 5).indices, want.indices)


def problem(shape) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    batch, d_in, n_latents, degree, _ = shape
    leaves = {
        "x": gaussian(batch, d_in, seed=1),
        "values": gaussian(n_latents, degree, seed=2),
        "bias": gaussian(n_latents, seed=3),
        "center": gaussian(d_in, seed=4),
    }
    return leaves, random_rows(n_latents, degree, d_in)


def codes_of(leaves, rows, k, signed, backend):
    return encode_topk(
        leaves["x"], rows, leaves["values"], k, bias=leaves["bias"], center=leaves["center"], signed=signed,
        backend=backend,
    )  # fmt: skip


def gradients(leaves, rows, k, signed, backend, weights) -> dict[str, torch.Tensor]:
    tracked = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    codes = codes_of(tracked, rows, k, signed, backend)
    (codes.values * weights.gather(1, codes.indices)).sum().backward()
    return {name: leaf.grad for name, leaf in tracked.items() if leaf.grad is not None}


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_by_name(shape, signed):
    batch, _, n_latents, _, k = shape
    leaves, rows = problem(shape)
    # Sums round by instruction set, so a near tie may pick or order other latents: the loss goes by latent, over those
    # that both picked.
    chosen = torch.zeros(2, batch, n_latents)
    for both, backend in zip(chosen, ("reference", "native"), strict=True):
        both.scatter_(1, codes_of(leaves, rows, k, signed, backend).indices, 1.0)
    shared = chosen.prod(0)
    assert shared.sum() > 0.99 * batch * k
    weights = shared * gaussian(n_latents, seed=7)
    want, got = (gradients(leaves, rows, k, signed, backend, weights) for backend in ("reference", "native"))
    assert set(got) == set(want) == {"x", "values", "bias", "center"}
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}")


def test_float64_gradcheck_of_the_definition():
    rows = random_rows(30, 3, 12)
    x = gaussian(4, 12, seed=1).double().requires_grad_()
    values, bias = gaussian(30, 3, seed=2).double().requires_grad_(), gaussian(30, seed=3).double().requires_grad_()
    center = gaussian(12, seed=4).double().requires_grad_()

    def codes(x, values, bias, center):
        return encode_topk(x, rows, values, 5, bias=bias, center=center, signed=True).values

    assert torch.autograd.gradcheck(codes, (x, values, bias, center))


def test_backward_is_deterministic_for_a_given_thread_count():
    leaves, rows = problem((131, 700, 900, 7, 32))
    weights = gaussian(900, seed=7).expand(131, -1)
    first, second = (gradients(leaves, rows, 32, False, "native", weights) for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_dense_dictionary_equals_its_sparse_spelling():
    x, values = gaussian(20, 24, seed=1), gaussian(90, 24, seed=2)
    rows = torch.arange(24).expand(90, 24)
    want = encode_topk(x, rows, values, 10)
    got = encode_topk(x, None, values, 10)
    torch.testing.assert_close(got.values, want.values, rtol=1e-4, atol=1e-5)
    assert torch.equal(got.indices[got.values > 0], want.indices[got.values > 0])


def test_empty_batch():
    codes = encode_topk(torch.empty(0, 8), random_rows(20, 2, 8), torch.ones(20, 2), 3)
    assert isinstance(codes, Codes)
    assert codes.indices.shape == codes.values.shape == (0, 3)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.full((2, 8), float("nan"))}, "NaN"),
        ({"x": torch.full((2, 8), float("inf"))}, "infinity"),
        ({"values": torch.full((20, 2), float("nan"))}, "NaN"),
        ({"x": torch.zeros(8)}, r"\[batch, d_in\]"),
        ({"x": torch.zeros(2, 8, dtype=torch.int32)}, "float32"),
        ({"values": torch.zeros(20, 3)}, r"rows as \[n_latents, degree\] = \[20, 3\]"),
        ({"rows": torch.full((20, 2), 8)}, "not below d_in"),
        ({"k": 0}, "k in 1"),
        ({"k": 21}, "k in 1"),
        ({"bias": torch.zeros(19)}, r"bias as \[n_latents\] = \[20\]"),
        ({"center": torch.zeros(9)}, r"center as \[d_in\] = \[8\]"),
    ],
)
def test_bad_input_is_one_clear_error(change, says, backend):
    arguments = {"x": torch.zeros(2, 8), "rows": random_rows(20, 2, 8), "values": torch.ones(20, 2), "k": 3} | change
    with pytest.raises(ExpanderSaeError, match=says):
        encode_topk(**arguments, backend=backend)


def test_a_backend_that_cannot_run_says_why():
    arguments = (torch.zeros(2, 8), random_rows(20, 2, 8), torch.ones(20, 2), 3)
    with pytest.raises(ExpanderSaeError, match="one of auto"):
        encode_topk(*arguments, backend="cuda")
    with pytest.raises(ExpanderSaeError, match="cannot run here"):
        encode_topk(*arguments, backend="triton")
    with pytest.raises(ExpanderSaeError, match="float64 runs on the reference"):
        encode_topk(torch.zeros(2, 8).double(), *arguments[1:], backend="native")
