"""Activations of any PyTorch model on anything: images, sentences, sounds. Whole items in, shards out."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expander_sae.records import ExpanderSaeError
from expander_sae.records.locks import alone_in
from expander_sae.records.sealed import write_sealed

from .documents import SPLITS
from .modules import output_of
from .running import own_run
from .shards import FORMAT_VERSION, MANIFEST, STORED_DTYPES, WRITER, ActivationStore, tokens_name, write_shard
from .tokens import TokenBlocks

Special = Callable[[Tensor], Tensor]
"""From a module's output [items, position, d_in] to bool [items, position]: what to leave out of training and metrics,
such as the class token."""


def harvest_items(
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    out: str | os.PathLike[str],
    *,
    module: str,
    name: str,
    mask: str | None = "attention_mask",
    special: Special | None = None,
    heldout_share: float = 0.1,
    seed: int = 0,
    dtype: str = "float16",
    shard_tokens: int = 65_536,
) -> ActivationStore:
    """Write what `module` returns when the model runs on batches of items, as a harvest that trains and evaluates SAEs.

    A module that returns [items, d_in] gives one activation per item (a sentence embedding), [items, position, d_in]
    one per position (the patches of a vision transformer). Items are split into training and held-out ones by a hash
    of their number. There is no text behind these activations: `tokens` has item numbers where token ids would be, and
    the cross entropy cannot be measured.

    Args:
        model: any module; used in eval mode, on its own device.
        batches: the keyword arguments of each forward pass, tensors with the items on their first axis.
        out: an empty or new folder.
        module: whose output to take, as in `model.named_modules()`.
        name: of the model, on record.
        mask: the input that says which positions are real, [items, position]; used where a batch has it.
        special: positions to leave out.
        heldout_share: of the items.
        seed: of the split.
        dtype: stored, "float16" or "bfloat16".
        shard_tokens: activations per shard, about.

    Raises:
        ExpanderSaeError: the folder has something in it, there is no such module, its output is not of these shapes or
            not finite, or a split got no item.

    Example:
        >>> images = [{"pixel_values": torch.randn(8, 3, 224, 224)}]
        >>> store = harvest_items(vit, images, "acts", module="encoder.layer.6", name="my-vit")  # doctest: +SKIP
    """
    folder = Path(out)
    if dtype not in STORED_DTYPES:
        raise ExpanderSaeError(f"expected a stored dtype out of {', '.join(STORED_DTYPES)}; got {dtype}")
    if not 0 < heldout_share < 1:
        raise ExpanderSaeError(f"expected a held-out share between 0 and 1; got {heldout_share}")
    with alone_in(folder, WRITER, "harvests"), own_run(model):
        if any(file.name != f".{WRITER}.lock" for file in folder.iterdir()):
            raise ExpanderSaeError(f"expected an empty folder at {folder}; got something in it. Choose another.")
        writer = _ItemWriter(folder, STORED_DTYPES[dtype], max(1, shard_tokens))
        return _harvested(writer, model, batches, module, name, mask, special, heldout_share, seed, dtype)


def _harvested(
    writer: "_ItemWriter",
    model: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    module: str,
    name: str,
    mask: str | None,
    special: Special | None,
    heldout_share: float,
    seed: int,
    dtype: str,
) -> ActivationStore:
    """The harvest that a writer made of these batches."""
    number = 0
    for inputs in batches:
        x, real, left_out = _activations(model, module, inputs, mask, special)
        for item in range(len(x)):
            held_out = _draw(seed, number) < heldout_share
            writer.add(SPLITS[1] if held_out else SPLITS[0], number, x[item], real[item], left_out[item])
            number += 1
    settings = {
        "model_id": name,
        "model_revision": "unknown",
        "layer": None,
        "module": module,
        "items": True,
        "seed": seed,
        "heldout_share": heldout_share,
    }
    writer.finish(settings, dtype)
    return ActivationStore.open(writer.folder)


def _draw(seed: int, number: int) -> float:
    """A number in [0, 1) that an item's number decides."""
    digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _activations(
    model: nn.Module, module: str, inputs: Mapping[str, Tensor], mask: str | None, special: Special | None
) -> tuple[Tensor, Tensor, Tensor]:
    """x [items, position, d_in], and which positions are real and which to leave out, bool [items, position]."""
    hidden = output_of(model, module, **inputs).float().cpu()
    real = inputs.get(mask) if mask is not None else None
    if hidden.ndim == 2:
        hidden, real = hidden[:, None], None
    if hidden.ndim != 3:
        raise ExpanderSaeError(
            f"expected {module!r} to return [items, d_in] or [items, position, d_in]; got {list(hidden.shape)}"
        )
    if not bool(torch.isfinite(hidden).all()):
        raise ExpanderSaeError(f"expected finite activations at {module}; got NaN or infinity")
    there = torch.ones(hidden.shape[:2], dtype=torch.bool, device="cpu") if real is None else real.cpu().bool()
    left_out = torch.zeros_like(there) if special is None else special(hidden)
    for what, found in ((f"the input {mask!r}", there), ("`special`", left_out)):
        if found.shape != hidden.shape[:2]:
            raise ExpanderSaeError(f"expected {what} as {list(hidden.shape[:2])}; got {list(found.shape)}")
    return hidden, there, left_out


