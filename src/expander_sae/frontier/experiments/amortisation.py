"""Encoder against pursuit: how much fidelity is lost by reading codes fast, and how much by the dictionary itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from expander_sae.paper import Curve, Paper
from expander_sae.records import FrontierRecord
from expander_sae.records.metrics import METRIC, Metric
from expander_sae.records.spread import spread

from ..drawing import SPEED, Line, beside_the_paper, by_speed, lines
from ..page import Figure, Page, Table, number
from ..results import Summary, in_order, summarise
from .context import Context
from .experiment import Experiment, Measured
from .quality import diverged, family_lines, mean_of, quality_table, records_from

_FAMILIES = ("expander", "oneshot", "matched", "matched-omp")
_METRICS = ("fvu", "delta_ce")
_SPLIT = (*_METRICS, "rel_err")
"""Where first tokens are kept, fvu is about them and little else."""


def measure(context: Context) -> Measured:
    """The grid, read by its own inference and by others."""
    readings = [r for r in context.option("readings") if _fits(r, context.settings.k)]
    grid = context.grid(controls=context.option("controls"), readings=readings)
    return grid.frontier.to_dict()


def _fits(reading: str, k: int) -> bool:
    name, _, number = reading.partition(":")
    return name not in ("stages", "warm") or int(number.partition("+")[0]) <= k


def show(measured: Measured) -> Page:
    """The gap to the full dense SAE, split seed by seed."""
    own = records_from(measured["records"])
    read = _otherwise(own, measured)
    splits = {metric: _splits(own, read, metric) for metric in _SPLIT}
    summaries = in_order(summarise([*own, *read]))
    return Page(
        claim=_claim(splits["fvu"]),
        tables=[
            *(_split_table(splits[metric], METRIC[metric]) for metric in _SPLIT if splits[metric]),
            quality_table("Every SAE read in every way", summaries, inference=True),
        ],
        figures=[
            *(_by_degree(own, read, metric) for metric in _METRICS),
            *(_by_speed(summaries, metric) for metric in _METRICS),
        ],
        notes=[
            "E is a metric read by an SAE's own inference, O the same dictionary read by OMP; s is the SAE, d the full "
            "dense one of the same seed. The gap E_s - E_d is (E_s - O_s) - (E_d - O_d), the encoder's part, plus "
            "O_s - O_d, the dictionary's. The encoder's part is negative where the SAE's own inference is closer to "
            "OMP than the dense SAE's encoder is.",
            "A tied one-pass encoder is no reading of a dictionary with learned supports: columns crowd on strong rows "
            "and all of them fire. Such SAEs are trained by pursuit, and that is their own inference here.",
            *diverged(measured),
        ],
    )


def _otherwise(own: list[FrontierRecord], measured: Measured) -> list[FrontierRecord]:
    """The SAEs read by another inference than their own."""
    ways = {record.variant: record.evaluation.inference for record in own if record.evaluation is not None}
    read = [FrontierRecord.from_dict(record) for record in measured["readings"]]
    return [record for record in read if record.reading == "omp" or record.reading != ways.get(record.variant)]


def _values(records: list[FrontierRecord], metric: str, reading: str | None) -> dict[tuple[str, int], float]:
    found = {}
    for record in records:
        value = None if record.evaluation is None else getattr(record.evaluation, metric)
        if value is not None and record.reading == reading:
            found[record.variant, record.seed] = value
    return found


def _splits(own: list[FrontierRecord], read: list[FrontierRecord], metric: str) -> dict[str, Mapping[str, Any]]:
    """By variant: family, degree, and spreads of the gap and its parts."""
    own_values, omp_values = _values(own, metric, None), _values(read, metric, "omp")
    found: dict[str, Mapping[str, Any]] = {}
    for variant in dict.fromkeys(record.variant for record in own):
        first = next(record for record in own if record.variant == variant)
        parts: list[tuple[float, float, float]] = []
        for record in own:
            keys = [(name, record.seed) for name in (variant, "dense")]
            if record.variant != variant or any(key not in own_values or key not in omp_values for key in keys):
                continue
            (e_s, e_d), (o_s, o_d) = [own_values[key] for key in keys], [omp_values[key] for key in keys]
            parts.append((e_s - e_d, (e_s - o_s) - (e_d - o_d), o_s - o_d))
        if parts and variant != "dense":
            gap, encoder, dictionary = (spread(column) for column in zip(*parts, strict=True))
            found[variant] = {
                "family": first.family, "degree": first.matched_degree,
                "gap": gap, "encoder": encoder, "dictionary": dictionary,
            }  # fmt: skip
    return found


def _split_table(splits: Mapping[str, Mapping[str, Any]], metric: Metric) -> Table:
    rows = [
        [variant, *(number(split[part], metric.digits) for part in ("gap", "encoder", "dictionary"))]
        for variant, split in splits.items()
    ]
    columns = ["SAE", "gap to full dense", "encoder's part", "dictionary's part"]
    return Table(
        f"The gap in {metric.heading}, split", columns, rows, "Mean over seeds ± half width of the 95% interval."
    )


def _claim(splits: Mapping[str, Mapping[str, Any]]) -> str:
    sparse = [split for split in splits.values() if split["family"] in ("oneshot", "expander")]
    if not sparse:
        return "No Expander SAE was read by OMP beside a full dense one."
    wanted = [split for split in sparse if split["family"] == "oneshot"] or sparse
    one = min(wanted, key=lambda split: abs(split["degree"] - 7))
    who = (
        "one-shot Expander SAE on a fixed mask" if one["family"] == "oneshot" else "Expander SAE, by its own inference,"
    )
    gap, encoder, dictionary = (one[part].mean for part in ("gap", "encoder", "dictionary"))
    return (
        f"At degree {one['degree']} the {who} leaves {gap:+.3f} more fvu than the full dense SAE's encoder: "
        f"{encoder:+.3f} is the encoder's part, {dictionary:+.3f} the dictionary's."
    )


def _by_degree(
    own: list[FrontierRecord], read: list[FrontierRecord], metric: str, theirs: Sequence[Curve] = ()
) -> Figure | None:
    drawn: list[Line | Curve] = []
    levels = []
    for name, records in (("own inference", own), ("OMP", [record for record in read if record.reading == "omp"])):
        summaries = summarise(records)
        of_families = family_lines(summaries, metric, lambda s: s.matched_degree, _FAMILIES)
        drawn += [replace(line, name=f"{line.name}: {name}", dashed=name == "OMP") for line in of_families]
        dense = next((mean_of(s, metric) for s in summaries if s.family == "dense"), None)
        if dense is not None:
            levels.append((f"full dense: {name}", dense))
    name, caption = f"{metric}_by_degree", f"{metric} against degree, by own inference and by OMP"
    if theirs:
        name, caption = f"{metric}_beside_the_paper", f"{caption}, beside the paper's"
    return lines(name, caption, [*drawn, *theirs], x="degree", y=METRIC[metric].heading, log_x=True, levels=levels)


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """rel_err by its encoder and by OMP, and the speed it reports for them."""
    own = records_from(measured["records"])
    read = _otherwise(own, measured)
    kinds = ("expander_tied", "dense_tied", "dense_warmtied")
    ways = ("encoder", "omp", "omp_iter", "omp_oneshot", "cosamp", "niht")
    by_variant: dict[str, list[Summary]] = {}
    for summary in in_order(summarise([*own, *read])):
        by_variant.setdefault(summary.variant, []).append(summary)
    ours = [
        Line(variant, [(s.metrics[SPEED].mean, s.metrics["rel_err"]) for s in _as_good_as_the_mean(mine)])
        for variant, mine in by_variant.items()
    ]
    return [
        *(
            _by_degree(own, read, metric, [
                curve for way in ways for curve in paper.lines(metric, lambda r: r.degree, kinds, inference=way)
            ])
            for metric in ("rel_err", "ce_recovered_zero")
        ),
        beside_the_paper(
            "rel_err_by_speed", "rel_err against the speed of reading codes", [*ours, *paper.speeds()],
            x="tokens/s", y="rel_err", whose="the paper's on its machines",
        ),
    ]  # fmt: skip


def _as_good_as_the_mean(summaries: Sequence[Summary]) -> list[Summary]:
    """Those that were timed and leave no more than the mean does."""
    return [s for s in summaries if s.metrics["fvu"].mean <= 1 and SPEED in s.metrics]


def _by_speed(summaries: Sequence[Summary], metric: str) -> Figure | None:
    caption = (
        f"{METRIC[metric].heading} against the speed of reading codes, one line for each SAE, one point for each "
        "inference; those that leave more than the mean does (fvu above 1) are in the table only"
    )
    return by_speed(f"{metric}_by_speed", caption, metric, _as_good_as_the_mean(summaries))


EXPERIMENT = Experiment(
    name="amortisation",
    question="What does reading codes by one pass cost, and is it the encoder or the dictionary that is short?",
    measure=measure,
    show=show,
    options={
        "controls": ["dense", "oneshot", "matched", "matched-omp"],
        "readings": ["encoder", "refit", "stages:4", "omp"],
    },
    beside=beside,
)
