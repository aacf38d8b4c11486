"""`expander-sae probe --first-letters`: trained SAEs and a language model in; how much is absorbed out."""

import warnings
from pathlib import Path

from rich import box
from rich.table import Table

from expander_sae.records import AbsorptionRecord, ExpanderSaeWarning, write_json
from expander_sae.records.progress import Bars

from .console import output
from .probe_texts import open_saes


def probe_words(
    folders: list[Path],
    model: str | None,
    inference: str | None,
    *,
    layer: int | None,
    max_words: int,
    seed: int,
    device: str,
    compute_dtype: str,
    json: Path | None,
    quiet: bool,
) -> None:
    """Measure absorption of first letters, write the records and print them; warn where it is not to be leaned on."""
    from expander_sae.evaluation.meaning import absorption, cautions, read_words

    saes, at, load_model = open_saes(
        folders, inference, model=model, layer=layer, device=device, compute_dtype=compute_dtype
    )
    language_model = load_model()
    said = cautions(language_model, saes)
    for caution in said:
        warnings.warn(caution, ExpanderSaeWarning, stacklevel=1)
    with Bars("Probing", show=not quiet) as bars:
        bar = bars.begin("words", max_words)
        words = read_words(
            language_model, at, max_words=max_words, seed=seed, say=lambda done: bars.update(bar, done=done)
        )
    records = [absorption(name, sae, words, cautions=said) for name, sae in saes.items()]
    if json is not None:
        write_json(json, [record.to_dict() for record in records])
    if not quiet:
        output(json, soft_wrap=False).print(absorption_table(records))


def absorption_table(records: list[AbsorptionRecord]) -> Table:
    """One row for each SAE; fits 80 columns."""
    first = records[0]
    drawn = Table(
        title=f"Absorption of first letters: {first.words:,} words, {first.letters} letters; lower is better",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    drawn.add_column("SAE", overflow="fold")
    for heading in ("fraction", "full", "latents a letter"):
        drawn.add_column(heading, justify="right")
    for record in records:
        values = (f"{record.absorption_fraction:.3f}", f"{record.full_absorption:.3f}", f"{record.split_latents:.2f}")
        drawn.add_row(record.name, *values)
    return drawn
