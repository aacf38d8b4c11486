"""From text and a language model to a folder of activation shards, resumable."""

import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import ProgressColumn, Task
from rich.text import Text
from torch import Tensor

from expander_sae.records import ExpanderSaeError, read_json, sha256_file, write_json
from expander_sae.records.locks import alone_in
from expander_sae.records.mirror import mirrored
from expander_sae.records.progress import Bars
from expander_sae.records.remote import is_remote
from expander_sae.records.sealed import write_sealed

from .documents import SPLITS, TextSource
from .models import LanguageModel, d_in_of, load_language_model, n_blocks
from .modules import activations_at
from .positions import check_context
from .running import own_run
from .shards import (
    FORMAT_VERSION,
    MANIFEST,
    STORED_DTYPES,
    WRITER,
    ActivationStore,
    shard_name,
    tokens_name,
    write_shard,
)
from .tokens import MIN_PIECE, TokenBlocks, TokenizedText, tokenize, tokenizer_hash

FLOAT16_MAX = 65504.0
_BYTES_BESIDE_X = 13  # position, block, token_id: 4 each; special: 1
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors")


class _TokensPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} tokens/s" if task.speed else "", style="progress.data.speed")


@dataclass(frozen=True)
class _Job:
    """One shard: which blocks of which split."""

    number: int
    split: str
    start: int
    blocks: TokenBlocks


def harvest(
    model: LanguageModel | str | os.PathLike[str],
    text: TextSource,
    out: str | os.PathLike[str],
    *,
    layer: int | None = None,
    module: str | None = None,
    context: int = 256,
    max_tokens: int | None = None,
    max_heldout_tokens: int | None = None,
    max_document_tokens: int | None = None,
    heldout_share: float = 0.1,
    seed: int = 0,
    batch_size: int = 8,
    dtype: str = "auto",
    compute_dtype: str = "auto",
    device: str = "cpu",
    revision: str | None = None,
    bos: bool | None = None,
    min_piece: int = MIN_PIECE,
    text_field: str = "text",
    dataset_split: str = "train",
    shard_tokens: int = 65_536,
    progress: bool = True,
) -> ActivationStore:
    """Write the residual stream after block `layer` (from 0; by default the middle one), or the output of a module by
    name such as "model.layers.3.mlp", of a text to the folder `out`.

    `dtype` is what is stored: "float16", "bfloat16", "float32", or "auto": of the first two what the range of a first
    batch asks for. `compute_dtype` is what the model runs in ("float32", "bfloat16", or "auto": bfloat16 where the
    hardware has it), `batch_size` counts blocks of `context` tokens. The limits, `bos` and `min_piece` are those of
    `tokenize`. A second call with the same arguments goes on after an interruption, keeps intact shards, and ends with
    the same bytes.

    Raises:
        ExpanderSaeError: model, text or settings are impossible; `out` holds a harvest with other settings; the disk is
            too small; an activation is not finite or does not fit `dtype`.

    Example:
        >>> store = harvest("EleutherAI/pythia-70m", "articles.jsonl", "harvest", layer=3)  # doctest: +SKIP
    """
    if dtype not in ("auto", *STORED_DTYPES):
        raise ExpanderSaeError(f"expected a stored dtype out of auto, {', '.join(STORED_DTYPES)}; got {dtype}")
    if batch_size < 1 or shard_tokens < 1:
        raise ExpanderSaeError(
            f"expected a batch size and shard size of at least 1; got {batch_size} and {shard_tokens}"
        )
    lm = (
        model
        if isinstance(model, LanguageModel)
        else load_language_model(model, revision=revision, dtype=compute_dtype, device=device)
    )
    if module is not None and layer is not None:
        raise ExpanderSaeError(f"expected a layer or a module; got both: {layer} and {module!r}")
    if module is None and layer is None:
        layer = (n_blocks(lm.model) - 1) // 2  # the middle: half of the blocks have run
    if layer is not None and not 0 <= layer < n_blocks(lm.model):
        raise ExpanderSaeError(
            f"expected a layer from 0 to {n_blocks(lm.model) - 1} (blocks are counted from 0); got {layer}"
        )
    check_context(lm.model, context)
    tokenized = tokenize(
        text,
        lm.tokenizer,
        context=context,
        heldout_share=heldout_share,
        seed=seed,
        max_tokens=max_tokens,
        max_heldout_tokens=max_heldout_tokens,
        max_document_tokens=max_document_tokens,
        bos=bos,
        min_piece=min_piece,
        field=text_field,
        dataset_split=dataset_split,
    )
    settings = {
        "model_id": lm.model_id,
        "model_revision": lm.revision,
        "model_dtype": str(next(lm.model.parameters()).dtype).removeprefix("torch."),
        "layer": layer,
        **({} if module is None else {"module": module}),
        "d_in": d_in_of(lm.model) if module is None else _width(lm.model, module, tokenized.blocks["train"]),
        **({} if min_piece == MIN_PIECE else {"min_piece": min_piece}),
        "tokenizer_sha256": tokenizer_hash(lm.tokenizer),
        "text_sha256": tokenized.text_sha256,
        "context": context,
        "bos": tokenized.bos,
        "seed": seed,
        "heldout_share": heldout_share,
        "max_tokens": max_tokens,
        "max_heldout_tokens": max_heldout_tokens,
        "max_document_tokens": max_document_tokens,
        "batch_size": batch_size,
        "shard_tokens": shard_tokens,
        "requested_dtype": dtype,
    }
    if not is_remote(out) and not Path(out).exists():  # else what an earlier run left counts
        _Writer(lm, Path(out), settings, tokenized).check_space()
    with mirrored(out) as folder, alone_in(folder, WRITER, "harvests"), own_run(lm.model):
        writer = _Writer(lm, folder, settings, tokenized)
        writer.start(source_name(text))
        writer.run(progress)
    return ActivationStore.open(out)


