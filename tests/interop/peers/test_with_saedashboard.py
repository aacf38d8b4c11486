"""SAEDashboard draws its pages from our SAEs, sparse and read by pursuit, through the SAELens object."""

import pytest
import torch
from lens import D_IN, HOOK, N_LATENTS, K, make_model, make_sae, tokens_of
from sae_dashboard.data_writing_fns import save_feature_centric_vis
from sae_dashboard.sae_vis_data import SaeVisConfig
from sae_dashboard.sae_vis_runner import SaeVisRunner
from sae_lens import HookedSAETransformer

from expander_sae.interop.saelens import to_saelens
from expander_sae.pursuit import Stages
from expander_sae.saes import ExpanderSae

LATENTS = [0, 3, 17, 200]


def some_sae(kind):
    if kind != "spare":
        return make_sae(kind)
    return ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, k=K, degree=4, reading=Stages(2, 3)).eval()


@pytest.mark.parametrize("kind", ["spare", "expander untied", "dense stages"])
def test_a_dashboard_shows_our_codes(kind, tmp_path):
    model, sae = make_model(HookedSAETransformer), some_sae(kind)
    tokens = tokens_of(model, 12)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=[HOOK])
        codes = sae.encode(cache[HOOK].reshape(-1, D_IN))
        acts = torch.zeros(tokens.numel(), N_LATENTS).scatter_add(1, codes.indices, codes.values)
        acts = acts.reshape(*tokens.shape, N_LATENTS)
        used = acts.amax((0, 1)).topk(3).indices.tolist()
    lens = to_saelens(sae)
    before = lens.W_dec.detach().clone()
    latents = sorted({*LATENTS, *used})
    config = SaeVisConfig(hook_point=HOOK, features=latents, minibatch_size_features=3, minibatch_size_tokens=5)
    data = SaeVisRunner(config).run(encoder=lens, model=model, tokens=tokens)
    assert torch.equal(lens.W_dec, before)
    assert sorted(data.feature_data_dict) == latents
    for latent, found in data.feature_data_dict.items():
        fires, histogram = acts[..., latent] > 0, found.acts_histogram_data
        if bool(fires.any()):
            assert f"DENSITY = {fires.double().mean():.3%}" in histogram.title
            assert sum(histogram.bar_heights) == int(fires.sum())
        else:
            assert histogram.bar_heights == []
        direction = (lens.W_dec[latent] @ model.W_U).detach()
        assert found.logits_table_data.top_logits[0] == pytest.approx(float(direction.max()), rel=1e-4)
    for latent in used:  # what it colours in its examples are our codes
        ours = {round(value, 4) for value in acts[..., latent].flatten().tolist()}
        strongest = data.feature_data_dict[latent].sequence_data.seq_group_data[0]
        assert strongest.title == f"TOP ACTIVATIONS<br>MAX = {acts[..., latent].max():.3f}"
        shown = {value for sequence in strongest.seq_data for value in sequence.feat_acts}
        assert len(shown) > 1
        assert shown <= ours
    data.model = model
    page = tmp_path / "latents.html"
    save_feature_centric_vis(data, page)
    text = page.read_text()
    assert "DASHBOARD_DATA" in text
    assert all(f'"{latent}"' in text for latent in latents)
