"""Every certificate of a mask or a dictionary, in one list, each in plain words."""

import numpy as np

from expander_sae.graphs import Mask
from expander_sae.graphs.overlap import DEFAULT_BUDGET, OverlapProfile, overlap_profile
from expander_sae.records import ExpanderSaeError

from .certificate import Certificate
from .coherence import babel_from_overlaps, dictionary_coherence
from .flatness import Flatness, flatness
from .identifiability import spark_from_babel, stable_size
from .maskwise import (
    ensemble_certificates,
    overlap_certificates,
    searched_certificates,
    status_of,
    welch_certificate,
)
from .recovery import omp_k, omp_k_from_overlap, omp_noise_limit, one_shot_k


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
    found += ensemble_certificates(mask, k)
    found += _flat_certificates(mask, profile, k, beta, assumed=True)
    found.append(welch_certificate(mask.d_in, mask.n_latents, k))
    if search_restarts:
        found += searched_certificates(mask, k, search_restarts, seed)
    return found


def certify_dictionary(
    mask: Mask,
    values: np.ndarray,
    *,
    k: int = 32,
    dynamic_range: float = 1.0,
    budget: int = DEFAULT_BUDGET,
    search_restarts: int = 8,
    seed: int = 0,
) -> list[Certificate]:
    """What a trained dictionary guarantees: its mask's certificates and those of its values.

    Args:
        mask: rows of the dictionary.
        values: decoder values [n_latents, degree] in the order of `mask.rows`; columns are scaled to unit length.
        k: active latents per code that matter.
        dynamic_range: largest over smallest active value, for the one-shot encoder.
        budget: see `overlap_profile` and `dictionary_coherence`.
        search_restarts: effort of the search for counterexamples; 0 leaves it out.
        seed: of sampling and search.

    Raises:
        ExpanderSaeError: values do not fit the mask, are not finite or have a zero column; k or dynamic_range below 1.

    Example:
        >>> from expander_sae.graphs import mask_from_rows
        >>> mask = mask_from_rows(np.array([[0, 1], [1, 2], [0, 2]]), d_in=3)
        >>> [c.value for c in certify_dictionary(mask, np.ones((3, 2)), k=1) if c.name == "omp"]
        [1]
    """
    _check(k, dynamic_range)
    values = np.asarray(values)
    coherence = dictionary_coherence(mask, values, p_max=max(2 * k, 64), budget=budget // 2, seed=seed)
    flat = flatness(values)
    profile = overlap_profile(mask, p_max=max(2 * k, 64), budget=budget, seed=seed)
    whole = flat.largest < np.inf
    found = overlap_certificates(mask, profile, k, whole=whole)
    if whole:
        found += ensemble_certificates(mask, k)
    found.append(_flatness_certificate(flat))
    if whole:
        found += _flat_certificates(mask, profile, k, flat.largest, assumed=False)
    status, cost = ("certified" if coherence.exact else "estimated"), coherence.seconds
    note = () if coherence.exact else (f"coherence was sampled on {coherence.columns} of {mask.n_latents} columns",)
    size = min(spark_from_babel(coherence.babel), mask.n_latents)
    reach = omp_k(coherence.babel)
    shot = one_shot_k(coherence.babel, coherence.babel, dynamic_range)
    one_sided = one_shot_k(coherence.negative, coherence.positive, dynamic_range)
    ceiling = welch_certificate(mask.d_in, mask.n_latents, k)
    noise = max(0.0, omp_noise_limit(coherence.babel, k))
    spread = f"largest over smallest active value at most {dynamic_range:g}"
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
            size // 2 < k, _reach("Codes have different images", size // 2, k),
        ),
        Certificate(
            "omp", reach, status, note, "mu_1(k - 1) + mu_1(k) < 1", "Tropp 2004", cost, reach < k,
            _reach("Pursuit (OMP) recovers every noiseless code", reach, k)
            + ("" if reach >= k else f" {ceiling.sentence}"),
        ),
        Certificate(
            "omp_noise", noise, status, note, f"(1 - mu_1({k} - 1) - mu_1({k})) / 2", "Donoho, Elad, Temlyakov 2006",
            cost, noise == 0,
            f"Vacuous at k = {k}: no noise level is certified for OMP." if noise == 0
            else f"OMP finds every support of {k} if the noise norm is below {noise:.3g} times the smallest value.",
        ),
        Certificate(
            "one_shot", shot, status, (*note, spread), "R (mu_1(k - 1) + mu_1(k)) < 1",
            "Donoho, Elad, Temlyakov 2006", cost, shot < k,
            _reach("Thresholding (one-shot TopK) of |W^T x| finds every code", shot, k),
        ),
        Certificate(
            "one_shot_nonnegative", one_sided, status, (*note, spread, "codes are non-negative"),
            "R (mu_1^-(k - 1) + mu_1^+(k)) < 1", "one-sided form of the same", cost, one_sided < k,
            _reach("Thresholding (one-shot TopK) of W^T x finds every non-negative code", one_sided, k),
        ),
        ceiling,
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
        sentence = "Some stored values are zero: statements about any non-zero values do not apply to this dictionary."
    formula = "max_j max_i |w_ij| / min_i |w_ij|"
    return Certificate("flatness", flat.largest, "certified", (), formula, "definition", 0.0, zeros, sentence)


def _flat_certificates(mask: Mask, profile: OverlapProfile, k: int, beta: float, *, assumed: bool) -> list[Certificate]:
    """What overlaps and a flatness ratio give together."""
    status, note = status_of(profile, mask)
    assumptions = (*note, f"every column has ratio at most {beta:g}") if assumed else note
    stable = min(stable_size(profile.babel, mask.degree, beta), mask.n_latents) // 2
    reach = max(
        omp_k_from_overlap(profile.largest, mask.degree, beta),
        omp_k(babel_from_overlaps(profile.babel, mask.degree, beta)),
    )
    reach = min(reach, mask.n_latents)
    return [
        Certificate(
            "stable_codes", stable, status, assumptions, "eps_2k <= Lam(2k - 1) / (2 d) < 1 / (1 + beta)",
            "Berinde et al. 2008, weighted by column norms", profile.seconds, stable < k,
            _reach("Codes keep a fixed share of their l1 distance in the image", stable, k),
        ),
        Certificate(
            "omp_from_overlap", reach, status, assumptions, "k < 1 + (d / lam - 1) / (2 beta^2), or its Babel form",
            "Tropp 2004 with |<w_i, w_j>| bounded by the overlap", profile.seconds, reach < k,
            _reach("Pursuit (OMP) recovers every noiseless code, for all values this flat", reach, k),
        ),
    ]  # fmt: skip


def _reach(claim: str, reach: int, k: int) -> str:
    """A sentence for a guarantee that covers codes of at most `reach` active latents when k are asked for."""
    if reach < 1:
        return f"Vacuous: nothing is certified about this ({claim[0].lower()}{claim[1:]})."
    text = f"{claim}, with at most {reach} active latents."
    return text if reach >= k else f"Vacuous at k = {k}; {text[0].lower()}{text[1:]}"


def _check(k: int, ratio: float) -> None:
    if k < 1 or not ratio >= 1:
        raise ExpanderSaeError(f"expected k of at least 1 and a ratio of at least 1, saw {k} and {ratio}.")
