"""Training step of this package: `Member.step`, as `expander_sae.training.train` calls it, without AuxK.

Nothing is timed unless loss and gradients equal the reference's on a small SAE.
"""

import sys

import torch
from common import Job, Step, job, run
from torch import Tensor

from expander_sae.ops import reconstruction_loss
from expander_sae.pursuit import Encoder
from expander_sae.saes import AbstractSae, DenseTopKSae, ExpanderSae, input_statistics
from expander_sae.training import TrainConfig
from expander_sae.training.member import Member

SETTINGS = {"expander d=7": 7, "dense tied": None}


def check() -> None:
    """Leave with a message if the loss or a gradient differs from the reference."""
    x = torch.randn(67, 96, generator=torch.Generator().manual_seed(0))
    for sae in (
        ExpanderSae(d_in=96, n_latents=1500, degree=7, k=16, reading=Encoder()),
        DenseTopKSae(d_in=96, n_latents=1500, k=16),
    ):
        rows = sae.rows if isinstance(sae, ExpanderSae) else None
        results = []
        for backend in ("reference", "auto"):
            values = sae.values.detach().clone().requires_grad_()
            center = (x.mean(0) * 0.5).requires_grad_()
            loss = reconstruction_loss(x, rows, values, 16, center=center, backend=backend).loss
            loss.backward()
            results.append((loss.detach(), values.grad, center.grad))
        for name, want, got in zip(("loss", "gradient of values", "gradient of center"), *results, strict=True):
            assert want is not None
            assert got is not None
            if not float((want - got).abs().max()) <= 1e-4 * float(want.abs().max()):
                sys.exit(f"nothing timed: {name} of the {sae.kind} SAE differs from the reference")


def make(setting: str, wanted: Job, x: Tensor) -> tuple[Step, torch.nn.Module]:
    sizes = {"d_in": wanted.d_in, "n_latents": wanted.n_latents, "k": wanted.k}
    degree = SETTINGS[setting]
    sae: AbstractSae = (
        DenseTopKSae(**sizes) if degree is None else ExpanderSae(**sizes, degree=degree, reading=Encoder())
    )
    config = TrainConfig(tokens=10**9, batch_size=wanted.batches[0], revive=None)
    member = Member(setting, sae, config, input_statistics(x))

    def step(number: int, batch: Tensor) -> None:
        member.step(number, batch)
        if member.diverged:  # a diverged member does nothing, very fast
            sys.exit(f"nothing timed: {setting} diverged at step {number}")

    return step, sae


if __name__ == "__main__":
    wanted = job(list(SETTINGS))
    check()
    run(wanted, "ours", "expander-sae", make)
