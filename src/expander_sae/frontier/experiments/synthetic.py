"""Recovery of planted codes: where each method stops finding exact supports, and what moves that point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from expander_sae.evaluation.planted import METHODS, Planted, exact_supports, reach
from expander_sae.paper import paper_recoveries
from expander_sae.records.spread import Rate

from ..drawing import rate_lines, rate_map
from ..page import Figure, Page, Row, Table, by
from .context import Context
from .experiment import Experiment, Measured

_SHOWN = METHODS[:4]
_DENSE = "dense"


def measure(context: Context) -> Measured:
    """One piece for each condition: successes of every method at every k, summed over the mask seeds."""
    option = context.option
    base = Planted(option("d_in"), option("n_latents"), option("degree"))
    conditions = _conditions(base, option("degrees"), option("constructions"), option("noises"))
    rows: list[dict[str, Any]] = []
    for factor, level, planted in conditions:
        methods = tuple(m for m in _SHOWN if m != "mp" or level != _DENSE)  # minutes by dense products
        rows += [{"factor": factor, "level": level, **row} for row in _runs(context, planted, option("ks"), methods)]
    paper: list[dict[str, Any]] = []
    for degree in option("paper_degrees"):
        for noise in (0.0, 0.01, 0.05):
            planted = Planted(option("d_in"), option("n_latents"), degree, "uniform", noise=noise)
            paper += _runs(context, planted, option("paper_ks"), ("omp",))
    return {"base": base.to_dict(), "rows": rows, "paper": paper, "trials": option("trials")}


def _conditions(
    base: Planted, degrees: list[int], constructions: list[str], noises: list[float]
) -> list[tuple[str, str, Planted]]:
    """One factor at a time around the base; a condition of several factors is run once."""
    found = [("degree", f"d = {degree}", base.but(degree=degree)) for degree in degrees]
    found.append(("degree", _DENSE, base.but(construction=_DENSE)))
    found += [("construction", name, base.but(construction=name)) for name in constructions]
    found += [("noise", f"{noise:g}", base.but(noise=noise)) for noise in noises]
    found += [("codes", codes, base.but(codes=codes)) for codes in ("gaussian", "half-gaussian", "signs", "uniform")]
    found += [("column values", values, base.but(values=values)) for values in ("flat", "uneven", "gaussian")]
    return found


def _runs(context: Context, planted: Planted, ks: list[int], methods: tuple[str, ...]) -> list[dict[str, Any]]:
    seeds, trials = context.settings.seeds, context.option("trials")
    mark = {"planted": planted.to_dict(), "ks": ks, "seeds": seeds, "trials": trials, "methods": methods}
    name = "-".join(str(value) for value in planted.to_dict().values()) + "-" + "-".join(m[:3] for m in methods)
    return context.piece(name, mark, partial(_recovered, context, planted, ks, methods))


def _recovered(context: Context, planted: Planted, ks: Sequence[int], methods: tuple[str, ...]) -> list[dict[str, Any]]:
    """At each k, how many of the trials of all seeds every method recovers."""
    context.say(f"planted codes: {planted}")
    seeds, trials = context.settings.seeds, context.option("trials")
    found = []
    for k in ks:
        counts = Counter[str]()
        for seed in seeds:
            counts.update(exact_supports(planted, seed, k, trials, methods))
        found.append({**planted.to_dict(), "k": k, "trials": trials * len(seeds), "found": dict(counts)})
    return found


def show(measured: Measured) -> Page:
    """A table for each factor, lines for each method, the phase map of OMP, and the paper's grid beside ours."""
    base, of = measured["base"], by(measured["rows"], "factor")
    tables = [_factor_table(factor, rows) for factor, rows in of.items()]
    figures = [
        rate_lines(
            f"{method.replace(' ', '_')}_by_{factor.replace(' ', '_')}",
            f"share of exact supports by {method} against k, one line for each {factor}",
            [(level, _points(mine, method)) for level, mine in by(rows, "level").items()],
            x="active latents k",
            title=f"{method}, by {factor}",
        )
        for factor, rows in of.items()
        for method in ("thresholding", "omp")
    ]
    degrees = of.get("degree", [])
    at_base = [row for row in degrees if row["level"] == f"d = {base['degree']}"]
    figures.append(
        rate_lines(
            "methods",
            "share of exact supports against k, one line for each method",
            [(method, _points(at_base, method)) for method in _SHOWN],
            x="active latents k",
            title="methods, in the base condition",
        )
    )
    figures.append(
        rate_map(
            "phases_omp",
            "map of OMP's share of exact supports over degree and k",
            [(row["level"], row["k"], _rate(row, "omp").share) for row in degrees],
            x="active latents k",
            y="degree",
            title="OMP",
        )
    )
    paper_table, disagreements, cells = _beside_the_paper(measured["paper"])
    if paper_table is not None:
        tables.append(paper_table)
        figures.append(_paper_figure(measured["paper"]))
    half = []
    for method in _SHOWN:
        shares = {row["k"]: _rate(row, method).share for row in at_base}
        half.append(f"k = {reach(shares.__getitem__, sorted(shares), 0.5)} by {method}")
    claim = (
        f"At {base['d_in']} x {base['n_latents']}, d = {base['degree']}, Gaussian codes without noise, half of the "
        f"supports are found up to {', '.join(half)}"
    )
    if cells:
        claim += f"; {cells - disagreements} of {cells} rates of the paper's grid agree with ours within 95% intervals"
    note = "One factor changes at a time; everything else is the base: balanced mask, flat signed columns, no noise."
    return Page(claim + ".", tables, figures, notes=[note, "k is the largest of the grid that was run."])


