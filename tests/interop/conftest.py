"""Tests that run other libraries are collected where those are installed: in `.venv-interop`, by `make test-interop`.

`make test-interop` first imports every one of them, and fails if one is missing.
"""

from importlib.util import find_spec

PEERS = {
    "sae_lens": "saelens",
    "sae_dashboard": "saedashboard",
    "sparsify": "sparsify",
    "dictionary_learning": "dictionary_learning",
}
"""What each is imported as, and the end of its tests' file name."""

collect_ignore = [f"peers/test_with_{name}.py" for module, name in PEERS.items() if find_spec(module) is None]
if find_spec("sae_bench") is None:
    collect_ignore += ["peers/test_with_saebench.py", "peers/test_with_saebench_probes.py"]
