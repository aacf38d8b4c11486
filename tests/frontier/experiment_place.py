"""A tiny language model with its activations, and settings small enough to run every experiment in seconds."""

from tiny_models import make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import harvest, load_language_model
from expander_sae.frontier.experiments import Settings


def make_place(folder, layers=(1,), family="llama"):
    """(language model, activation stores by layer)."""
    model = load_language_model(make_tiny_model(folder / "model", family), dtype="float32")
    text = write_jsonl(folder / "text.jsonl", make_documents(24))
    stores = [
        harvest(
            model, text, folder / f"acts{layer}", layer=layer, context=32, heldout_share=0.25, compute_dtype="float32",
            progress=False,
        )
        for layer in layers
    ]  # fmt: skip
    return model, stores


def small_settings(experiment, **given):
    """Settings of an experiment: two degrees, two seeds, 20 steps."""
    options = experiment.read_options(given.pop("options", {}))
    small = {"degrees": (4, 8), "n_latents": 64, "k": 4, "seeds": (0, 1), "tokens": 2000, "batch_size": 100}
    return Settings(**{**small, "stages": 2, "ce_tokens": 200, "options": options, **given})
