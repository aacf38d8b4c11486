"""Certificates that only the mask enters."""

import time
from math import log
from typing import Literal

import numpy as np

from expander_sae.graphs import Mask, make_mask
from expander_sae.graphs.adversary import find_bad_expansion, find_stopping_set
from expander_sae.graphs.expansion import expansion_loss_bound, spectral_expansion, spectral_loss_floor
from expander_sae.graphs.overlap import OverlapProfile
from expander_sae.graphs.packing import smallest_possible_overlap
from expander_sae.graphs.random_masks import expansion_size, hall_size
from expander_sae.graphs.stopping_moment import stopping_size_exact

from .certificate import Certificate
from .identifiability import generic_size, stopping_distance_bound, stopping_distance_by_core
from .recovery import welch_ceiling
from .stability import nonnegative_k

FAILURE = 0.01
"""Probability over the draw of a uniform mask that its certificates may fail with."""


def status_of(profile: OverlapProfile, mask: Mask) -> tuple[Literal["certified", "estimated"], tuple[str, ...]]:
    """Whether overlaps were counted or sampled, and the assumption that goes with a sample."""
    if profile.exact:
        return "certified", ()
    return "estimated", (sampled("overlaps were", profile.columns, mask),)


def sampled(what: str, columns: int, mask: Mask) -> str:
    """The note on a sample; with confidence 0.99 at most ln(100) / sample of all columns exceed what it showed."""
    return (
        f"{what} sampled on {columns} of {mask.n_latents} columns; with confidence 0.99 at most "
        f"{min(1.0, log(100) / columns):.2%} of all columns exceed what was seen"
    )


