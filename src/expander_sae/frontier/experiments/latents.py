"""What the latents are like: dead or alive, how often and on how many words they fire, and are they new?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from expander_sae.evaluation.features import best_cosine
from expander_sae.evaluation.firing import best_jaccard, firings, split_half, token_entropy
from expander_sae.paper import Paper
from expander_sae.records import ExpanderSaeError
from expander_sae.records.spread import spread
from expander_sae.saes import AbstractSae

from ..drawing import Line, bars, beside_the_paper, lines
from ..page import Figure, Page, by, over_seeds, table_by
from .context import Context, name_of, next_seed, written
from .experiment import Experiment, Measured
from .quality import diverged

_QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
_COLUMNS = {
    "dead": ("dead", 4),
    "median firing rate": ("median_rate", 5),
    "median entropy, bits": ("median_entropy", 2),
    "split-half ratio": ("split_half", 3),
    "Jaccard < 0.1": ("novel_jaccard_0.1", 3),
    "Jaccard < 0.3": ("novel_jaccard_0.3", 3),
    "cosine < 0.3": ("novel_cosine_0.3", 3),
    "median best Jaccard": ("median_jaccard", 3),
    "median best cosine": ("median_cosine", 3),
}


def measure(context: Context) -> Measured:
    """Read every SAE of the grid on the held-out tokens, beside the dense SAE of another seed.

    The reference of seed s is the full dense SAE of the next seed: never of the same one, whose initial values (and
    with them many latents) the SAEs of one seed share. The dense SAE against that reference is the null: what is new to
    it is new by the luck of a seed.
    """
    context.need_two_seeds("the dense SAE of another one")
    grid = context.grid(degrees=context.chosen_degrees(), controls=context.option("controls"))
    dense = {record.seed: sae for record, sae in grid.saes() if record.family == "dense"}
    if len(dense) < 2:
        raise ExpanderSaeError(
            f"expected full dense SAEs of two seeds that did not diverge; got seeds {sorted(dense)}. Keep dense among "
            "controls."
        )
    rows = []
    for record, sae in grid.saes():
        if record.seed not in dense:
            continue
        other = next_seed(record.seed, dense)
        depends = {
            "sae": written(grid.folder / record.folder), "reference": other, "tokens": context.option("tokens"),
            "kept": context.settings.evaluation().keep_special_tokens,
        }  # fmt: skip
        context.say(f"latents of {name_of(record)}")
        make = partial(_describe, context, sae, dense[other])
        rows.append(context.row(record, name_of(record), depends, make, against=other))
    return {"saes": rows, "tokens": context.option("tokens"), "frontier": grid.records()}


def _describe(context: Context, sae: AbstractSae, reference: AbstractSae) -> dict[str, Any]:
    found, ids, _ = firings(sae, context.heldout_batches(), context.option("tokens"))
    counts = found.counts()
    alive = counts > 0
    rates = counts[alive].double() / found.n_tokens
    entropy, halves = token_entropy(found, ids)[alive], split_half(found)[alive]
    against, _, _ = firings(reference, context.heldout_batches(), context.option("tokens"))
    jaccard, cosine = best_jaccard(found, against)[alive], best_cosine(sae, reference)[alive].double()
    numbers: dict[str, Any] = {
        "tokens": found.n_tokens,
        "dead": float((~alive).double().mean()),
        "median_rate": _median(rates),
        "median_entropy": _median(entropy),
        "split_half": _median(halves),
        "median_jaccard": _median(jaccard),
        "median_cosine": _median(cosine),
        "rate_quantiles": _quantiles(rates),
        "entropy_quantiles": _quantiles(entropy),
        "jaccard_quantiles": _quantiles(jaccard),
    }
    for limit in (0.1, 0.3):
        numbers[f"novel_jaccard_{limit:g}"] = float((jaccard < limit).double().mean())
        numbers[f"novel_cosine_{limit:g}"] = float((cosine < limit).double().mean())
    return numbers


def _median(values: Tensor) -> float:
    return float(values.double().median()) if len(values) else float("nan")


def _quantiles(values: Tensor) -> list[float]:
    if len(values) == 0:
        return [float("nan")] * len(_QUANTILES)
    return torch.quantile(values.double(), torch.tensor(_QUANTILES, dtype=torch.float64, device="cpu")).tolist()


def show(measured: Measured) -> Page:
    """Shares and medians by SAE, and the distributions behind them."""
    of = by(measured["saes"], "variant")
    note = (
        "Mean over seeds ± half width of the 95% interval, below it every seed. All but `dead` are over latents that "
        "fire. Novel: the best match among the latents of the full dense SAE of another seed is below the limit. The "
        "row `dense` is the null."
    )
    return Page(
        claim=_claim(of),
        tables=[table_by("Latents on held-out tokens", of, _COLUMNS, note)],
        figures=[
            bars("novelty", "share of latents without a match of Jaccard 0.3, by SAE; `dense` is the null",
                 [(name, over_seeds(rows, "novel_jaccard_0.3")) for name, rows in of.items()],
                 y="share of latents with best Jaccard < 0.3", title="Not found in a dense SAE of another seed"),
            _distribution(of, "rate_quantiles", "firing rate", log_y=True),
            _distribution(of, "entropy_quantiles", "token entropy, bits", log_y=False),
            _distribution(of, "jaccard_quantiles", "best Jaccard with the dense SAE of another seed", log_y=False),
        ],
        notes=[
            f"On {measured['tokens']:,} held-out tokens at most: a latent that fires on none of them counts as dead "
            "here, and firing sets of a few tokens have coarse Jaccards.",
            "A dense SAE of the same seed would be no reference: SAEs of one seed share their first values.",
            *diverged(measured["frontier"]),
        ],
    )  # fmt: skip


def _distribution(of: Mapping[str, Sequence[Mapping[str, Any]]], key: str, unit: str, *, log_y: bool) -> Any:
    drawn = [
        Line(name, [(q, spread(row[key][place] for row in rows)) for place, q in enumerate(_QUANTILES)])
        for name, rows in of.items()
    ]
    caption = f"{unit} by share of the living latents, one line for each SAE"
    return lines(key, caption, drawn, x="share of the living latents below", y=unit, log_y=log_y)


def _claim(of: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    null = over_seeds(of.get("dense", []), "novel_jaccard_0.3")
    sparse = [name for name, rows in of.items() if rows[0]["family"] == "expander"]
    if null is None or not sparse:
        return "No Expander SAE was compared with dense SAEs of other seeds."
    parts = []
    for name in sparse:
        novel, dead = over_seeds(of[name], "novel_jaccard_0.3"), over_seeds(of[name], "dead")
        if novel is not None and dead is not None:
            parts.append(f"{name} {novel.mean:.1%} ({dead.mean:.1%} dead)")
    return (
        f"Latents with no counterpart (Jaccard 0.3) in the dense SAE of another seed: {', '.join(parts)}; the dense "
        f"SAE itself {null.mean:.1%}, which is the luck of the seed."
    )


_BESIDE = (
    # ours, the paper's, what it is
    ("dead", "dead_frac_test", "share of dead latents"),
    ("median_rate", "firing_rate_median", "median firing rate"),
    ("novel_jaccard_0.1", "jaccard_novel_frac_01", "share with best Jaccard < 0.1"),
    ("novel_jaccard_0.3", "jaccard_novel_frac_03", "share with best Jaccard < 0.3"),
    ("novel_cosine_0.3", "decoder_cos_novel_frac_03", "share with best |cosine| < 0.3"),
    ("median_entropy", "token_entropy_median", "median token entropy, bits"),
)


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """Dead, new and word-bound latents against the degree; the paper compares with a dense SAE of the same seed."""
    degree_of = {
        r["variant"]: r["matched_degree"] for r in measured["frontier"]["records"] if r["family"] == "expander"
    }
    of, found = by(measured["saes"], "variant"), []
    for key, quantity, unit in _BESIDE:
        ours = [(degree, over_seeds(of.get(variant, []), key)) for variant, degree in degree_of.items()]
        drawn = [Line("Expander", ours), *paper.diagnostics("features", quantity)]
        found.append(beside_the_paper(quantity, f"{unit} against degree", drawn, x="degree", y=unit))
    return found


EXPERIMENT = Experiment(
    name="latents",
    question="Are the latents alive, how many words do they fire on, and are they new beyond the luck of a seed?",
    measure=measure,
    show=show,
    options={"degrees": [7, 30, 200], "controls": ["dense", "matched"], "tokens": 20_000},
    beside=beside,
)
