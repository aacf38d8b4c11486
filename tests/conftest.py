"""Shared by every room: this folder is on the path, so `from tiny_models import make_tiny_model` works."""

import os

from hypothesis import settings

# Tests make their models themselves; a stray name must fail at once and never reach for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run: a failure is reproduced by running the test again, here or in CI.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
