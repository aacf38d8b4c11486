"""What the theory promises, computed: for a mask, for a dictionary, and for a single code."""

from .certificate import Certificate
from .certify import certify_dictionary, certify_mask
from .coherence import Coherence, dictionary_coherence
from .coverage import unique_by_coverage
from .flatness import Flatness, flatness
from .posterior import PosteriorCertificates, encoder_margin, posterior_certificates
from .shares import CodeShares

__all__ = [
    "Certificate",
    "CodeShares",
    "Coherence",
    "Flatness",
    "PosteriorCertificates",
    "certify_dictionary",
    "certify_mask",
    "dictionary_coherence",
    "encoder_margin",
    "flatness",
    "posterior_certificates",
    "unique_by_coverage",
]
