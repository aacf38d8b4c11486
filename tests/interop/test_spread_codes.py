import pytest
import torch

from expander_sae.interop.saelens_codes import decode_dense, spread_codes
from expander_sae.pursuit import Encoder, Stages, parse_reading
from expander_sae.saes import DenseTopKSae, ExpanderSae

D_IN, N_LATENTS, K = 24, 160, 5
X = torch.randn(12, D_IN, generator=torch.Generator().manual_seed(0))
KINDS = {
    "encoder": lambda: ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=4, k=K, reading=Encoder()),
    "stages": lambda: ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=4, k=K, reading=Stages(2)),
    "dense": lambda: DenseTopKSae(d_in=D_IN, n_latents=N_LATENTS, k=K, reading=Stages(2)),
}


def matrix(sae):
    """W^T [n_latents, d_in]."""
    return sae.dictionary().dense()


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_spread_and_scaled(kind):
    sae = KINDS[kind]().eval()
    codes = sae.encode(X)
    acts = spread_codes(sae, X, 2.0)
    assert torch.equal(acts.gather(1, codes.indices), 2 * codes.values)
    assert int((acts != 0).sum()) == int((codes.values != 0).sum())
    torch.testing.assert_close(decode_dense(sae, acts / 2), sae.decode(codes))


@pytest.mark.parametrize("active", [0, 1, K, N_LATENTS])
@pytest.mark.parametrize("kind", KINDS)
def test_decoding_any_activations_is_the_matrix_product(kind, active):
    sae = KINDS[kind]()
    generator = torch.Generator().manual_seed(active)
    acts = torch.randn(9, N_LATENTS, generator=generator)
    keep = torch.rand(9, N_LATENTS, generator=generator).argsort(1) < active
    acts = (acts * keep).requires_grad_()
    weights = torch.randn(9, D_IN, generator=generator)
    wanted = acts @ matrix(sae) + sae.center()
    found = decode_dense(sae, acts)
    torch.testing.assert_close(found, wanted)
    leaves = [acts, sae.columns.raw, sae.b_dec]
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), leaves),
        torch.autograd.grad((wanted * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_no_tokens():
    sae = KINDS["encoder"]()
    assert decode_dense(sae, torch.zeros(0, N_LATENTS)).shape == (0, D_IN)


def test_a_pursuit_passes_the_gradient_of_its_least_squares():
    sae = KINDS["stages"]()
    x = X.clone().requires_grad_()
    acts = spread_codes(sae, x)
    assert torch.equal(acts.detach(), spread_codes(sae, X).detach())
    weights = torch.randn(acts.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad((acts * weights).sum(), x)
    w = matrix(sae).detach()
    for token in range(len(X)):
        support = torch.nonzero(acts[token])[:, 0]
        columns = w[support]  # z = (C C^T)^-1 C (x - b)
        wanted = weights[token, support] @ torch.linalg.solve(columns @ columns.T, columns)
        torch.testing.assert_close(found[token], wanted, rtol=1e-3, atol=1e-4)
    # Matching pursuit has no such fit: no gradient rather than a wrong one.
    assert not spread_codes(sae.read_by(parse_reading("mp")), x).requires_grad
