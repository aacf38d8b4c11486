"""The differentiable refit: values, gradients, padding, and the counted ridge."""

import pytest
import torch
from by_method import pursue
from instances import dense, sparse, tokens
from torch import Tensor

from expander_sae.ops import sparse_decode
from expander_sae.pursuit import Dictionary, Encoder, Stages, refit_codes
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae

BOTH = pytest.mark.parametrize("is_dense", [True, False])
SUPPORTS = torch.tensor([[3, 7, 0], [1, 2, 9], [9, 3, 1]])


def make(is_dense: bool) -> Dictionary:
    return dense(10, 8) if is_dense else sparse(10, 8, 4)


@BOTH
@pytest.mark.parametrize("padded", [False, True])
def test_gradcheck_of_codes_and_reconstruction(is_dense, padded):
    source, x, center = make(is_dense), tokens(3, 8).requires_grad_(), tokens(1, 8, 3)[0].requires_grad_()
    values = source.decoder.clone().requires_grad_()
    used = torch.tensor([[True, True, False]] * 3) if padded else None

    def codes(x: Tensor, values: Tensor, center: Tensor) -> Tensor:
        return refit_codes(x, SUPPORTS, Dictionary(source.rows, values, 8, center=center), used=used).codes.values

    def reconstruction(x: Tensor, values: Tensor, center: Tensor) -> Tensor:
        found = refit_codes(x, SUPPORTS, Dictionary(source.rows, values, 8, center=center), used=used).codes
        return sparse_decode(found, source.rows, values, 8, backend="reference") + center

    assert torch.autograd.gradcheck(codes, (x, values, center))
    assert torch.autograd.gradcheck(reconstruction, (x, values, center))


@BOTH
def test_gradient_equals_autograd_through_the_normal_equations(is_dense):
    source, x = make(is_dense), tokens(3, 8)
    weights = tokens(3, 3, 9)
    gradients = []
    for way in ("refit", "autograd"):
        values = source.decoder.clone().requires_grad_()
        y = x.clone().requires_grad_()
        if way == "refit":
            found = refit_codes(y, SUPPORTS, Dictionary(source.rows, values, 8)).codes.values
        else:
            columns = values
            if source.rows is not None:
                columns = torch.zeros(10, 8, dtype=torch.float64).scatter(1, source.rows, values)
            w = columns[SUPPORTS]
            found = torch.linalg.solve(w @ w.transpose(1, 2), w @ y[..., None])[..., 0]
        (found * weights).sum().backward()
        gradients.append((found.detach(), y.grad, values.grad))
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want)


def test_pursuit_codes_are_a_fixed_point():
    dictionary, x = sparse(200, 40, 6), tokens(10, 40)
    codes = pursue(x, dictionary, 12)
    again = refit_codes(x, codes.indices, dictionary, used=codes.values != 0)
    assert again.ridged == 0
    torch.testing.assert_close(again.codes.values, codes.values)


@BOTH
def test_dependent_supports_are_ridged_and_counted(is_dense):
    source = make(is_dense)
    rows = None if source.rows is None else torch.cat([source.rows, source.rows[:1]])
    values = torch.cat([source.decoder, source.decoder[:1]]).requires_grad_()
    dictionary, x = Dictionary(rows, values, 8), tokens(3, 8)
    indices = torch.tensor([[3, 7, 0], [0, 10, 2], [9, 3, 1]])
    found = refit_codes(x, indices, dictionary)
    assert found.ridged == 1
    assert torch.isfinite(found.codes.values).all()
    torch.testing.assert_close(found.codes.values[1, 0], found.codes.values[1, 1])  # the ridge shares evenly
    plain = refit_codes(x[[0, 2]], indices[[0, 2]], dictionary)
    assert plain.ridged == 0
    torch.testing.assert_close(found.codes.values[[0, 2]], plain.codes.values)
    found.codes.values.sum().backward()
    assert values.grad is not None
    assert torch.isfinite(values.grad).all()
    # Without the second copy no ridge is needed.
    used = torch.tensor([[True] * 3, [True, False, True], [True] * 3])
    assert refit_codes(x, indices, dictionary, used=used).ridged == 0


def test_an_sae_learns_with_pursuit_codes():
    sae = ExpanderSae(d_in=24, n_latents=96, degree=4, k=6, reading=Encoder())
    x = tokens(256, 24, dtype=torch.float32)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        codes = sae.encode(x, reading=Stages(3))
        fitted = refit_codes(x, codes.indices, sae.dictionary(), used=codes.values != 0).codes
        loss = (x - sae.decode(fitted)).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_errors():
    with pytest.raises(ExpanderSaeError, match="not below n_latents"):
        refit_codes(tokens(1, 8), torch.tensor([[10]]), make(False))
    with pytest.raises(ExpanderSaeError, match="indices"):
        refit_codes(tokens(2, 8), torch.tensor([[1]]), make(False))
    with pytest.raises(ExpanderSaeError, match="used"):
        refit_codes(tokens(1, 8), torch.tensor([[1]]), make(False), used=torch.ones(1, 1))
