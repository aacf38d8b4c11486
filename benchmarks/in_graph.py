"""Tokens per second of a compiled model with an SAE in its graph and without: benchmarks/results/in_graph.csv.

python benchmarks/in_graph.py [--model FOLDER --layer 14] [--backend inductor] [--out benchmarks/results/in_graph.csv]

Without --model a random Llama (256 wide, 6 blocks) is made. Forward passes of `--batch` texts of `--length` tokens;
every kind is run once before it is timed, kinds take turns, and the median and the range of `--repeats` turns are
written.
"""

import argparse
import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import cpu

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--n-latents", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--backend", default="inductor")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "in_graph.csv")
    options = parser.parse_args()
    from tiny_models import make_tiny_model

    from expander_sae.activations import d_in_of, load_language_model
    from expander_sae.interop.in_graph import carry
    from expander_sae.pursuit import Encoder, Stages
    from expander_sae.saes import ExpanderSae

    with tempfile.TemporaryDirectory() as folder:
        name = options.model or str(make_tiny_model(Path(folder) / "model", d_in=256, n_blocks=6))
        d_in = d_in_of(load_language_model(name, dtype="float32").model)
        sizes = {"d_in": d_in, "n_latents": options.n_latents, "degree": 7, "k": options.k}
        saes = {reading: ExpanderSae(**sizes, reading=reading) for reading in (Encoder(), Stages(8, spare=8))}
        kinds: dict[str, tuple] = {"eager, without": (), "compiled, without": ()}
        for reading, sae in saes.items():
            kinds[f"compiled, read by {reading}"] = (sae, "read", None)
            kinds[f"compiled, spliced by {reading}"] = (sae, "splice", None)
        kinds["compiled, steered"] = (saes[Encoder()], "steer", {5: 4.0})
        ids = torch.randint(2, 300, (options.batch, options.length))
        models = {}
        with torch.no_grad():
            for kind, (*given,) in kinds.items():
                model = load_language_model(name, dtype="float32").model
                if given:
                    sae, what, strengths = given
                    carry(model, f"model.layers.{options.layer}", sae, what, strengths=strengths)
                if kind.startswith("compiled"):
                    torch._dynamo.reset()
                    model = torch.compile(model, fullgraph=True, backend=options.backend)
                model(ids, use_cache=False)
                models[kind] = model
            seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(options.repeats):
                for kind, model in models.items():
                    begun = time.perf_counter()
                    model(ids, use_cache=False)
                    seconds[kind].append(time.perf_counter() - begun)
    rows = []
    for kind, times in seconds.items():
        rates = [ids.numel() / one for one in times]
        rows.append({
            "what": kind, "tokens_per_second": round(statistics.median(rates)), "least": round(min(rates)),
            "most": round(max(rates)), "threads": torch.get_num_threads(), "cpu": cpu(),
        })  # fmt: skip
        print(rows[-1], flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
