"""Certificates against truth: up to which k each guarantee reaches, and up to which k recovery works."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch

from expander_sae.evaluation.planted import Planted, exact_supports, plant, reach
from expander_sae.graphs import make_mask
from expander_sae.graphs.overlap import overlap_profile
from expander_sae.graphs.random_masks import expansion_size, hall_size
from expander_sae.graphs.stopping_moment import stopping_size_exact
from expander_sae.ops import Codes, Dictionary
from expander_sae.records import ExpanderSaeError
from expander_sae.theory import dictionary_coherence, posterior_certificates
from expander_sae.theory.recovery import omp_k, omp_k_from_overlap, one_shot_k, welch_ceiling

from ..drawing import bars
from ..page import Page, Table
from .context import Context
from .experiment import Experiment, Measured

GUARANTEED = {
    "omp_flat": "OMP, every code, by overlap (flat values)",
    "omp_values": "OMP, every code, by μ₁ (values in ±[1, 2])",
    "one_shot_values": "one-shot, every code of equal magnitudes, by μ₁",
    "stable": "stable codes, flat values, uniform mask, P >= 0.99",
    "unique_any": "unique codes, any values, uniform mask, P >= 0.99",
    "unique_generic": "unique codes, generic values, uniform mask, P >= 0.99",
    "ceiling": "ceiling of every μ₁ test, any dictionary",
}
SINGLE = {
    "erc": "half of single codes: ERC(S) > 0",
    "fuchs": "half of single codes: Fuchs",
    "lasso_20": "half of single codes: Lasso interval at 20% noise",
}
EMPIRICAL = {
    "one_shot_gaussian": ("thresholding", "gaussian"),
    "one_shot_signs": ("thresholding", "signs"),
    "mp_gaussian": ("mp", "gaussian"),
    "omp_signs": ("omp", "signs"),
    "omp_gaussian": ("omp", "gaussian"),
    "omp_half_gaussian": ("omp", "half-gaussian"),
    "omp_pruned_gaussian": ("omp, 1.5 k and pruned", "gaussian"),
}
"""Name -> (method, codes): the largest k of the grid with at least 95% exact supports, there and below."""
_GRID = (1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)


def measure(context: Context) -> Measured:
    """One piece for each size."""
    found = []
    for text in context.option("sizes"):
        size = _size(text)
        mark = {"size": size, "trials": context.option("trials"), "seeds": context.settings.seeds}
        found.append({"size": list(size), **context.piece(text, mark, partial(_gap, context, size))})
    return {"rows": found, "trials": context.option("trials") * len(context.settings.seeds)}


def _gap(context: Context, size: tuple[int, int, int]) -> dict[str, Any]:
    """What is guaranteed for every code, for half of single ones (+-1 or uniform), and what is found."""
    context.say(f"certificates against truth at {size}")
    within = [k for k in _GRID if 3 * k <= 2 * size[0]]
    return {
        **_guaranteed(size),
        **{name: reach(partial(_certified, context, size, name), _GRID, 0.5) for name in SINGLE},
        **{name: reach(partial(_found, context, size, *how), within, 0.95) for name, how in EMPIRICAL.items()},
    }


def _size(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise ExpanderSaeError(f"expected sizes as D_INxN_LATENTSxDEGREE, for instance 512x4096x7; got {text!r}")
    d_in, n_latents, degree = map(int, parts)
    return d_in, n_latents, degree


def _guaranteed(size: tuple[int, int, int]) -> dict[str, int | None]:
    d_in, n_latents, degree = size
    construction = _construction(size)
    mask = make_mask(construction, d_in=d_in, n_latents=n_latents, degree=degree, seed=0)
    draw = np.random.default_rng(0)
    values = draw.uniform(1, 2, mask.rows.shape) * draw.choice([-1.0, 1.0], mask.rows.shape)
    w = Dictionary(torch.from_numpy(mask.rows.astype(np.int64)), torch.from_numpy(values), d_in)
    coherence = dictionary_coherence(w, p_max=32, budget=1 << 40)
    overlap = overlap_profile(mask, p_max=1, budget=1 << 40).largest
    return {
        "omp_flat": omp_k_from_overlap(overlap, degree, 1.0),
        "omp_values": omp_k(coherence.babel),
        "one_shot_values": one_shot_k(coherence.babel, coherence.babel, 1.0),
        "stable": expansion_size(*size, 0.5).size // 2,
        "unique_any": stopping_size_exact(*size).size // 2,
        "unique_generic": hall_size(*size).size // 2,
        "ceiling": welch_ceiling(d_in, n_latents),
        "largest_overlap": overlap,
    }


def _construction(size: tuple[int, int, int]) -> str:
    """The mask with the smallest overlap that is made in seconds: greedy, or balanced at high degrees and widths."""
    return "greedy" if size[2] < 32 and size[1] * size[2] < 1 << 19 else "balanced"


def _planted(size: tuple[int, int, int], **changes: Any) -> Planted:
    return Planted(*size, construction=_construction(size), values="uneven", **changes)


def _certified(context: Context, size: tuple[int, int, int], name: str, k: int) -> float:
    """The share of planted supports that are certified."""
    noisy = name == "lasso_20"
    planted = _planted(size, codes="uniform", noise=0.2 if noisy else 0.0)
    y, supports, (rows, values) = plant(planted, 0, k, context.option("trials"))
    if rows is None:
        raise AssertionError("sizes of this experiment are sparse")
    codes = Codes(supports, torch.ones(supports.shape, dtype=torch.float32, device="cpu"))
    found = posterior_certificates(y, codes, Dictionary(rows, values, planted.d_in), full=name == "erc")
    held = found.exact_recovery > 0 if name == "erc" else found.lasso if noisy else found.fuchs
    return float(held.double().mean())


def _found(context: Context, size: tuple[int, int, int], method: str, codes: str, k: int) -> float:
    """The share of planted supports that a method finds."""
    trials, seeds = context.option("trials"), context.settings.seeds
    planted = _planted(size, codes=codes)
    found = sum(exact_supports(planted, seed, k, trials, (method,))[method] for seed in seeds)
    return found / (trials * len(seeds))


def show(measured: Measured) -> Page:
    """One row for each size: guaranteed, certified code by code, and found."""
    rows = measured["rows"]
    sizes = ["x".join(map(str, row["size"])) for row in rows]
    found = {name: f"{method}, {codes} codes" for name, (method, codes) in EMPIRICAL.items()}
    tables = [
        Table(title, ["what", *sizes], [[text, *(row[name] for row in rows)] for name, text in of.items()], note)
        for title, of, note in (
            ("Guaranteed for every code", GUARANTEED,
             "The largest k. Masks: greedy below d = 32, else balanced; where there is a probability, uniform."),
            ("Certified code by code", SINGLE,
             "The largest k of a grid at which half of random supports are certified; codes uniform in ±[0.5, 1.5]."),
            ("Found", found, "The largest k of a grid with at least 95% of "
             f"{measured['trials']} planted supports found exactly, no noise."),
        )
    ]  # fmt: skip
    first = rows[0]
    heights = [(text, float(first[name])) for name, text in {**GUARANTEED, **SINGLE}.items() if first[name] is not None]
    heights += [(f"found: {text}", float(first[name])) for name, text in found.items()]
    figure = bars(
        "gap", f"largest k by certificate and by experiment at {sizes[0]}", heights, y="largest k", title=sizes[0]
    )
    gap = first["omp_signs"] / max(1, first["omp_flat"])
    claim = (
        f"At {sizes[0]} no theorem covers OMP beyond k = {first['omp_flat']} and none based on μ₁ could beyond "
        f"{first['ceiling']}, OMP finds ±1 codes up to k = {first['omp_signs']} ({gap:.0f} times as many), and half of "
        f"single codes are certified up to k = {first['fuchs']} after the fact."
    )
    return Page(claim, tables, [figure])


EXPERIMENT = Experiment(
    name="certificate-gap",
    question="How far is each certificate from what actually happens?",
    measure=measure,
    show=show,
    needs_activations=False,
    options={
        "trials": 40,
        "sizes": ["512x4096x7", "576x4608x7", "576x4608x16", "576x4608x64", "768x6144x8", "2048x16384x7"],
    },
)
