"""Training step of SAELens: `SAETrainer.step` on a `TopKTrainingSAE`.

AuxK: coefficient 0, and nothing is dead within its window of 1,000 steps. No logging, no activation scaling.
"""

import torch
from common import Job, Step, job, run
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

# "sparse" is use_sparse_activations, meant for float32 without autocast. On CPU its backward pass fails together with
# rescale_acts_by_decoder_norm (torch 2.13: no view of a sparse tensor), so there that option is off, which saves work.
SETTINGS = ["float32", "bf16 autocast", "float32 sparse"]
# As its runner compiles with compile_sae=True; a minute of compilation, so only when asked for.
COMPILED = ("float32 compiled", "bf16 autocast compiled")


def make(setting: str, wanted: Job, x: Tensor) -> tuple[Step, torch.nn.Module]:
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=wanted.d_in,
            d_sae=wanted.n_latents,
            k=wanted.k,
            use_sparse_activations="sparse" in setting,
            rescale_acts_by_decoder_norm="sparse" not in setting,
            aux_loss_coefficient=0.0,
        )
    )
    if "compiled" in setting:
        sae.training_forward_pass = torch.compile(sae.training_forward_pass)
    config = SAETrainerConfig(
        total_training_samples=10**9,
        train_batch_size_samples=wanted.batches[0],
        lr_end=3e-5,  # must be set; unused by the constant schedule
        autocast="autocast" in setting,
    )
    trainer = SAETrainer(config, sae, data_provider=iter(()))

    def step(number: int, batch: Tensor) -> None:
        trainer.step(batch)
        trainer.n_training_steps += 1

    return step, sae


if __name__ == "__main__":
    run(job(SETTINGS, COMPILED), "sae-lens", "sae-lens", make)
