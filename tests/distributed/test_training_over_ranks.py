"""Training over ranks: the numbers of one process, up to the order in which floats are summed.

Sums of at most four parts differ in the last bits, and Adam's steps of 1e-2 carry that on: after some dozens of steps
values differ by less than TOLERANCE, and supports not at all.
"""

import os
import signal
from dataclasses import replace

import pytest
import torch
from processes import in_ranks

from expander_sae.distributed import ALONE
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae, IrregularSae, load_sae
from expander_sae.training import (
    PRESETS,
    Coherence,
    Resample,
    TrainConfig,
    Watch,
    train,
    with_own_encoder,
)
from expander_sae.training.checkpointing import CHECKPOINT
from expander_sae.training.memory import MemoryBatches

TOLERANCE = 2e-5
D_IN, N_LATENTS, K, BATCH = 48, 160, 6, 64


def activations(tokens=2500):
    generator = torch.Generator().manual_seed(0)
    codes = torch.relu(torch.randn(tokens, 40, generator=generator) - 1)
    return codes @ torch.randn(40, D_IN, generator=generator)


def made(preset):
    options = {"d_in": D_IN, "n_latents": N_LATENTS, "k": K, "seed": 0, "signed": preset.signed}
    options |= {"latent_bias": preset.latent_bias, "reading": preset.reading.sized(K, N_LATENTS)}
    if preset.irregular:
        return IrregularSae.averaging(5, **options, most=3)
    return ExpanderSae(**options, degree=5)