class _ItemWriter:
    """Collects items and writes a shard of one split whenever there are enough."""

    def __init__(self, folder: Path, dtype: torch.dtype, shard_tokens: int) -> None:
        self.folder, self.dtype, self.shard_tokens = folder, dtype, shard_tokens
        self.waiting: dict[str, list[tuple[int, Tensor, Tensor, Tensor]]] = {split: [] for split in SPLITS}
        self.items: dict[str, list[tuple[int, Tensor]]] = {split: [] for split in SPLITS}
        self.shards: list[dict[str, Any]] = []
        self.d_in = 0

    def add(self, split: str, number: int, x: Tensor, real: Tensor, special: Tensor) -> None:
        """Take up one item: x [position, d_in]."""
        if self.d_in not in (0, x.shape[1]):
            raise ExpanderSaeError(f"expected activations of width {self.d_in} throughout; got {x.shape[1]}")
        self.d_in = x.shape[1]
        stored = x[real].to(self.dtype)
        if not bool(torch.isfinite(stored).all()):
            raise ExpanderSaeError("expected activations that fit float16; got larger ones. Take dtype='bfloat16'.")
        self.waiting[split].append((number, stored, real.nonzero()[:, 0], special[real]))
        self.items[split].append((number, special[real]))
        if sum(len(item[1]) for item in self.waiting[split]) >= self.shard_tokens:
            self._write(split)

    def _write(self, split: str) -> None:
        items = self.waiting[split]
        if not items:
            return
        before = len(self.items[split]) - len(items)
        lengths = torch.tensor([len(x) for _, x, _, _ in items], device="cpu")
        numbers = torch.tensor([number for number, _, _, _ in items], dtype=torch.int32, device="cpu")
        tensors = {
            "x": torch.cat([x for _, x, _, _ in items]),
            "position": torch.cat([position for _, _, position, _ in items]).to(torch.int32),
            "block": torch.arange(before, before + len(items), device="cpu").repeat_interleave(lengths).to(torch.int32),
            "token_id": numbers.repeat_interleave(lengths),
            "special": torch.cat([special for _, _, _, special in items]).to(torch.uint8),
        }
        self.shards.append(write_shard(self.folder, len(self.shards), split, tensors))
        self.waiting[split] = []

    def finish(self, settings: dict[str, Any], dtype: str) -> None:
        """Write what is left, the item numbers, and the manifest last: a folder with a manifest is whole."""
        for split in SPLITS:
            if not self.items[split]:
                raise ExpanderSaeError(
                    f"expected items in both splits; got none for {split}. Give more, or another seed."
                )
            self._write(split)
        tokens = {}
        for split in SPLITS:
            blocks, file = _as_blocks(self.items[split]), self.folder / tokens_name(split)
            tokens[split] = {
                "all": blocks.n_tokens,
                "ordinary": blocks.n_ordinary_tokens,
                "file": file.name,
                "sha256": blocks.save(file),
                "bytes": file.stat().st_size,
            }
        manifest = {
            "format_version": FORMAT_VERSION,
            "complete": True,
            "settings": {**settings, "d_in": self.d_in},
            "text_source": None,
            "documents": {split: len(self.items[split]) for split in SPLITS},
            "dtype": dtype,
            "tokens": tokens,
            "shards": self.shards,
        }
        write_sealed(self.folder / MANIFEST, manifest)


def _as_blocks(items: list[tuple[int, Tensor]]) -> TokenBlocks:
    """Item numbers where token ids would be, one block per item."""
    lengths = torch.tensor([len(special) for _, special in items], dtype=torch.int32, device="cpu")
    special = torch.ones(len(items), int(lengths.max()), dtype=torch.bool, device="cpu")
    ids = torch.zeros(special.shape, dtype=torch.int32, device="cpu")
    for row, (number, flags) in enumerate(items):
        special[row, : len(flags)] = flags
        ids[row] = number
    return TokenBlocks(ids, lengths, special)
