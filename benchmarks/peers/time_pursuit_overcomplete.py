"""Encoding with overcomplete's OMPSAE: its OMP solves non-negative least squares on the support in every step."""

import torch
from common import Job, Step, job, package_without_init, run
from torch import Tensor

package_without_init("overcomplete")  # its top level imports vision models
from overcomplete.sae.omp_sae import OMPSAE  # noqa: E402


def make(setting: str, wanted: Job, x: Tensor) -> tuple[Step, torch.nn.Module]:
    sae = OMPSAE(wanted.d_in, nb_concepts=wanted.n_latents, k=wanted.k)

    @torch.no_grad()
    def step(number: int, batch: Tensor) -> None:
        sae.encode(batch)

    return step, sae


if __name__ == "__main__":
    run(job(["float32"]), "overcomplete, OMP", "overcomplete", make)
