"""SAEs that are made out of something instead of trained from scratch: principal directions, a pruned dense SAE."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from expander_sae.activations import ActivationStore
from expander_sae.graphs import mask_from_rows
from expander_sae.pursuit import Encoder, Reading, Stages
from expander_sae.records import ExpanderSaeError, TrainingRecord
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae
from expander_sae.saes.init import check_variance, norm_limit, token_norms
from expander_sae.training import TrainConfig

from .variants import Variant


def principal_saes(
    variants: Sequence[Variant],
    store: ActivationStore,
    config: TrainConfig,
    folder: Path,
    *,
    keep_special_tokens: bool,
    train_tokens: int | None,
) -> dict[str, TrainingRecord]:
    """Save the leading principal directions of the training tokens as SAEs, and say how that went.

    A dictionary W [d_in, r] with orthonormal columns and b_dec the mean. The family `pca` uses every direction:
    x_hat = b_dec + W W^T (x - b_dec). The family `pca-topk` keeps the k largest |w_j^T (x - b_dec)| of each token, for
    orthonormal columns the best choice of k (one stage of signed block OMP). Both learn r d_in + d_in numbers.

    Args:
        variants: of the family `pca` or `pca-topk`, one seed.
        store: the training tokens' mean and covariance are taken in float64, tokens of giant norm left out as in
            training.
        config: `inputs` and `seed` are used.
        folder: gets a folder for each SAE.
        keep_special_tokens: take first positions and special tokens too.
        train_tokens: the first so many tokens only.
    """
    started = time.perf_counter()
    mean, values, directions, tokens = _principal(store, config, keep_special_tokens, train_tokens)
    seconds = time.perf_counter() - started
    records = {}
    for variant in variants:
        all_of_them = variant.family == "pca"
        sae = DenseTopKSae(
            d_in=store.d_in, n_latents=variant.n_latents, k=variant.k, seed=variant.seed, signed=True,
            reading=Encoder() if all_of_them else Stages(1),
        )  # fmt: skip
        with torch.no_grad():
            sae.columns.raw.copy_(directions[: variant.n_latents])
            sae.b_dec.copy_(mean)
        sae.metadata = {"made": f"principal directions of {tokens} training tokens"}
        sae.save(folder / variant.name)
        left = float(values[variant.n_latents :].sum() / values.sum()) if all_of_them else float("nan")
        records[variant.name] = TrainingRecord(
            name=variant.name,
            steps=0,
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=tokens / seconds if seconds else float("nan"),
            final_loss=left,
            final_fvu=left,
            final_dead_fraction=0.0,
            config=config.to_dict(),
        )
    return records


def _principal(
    store: ActivationStore, config: TrainConfig, keep_special_tokens: bool, train_tokens: int | None
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Mean [d_in], variances [d_in] falling, directions [d_in, d_in] (one a row), and how many tokens they are of."""
    largest = float("inf")
    if config.inputs.outlier_medians is not None:
        sample = store.sample("train", config.inputs.statistics_tokens, config.seed)
        largest = norm_limit(token_norms(sample, "activations"), config.inputs.outlier_medians)
    left = train_tokens
    tokens = seen = 0
    shift: Tensor | None = None
    total = torch.zeros(store.d_in, dtype=torch.float64, device="cpu")
    products = torch.zeros(store.d_in, store.d_in, dtype=torch.float64, device="cpu")
    for block in store.blocks("train", keep_special_tokens=keep_special_tokens):
        block = block if left is None else block[:left]
        left = None if left is None else left - len(block)
        x = block.double()
        norms = token_norms(x, "training activations", seen)
        seen += len(x)
        x = x[norms <= largest]
        if len(x) == 0:
            continue
        # Around a point near the mean: most of the power is in the mean, and the difference would cancel.
        shift = x.mean(0) if shift is None else shift
        x = x - shift
        total += x.sum(0)
        products += x.T @ x
        tokens += len(x)
    if shift is None:
        raise ExpanderSaeError("expected training tokens to take principal directions of; got none")
    mean = total / tokens
    covariance = products / tokens - torch.outer(mean, mean)
    variance = float(covariance.diagonal().sum())
    check_variance(variance, variance + float((shift + mean).square().sum()), "training activations")
    values, vectors = torch.linalg.eigh(covariance)
    return (shift + mean).float(), values.flip(0).clamp_min(0), vectors.T.flip(0).float().contiguous(), tokens


def pruned_sae(variant: Variant, dense_folder: Path, reading: Reading) -> ExpanderSae:
    """The `degree` largest entries of every column of a trained dense tied SAE, on rows of their own.

    Values and biases are the dense SAE's; columns are scaled back to unit length. Retuning is the caller's.

    Raises:
        ExpanderSaeError: the dense SAE is not there (it diverged, say), or has another size.
    """
    assert variant.degree is not None
    if not (dense_folder / "config.json").is_file():
        raise ExpanderSaeError(
            f"expected the full dense SAE in {dense_folder} to prune {variant.name} out of; got none. Did it diverge?"
        )
    dense = load_sae(dense_folder)
    if not isinstance(dense, DenseTopKSae) or dense.encoder is not None or dense.n_latents != variant.n_latents:
        raise ExpanderSaeError(
            f"expected a tied dense SAE of {variant.n_latents} latents in {dense_folder}; got a {dense.kind} one of "
            f"{dense.n_latents}"
        )
    columns = dense.values.detach()
    rows = columns.abs().topk(variant.degree, dim=1).indices.sort(dim=1).values
    sae = ExpanderSae(
        d_in=dense.d_in, n_latents=dense.n_latents, degree=variant.degree, k=variant.k, seed=variant.seed,
        signed=dense.signed, latent_bias=dense.b_enc is not None, reading=reading.fitted(variant.k, dense.n_latents),
        mask=mask_from_rows(rows.numpy(), d_in=dense.d_in),
    )  # fmt: skip
    with torch.no_grad():
        sae.columns.raw.copy_(columns.gather(1, rows))
        sae.b_dec.copy_(dense.b_dec)
        if sae.b_enc is not None and dense.b_enc is not None:
            sae.b_enc.copy_(dense.b_enc)
    return sae
