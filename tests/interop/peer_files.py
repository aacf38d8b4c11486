"""Folders and files made by hand exactly as the other libraries write them, and what their SAEs compute."""

import json

import torch
from safetensors.torch import save_file

D_IN, N_LATENTS, K = 12, 40, 5


def random_weights(seed=0, *, unit=True):
    """encoder [n, d_in], decoder [n, d_in], b_enc [n], b_dec [d_in]."""
    generator = torch.Generator().manual_seed(seed)
    encoder = torch.randn(N_LATENTS, D_IN, generator=generator)
    decoder = torch.randn(N_LATENTS, D_IN, generator=generator)
    if unit:
        decoder = decoder / decoder.norm(dim=1, keepdim=True)
    b_enc = 0.3 * torch.randn(N_LATENTS, generator=generator)
    return encoder, decoder, b_enc, torch.randn(D_IN, generator=generator)


def topk(pre, k, scale=None):
    """The k largest (of pre times scale), then a ReLU, as a dense tensor [batch, n]."""
    chosen = torch.topk(pre if scale is None else pre * scale, k, dim=1).indices
    return torch.zeros_like(pre).scatter(1, chosen, pre.gather(1, chosen).relu())


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def saelens(folder, weights, architecture, *, dtype=torch.float32, extra=None, **config):
    """As SAE.save_model of sae-lens 6 writes it."""
    encoder, decoder, b_enc, b_dec = weights
    arrays = {"W_enc": encoder.T, "W_dec": decoder, "b_enc": b_enc, "b_dec": b_dec} | (extra or {})
    common = {
        "d_in": D_IN,
        "d_sae": N_LATENTS,
        "dtype": str(dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": "6.54.12",
            "sae_lens_training_version": "6.54.12",
            "model_name": "gpt2-small",
            "hook_name": "blocks.8.hook_resid_post",
        },
        "architecture": architecture,
    }
    write_json(folder / "cfg.json", common | config)
    save_file(
        {name: array.to(dtype).contiguous() for name, array in arrays.items()}, folder / "sae_weights.safetensors"
    )
    return folder


def sparsify(folder, weights, *, dtype=torch.float32, extra=None, **config):
    """As SparseCoder.save_to_disk of eai-sparsify 1.3 writes it."""
    encoder, decoder, b_enc, b_dec = weights
    arrays = {"encoder.weight": encoder, "encoder.bias": b_enc, "W_dec": decoder, "b_dec": b_dec} | (extra or {})
    written = {
        "activation": "topk",
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": N_LATENTS,
        "k": K,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": D_IN,
    }
    write_json(folder / "cfg.json", written | config)
    save_file({name: array.to(dtype).contiguous() for name, array in arrays.items()}, folder / "sae.safetensors")
    return folder


def dictionary_learning(folder, state, dict_class):
    """As trainSAE of dictionary-learning 0.1 writes it."""
    write_json(
        folder / "config.json",
        {
            "trainer": {
                "trainer_class": "TopKTrainer",
                "dict_class": dict_class,
                "k": K,
                "layer": 3,
                "lm_name": "EleutherAI/pythia-70m-deduped",
                "submodule_name": "resid_post_layer_3",
            },
            "buffer": {"d_submodule": D_IN},
        },
    )
    torch.save(state, folder / "ae.pt")
    return folder


def linear_state(weights, **extra):
    """The two nn.Linear that most of dictionary_learning's classes have."""
    encoder, decoder, b_enc, _ = weights
    return {"encoder.weight": encoder, "encoder.bias": b_enc, "decoder.weight": decoder.T.contiguous(), **extra}


def openai(path, weights, **activation):
    """As torch.save(autoencoder.state_dict()) of OpenAI's sparse_autoencoder writes it."""
    encoder, decoder, b_enc, b_dec = weights
    state = {
        "pre_bias": b_dec,
        "latent_bias": b_enc,
        "stats_last_nonzero": torch.zeros(N_LATENTS, dtype=torch.long),
        "latents_activation_frequency": torch.ones(N_LATENTS),
        "latents_mean_square": torch.zeros(N_LATENTS),
        "encoder.weight": encoder,
        "decoder.weight": decoder.T.contiguous(),
        **activation,
    }
    torch.save(state, path)
    return path
