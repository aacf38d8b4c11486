"""A tiny random TransformerLens model, text for it, and SAEs of ours, for the tests that run SAELens."""

from tempfile import TemporaryDirectory

import torch
from datasets import Dataset
from sae_lens.training.activations_store import ActivationsStore
from tiny_models import make_documents, make_tiny_tokenizer
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformers import AutoTokenizer

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.pursuit import Encoder, Stages
from expander_sae.saes import DenseTopKSae, ExpanderSae

D_IN, N_LATENTS, K, CONTEXT = 32, 256, 6, 24
HOOK = "blocks.1.hook_resid_post"


def learned_rows():
    return mask_from_rows(make_mask(d_in=D_IN, n_latents=N_LATENTS, degree=4, seed=9).rows, d_in=D_IN)


SIZES = {"d_in": D_IN, "n_latents": N_LATENTS, "k": K}
KINDS = {
    "expander": lambda: ExpanderSae(**SIZES, degree=4, reading=Encoder()),
    "expander stages": lambda: ExpanderSae(**SIZES, degree=4, reading=Stages(3, 2), signed=True, mask=learned_rows()),
    "expander untied": lambda: ExpanderSae(**SIZES, degree=4, tied=False, latent_bias=True, reading=Encoder()),
    "dense stages": lambda: DenseTopKSae(**SIZES, reading=Stages(2)),
    "dense untied": lambda: DenseTopKSae(**SIZES, tied=False, latent_bias=True),
}


@torch.no_grad()
def make_sae(kind, seed=0):
    """One of KINDS with random numbers everywhere and an input scale to fold."""
    sae = KINDS[kind]()
    generator = torch.Generator().manual_seed(seed)
    for parameter in sae.parameters():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    sae.input_scale.fill_(0.5)
    sae.metadata = {"activations": {"model_id": "tiny", "layer": 1, "context": CONTEXT, "bos": True}}
    return sae.eval()


def make_model(cls=HookedTransformer):
    config = HookedTransformerConfig(
        n_layers=3,
        d_model=D_IN,
        n_ctx=64,
        d_head=8,
        n_heads=4,
        d_vocab=400,
        act_fn="relu",
        seed=0,
        device="cpu",
        model_name="tiny",
        init_weights=True,
    )
    return cls(config, tokenizer=make_tokenizer()).eval()


_TOKENIZER = TemporaryDirectory()


def make_tokenizer():
    """Saved and read again: TransformerLens reads a tokenizer once more from its path, to add the first token."""
    tokenizer = make_tiny_tokenizer(adds_bos=True)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(_TOKENIZER.name)
    return AutoTokenizer.from_pretrained(_TOKENIZER.name)


def make_store(model, sae):
    text = Dataset.from_dict({"text": make_documents(40)})
    return ActivationsStore.from_sae(
        model, sae, dataset=text, streaming=False, total_tokens=4000, store_batch_size_prompts=4, context_size=CONTEXT
    )


def tokens_of(model, n=4):
    return model.to_tokens(make_documents(n))[:, :CONTEXT]
