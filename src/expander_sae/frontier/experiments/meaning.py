"""Do latents mean something? Sparse probing of every SAE of the grid, beside what was never trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expander_sae.evaluation.features import dense_columns
from expander_sae.saes import load_sae

from ..drawing import Line, lines
from ..page import Page, Row, Table, by, known, numbers, over_seeds, table_by
from .context import Context, Grid, Read, name_of
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
_JUDGED = {
    "values": ("values", 0),
    "fvu": ("fvu", 3),
    "Δ CE, nats": ("delta_ce", 3),
    "F1 of the best latent": ("f1_1", 3),
    "best 5": ("f1_5", 3),
    "narrow": ("narrow_f1", 3),
    "latents kept": ("noise/support_kept", 3),
    "energy kept": ("noise/energy_kept", 3),
    "PW-MCC": ("again/pw_mcc", 3),
    "CPU seconds": ("cpu_seconds", 0),
}
_HOW_JUDGED = (
    "Kept: share of the active latents, and of the energy of codes, that stays under Gaussian noise of 1% of ‖x − b‖. "
    "PW-MCC: columns in pairs, one to one, with those of the next seed's SAE, mean |cosine|. CPU seconds: of an SAE's "
    "own training steps, all threads; of one cut out of a dense SAE with that one's. Mean over seeds ± half width of "
    "the 95% interval, below it every seed."
)
_GROUPS = {
    **{group: (f"broad_by_group/{group}", 3) for group in ("token", "form", "context", "position", "article")},
    **{group: (f"narrow_by_group/{group}", 3) for group in ("word", "name", "pair", "topic")},
}
_NULLS = ("untrained", "coordinates")
_AT_ONCE = 512
"""Tokens; their codes are spread out."""


def measure(context: Context) -> Measured:
    """Probe every SAE by its own reading and by those asked for, an untrained twin of each, and the coordinates."""
    from .probes import Probes  # needs scikit-learn, which pages do not

    probes = Probes(context, context.option("tokens"))
    readings = [str(reading) for reading in context.option("readings")]
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"), readings=readings)
    rows = []
    for one in grid.read(readings):
        trained, never = probes.beside_its_twin(grid, one)
        rows += [{**trained, **_judged(context, grid, one)}, never]
    rows += [probes.raw_coordinates(), probes.principal_components()]
    return {"saes": rows, "frontier": grid.records()}


def _judged(context: Context, grid: Grid, one: Read) -> dict[str, Any]:
    """What a recipe is judged by besides probes."""
    from expander_sae.evaluation.meaning import match_directions, under_noise
    from expander_sae.evaluation.meaning.probe import NOISE

    record, tokens, twin = one.record, context.option("noise_tokens"), grid.twin(one.record)
    own = grid.depends_on(record)

    def noise() -> dict[str, float]:
        return under_noise(one.sae, context.heldout_blocks(tokens, _AT_ONCE), [NOISE])[0]

    def again() -> dict[str, float]:
        assert twin is not None
        columns = [dense_columns(sae) for sae in (one.sae, load_sae(grid.folder / twin.folder))]
        return {"pw_mcc": float(match_directions(*columns).cosine.mean())}

    context.say(f"noise and twin of {one.name}")
    found: dict[str, Any] = {
        "delta_ce": None if one.evaluation is None else one.evaluation.delta_ce,
        "cpu_seconds": grid.cpu_seconds(record),
        "noise": context.piece(f"{one.name}-noise", {**own, "noise": NOISE, "tokens": tokens}, noise),
    }
    if twin is not None:
        depends = {**own, "twin": grid.depends_on(twin)["sae"]}
        found["again"] = context.piece(f"{name_of(record)}-again", depends, again)
    return found


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
        "interval. docs/concepts/meaning.md has the definitions."
    )
    return Page(
        claim=_claim(trained, empty),
        tables=[
            table_by("What recipes are judged by", trained, known(_JUDGED, trained), _HOW_JUDGED, "SAE", "read by"),
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
        "noise_tokens": 4096,
    },
)
