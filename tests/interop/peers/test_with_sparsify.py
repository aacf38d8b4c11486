import pytest
import torch
from sparsify import SparseCoder, SparseCoderConfig

from expander_sae.interop import read_sae, write_sae
from expander_sae.pursuit import Encoder
from expander_sae.saes import DenseTopKSae, ExpanderSae

X = torch.randn(30, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("normalize", [True, False])
def test_their_file_computes_the_same_here(tmp_path, normalize):
    torch.manual_seed(0)
    theirs = SparseCoder(16, SparseCoderConfig(num_latents=80, k=5, normalize_decoder=normalize))
    with torch.no_grad():
        theirs.encoder.bias.normal_()
        theirs.b_dec.normal_()
        theirs.W_dec.add_(0.1 * torch.randn_like(theirs.W_dec))
        if normalize:
            theirs.set_decoder_norm_to_unit_norm()
    theirs.save_to_disk(tmp_path / "layers.1")
    ours = read_sae(tmp_path / "layers.1")
    torch.testing.assert_close(ours(X), theirs(X).sae_out, rtol=1e-4, atol=1e-4)
    acts, indices, _ = theirs.encode(X)
    mine = torch.zeros(30, 80, dtype=torch.bool).scatter_(1, ours.encode(X).indices, ours.encode(X).values > 0)
    assert torch.equal(mine, torch.zeros(30, 80, dtype=torch.bool).scatter_(1, indices, acts > 0))


@pytest.mark.parametrize(
    "sae",
    [
        ExpanderSae(d_in=16, n_latents=80, degree=4, k=5, reading=Encoder()),
        DenseTopKSae(d_in=16, n_latents=80, k=5, tied=False, latent_bias=True),
    ],
    ids=["expander", "dense"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_our_file_computes_the_same_there(tmp_path, sae, dtype):
    write_sae(sae.eval(), tmp_path / "layers.1", "sparsify", dtype=dtype)
    theirs = SparseCoder.load_from_disk(tmp_path / "layers.1")
    assert theirs.dtype == getattr(torch, dtype)
    if dtype == "float32":
        torch.testing.assert_close(theirs(X).sae_out, sae(X), rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(theirs.W_dec.float().norm(dim=1), torch.ones(80), rtol=1e-2, atol=1e-2)
    assert list(SparseCoder.load_many(str(tmp_path), local=True)) == ["layers.1"]
