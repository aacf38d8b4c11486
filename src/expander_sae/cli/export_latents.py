"""`expander-sae export-latents`: a feature store in, the files that another tool shows latents from out."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expander_sae.records import ExpanderSaeError, write_json
from expander_sae.records.progress import Bars

from .console import output
from .options import FeatureStore, Quiet

if TYPE_CHECKING:
    from expander_sae.latents import LatentStore, View

_FORMATS = ("neuronpedia", "neuronpedia-bulk", "saedashboard", "delphi")
_KEY = "NEURONPEDIA_API_KEY"


def export_latents(
    store: FeatureStore,
    to: Annotated[
        str,
        typer.Option(
            help="neuronpedia (bodies of its upload), neuronpedia-bulk (the folder that its importer reads), "
            "saedashboard (batch-*.json), or delphi (codes over the text, for its scorers; needs --acts)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    view: Annotated[
        str | None, typer.Option(help="Which SAE and reading, by name or number.", show_default="the first")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The language model's name there.", show_default="the one harvested")
    ] = None,
    source_set: Annotated[
        str | None, typer.Option(help="Name of the set of SAEs there; a source is LAYER-SET.", show_default="res-SAE")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Where a set has several SAEs of a layer: LAYER-SET__SUFFIX.")] = "",
    labels: Annotated[Path | None, typer.Option(help="File of labels to read.", show_default="STORE.labels.db")] = None,
    method_name: Annotated[
        str | None, typer.Option(help="For Neuronpedia: how latents were explained, by a name that it knows.")
    ] = None,
    explained_by: Annotated[
        str | None, typer.Option(help="For Neuronpedia: the model that explained, by a name that it knows.")
    ] = None,
    creator_id: Annotated[
        str | None, typer.Option(help="For neuronpedia-bulk: the account's id.", show_default="SAEDashboard's own")
    ] = None,
    creator_name: Annotated[str, typer.Option(help="For neuronpedia-bulk: whose name is shown.")] = "",
    release: Annotated[
        str | None, typer.Option(help="For neuronpedia-bulk: name of the release.", show_default="the set's")
    ] = None,
    release_url: Annotated[str, typer.Option(help="For neuronpedia-bulk: its address.")] = "",
    post: Annotated[
        str | None,
        typer.Option(help=f"For neuronpedia: also upload to this site, with the key in the environment as {_KEY}."),
    ] = None,
    acts: Annotated[
        Path | None, typer.Option(help="For delphi: activations that `expander-sae harvest` wrote.")
    ] = None,
    sae: Annotated[
        Path | None, typer.Option(help="For delphi: folder of the SAE.", show_default="where the store found it")
    ] = None,
    split: Annotated[str, typer.Option(help="For delphi: side of the activations, heldout or train.")] = "heldout",
    json: Annotated[Path | None, typer.Option(help="Also write what was written as JSON to this file.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write the latents of a feature store for Neuronpedia, SAEDashboard or delphi.

    docs/guides/exports-of-latents.md says what each gets. Files that are there are written anew.
    """
    from expander_sae.latents import LatentStore

    if to not in _FORMATS:
        raise ExpanderSaeError(f"expected --to out of {', '.join(_FORMATS)}; got {to!r}")
    given = {"--post": (post, "neuronpedia"), "--acts": (acts, "delphi"), "--sae": (sae, "delphi")}
    for name, (value, only) in given.items():
        if value is not None and to != only:
            raise ExpanderSaeError(f"expected {name} with --to {only} only; got it with --to {to}")
    key = os.environ.get(_KEY, "")
    if post is not None and not key:
        raise ExpanderSaeError(f"expected an API key in the environment as {_KEY} for --post; got none")
    with LatentStore.open(store) as opened:
        chosen = opened.view(int(view) if view is not None and view.isdigit() else view)
        name = model or Path(str(opened.meta.get("model_id") or "model")).name
        if to == "delphi":
            told = _delphi(opened, chosen, out, model or str(opened.meta.get("model_id")), sae, acts, split, quiet)
        else:
            named = source_set or f"res-{_small(chosen.sae)}"
            options = {"method_name": method_name, "model_name": explained_by}
            bulk = {
                "creator_name": creator_name, "release": release or "", "url": release_url,
                **({"creator": creator_id} if creator_id else {}),
            }  # fmt: skip
            exported = _exported(opened, chosen, labels, store, _small(name), named, suffix)
            files = _files(exported, to, out, options, bulk, quiet)
            told = {"source": exported.source, "files": len(files)}
            if post is not None:
                told["posted"] = _post(files, post, key, quiet)
    if json is not None:
        write_json(json, {"format": to, "view": chosen.name, **told})
    output(json, quiet=quiet).print(f"{chosen.name} for {to}: {out} ({_counts(told)})")


def _exported(opened: Any, chosen: Any, labels: Path | None, store: Path, *names: str) -> Any:
    from expander_sae.latents import LabelFile
    from expander_sae.latents.exports.exported import Exported

    file = LabelFile.beside(store) if labels is None else LabelFile(labels)
    return Exported(opened, chosen, file, *names)


def _files(exported: Any, to: str, out: Path, options: dict[str, Any], bulk: dict[str, Any], quiet: bool) -> list[Path]:
    from expander_sae.latents.exports.neuronpedia import write_neuronpedia
    from expander_sae.latents.exports.neuronpedia_bulk import write_neuronpedia_bulk
    from expander_sae.latents.exports.saedashboard import write_saedashboard

    writers = {
        "neuronpedia": lambda: write_neuronpedia(exported, out, **options),
        "neuronpedia-bulk": lambda: write_neuronpedia_bulk(exported, out, **options, **bulk),
        "saedashboard": lambda: write_saedashboard(exported, out),
    }
    files = []
    with Bars("Exporting", show=not quiet) as bars:
        bar = bars.begin("files", None)
        for file in writers[to]():
            files.append(file)
            bars.advance(bar, 1)
    return files


def _post(files: list[Path], url: str, key: str, quiet: bool) -> int:
    from expander_sae.latents.exports.upload import upload

    posted = 0
    with Bars("Uploading", show=not quiet) as bars:
        bar = bars.begin("files", len(files))
        for _, now in upload(files, url, key):
            posted += now
            bars.advance(bar, 1)
    return posted


def _delphi(
    opened: LatentStore, chosen: View, out: Path, model: str, sae: Path | None, acts: Path | None, split: str,
    quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    from expander_sae.activations import ActivationStore  # torch takes seconds to import
    from expander_sae.interop import read_sae
    from expander_sae.latents.exports.delphi import write_delphi
    from expander_sae.latents.identity import sae_sha256
    from expander_sae.pursuit import parse_reading

    if acts is None:
        raise ExpanderSaeError("expected --acts FOLDER with --to delphi, which takes codes over the text; got none")
    folder = sae or Path(chosen.folder)
    loaded = read_sae(folder)
    if sae_sha256(loaded) != chosen.sha256:
        raise ExpanderSaeError(f"expected the SAE of {chosen.name} in {folder}; got another one. Give it with --sae.")
    found = ActivationStore.open(acts)
    with Bars("Encoding", show=not quiet) as bars:
        bar = bars.begin("tokens", found.n_tokens(split))
        return write_delphi(
            loaded.read_by(parse_reading(chosen.reading)), found, out,
            module=f"layers.{opened.meta.get('layer')}", model=model, split=split,
            progress=lambda count: bars.advance(bar, count),
        )  # fmt: skip


def _small(name: str) -> str:
    """A name as Neuronpedia has them."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "model"


def _counts(told: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in told.items())
