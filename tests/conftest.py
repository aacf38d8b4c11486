"""Shared by every room: this folder is on the path, so `from tiny_models import make_tiny_model` works."""

import os

import pytest
import torch
from hypothesis import settings

# Tests make their models themselves; a stray name must fail at once and never reach for the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# The same examples in every run: a failure is reproduced by running the test again, here or in CI.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


THREADS = torch.get_num_threads()
THREADED = ("ops", "pursuit")
"""Rooms whose kernels run in teams. The tensors of all others are so small that waking a second thread, and waiting for
it on a processor that something else uses, takes longer than what it would do."""


def pytest_runtest_setup(item):
    torch.set_num_threads(THREADS if item.path.parent.name in THREADED else 1)


@pytest.fixture(autouse=True, scope="session")
def _every_code_is_in_form():
    """What any op hands on is checked: indices in range and distinct in a token, values finite.

    The core's scratch and outputs are full of NaN bits before each call, so that a number that nothing wrote shows.
    """
    from expander_sae.ops import native_core
    from expander_sae.ops.backends import native_core as core

    if core() is not None:
        core().poison_scratch(True)
    call = native_core.call

    def checked_call(name, *arguments):
        result = call(name, *arguments)
        if name in ("encode_topk", "block_omp", "greedy"):
            indices, values = arguments[-2:]
            n_latents = next(a for a in arguments if a is not None and a.dtype == torch.uint16).shape[0]
            _check_codes(indices, values, n_latents)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_core, "call", checked_call)
        _check_what_python_packs(patch)
        yield
    if core() is not None:
        core().poison_scratch(False)


def _check_what_python_packs(patch):
    from expander_sae.ops.block_omp import reference
    from expander_sae.pursuit import cosamp, greedy, niht, nonnegative, omp, refit

    def checked(function, size_of):
        def run(*arguments, **options):
            codes = function(*arguments, **options)
            n_latents = size_of(*arguments, **options)
            _check_codes(codes[0], codes[1].detach(), n_latents)
            return codes

        return run

    patch.setattr(reference, "forward", checked(reference.forward, lambda x, values, *_: values.shape[0]))
    for module in (cosamp, greedy, niht, nonnegative, omp, refit):
        if hasattr(module, "pack"):
            patch.setattr(module, "pack", checked(module.pack, lambda i, c, k, n_latents, **_: n_latents))


def _check_codes(indices, values, n_latents):
    if not indices.numel():
        return
    assert 0 <= int(indices.min()) <= int(indices.max()) < n_latents, "an index is out of range"
    assert bool(torch.isfinite(values).all()), "a code is not finite"
    ordered = indices.sort(dim=1).values
    assert bool((ordered[:, 1:] != ordered[:, :-1]).all()), "an index stands twice in a token"
