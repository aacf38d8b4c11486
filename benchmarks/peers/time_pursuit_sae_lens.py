"""Encoding with sae-lens's matching pursuit, k iterations, no early stop: the same work for every token."""

import torch
from common import Job, Step, job, run
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from torch import Tensor


def make(setting: str, wanted: Job, x: Tensor) -> tuple[Step, torch.nn.Module]:
    config = MatchingPursuitSAEConfig(
        d_in=wanted.d_in,
        d_sae=wanted.n_latents,
        residual_threshold=0.0,
        max_iterations=wanted.k,
        stop_on_duplicate_support=False,
    )
    sae = MatchingPursuitSAE(config)
    with torch.no_grad():
        sae.W_dec.normal_()
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)

    @torch.no_grad()
    def step(number: int, batch: Tensor) -> None:
        sae.encode(batch)

    return step, sae


if __name__ == "__main__":
    run(job(["float32"]), "sae-lens, matching pursuit", "sae-lens", make)
