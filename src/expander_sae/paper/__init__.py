"""The numbers of arXiv 2607.01799 and of a replication of it, shipped as data, and which of them stand beside ours."""

from .beside import Curve, Paper
from .results import (
    ARCHITECTURES,
    PaperResult,
    Recovery,
    paper_diagnostics,
    paper_recoveries,
    paper_replication,
    paper_results,
    paper_speeds,
    select,
)

__all__ = [
    "ARCHITECTURES",
    "Curve",
    "Paper",
    "PaperResult",
    "Recovery",
    "paper_diagnostics",
    "paper_recoveries",
    "paper_replication",
    "paper_results",
    "paper_speeds",
    "select",
]
