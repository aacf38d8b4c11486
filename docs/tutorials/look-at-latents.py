# %% [markdown]
# # Look at latents
#
# `expander-sae features` reads a text once and writes everything that is shown of latents into one SQLite file;
# `expander-sae browse` shows it in the web browser. This page reads the same file from Python.

# %%
from pathlib import Path

import matplotlib.pyplot as plt

from expander_sae.latents import LatentStore

DEMO = Path("demo-out")  # where `make demo` wrote

# %%
store = LatentStore.open(DEMO / "latents.db")
for view in store.views:
    print(f"{view.name}: {view.n_latents:,} latents on {view.tokens:,} tokens, {view.dead} of them silent")

# %% [markdown]
# ## Which one?
#
# `specific` says how far the tokens of a latent are from those of the text, in bits. Of latents that fire some fifty
# times or more, the most specific ones are worth a look. `store.search("river")` finds those of a word.

# %%
summaries = [one for one in store.summaries(range(store.view().n_latents)) if one.firings >= 50]
best = sorted(summaries, key=lambda one: -one.specific)[:8]
for one in best:
    print(
        f"{one.index:5} fires {one.firings:4} times, {one.specific:4.1f} bits:",
        " ".join(repr(token) for token in one.top_tokens[:5]),
    )

# %% [markdown]
# ## Its contexts
#
# Where it fires most, one place of a block at most. The darker, the stronger.

# %%
latent = store.latent(best[0].index)
contexts = latent.contexts[:6]
highest = max(context.activation for context in contexts)

figure, axes = plt.subplots(figsize=(10, 0.42 * len(contexts) + 0.7))
axes.set(xlim=(0, 100), ylim=(len(contexts), -0.6), title=f"Latent {latent.index}: where it fires most")
axes.axis("off")
for line, context in enumerate(contexts):
    shown = slice(max(0, context.peak - 9), context.peak + 7)
    place = 0.0
    for token, value in zip(context.tokens[shown], context.values[shown], strict=True):
        text = token.replace("\n", "↵").replace("$", r"\$")
        strength = max(0.0, value) / highest
        box = {"facecolor": (1, 1 - 0.55 * strength, 1 - 0.8 * strength), "edgecolor": "none", "pad": 1.5}
        axes.text(place, line, text, family="monospace", fontsize=9, bbox=box, va="center")
        place += 1.05 * len(text) + 0.3

# %% [markdown]
# ## How strongly, and with whom
#
# A latent that means one thing fires either clearly or not at all. `nearest` are latents with similar columns,
# `together` those that fire on the same tokens.

# %%
figure, axes = plt.subplots(figsize=(6, 2.6))
centres = (latent.edges[1:] + latent.edges[:-1]) / 2
axes.bar(centres, latent.histogram, width=latent.edges[1] - latent.edges[0], color="#00796b")
axes.set(xlabel="activation", ylabel="firings", title=f"Latent {latent.index}: {latent.firings} firings")
figure.tight_layout()
print("nearest: ", [(one.latent, round(one.value, 2)) for one in latent.nearest[:3]])
print("together:", [(one.latent, round(one.value, 2)) for one in latent.together[:3]])

# %% [markdown]
# In a notebook of your own `latent` alone shows itself. The whole file in a web browser: [the
# browser](../guides/browser.md); names for latents: [explanations](../guides/explain.md).
