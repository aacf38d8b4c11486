"""How often the columns of a real code meet on one row, and how often they must."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from expander_sae.paper import Paper

from ..drawing import Line, beside_the_paper, lines
from ..page import Figure, Page, by, over_seeds, sentence, table_by
from .context import Context
from .experiment import Experiment, Measured
from .quality import along_degree, diverged, families_along_degree, of_least_degree

KINDS = {
    "real": "supports of held-out tokens",
    "shuffled": "the same latents as often, each drawn independently of the others",
    "random": "as many latents, uniformly drawn",
}
"""Whose supports are looked at."""
_BLOCK = 2048


def measure(context: Context) -> Measured:
    """The collision deficit of every sparse SAE's codes, beside shuffled and random supports on the same mask."""
    grid, tokens = context.grid(controls=context.option("controls")), context.option("tokens")
    rows = [
        context.row(
            record, record.folder.replace("/", "-"),
            {"folder": record.folder, "tokens": tokens, "training": record.training.to_dict()},
            partial(_collisions, sae.eval(), context),
        )
        for record, sae in grid.saes()
        if getattr(sae, "mask", None) is not None
    ]  # fmt: skip
    return {"rows": rows, "k": context.settings.k, "frontier": grid.records()}


@torch.no_grad()
def _collisions(sae: Any, context: Context) -> dict[str, Any]:
    rows = sae.rows.long()
    draw = torch.Generator().manual_seed(0)
    sums = dict.fromkeys(KINDS, 0.0)
    tokens, active_sum, bound, expected = 0, 0, 0.0, 0.0
    degree = rows.shape[1]
    for x in context.heldout_blocks(context.option("tokens"), _BLOCK):
        codes = sae.encode(x)
        active = codes.values != 0
        size = active.sum(dim=1)
        keep = size > 0
        indices, active, size = codes.indices[keep], active[keep], size[keep]
        for kind, supports in _supports(indices, active, len(rows), draw).items():
            sums[kind] += float((1 - coverage(supports, active, rows, sae.d_in) / (degree * size)).sum())
        edges = (degree * size).double()
        bound += float((1 - sae.d_in / edges).clamp_min(0).sum())
        expected += float((1 - sae.d_in * (1 - (1 - degree / sae.d_in) ** size.double()) / edges).sum())
        tokens, active_sum = tokens + len(size), active_sum + int(size.sum())
    many = max(tokens, 1)
    return {
        "degree": degree,
        "d_in": sae.d_in,
        "tokens": tokens,
        "active": active_sum / many,
        "deficit": {kind: total / many for kind, total in sums.items()},
        "counting_bound": bound / many,
        "expected_uniform": expected / many,
    }


def _supports(indices: Tensor, active: Tensor, n_latents: int, draw: torch.Generator) -> dict[str, Tensor]:
    """Supports of each kind [tokens, k] in the places of the real ones; repeats in a token count as collisions do."""
    shuffled = indices.clone()
    pool = indices[active]
    shuffled[active] = pool[torch.randperm(len(pool), generator=draw, device="cpu")]
    random = torch.stack(
        [torch.randperm(n_latents, generator=draw, device="cpu")[: indices.shape[1]] for _ in range(len(indices))]
    )
    return {"real": indices, "shuffled": shuffled, "random": random}


def coverage(indices: Tensor, active: Tensor, rows: Tensor, d_in: int) -> Tensor:
    """|N(S)| of every support, int64 [tokens]."""
    met = torch.where(active[:, :, None], rows[indices], d_in).flatten(1)
    touched = torch.zeros(len(indices), d_in + 1, dtype=torch.bool, device="cpu")
    return touched.scatter_(1, met, True)[:, :d_in].sum(dim=1)


def show(measured: Measured) -> Page:
    """Deficits by variant, and against the degree."""
    rows = measured["rows"]
    columns = {
        **{kind: (f"deficit/{kind}", 3) for kind in KINDS},
        "expected, uniform mask": ("expected_uniform", 3),
        "counting bound": ("counting_bound", 3),
        "active": ("active", 1),
    }
    note = "Deficit: 1 - |N(S)| / (d |S|), mean over tokens. " + " ".join(f"{k}: {v}." for k, v in KINDS.items())
    of = by(rows, "family")
    drawn = [along_degree(of.get("expander", []), f"deficit/{kind}", f"learned supports, {kind}") for kind in KINDS]
    drawn += [
        along_degree(of.get("fixed", []), f"deficit/{kind}", f"fixed mask, {kind}") for kind in ("real", "random")
    ]
    bound = {row["degree"]: row["counting_bound"] for row in rows}
    drawn.append(Line("counting bound", sorted(bound.items()), reference=True))
    caption = "collision deficit of active supports against degree"
    figure = lines("deficit", caption, drawn, x="degree", y="1 - |N(S)| / (d |S|)", log_x=True)
    table = table_by("Active-support collisions", by(rows, "variant"), columns, note)
    return Page(_claim(rows), [table], [figure], diverged(measured["frontier"]))


def _claim(rows: list[dict[str, Any]]) -> str:
    parts = []
    for family, name in (("expander", "learned supports"), ("fixed", "a fixed mask")):
        if least := of_least_degree(rows, family):
            real, random = (over_seeds(least, f"deficit/{kind}") for kind in ("real", "random"))
            if real is not None and random is not None:
                parts.append(
                    f"with {name} at d = {least[0]['degree']} real codes lose {real.mean:.1%} of their rows to "
                    f"collisions, random supports {random.mean:.1%}"
                )
    return sentence(parts or ["no sparse SAE was measured"])


def beside(measured: Measured, paper: Paper) -> list[Figure | None]:
    """The deficit of real codes (ours: mean over tokens, the paper's: median) against the degree."""
    theirs = paper.diagnostics("active_support", "deficit_median", ("expander_tied", "clustered_sparse"))
    drawn = [*families_along_degree(measured["rows"], "deficit/real"), *theirs]
    what = "collision deficit of real codes against degree"
    return [beside_the_paper("deficit", what, drawn, x="degree", y="1 - |N(S)| / (d |S|)")]


EXPERIMENT = Experiment(
    name="collisions",
    question="How often do the columns of a real code collide on a row, and how often must they?",
    measure=measure,
    show=show,
    options={"tokens": 20_000, "controls": ["fixed"]},
    beside=beside,
)
