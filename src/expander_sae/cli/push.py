"""`expander-sae push`: a trained SAE in, a repository on the hub with a model card out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from expander_sae.records import EvaluationRecord, ExpanderSaeError, ProbeRecord, read_json
from expander_sae.records.files import naming

from .console import output
from .options import Overwrite
from .results import write_result


def push(
    sae: Annotated[Path, typer.Argument(help="Folder of a trained SAE.")],
    repo: Annotated[str, typer.Argument(help="owner/name on the hub; with --to-folder, the name on the card.")],
    evaluation: Annotated[
        Path | None, typer.Option(help="JSON that `expander-sae eval --json` wrote; its numbers go on the card.")
    ] = None,
    probes: Annotated[
        Path | None,
        typer.Option(help="JSON that `expander-sae probe --acts --json` wrote: what latents tell, and the nulls."),
    ] = None,
    licence: Annotated[str, typer.Option(help="Of the SAE, as the hub spells it.")] = "apache-2.0",
    values: Annotated[str, typer.Option(help="Type of the dictionary's values: float32, float16, ...")] = "float32",
    private: Annotated[bool, typer.Option("--private", help="Make a private repository.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch.", show_default="main")] = None,
    to_folder: Annotated[
        Path | None, typer.Option(help="Write what would be pushed into this folder, and push nothing.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing.")] = False,
) -> None:
    """Upload an SAE with a model card made from its records; log in with `hf auth login` first.

    HF_ENDPOINT in the environment names another hub than huggingface.co.
    """
    from expander_sae.interop.hub import push_to_hub, save_pretrained  # torch takes seconds to import
    from expander_sae.saes import load_sae

    loaded = load_sae(sae)
    records = {} if evaluation is None else _records(evaluation)
    told = [] if probes is None else _probes(probes)
    if to_folder is not None:
        name = repo.rpartition("/")[2]
        card: dict[str, Any] = {"name": name, "evaluations": records, "probes": told, "licence": licence}
        write_result(to_folder, overwrite, lambda out: save_pretrained(loaded, out, **card, values=values))
        place = str(to_folder)
    else:
        place = push_to_hub(
            loaded,
            repo,
            evaluations=records,
            probes=told,
            licence=licence,
            values=values,
            private=private or None,
            revision=revision,
        )
    if not quiet:
        output().print(place)


def _records(path: Path) -> dict[str, EvaluationRecord]:
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(record, dict) for record in found.values()):
        raise ExpanderSaeError(
            f"expected records by name in {path}, as `expander-sae eval --json` writes them; got {type(found).__name__}"
        )
    with naming(path):
        return {name: EvaluationRecord.from_dict(record) for name, record in found.items()}


def _probes(path: Path) -> list[ProbeRecord]:
    found = read_json(path)
    if not isinstance(found, list):
        raise ExpanderSaeError(
            f"expected a list of records in {path}, as `expander-sae probe --acts ACTS --json` writes it; got "
            f"{type(found).__name__}"
        )
    with naming(path):
        return [ProbeRecord.from_dict(record) for record in found]