def overlap_certificates(mask: Mask, profile: OverlapProfile, k: int, *, whole: bool = True) -> list[Certificate]:
    """Largest overlap, and uniqueness for any and for generic values.

    Args:
        mask: the mask.
        profile: its overlaps.
        k: active latents that matter.
        whole: whether every stored value is non-zero; if not, nothing about values follows from the mask.
    """
    status, note = status_of(profile, mask)
    optimum = smallest_possible_overlap(mask.d_in, mask.n_latents, mask.degree)
    found = [
        Certificate(
            "largest_overlap", profile.largest, status, note, "max |N(i) n N(j)|", "counted", profile.seconds,
            profile.largest == mask.degree,
            (f"Vacuous: two columns have one support of {mask.degree} rows; " if profile.largest == mask.degree
             else f"Two columns share at most {profile.largest} of {mask.degree} rows; ")
            + f"no mask of this size can guarantee less than {optimum}.",
        )
    ]  # fmt: skip
    if not whole:
        return found
    start = time.perf_counter()
    size = min(stopping_distance_bound(profile.babel, mask.degree), mask.n_latents)
    if profile.exact:  # a few more counts of all overlaps, which were affordable once
        size = stopping_distance_by_core(mask, size, s_max=min(2 * k, size + 4))
    pruning = time.perf_counter() - start
    any_k = size // 2
    generic = min(generic_size(profile.babel, mask.degree), mask.n_latents)
    loss = float(expansion_loss_bound(profile.babel, mask.degree)[2 * k])
    return [
        *found,
        Certificate(
            "expansion_loss", loss, status, note, "min(Lam / (2 d), Lam / (d + Lam)), Lam = Lam(2k - 1)",
            "Bonferroni; Cauchy-Schwarz", profile.seconds, loss >= 0.5,
            f"Vacuous at k = {k}; every set of at most {2 * k} columns keeps at least {1 - loss:.0%} of its rows "
            "distinct, where half is too few." if loss >= 0.5
            else f"Every set of at most {2 * k} columns keeps at least {1 - loss:.0%} of its rows distinct.",
        ),
        Certificate(
            "unique_codes_any_values", any_k, status, (*note, "all values non-zero"),
            "Lam(2k - 1) < d, or pruning by it leaves nothing",
            "unique neighbours; Di et al. 2002", profile.seconds + pruning, any_k < k,
            _codes(any_k, k, "whatever the values"),
        ),
        Certificate(
            "unique_codes_generic_values", generic // 2, status, (*note, "values outside a set of measure zero"),
            "Lam(2k - 1) <= d (d - 1)", "Hall 1935", profile.seconds, generic // 2 < k,
            _codes(generic // 2, k, "for almost every choice of values"),
        ),
        Certificate(
            "unique_almost_every_code", generic - 1, status, (*note, "values and code outside sets of measure zero"),
            "Lam(k) <= d (d - 1)", "Hall 1935; dimension count", profile.seconds, generic - 1 < k,
            _single(generic - 1, k),
        ),
    ]  # fmt: skip


def ensemble_certificates(mask: Mask, k: int, beta: float) -> list[Certificate]:
    """What holds with probability at least 1 - FAILURE over the draw; empty unless the mask was drawn uniformly."""
    if mask.construction != "uniform" or mask.seed is None:
        return []
    sizes = (mask.d_in, mask.n_latents, mask.degree)
    # The name is a claim that anyone can write into a Mask; the theorem needs the draw itself.
    if mask != make_mask("uniform", d_in=sizes[0], n_latents=sizes[1], degree=sizes[2], seed=mask.seed):
        return []
    drawn = ("columns were drawn independently and uniformly, and not selected afterwards",)
    start = time.perf_counter()
    stopping = stopping_size_exact(*sizes, failure=FAILURE)
    middle = time.perf_counter()
    hall = hall_size(*sizes, failure=FAILURE)
    end = time.perf_counter()
    stable, solved = _expanding(sizes, 1 / (1 + beta)) // 2, _random_nonnegative_k(sizes)
    expanded = time.perf_counter() - end
    odds = f", with probability at least {1 - FAILURE:g} over the mask"
    any_k, generic = stopping.size // 2, hall.size // 2
    return [
        Certificate(
            "unique_codes_any_values_random", any_k, "certified", (*drawn, "all values non-zero"),
            "sum_t C(n, t) P(t columns form a stopping set) <= 0.01", "first moment; Di et al. 2002", middle - start,
            any_k < k, _codes(any_k, k, "whatever the values" + odds),
        ),
        Certificate(
            "unique_codes_generic_values_random", generic, "certified",
            (*drawn, "values outside a set of measure zero"), "sum_t C(n, t) P(|N(S_t)| < t) <= 0.01",
            "Hall 1935; first moment", end - middle, generic < k,
            _codes(generic, k, "for almost every choice of values" + odds),
        ),
        Certificate(
            "stable_codes_random", stable, "certified", (*drawn, f"every column has ratio at most {beta:g}"),
            "sum_t C(n, t) P(|N(S_t)| <= (1 - eps) d t) <= 0.01, eps = 1 / (1 + beta), t <= 2k",
            "Berinde et al. 2008; Bah and Tanner 2013", expanded, stable < k,
            reach_sentence("Codes keep a positive share of their l1 distance in the image" + odds, stable, k),
        ),
        Certificate(
            "nonnegative_codes_random", solved, "certified", (*drawn, "all values positive", "codes are non-negative"),
            "|N(S)| > (1 - eps) d |S| for |S| <= floor(k / (1 - eps)) + 1, some eps < 1/2",
            "Khajehnejad et al. 2011; first moment", expanded, solved < k,
            reach_sentence("Non-negative least squares finds every code" + odds, solved, k),
        ),
    ]  # fmt: skip


def _expanding(sizes: tuple[int, int, int], epsilon: float) -> int:
    """The largest s such that all sets of at most s columns lose less than epsilon, except with probability FAILURE."""
    return expansion_size(*sizes, epsilon, failure=FAILURE).size if 0 < epsilon < 1 else 1


def _random_nonnegative_k(sizes: tuple[int, int, int]) -> int:
    """The best k over a few losses; each is a statement of its own, and only the best one is made."""
    best = 0
    for loss in (0.49, 0.4, 0.3):
        size = expansion_size(*sizes, loss, failure=FAILURE / 3).size
        best = max(best, nonnegative_k(np.full(size + 1, loss)))
    return best


def spectral_certificate(mask: Mask, k: int) -> Certificate:
    """What eigenvalues say of expansion: nothing, for every overcomplete mask, and often the trace shows it at once."""
    start = time.perf_counter()
    loss, how = spectral_loss_floor(mask, 2 * k), "trace: the second eigenvalue is at least its mean"
    if loss < 0.5:
        loss, how = spectral_expansion(mask).loss(2 * k), "|N(S)| >= (d s)^2 / ||A 1_S||^2 by the second eigenvalue"
    text = f"Eigenvalues show at best that sets of {2 * k} columns keep {1 - loss:.0%} of their rows"
    return Certificate(
        "expansion_loss_spectral", loss, "certified", (), how, "Tanner 1984", time.perf_counter() - start, loss >= 0.5,
        f"Vacuous at k = {k}; {text[0].lower()}{text[1:]}, where half is too few." if loss >= 0.5 else text + ".",
    )  # fmt: skip


def searched_certificates(mask: Mask, k: int, restarts: int, seed: int) -> list[Certificate]:
    """What a search found: limits that no certificate of this mask can pass."""
    start = time.perf_counter()
    bad = find_bad_expansion(mask, s_max=2 * k, restarts=restarts, seed=seed)
    middle = time.perf_counter()
    stopping = find_stopping_set(mask, restarts=restarts, seed=seed)
    end = time.perf_counter()
    loss = float(bad.loss[-1])
    found = [
        Certificate(
            "expansion_loss_found", loss, "certified", (), f"1 - |N(S)| / (d |S|) of a set found, |S| <= {2 * k}",
            "search", middle - start, False,
            f"Some set of at most {2 * k} columns loses {loss:.0%} of its rows to collisions"
            + (f"; sets of {bad.half_size} columns already lose half." if bad.half_size else "."),
        )
    ]  # fmt: skip
    size = None if stopping is None else len(stopping)
    sentence = "Vacuous: no stopping set was found, which certifies nothing."
    if size:
        sentence = (
            f"A stopping set of {size} columns was found: values exist for which two codes with at most "
            f"{(size + 1) // 2} active latents have the same image."
        )
    cost, formula = end - middle, "size of a stopping set found"
    found.append(
        Certificate("stopping_set_found", size, "certified", (), formula, "search", cost, size is None, sentence)
    )
    return found


def welch_certificate(d_in: int, n_latents: int, k: int) -> Certificate:
    """The barrier: how far cumulative coherence could reach for the best of all dictionaries, dense ones too."""
    ceiling = welch_ceiling(d_in, n_latents)
    sentence = "Vacuous: no limit is known on what cumulative coherence can certify at this size."
    if ceiling is not None:
        sentence = (
            f"No dictionary at all with d_in = {d_in} and n_latents = {n_latents} can pass the cumulative-coherence "
            f"test beyond k = {ceiling}."
        )
    return Certificate(
        "coherence_ceiling", ceiling, "certified", (), "k < (1 + 1 / omega) / 2, omega = sqrt((n - m) / (m (n - 1)))",
        "Welch 1974", 0.0, ceiling is None, sentence,
    )  # fmt: skip


def beside_ceiling(sentence: str, mask: Mask, k: int) -> str:
    """A sentence on a test by inner products; if it is vacuous and no dictionary could pass at k, that is said too.

    Every such test implies mu_1(2k - 1) < 1 or mu_1(k - 1) + mu_1(k) < 1, for which the ceiling was proved.
    """
    ceiling = welch_ceiling(mask.d_in, mask.n_latents)
    if not sentence.startswith("Vacuous") or ceiling is None or ceiling >= k:
        return sentence
    return f"{sentence} {welch_certificate(mask.d_in, mask.n_latents, k).sentence}"


def reach_sentence(claim: str, reach: int, k: int) -> str:
    """A sentence for a guarantee that covers codes of at most `reach` active latents when k are asked for."""
    if reach < 1:
        return f"Vacuous: nothing is certified about this ({claim[0].lower()}{claim[1:]})."
    text = f"{claim}, with at most {reach} active latents."
    return text if reach >= k else f"Vacuous at k = {k}; {text[0].lower()}{text[1:]}"


def _codes(reach: int, k: int, how: str) -> str:
    if reach < 1:
        return "Vacuous: not even codes with one active latent are certified to be unique this way."
    text = f"any two codes with at most {reach} active latents have different images, {how}."
    return text[0].upper() + text[1:] if reach >= k else f"Vacuous at k = {k}; {text}"


def _single(reach: int, k: int) -> str:
    if reach < 1:
        return "Vacuous: not certified for any number of active latents."
    text = f"almost every code with at most {reach} active latents is the only one as sparse with its image."
    return text[0].upper() + text[1:] if reach >= k else f"Vacuous at k = {k}; {text}"
