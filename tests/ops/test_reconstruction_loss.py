import pytest
import torch
from dictionaries import gaussian, needs_native, random_rows

from expander_sae.ops import encode_topk, reconstruction_loss
from expander_sae.records import ExpanderSaeError

pytestmark = needs_native

CASES = [
    pytest.param(
        sparse,
        tied,
        signed,
        bias,
        id=f"{'sparse' if sparse else 'dense'}-{'tied' if tied else 'untied'}-{signed}-{bias}",
    )
    for sparse in (True, False)
    for tied in (True, False)
    for signed in (False, True)
    for bias in (False, True)
]


def run(backend: str, sparse: bool, tied: bool, signed: bool, with_bias: bool, degree: int = 7):
    d_in, n_latents, k, batch = 50, 300, 12, 70
    width = degree if sparse else d_in
    rows = random_rows(n_latents, degree, d_in) if sparse else None
    leaves = {
        "decoder": gaussian(n_latents, width, seed=1).requires_grad_(),
        "center": gaussian(d_in, seed=2).requires_grad_(),
        "encoder": None if tied else gaussian(n_latents, width, seed=3).requires_grad_(),
        "bias": gaussian(n_latents, seed=4).requires_grad_() if with_bias else None,
    }
    decoder, center = leaves["decoder"], leaves["center"]
    assert decoder is not None
    assert center is not None
    out = reconstruction_loss(
        gaussian(batch, d_in, seed=5),
        rows,
        decoder,
        k,
        center=center,
        bias=leaves["bias"],
        encoder=leaves["encoder"],
        signed=signed,
        keep_residual=True,
        backend=backend,
    )
    (0.3 * out.loss).backward()
    return out, {name: leaf.grad for name, leaf in leaves.items() if leaf is not None}


@pytest.mark.parametrize(("sparse", "tied", "signed", "bias"), CASES)
def test_loss_and_every_gradient_against_the_reference(sparse, tied, signed, bias):
    want, want_gradients = run("reference", sparse, tied, signed, bias)
    got, got_gradients = run("native", sparse, tied, signed, bias)
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got.residual, want.residual, rtol=1e-4, atol=1e-4)
    assert torch.equal(got.fired, want.fired)
    assert set(got_gradients) == set(want_gradients)
    for name, gradient in want_gradients.items():
        scale = gradient.abs().max()
        assert (got_gradients[name] - gradient).abs().max() < 1e-5 * scale, name


@pytest.mark.parametrize("degree", [4, 8, 16, 5])
def test_every_compiled_degree(degree):
    want, want_gradients = run("reference", True, True, False, True, degree)
    got, got_gradients = run("native", True, True, False, True, degree)
    torch.testing.assert_close(got.loss, want.loss, rtol=1e-5, atol=1e-5)
    for name, gradient in want_gradients.items():
        assert (got_gradients[name] - gradient).abs().max() < 1e-5 * gradient.abs().max(), name


def test_gradients_are_deterministic():
    first, second = (run("native", True, True, False, True)[1] for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_center_must_fit():
    with pytest.raises(ExpanderSaeError, match=r"center as \[d_in\] = \[8\]"):
        reconstruction_loss(torch.zeros(2, 8), random_rows(5, 2, 8), torch.ones(5, 2), 1, center=torch.zeros(7))


@pytest.mark.parametrize("sparse", [True, False])
def test_fixed_codes_teach_the_dictionary_and_the_center_only(sparse):
    d_in, n_latents, k, batch = 50, 300, 12, 70
    width = 7 if sparse else d_in
    rows = random_rows(n_latents, 7, d_in) if sparse else None
    x = gaussian(batch, d_in, seed=5)
    with torch.no_grad():
        codes = encode_topk(x, rows, gaussian(n_latents, width, seed=3), k, signed=True)
    results = []
    for backend in ("reference", "native"):
        decoder, center = gaussian(n_latents, width, seed=1).requires_grad_(), gaussian(d_in, seed=2).requires_grad_()
        out = reconstruction_loss(x, rows, decoder, k, center=center, codes=codes, backend=backend)
        out.loss.backward()
        assert decoder.grad is not None
        assert center.grad is not None
        results.append((out.loss.detach(), decoder.grad, center.grad, out.fired.float()))
    for name, want, got in zip(("loss", "decoder", "center", "fired"), *results, strict=True):
        assert (got - want).abs().max() <= 1e-5 * want.abs().max(), name
