# %% [markdown]
# # Quickstart
#
# Load an SAE, read activations with it, see what is gained by reading better. The SAE is one that `make demo` trains
# on a real language model; one of your own, or [one from the hub](guides/hub.md), loads the same way.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from expander_sae import ActivationStore, load_sae
from expander_sae.pursuit import OMP, Encoder, Refit, Stages

DEMO = Path("demo-out")  # where `make demo` wrote
TOKENS = 2_000

# %% [markdown]
# ## Load
#
# An SAE is a folder of two files. Seven non-zeros a column make a dictionary of 4,608 latents a file of 0.2 MB; a
# dense one has 10.6.

# %%
sae = load_sae(DEMO / "frontier" / "seed0" / "expander-d7")
size = sum(file.stat().st_size for file in sae.folder.iterdir())
print(f"{sae.n_latents:,} latents of a {sae.d_in}-wide model, k = {sae.k}: {size / 1e6:.2f} MB")

# %% [markdown]
# ## Encode
#
# Activations are rows. A code is k indices and k values a token, by falling value.

# %%
store = ActivationStore.open(DEMO / "activations")
x = store.sample("heldout", TOKENS, seed=0)
codes = sae.encode(x)
print(codes.indices.shape, codes.indices[0, :5].tolist(), [round(value, 2) for value in codes.values[0, :5].tolist()])

# %% [markdown]
# The five latents that explain the first token most, and what each adds. `decode` puts a code together again.

# %%
x_hat = sae.decode(codes)


@torch.no_grad()
def fvu(x_hat):
    """Fraction of variance unexplained."""
    return float((x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


print(f"left unexplained: {fvu(x_hat):.3f}")

# %% [markdown]
# ## Read better
#
# The same dictionary can be *read* in several ways. One pass of the encoder says what is there. A pursuit picks some
# columns, fits them, looks at what is left, and picks again: more stages, less left over. No value is learned for
# this.

# %%
stages = [1, 2, 3, 4, 6, 8, 12, 16]
by_stages = [fvu(sae.decode(sae.encode(x, reading=Stages(n)))) for n in stages]
others = {str(way): fvu(sae.decode(sae.encode(x, reading=way))) for way in (Encoder(), Refit(), OMP())}

figure, axes = plt.subplots(figsize=(6.5, 3.6))
axes.plot(stages, by_stages, "o-", color="#00796b", label="stages of pursuit")
for (name, left), style in zip(others.items(), (":", "-.", "--"), strict=True):
    axes.axhline(left, linestyle=style, color="#777777", label=name)
axes.set(
    xlabel="stages",
    ylabel="variance left unexplained",
    ylim=(0, None),
    title="One dictionary, read in more or fewer stages",
)
axes.legend()
figure.tight_layout()

# %% [markdown]
# Which to take: [which to pick when](concepts/which-to-pick-when.md). Next: [train your
# own](tutorials/train-your-own.py).
