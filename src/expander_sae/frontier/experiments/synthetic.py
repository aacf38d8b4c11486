"""Recovery of planted codes: where each method stops finding exact supports, and what moves that point."""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any

from ..drawing import rate_lines, rate_map
from ..page import Page, Rate, Table
from .context import Context
from .experiment import Experiment, Measured
from .planted import METHODS, Planted, exact_supports

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

    def make() -> list[dict[str, Any]]:
        context.say(f"planted codes: {planted}")
        found = []
        for k in ks:
            counts = dict.fromkeys(methods, 0)
            for seed in seeds:
                for method, count in exact_supports(planted, seed, k, trials, methods).items():
                    counts[method] += count
            found.append({**planted.to_dict(), "k": k, "trials": trials * len(seeds), "found": counts})
        return found

    return context.piece(name, mark, make)


def show(measured: Measured) -> Page:
    """A table for each factor, lines for each method, the phase map of OMP, and the paper's grid beside ours."""
    rows, base = measured["rows"], measured["base"]
    factors = list(dict.fromkeys(row["factor"] for row in rows))
    tables = [_factor_table(factor, [r for r in rows if r["factor"] == factor]) for factor in factors]
    figures = [
        rate_lines(
            f"{method.replace(' ', '_')}_by_{factor.replace(' ', '_')}",
            f"share of exact supports by {method} against k, one line for each {factor}",
            [
                (level, _points([r for r in rows if (r["factor"], r["level"]) == (factor, level)], method))
                for level in dict.fromkeys(r["level"] for r in rows if r["factor"] == factor)
            ],
            x="active latents k",
            title=f"{method}, by {factor}",
        )
        for factor in factors
        for method in ("thresholding", "omp")
    ]  # fmt: skip
    at_base = [r for r in rows if r["factor"] == "degree" and r["level"] == f"d = {base['degree']}"]
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
            [(r["level"], r["k"], r["found"]["omp"] / r["trials"]) for r in rows if r["factor"] == "degree"],
            x="active latents k",
            y="degree",
            title="OMP",
        )
    )
    paper_table, disagreements, cells = _beside_the_paper(measured["paper"])
    if paper_table is not None:
        tables.append(paper_table)
        figures.append(_paper_figure(measured["paper"]))
    half = {method: _last_k(at_base, method, 0.5) for method in _SHOWN}
    claim = (
        f"At {base['d_in']} x {base['n_latents']}, d = {base['degree']}, Gaussian codes without noise, half of the "
        "supports are found up to " + ", ".join(f"k = {k} by {method}" for method, k in half.items())
    )
    if cells:
        claim += f"; {cells - disagreements} of {cells} rates of the paper's grid agree with ours within 95% intervals"
    note = "One factor changes at a time; everything else is the base: balanced mask, flat signed columns, no noise."
    return Page(claim + ".", tables, figures, notes=[note, "k is the largest of the grid that was run."])


def _rate(row: dict[str, Any], method: str) -> Rate:
    return Rate(row["found"][method], row["trials"])


def _points(rows: list[dict[str, Any]], method: str) -> list[tuple[float, Rate]]:
    return [(row["k"], _rate(row, method)) for row in rows if method in row["found"]]


def _factor_table(factor: str, rows: list[dict[str, Any]]) -> Table:
    ks = list(dict.fromkeys(row["k"] for row in rows))
    cells = []
    for level in dict.fromkeys(row["level"] for row in rows):
        for method in _SHOWN:
            run = [r for r in rows if r["level"] == level and method in r["found"]]
            mine = {r["k"]: _rate(r, method) for r in run}
            cells.append([level, method, *(mine.get(k) for k in ks)])
    note = "Share of trials with exactly the planted support; below it the 95% Wilson interval."
    return Table(f"By {factor}", [factor, "method", *(f"k = {k}" for k in ks)], cells, note)


def _last_k(rows: list[dict[str, Any]], method: str, share: float) -> int:
    """The largest k of the grid up to which the method finds at least that share, at it and at all smaller ones."""
    reach = 0
    for row in sorted(rows, key=lambda r: r["k"]):
        if row["found"][method] < share * row["trials"]:
            break
        reach = row["k"]
    return reach


def paper_rows() -> list[dict[str, str]]:
    """The paper's synthetic grid, as published: m, n, d, k, sigma, trials_total, recovery_mean, ..."""
    path = resources.files("expander_sae.frontier").joinpath("data/paper_synthetic.csv")
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _theirs(row: dict[str, str]) -> Rate:
    trials = int(row["trials_total"])
    return Rate(round(float(row["recovery_mean"]) * trials), trials)


def _beside_the_paper(rows: list[dict[str, Any]]) -> tuple[Table | None, int, int]:
    """The table of cells that both have, how many rates differ beyond both intervals, and how many there are."""
    sizes = ("d_in", "n_latents", "degree", "k", "noise")
    theirs = {tuple(float(r[c]) for c in ("m", "n", "d", "k", "sigma")): r for r in paper_rows()}
    cells, apart = [], 0
    for row in rows:
        other = theirs.get(tuple(float(row[size]) for size in sizes))
        if other is None:
            continue
        mine, paper = _rate(row, "omp"), _theirs(other)
        (low, high), (least, most) = mine.interval(), paper.interval()
        differs = high < least or most < low
        apart += differs
        cells.append([row["degree"], row["k"], row["noise"], mine, paper, "apart" if differs else ""])
    if not cells:
        return None, 0, 0
    columns = ["d", "k", "noise", "ours", "paper", ""]
    note = "OMP with |correlation| for k picks, uniform masks, flat columns, Gaussian codes; 95% Wilson intervals."
    return Table("The paper's grid", columns, cells, note), apart, len(cells)


def _paper_figure(rows: list[dict[str, Any]]) -> Any:
    theirs = paper_rows()
    drawn, grey = [], []
    for degree in dict.fromkeys(row["degree"] for row in rows):
        for noise in (0.0, 0.05):
            mine = [r for r in rows if (r["degree"], r["noise"]) == (degree, noise)]
            drawn.append((f"d = {degree}, noise {noise:g}", _points(mine, "omp")))
            paper = [
                (float(r["k"]), _theirs(r)) for r in theirs if int(r["d"]) == degree and float(r["sigma"]) == noise
            ]
            if degree in (7, 200) and paper:
                grey.append(f"paper, d = {degree}, noise {noise:g}")
                drawn.append((grey[-1], paper))
    caption = "OMP's share of exact supports on the paper's grid, the paper's own points in grey"
    return rate_lines("paper_grid", caption, drawn, x="active latents k", title="The paper's grid", grey=grey)


EXPERIMENT = Experiment(
    name="synthetic",
    question="Up to how many active latents does each method find the support of a planted code?",
    measure=measure,
    show=show,
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
