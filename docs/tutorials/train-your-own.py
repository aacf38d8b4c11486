# %% [markdown]
# # Train your own
#
# Activations in, an SAE out. This page takes activations that `make demo` harvested; a tensor of yours `[tokens,
# d_in]` does as well, or `expander-sae harvest` and `expander-sae train` for much of it ([your own
# activations](../guides/your-own-activations.md)).

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from expander_sae import ActivationStore, DenseTopKSae, IrregularSae, fit

DEMO = Path("demo-out")  # where `make demo` wrote
TOKENS, N_LATENTS, STEPS_OF_512 = 20_000, 1_152, 160

# %%
store = ActivationStore.open(DEMO / "activations")
x, heldout = store.sample("train", TOKENS, seed=0), store.sample("heldout", 2_000, seed=0)
print(x.shape)

# %% [markdown]
# ## Train
#
# Degree 16 *on the average*: columns start on all rows, find where their concept is, and give up what they do not
# need. A latent that fires often keeps more rows than one of a rare word.

# %%
torch.manual_seed(0)
sae = IrregularSae.averaging(16, d_in=store.d_in, n_latents=N_LATENTS, k=16)
record = fit(sae, x, tokens=512 * STEPS_OF_512, progress=False)
print(f"fvu of the last batch {record.final_fvu:.3f}, {record.tokens_per_second:,.0f} tokens/s")

# %% [markdown]
# ## Beside a dense SAE of as many values
#
# As many learned values make few dense columns. That is the comparison to look at: equal size, equal tokens.

# %%
few = round(sae.decoder_values() / store.d_in)
dense = DenseTopKSae(d_in=store.d_in, n_latents=few, k=min(16, few))
fit(dense, x, tokens=512 * STEPS_OF_512, progress=False)


@torch.no_grad()
def fvu(model):
    """On text that was not trained on."""
    left = heldout - model.decode(model.encode(heldout))
    return float(left.square().sum() / (heldout - heldout.mean(0)).square().sum())


for name, model in (("sparse", sae), (f"{few} dense latents", dense)):
    print(f"{name}: {fvu(model):.3f} with {model.learned_values():,} values")

# %% [markdown]
# ## What columns look like
#
# Each line below is a latent, each dot a row it kept. Right: how many rows latents kept, against how often they fire.

# %%
degrees = sae.column_degrees().numpy()
codes = sae.encode(heldout)
fires = torch.bincount(codes.indices[codes.values > 0], minlength=N_LATENTS).numpy() / len(heldout)
often = np.argsort(-fires)[:40]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=(3, 2))
for line, latent in enumerate(often):
    values, rows = sae.values[latent].detach().numpy(), sae.rows[latent].numpy()
    kept = values != 0
    height = np.full(kept.sum(), line)
    left.scatter(rows[kept], height, s=6, c=values[kept], cmap="coolwarm", vmin=-0.5, vmax=0.5)
left.set(
    xlabel="row (coordinate of the model)",
    ylabel="latent, by firing rate",
    title="Rows of the 40 latents that fire most",
)
left.invert_yaxis()
right.scatter(fires + 0.5 / len(heldout), degrees, s=5, alpha=0.4, color="#00796b")
right.set(
    xscale="log", xlabel="share of tokens it fires on", ylabel="rows it kept", title="Often is wide, rare is narrow"
)
figure.tight_layout()

# %% [markdown]
# ## Keep it

# %%
sae.save("build/my-sae")
print(sorted(file.name for file in Path("build/my-sae").iterdir()))

# %% [markdown]
# `preset="fidelity"` trains for the least error instead: [which to pick when](../concepts/which-to-pick-when.md).
# What latents fire on: [look at latents](look-at-latents.py).
