"""Every decoder family of the installed transformers, tiny and random: read by layer, and spliced.

    python benchmarks/families.py [--only NAME ...] [--csv docs/results/families.csv]

A family is right if the residual stream after each block is what the model reports as its hidden states (where it
does), splicing the stream into itself changes no logit, and splicing zeros does. One that is not right must be refused
with a sentence. The exit status is 1 if one is wrong or fails with another error.
"""

import argparse
import contextlib
import csv
import io
import logging
import signal
import sys
import warnings
from pathlib import Path

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from expander_sae.activations import n_blocks, residual_after_block, splice_after_block
from expander_sae.records import ExpanderSaeError

D_IN, BLOCKS, VOCABULARY = 64, 4, 128
LARGEST = 150_000_000
"""Parameters of a model that is tried."""
SECONDS = 60
"""For one family."""
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": D_IN, "d_model": D_IN, "n_embd": D_IN, "emb_dim": D_IN, "dim": D_IN, "embed_dim": D_IN,
    "num_hidden_layers": BLOCKS, "n_layer": BLOCKS, "n_layers": BLOCKS, "num_layers": BLOCKS,
    "encoder_layers": BLOCKS, "decoder_layers": BLOCKS, "num_blocks": BLOCKS,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4, "num_key_value_heads": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "head_dim": 16, "intermediate_size": 96, "ffn_dim": 96, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "dff": 96,
    "d_inner": 96, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "num_experts": 4,
    "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_num_experts": 4, "max_position_embeddings": 64, "n_positions": 64, "n_ctx": 64, "max_seq_len": 64,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    "index_n_heads": 4, "index_head_dim": 16, "index_topk": 4,
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_num_heads": 8, "mamba_head_dim": 16,
    "state_size": 8, "ssm_state_size": 8, "time_step_rank": 8, "mamba_dt_rank": 8, "lru_width": D_IN,
    "word_embed_proj_dim": D_IN, "rotary_dim": 8, "moe_k": 2, "num_experts_per_token": 2, "num_kv_shared_layers": 0,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_mamba_kernels": False,
    "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
"""Of every family, under whatever names it has of these."""


