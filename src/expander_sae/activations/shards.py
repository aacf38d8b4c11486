"""The harvest folder: manifest.json, shards of activations, and the tokens they came from."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from expander_sae.records import ExpanderSaeError, read_json, sha256_file, write_atomically
from expander_sae.records.fields import shown
from expander_sae.records.remote import RemoteFolder, cache_folder, is_remote, url_digest
from expander_sae.records.sealed import unseal

from .documents import SPLITS
from .tokens import TokenBlocks

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
WRITER = "harvesting"
"""Of the lock that a writer of shards holds in its folder."""
STORED_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
_DTYPES = {
    "x": None,
    "position": torch.int32,
    "block": torch.int32,
    "token_id": torch.int32,
    "special": torch.uint8,
}


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"shard-{number:05d}.safetensors"


def tokens_name(split: str) -> str:
    """File name of the token blocks of a split."""
    return f"tokens-{split}.safetensors"


def write_shard(folder: Path, number: int, split: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write one shard atomically and return its entry for the manifest.

    `tensors` are x [tokens, d_in] (of `STORED_DTYPES`) and position, block, token_id, special [tokens].

    Raises:
        ExpanderSaeError: the file cannot be written; earlier shards are untouched.
    """
    # Serialised in memory: a write error is then an OSError with its reason, and the hash needs no second
    # read.
    data = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    with write_atomically(folder / shard_name(number)) as temporary:
        temporary.write_bytes(data)
    return {
        "file": shard_name(number),
        "split": split,
        "tokens": len(tensors["x"]),
        "ordinary_tokens": int((tensors["special"] == 0).sum()),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


class ActivationStore:
    """An opened harvest folder.

    Example:
        >>> store = ActivationStore.open("harvest")  # doctest: +SKIP
        >>> x = store.sample("train", 4096, seed=0)  # doctest: +SKIP
    """

    def __init__(self, path: Path, manifest: dict[str, Any], remote: RemoteFolder | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._remote = remote
        self._intact: set[str] = set()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "ActivationStore":
        """Open a harvest after a cheap check: manifest, presence and size of every file, shapes and dtypes.

        Checksums are compared when a shard is read for the first time, or all at once by `verify`. Of one at a URL
        only the manifest is read; each shard is fetched into the cache when it is asked for (`records.remote`).

        Raises:
            ExpanderSaeError: there is no finished harvest here, or a file is damaged; says which and what to do.
        """
        folder, remote = Path(path), None
        if is_remote(path):
            remote = RemoteFolder(path)
            folder = cache_folder() / "stores" / url_digest(remote.url)
            remote.download(MANIFEST, folder / MANIFEST)
        if not (folder / MANIFEST).is_file():
            raise ExpanderSaeError(
                f"expected a harvest in {folder}; got no {MANIFEST}. Run `expander-sae harvest` first."
            )
        try:
            manifest = unseal(read_json(folder / MANIFEST), folder / MANIFEST, _AGAIN)
            store = cls(folder, manifest, remote)
            if manifest["format_version"] != FORMAT_VERSION:
                raise ExpanderSaeError(
                    f"expected harvest format {FORMAT_VERSION} in {folder / MANIFEST}; got "
                    f"{shown(manifest['format_version'])}. Harvest again with this version."
                )
            if not manifest["complete"]:
                raise ExpanderSaeError(
                    f"expected a finished harvest in {folder / MANIFEST}; got one that was interrupted after "
                    f"{len(manifest['shards'])} shards. Run the same harvest command again; it goes on from "
                    "there."
                )
            for split in SPLITS:
                counts = manifest["tokens"][split]
                for key, count in (("all", "tokens"), ("ordinary", "ordinary_tokens")):
                    if counts[key] != sum(int(entry[count]) for entry in store._entries(split)):
                        raise KeyError(f"tokens of {split} do not add up")
                store._check_size(counts["file"], counts["bytes"])
                _ = counts["sha256"]
            for entry in manifest["shards"]:
                store._check_shard(entry)
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise _damaged(folder / MANIFEST, f"it lacks or misstates {error}") from error
        return store

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return int(self.manifest["settings"]["d_in"])

    @property
    def dtype(self) -> torch.dtype:
        """Stored dtype."""
        return STORED_DTYPES[self.manifest["dtype"]]

    @property
    def layer(self) -> int:
        """The block, counted from 0, after which the activations were taken.

        Raises:
            ExpanderSaeError: they are the output of a module.
        """
        if self.module is not None:
            raise ExpanderSaeError(
                f"expected activations of the residual stream after a block; got the output of {self.module}"
            )
        return int(self.manifest["settings"]["layer"])

    @property
    def module(self) -> str | None:
        """The module whose output they are; None if they are the residual stream after `layer`."""
        return self.manifest["settings"].get("module")

    def n_tokens(self, split: str, *, keep_special_tokens: bool = False) -> int:
        """Activations of a split, "train" or "heldout"; ordinary tokens only by default."""
        _check_split(split)
        return int(self.manifest["tokens"][split]["all" if keep_special_tokens else "ordinary"])

    def shards(self, split: str) -> list[tuple[str, int]]:
        """File name and number of tokens (special ones included) of each shard of a split."""
        _check_split(split)
        return [(entry["file"], int(entry["tokens"])) for entry in self._entries(split)]

    def read_rows(
        self, file: str, start: int = 0, stop: int | None = None, *, keep_special_tokens: bool = False
    ) -> Tensor:
        """Rows `start` to `stop` of one shard, less special tokens: x [tokens, d_in] in the stored dtype.

        Raises:
            ExpanderSaeError: the shard is damaged.
        """
        self._check_sum(file)
        try:
            with safe_open(self._file(file), framework="pt") as tensors:
                x = tensors.get_slice("x")[start:stop]
                special = tensors.get_slice("special")[start:stop]
        except (OSError, SafetensorError) as error:
            raise _damaged(self.path / file, str(error)) from error
        return x if keep_special_tokens else x[special == 0]

    def read_column(self, file: str, name: str) -> Tensor:
        """One of position, block, token_id (int32) and special (bool) of a shard, [tokens]."""
        self._check_sum(file)
        with safe_open(self._file(file), framework="pt") as tensors:
            column = tensors.get_tensor(name)
        return column.to(torch.bool) if name == "special" else column

    def blocks(
        self,
        split: str,
        *,
        keep_special_tokens: bool = False,
        max_tokens: int | None = None,
        rows_at_once: int = 8192,
    ) -> Iterator[Tensor]:
        """Yield x [tokens, d_in] in stored order and dtype, at most `rows_at_once` rows at a time.

        Only ordinary tokens by default: first positions and special tokens are left out. `max_tokens`: no more than the
        first so many in all; what lies behind them is not read.
        """
        left = max_tokens
        for file, tokens in self.shards(split):
            for start in range(0, tokens, rows_at_once):
                if left == 0:
                    return
                stop = min(start + rows_at_once, tokens)
                x = self.read_rows(file, start, stop, keep_special_tokens=keep_special_tokens)[:left]
                left = None if left is None else left - len(x)
                if len(x):
                    yield x

    def tokens(self, split: str) -> TokenBlocks:
        """The token blocks of a split, the text its activations come from."""
        _check_split(split)
        counts = self.manifest["tokens"][split]
        self._check_sum(counts["file"], counts["sha256"])
        return TokenBlocks.load(self._file(counts["file"]))

    def sample(self, split: str, n: int, seed: int, *, keep_special_tokens: bool = False) -> Tensor:
        """`n` activations spread over a split, drawn without replacement: x [n, d_in] float32.

        Ordinary tokens only by default. All of them, in stored order, when the split has no more than `n`.
        """
        available = self.n_tokens(split, keep_special_tokens=keep_special_tokens)
        generator = torch.Generator().manual_seed(seed)
        if n >= available:
            chosen = torch.arange(available, device="cpu")
        else:
            chosen = torch.randperm(available, generator=generator, device="cpu")[:n].sort().values
        pieces = [torch.empty(0, self.d_in, dtype=torch.float32, device="cpu")]
        before = 0
        for entry in self._entries(split):
            after = before + int(entry["tokens" if keep_special_tokens else "ordinary_tokens"])
            here = chosen[(chosen >= before) & (chosen < after)] - before
            if len(here):
                rows = self.read_rows(entry["file"], keep_special_tokens=keep_special_tokens)
                pieces.append(rows[here].float())
            before = after
        return torch.cat(pieces)

    def verify(self) -> None:
        """Compare the checksum of every file with the manifest.

        Raises:
            ExpanderSaeError: a file is damaged; says which.
        """
        self._intact.clear()
        for entry in self.manifest["shards"]:
            self._check_sum(entry["file"])
        for split in SPLITS:
            self._check_sum(self.manifest["tokens"][split]["file"])

    def _entries(self, split: str) -> list[dict[str, Any]]:
        return [entry for entry in self.manifest["shards"] if entry["split"] == split]

    def _expected_sum(self, file: str) -> str:
        for entry in (*self.manifest["shards"], *self.manifest["tokens"].values()):
            if entry["file"] == file:
                return entry["sha256"]
        raise ExpanderSaeError(f"expected a file of the harvest in {self.path}; got {file}")

    def _check_sum(self, file: str, expected: str | None = None) -> None:
        if file in self._intact:
            return
        if self._remote is not None:
            self._file(file)  # compared there, and fetched again where it differs
            if file not in self._intact:
                self._intact.add(file)
                self._check_header(file)
            return
        try:
            found = sha256_file(self.path / file)
        except OSError as error:
            raise _damaged(self.path / file, error.strerror or str(error)) from error
        if found != (expected or self._expected_sum(file)):
            raise _damaged(self.path / file, "its checksum is not the one in the manifest")
        self._intact.add(file)

    def _file(self, file: str) -> Path:
        """Where a file is, on this machine."""
        if self._remote is None:
            return self.path / file
        return self._remote.cached(file, self._expected_sum(file))

    def _check_size(self, file: str, expected: int) -> None:
        path = self.path / file
        if Path(file).name != file:
            raise _damaged(self.path / MANIFEST, f"it names a file outside the folder, {file}")
        if self._remote is not None:
            return
        if not path.is_file():
            raise _damaged(path, "it is missing")
        if path.stat().st_size != expected:
            raise _damaged(path, f"expected {expected} bytes; got {path.stat().st_size}")

    def _check_shard(self, entry: dict[str, Any]) -> None:
        """Size, names, shapes and dtypes, from the header alone."""
        _ = entry["sha256"]
        self._check_size(entry["file"], entry["bytes"])
        if self._remote is None:
            self._check_header(entry["file"])

    def _check_header(self, file: str) -> None:
        entry = next((entry for entry in self.manifest["shards"] if entry["file"] == file), None)
        if entry is None:
            return  # tokens
        path = self._file(file)
        try:
            with safe_open(path, framework="pt") as tensors:
                for name, dtype in _DTYPES.items():
                    column = tensors.get_slice(name)
                    shape = [entry["tokens"], self.d_in] if name == "x" else [entry["tokens"]]
                    if column.get_shape() != shape:
                        raise _damaged(path, f"expected {name} of shape {shape}; got {column.get_shape()}")
                    found = column[:0].dtype
                    if found != (dtype or self.dtype):
                        raise _damaged(path, f"expected {name} as {dtype or self.dtype}; got {found}")
        except (OSError, SafetensorError) as error:
            raise _damaged(path, str(error)) from error


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ExpanderSaeError(f"expected a split out of {', '.join(SPLITS)}; got {split!r}")


_AGAIN = (
    "Run the same harvest command again with the same --out: it keeps the intact shards and writes the others anew; if "
    "that does not help, delete the folder first."
)


def _damaged(path: Path, why: str) -> ExpanderSaeError:
    return ExpanderSaeError(f"the harvest is damaged: {path}: {why}. {_AGAIN}")
