"""Equal columns have equal scores, however a matrix product rounds them: the lower latent is taken."""

import pytest
import torch
from by_method import pursue

from expander_sae.ops import block_omp, encode_topk, unit_columns
from expander_sae.ops.block_omp import reference
from expander_sae.ops.encode_topk import dense as dense_encoder
from expander_sae.ops.ties import equal_columns, fingerprints, largest
from expander_sae.pursuit import Dictionary


@pytest.fixture
def rounds_by_place(monkeypatch):
    """Matrix products whose last bits depend on where a column stands, as those of some libraries do."""
    true = torch.Tensor.__matmul__

    def product(a, b):
        found = true(a, b)
        if found.ndim != 2 or found.shape[1] < 50 or b.shape[0] == b.shape[1]:
            return found
        return found * (1 + torch.finfo(found.dtype).eps * (torch.arange(found.shape[1]) % 3))

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)


def twice(signs=(1,), dtype=torch.float32, n=40, d_in=24):
    """Every column a second time, further on, with these signs in turn."""
    values = torch.randn(n, d_in, generator=torch.Generator().manual_seed(1), dtype=dtype)
    values = values / values.norm(dim=1, keepdim=True)
    sign = torch.tensor(signs, dtype=dtype).repeat(n)[:n, None]
    return torch.cat([values, sign * values]), torch.randn(60, d_in, generator=torch.Generator().manual_seed(2)).to(
        dtype
    )


@pytest.mark.parametrize("signs", [(1,), (-1,), (1, -1)])
@pytest.mark.parametrize("method", ["omp", "nnomp", "cosamp", "mp", "gradient", "niht"])
@pytest.mark.parametrize("block", [1, 4])
def test_pursuit_of_a_dense_dictionary_takes_the_lower_of_equal_columns(rounds_by_place, signs, method, block):
    values, x = twice(signs)
    if block > 1 and method != "omp":
        pytest.skip("blocks are of omp")
    codes = pursue(x, Dictionary(None, values, 24), 6, method, block=block, signed=method != "nnomp")
    active = codes.indices[codes.values != 0]
    if method == "nnomp" and -1 in signs:
        repeated = torch.arange(40)[torch.tensor(signs).repeat(40)[:40] == 1] + 40
        assert not torch.isin(active, repeated).any()
    else:
        assert (active < 40).all()


def test_block_omp_by_matrix_products_takes_the_lower_of_equal_columns(rounds_by_place):
    values, x = twice()
    for block, spare in ((1, 0), (2, 0), (2, 5)):
        indices, codes, _ = reference.forward(x, values, 6, block, spare, True, 0.0)
        assert (indices[codes != 0] < 40).all()
    wanted = block_omp(x, None, values, 6, backend="reference")
    assert torch.equal(wanted.indices, block_omp(x, None, values, 6).indices)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("k", [1, 5, 6, 80])
def test_the_dense_encoder_takes_the_lower_of_equal_columns(rounds_by_place, k, bias):
    values, x = twice()
    shift = torch.linspace(-0.1, 0.1, 40).repeat(2) if bias else None
    x[3] = 0
    indices, codes = dense_encoder.forward(x, values, k, shift, None, signed=True)
    wanted = encode_topk(x, None, values, k, bias=shift, signed=True, backend="reference")
    assert torch.equal(indices, wanted.indices)
    torch.testing.assert_close(codes, wanted.values)
    place = torch.full((60, 80), 99).scatter(1, indices, torch.arange(k).expand(60, k))
    assert (place[:, :40] <= place[:, 40:]).all()  # where a repetition is taken, the first is too, and before it


def test_equal_columns_are_found_whatever_the_order_of_rows():
    rows = torch.tensor([[0, 1], [1, 0], [0, 1], [2, 3], [0, 1]])
    values = torch.tensor([[1.0, 2.0], [2.0, 1.0], [-1.0, -2.0], [1.0, 2.0], [1.0, 2.5]])
    for signed, later, first in ((False, [1], [0]), (True, [1, 2], [0, 0])):
        found = equal_columns(fingerprints(rows, values, 4, signed=signed))
        assert found.later.tolist() == later
        assert found.first.tolist() == first


def test_largest_is_a_stable_sort():
    scores = torch.randint(0, 4, (200, 50), generator=torch.Generator().manual_seed(0)).float()
    for count in (1, 7, 50):
        values, indices = largest(scores, count)
        wanted = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(indices, wanted.indices[:, :count])
        assert torch.equal(values, wanted.values[:, :count])


def test_unit_columns_of_any_length():
    raw = torch.tensor([[3e30, 4e30], [3e-3, 4e-3], [3.0, 4.0]])
    assert torch.allclose(unit_columns(raw), torch.tensor([[0.6, 0.8]]).expand(3, 2))
