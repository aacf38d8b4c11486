"""`expander-sae probe --labelled`: trained SAEs, a language model and labelled texts in; accuracies out."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich import box
from rich.table import Table

from expander_sae.records import ExpanderSaeError, LabelledProbeRecord, Provenance, check_provenance, write_json
from expander_sae.records.progress import Bars

from .console import output


class Texts(NamedTuple):
    """How labelled texts are read."""

    layer: int | None
    context: int
    train_texts: int
    test_texts: int
    keep_special_tokens: bool
    seed: int


def probe_texts(
    folders: list[Path],
    labelled: str,
    model: str | None,
    inference: str | None,
    texts: Texts,
    *,
    nulls: bool,
    auc: bool,
    perturb: bool,
    device: str,
    compute_dtype: str,
    json: Path | None,
    quiet: bool,
) -> None:
    """Probe SAEs for the classes of labelled texts, write the records and print them."""
    from expander_sae.evaluation.meaning import HUB_SETS, deal, probe_labelled, read_hub_set, read_labelled

    saes, layer, load_model = open_saes(
        folders, inference, model=model, layer=texts.layer, device=device, compute_dtype=compute_dtype
    )
    read = read_hub_set(labelled) if labelled in HUB_SETS else read_labelled(labelled)
    dealt = deal(read, train_size=texts.train_texts, test_size=texts.test_texts, seed=texts.seed)
    language_model = load_model()
    with Bars("Probing", show=not quiet) as bars:
        bar = bars.begin("texts", len(dealt.texts))
        records = probe_labelled(
            saes,
            dealt,
            language_model,
            layer,
            context=texts.context,
            keep_special_tokens=texts.keep_special_tokens,
            nulls=nulls,
            auc=auc,
            perturbation=perturb,
            seed=texts.seed,
            say=lambda done: bars.update(bar, done=done),
        )
    if json is not None:
        write_json(json, [record.to_dict() for record in records])
    if not quiet:
        output(json, soft_wrap=False).print(accuracy_table(records), *more_tables(records))


def open_saes(
    folders: list[Path], inference: str | None, *, model: str | None, layer: int | None, device: str, compute_dtype: str
) -> tuple[dict[str, Any], int, Callable[[], Any]]:
    """SAEs by name, read as asked; the layer that they explain; and what loads the language model.

    Raises:
        ExpanderSaeError: an SAE that is none, or layers or a model that are not on record and not given.
    """
    from expander_sae.activations import load_language_model

    from .source import model_name

    saes = read_saes(folders, inference, device)
    name = model_name(model, next(iter(saes.values())).metadata.get("activations", {}))
    return saes, _layer_of(saes, layer), partial(load_language_model, name, dtype=compute_dtype, device=device)


def read_saes(folders: list[Path], inference: str | None, device: str = "cpu") -> dict[str, Any]:
    """SAEs by name, read as asked."""
    from expander_sae.interop import read_sae

    from .evaluate import read_otherwise, sae_names

    return read_otherwise({name: read_sae(folder).to(device) for name, folder in sae_names(folders).items()}, inference)


def _layer_of(saes: dict[str, Any], given: int | None) -> int:
    """The layer asked for, or the one that all SAEs were trained on.

    Raises:
        ExpanderSaeError: it is not on record and not given, or they were trained on several.
    """
    layers = {sae.metadata.get("activations", {}).get("layer") for sae in saes.values()}
    if given is None and (len(layers) > 1 or None in layers):
        raise ExpanderSaeError(
            f"expected SAEs that were trained on one layer; got {sorted(map(str, layers))} on record. Give --layer."
        )
    layer = next(iter(layers)) if given is None else given
    for name, sae in saes.items():
        check_provenance(f"that {name} is probed on", sae, Provenance(layer=layer))
    return layer


def accuracy_table(records: list[LabelledProbeRecord]) -> Table:
    """Accuracies of every dictionary and null; fits 80 columns."""
    first = records[0]
    title = f"Test accuracy on {first.dataset}: {first.tasks} balanced tasks, {first.texts:,} texts; chance is .500"
    rows = {
        record.name: (record.accuracy_1, record.accuracy_2, record.accuracy_5, record.accuracy_all)
        for record in records
    }
    return _drawn(title, ("best 1", "best 2", "best 5", "all"), rows, records)


def more_tables(records: list[LabelledProbeRecord]) -> list[Table]:
    """What else was measured, each in a table."""
    titles = {
        "auc": "Test area under the curve by penalty and latents",
        "tpp": "Targeted probe perturbation by latents ablated (higher: more of its own class)",
        "scr": "Spurious correlation removed by latents ablated (1 is all of it)",
    }
    drawn = []
    for name, title in titles.items():
        rows = {record.name: getattr(record, name) for record in records if getattr(record, name)}
        if rows:
            columns = list(next(iter(rows.values())))
            drawn.append(_drawn(title, columns, {key: tuple(row.values()) for key, row in rows.items()}, records))
    return drawn


def _drawn(
    title: str, headings: Sequence[str], rows: dict[str, tuple[float, ...]], records: list[LabelledProbeRecord]
) -> Table:
    drawn = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.add_column("dictionary", overflow="fold")
    for heading in headings:
        drawn.add_column(heading.replace(" ", "\n") if len(headings) > 4 else heading, justify="right")
    nulls = False
    for record in records:
        if record.name in rows:
            if record.kind in ("untrained", "coordinates") and not nulls:
                nulls = True
                drawn.add_section()
            drawn.add_row(record.name, *(f"{value:.3f}" for value in rows[record.name]))
    return drawn
