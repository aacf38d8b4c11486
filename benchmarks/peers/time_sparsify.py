"""Training step of sparsify (eai-sparsify): `SparseCoder` and an optimiser, as the loop of `Trainer.fit` drives them.

`Trainer` harvests from a language model in the same loop, so its body is repeated here for one SAE, one microbatch,
loss "fvu", in its order. AuxK: off, which is its default. "signum" is its default optimiser. Its own autocast is for
CUDA only, so "bf16 autocast" puts torch's around the forward pass.
"""

import contextlib
import os
import sys

import torch
from common import Job, Step, bfloat16_autocast, job, run
from torch import Tensor

os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # its Triton decoder needs a GPU
with contextlib.redirect_stdout(sys.stderr):  # it prints which decoder it took
    from sparsify import SparseCoder, SparseCoderConfig
from schedulefree import ScheduleFreeWrapper
from sparsify.sign_sgd import SignSGD
from transformers import get_linear_schedule_with_warmup

SETTINGS = ["float32 signum", "bf16 autocast signum", "float32 Adam", "bf16 autocast Adam"]


def make(setting: str, wanted: Job, x: Tensor) -> tuple[Step, torch.nn.Module]:
    torch.set_float32_matmul_precision("high")  # the first line of Trainer.fit
    config = SparseCoderConfig(num_latents=wanted.n_latents, k=wanted.k)
    sae = SparseCoder(wanted.d_in, config, device="cpu", dtype=torch.float32)
    schedulers = []
    if "signum" in setting:
        rate = 5e-3 / (sae.num_latents / 2**14) ** 0.5
        optimizer = ScheduleFreeWrapper(SignSGD(sae.parameters(), lr=rate), momentum=0.95)
        optimizer.train()
    else:
        rate = 2e-4 / (sae.num_latents / 2**14) ** 0.5
        optimizer = torch.optim.Adam(sae.parameters(), lr=rate)
        schedulers.append(get_linear_schedule_with_warmup(optimizer, 1000, 10**6))
    tokens_since_fired = torch.zeros(sae.num_latents, dtype=torch.long)
    did_fire = torch.zeros(sae.num_latents, dtype=torch.bool)

    def step(number: int, batch: Tensor) -> None:
        if number == 0:
            sae.b_dec.data = batch.mean(0)
        sae.set_decoder_norm_to_unit_norm()
        variance = (batch - batch.mean(0)).pow(2).sum()
        with bfloat16_autocast("autocast" in setting):
            out = sae(x=batch, y=batch, dead_mask=None, total_variance=variance)
        did_fire[out.latent_indices.flatten()] = True
        float(out.fvu.detach())
        (out.fvu + 0.0 * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        for scheduler in schedulers:
            scheduler.step()
        with torch.no_grad():
            tokens_since_fired.add_(len(batch))
            tokens_since_fired[did_fire] = 0
            did_fire.zero_()

    return step, sae


if __name__ == "__main__":
    run(job(SETTINGS), "sparsify", "eai-sparsify", make)
