"""Every certificate of a mask or a dictionary, in one list, each in plain words."""

import numpy as np

from expander_sae.graphs import Mask
from expander_sae.graphs.overlap import DEFAULT_BUDGET, overlap_profile
from expander_sae.ops import Dictionary
from expander_sae.records import ExpanderSaeError

from .certificate import Certificate
from .coherence import dictionary_coherence
from .flatness import Flatness, flatness
from .flatwise import flat_certificates
from .identifiability import spark_from_babel
from .maskwise import (
    beside_ceiling,
    ensemble_certificates,
    overlap_certificates,
    reach_sentence,
    sampled,
    searched_certificates,
    spectral_certificate,
    welch_certificate,
)
from .recovery import matching_pursuit_rate, omp_k, omp_noise_limit, one_shot_k, one_shot_noise_limit
from .rows import mask_and_values


def certify_mask(
    mask: Mask, *, k: int = 32, beta: float = 1.0, budget: int = DEFAULT_BUDGET, search_restarts: int = 8, seed: int = 0
) -> list[Certificate]:
    """What the mask alone guarantees, for every dictionary later put on it.

    Args:
        mask: any mask.
        k: active latents per code that matter; a guarantee that does not reach it is marked vacuous.
        beta: assumed flatness ratio of every column, for the certificates that need one.
        budget: see `overlap_profile`; above it overlaps are sampled and what follows from them is "estimated".
        search_restarts: effort of the search for counterexamples; 0 leaves it out.
        seed: of sampling and search.

    Raises:
        ExpanderSaeError: k below 1 or beta below 1.

    Example:
        >>> from expander_sae.graphs import make_mask
        >>> mask = make_mask("uniform", d_in=64, n_latents=256, degree=5, seed=0)
        >>> [c.name for c in certify_mask(mask, k=2) if c.name.startswith("unique")][0]
        'unique_codes_any_values'
    """
    _check(k, beta)
    profile = overlap_profile(mask, p_max=max(2 * k, 64), budget=budget, seed=seed)
    found = overlap_certificates(mask, profile, k)
    if mask.n_latents >= 2 * k:
        found.append(spectral_certificate(mask, k))
    found += ensemble_certificates(mask, k, beta)
    found += flat_certificates(mask, profile, k, beta)
    found.append(welch_certificate(mask.d_in, mask.n_latents, k))
    if search_restarts:
        found += searched_certificates(mask, k, search_restarts, seed)
    return found


