"""Certificates that overlaps and a flatness ratio give together."""

import numpy as np

from expander_sae.graphs import Mask
from expander_sae.graphs.expansion import expansion_loss_bound
from expander_sae.graphs.overlap import OverlapProfile

from .certificate import Certificate
from .coherence import babel_from_overlaps
from .identifiability import stable_size
from .maskwise import beside_ceiling, reach_sentence, status_of
from .recovery import omp_k, omp_k_from_overlap, one_shot_k
from .stability import distance_factor, l1_recovery_k, mass_profile, nonnegative_k, stable_size_of_profile


def flat_certificates(
    mask: Mask,
    profile: OverlapProfile,
    k: int,
    beta: float,
    *,
    values: np.ndarray | None = None,
    dynamic_range: float = 1.0,
) -> list[Certificate]:
    """Stable and l1 recovery, uniqueness of non-negative codes, pursuit and thresholding, through overlaps alone.

    Args:
        mask: the mask.
        profile: its overlaps.
        k: active latents that matter.
        beta: flatness ratio of every column: measured, or assumed where `values` is None.
        values: the dictionary's; their profile replaces the ratio where it is better, and their signs are looked at.
        dynamic_range: largest over smallest active value, for thresholding.
    """
    status, note = status_of(profile, mask)
    flat = (*note, f"every column has ratio at most {beta:g}") if values is None else note
    losses, cost, most = expansion_loss_bound(profile.babel, mask.degree), profile.seconds, mask.n_latents
    stable = stable_size(profile.babel, mask.degree, beta)
    if values is not None:
        stable = max(stable, stable_size_of_profile(profile.babel, mask.degree, mass_profile(values)))
    stable = min(stable, most) // 2
    factor = distance_factor(float(losses[2 * k]), beta, mask.degree) if 2 * k < len(losses) else None
    bound = babel_from_overlaps(profile.babel, mask.degree, beta)
    reach = min(max(omp_k_from_overlap(profile.largest, mask.degree, beta), omp_k(bound)), most)
    shot = min(one_shot_k(bound, bound, dynamic_range), most)
    solved, found = min(l1_recovery_k(losses, beta), most), min(nonnegative_k(losses), most)
    spread = f"largest over smallest active value at most {dynamic_range:g}"
    certificates = [
        Certificate(
            "stable_codes", stable, status, flat, "eps_2k <= Lam(2k - 1) / (2 d) < 1 / (1 + beta)",
            "Berinde et al. 2008, weighted by column norms", cost, stable < k,
            reach_sentence("Codes keep a fixed share of their l1 distance in the image", stable, k)
            + (f" At k = {k}: ||x - x'||_1 <= {factor:.3g} ||W (x - x')||_1." if factor is not None else ""),
        ),
        Certificate(
            "l1_recovery", solved, status, flat, "2 f(2 eps_2k) + 2 f(eps_2k) < 1, f(u) = beta u / (1 + (beta - 1) u)",
            "Berinde et al. 2008, weighted by column norms", cost, solved < k,
            reach_sentence("Weighted l1 minimisation finds every code", solved, k),
        ),
        Certificate(
            "omp_from_overlap", reach, status, flat, "k < 1 + (d / lam - 1) / (2 beta^2), or its Babel form",
            "Tropp 2004 with |<w_i, w_j>| bounded by the overlap", cost, reach < k,
            beside_ceiling(
                reach_sentence("Pursuit (OMP) recovers every noiseless code, for all values this flat", reach, k),
                mask, k,
            ),
        ),
        Certificate(
            "one_shot_from_overlap", shot, status, (*flat, spread), "R (sum of k - 1 + sum of k overlap bounds) < 1",
            "Donoho, Elad, Temlyakov 2006 with |<w_i, w_j>| bounded by the overlap", cost, shot < k,
            beside_ceiling(
                reach_sentence("Thresholding (one-shot TopK) finds every code, for all values this flat", shot, k),
                mask, k,
            ),
        ),
    ]  # fmt: skip
    if values is None or (np.asarray(values) > 0).all():
        positive = () if values is not None else ("all values positive",)
        certificates.append(
            Certificate(
                "nonnegative_codes", found, status, (*note, *positive, "codes are non-negative"),
                "eps_s < 1/2, s >= floor(k / (1 - eps_s)) + 1", "Khajehnejad, Dimakis, Xu, Hassibi 2011", cost,
                found < k, reach_sentence("Non-negative least squares finds every code", found, k),
            )
        )  # fmt: skip
    return certificates
