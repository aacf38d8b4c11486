import copy

import pytest
import torch
from lens import CONTEXT, D_IN, HOOK, KINDS, N_LATENTS, K, make_model, make_sae, make_store, tokens_of
from sae_lens import SAE, SAETrainer, TrainingSAE
from sae_lens.analysis.hooked_sae_transformer import HookedSAETransformer
from sae_lens.config import SAETrainerConfig
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import load_file

from expander_sae.evaluation import ReconstructionAccumulator
from expander_sae.interop import read_sae, write_sae
from expander_sae.interop.saelens import (
    ExpanderTrainingSAE,
    ExpanderTrainingSAEConfig,
    from_saelens,
    to_saelens,
)
from expander_sae.pursuit import Encoder, parse_reading
from expander_sae.records import ExpanderSaeError, read_json

X = torch.randn(5, 7, D_IN, generator=torch.Generator().manual_seed(1))
DTYPES = ("float32", "float16", "bfloat16")


def spread(sae, x):
    """Our codes as SAELens has them."""
    codes = sae.encode(x.reshape(-1, D_IN))
    dense = torch.zeros(len(codes.values), sae.n_latents).scatter_add_(1, codes.indices, codes.values)
    return dense.reshape(*x.shape[:-1], sae.n_latents)


def same_numbers(one, other):
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_reconstruction_are_ours(kind):
    sae = make_sae(kind)
    lens = to_saelens(sae)
    assert torch.equal(lens.encode(X), spread(sae, X))
    torch.testing.assert_close(lens(X), sae(X.reshape(-1, D_IN)).reshape(X.shape))
    torch.testing.assert_close(lens.encode(X) @ lens.W_dec + lens.b_dec, lens(X), rtol=1e-4, atol=1e-4)
    assert lens.W_dec.shape == (N_LATENTS, D_IN)
    assert lens.W_enc.shape == (D_IN, N_LATENTS)
    with pytest.raises(ExpanderSaeError, match="cannot be set"):
        lens.W_dec = torch.nn.Parameter(lens.W_dec)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trips_are_exact(kind, dtype, tmp_path):
    sae = make_sae(kind)
    lens = to_saelens(sae, dtype=dtype)
    assert lens.encode(X).dtype == lens(X).dtype == getattr(torch, dtype)
    lens.save_model(tmp_path / "a")
    loaded = SAE.load_from_disk(tmp_path / "a")
    assert same_numbers(loaded.core, lens.core)
    assert torch.equal(loaded.encode(X), lens.encode(X))
    assert torch.equal(loaded(X), lens(X))
    ours = from_saelens(loaded)
    assert same_numbers(ours, from_saelens(lens))
    assert same_numbers(ours, from_saelens(tmp_path / "a"))
    assert ours.describe() == sae.describe()
    assert ours.metadata == sae.metadata
    assert ours.reading == sae.reading
    if dtype == "float32":
        folded = copy.deepcopy(sae)
        folded.fold_input_scale()
        assert same_numbers(ours, folded)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_files_written_without_saelens_are_the_same(kind, dtype, tmp_path):
    sae = make_sae(kind)
    write_sae(sae, tmp_path / "ours", "saelens", dtype=dtype)
    to_saelens(sae, dtype=dtype).save_model(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "sae_weights.safetensors") for name in ("ours", "theirs"))
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert read_json(tmp_path / "ours" / "cfg.json") == read_json(tmp_path / "theirs" / "cfg.json")
    assert torch.equal(SAE.load_from_disk(tmp_path / "ours").encode(X), to_saelens(sae, dtype=dtype).encode(X))


def test_another_inference_is_kept(tmp_path):
    sae = make_sae("expander").read_by(parse_reading("omp"))
    to_saelens(sae).save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert str(loaded.core.reading) == "omp"
    assert torch.equal(loaded.encode(X), spread(sae, X))


def test_a_config_alone_has_no_rows():
    config = to_saelens(make_sae("expander stages")).cfg.to_dict()
    with pytest.raises(ExpanderSaeError, match="load its weights"):
        SAE.from_dict(config).encode(X)


