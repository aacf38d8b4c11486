"""NaN is never an outlier, and a scale is never taken from rows that are zero or from data without variance."""

import math
import sys
from pathlib import Path

import pytest
import torch
from memory_store import MemoryStore, harvest_in_memory
from tiny_models import make_tiny_model

from expander_sae.activations import load_language_model
from expander_sae.activations.models import decoder_blocks
from expander_sae.compression.compress import ordinary_blocks
from expander_sae.compression.search import Target, smallest_degree
from expander_sae.evaluation import evaluate
from expander_sae.evaluation.reconstruction import ReconstructionAccumulator
from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder
from expander_sae.records import EvaluationRecord, ExpanderSaeError
from expander_sae.saes import ExpanderSae, input_statistics, load_sae, ordinary_tokens
from expander_sae.training import Inputs, TrainConfig, heldout_sample, train
from expander_sae.training.closed_form import principal_directions
from expander_sae.training.firing import FiringHistory
from expander_sae.training.parts.resample import resample

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from memory_source import MemorySource

D_IN, TOKENS = 24, 2000
CONFIG = TrainConfig(tokens=256 * 8, batch_size=256, inputs=Inputs(statistics_tokens=1000))


class Store(MemoryStore):
    """With the part that training reads."""

    def sample(self, split, n, seed, *, keep_special_tokens=False):
        return self.x[split][:n]

    def n_tokens(self, split, *, keep_special_tokens=False):
        return len(self.x[split])


def sae(**given):
    return ExpanderSae(**{"d_in": D_IN, "n_latents": 96, "degree": 4, "k": 4, "reading": Encoder(), **given})


def activations():
    return torch.randn(TOKENS, D_IN, generator=torch.Generator().manual_seed(0)) + 1.0


def store_of(x):
    return Store({"train": x, "heldout": x})


def by_training(x, folder):
    source = MemorySource(x)
    source.sample = lambda n, seed: activations()[:n]  # the sample is sound: the stream is not
    train({"a": sae()}, source, CONFIG, folder=folder, progress=False)


def by_reconstruction(x, _folder):
    sums = ReconstructionAccumulator(D_IN, 96)
    sums.update(x, activations(), Codes(torch.zeros(TOKENS, 1, dtype=torch.int64), torch.ones(TOKENS, 1)))


def by_reconstruction_of_it(x, _folder):
    sums = ReconstructionAccumulator(D_IN, 96)
    sums.update(activations(), x, Codes(torch.zeros(TOKENS, 1, dtype=torch.int64), torch.ones(TOKENS, 1)))


def by_principal_directions(x, _folder):
    principal_directions(store_of(x), CONFIG, keep_special_tokens=True)


FILTERS = {
    "the filter itself": lambda x, _: ordinary_tokens(x),
    "statistics of a sample": lambda x, _: input_statistics(x),
    "the sample of a pass": lambda x, f: train({"a": sae()}, MemorySource(x), CONFIG, folder=f, progress=False),
    "the stream of a pass": by_training,
    "held-out tokens of a pass": lambda x, _: heldout_sample(store_of(x), CONFIG),
    "evaluation": lambda x, _: evaluate({"a": sae()}, store_of(x), progress=False),
    "evaluation of all tokens": lambda x, _: evaluate({"a": sae()}, store_of(x), outlier_medians=None, progress=False),
    "reconstruction": by_reconstruction,
    "reconstruction of finite tokens": by_reconstruction_of_it,
    "principal directions": by_principal_directions,
    "compression": lambda x, _: list(ordinary_blocks(store_of(x), "heldout", None)),
}