def _width(model: Any, module: str, blocks: TokenBlocks) -> int:
    """How wide a module's output is, from a first block."""
    first = blocks[:1]
    return int(activations_at(model, module, first.input_ids, first.attention_mask).shape[-1])


def source_name(text: TextSource) -> str:
    """A source as a person would say it: file names without their folders."""
    parts = [text] if isinstance(text, str | os.PathLike) else list(text)
    return ", ".join(Path(part).name if Path(part).exists() else str(part) for part in parts)


class _Writer:
    """Writes the shards of one harvest, from wherever an earlier run stopped."""

    def __init__(self, lm: LanguageModel, folder: Path, settings: dict[str, Any], tokenized: TokenizedText) -> None:
        self.lm, self.folder, self.settings, self.tokenized = lm, folder, settings, tokenized
        self.manifest: dict[str, Any] = {}
        self.kept: dict[str, dict[str, Any]] = {}
        # Boundaries depend on block counts alone, and batches never cross them: an interruption changes
        # nothing.
        step = max(1, settings["shard_tokens"] // settings["context"])
        self.jobs: list[_Job] = []
        for split in SPLITS:
            blocks = tokenized.blocks[split]
            for start in range(0, len(blocks), step):
                self.jobs.append(_Job(len(self.jobs), split, start, blocks[start : start + step]))

    def start(self, source: str) -> None:
        """Compare with an earlier run, keep its intact shards, check the disk, and write the tokens."""
        self.manifest = {
            "format_version": FORMAT_VERSION,
            "complete": False,
            "settings": self.settings,
            "text_source": source,
            "tokenizer": type(self.lm.tokenizer).__name__,
            "documents": self.tokenized.n_documents,
            "dtype": None if self.settings["requested_dtype"] == "auto" else self.settings["requested_dtype"],
            "libraries": {name: version(name) for name in _LIBRARIES},
            "tokens": {},
            "shards": [],
        }
        if (self.folder / MANIFEST).exists():
            self._take_over(read_json(self.folder / MANIFEST))
        elif self.folder.is_dir() and any(self.folder.glob("shard-*.safetensors")):
            raise ExpanderSaeError(
                f"expected an empty folder at {self.folder}; got shards without a {MANIFEST}. "
                "Choose another --out or delete the folder."
            )
        self.check_space()
        for split in SPLITS:
            blocks, file = self.tokenized.blocks[split], self.folder / tokens_name(split)
            self.manifest["tokens"][split] = {
                "all": blocks.n_tokens,
                "ordinary": blocks.n_ordinary_tokens,
                "file": file.name,
                "sha256": blocks.save(file),
                "bytes": file.stat().st_size,
            }
        write_json(self.folder / MANIFEST, {**self.manifest, "shards": list(self.kept.values())})

    def _take_over(self, earlier: Any) -> None:
        """Keep what an earlier run with the same settings left intact."""
        try:
            settings, shards, dtype = dict(earlier["settings"]), list(earlier["shards"]), earlier["dtype"]
            version_seen = earlier["format_version"]
        except (KeyError, TypeError, ValueError) as error:
            raise ExpanderSaeError(
                f"expected a harvest in {self.folder}; got a damaged {MANIFEST} (it lacks {error}). "
                "Delete the folder and harvest again, or choose another --out."
            ) from error
        settings["format_version"] = version_seen
        wanted = {**self.settings, "format_version": FORMAT_VERSION}
        differing = sorted(key for key in wanted | settings if wanted.get(key) != settings.get(key))
        if differing:
            key = differing[0]
            raise ExpanderSaeError(
                f"{self.folder} holds a harvest with other settings: expected {key} = {wanted.get(key)}; "
                f"got {settings.get(key)} ({len(differing)} differ: {', '.join(differing)}). Choose "
                "another --out, delete the folder, or use the same settings to go on."
            )
        self.manifest["dtype"] = dtype
        for leftover in self.folder.glob(".*.part"):
            leftover.unlink(missing_ok=True)  # of a run that was killed
        for entry in shards:
            file = self.folder / str(entry.get("file"))
            if file.is_file() and sha256_file(file) == entry.get("sha256"):
                self.kept[file.name] = entry

    def check_space(self) -> None:
        """Raise before any work when the folder's disk cannot hold what is still to come."""
        per_token = 2 * self.settings["d_in"] + _BYTES_BESIDE_X
        left = [job for job in self.jobs if shard_name(job.number) not in self.kept]
        needed = sum(job.blocks.n_tokens * per_token + 4096 for job in left)
        needed += sum(5 * self.tokenized.blocks[split].input_ids.numel() for split in SPLITS)
        place = self.folder.absolute()
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if needed > free:
            raise ExpanderSaeError(
                f"expected {needed / 1e9:.2f} GB of free disk for {len(left)} shards at {self.folder}; got "
                f"{free / 1e9:.2f} GB. Free some space, choose another --out or lower --max-tokens."
            )

    def run(self, progress: bool) -> None:
        """Write the missing shards and mark the harvest complete."""
        total = sum(job.blocks.n_tokens for job in self.jobs)
        kept = sum(job.blocks.n_tokens for job in self.jobs if shard_name(job.number) in self.kept)
        with Bars("Harvesting", _TokensPerSecond(), show=progress) as bars:
            bar = bars.begin("tokens", total, kept)
            for job in self.jobs:
                entry = self.kept.get(shard_name(job.number))
                if entry is None:
                    entry = self._write(job, lambda tokens: bars.advance(bar, tokens))
                    self.kept[entry["file"]] = entry
                self.manifest["shards"].append(entry)
                done = {entry["file"] for entry in self.manifest["shards"]}
                later = [entry for file, entry in sorted(self.kept.items()) if file not in done]
                write_json(
                    self.folder / MANIFEST,
                    {**self.manifest, "shards": [*self.manifest["shards"], *later]},
                )
        write_sealed(self.folder / MANIFEST, {**self.manifest, "complete": True})

    def _write(self, job: _Job, advance: Any) -> dict[str, Any]:
        pieces: list[Tensor] = []
        batch_size = self.settings["batch_size"]
        for start in range(0, len(job.blocks), batch_size):
            batch = job.blocks[start : start + batch_size]
            longest = int(batch.lengths.max())
            mask = batch.attention_mask[:, :longest]
            place = self.settings.get("module", self.settings["layer"])
            hidden = activations_at(self.lm.model, place, batch.input_ids[:, :longest], mask)
            pieces.append(self._stored(hidden.cpu()[mask.to(torch.bool)]))
            advance(batch.n_tokens)
        real = job.blocks.attention_mask.to(torch.bool)
        block, position = real.nonzero().unbind(1)
        tensors = {
            "x": torch.cat(pieces),
            "position": position.to(torch.int32),
            "block": (block + job.start).to(torch.int32),
            "token_id": job.blocks.input_ids[real],
            "special": job.blocks.special[real].to(torch.uint8),
        }
        return write_shard(self.folder, job.number, job.split, tensors)

    def _stored(self, x: Tensor) -> Tensor:
        """x [tokens, d_in] in the stored dtype, chosen from the range of the first batch when it is still open."""
        largest = float(x.float().abs().max())  # NaN if any is
        if not largest < float("inf"):
            raise ExpanderSaeError(
                f"expected finite activations at {self.settings.get('module', self.settings['layer'])}; got NaN or "
                "infinity. "
                "Harvest with --compute-dtype float32, or check the model's weights."
            )
        if self.manifest["dtype"] is None:
            self.manifest["dtype"] = "float16" if largest < FLOAT16_MAX / 4 else "bfloat16"
        if self.manifest["dtype"] == "float16" and largest > FLOAT16_MAX:
            raise ExpanderSaeError(
                f"expected activations that fit float16 (at most {FLOAT16_MAX:.0f}); got {largest:.4g}. "
                "Harvest again into another folder with --dtype bfloat16."
            )
        return x.to(STORED_DTYPES[self.manifest["dtype"]])
