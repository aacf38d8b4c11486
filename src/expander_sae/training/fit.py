"""Train one SAE on activations at hand, as `expander-sae train` does."""

import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from expander_sae.records import ExpanderSaeError, whole_number
from expander_sae.records.results import TrainingRecord
from expander_sae.saes import AbstractSae

from .config import TrainConfig
from .loop import BatchSource, train
from .memory import IterableBatches, MemoryBatches, activations_of
from .presets import DEFAULT_PRESET, find_preset

FAR = 10.0
"""A mean that is farther from zero than so many times the spread of the activations is warned of."""


def fit(
    sae: AbstractSae,
    x: Tensor | np.ndarray | BatchSource | Iterable[Any],
    *,
    tokens: int | None = None,
    seed: int | None = None,
    config: TrainConfig | None = None,
    preset: str = DEFAULT_PRESET,
    folder: str | Path | None = None,
    heldout: Tensor | np.ndarray | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainingRecord:
    """Train an SAE in place on activations, entries going where they are needed, and say how it went.

    What the command line's `train` does, by the same settings: on the same batches, the same numbers. Afterwards the
    SAE is in eval mode.

    Args:
        sae: trained where it is (`sae.to("cuda")` first, for a GPU), all of it, in float32; `ExpanderSae(...)` for a
            new one. Its b_dec starts at the mean of the activations; `config=TrainConfig(fine_tune=True)` goes on from
            a trained SAE as it is.
        x: activations [..., d_in] as a tensor or an array, shuffled anew in every epoch; a `DataLoader` or any iterable
            of such batches, in its own order, again and again until there were enough; or what `train` takes. Tokens
            whose norm is above five medians are left out of the loss (`config.inputs.outlier_medians`).
        tokens: activations seen, counting repeats; None: the config's, a million.
        seed: of the order of activations; None: the config's.
        config: the settings, instead of a preset's.
        preset: as the command line's. "meaning": latents that tell concepts; columns start on all rows, whatever the
            mask, and `IrregularSae` keeps the best. "fidelity": the least variance left unexplained.
        folder: gets the SAE (as `folder/sae`), `metrics.jsonl` and the checkpoint by which an interrupted call goes on,
            given the same tensor and the same SAE or one made anew with the same options; None: nothing is kept but the
            SAE in memory.
        heldout: activations [tokens, d_in] that are not trained on, measured along the way.
        overwrite: train anew where the folder holds a finished or another pass.
        progress: show a progress bar.

    Returns:
        The record of the pass: steps, tokens, seconds, the last batch's fvu, dead latents.

    Raises:
        ExpanderSaeError: the activations have another width, are too few or not finite; the SAE diverged; or as in
            `train`.

    Example:
        >>> import torch
        >>> from expander_sae import ExpanderSae, fit
        >>> x = torch.relu(torch.randn(2000, 40) - 1) @ torch.randn(40, 64)  # sparse mixtures of 40 directions
        >>> sae = ExpanderSae(d_in=64, n_latents=256, degree=8, k=8)
        >>> fit(sae, x, tokens=50_000, progress=False).final_fvu < 0.5
        True
    """
    numbers = {
        name: whole_number(name, value) for name, value in (("tokens", tokens), ("seed", seed)) if value is not None
    }
    config = find_preset(preset).training if config is None else config
    if not isinstance(config, TrainConfig):
        raise ExpanderSaeError(f"expected config as a TrainConfig; got {type(config).__name__}")
    config = replace(config, **numbers)
    source = _source(x, config)
    sample = source.sample(4096, seed=0)
    width = sample.shape[1]
    if width != sae.d_in:
        raise ExpanderSaeError(f"expected activations [..., d_in = {sae.d_in}], those of the SAE; got {width}")
    _warn_of_a_distant_mean(sample)
    heldout = None if heldout is None else activations_of(heldout, "held-out activations")
    if folder is not None:
        return _fitted(sae, source, config, Path(folder), heldout, overwrite, progress)
    with tempfile.TemporaryDirectory() as temporary:
        before = sae.folder
        record = _fitted(sae, source, config, Path(temporary), heldout, overwrite, progress)
        sae.folder = before
        return record


def _warn_of_a_distant_mean(sample: Tensor) -> None:
    """Training works in units of the norm: what differs between tokens is lost in it where their mean is far away."""
    mean = sample.mean(0)
    spread = float((sample - mean).square().sum(1).mean().sqrt())
    if float(mean.norm()) > FAR * spread > 0:
        warnings.warn(
            f"the activations' mean is {float(mean.norm()) / spread:.0f} times as far from zero as they are from it: "
            "subtract it before training, or little of what differs between them will be learned",
            stacklevel=3,
        )


def _source(x: Any, config: TrainConfig) -> BatchSource:
    if isinstance(x, Tensor | np.ndarray) or hasattr(x, "to_numpy"):
        return MemoryBatches(activations_of(x).cpu(), config.batch_size, config.seed)
    if hasattr(x, "__next__") and hasattr(x, "sample") and hasattr(x, "load_state_dict"):
        return x
    if isinstance(x, Iterable) and not isinstance(x, str | bytes | dict):
        return IterableBatches(x, config.batch_size, config.inputs.statistics_tokens)
    raise ExpanderSaeError(
        "expected activations as a tensor or an array [..., d_in], or an iterable of such batches; got "
        f"{type(x).__name__}"
    )


def _fitted(
    sae: AbstractSae,
    source: BatchSource,
    config: TrainConfig,
    folder: Path,
    heldout: Tensor | None,
    overwrite: bool,
    progress: bool,
) -> TrainingRecord:
    record = train(
        {"sae": sae}, source, config, folder=folder, heldout=heldout, overwrite=overwrite, progress=progress
    )["sae"]
    if record.diverged:
        raise ExpanderSaeError("the SAE diverged. Lower the learning rate, or look for outliers in the activations.")
    return record
