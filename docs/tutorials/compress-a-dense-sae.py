# %% [markdown]
# # Compress a dense SAE
#
# You have a dense SAE, with labels perhaps. `compress` makes it sparse; every latent keeps its number. The command
# line does it with a report: `expander-sae compress DENSE --acts ACTS --degree 16 --out small`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from expander_sae import ActivationStore, load_sae
from expander_sae.compression import Recipe, compress
from expander_sae.pursuit import Encoder

DEMO = Path("demo-out")  # where `make demo` wrote
OUT = Path("build/compressed")
DEGREES = (8, 16, 32, 64)
TOKENS, SAMPLE = 60_000, 8_192

# %%
dense = load_sae(DEMO / "frontier" / "seed0" / "dense")
store = ActivationStore.open(DEMO / "activations")
heldout = store.sample("heldout", 2_000, seed=0)
print(f"{dense.n_latents:,} latents, {dense.learned_values():,} values")


@torch.no_grad()
def fvu(sae):
    """On text that was not trained on."""
    left = heldout - sae.decode(sae.encode(heldout))
    return float(left.square().sum() / (heldout - heldout.mean(0)).square().sum())


# %% [markdown]
# ## Cut
#
# Keep those `degree` rows of each column without which the error would grow most, and nothing else: no training. This
# takes seconds.


# %%
def small(degree, tokens, folder):
    """The dense SAE at some non-zeros a column, after so many tokens of fine-tuning."""
    recipe = Recipe(degree=degree, tokens=tokens, sample_tokens=SAMPLE)
    return compress(dense, store, recipe, folder=OUT / folder, progress=False, overwrite=True)


cut = {degree: small(degree, 0, "cut") for degree in DEGREES}

# %% [markdown]
# ## Cut and fine-tuned
#
# Columns give up their entries while they train.

# %%
tuned = small(16, TOKENS, "tuned")
print(f"degree 16: cut {fvu(cut[16]):.3f}, fine-tuned {fvu(tuned):.3f}, dense {fvu(dense):.3f}")

# %%
figure, axes = plt.subplots(figsize=(6.5, 3.6))
values = [cut[degree].learned_values() for degree in DEGREES]
axes.plot(values, [fvu(cut[degree]) for degree in DEGREES], "o-", color="#777777", label="cut, read by pursuit")
axes.plot(tuned.learned_values(), fvu(tuned), "*", markersize=15, color="#d84315", label="degree 16, fine-tuned")
axes.plot(dense.learned_values(), fvu(dense), "s", color="#00796b", label="the dense SAE, by its encoder")
axes.set(
    xscale="log",
    xlabel="learned values",
    ylabel="variance left unexplained",
    ylim=(0, None),
    title="Smaller by how much, for how much",
)
axes.legend()
figure.tight_layout()

# %% [markdown]
# ## Do latents stay themselves?
#
# The share of a latent's firings that the compressed one has too, each by one pass. After so short a training it is
# not much; `--encoder own` trains for it, and keeps labels ([compressing](../guides/compress.md)).

# %%
both = [sae.encode(heldout, reading=Encoder()) for sae in (dense, tuned)]
fired = [
    torch.zeros(len(heldout), dense.n_latents, dtype=torch.bool).scatter_(1, one.indices, one.values > 0)
    for one in both
]
together = (fired[0] & fired[1]).sum(0)
alive = fired[0].sum(0) >= 5
kept = (together[alive] / fired[0].sum(0)[alive]).numpy()
figure, axes = plt.subplots(figsize=(6, 2.6))
axes.hist(kept, bins=20, range=(0, 1), color="#00796b")
axes.set(xlabel="share of the dense latent's firings that the sparse one has", ylabel="latents")
figure.tight_layout()
print(f"{int(alive.sum()):,} latents that fire five times or more; median {float(torch.tensor(kept).median()):.2f}")
