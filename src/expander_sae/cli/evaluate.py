"""`expander-sae eval`: trained SAEs and held-out activations in, every metric out."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from expander_sae.records import EvaluationRecord, ExpanderSaeError, write_json
from expander_sae.records.metrics import METRICS
from expander_sae.records.remote import is_remote

from .console import output
from .options import (
    Activations,
    ComputeDtype,
    CrossEntropy,
    CrossEntropyTokens,
    Device,
    EncodedAtOnce,
    Json,
    KeepSpecialTokens,
    MaxTokens,
    Model,
    Quiet,
)


def evaluate(
    acts: Activations,
    saes: Annotated[
        list[Path], typer.Argument(help="Folders of one or more trained SAEs, of this package or of another library.")
    ],
    model: Model = None,
    ce: CrossEntropy = True,
    ce_tokens: CrossEntropyTokens = 16_384,
    max_tokens: MaxTokens = None,
    split: Annotated[
        str, typer.Option(help="Side of the document split to evaluate on: heldout or train.")
    ] = "heldout",
    splice: Annotated[
        str,
        typer.Option(
            help="Where the model's activation is replaced: ordinary (not at first positions, special and giant "
            "tokens) or everywhere (as in the paper)."
        ),
    ] = "ordinary",
    keep_special_tokens: KeepSpecialTokens = False,
    outlier_medians: Annotated[
        float, typer.Option(help="Leave out tokens with a norm above this many medians; 0 keeps all.")
    ] = 5.0,
    inference: Annotated[
        str | None,
        typer.Option(
            help="How codes are read, one or more with commas: encoder, refit, stages:T, omp, warm:M, nnomp, mp, "
            "gradient, cosamp, niht; see docs/concepts/readings.md.",
            show_default="the SAE's own",
        ),
    ] = None,
    batch_size: EncodedAtOnce = 2048,
    compute_dtype: ComputeDtype = "auto",
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Measure trained SAEs on text they were not trained on; docs/reference/metrics.md defines every number."""
    from expander_sae.activations import ActivationStore, load_language_model  # torch takes seconds to import
    from expander_sae.evaluation import evaluate as run
    from expander_sae.interop import read_sae

    from .source import model_name

    store = ActivationStore.open(acts)
    # Any: an SAE of another library that is no AbstractSae here has what evaluation reads.
    loaded: dict[str, Any] = {name: read_sae(folder).to(device) for name, folder in sae_names(saes).items()}
    loaded = read_otherwise(loaded, inference)
    language_model = None
    if ce:
        name = model_name(model, store.manifest["settings"])
        language_model = load_language_model(name, dtype=compute_dtype, device=device)
    records = run(
        loaded,
        store,
        language_model=language_model,
        split=split,
        max_tokens=max_tokens,
        ce_tokens=ce_tokens or None,
        splice=splice,
        batch_size=batch_size,
        keep_special_tokens=keep_special_tokens,
        outlier_medians=outlier_medians or None,
        progress=not quiet,
    )
    if json is not None:
        write_json(json, {name: record.to_dict() for name, record in records.items()})
    if not quiet:
        output(json, soft_wrap=False).print(*tables(list(records.values())))


def read_otherwise(saes: dict[str, Any], inference: str | None) -> dict[str, Any]:
    """SAEs with codes read as an option says: one for each reading of each, named after it where there are several."""
    from expander_sae.pursuit import parse_reading

    if inference is None:
        return saes
    readings = [part.strip() for part in inference.split(",") if part.strip()]
    return {
        name if len(readings) == 1 else f"{name} {reading}": sae.read_by(parse_reading(reading))
        for name, sae in saes.items()
        for reading in readings
    }


def sae_names(folders: list[Path]) -> dict[str, Path]:
    """Short names for SAE folders: the last part of the path, or as many parts as tell them apart.

    Raises:
        ExpanderSaeError: a folder is given twice.
    """
    paths = [folder if is_remote(folder) else folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ExpanderSaeError("expected every SAE folder once; got one twice")
    parts = 1
    while len({path.parts[-parts:] for path in paths}) < len(paths):
        parts += 1
    return {"/".join(path.parts[-parts:]): path for path in paths}


def tables(records: list[EvaluationRecord]) -> list[Table]:
    """One table for reconstruction and, where it was measured, one for cross entropy; both fit 80 columns."""
    first = records[0]
    drawn = [_table(f"Reconstruction of {first.tokens:,} {first.split} tokens", "reconstruction", records)]
    if first.ce_clean is not None:
        title = (
            f"Cross entropy over {first.ce_tokens:,} predicted tokens, nats: {first.ce_clean:.3f} clean, "
            f"{first.ce_mean:.3f} mean-ablated, {first.ce_zero:.3f} zero-ablated; splice {first.splice}"
        )
        drawn.append(_table(title, "cross entropy", records))
    return drawn


def _table(title: str, group: str, records: list[EvaluationRecord]) -> Table:
    metrics = [metric for metric in METRICS if metric.group == group]
    drawn = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("SAE", overflow="fold")
    sizes = group == "reconstruction"
    for heading in (*(["learned values"] * sizes), *(metric.heading for metric in metrics)):
        drawn.add_column(heading, justify="right")
    for record in records:
        cells = (metric.text(getattr(record, metric.name)) for metric in metrics)
        drawn.add_row(record.name, *([f"{record.learned_values:,}"] * sizes), *cells)
    return drawn