OWN = {
    "bamba": {"attn_layer_indices": [1]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * (BLOCKS // 2), "layers_block_type": None},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "falcon_h1": {"mamba_d_ssm": 128},
    "xlnet": {"max_position_embeddings": None},
    "prophetnet": {"num_hidden_layers": None, "num_encoder_layers": BLOCKS, "num_decoder_layers": BLOCKS},
    "gpt_neo": {"attention_types": [[["global", "local"], BLOCKS // 2]]},
    "reformer": {"is_decoder": True, "attn_layers": ["local"] * BLOCKS, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
    "gemma3n_text": {"layer_types": ["full_attention"] * BLOCKS, "activation_sparsity_pattern": [0.0] * BLOCKS},
}
"""What single families need beside; None: what they refuse."""


def tiny(family: str):
    """A small random model of a family, as its configuration's defaults have it apart from sizes."""
    kind = CONFIG_MAPPING[family]
    text = getattr(kind, "sub_configs", {}).get("text_config")
    if isinstance(text, type) and text in CONFIG_MAPPING.values():
        config = kind(text_config=_sizes(text))
    else:
        config = kind(**_sizes(kind))
    shown = config.get_text_config()
    for name in ("layer_types", "mlp_layer_types", "layers_block_type", "block_types", "hybrid_override_pattern"):
        listed = getattr(shown, name, None)
        if isinstance(listed, list) and len(listed) != BLOCKS and _can_be_set(type(shown), shown, name):
            with contextlib.suppress(Exception):
                setattr(shown, name, (listed * BLOCKS)[:BLOCKS])
    with torch.device("meta"):
        size = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size:,} parameters: its sizes have other names")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(std=0.1)
    return model.to(torch.float32)


def _sizes(kind) -> dict:
    default = kind()
    found = {name: value for name, value in SIZES.items() if _can_be_set(kind, default, name)}
    if "qk_rope_head_dim" in found:  # there the width of a head follows from its parts
        found.pop("head_dim", None)
        found["num_key_value_heads"] = 4
    listed = getattr(default, "layer_types", None) if _can_be_set(kind, default, "layer_types") else None
    if isinstance(listed, list | tuple) and listed:
        kinds = list(dict.fromkeys(listed))
        found["layer_types"] = [kinds[number % len(kinds)] for number in range(BLOCKS)]
    found |= OWN.get(kind.model_type, {})
    return {name: value for name, value in found.items() if value is not None}


def _can_be_set(kind, default, name: str) -> bool:
    if name in getattr(kind, "attribute_map", {}):  # another name of the same field
        return False
    of_class = getattr(kind, name, None)
    if isinstance(of_class, property) and of_class.fset is None:
        return False
    try:
        return hasattr(default, name)
    except Exception:  # some say so when they are asked
        return False


def check(model) -> str:
    """What is wrong with reading and splicing a model, or nothing.

    Raises:
        ExpanderSaeError: it is refused.
    """
    model.eval()
    ids = torch.randint(5, VOCABULARY - 5, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    real = mask.bool()
    blocks = n_blocks(model)
    with torch.no_grad():
        clean = model(input_ids=ids, attention_mask=mask).logits
        reported = getattr(model(input_ids=ids, attention_mask=mask, output_hidden_states=True), "hidden_states", None)
        again = model(input_ids=ids, attention_mask=mask).logits
    if not torch.allclose(clean, again, atol=1e-5):
        return "the model itself is not deterministic"
    for layer in range(blocks):
        hidden = residual_after_block(model, ids, mask, layer)
        if hidden.shape[:2] != ids.shape:
            return f"shape {list(hidden.shape)} after block {layer}"
        if reported is not None and len(reported) == blocks + 1 and layer < blocks - 1:
            state = reported[layer + 1]
            # RWKV reports what a block gives at its own number, and the last twice.
            if not any(_alike(hidden, other, real) for other in (state, reported[layer])):
                return f"block {layer} is not what the model reports"
        with torch.no_grad():
            with splice_after_block(model, layer, lambda x: x.clone()):
                same = model(input_ids=ids, attention_mask=mask).logits
            with splice_after_block(model, layer, torch.zeros_like):
                zeroed = model(input_ids=ids, attention_mask=mask).logits
            with splice_after_block(model, layer, lambda _x, hidden=hidden: hidden):
                back = model(input_ids=ids, attention_mask=mask).logits
        if not torch.equal(same[real], clean[real]) or not torch.allclose(back[real], clean[real], atol=1e-5):
            return f"the identity after block {layer} changes the logits"
        if torch.allclose(zeroed[real], clean[real], atol=1e-6):
            return f"zeros after block {layer} change nothing"
    return ""


def _alike(hidden, state, real) -> bool:
    return state.shape == hidden.shape and torch.allclose(hidden[real], state[real], rtol=1e-4, atol=1e-5)


def outcome(family: str) -> tuple[str, str]:
    """One of right, refused, wrong, error, and (where there are none of its) "not made"; and why."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        return _outcome(family)
    finally:
        signal.alarm(0)


def _too_long(_signal, _frame):
    raise TimeoutError(f"not done in {SECONDS} s")


def _outcome(family: str) -> tuple[str, str]:
    try:
        model = tiny(family)
        ids = torch.arange(5, 26).view(3, 7)
        with torch.no_grad():
            model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception as error:  # a configuration that cannot be made small by names alone, or needs other hardware
        return "not made", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160]
    try:
        wrong = check(model)
    except ExpanderSaeError as error:
        return "refused", str(error)
    except TimeoutError as error:
        return "not made", f"too slow to try: {error}"
    except Exception as error:
        return "error", f"{type(error).__name__}: {error}".splitlines()[0][:160]
    return ("wrong", wrong) if wrong else ("right", "")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=None, help="these families")
    parser.add_argument("--csv", type=Path, default=None, help="write a table")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    rows = []
    for family in options.only or sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        with contextlib.redirect_stdout(io.StringIO()):
            what, why = outcome(family)
        rows.append((family, what, why))
        print(f"{what:9} {family}{f': {why}' if why else ''}", flush=True)
    counts = {what: sum(row[1] == what for row in rows) for what in ("right", "refused", "wrong", "error", "not made")}
    print(
        ", ".join(f"{number} {what}" for what, number in counts.items()), f"; transformers {transformers.__version__}"
    )
    if options.csv is not None:
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        with open(options.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("family", "outcome", "why"), *rows])
    return int(counts["wrong"] + counts["error"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
