"""What a frontier found, on disk and in memory: `frontier.json`."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from expander_sae.records import ExpanderSaeError, FrontierRecord, read_json
from expander_sae.records.files import naming
from expander_sae.records.metrics import METRICS
from expander_sae.records.sealed import unseal, write_sealed
from expander_sae.records.spread import Spread, spread

from .families import FAMILIES

FORMAT = "expander-sae frontier 1"
FILE = "frontier.json"


@dataclass(frozen=True)
class Summary:
    """One variant over its seeds; diverged runs are counted and not averaged."""

    variant: str
    family: str
    matched_degree: int | None
    n_latents: int
    decoder_values: int
    learned_values: int
    bytes_on_disk: int | None
    diverged: int
    metrics: dict[str, Spread]
    inference: str
    """How codes were read."""


@dataclass(frozen=True)
class Frontier:
    """Everything a report needs."""

    settings: dict[str, Any]
    versions: dict[str, str]
    notes: list[str]
    records: list[FrontierRecord]
    readings: list[FrontierRecord] = field(default_factory=list)
    """The same SAEs read by other inferences."""
    concepts: list[dict[str, Any]] = field(default_factory=list)
    """How well latents and what was never trained tell concepts, as rows of `experiments.probes`; empty where that was
    not measured."""

    def summaries(self) -> list[Summary]:
        """One for each variant that was evaluated at least once, in the order of the records."""
        return summarise(self.records)

    def readings_summaries(self) -> list[Summary]:
        """One for each variant and inference asked for, in the order of the readings."""
        return summarise(self.readings)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `frontier.json` into `folder` and return its path."""
        path = Path(folder) / FILE
        write_sealed(path, self.to_dict())
        return path

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts and numbers; the summaries are included for readers that are not this package."""
        return {
            "format": FORMAT,
            "settings": self.settings,
            "versions": self.versions,
            "notes": self.notes,
            "summaries": [_summary_dict(summary) for summary in self.summaries()],
            "records": [record.to_dict() for record in self.records],
            "readings": [record.to_dict() for record in self.readings],
            "concepts": self.concepts,
        }


def load_frontier(path: str | os.PathLike[str]) -> Frontier:
    """Read a `frontier.json`, given it or its folder.

    Raises:
        ExpanderSaeError: it is missing, damaged, or of another format.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    return from_dict(read_json(path), str(path))


def from_dict(data: Any, where: str = "the record") -> Frontier:
    """The frontier that `Frontier.to_dict` wrote.

    Raises:
        ExpanderSaeError: a damaged record, or one of another format.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ExpanderSaeError(f"expected {where} to be an {FORMAT!r} file; got something else")
    data = unseal(data, where, "Make it again with the same command.")
    try:
        with naming(where):
            records = [FrontierRecord.from_dict(record) for record in data["records"]]
            readings = [FrontierRecord.from_dict(record) for record in data.get("readings", [])]
        told = [dict(row) for row in data.get("concepts", [])]
        return Frontier(dict(data["settings"]), dict(data["versions"]), list(data["notes"]), records, readings, told)
    except (KeyError, TypeError, AttributeError) as error:
        raise ExpanderSaeError(f"{where} lacks or garbles a field: {error}") from error


def with_retention(records: Iterable[FrontierRecord]) -> list[FrontierRecord]:
    """Set both retentions: ce_recovered over that of the full dense tied control of the same seed, read one-shot."""
    records = list(records)
    controls = {r.seed: r.evaluation for r in records if r.family == "dense" and r.reading is None}
    out = []
    for record in records:
        own, control = record.evaluation, controls.get(record.seed)
        zero = mean = None
        if own is not None and control is not None:
            zero = _ratio(own.ce_recovered_zero, control.ce_recovered_zero)
            mean = _ratio(own.ce_recovered_mean, control.ce_recovered_mean)
        out.append(replace(record, retention_zero=zero, retention_mean=mean))
    return out


def _ratio(above: float | None, below: float | None) -> float | None:
    # A control that recovers nothing is no yardstick.
    if above is None or below is None or not below > 0:
        return None
    return above / below


def summarise(records: Iterable[FrontierRecord]) -> list[Summary]:
    """Mean and spread over seeds, per variant."""
    groups: dict[tuple[str, str | None], list[FrontierRecord]] = {}
    for record in records:
        groups.setdefault((record.variant, record.reading), []).append(record)
    found = []
    for (variant, reading), group in groups.items():
        good = [record for record in group if record.evaluation is not None]
        if not good:
            continue
        first = good[0].evaluation
        assert first is not None
        sizes = [r.evaluation.bytes_on_disk for r in good if r.evaluation and r.evaluation.bytes_on_disk]
        metrics: dict[str, Spread] = {}
        for metric in METRICS:
            of_record = metric.group == "retention"
            over_seeds = spread(getattr(r if of_record else r.evaluation, metric.name) for r in good)
            if over_seeds is not None:
                metrics[metric.name] = over_seeds
        found.append(
            Summary(
                variant=variant,
                family=good[0].family,
                matched_degree=good[0].matched_degree,
                n_latents=first.n_latents,
                decoder_values=first.decoder_values,
                learned_values=first.learned_values,
                bytes_on_disk=round(statistics.mean(sizes)) if sizes else None,
                diverged=len(group) - len(good),
                metrics=metrics,
                inference=reading or first.inference,
            )
        )
    return found


_PLACES = {family.name: place for place, family in enumerate(FAMILIES)}


def in_order(summaries: Iterable[Summary]) -> list[Summary]:
    """By degree, at each in the order of `FAMILIES`; the full dense ones last."""
    return sorted(summaries, key=lambda s: (s.matched_degree or math.inf, _PLACES[s.family]))


def _summary_dict(summary: Summary) -> dict[str, Any]:
    return {**vars(summary), "metrics": {name: vars(found) for name, found in summary.metrics.items()}}


def settings_of(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The harvest's settings and counts, as a report shows them."""
    return {name: value for name, value in manifest.items() if name != "shards"}
