"""Tiny random language models with a tiny byte-level BPE tokenizer, made in the test, and text for them."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

FAMILIES = ("llama", "gpt_neox", "qwen2")
OTHER_FAMILIES = ("gpt2", "gemma2")
D_IN = 32
N_BLOCKS = 3
_NOUNS = ["river", "stone", "bird", "captain", "winter", "letter", "garden", "lamp", "number", "map"]
_VERBS = ["holds", "finds", "counts", "breaks", "follows", "paints", "moves", "hears", "builds", "forgets"]
_ADJECTIVES = ["old", "quiet", "heavy", "bright", "narrow", "common", "distant", "green", "careful", "even"]


def make_documents(n_documents: int = 24, sentences: int = 12, seed: int = 0) -> list[str]:
    """Small English-looking documents, no two the same."""
    draw = random.Random(seed)
    documents = []
    for number in range(n_documents):
        lines = [
            f"The {draw.choice(_ADJECTIVES)} {draw.choice(_NOUNS)} {draw.choice(_VERBS)} "
            f"the {draw.choice(_ADJECTIVES)} {draw.choice(_NOUNS)} {draw.randrange(1000)}."
            for _ in range(sentences)
        ]
        documents.append(f"Chapter {number}. " + " ".join(lines))
    return documents


def write_jsonl(path: Path, documents: list[str]) -> Path:
    """One {"text": ...} a line."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return path


def make_tiny_tokenizer(*, adds_bos: bool = False, vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with <|end|> (end of text) and <|start|> (beginning) as special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>", "<|start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(make_documents(seed=99), trainer)
    if adds_bos:
        tokenizer.post_processor = TemplateProcessing(single="<|start|> $A", special_tokens=[("<|start|>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|start|>")


def _config(family: str, vocab_size: int, d_in: int, n_blocks: int) -> PretrainedConfig:
    common = {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 0}
    sizes = {
        "hidden_size": d_in,
        "num_hidden_layers": n_blocks,
        "num_attention_heads": 4,
        "intermediate_size": 2 * d_in,
        "max_position_embeddings": 256,
    }
    if family == "llama":
        return LlamaConfig(**common, **sizes, num_key_value_heads=2, tie_word_embeddings=True)
    if family == "qwen2":
        return Qwen2Config(**common, **sizes, num_key_value_heads=2, tie_word_embeddings=True)
    if family == "gpt_neox":
        return GPTNeoXConfig(**common, **sizes)
    if family == "gpt2":
        return GPT2Config(**common, n_embd=d_in, n_layer=n_blocks, n_head=4, n_positions=256)
    if family == "gemma2":
        return Gemma2Config(**common, **sizes, num_key_value_heads=2, head_dim=d_in // 4)
    raise ValueError(f"unknown family {family!r}")


def make_tiny_model(
    folder: Path | str,
    family: str = "llama",
    *,
    d_in: int = D_IN,
    n_blocks: int = N_BLOCKS,
    adds_bos: bool = False,
    seed: int = 0,
) -> Path:
    """Save a tiny random model of `family` with its tokenizer in `folder` and return the folder.

    Loads with AutoModelForCausalLM / AutoTokenizer or `expander_sae.activations.load_language_model`.
    """
    folder = Path(folder)
    tokenizer = make_tiny_tokenizer(adds_bos=adds_bos)
    # A few spare rows: AutoTokenizer gives Qwen2 its own end-of-text token on top of ours.
    config = _config(family, len(tokenizer) + 16, d_in, n_blocks)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            # Larger than the usual 0.02, so that blocks change the stream and logits are not all alike.
            if parameter.ndim >= 2:
                parameter.data.normal_(std=0.15)
    model.to(torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
