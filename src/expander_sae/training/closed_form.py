"""SAEs that are made out of something instead of trained from scratch: principal directions, a pruned dense SAE."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from expander_sae.activations import ActivationStore
from expander_sae.graphs import mask_from_rows
from expander_sae.pursuit import Encoder, Reading, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae
from expander_sae.saes.init import check_variance, token_norms

from .batches import largest_norm
from .config import TrainConfig


class Principal(NamedTuple):
    """The principal directions of training tokens."""

    mean: Tensor
    """[d_in]."""
    variances: Tensor
    """Along each direction, falling, [d_in]."""
    directions: Tensor
    """Orthonormal, one a row, [d_in, d_in]."""
    tokens: int

    def beyond(self, directions: int) -> float:
        """The share of the variance that the first so many directions leave."""
        return float(self.variances[directions:].sum() / self.variances.sum())

    def sae(self, n_latents: int, k: int, seed: int) -> DenseTopKSae:
        """The first `n_latents` directions as an SAE of n_latents d_in + d_in learned numbers.

        A dictionary W [d_in, n_latents] with orthonormal columns and b_dec the mean. With k = n_latents every direction
        is used: x_hat = b_dec + W W^T (x - b_dec). Otherwise the k largest |w_j^T (x - b_dec)| of each token are, for
        orthonormal columns the best choice of k (one stage of signed block OMP).
        """
        reading = Encoder() if k == n_latents else Stages(1)
        sae = DenseTopKSae(
            d_in=len(self.mean), n_latents=n_latents, k=k, seed=seed, signed=True, reading=reading
        )  # fmt: skip
        with torch.no_grad():
            sae.columns.raw.copy_(self.directions[:n_latents])
            sae.b_dec.copy_(self.mean)
        sae.metadata = {"made": f"principal directions of {self.tokens} training tokens"}
        return sae


def principal_directions(
    store: ActivationStore, config: TrainConfig, *, keep_special_tokens: bool = False, train_tokens: int | None = None
) -> Principal:
    """The principal directions of a store's training tokens, in float64, tokens of giant norm left out as in training.

    Args:
        store: its "train" split is read once.
        config: `inputs` and `seed` are used.
        keep_special_tokens: take first positions and special tokens too.
        train_tokens: the first so many tokens only.

    Raises:
        ExpanderSaeError: there are no tokens, one is not finite, or all are equal.
    """
    sample = store.sample("train", config.inputs.statistics_tokens, config.seed)
    largest = largest_norm(sample, config)
    tokens = seen = 0
    shift: Tensor | None = None
    total = torch.zeros(store.d_in, dtype=torch.float64, device="cpu")
    products = torch.zeros(store.d_in, store.d_in, dtype=torch.float64, device="cpu")
    for block in store.blocks("train", keep_special_tokens=keep_special_tokens, max_tokens=train_tokens):
        x = block.double()
        norms = token_norms(x, "training activations", seen)
        seen += len(x)
        x = x if largest is None else x[norms <= largest]
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
    directions = vectors.T.flip(0).float().contiguous()
    return Principal((shift + mean).float(), values.flip(0).clamp_min(0), directions, tokens)


def pruned_sae(dense: DenseTopKSae, degree: int, *, seed: int, reading: Reading) -> ExpanderSae:
    """The `degree` largest entries of every column of a trained dense tied SAE, on rows of their own.

    Values and biases are the dense SAE's; columns are scaled back to unit length. The reading is as near as
    the sizes allow. Retuning is the caller's.

    Raises:
        ExpanderSaeError: the dense SAE has an encoder of its own.
    """
    if dense.encoder is not None:
        raise ExpanderSaeError("expected a tied dense SAE to prune; got one with an encoder of its own")
    columns = dense.values.detach()
    rows = columns.abs().topk(degree, dim=1).indices.sort(dim=1).values
    sae = ExpanderSae(
        d_in=dense.d_in, n_latents=dense.n_latents, degree=degree, k=dense.k, seed=seed, signed=dense.signed,
        latent_bias=dense.b_enc is not None, reading=reading.fitted(dense.k, dense.n_latents),
        mask=mask_from_rows(rows.numpy(), d_in=dense.d_in),
    )  # fmt: skip
    with torch.no_grad():
        sae.columns.raw.copy_(columns.gather(1, rows))
        sae.b_dec.copy_(dense.b_dec)
        if sae.b_enc is not None and dense.b_enc is not None:
            sae.b_enc.copy_(dense.b_enc)
    return sae
