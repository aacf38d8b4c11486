"""What a training pass is followed on: held-out tokens as training would take them."""

from dataclasses import replace

import pytest
import torch

from expander_sae.records import ExpanderSaeError
from expander_sae.training import Inputs, TrainConfig, Watch, heldout_sample

CONFIG = TrainConfig(inputs=Inputs(outlier_medians=10))


class Store:
    """Held-out activations x, the first of them of a special token."""

    def __init__(self, x):
        self.x = x

    def sample(self, split, n, seed, *, keep_special_tokens):
        assert (split, seed) == ("heldout", 0)
        return (self.x if keep_special_tokens else self.x[1:])[:n]


def test_outliers_are_left_out_and_special_tokens_unless_kept():
    x = torch.randn(50, 8)
    x[0] *= 5
    x[7] *= 1000
    assert torch.equal(heldout_sample(Store(x), CONFIG), torch.cat([x[1:7], x[8:]]))
    assert torch.equal(heldout_sample(Store(x), CONFIG, keep_special_tokens=True), torch.cat([x[:7], x[8:]]))
    assert torch.equal(heldout_sample(Store(x), replace(CONFIG, inputs=Inputs(outlier_medians=None))), x[1:])


@pytest.mark.parametrize("tokens", [1, 2])
def test_without_two_tokens_or_any_measurement_there_is_none(tokens):
    assert heldout_sample(Store(torch.randn(tokens, 8)), CONFIG) is None
    assert heldout_sample(Store(torch.randn(50, 8)), replace(CONFIG, watch=Watch(heldout_every=0))) is None


def test_measuring_less_than_never_is_refused():
    with pytest.raises(ExpanderSaeError, match=r"heldout_every >= 0 .* got -1"):
        Watch(heldout_every=-1)
