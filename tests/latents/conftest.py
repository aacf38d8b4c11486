"""A tiny language model's activations of a text, and SAEs on them, made once."""

import signal

import pytest
import torch
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import harvest, load_language_model
from expander_sae.saes import DenseTopKSae, ExpanderSae

N_LATENTS = 96


@pytest.fixture(autouse=True)
def interruptible():
    """A shell that starts the tests in the background has SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("latents")


@pytest.fixture(scope="session")
def model_folder(folder):
    return make_tiny_model(folder / "model")


@pytest.fixture(scope="session")
def language_model(model_folder):
    return load_language_model(model_folder, dtype="float32")


@pytest.fixture(scope="session")
def articles(folder):
    return write_jsonl(folder / "text.jsonl", make_documents(24, sentences=8))


@pytest.fixture(scope="session")
def activations(folder, language_model, articles):
    return harvest(
        language_model, articles, folder / "acts", layer=1, context=48, heldout_share=0.5, shard_tokens=480,
        dtype="float32", progress=False,
    )  # fmt: skip


@pytest.fixture(scope="session")
def saes(folder, activations):
    """A sparse and a dense SAE in folders of their own, centred on the activations so that codes differ by token."""
    x = activations.sample("train", 4096, seed=0)
    made = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made["sparse"] = ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=4, k=6, signed=True)
        made["dense"] = DenseTopKSae(d_in=D_IN, n_latents=64, k=5)
    for name, sae in made.items():
        sae.b_dec.data.copy_(x.mean(0))
        sae.metadata = {"activations": {"model_id": "model", "layer": 1}}
        sae.save(folder / "saes" / name)
    return made
