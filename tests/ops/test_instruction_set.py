"""Every instruction set of this machine gives the same codes, ties apart, and each the same bits every time."""

import pytest
import torch
from by_method import pursue
from dictionaries import gaussian, needs_native, random_rows

from expander_sae.ops import block_omp, encode_topk, instruction_sets, reconstruction_loss, use_instruction_set
from expander_sae.ops.backends import native_core
from expander_sae.pursuit import Dictionary
from expander_sae.records import ExpanderSaeError

pytestmark = needs_native


def problem(dtype=torch.float32):
    values = torch.nn.functional.normalize(gaussian(700, 7, seed=2), dim=1)
    return gaussian(70, 50, seed=1).to(dtype), random_rows(700, 7, 50), values


CALLS = {
    "encode": lambda x, rows, values: encode_topk(x, rows, values, 12),
    "stages": lambda x, rows, values: block_omp(x, rows, values, 12, block=3),
    "spare": lambda x, rows, values: block_omp(x, rows, values, 12, block=3, spare=6),
} | {
    method: lambda x, rows, values, method=method: pursue(x, Dictionary(rows, values, 50), 12, method, backend="native")
    for method in ("omp", "mp", "gradient", "nnomp", "cosamp", "niht")
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_sets_agree_and_each_repeats_itself(call, dtype):
    found = {}
    for name in instruction_sets():
        with use_instruction_set(name):
            assert native_core().instruction_set() == name
            found[name], again = (CALLS[call](*problem(dtype)) for _ in range(2))
            assert torch.equal(found[name].indices, again.indices)
            assert torch.equal(found[name].values, again.values)
    first, *others = found.values()
    for other in others:
        same = (first.indices == other.indices).all(1)
        assert same.float().mean() > 0.95  # a near tie, or a stop by a length that is rounded, may fall the other way
        rough = 20 if call == "niht" else 1  # it may stop an iteration earlier or later
        torch.testing.assert_close(first.values[same], other.values[same], rtol=rough * 1e-3, atol=rough * 1e-4)


def test_the_loss_agrees():
    x, rows, values = problem()
    losses = []
    for name in instruction_sets():
        with use_instruction_set(name):
            losses.append(reconstruction_loss(x, rows, values, 12, center=torch.zeros(50)).loss)
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0])


def test_the_set_of_before_comes_back_and_unknown_ones_are_refused():
    before = native_core().instruction_set()
    with pytest.raises(ZeroDivisionError), use_instruction_set(instruction_sets()[-1]):
        1 / 0  # noqa: B018
    assert native_core().instruction_set() == before
    with pytest.raises(ExpanderSaeError, match=f"runs here .*{before}.*; got 'sse9'"), use_instruction_set("sse9"):
        pass
