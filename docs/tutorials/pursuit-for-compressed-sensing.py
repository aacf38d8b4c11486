# %% [markdown]
# # Pursuit for compressed sensing
#
# Nothing here needs a language model. A sparse dictionary over an expander graph is also a measurement matrix: `d_in`
# measurements of a signal with few non-zeros, and pursuit to find them again. This page plants codes and counts how
# often each method finds all of them.

# %%
import time

import matplotlib.pyplot as plt
import torch

from expander_sae import make_mask
from expander_sae.ops import Codes
from expander_sae.pursuit import OMP, Dictionary, Encoder, MatchingPursuit, Stages

D_IN, N_LATENTS, DEGREE, TRIALS = 256, 1_024, 8, 200

# %% [markdown]
# ## The matrix
#
# Each of 1,024 columns touches 8 of 256 rows. `balanced` masks use every row equally often.

# %%
mask = make_mask("balanced", d_in=D_IN, n_latents=N_LATENTS, degree=DEGREE, seed=0)
generator = torch.Generator().manual_seed(0)
values = torch.randn(N_LATENTS, DEGREE, generator=generator)
values /= values.norm(dim=1, keepdim=True)
sensing = Dictionary(torch.from_numpy(mask.rows.copy()), values, d_in=D_IN, signed=True)

figure, axes = plt.subplots(figsize=(9, 2.6))
axes.imshow((sensing.dense()[:300] != 0).T.numpy(), aspect="auto", cmap="Greens", interpolation="nearest")
axes.set(xlabel="column", ylabel="row", title="Where the entries of the first 300 columns are")
figure.tight_layout()

# %% [markdown]
# ## Plant and find
#
# k non-zeros at random places, normal values, no noise.


# %%
def planted(k):
    """Codes [trials, k] and what is measured of them [trials, d_in]."""
    indices = torch.rand(TRIALS, N_LATENTS, generator=generator).topk(k).indices
    codes = Codes(indices, torch.randn(TRIALS, k, generator=generator))
    return indices, sensing.decode(codes)


def found(reading, indices, y):
    """Share of signals whose support is found whole."""
    codes = reading.codes(sensing, y, indices.shape[1])
    return float((codes.indices.sort().values == indices.sort().values).all(1).float().mean())


ways = {
    "one pass": Encoder(),
    "matching pursuit": MatchingPursuit(),
    "4 stages": Stages(4),
    "8 stages, spare columns": Stages(8, spare=None),
    "OMP": OMP(),
}
counts = [8, 16, 24, 32, 40, 48, 64]
signals = {k: planted(k) for k in counts}
shares = {name: [found(way, *signals[k]) for k in counts] for name, way in ways.items()}

figure, axes = plt.subplots(figsize=(7, 3.8))
for name, share in shares.items():
    axes.plot(counts, share, "o-", label=name)
axes.set(xlabel="non-zeros in the signal, of 1,024", ylabel="share found whole", title="256 measurements")
axes.legend()
figure.tight_layout()

# %% [markdown]
# ## Quality against speed
#
# The same at 32 non-zeros, with the time it took (this machine, small batch: rough).

# %%
indices, y = signals[32]
figure, axes = plt.subplots(figsize=(6.5, 3.6))
for name, way in ways.items():
    started = time.perf_counter()
    codes = way.codes(sensing, y, 32)
    speed = TRIALS / (time.perf_counter() - started)
    left = float((y - sensing.decode(codes)).square().sum() / y.square().sum())
    axes.plot(speed, max(left, 1e-6), "o", markersize=9, label=name)
    print(f"{name:24} {left:8.1e} of the energy left")
axes.set(xscale="log", yscale="log", xlabel="signals a second", ylabel="energy left over", title="32 non-zeros")
axes.legend()
figure.tight_layout()

# %% [markdown]
# Where each method stops, with other masks, codes and noise, and what is guaranteed: [what is
# guaranteed](../concepts/what-is-guaranteed.md). All methods: [readings](../concepts/readings.md).
