"""Training step of overcomplete: its `train_sae` (or `train_sae_amp`) over one batch, silent, on a `TopKSAE`.

AuxK: none, the criterion is the squared error. "tied" is its `sae.tied()`: half the parameters to update. Adam, since
the library leaves the optimiser to its user.
"""

import torch
from common import Job, Step, job, package_without_init, run
from torch import Tensor

package_without_init("overcomplete")  # its top level imports vision models
from overcomplete.sae import TopKSAE, train_sae  # noqa: E402
from overcomplete.sae.train import train_sae_amp  # noqa: E402

SETTINGS = ["float32", "bf16 autocast", "float32 tied", "bf16 autocast tied"]


def squared_error(x: Tensor, x_hat: Tensor, pre_codes: Tensor, codes: Tensor, dictionary: Tensor) -> Tensor:
    return (x - x_hat).square().mean()


def make(setting: str, wanted: Job, x: Tensor) -> tuple[Step, torch.nn.Module]:
    sae = TopKSAE(wanted.d_in, nb_concepts=wanted.n_latents, top_k=wanted.k, device="cpu")
    if "tied" in setting:
        sae = sae.tied()
    optimizer = torch.optim.Adam(sae.parameters(), lr=5e-4)
    train = train_sae_amp if "autocast" in setting else train_sae

    def step(number: int, batch: Tensor) -> None:
        train(sae, [batch], squared_error, optimizer, nb_epochs=1, monitoring=0, device="cpu")

    return step, sae


if __name__ == "__main__":
    run(job(SETTINGS), "overcomplete", "overcomplete", make)
