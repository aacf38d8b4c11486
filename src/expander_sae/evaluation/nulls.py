"""SAEs that were not trained, or only half: what any number about latents has to be compared with."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expander_sae.graphs import Mask
from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae, IrregularSae
from expander_sae.saes.columns import random_columns
from expander_sae.saes.init import initialise, input_statistics

SAMPLE = 20_000
"""Training activations that are enough for an untrained dictionary's mean, and for principal components."""


def untrained(sae: AbstractSae, sample: Tensor, *, seed: int = 1) -> AbstractSae:
    """A new SAE of the same kind, sizes and reading that was never trained: random columns, and the mean of a sample.

    SAEs of other libraries, whose thresholds mean nothing over random columns, get a dense TopK SAE of as many latents.

    Args:
        sae: whose twin is wanted.
        sample: training activations [tokens, d_in], for its mean and scale.
        seed: of columns and mask.
    """
    sizes: dict[str, Any] = {"d_in": sae.d_in, "n_latents": sae.n_latents, "k": sae.k, "seed": seed}
    if isinstance(sae, IrregularSae):
        new: AbstractSae = IrregularSae(
            **sizes, degree=sae.degree, entries=sae.entries, signed=sae.signed, reading=sae.reading
        )
    elif isinstance(sae, ExpanderSae):
        new = ExpanderSae(**sizes, degree=sae.degree, signed=sae.signed, reading=sae.reading)
    else:
        reading = sae.reading if isinstance(sae, DenseTopKSae) else None
        new = DenseTopKSae(**sizes, signed=sae.signed if reading is not None else False, reading=reading)
    initialise(new, input_statistics(sample.float().cpu()))
    return new.eval()


@torch.no_grad()
def shuffled_rows(sae: ExpanderSae, *, seed: int = 1) -> ExpanderSae:
    """The same SAE with the supports dealt out at random among its columns: values, biases and masks as trained, but
    not which goes with which."""
    copied = _copy(sae)
    order = np.random.default_rng(seed).permutation(sae.n_latents)
    copied.set_mask(Mask(sae.mask.rows[order], d_in=sae.d_in, construction="rows", seed=None))
    return copied


@torch.no_grad()
def redrawn_values(sae: ExpanderSae, *, seed: int = 1) -> ExpanderSae:
    """The same SAE with random values on its supports, encoder included: what the learned rows and biases carry alone.

    Source: the frozen decoders of Korznikov et al., "Sanity Checks for Sparse Autoencoders: Do SAEs Beat Random
    Baselines?", arXiv 2602.14111, with trained supports.
    """
    copied = _copy(sae)
    # An irregular SAE's slots without an entry hold a zero.
    drawn = random_columns(sae.n_latents, sae.degree, seed).raw * (sae.columns.raw != 0)
    copied.columns.raw.copy_(drawn)
    if copied.encoder is not None:
        copied.encoder.copy_(copied.columns())
    return copied


def _copy(sae: ExpanderSae) -> ExpanderSae:
    copied = copy.deepcopy(sae).eval()
    copied.folder = None
    return copied


def untrained_twins(saes: Mapping[str, AbstractSae], sample: Tensor, *, seed: int = 1) -> dict[str, AbstractSae]:
    """The untrained SAEs of several, one for all that are alike in kind, sizes and reading, by names that say which."""
    twins: dict[tuple[Any, ...], AbstractSae] = {}
    for sae in saes.values():
        twin = untrained(sae, sample, seed=seed)
        # An irregular twin starts as a regular one of the same average degree.
        twins.setdefault((twin.kind, twin.n_latents, twin.decoder_values(), str(twin.reading), twin.k), twin)
    named: dict[str, AbstractSae] = {}
    for (kind, n_latents, values, reading, k), twin in twins.items():
        name = f"untrained {kind}, {n_latents:,} latents, {values // n_latents:,} values each, {reading}"
        named[f"{name}, k {k}" if name in named else name] = twin
    return named
