"""Training step of dictionary_learning: `TopKTrainer.update`.

AuxK: auxk_alpha = 0. Its own autocast is for CUDA only (on CPU `trainSAE` runs float32), so "bf16 autocast" puts
torch's around `update`. The geometric median of its first step falls into the warm-up.
"""

from common import Job, Step, bfloat16_autocast, job, package_without_init, run
from torch import Tensor
from torch.nn import Module

package_without_init("dictionary_learning")  # its top level imports nnsight
from dictionary_learning.trainers.top_k import TopKTrainer  # noqa: E402


def make(setting: str, wanted: Job, x: Tensor) -> tuple[Step, Module]:
    trainer = TopKTrainer(
        steps=10**6,
        activation_dim=wanted.d_in,
        dict_size=wanted.n_latents,
        k=wanted.k,
        layer=0,
        lm_name="none",
        auxk_alpha=0.0,
        device="cpu",
    )

    def step(number: int, batch: Tensor) -> None:
        with bfloat16_autocast("autocast" in setting):
            trainer.update(number, batch)

    return step, trainer.ae


if __name__ == "__main__":
    run(job(["float32", "bf16 autocast"]), "dictionary-learning", "dictionary-learning", make)
