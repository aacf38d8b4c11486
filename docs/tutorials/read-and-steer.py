# %% [markdown]
# # Read and steer
#
# An SAE inside a running model: read its codes, run the model on its reconstruction, push a latent.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from expander_sae import load_sae
from expander_sae.activations import load_language_model
from expander_sae.interop.hooks import read_codes, splice, steer
from expander_sae.pursuit import Encoder

DEMO = Path("demo-out")  # where `make demo` wrote
MODULE = "model.layers.14"  # whose output the SAE was trained on

# %%
model, tokenizer, *_ = load_language_model(DEMO / "base" / "model")
sae = load_sae(DEMO / "frontier" / "seed0" / "expander-d7").read_by(Encoder())
text = "The Greek gods lived on a mountain. Zeus, the king of the gods, threw"
input_ids = tokenizer(text, return_tensors="pt").input_ids

# %% [markdown]
# ## Read
#
# `read_codes` leaves the model as it is and keeps what the SAE says of every position.

# %%
with torch.no_grad(), read_codes(model, MODULE, sae) as seen:
    plain = model(input_ids).logits[0, -1]
codes = seen[0]
strongest = int(codes.indices[0, -1, 0])
print(codes.indices.shape, "strongest at the last token:", strongest)

# %% [markdown]
# ## Splice
#
# The model runs on the reconstruction. First positions carry giant norms that say nothing of the text; they are left
# alone.

# %%
with torch.no_grad(), splice(model, MODULE, sae, where=lambda x: x.norm(dim=-1) < 500):
    spliced = model(input_ids).logits[0, -1]
logs = [logits.log_softmax(-1) for logits in (plain, spliced)]
kl = float((logs[0].exp() * (logs[0] - logs[1])).sum())
print(f"KL of the next token: {kl:.3f} nats")
for name, log in zip(("plain", "spliced"), logs, strict=True):
    print(name, [tokenizer.decode(token) for token in log.topk(5).indices])

# %% [markdown]
# ## Steer
#
# A multiple of one column is added at every position. Which one? Some latents fire on every token; here
# it is the one that stands out most at the word *gods*, above all other words. The figure shows the next token as it
# is pushed.

# %%
gods = len(tokenizer("The Greek gods").input_ids) - 1
wide = torch.zeros(input_ids.shape[1], sae.n_latents).scatter_(1, codes.indices[0], codes.values[0])
others = torch.cat([wide[1:gods], wide[gods + 1 :]])  # but for the first position
latent = int((wide[gods] - others.amax(0)).argmax())
typical = float(wide[gods, latent])
strengths = [0.0, 0.5, 1.0, 2.0, 3.0, 4.0]
moved = []
for strength in strengths:
    with torch.no_grad(), steer(model, MODULE, sae, {latent: strength * typical}):
        moved.append(model(input_ids).logits[0, -1].softmax(-1))
gained = (moved[-1] - moved[0]).topk(3).indices
lost = (moved[0] - moved[-1]).topk(2).indices

figure, axes = plt.subplots(figsize=(6.5, 3.6))
for token in [*gained.tolist(), *lost.tolist()]:
    axes.plot(strengths, [float(p[token]) for p in moved], "o-", label=repr(tokenizer.decode(token)))
axes.set(xlabel=f"latent {latent} added, in units of its activation", ylabel="probability of the next token")
axes.set_title("One latent, pushed")
axes.legend()
figure.tight_layout()

# %% [markdown]
# Sentences while a latent is pushed, ablation and your own text are in [the browser](../guides/browser.md) too
# (`--model`). Other models and libraries: [hooks and vLLM](../guides/hooks-and-vllm.md).
