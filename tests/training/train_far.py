"""Train every kind of SAE on the CPU and on the far device, and print what came of both as JSON.

The folder given holds a language model and activations of it.
"""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from far_device import FAR, FarDevice, FarTensor
from memory_source import MemorySource, sparse_activations
from memory_store import MemoryStore
from tiny_models import D_IN

from expander_sae.activations import ActivationStore, load_language_model
from expander_sae.evaluation import evaluate
from expander_sae.frontier import EvaluationSettings, SaeOptions, Sweep, plan, run_frontier
from expander_sae.pursuit import Stages
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae
from expander_sae.training import (
    Coherence,
    Flatness,
    Inputs,
    MoveSupports,
    Resample,
    TrainConfig,
    Watch,
    train,
    with_own_encoder,
)

SIZES = {"d_in": 48, "n_latents": 256, "k": 8}
CONFIG = TrainConfig(
    tokens=128 * 12,
    batch_size=128,
    learning_rate=1e-2,
    watch=Watch(checkpoint_every=5, log_every=1),
    dead_after_tokens=100,
    resample=Resample(every=5, fewer_than=10),
    coherence=Coherence(0.01),
    move_supports=MoveSupports(every=3),
)
X = sparse_activations(600)


def some_saes(device):
    pursuit = {"degree": 6, "reading": Stages(2, 4)}
    saes = {
        "pursuit": ExpanderSae(**SIZES, **pursuit),
        "paper": ExpanderSae(**SIZES, degree=6, signed=True, latent_bias=True),
        "irregular": IrregularSae.averaging(**SIZES, most=4, **pursuit),
        "dense": DenseTopKSae(**SIZES),
        "untied": DenseTopKSae(d_in=48, n_latents=64, k=8, tied=False, latent_bias=True),
    }
    return {name: sae.to(device) for name, sae in saes.items()}


def trained(device, folder):
    """Every kind, in three passes; what each was on the way and is in the end."""
    saes = some_saes(device)
    flat = {"flat": some_saes(device)["pursuit"]}
    passes = {"all": (saes, CONFIG), "flat": (flat, replace(CONFIG, flatness=Flatness(2.0, since=0.5)))}
    amortise = replace(CONFIG, amortise=True, revive=None, resample=None, coherence=None)
    found = {}
    for name, (members, config) in passes.items():
        found |= one_pass(members, config, folder / name, device)
    return found | one_pass({"own": with_own_encoder(saes["pursuit"])}, amortise, folder / "own", device)


def one_pass(saes, config, folder, device):
    records = train(saes, MemorySource(X, batch_size=128), config, folder=folder, progress=False)
    measured = evaluate(saes, MemoryStore({"heldout": X[:200]}), progress=False)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = {}
    for name, sae in saes.items():
        assert isinstance(sae.b_dec.data, FarTensor) == (device == "far"), name
        again = load_sae(folder / name).to(device)
        x = X[:50].to(device)
        assert torch.allclose(again(x).cpu(), sae(x).cpu(), atol=1e-3), name
        own = [line for line in lines if line["name"] == name]
        found[name] = {
            "device": records[name].device,
            "losses": [line["loss"] for line in own],
            "held out": measured[name].fvu,
            "most dead": max(line["dead_fraction"] for line in own),
            "moved": own[-1].get("moved_entries", 0),
        }
    return found


def resumed(then, now, folder):
    """A pass that begins on one device and ends on another."""
    source = MemorySource(X, batch_size=128)
    source.interrupt_at = 7
    try:
        train(some_saes(then), source, CONFIG, folder=folder, progress=False)
    except KeyboardInterrupt:
        records = train(some_saes(now), MemorySource(X, batch_size=128), CONFIG, folder=folder, progress=False)
        return {name: {"device": record.device, "loss": record.final_loss} for name, record in records.items()}
    raise SystemExit("expected the interruption to come through")


def frontier(device, folder):
    """A small frontier, SAEs here or there and the language model on the CPU."""
    model = load_language_model(folder / "model", dtype="float32")
    store = ActivationStore.open(folder / "acts")
    variants = plan([4], ["dense", "pruned"], d_in=D_IN, n_latents=64, k=4, seeds=[0])
    config = TrainConfig(tokens=500, batch_size=100, inputs=Inputs(statistics_tokens=200))
    settings = EvaluationSettings(ce_tokens=50)
    with FarDevice() if device == "far" else nullcontext():
        sweep = Sweep(
            store, folder / f"saes-{device}", variants, config, model, evaluation=settings,
            saes=SaeOptions(reading=Stages(2, spare=None)), device=device, progress=False,
        )  # fmt: skip
        found = run_frontier(sweep)
    return {
        record.variant: {
            "device": record.training.device,
            "fvu": record.evaluation.fvu,
            "delta_ce": record.evaluation.delta_ce,
        }
        for record in found.records
    }


def mixed():
    try:
        return str(X.to(FAR) + X)
    except RuntimeError as error:
        return str(error)


def main(folder: Path) -> None:
    found = {}
    for device in ("cpu", "far"):
        with FarDevice() if device == "far" else nullcontext():
            found[device] = trained(device, folder / device)
        found[f"frontier, {device}"] = frontier(device, folder)
    with FarDevice():
        found["resumed"] = resumed("far", "cpu", folder / "resumed")
        found["mixed"] = mixed()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
