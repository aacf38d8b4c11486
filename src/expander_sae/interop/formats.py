"""One call to read an SAE of any known library, one to write one."""

from collections.abc import Callable
from pathlib import Path

from expander_sae.pursuit import Reading
from expander_sae.records import ExpanderSaeError
from expander_sae.records.remote import is_remote
from expander_sae.saes import AbstractSae, load_sae

from . import dictionary_learning, openai, saelens_files, sparsify
from .dense import dense_weights, sae_from_dense
from .tensors import read_config
from .threshold import ThresholdSae
from .weights import DenseWeights

READABLE = ("expander-sae", "saelens", "sparsify", "dictionary_learning", "openai")
WRITABLE = ("saelens", "saelens-dense", "sparsify", "dictionary_learning", "openai")
"""All but the first are dense."""

_DENSE_READERS: dict[str, Callable[[Path], DenseWeights]] = {
    "sparsify": sparsify.read_sparsify,
    "dictionary_learning": dictionary_learning.read_dictionary_learning,
    "openai": openai.read_openai,
}


def detect_format(path: str | Path) -> str:
    """Which of `READABLE` a folder or file is, by the names of its files.

    Raises:
        ExpanderSaeError: none that is known.
    """
    path = Path(path)
    if is_remote(path):
        return "expander-sae"  # other libraries' files are read here only
    if path.is_file():
        if path.name == dictionary_learning.ARRAYS:
            return "dictionary_learning"
        if path.suffix == ".pt":
            return "openai"
    elif (path / saelens_files.ARRAYS).is_file():
        return "saelens"
    elif (path / dictionary_learning.ARRAYS).is_file():
        return "dictionary_learning"
    elif (path / sparsify.CONFIG).is_file() and (path / sparsify.ARRAYS).is_file():
        return "sparsify"
    elif (path / "config.json").is_file() and read_config(path / "config.json").get("format") == "expander-sae":
        return "expander-sae"
    raise ExpanderSaeError(
        f"expected an SAE in {path}: cfg.json with {saelens_files.ARRAYS} (SAELens) or {sparsify.ARRAYS} (sparsify), "
        f"{dictionary_learning.ARRAYS} (dictionary_learning), config.json with {sparsify.ARRAYS} (ours), or a .pt file "
        "(OpenAI); got none. Give the folder of one SAE, or name the format."
    )


def read_sae(path: str | Path, format: str | None = None) -> AbstractSae | ThresholdSae:
    """The SAE in a folder or file of any of `READABLE`; None: whichever it is.

    Raises:
        ExpanderSaeError: no such format, or the reader's own error.
    """
    path = Path(path)
    format = format or detect_format(path)
    if format not in READABLE:
        raise ExpanderSaeError(f"expected a format out of {', '.join(READABLE)}; got {format!r}")
    if format == "expander-sae":
        return load_sae(path)
    if format == "saelens":
        return saelens_files.read_saelens(path)
    return sae_from_dense(_DENSE_READERS[format](path))


def write_sae(
    sae: AbstractSae | ThresholdSae,
    path: str | Path,
    format: str,
    *,
    dtype: str = "float32",
    reading: Reading | None = None,
) -> Path:
    """Write an SAE in one of `WRITABLE`; all but `saelens` are dense, see `dense_weights` for `reading`.

    Raises:
        ExpanderSaeError: no such format or dtype, the format cannot say what the SAE computes, or `path` cannot be
            written.
    """
    if format not in WRITABLE:
        raise ExpanderSaeError(f"expected a format out of {', '.join(WRITABLE)}; got {format!r}")
    stored = saelens_files.check_dtype(dtype)
    if format.startswith("saelens"):
        dense = format == "saelens-dense"
        return saelens_files.write_saelens(sae, path, dtype=dtype, dense=dense, reading=reading)
    weights = dense_weights(sae, reading=reading)
    if format == "sparsify":
        return sparsify.write_sparsify(weights, path, dtype=stored)
    if format == "dictionary_learning":
        return dictionary_learning.write_dictionary_learning(weights, path, dtype=stored)
    return openai.write_openai(weights, path, dtype=stored)
