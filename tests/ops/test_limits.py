"""The largest sizes promised, and torch's own modes."""

import pytest
import torch
from dictionaries import grid, needs_native, random_rows

from expander_sae.ops import encode_topk
from expander_sae.pursuit import Encoder
from expander_sae.saes import ExpanderSae

pytestmark = needs_native


@pytest.mark.parametrize(
    ("batch", "d_in", "n_latents", "degree", "k"),
    [(3, 300, 1 << 20, 2, 5), (20, 16384, 700, 12, 32), (18, 600, 640, 512, 9), (18, 200, 3000, 7, 512)],
    ids=["n_latents 2^20", "d_in 16384", "degree 512", "k 512"],
)
def test_exact_at_the_largest_sizes(batch, d_in, n_latents, degree, k):
    x, rows = grid(batch, d_in, seed=1), random_rows(n_latents, degree, d_in)
    values = grid(n_latents, degree, seed=2, low=-2, high=3)
    want = encode_topk(x, rows, values, k, backend="reference")
    got = encode_topk(x, rows, values, k, backend="native")
    assert torch.equal(got.indices, want.indices)
    assert torch.equal(got.values, want.values)


def test_autocast_leaves_the_kernels_in_float32():
    sae, x = ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Encoder()), torch.randn(30, 48)
    with torch.autocast("cpu", torch.bfloat16):
        inside = sae(x)
    torch.testing.assert_close(inside, sae(x))
    assert inside.dtype == torch.float32


def test_a_compiled_module_gives_the_same_codes():
    sae, x = ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Encoder()), torch.randn(30, 48)
    compiled = torch.compile(sae, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), sae(x))
