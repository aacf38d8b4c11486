import pytest
import torch
from dictionaries import gaussian, needs_native

from expander_sae.ops import unit_columns
from expander_sae.records import ExpanderSaeError


@needs_native
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9000, 7), (50, 600)])
def test_values_and_gradient_against_the_reference(shape):
    results = []
    for backend in ("reference", "native"):
        raw = gaussian(*shape, seed=1).requires_grad_()
        unit = unit_columns(raw, backend=backend)
        (unit * gaussian(*shape, seed=2)).sum().backward()
        results.append((unit.detach(), raw.grad))
    for want, got in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_a_zero_column_stays_zero():
    assert torch.equal(unit_columns(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_float64_gradcheck():
    assert torch.autograd.gradcheck(unit_columns, gaussian(5, 3, seed=1).double().requires_grad_())


def test_shape_is_checked():
    with pytest.raises(ExpanderSaeError, match=r"raw as \[n_latents, degree\]"):
        unit_columns(torch.zeros(3))
