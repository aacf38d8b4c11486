"""The table of metrics: every entry is a field of a record and has its line in docs/reference/metrics.md."""

from dataclasses import fields
from pathlib import Path

from expander_sae.records import EvaluationRecord, FrontierRecord
from expander_sae.records.metrics import METRIC, METRICS, QUALITY

DOCUMENT = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"


def test_every_metric_is_measured_and_documented():
    evaluated, of_frontier = ({field.name for field in fields(record)} for record in (EvaluationRecord, FrontierRecord))
    text = DOCUMENT.read_text(encoding="utf-8")
    for metric in METRICS:
        assert metric.name in (of_frontier if metric.group == "retention" else evaluated)
        assert f"`{metric.name}`" in text
    assert len(METRIC) == len(METRICS) == len({metric.heading for metric in METRICS})


def test_cross_entropy_is_never_shown_by_one_number_alone():
    shown = [metric.name for metric in QUALITY if metric.group == "cross entropy"]
    assert shown == ["delta_ce", "ce_recovered_zero", "ce_recovered_mean", "kl"]


def test_numbers_are_written_in_the_digits_of_the_table():
    assert METRIC["delta_ce"].heading == "Δ CE, nats"
    assert [METRIC[name].text(0.123456) for name in ("fvu", "rel_err", "l0")] == ["0.1235", "0.123", "0.1"]
    assert METRIC["encode_tokens_per_second"].text(12345.6) == "12,346"
    assert METRIC["kl"].text(None) == "–"
