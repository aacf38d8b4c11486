import pytest
from tiny_models import make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import harvest, load_language_model
from expander_sae.saes import DenseTopKSae
from expander_sae.training import Inputs, StoreBatches, TrainConfig, train


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny model, its activations and a dense SAE trained on them."""
    folder = tmp_path_factory.mktemp("tiny")
    lm = load_language_model(make_tiny_model(folder / "model"), dtype="float32")
    text = write_jsonl(folder / "text.jsonl", make_documents(60))
    store = harvest(lm, text, folder / "acts", context=64, progress=False)
    config = TrainConfig(tokens=40_000, batch_size=256, inputs=Inputs(statistics_tokens=4096), learning_rate=1e-2)
    dense = DenseTopKSae(d_in=store.d_in, n_latents=96, k=4)
    train({"dense": dense}, StoreBatches(store, config), config, folder=folder / "saes", progress=False)
    dense.eval()
    return folder, lm, store, dense