def certify_dictionary(
    dictionary: Dictionary,
    mask: Mask | None = None,
    *,
    k: int = 32,
    dynamic_range: float = 1.0,
    budget: int = DEFAULT_BUDGET,
    search_restarts: int = 8,
    seed: int = 0,
) -> list[Certificate]:
    """What a trained dictionary guarantees: its mask's certificates and those of its values.

    Args:
        dictionary: its columns; they are scaled to unit length here.
        mask: of the dictionary's rows, where it knows how they were drawn: a uniform draw adds what holds with high
            probability. None: only what follows from the rows.
        k: active latents per code that matter.
        dynamic_range: largest over smallest active value, for the one-shot encoder.
        budget: see `overlap_profile` and `dictionary_coherence`.
        search_restarts: effort of the search for counterexamples; 0 leaves it out.
        seed: of sampling and search.

    Raises:
        ExpanderSaeError: the mask has other rows; values are not finite or have a zero column; k or dynamic_range
            below 1.

    Example:
        >>> import torch
        >>> w = Dictionary(torch.tensor([[0, 1], [1, 2], [0, 2]]), torch.ones(3, 2), d_in=3)
        >>> [c.value for c in certify_dictionary(w, k=1) if c.name == "omp"]
        [1]
    """
    _check(k, dynamic_range)
    of_rows, values = mask_and_values(dictionary)
    if mask is None:
        mask = of_rows
    elif mask != of_rows:
        raise ExpanderSaeError(
            "expected the mask of the dictionary's rows; got one of other rows or sizes. Give the SAE's own, or none."
        )
    coherence = dictionary_coherence(dictionary, p_max=max(2 * k, 64), budget=budget // 2, seed=seed)
    flat = flatness(values)
    profile = overlap_profile(mask, p_max=max(2 * k, 64), budget=budget, seed=seed)
    whole = flat.largest < np.inf
    found = overlap_certificates(mask, profile, k, whole=whole)
    if whole:
        found += ensemble_certificates(mask, k, flat.largest)
    if mask.n_latents >= 2 * k:
        found.append(spectral_certificate(mask, k))
    found.append(_flatness_certificate(flat))
    if whole:
        found += flat_certificates(mask, profile, k, flat.largest, values=values, dynamic_range=dynamic_range)
    status, cost = ("certified" if coherence.exact else "estimated"), coherence.seconds
    note = () if coherence.exact else (sampled("coherence was", coherence.columns, mask),)
    size = min(spark_from_babel(coherence.babel), mask.n_latents)
    reach = min(omp_k(coherence.babel), mask.n_latents)
    shot = one_shot_k(coherence.babel, coherence.babel, dynamic_range)
    one_sided = one_shot_k(coherence.negative, coherence.positive, dynamic_range)
    noise = max(0.0, omp_noise_limit(coherence.babel, k))
    shot_noise = max(0.0, one_shot_noise_limit(coherence.babel, k, dynamic_range))
    rate = matching_pursuit_rate(coherence.babel, k)
    spread = f"largest over smallest active value at most {dynamic_range:g}"

    def beside(sentence: str) -> str:
        return beside_ceiling(sentence, mask, k)

    found += [
        Certificate(
            "coherence", coherence.coherence, status, note, "max |<w_i, w_j>|", "definition", cost, False,
            f"The most similar two columns have inner product {coherence.coherence:.3g}.",
        ),
        Certificate(
            "cumulative_coherence", float(coherence.babel[k]), status, note, "mu_1(k)", "Tropp 2004", cost, False,
            f"The {k} columns most similar to one have inner products {coherence.babel[k]:.3g} in sum; "
            "pursuit is certified where this is below about 1/2.",
        ),
        Certificate(
            "unique_codes_coherence", size // 2, status, note, "mu_1(2k - 1) < 1", "Donoho and Elad 2003", cost,
            size // 2 < k, beside(reach_sentence("Codes have different images", size // 2, k)),
        ),
        Certificate(
            "omp", reach, status, note, "mu_1(k - 1) + mu_1(k) < 1", "Tropp 2004", cost, reach < k,
            beside(reach_sentence("Pursuit (OMP) recovers every noiseless code", reach, k)),
        ),
        Certificate(
            "omp_noise", noise, status, note, f"(1 - mu_1({k} - 1) - mu_1({k})) / 2", "Donoho, Elad, Temlyakov 2006",
            cost, noise == 0,
            beside(f"Vacuous at k = {k}: no noise level is certified for OMP.") if noise == 0
            else f"OMP finds every support of {k} if the noise norm is below {noise:.3g} times the smallest value.",
        ),
        Certificate(
            "matching_pursuit_rate", rate, status, note, "1 - (1 - mu_1(k - 1)) / k where omp reaches k",
            "Gribonval and Vandergheynst 2006", cost, rate is None,
            beside(f"Vacuous at k = {k}: no rate is certified for matching pursuit.") if rate is None
            else f"Each step of matching pursuit leaves at most {rate:.4g} of the energy, for every code of {k}.",
        ),
        Certificate(
            "one_shot", shot, status, (*note, spread), "R (mu_1(k - 1) + mu_1(k)) < 1",
            "Donoho, Elad, Temlyakov 2006", cost, shot < k,
            beside(reach_sentence("Thresholding (one-shot TopK) of |W^T x| finds every code", shot, k)),
        ),
        Certificate(
            "one_shot_nonnegative", one_sided, status, (*note, spread, "codes are non-negative"),
            "R (mu_1^-(k - 1) + mu_1^+(k)) < 1", "one-sided form of the same", cost, one_sided < k,
            reach_sentence("Thresholding (one-shot TopK) of W^T x finds every non-negative code", one_sided, k),
        ),
        Certificate(
            "one_shot_noise", shot_noise, status, (*note, spread), f"(1 - R (mu_1({k} - 1) + mu_1({k}))) / 2",
            "as one_shot", cost, shot_noise == 0,
            beside(f"Vacuous at k = {k}: no noise level is certified for thresholding.") if shot_noise == 0
            else f"Thresholding finds every support of {k} if |W^T e| stays below {shot_noise:.3g} times the smallest "
            "value.",
        ),
        welch_certificate(mask.d_in, mask.n_latents, k),
    ]  # fmt: skip
    if search_restarts:
        found += searched_certificates(mask, k, search_restarts, seed)
    return found


def _flatness_certificate(flat: Flatness) -> Certificate:
    zeros = not flat.largest < np.inf
    sentence = (
        f"Magnitudes within a column differ by a factor of at most {flat.largest:.3g} (median {flat.median:.3g}, "
        f"95th percentile {flat.p95:.3g})."
    )
    if zeros:
        sentence = "Vacuous: some stored values are zero, and statements about any non-zero values do not apply."
    formula = "max_j max_i |w_ij| / min_i |w_ij|"
    return Certificate("flatness", flat.largest, "certified", (), formula, "definition", 0.0, zeros, sentence)


def _check(k: int, ratio: float) -> None:
    if k < 1 or not ratio >= 1:
        raise ExpanderSaeError(f"expected k of at least 1 and a ratio of at least 1; got {k} and {ratio}.")