def _rate(row: Row, method: str) -> Rate:
    return Rate(row["found"][method], row["trials"])


def _points(rows: Sequence[Row], method: str) -> list[tuple[float, Rate]]:
    return [(row["k"], _rate(row, method)) for row in rows if method in row["found"]]


def _factor_table(factor: str, rows: Sequence[Row]) -> Table:
    ks = list(by(rows, "k"))
    cells = []
    for level, mine in by(rows, "level").items():
        for method in _SHOWN:
            rates = dict(_points(mine, method))
            cells.append([level, method, *(rates.get(k) for k in ks)])
    note = "Share of trials with exactly the planted support; below it the 95% Wilson interval."
    return Table(f"By {factor}", [factor, "method", *(f"k = {k}" for k in ks)], cells, note)


def _beside_the_paper(rows: Sequence[Row]) -> tuple[Table | None, int, int]:
    """The table of cells that both have, how many rates differ beyond both intervals, and how many there are."""
    theirs = {(r.d_in, r.n_latents, r.degree, r.k, r.noise): r for r in paper_recoveries()}
    cells, apart = [], 0
    for row in rows:
        other = theirs.get((row["d_in"], row["n_latents"], row["degree"], row["k"], row["noise"]))
        if other is None:
            continue
        mine, paper = _rate(row, "omp"), other.found
        (low, high), (least, most) = mine.interval(), paper.interval()
        differs = high < least or most < low
        apart += differs
        cells.append([row["degree"], row["k"], row["noise"], mine, paper, "apart" if differs else ""])
    if not cells:
        return None, 0, 0
    columns = ["d", "k", "noise", "ours", "paper", ""]
    note = "OMP with |correlation| for k picks, uniform masks, flat columns, Gaussian codes; 95% Wilson intervals."
    return Table("The paper's grid", columns, cells, note), apart, len(cells)


def _paper_figure(rows: Sequence[Row]) -> Figure | None:
    drawn, grey = [], []
    for degree in by(rows, "degree"):
        for noise in (0.0, 0.05):
            mine = [row for row in rows if (row["degree"], row["noise"]) == (degree, noise)]
            drawn.append((f"d = {degree}, noise {noise:g}", _points(mine, "omp")))
            same = [r for r in paper_recoveries() if (r.degree, r.noise) == (degree, noise)]
            if degree in (7, 200) and same:
                grey.append(f"paper, d = {degree}, noise {noise:g}")
                drawn.append((grey[-1], [(r.k, r.found) for r in same]))
    caption = "OMP's share of exact supports on the paper's grid, the paper's own points in grey"
    return rate_lines("paper_grid", caption, drawn, x="active latents k", title="The paper's grid", grey=grey)


EXPERIMENT = Experiment(
    name="synthetic",
    question="Up to how many active latents does each method find the support of a planted code?",
    measure=measure,
    show=show,
    needs_activations=False,
    options={
        "trials": 100,
        "d_in": 512,
        "n_latents": 4096,
        "degree": 7,
        "degrees": [4, 7, 16, 30, 64],
        "ks": [4, 8, 16, 24, 32, 48, 64, 96, 128],
        "constructions": ["balanced", "uniform", "capped", "greedy", "galois", "clustered"],
        "noises": [0.0, 0.05, 0.2, 0.45],
        "paper_degrees": [7, 30, 50, 100, 200],
        "paper_ks": [4, 8, 16, 32, 64, 128],
    },
)