@pytest.mark.parametrize("what", FILTERS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_token_that_is_not_finite_is_named_and_never_dropped(what, value, tmp_path):
    x = activations()
    x[700, 3] = value
    with pytest.raises(ExpanderSaeError, match=rf"got {value} at entry 3 of token \d+"):
        FILTERS[what](x, tmp_path)


@pytest.mark.parametrize("what", ["the filter itself", "statistics of a sample", "evaluation", "reconstruction"])
def test_the_token_is_named_by_its_number_in_the_data(what, tmp_path):
    x = activations()
    x[[1500, 1501], 3] = math.nan
    with pytest.raises(ExpanderSaeError, match=r"got nan at entry 3 of token 1500, and 1 more of"):
        FILTERS[what](x, tmp_path)


def test_a_norm_that_overflows_is_an_outlier():
    x = activations()
    x[5] = 3e38
    keep = ordinary_tokens(x)
    assert not bool(keep[5])
    assert int(keep.sum()) == TOKENS - 1


def mostly_zero():
    x = activations()
    x[torch.arange(TOKENS) % 4 != 0] = 0.0
    return x


def test_the_limit_of_norms_is_a_median_of_rows_that_are_not_zero(tmp_path):
    x = mostly_zero()
    assert bool(ordinary_tokens(x).all())
    assert input_statistics(x).outliers == 0
    assert len(heldout_sample(store_of(x), CONFIG)) == min(TOKENS, 1024)
    a = sae()
    record = train({"a": a}, MemorySource(x), CONFIG, folder=tmp_path, progress=False)["a"]
    assert not record.diverged
    assert record.tokens == CONFIG.tokens
    assert load_sae(tmp_path / "a").metadata["outlier_tokens_left_out"] == 0
    assert evaluate({"a": a}, store_of(x), progress=False)["a"].outlier_tokens == 0
    x[8] *= 1000
    assert ordinary_tokens(x).nonzero().flatten().tolist() == [n for n in range(TOKENS) if n != 8]


@pytest.mark.parametrize("what", ["statistics of a sample", "the sample of a pass", "principal directions"])
@pytest.mark.parametrize(("value", "message"), [(0.0, "not all zero"), (0.7, "no variance"), (1e-20, "no variance")])
def test_data_without_variance_is_named_as_that(what, value, message, tmp_path):
    with pytest.raises(ExpanderSaeError, match=message):
        FILTERS[what](torch.full((TOKENS, D_IN), value), tmp_path)


def test_little_variance_around_a_large_mean_is_variance():
    x = 100.0 + 1e-4 * activations()
    assert input_statistics(x).variance > 0


def record_of(value, **given):
    fields = dict.fromkeys(("fvu", "rel_err", "cosine", "l0", "dead_fraction", "encode_tokens_per_second"), 0.5)
    counts = dict.fromkeys(("d_in", "n_latents", "degree", "k", "learned_values", "decoder_values", "tokens"), 1)
    nothing = ("construction", "mask_seed", "seed", "bytes_on_disk", "model_id", "model_revision", "layer")
    return EvaluationRecord(
        name="a", kind="dense", signed=False, split="heldout", keep_special_tokens=False, outlier_medians=None,
        outlier_tokens=0, explained_variance=value, ce_recovered_zero=value, ce_recovered_mean=value,
        **fields, **counts, **dict.fromkeys(nothing), **given,
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["explained_variance", "ce_recovered"])
@pytest.mark.parametrize(("dense", "compressed"), [(math.nan, 0.5), (0.9, math.nan), (0.0, 0.5), (-0.1, -0.2)])
def test_a_share_of_nothing_ends_the_search_with_an_error(metric, dense, compressed):
    target = Target(0.9, metric)
    with pytest.raises(ExpanderSaeError, match="above 0, to keep a share of"):
        smallest_degree(lambda _: target.kept(record_of(dense), record_of(compressed)), 0.9, 64)


def test_nothing_is_resampled_from_a_residual_of_zeros():
    history = FiringHistory(96)
    history.firings[:48] = 100
    residual = torch.zeros(16, D_IN)
    assert resample(sae(), residual, history, 5, torch.Generator().manual_seed(0)) == 0


@pytest.mark.parametrize(
    ("block", "message"), [(0, "of the language model where it is spliced"), (2, "NaN in the clean run")]
)
def test_a_language_model_that_gives_nan_is_an_error(block, message, tmp_path):
    lm = load_language_model(make_tiny_model(tmp_path / "model"), dtype="float32")
    store = harvest_in_memory(lm)
    with torch.no_grad():
        next(decoder_blocks(lm.model)[block].parameters())[0] = math.nan
    with pytest.raises(ExpanderSaeError, match=message):
        evaluate({"a": sae(d_in=store.d_in)}, store, language_model=lm, progress=False)
