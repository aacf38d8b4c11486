import pytest
import torch
from lens import CONTEXT, D_IN, HOOK, N_LATENTS, make_model, make_sae, make_store
from sae_bench.custom_saes.base_sae import BaseSAE
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import run_evals
from sae_bench.sae_bench_utils.general_utils import load_and_format_sae

from expander_sae.evaluation import ReconstructionAccumulator
from expander_sae.interop.saebench import SaeBenchAdapter
from expander_sae.interop.saelens import to_saelens

EVERYTHING = {
    name: True
    for name in (
        "compute_kl",
        "compute_ce_loss",
        "compute_l2_norms",
        "compute_sparsity_metrics",
        "compute_variance_metrics",
        "compute_featurewise_density_statistics",
        "compute_featurewise_weight_based_metrics",
    )
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_their_checks_of_an_object_pass(dtype):
    adapter = SaeBenchAdapter(make_sae("expander stages")).to(dtype=dtype)
    assert BaseSAE.check_decoder_norms(adapter)
    name, same, _ = load_and_format_sae("ours", adapter, "cpu")
    assert name == "custom_sae"
    assert same.cfg.hook_layer == 1
    assert same.cfg.hook_name == HOOK
    assert same.cfg.metadata.model_name == "tiny"
    # What their own classes have and their evaluations read.
    assert all(hasattr(adapter, name) for name in ("W_enc", "W_dec", "b_enc", "b_dec", "device", "dtype", "cfg"))


@pytest.mark.parametrize("kind", ["expander stages", "expander untied", "dense untied"])
@pytest.mark.parametrize("as_saelens", [False, True], ids=["adapter", "saelens"])
def test_core_evaluation(kind, as_saelens):
    model, sae = make_model(), make_sae(kind)
    bench = to_saelens(sae) if as_saelens else SaeBenchAdapter(sae)
    load_and_format_sae("ours", bench, "cpu")
    store = make_store(model, bench)
    batches, draw = [], store.get_batch_tokens
    store.get_batch_tokens = lambda size: batches.append(draw(size)) or batches[-1]
    config = CoreEvalConfig(
        model_name="tiny",
        batch_size_prompts=4,
        n_eval_reconstruction_batches=1,
        n_eval_sparsity_variance_batches=2,
        context_size=CONTEXT,
        **EVERYTHING,
    )
    metrics, features = run_evals(bench, store, model, config)
    ours = ReconstructionAccumulator(D_IN, N_LATENTS)
    for tokens in batches[1:]:
        _, cache = model.run_with_cache(tokens, names_filter=[HOOK], prepend_bos=False)
        x = cache[HOOK].reshape(-1, D_IN)
        codes = sae.encode(x)
        ours.update(x, sae.decode(codes), codes)
    result = ours.result()
    assert metrics["sparsity"]["l0"] == pytest.approx(result.l0, abs=1e-4)
    assert metrics["reconstruction_quality"]["cossim"] == pytest.approx(result.cosine, abs=1e-4)
    assert metrics["model_performance_preservation"]["ce_loss_without_sae"] > 0
    assert len(features["max_decoder_cosine_sim"]) == N_LATENTS
    density = torch.tensor(features["feature_density"])
    if not sae.signed:  # they count positive activations only
        torch.testing.assert_close(density, result.firing_counts / result.tokens, rtol=1e-4, atol=1e-5)
    # Their explained variance subtracts the square of the mean square: it is not ours, nor a share of any variance.
    assert metrics["reconstruction_quality"]["explained_variance"] != pytest.approx(result.explained_variance, abs=1e-3)