def test_a_mask_that_comes_out_otherwise_is_refused(tmp_path):
    to_saelens(make_sae("expander")).save_model(tmp_path)
    text = (tmp_path / "cfg.json").read_text()
    (tmp_path / "cfg.json").write_text(text.replace('"mask_seed": 0', '"mask_seed": 1'))
    with pytest.raises(ExpanderSaeError, match="wrong rows"):
        SAE.load_from_disk(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_folds(kind):
    sae = make_sae(kind)
    lens, factor = to_saelens(sae), 0.37
    acts, output = lens.encode(factor * X), lens(factor * X) / factor
    lens.cfg.normalize_activations = "expected_average_only_in"
    lens.fold_activation_norm_scaling_factor(factor)
    assert lens.cfg.normalize_activations == "none"
    torch.testing.assert_close(lens.encode(X), acts, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lens(X), output, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lens.encode(X) @ lens.W_dec + lens.b_dec, lens(X), rtol=1e-4, atol=1e-4)
    norms = lens.W_dec.norm(dim=1)
    torch.testing.assert_close(lens.get_W_dec_norm(), norms)
    torch.testing.assert_close(norms, torch.full((N_LATENTS,), 1 / factor))
    torch.testing.assert_close(lens.fold_and_get_W_dec_norm(), norms)
    torch.testing.assert_close(lens.W_dec.norm(dim=1), torch.ones(N_LATENTS))
    torch.testing.assert_close(lens.encode(X), acts * norms, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lens(X), output, rtol=1e-4, atol=1e-5)
    before = lens.encode(X)
    lens.fold_W_dec_norm()
    assert torch.equal(lens.encode(X), before)
    with pytest.raises(NotImplementedError, match="dense"):
        lens.fold_activation_whitening(torch.zeros(D_IN), torch.eye(D_IN), torch.eye(D_IN))


def test_a_folded_factor_survives_the_disk_in_every_type(tmp_path):
    for dtype in DTYPES:
        lens = to_saelens(make_sae("expander"), dtype=dtype)
        lens.fold_activation_norm_scaling_factor(0.37)
        lens.to(getattr(torch, dtype))  # the fold leaves numbers that the type cannot hold
        lens.save_model(tmp_path / dtype)
        loaded = SAE.load_from_disk(tmp_path / dtype)
        assert torch.equal(loaded.encode(X), lens.encode(X))
        ours = from_saelens(loaded)
        torch.testing.assert_close(ours(X[0]), loaded(X[0]).float(), rtol=2e-2, atol=2e-2)
        assert same_numbers(ours, from_saelens(tmp_path / dtype))


@pytest.mark.parametrize("kind", ["expander", "expander untied", "dense untied"])
def test_dense_exports_are_saelens_own(kind, tmp_path):
    sae = make_sae(kind)
    lens = to_saelens(sae, dense=True)
    assert type(lens) is TopKSAE
    torch.testing.assert_close(lens.encode(X), spread(sae, X), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lens(X), sae(X.reshape(-1, D_IN)).reshape(X.shape), rtol=1e-4, atol=1e-5)
    write_sae(sae, tmp_path, "saelens-dense")
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is TopKSAE
    assert torch.equal(loaded.encode(X), lens.encode(X))
    assert loaded.cfg.metadata.hook_name == HOOK
    torch.testing.assert_close(from_saelens(lens)(X[0]), sae(X[0]), rtol=1e-4, atol=1e-5)


def test_a_dense_export_of_a_pursuit_has_to_be_asked_for():
    sae = make_sae("dense stages")
    with pytest.raises(ExpanderSaeError, match="other codes"):
        to_saelens(sae, dense=True)
    lens = to_saelens(sae, dense=True, reading=Encoder())
    torch.testing.assert_close(lens.encode(X), spread(sae.read_by(Encoder()), X), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def randomise(sae):
    generator = torch.Generator().manual_seed(4)
    for parameter in sae.parameters():
        parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return sae


SIZES = {"d_in": D_IN, "d_sae": N_LATENTS}
THEIRS = {
    "topk": lambda: TopKSAE(TopKSAEConfig(**SIZES, k=K)),
    "topk rescaled": lambda: TopKSAE(TopKSAEConfig(**SIZES, k=K, rescale_acts_by_decoder_norm=True)),
    "standard": lambda: StandardSAE(StandardSAEConfig(**SIZES)),
    "standard, b_dec not subtracted": lambda: StandardSAE(StandardSAEConfig(**SIZES, apply_b_dec_to_input=False)),
    "jumprelu": lambda: JumpReLUSAE(JumpReLUSAEConfig(**SIZES)),
}


@pytest.mark.parametrize("name", THEIRS)
def test_their_saes_compute_the_same_here(name, tmp_path):
    lens = randomise(THEIRS[name]())
    lens.save_model(tmp_path)
    for ours in (read_sae(tmp_path), from_saelens(lens)):
        torch.testing.assert_close(ours(X[0]), lens(X[0]), rtol=1e-4, atol=1e-4)
        assert torch.equal(spread(ours, X[0]) != 0, lens.encode(X[0]) != 0)


def test_a_batchtopk_checkpoint_is_what_its_inference_model_is(tmp_path):
    config = BatchTopKTrainingSAEConfig(**SIZES, k=4.0)
    lens = randomise(BatchTopKTrainingSAE(config))
    lens.topk_threshold.fill_(1.5)
    lens.save_model(tmp_path / "training")
    lens.save_inference_model(tmp_path / "inference")
    theirs = SAE.load_from_disk(tmp_path / "inference")
    for name in ("training", "inference"):
        ours = read_sae(tmp_path / name)
        torch.testing.assert_close(ours(X[0]), theirs(X[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["expander", "expander stages", "dense stages"])
def test_gradients(kind):
    lens = to_saelens(make_sae(kind))
    x = X[0].clone().requires_grad_()
    lens(x).square().sum().backward()
    direction = torch.randn(X[0].shape, generator=torch.Generator().manual_seed(2))
    step, ours = 1e-2, (x.grad * direction).sum()
    with torch.no_grad():
        ahead, behind = lens(X[0] + step * direction), lens(X[0] - step * direction)
        same = ((lens.encode(X[0] + step * direction) != 0) == (lens.encode(X[0] - step * direction) != 0)).all(-1)
        terms = (ahead.square() - behind.square()).sum(-1) / (2 * step)
    per_token = (x.grad * direction).sum(-1)
    assert same.sum() >= 2  # tokens whose support the step does not change
    torch.testing.assert_close(per_token[same], terms[same], rtol=2e-2, atol=2e-2)
    assert torch.isfinite(ours)
    # Every latent has its gradient, active or not, as in a matrix product.
    acts = lens.encode(X[0]).detach().requires_grad_()
    lens.decode(acts)[:, 3].sum().backward()
    torch.testing.assert_close(acts.grad, lens.W_dec[:, 3].expand_as(acts.grad))


def test_hooks_of_transformer_lens():
    model, sae = make_model(HookedSAETransformer), make_sae("expander stages")
    lens = to_saelens(sae)
    tokens = tokens_of(model)
    clean, cache = model.run_with_cache(tokens)
    logits, saes = model.run_with_cache_with_saes(tokens, saes=[lens])
    acts = saes[f"{HOOK}.hook_sae_acts_post"]
    assert torch.equal(acts, spread(sae, cache[HOOK]))
    torch.testing.assert_close(saes[f"{HOOK}.hook_sae_recons"], lens(cache[HOOK]))
    assert not torch.allclose(logits, clean, atol=1e-3)
    same = model.run_with_saes(tokens, saes=[lens], use_error_term=True)
    torch.testing.assert_close(same, clean, rtol=1e-3, atol=1e-3)
    zero = model.run_with_hooks_with_saes(
        tokens, saes=[lens], fwd_hooks=[(f"{HOOK}.hook_sae_acts_post", lambda acts, hook: torch.zeros_like(acts))]
    )
    replaced = model.run_with_hooks(tokens, fwd_hooks=[(HOOK, lambda x, hook: lens.b_dec.expand_as(x))])
    torch.testing.assert_close(zero, replaced, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["expander stages", "dense untied"])
def test_saelens_own_evaluation_agrees_with_ours(kind):
    model, sae = make_model(), make_sae(kind)
    lens = to_saelens(sae)
    store = make_store(model, lens)
    config = get_eval_everything_config(
        batch_size_prompts=4, n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=3
    )
    batches, draw = [], store.get_batch_tokens
    store.get_batch_tokens = lambda size: batches.append(draw(size)) or batches[-1]
    metrics, features = run_evals(lens, store, model, ActivationScaler(), config, exclude_special_tokens=False)
    ours = ReconstructionAccumulator(D_IN, N_LATENTS)
    assert len(batches) == 5
    for tokens in batches[2:]:
        _, cache = model.run_with_cache(tokens, names_filter=[HOOK], prepend_bos=False)
        x = cache[HOOK].reshape(-1, D_IN)
        codes = sae.encode(x)
        ours.update(x, sae.decode(codes), codes)
    result = ours.result()
    assert metrics["reconstruction_quality"]["explained_variance"] == pytest.approx(result.explained_variance, abs=1e-4)
    assert metrics["reconstruction_quality"]["cossim"] == pytest.approx(result.cosine, abs=1e-5)
    assert metrics["sparsity"]["l0"] == pytest.approx(result.l0, abs=1e-4)
    densities = torch.tensor(features["feature_density"])
    torch.testing.assert_close(densities, result.firing_counts / result.tokens, rtol=1e-4, atol=1e-5)
    assert float((densities == 0).double().mean()) == pytest.approx(result.dead_fraction)
    assert metrics["model_performance_preservation"]["ce_loss_with_sae"] > 0
    assert len(features["encoder_decoder_cosine_sim"]) == N_LATENTS


class Tokens:
    """Endless activations with structure: sparse mixtures of fixed directions."""

    def __init__(self, batch, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.batch = batch
        self.atoms = torch.randn(100, D_IN, generator=torch.Generator().manual_seed(99))

    def __iter__(self):
        return self

    def __next__(self):
        on = torch.rand(self.batch, 100, generator=self.generator) < 0.03
        size = torch.rand(self.batch, 100, generator=self.generator) + 0.5
        return 3 * (on * size) @ self.atoms + 1


@pytest.mark.parametrize("reading", [None, "stages:2"])
def test_saelens_trainer_trains(reading, tmp_path):
    torch.manual_seed(0)
    config = ExpanderTrainingSAEConfig(
        **SIZES, degree=8, k=K, reading=reading, normalize_activations="expected_average_only_in"
    )
    sae = ExpanderTrainingSAE(config)
    trainer_config = SAETrainerConfig(
        total_training_samples=60_000,
        train_batch_size_samples=300,
        lr=1e-2,
        lr_end=1e-3,
        dead_feature_window=20,
        n_checkpoints=1,
        checkpoint_path=str(tmp_path),
        save_final_checkpoint=True,
        n_batches_for_norm_estimate=10,
    )
    x = next(Tokens(500, seed=5))

    def fvu(output):
        return float((x - output.detach()).square().sum() / (x - x.mean(0)).square().sum())

    before = fvu(sae(x))
    trained = SAETrainer(trainer_config, sae, Tokens(300)).fit()
    assert trained.cfg.normalize_activations == "none"
    assert trained.cfg.code_scale != 1
    after = fvu(trained(x))
    assert after < 0.7 * before
    ours = from_saelens(trained)
    assert fvu(ours(x)) == pytest.approx(after, rel=1e-4)
    final = next(tmp_path.glob("final_*"))
    again = TrainingSAE.load_from_disk(final)
    assert same_numbers(again.core, trained.core)
    assert torch.equal(again.encode(x), trained.encode(x))
    middle = next(path for path in tmp_path.iterdir() if not path.name.startswith("final"))
    sae.load_weights_from_checkpoint(middle)
    assert not same_numbers(sae.core, again.core)
    trained = again
    trained.save_inference_model(tmp_path / "inference")
    inference = SAE.load_from_disk(tmp_path / "inference")
    assert torch.equal(inference.encode(x), trained.encode(x))


def test_dead_latents_learn_in_saelens_trainer():
    from sae_lens.saes.sae import TrainStepInput

    sae = ExpanderTrainingSAE(ExpanderTrainingSAEConfig(**SIZES, degree=8, k=K))
    dead = torch.zeros(N_LATENTS, dtype=torch.bool)
    dead[10:40] = True

    def step(mask):
        return sae.training_forward_pass(TrainStepInput(next(Tokens(200)), {}, mask, 0, False))

    assert step(torch.zeros_like(dead)).losses["auxiliary_reconstruction_loss"] == 0
    output = step(dead)
    output.losses["auxiliary_reconstruction_loss"].backward()
    moved = sae.core.columns.raw.grad.abs().sum(1) > 0
    assert moved[10:40].any()
    assert not moved[~dead].any()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"apply_b_dec_to_input": False}, "apply_b_dec"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
        ({"decoder_init_norm": 0.1}, "decoder_init_norm"),
        ({"k": 0}, "k as a positive"),
        ({"kind": "other"}, "kind"),
    ],
)
def test_configs_that_cannot_be(fields, says):
    with pytest.raises(ExpanderSaeError, match=says):
        ExpanderTrainingSAE(ExpanderTrainingSAEConfig(**(SIZES | {"degree": 4} | fields)))


def test_moving_and_copying():
    lens = to_saelens(make_sae("expander stages"))
    half = copy.deepcopy(lens).to(dtype=torch.bfloat16)
    assert half.cfg.dtype == "bfloat16"
    assert half.encode(X).dtype == torch.bfloat16
    assert half.core.columns.raw.dtype == torch.float32
    assert not torch.equal(half.core.columns.raw, lens.core.columns.raw)
    back = half.to(dtype=torch.float32)
    assert torch.equal(back.core.columns.raw, lens.core.columns.raw.bfloat16().float())
    assert lens.get_name() == f"sae_tiny_{HOOK}_{N_LATENTS}"
    assert lens.cfg.metadata.context_size == CONTEXT
