"""A feature store from SAEs and activations of text."""

from __future__ import annotations

import dataclasses
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from expander_sae.activations import ActivationStore, LanguageModel
from expander_sae.activations.shards import MANIFEST
from expander_sae.activations.tokens import tokenizer_hash
from expander_sae.evaluation.meaning.text import documents_of
from expander_sae.records import ExpanderSaeError, Provenance, check_provenance, sha256_file, write_atomically
from expander_sae.records.files import remove_leftovers
from expander_sae.records.locks import alone_in
from expander_sae.records.progress import Bars

from ..store import LatentStore
from ..writing import FORMAT, StoreWriter
from .finish import Finish
from .lens import LogitLens, logit_lens
from .reading import Pass
from .settings import Settings, Source


def work_folder(out: Path) -> Path:
    """Where the state of an unfinished store is: beside it."""
    return out.with_name(f".{out.name}.building")


def build_store(
    views: list[Source],
    activations: ActivationStore,
    out: str | os.PathLike[str],
    *,
    tokenizer: Any,
    model: LanguageModel | None = None,
    settings: Settings | None = None,
    overwrite: bool = False,
    progress: bool = True,
    every: float = 20.0,
) -> Path:
    """Read activations once and write a feature store of every view; `LatentStore.open` reads it.

    An interrupted run leaves its state beside `out`, and the same call goes on from there and ends with the same bytes;
    a finished store is left as it is. docs/guides/latent-store.md defines what is in it.

    Args:
        views: what is read; see `sources`.
        activations: of text.
        out: the file.
        tokenizer: that made the text's tokens.
        model: for the tokens that latents promote and suppress; None: they are left out.
        settings: how much is read and shown; None: the defaults.
        overwrite: replace another file.
        progress: a bar on standard error.
        every: seconds between two states on disk, at least.

    Raises:
        ExpanderSaeError: SAE, tokenizer or model do not go with the activations, there is another file at `out`, or it
            cannot be written.

    Example:
        >>> store = ActivationStore.open("acts")  # doctest: +SKIP
        >>> saes = {"expander-d7": load_sae("saes/expander-d7")}  # doctest: +SKIP
        >>> build_store(sources(saes), store, "latents.db", tokenizer=load_tokenizer("model"))  # doctest: +SKIP
    """
    out, settings = Path(out), settings or Settings()
    harvested = activations.manifest["settings"]
    _check(views, activations, tokenizer, out)
    differences = {
        one.sha256: check_provenance(one.sae_name, one.sae, Provenance.of_settings(harvested))
        for one in {one.sha256: one for one in views}.values()
    }
    lens = None if model is None else _lens(model, harvested, tokenizer)
    made_from = {
        "format": FORMAT,
        "version": version("expander-sae"),
        "activations": sha256_file(activations.path / MANIFEST),
        "views": [[one.name, one.sha256] for one in views],
        "settings": dataclasses.asdict(settings),
        "logit_lens": None if lens is None else lens.said,
    }
    if out.exists() and not overwrite:
        if _made_from(out) == made_from:
            return out
        raise ExpanderSaeError(
            f"{out} is there already, and this would write something else. Choose another place, or replace it with "
            "--overwrite."
        )
    folder = work_folder(out)
    with alone_in(folder, "features", "makes this feature store"):
        remove_leftovers(out.parent, out.name)
        gathered = Pass(views, activations, settings, folder, made_from, every=every)
        with Bars("Features", show=progress) as bars:
            bar = bars.begin("tokens", gathered.offered)
            gathered.run(lambda tokens: bars.advance(bar, tokens))
            latents = sum({one.sha256: one.sae.n_latents for one in views}.values())
            bar = bars.begin("latents", latents * (1 if lens is None else 2))
            with write_atomically(out) as temporary, StoreWriter(temporary) as writer:
                writer.meta(_meta(activations, gathered, lens, made_from))
                finish = Finish(writer, gathered, tokenizer, lens, lambda done: bars.advance(bar, done))
                finish.write(lambda source: _config(source, differences[source.sha256]))
    shutil.rmtree(folder, ignore_errors=True)
    return out


def _check(views: list[Source], activations: ActivationStore, tokenizer: Any, out: Path) -> None:
    settings = activations.manifest["settings"]
    if "tokenizer_sha256" not in settings:
        raise ExpanderSaeError(
            f"expected activations of a text, with its tokens; got others in {activations.path}. `expander-sae "
            "harvest` makes them."
        )
    if settings["tokenizer_sha256"] != tokenizer_hash(tokenizer):
        raise ExpanderSaeError(
            f"expected the tokenizer that the activations in {activations.path} were harvested with; got another one. "
            "Give the language model they came from with --model."
        )
    for one in views:
        if one.sae.d_in != activations.d_in:
            raise ExpanderSaeError(
                f"expected activations of d_in {one.sae.d_in}, that of {one.sae_name}; got {activations.d_in} in "
                f"{activations.path}. Were they harvested from another model?"
            )
    if out.is_dir():
        raise ExpanderSaeError(f"expected a file to write; got a folder, {out}")


def _lens(model: LanguageModel, settings: dict[str, Any], tokenizer: Any) -> LogitLens | None:
    """None: the activations are of another width than what the unembedding reads."""
    revision = settings.get("model_revision")
    if revision not in (None, "unknown", model.revision):
        raise ExpanderSaeError(
            f"expected the language model that the activations came from, {settings.get('model_id')} "
            f"({str(revision)[:19]}); got {model.model_id} ({model.revision[:19]})"
        )
    lens = logit_lens(model.model, len(tokenizer))
    return lens if lens.unembedding.shape[1] == settings["d_in"] else None


def _meta(
    activations: ActivationStore, gathered: Pass, lens: LogitLens | None, made_from: dict[str, Any]
) -> dict[str, Any]:
    manifest, settings = activations.manifest, activations.manifest["settings"]
    module = settings.get("module")
    return {
        "made_by": f"expander-sae {version('expander-sae')}",
        "model_id": settings["model_id"],
        "revision": settings.get("model_revision"),
        "layer": None if module else settings.get("layer"),
        "module": module,
        "hook": f"output of {module}" if module else f"residual stream after block {settings.get('layer')}",
        "dataset": manifest.get("text_source"),
        "split": gathered.settings.split,
        "tokens": gathered.tokens,
        "outliers": gathered.offered - gathered.tokens,
        "documents": len(set(documents_of(gathered.text)[: gathered.blocks].tolist())),
        "context": gathered.text.input_ids.shape[1],
        "logit_lens": None if lens is None else lens.said,
        "made_from": made_from,
    }


def _config(source: Source, differences: list[str] | None) -> dict[str, Any]:
    """What else is on record of an SAE."""
    described = source.sae.describe() if hasattr(source.sae, "describe") else {"signed": source.sae.signed}
    return {"described": described, "metadata": source.sae.metadata, "mismatches": differences}


def _made_from(out: Path) -> Any:
    """What a store that is there was made from; None: it is none, or damaged."""
    try:
        with LatentStore.open(out) as store:
            return store.meta.get("made_from")
    except ExpanderSaeError:
        return None
