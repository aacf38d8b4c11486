"""A SmolLM2 file of llama.cpp (GGUF) to a Hugging Face folder.

Forty lines of our own rather than the `gguf_file=` loading of transformers: that needs one more package and splits
newlines before digits differently from the model's own tokenizer. Both give the same tensors after rounding.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError, write_atomically, write_json, write_tensors

SPECIAL = 3
"""llama.cpp's token type for control tokens."""

_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def undo_rotary_order(weight: Tensor, n_heads: int) -> Tensor:
    """Rows of a query or key matrix [heads * head_dim, d_in] back from llama.cpp's rotary order.

    llama.cpp interleaves the two halves of each head; Hugging Face keeps them one after the other.
    """
    rows, d_in = weight.shape
    return weight.reshape(n_heads, rows // n_heads // 2, 2, d_in).swapaxes(1, 2).reshape(rows, d_in)


def hub_name(name: str) -> str:
    """The Hugging Face name of a tensor of a Llama GGUF, such as blk.3.attn_q.weight."""
    stem = name.removesuffix(".weight")
    if stem in _OUTSIDE:
        return f"{_OUTSIDE[stem]}.weight"
    _, block, part = stem.split(".")
    return f"model.layers.{block}.{_IN_BLOCK[part]}.weight"


def write_model(gguf_file: Path, folder: Path) -> None:
    """Write config.json, model.safetensors (bfloat16), tokenizer.json and tokenizer_config.json in `folder`.

    Raises:
        ExpanderSaeError: the file is no Llama with tied embeddings and a byte-level BPE tokenizer.
    """
    import gguf

    reader = gguf.GGUFReader(str(gguf_file))
    data = {name: field.contents() for name, field in reader.fields.items()}
    seen = (
        data.get("general.architecture"),
        data.get("tokenizer.ggml.model"),
        data.get("tokenizer.ggml.pre"),
    )
    if seen != ("llama", "gpt2", "smollm"):
        raise ExpanderSaeError(f"expected a SmolLM2 model in {gguf_file.name}; got {seen}")
    heads = {"attn_q": data["llama.attention.head_count"], "attn_k": data["llama.attention.head_count_kv"]}
    tensors: dict[str, Tensor] = {}
    for entry in reader.tensors:
        weight = torch.from_numpy(gguf.quants.dequantize(entry.data, entry.tensor_type).copy())
        part = entry.name.removesuffix(".weight").rsplit(".", 1)[-1]
        if part in heads:
            weight = undo_rotary_order(weight, heads[part])
        tensors[hub_name(entry.name)] = weight.to(torch.bfloat16).contiguous()
    write_json(folder / "config.json", _config(data))
    _write_tokenizer(data, folder)
    write_tensors(folder / "model.safetensors", tensors, {"format": "pt"})


def _config(data: dict[str, Any]) -> dict[str, Any]:
    theta = float(data["llama.rope.freq_base"])
    epsilon = float(data["llama.attention.layer_norm_rms_epsilon"])
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": data["llama.embedding_length"],
        "intermediate_size": data["llama.feed_forward_length"],
        "num_hidden_layers": data["llama.block_count"],
        "num_attention_heads": data["llama.attention.head_count"],
        "num_key_value_heads": data["llama.attention.head_count_kv"],
        "head_dim": data["llama.rope.dimension_count"],
        "max_position_embeddings": data["llama.context_length"],
        "vocab_size": data["llama.vocab_size"],
        # The file holds a float32; round it back to the decimal number it stands for.
        "rms_norm_eps": round(epsilon, 3 - math.floor(math.log10(epsilon))),
        "rope_theta": theta,  # read by transformers 4
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},  # read by transformers 5
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "bos_token_id": data["tokenizer.ggml.bos_token_id"],
        "eos_token_id": data["tokenizer.ggml.eos_token_id"],
        "pad_token_id": data["tokenizer.ggml.padding_token_id"],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def _write_tokenizer(data: dict[str, Any], folder: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens: list[str] = data["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in data["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = data["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == SPECIAL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    with write_atomically(folder / "tokenizer.json") as temporary:
        temporary.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokens[data["tokenizer.ggml.bos_token_id"]],
            "eos_token": tokens[data["tokenizer.ggml.eos_token_id"]],
            "unk_token": tokens[data["tokenizer.ggml.unknown_token_id"]],
            "pad_token": tokens[data["tokenizer.ggml.padding_token_id"]],
            "model_max_length": data["llama.context_length"],
            "clean_up_tokenization_spaces": False,
            "chat_template": data["tokenizer.chat_template"],
        },
    )
