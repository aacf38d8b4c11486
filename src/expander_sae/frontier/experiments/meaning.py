"""Do latents mean something? Sparse probing of every SAE of the grid, beside what was never trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from expander_sae.evaluation.meaning import Probed, prepare
from expander_sae.evaluation.meaning.features import coordinates, latent_features, principal_components
from expander_sae.evaluation.meaning.probe import score
from expander_sae.evaluation.nulls import SAMPLE, untrained
from expander_sae.pursuit import Reading, parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

from ..drawing import Line, lines
from ..page import Page, Row, Table, by, numbers, over_seeds
from .context import Context, name_of, written
from .experiment import Experiment, Measured
from .quality import diverged

_COLUMNS = {
    "fvu": ("fvu", 3),
    "broad, best latent": ("f1_1", 3),
    "best 5": ("f1_5", 3),
    "shuffled": ("shuffled_f1_1", 3),
    "narrow": ("narrow_f1", 3),
    "above .5": ("narrow_above_half", 3),
    "density": ("density", 4),
}
_GROUPS = {
    **{group: (f"broad_by_group/{group}", 3) for group in ("token", "form", "context", "position", "article")},
    **{group: (f"narrow_by_group/{group}", 3) for group in ("word", "name", "pair", "topic")},
}
_NULLS = ("untrained", "coordinates")


def measure(context: Context) -> Measured:
    """Probe every SAE by its own reading and by those asked for, an untrained twin of each, and the coordinates."""
    model = context.language_model()
    if model is None:
        raise ExpanderSaeError(
            "expected the language model whose tokens are probed for concepts; got none. Give it with --model, without "
            "--no-ce"
        )
    readings = [str(reading) for reading in context.option("readings")]
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"), readings=readings)
    probed = prepare(
        context.store, model.tokenizer, max_tokens=context.option("tokens"),
        keep_special_tokens=context.settings.evaluation().keep_special_tokens,
    )  # fmt: skip
    sample = context.store.sample("train", SAMPLE, seed=0)
    fvu = {
        (record.variant, record.seed, record.reading): record.evaluation.fvu
        for record in (*grid.frontier.records, *grid.frontier.readings)
        if record.evaluation is not None
    }
    rows = []
    for record, sae in grid.saes():
        depends = {"sae": written(grid.folder / record.folder), "tokens": context.option("tokens")}
        for asked, reading in _readings(sae, readings):
            read = sae.read_by(reading)
            for kind, one in (("trained", read), ("untrained", untrained(read, sample, seed=record.seed + 1))):
                name = f"{name_of(record)}-{reading}-{kind}".replace(":", "")
                context.say(f"probing {name}")
                make = partial(_probe, one, probed, kind)
                found = {"read_by": str(reading), "kind": kind, "values": sae.learned_values()}
                if kind == "trained":
                    found["fvu"] = fvu[record.variant, record.seed, asked]
                rows.append(context.row(record, name, depends, make, **found))
    nulls: dict[str, Callable[[], Any]] = {
        "raw coordinates": lambda: coordinates(probed.x),
        "principal components": lambda: principal_components(probed.x, sample),
    }
    for name, make_features in nulls.items():
        context.say(f"probing {name}")
        depends = {"tokens": context.option("tokens")}
        made = context.piece(
            name.replace(" ", "-"), depends, lambda make=make_features: _score(make(), probed, "coordinates")
        )
        rows.append(
            {"variant": name, "family": "", "seed": 0, "read_by": "", "kind": "coordinates", "values": 0, **made}
        )
    return {"saes": rows, "frontier": grid.records()}


def _readings(sae: AbstractSae, readings: Sequence[str]) -> Iterator[tuple[str | None, Reading]]:
    """Its own reading (asked for as None), then the others that it has columns enough for."""
    yield None, sae.reading
    for text in readings:
        reading = parse_reading(text)
        if reading.fits(sae.k, sae.n_latents) and reading != sae.reading:
            yield text, reading


def _probe(sae: AbstractSae, probed: Probed, kind: str) -> dict[str, Any]:
    return _score(latent_features(kind, sae, probed.x), probed, kind)


def _score(features: Any, probed: Probed, kind: str) -> dict[str, Any]:
    found = score(features, probed, "standardised", 0, kind=kind, reading="", learned_values=0).to_dict()
    return {name: value for name, value in found.items() if name not in ("name", "kind", "reading", "learned_values")}


def show(measured: Measured) -> Page:
    """Probes by SAE and reading, the nulls below; meaning against fidelity as a figure."""
    rows = measured["saes"]
    trained = by((row for row in rows if row["kind"] == "trained"), "variant", "read_by")
    empty = by((row for row in rows if row["kind"] in _NULLS), "variant", "read_by")
    head = ["SAE", "read by", "values"]

    def table(title: str, columns: Mapping[str, tuple[Any, ...]], note: str) -> Table:
        cells = []
        for (variant, reading), mine in [*trained.items(), *empty.items()]:
            null = mine[0]["kind"] == "untrained"
            cells.append(
                [f"{variant}, untrained" if null else variant, reading, 0 if null else mine[0]["values"],
                 *numbers(mine, columns)]
            )  # fmt: skip
        return Table(title, [*head, *columns], cells, note)

    first = rows[0]
    note = (
        f"F1 of the best latents on {first['tokens']:,} held-out tokens of {first['documents']} documents: "
        f"{first['broad_concepts']} broad concepts (best one and best five latents, logistic regression) and "
        f"{first['narrow_concepts']} narrow ones (best latent and threshold); chosen and fitted on one half of the "
        "documents, tested on the other. Shuffled: labels at other tokens. Mean over seeds ± half width of the 95% "
        "interval. docs/meaning.md has the definitions."
    )
    return Page(
        claim=_claim(trained, empty),
        tables=[
            table("How well latents tell concepts", _COLUMNS, note),
            table("The best latent by group of concepts", _GROUPS, "Broad: the first five."),
        ],
        figures=[_against_fidelity(trained, path, words) for path, words in
                 (("f1_1", "broad concepts"), ("narrow_f1", "narrow concepts"))],
        notes=diverged(measured["frontier"]),
    )  # fmt: skip


def _against_fidelity(trained: Mapping[Any, Sequence[Row]], path: str, words: str) -> Any:
    drawn = []
    for (variant, reading), mine in trained.items():
        left, found = over_seeds(mine, "fvu"), over_seeds(mine, path)
        if left is not None:
            drawn.append(Line(f"{variant}, {reading}", [(left.mean, found)], family=mine[0]["family"]))
    return lines(
        f"{path}_against_fvu", f"F1 of the best latent for {words} against the variance left unexplained", drawn,
        x="fvu", y=f"F1 of the best latent, {words}", title=f"{words[:1].upper()}{words[1:]} (up and left is better)",
    )  # fmt: skip


def _claim(trained: Mapping[Any, Sequence[Row]], empty: Mapping[Any, Sequence[Row]]) -> str:
    """Which SAEs beat everything that was never trained, in both tests, seed means compared."""
    bars = {path: max(_mean(rows, path) for rows in empty.values()) for path in ("f1_1", "narrow_f1")}
    ahead = [f"{variant} ({reading})" for (variant, reading), rows in trained.items()
             if all(_mean(rows, path) > bar for path, bar in bars.items())]  # fmt: skip
    return (
        f"{len(ahead)} of {len(trained)} dictionaries have better latents than everything that was never trained "
        f"(F1 {bars['f1_1']:.3f} on broad, {bars['narrow_f1']:.3f} on narrow concepts)"
        + (f": {', '.join(ahead)}." if ahead else ".")
    )


def _mean(rows: Sequence[Row], path: str) -> float:
    found = over_seeds(rows, path)
    return float("-inf") if found is None else found.mean


EXPERIMENT = Experiment(
    name="meaning",
    question="Do latents tell concepts better than what was never trained?",
    measure=measure,
    show=show,
    options={
        "degrees": [7, 16, 32],
        "controls": ["dense", "matched", "matched-omp"],
        "readings": ["encoder", "stages:8"],
        "tokens": 60_000,
    },
)
