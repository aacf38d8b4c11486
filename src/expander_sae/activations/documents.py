"""Documents from text files, JSONL, parquet and datasets, and their split into train and held-out."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from expander_sae.records import ExpanderSaeError

from .hub import hub_is_off, offline_hint

SPLITS = ("train", "heldout")
TextSource = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
_SURROGATES = re.compile("[\ud800-\udfff]")
_SUFFIXES = (".txt", ".jsonl", ".parquet")


def read_documents(source: TextSource, *, field: str = "text", dataset_split: str = "train") -> Iterator[str]:
    """Yield the documents of a source in a fixed order, without empty ones and nulls.

    A source is a .txt file (one document), a .jsonl or .parquet file (one document a row, in `field`), a folder of such
    files (by name), a folder written by `datasets` (`save_to_disk`), several of these, or the name of a dataset on the
    hub ("owner/name" or "owner/name:configuration"; `dataset_split` names the split). What is not Unicode text (half of
    a surrogate pair) becomes U+FFFD.

    Raises:
        ExpanderSaeError: nothing is there, the field is missing, or a file is damaged.
    """
    if not isinstance(source, str | os.PathLike):
        for part in source:
            yield from read_documents(part, field=field, dataset_split=dataset_split)
        return
    path = Path(source)
    if path.is_dir() and ((path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()):
        documents = _dataset_folder(path, field, dataset_split)
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix.lower() in _SUFFIXES)
        if not files:
            raise ExpanderSaeError(f"expected files ending in {', '.join(_SUFFIXES)} in {path}; got none")
        documents = (text for file in files for text in _file(file, field))
    elif path.is_file():
        documents = _file(path, field)
    elif isinstance(source, str) and _may_be_on_the_hub(source):
        documents = _hub_dataset(source, field, dataset_split)
    else:
        raise ExpanderSaeError(
            f"expected text at {path}; got no such file or folder. Give a .txt, .jsonl or .parquet "
            "file, a folder of them, a `datasets` folder or the name of a dataset on the hub."
        )
    for text in documents:
        if text is not None and text.strip():
            yield _sound(text)


def _may_be_on_the_hub(source: str) -> bool:
    return Path(source).suffix.lower() not in _SUFFIXES and source.count("/") <= 1 and source[:1] not in "./"


def _sound(text: str) -> str:
    """A text that can be written as UTF-8: halves of surrogate pairs are joined, and lone ones become U+FFFD."""
    if _SURROGATES.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _file(path: Path, field: str) -> Iterator[str | None]:
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _jsonl(path, field)
    if suffix == ".parquet":
        return _parquet(path, field)
    if suffix == ".txt":
        return _plain(path)
    raise ExpanderSaeError(f"expected a file ending in {', '.join(_SUFFIXES)}; got {path}")


def _plain(path: Path) -> Iterator[str | None]:
    try:
        yield path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise ExpanderSaeError(f"expected UTF-8 text in {path}; got {error}. {_advice(path)}") from error


def _advice(path: Path) -> str:
    """What to do about a file that is not UTF-8."""
    try:
        with open(path, "rb") as file:
            marked = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
    except OSError:
        return "Check the file."
    return "It begins as UTF-16 does: convert it to UTF-8 first." if marked else "Convert the file first."


def _jsonl(path: Path, field: str) -> Iterator[str | None]:
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _field_of(json.loads(line), field, f"{path}, line {number}")
    except UnicodeDecodeError as error:
        raise ExpanderSaeError(
            f"expected UTF-8 text in {path}; after line {number} got {error}. {_advice(path)}"
        ) from error
    except ExpanderSaeError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
        raise ExpanderSaeError(
            f"expected one JSON object a line in {path}; after line {max(number - 1, 0)} got {error}"
        ) from error
    except OSError as error:
        raise ExpanderSaeError(f"expected to read {path}; after line {number} got {error}") from error


def _field_of(row: Any, field: str, where: str) -> str | None:
    """The text in a row, None where it is null."""
    if not isinstance(row, Mapping):
        raise ExpanderSaeError(f"expected text in the field {field!r} at {where}; got a {type(row).__name__}")
    if field not in row:
        raise ExpanderSaeError(
            f"expected text in the field {field!r} at {where}; got fields {sorted(map(str, row))}. "
            "Give the field with --text-field."
        )
    value = row[field]
    if value is not None and not isinstance(value, str):
        raise ExpanderSaeError(
            f"expected text in the field {field!r} at {where}; got a {type(value).__name__}: {repr(value)[:60]}"
        )
    return value


def _parquet(path: Path, field: str) -> Iterator[str | None]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise ExpanderSaeError(
                    f"expected a column {field!r} in {path}; got {', '.join(file.schema_arrow.names)}"
                )
            number = 0
            for batch in file.iter_batches(columns=[field], batch_size=256):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield _field_of({field: value}, field, f"{path}, row {number}")
    except ExpanderSaeError:
        raise
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ExpanderSaeError(f"expected a parquet file at {path}; got one that cannot be read: {error}") from error


def _dataset_folder(path: Path, field: str, dataset_split: str) -> Iterator[str | None]:
    import datasets

    try:
        loaded: Any = datasets.load_from_disk(str(path))
    except Exception as error:  # anything from FileNotFoundError to Arrow's own classes
        raise ExpanderSaeError(
            f"expected a folder that `datasets` wrote at {path}; got one that cannot be read: {_reason(error)}"
        ) from error
    yield from _dataset_rows(loaded, field, dataset_split, str(path))


def _hub_dataset(name: str, field: str, dataset_split: str) -> Iterator[str | None]:
    import datasets

    identifier, _, configuration = name.partition(":")
    options: dict[str, Any] = {"split": dataset_split, "streaming": True}
    if int(datasets.__version__.partition(".")[0]) < 4:  # later releases run no code of a dataset at all
        options["trust_remote_code"] = False
    settings: Any = datasets.config  # pyright: ignore[reportAttributeAccessIssue]
    if not settings.HF_HUB_OFFLINE and hub_is_off():
        raise ExpanderSaeError(
            f"expected text at {name}; got no such file or folder, and as a dataset on the hub it cannot be "
            f"loaded. {offline_hint()}"
        )
    try:
        loaded: Any = datasets.load_dataset(identifier, configuration or None, **options)
    except Exception as error:  # `datasets` raises anything from ConnectionError to its own classes
        raise ExpanderSaeError(
            f"expected text at {name}; got no such file or folder, and as a dataset on the hub it "
            f"cannot be loaded: {_reason(error)}"
        ) from error
    yield from _dataset_rows(loaded, field, dataset_split, name)


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _dataset_rows(loaded: Any, field: str, dataset_split: str, where: str) -> Iterator[str | None]:
    import datasets

    if isinstance(loaded, datasets.DatasetDict | datasets.IterableDatasetDict):
        if dataset_split not in loaded:
            raise ExpanderSaeError(f"expected a split {dataset_split!r} in {where}; got {sorted(loaded)}")
        loaded = loaded[dataset_split]
    number = 0
    try:
        for row in loaded:
            number += 1
            yield _field_of(row, field, f"{where}, row {number}")
    except ExpanderSaeError:
        raise
    except Exception as error:  # a dataset is read as it is iterated: the network or a file may fail at any row
        raise ExpanderSaeError(
            f"expected to read {where} to its end; after row {number} got {_reason(error)}. Run the same command "
            "again: it goes on, shards that are written are kept. If that fails too, check the network and the disk."
        ) from error


def document_hash(text: str) -> bytes:
    """SHA-256 of one document."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def split_rule(documents: Iterable[str], *, heldout_share: float, seed: int) -> Callable[[str], str]:
    """A function from a document to "train" or "heldout", decided by a hash of its text and the seed alone.

    Copies of a document therefore land on one side. `documents` is read only until both sides have one; when
    chance leaves a side empty, the document nearest to it crosses over.

    Raises:
        ExpanderSaeError: the share is not in [0, 1), or it is positive and there are fewer than two
        documents.
    """
    if not 0 <= heldout_share < 1:
        raise ExpanderSaeError(f"expected a held-out share from 0 up to but not including 1; got {heldout_share}")

    def place(digest: bytes) -> float:
        """Where in [0, 1) the document falls."""
        mixed = hashlib.sha256(f"split {seed} ".encode() + digest).digest()
        return int.from_bytes(mixed[:8], "big") / 2**64

    crossing: dict[bytes, str] = {}
    if heldout_share > 0:
        places: dict[bytes, float] = {}
        seen: set[bool] = set()
        for text in documents:
            digest = document_hash(text)
            places[digest] = place(digest)
            seen.add(places[digest] < heldout_share)
            if len(seen) == 2:
                break
        else:
            if len(places) < 2:
                raise ExpanderSaeError(
                    "expected at least two different documents to hold some of them out; got "
                    f"{len(places)}. A .txt file is one document: give a folder of files or a .jsonl file, "
                    "or set the held-out share to 0."
                )
            if True in seen:
                crossing[max(places, key=places.__getitem__)] = "train"
            else:
                crossing[min(places, key=places.__getitem__)] = "heldout"

    def side(text: str) -> str:
        digest = document_hash(text)
        return crossing.get(digest) or ("heldout" if place(digest) < heldout_share else "train")

    return side
