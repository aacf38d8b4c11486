"""Every metric once: where it is in the records, how it is called and written, and which way is better.

`docs/reference/metrics.md` has the formulas. A new metric is a field of `EvaluationRecord` and one entry here: tables,
figures and reports take their headings, digits and directions from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """One number of a record, as tables and figures show it."""

    name: str
    """The field of `EvaluationRecord`, or of `FrontierRecord` for the retentions."""
    symbol: str
    words: str
    """The same in a sentence."""
    group: Literal["reconstruction", "cross entropy", "retention"]
    """What is needed for it: activations; a language model; a full dense SAE beside it."""
    digits: int
    """Behind the point, in the tables of pages."""
    narrow: int
    """Where there is little room: terminals, documents, model cards."""
    better: Literal[-1, 0, 1]
    """Whether lower (-1) or higher (1) is better; 0: neither."""
    unit: str = ""
    short: str = ""
    """The symbol on several lines, for 80 columns; empty where a terminal does not show it beside the others."""
    quality: bool = True
    """Whether every table of SAEs shows it."""

    @property
    def heading(self) -> str:
        """Above a column and beside an axis: symbol and unit.

        Example:
            >>> METRIC["delta_ce"].heading
            'Δ CE, nats'
        """
        return f"{self.symbol}, {self.unit}" if self.unit else self.symbol

    @property
    def direction(self) -> str:
        """`lower is better`, `higher is better`, or nothing."""
        return {-1: "lower is better", 0: "", 1: "higher is better"}[self.better]

    @property
    def title(self) -> str:
        """Above a figure: in words, and which way is better."""
        return f"{self.words[:1].upper()}{self.words[1:]}" + (f" ({self.direction})" if self.direction else "")

    def text(self, value: float | None) -> str:
        """A number where there is little room.

        Example:
            >>> METRIC["fvu"].text(0.25931), METRIC["fvu"].text(None)
            ('0.2593', '–')
        """
        return "–" if value is None else f"{value:,.{self.narrow}f}"


METRICS = (
    Metric("fvu", "fvu", "variance left unexplained", "reconstruction", 4, 4, -1, short="fvu"),
    Metric("rel_err", "rel_err", "relative error", "reconstruction", 4, 3, -1),
    Metric("cosine", "cosine", "cosine of x and its reconstruction", "reconstruction", 4, 4, 1, quality=False),
    Metric("l0", "L0", "active latents per token", "reconstruction", 1, 1, 0, quality=False),
    Metric("ce_recon", "CE", "cross entropy with the reconstruction", "cross entropy", 3, 3, -1, "nats", quality=False),
    Metric("delta_ce", "Δ CE", "cross entropy added", "cross entropy", 3, 3, -1, "nats", "Δ CE,\nnats"),
    Metric(
        "ce_recovered_zero", "CE recovered, zero", "cross entropy recovered, zero form", "cross entropy", 4, 3, 1,
        short="CE\nrec.\nzero",
    ),
    Metric(
        "ce_recovered_mean", "CE recovered, mean", "cross entropy recovered, mean form", "cross entropy", 4, 3, 1,
        short="CE\nrec.\nmean",
    ),
    Metric("kl", "KL", "divergence of the next-token distributions", "cross entropy", 3, 3, -1, "nats", "KL,\nnats"),
    Metric(
        "retention_zero", "retention, zero", "retention of the full dense SAE's, zero form", "retention", 3, 3, 1,
        short="ret.\nzero",
    ),
    Metric(
        "retention_mean", "retention, mean", "retention of the full dense SAE's, mean form", "retention", 3, 3, 1,
        short="ret.\nmean",
    ),
    Metric("dead_fraction", "dead", "share of dead latents", "reconstruction", 4, 3, -1, short="dead"),
    Metric(
        "encode_tokens_per_second", "encoding", "speed of reading codes", "reconstruction", 0, 0, 1, "tokens/s",
        quality=False,
    ),
)  # fmt: skip
"""In the order of tables; both forms of cross entropy, `delta_ce` and `kl` always together."""

METRIC = {metric.name: metric for metric in METRICS}
QUALITY = tuple(metric for metric in METRICS if metric.quality)
"""What every table of SAEs shows of those that were measured."""