class Interrupting(MemoryBatches):
    """Batches; one process gets a signal in the middle of a step."""

    def __init__(self, x, at, number=signal.SIGINT):
        super().__init__(x, BATCH, 0)
        self.left, self.number = at, number

    def __next__(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return super().__next__()


PASSES = {
    # Rare latents are dead soon, so that they are revived; degrees fall, entries go unevenly.
    "meaning": replace(PRESETS["meaning"].training, tokens=30 * BATCH, batch_size=BATCH, dead_after_tokens=300),
    "fidelity": replace(
        PRESETS["fidelity"].training, tokens=30 * BATCH, batch_size=BATCH, dead_after_tokens=300, coherence=Coherence()
    ),
    "paper": replace(
        PRESETS["paper"].training, tokens=30 * BATCH, batch_size=BATCH, learning_rate=1e-2, resample=Resample(12, 8)
    ),
}


def trained(ranks, folder, name, interrupted=None, accumulate=1, config=None):
    """One pass; what it ended with, or that it was interrupted."""
    extra = {"a": lambda sae, x, codes: 0.1 * codes.values.square().mean()} if name == "fidelity" else None
    source = MemoryBatches(activations(), BATCH, 0)
    if interrupted is not None and ranks.rank == ranks.size - 1:
        source = Interrupting(activations(), interrupted)
    said = []
    try:
        record = train(
            {"a": made(PRESETS[name])}, source, config or PASSES[name], folder=folder, progress=False, ranks=ranks,
            accumulate=accumulate, extra_losses=extra, say=said.append,
        )["a"]  # fmt: skip
    except KeyboardInterrupt:
        return "interrupted"
    return {"fvu": record.final_fvu, "dead": record.final_dead_fraction, "steps": record.steps, "said": said}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each pass by one process."""
    folder = tmp_path_factory.mktemp("alone")
    return {name: (trained(ALONE, folder / name, name), load_sae(folder / name / "a")) for name in PASSES}


def compare(alone, folder, found):
    record, sae = alone
    other = load_sae(folder / "a")
    assert found["steps"] == record["steps"]
    assert found["fvu"] == pytest.approx(record["fvu"], abs=1e-5)
    assert found["dead"] == record["dead"]
    assert torch.equal(other.rows, sae.rows)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(dict(other.named_parameters())[name], parameter, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "size"), [("meaning", 2), ("meaning", 4), ("fidelity", 4), ("paper", 2)])
def test_ranks_learn_what_one_process_learns(alone, tmp_path, name, size):
    found = in_ranks(size, trained, tmp_path, name)
    for one in found:
        compare(alone[name], tmp_path, one)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".training.lock", "a", "metrics.jsonl", "training.json"]
    assert f"{size} ranks summed" in found[0]["said"][0]


@pytest.mark.parametrize("name", PASSES)
def test_pieces_of_a_batch_add_up(alone, tmp_path, name):
    compare(alone[name], tmp_path, trained(ALONE, tmp_path, name, accumulate=3))


def test_a_step_sends_the_dictionary_s_values_and_little_else(tmp_path):
    config = replace(PASSES["fidelity"], move_supports=None, coherence=None, revive=None)
    said = in_ranks(2, trained, tmp_path, "fidelity", None, 1, config)[0]["said"][0]
    megabytes = float(said.split("summed ")[1].split(" MB")[0])
    values = N_LATENTS * 5 + D_IN
    # beside the gradients: a byte a latent for who fired, the loss, the fvu, whether to stop
    assert megabytes == pytest.approx((4 * values + N_LATENTS + 8 + 1) / 1e6, abs=0.001)
    assert f"{4 * D_IN * (N_LATENTS + 1) / 1e6:,.3f} MB" in said


@pytest.mark.parametrize(("name", "before", "after"), [("fidelity", 2, 3), ("meaning", 3, 1)])
def test_an_interrupted_pass_goes_on_with_any_number_of_ranks(alone, tmp_path, name, before, after):
    """17 steps in, between two moves and in the middle of the fall of degrees; one rank alone gets the signal."""
    assert set(in_ranks(before, trained, tmp_path, name, 17)) == {"interrupted"}
    assert torch.load(tmp_path / CHECKPOINT, weights_only=True)["step"] == 17
    for found in in_ranks(after, trained, tmp_path, name):
        compare(alone[name], tmp_path, found)
    again = in_ranks(2, trained, tmp_path, name)
    assert "finished" in again[0]["said"][0]


def small_batches(ranks, folder):
    config = replace(PASSES["fidelity"], batch_size=3, tokens=60, move_supports=None, coherence=None)
    sae = made(PRESETS["fidelity"])
    train({"a": sae}, MemoryBatches(activations(), 3, 0), config, folder=folder, progress=False, ranks=ranks)
    return sae.values.detach().numpy()


def test_a_rank_may_have_no_token(tmp_path):
    one = torch.from_numpy(small_batches(ALONE, tmp_path / "one"))
    for values in in_ranks(4, small_batches, tmp_path / "four"):
        torch.testing.assert_close(torch.from_numpy(values), one, rtol=0, atol=TOLERANCE)


def amortised(ranks, folder):
    sae = with_own_encoder(ExpanderSae(d_in=D_IN, n_latents=N_LATENTS, degree=5, k=K, seed=0))
    config = TrainConfig(tokens=30 * BATCH, batch_size=BATCH, amortise=True, move_supports=None, revive=None)
    record = train(
        {"a": sae}, MemoryBatches(activations(), BATCH, 0), config, folder=folder, progress=False, ranks=ranks
    )
    return record["a"].final_fvu, sae.encoder.detach().numpy()


def test_an_encoder_is_taught_by_several_ranks(tmp_path):
    fvu, encoder = amortised(ALONE, tmp_path / "one")
    for other_fvu, other in in_ranks(2, amortised, tmp_path / "two"):
        assert other_fvu == pytest.approx(fvu, abs=1e-5)
        torch.testing.assert_close(torch.from_numpy(other), torch.from_numpy(encoder), rtol=0, atol=TOLERANCE)


def of_different_passes(ranks, folder):
    config = replace(PASSES["fidelity"], seed=ranks.rank)
    with pytest.raises(ExpanderSaeError, match="same settings, SAEs and activations on every rank"):
        trained(ranks, folder, "fidelity", config=config)
    return True


def test_ranks_of_different_passes_are_refused(tmp_path):
    assert in_ranks(2, of_different_passes, tmp_path) == [True, True]


def drifting(ranks, folder):
    sae = made(PRESETS["fidelity"])
    if ranks.rank:

        def drift(parameter):
            parameter.data.add_(1e-3)

        sae.b_dec.register_post_accumulate_grad_hook(drift)
    config = replace(PASSES["fidelity"], coherence=None, watch=Watch(checkpoint_every=1))
    with pytest.raises(ExpanderSaeError, match="same numbers in 'a' at step 1 on every rank"):
        train({"a": sae}, MemoryBatches(activations(), BATCH, 0), config, folder=folder, progress=False, ranks=ranks)
    return sorted(path.name for path in folder.iterdir())


def test_copies_that_drift_apart_are_found_and_not_saved(tmp_path):
    assert "a" not in in_ranks(2, drifting, tmp_path)[0]


@pytest.mark.parametrize("accumulate", [0, -1])
def test_impossible_pieces_are_refused(tmp_path, accumulate):
    with pytest.raises(ExpanderSaeError, match="accumulate >= 1"):
        trained(ALONE, tmp_path, "fidelity", accumulate=accumulate)
