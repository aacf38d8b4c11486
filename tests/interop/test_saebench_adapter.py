import pytest
import torch

from expander_sae.interop.saebench import SaeBenchAdapter
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae

D_IN, N_LATENTS, K = 24, 160, 5
X = torch.randn(3, 7, D_IN, generator=torch.Generator().manual_seed(0))
KINDS = {
    "expander": lambda: ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=4, k=K, reading=Stages(2)),
    "untied": lambda: ExpanderSae(
        d_in=D_IN, n_latents=N_LATENTS, degree=4, k=K, tied=False, latent_bias=True, reading=Encoder()
    ),
    "dense": lambda: DenseTopKSae(d_in=D_IN, n_latents=N_LATENTS, k=K),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_saebench_checks(kind):
    sae = KINDS[kind]()
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        sae.input_scale.fill_(0.25)
    bench = SaeBenchAdapter(sae, model_name="gpt2", layer=3)
    assert bench.W_dec.shape == (N_LATENTS, D_IN)
    assert bench.W_enc.shape == (D_IN, N_LATENTS)
    assert torch.allclose(bench.W_dec.norm(dim=1), torch.ones(N_LATENTS), atol=1e-5)
    acts = bench.encode(X)
    assert acts.shape == (3, 7, N_LATENTS)
    codes = sae.eval().encode(X.reshape(-1, D_IN))
    assert torch.equal(acts.reshape(-1, N_LATENTS).gather(1, codes.indices), codes.values)
    torch.testing.assert_close(bench(X), bench.decode(acts))
    torch.testing.assert_close(bench(X), acts @ bench.W_dec + bench.b_dec, rtol=1e-4, atol=1e-5)
    if kind != "expander":  # the encoder's own codes follow from the matrices
        pre = (X - bench.b_dec) @ bench.W_enc + bench.b_enc
        torch.testing.assert_close(acts, torch.where(acts > 0, pre, 0.0), rtol=1e-4, atol=1e-5)
    assert bench.cfg.hook_name == "blocks.3.hook_resid_post"
    half = bench.to(device="cpu", dtype=torch.bfloat16)
    assert half.dtype == half.W_dec.dtype == half.encode(X).dtype == torch.bfloat16
    assert half.cfg.dtype == "bfloat16"


def test_the_model_is_taken_from_the_record_or_asked_for():
    sae = KINDS["expander"]()
    with pytest.raises(ExpanderSaeError, match="in its metadata; got neither"):
        SaeBenchAdapter(sae)
    sae.metadata = {"activations": {"model_id": "tiny", "layer": 2, "context": 64, "bos": True}}
    config = SaeBenchAdapter(sae).cfg
    assert (config.model_name, config.hook_layer, config.context_size, config.prepend_bos) == ("tiny", 2, 64, True)
    assert config.to_dict()["d_sae"] == N_LATENTS
