"""What `make demo` leaves behind, tiny: a language model, text, activations, three SAEs and a feature store."""

import pytest
import torch
from tiny_models import D_IN, make_documents, make_tiny_model, write_jsonl

from expander_sae import DenseTopKSae, ExpanderSae, fit, harvest
from expander_sae.cli.features import features


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder in which notebooks find `demo-out`."""
    folder = tmp_path_factory.mktemp("docs")
    out = folder / "demo-out"
    (out / "base").mkdir(parents=True)
    model = make_tiny_model(out / "base" / "model")
    text = write_jsonl(out / "base" / "text.jsonl", make_documents(40))
    store = harvest(
        model, text, out / "activations", layer=1, context=48, heldout_share=0.4, dtype="float32", progress=False
    )
    x = store.sample("train", 4096, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        saes = {
            "expander-d7": ExpanderSae(d_in=D_IN, n_latents=128, degree=7, k=16),
            "dense": DenseTopKSae(d_in=D_IN, n_latents=128, k=16),
        }
        for name, sae in saes.items():
            fit(sae, x, tokens=20_000, preset="fidelity", progress=False)
            sae.metadata["activations"] = dict(store.manifest["settings"])
            sae.save(out / "frontier" / "seed0" / name)
    features(
        [out / "frontier" / "seed0" / "expander-d7"], out / "latents.db", acts=out / "activations", model=str(model),
        reading="encoder", split="train", quiet=True,
    )  # fmt: skip
    return folder
