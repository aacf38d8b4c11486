"""The flat names under which the settings of a pass are written down: in records, in an SAE's `config.json`, and in the
fingerprint by which a checkpoint or a finished folder is recognised. They outlast the names in Python."""

from collections.abc import Mapping
from typing import Any

from expander_sae.pursuit import Reading, Stages, as_numbers, of_numbers
from expander_sae.pursuit.reading import MOST
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import AbstractSae

RECORDED = {
    "tokens": "tokens",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "final_learning_rate": "schedule.final",
    "schedule": "schedule.shape",
    "warmup": "schedule.warmup",
    "decay": "schedule.decay",
    "beta1": "adam.beta1",
    "beta2": "adam.beta2",
    "clip": "adam.clip",
    "loss_unit": "loss_unit",
    "scale_inputs": "inputs.scale",
    "center_on_mean": "inputs.center",
    "fine_tune": "fine_tune",
    "outlier_medians": "inputs.outlier_medians",
    "with_replacement": "inputs.with_replacement",
    "dead_after_tokens": "dead_after_tokens",
    "aux_coefficient": "revive.weight",
    "aux_k": "revive.k",
    "resample_every": "resample.every",
    "resample_firings": "resample.fewer_than",
    "stages": "reading",
    "spare": "reading",
    "rewire_every": "move_supports.every",
    "rewire_entries": "move_supports.entries",
    "rewire_until": "move_supports.until",
    "rewire_row_cap": "move_supports.row_cap",
    "flatness": "flatness.beta",
    "flatness_from": "flatness.since",
    "coherence": "coherence.weight",
    "coherence_columns": "coherence.columns",
    "amortise": "amortise",
    "seed": "seed",
    "statistics_tokens": "inputs.statistics_tokens",
    "log_every": "watch.log_every",
    "heldout_every": "watch.heldout_every",
    "checkpoint_every": "watch.checkpoint_every",
}
"""The place of each in a `TrainConfig`, in the order of records."""

OFF: dict[str, dict[str, Any]] = {
    "revive": {"aux_coefficient": 0.0, "aux_k": None},
    "resample": {"resample_every": 0, "resample_firings": 5},
    "move_supports": {"rewire_every": 0, "rewire_entries": None, "rewire_until": 0.85, "rewire_row_cap": None},
    "flatness": {"flatness": None, "flatness_from": 0.8},
    "coherence": {"coherence": 0.0, "coherence_columns": 256},
}
"""What a part that is off is written as; by the first name of each it is told from one that is on."""

WATCHED = tuple(name for name, place in RECORDED.items() if place.startswith("watch."))
"""Settings by which a pass is watched and saved: what it learns does not depend on them."""


def flat(config: object) -> dict[str, Any]:
    """The settings of a `TrainConfig` under their recorded names."""
    found = {}
    for name, place in RECORDED.items():
        group, _, field = place.rpartition(".")
        holder = getattr(config, group) if group else config
        found[name] = OFF[group][name] if holder is None else getattr(holder, field)
    return found | _limits(found["stages"])


def grouped(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded names as the fields of a `TrainConfig`: a dictionary for each group, None for a part that is off.

    Raises:
        ExpanderSaeError: a setting of a part that is off.
    """
    found: dict[str, Any] = {}
    for name, place in RECORDED.items():
        group, _, field = place.rpartition(".")
        (found.setdefault(group, {}) if group else found)[field] = settings[name]
    for part, off in OFF.items():
        switch = next(iter(off))
        if settings[switch] == off[switch]:
            idle = [name for name in off if settings[name] != off[name]]
            if idle:
                raise ExpanderSaeError(
                    f"{idle[0]} = {settings[idle[0]]} has no effect while {switch} is {off[switch]}; give that too, or "
                    "neither"
                )
            found[part] = None
    found["reading"] = _reading(settings["stages"], settings["spare"])
    return found


def _limits(reading: Reading | None) -> dict[str, int | None]:
    """`TrainConfig.reading` as two numbers, each None where the SAE's own holds."""
    if reading is None:
        return {"stages": None, "spare": None}
    # The spare columns beside the encoder were those of the default recipe.
    numbers = as_numbers(reading, idle=4)
    return numbers | {"stages": None} if numbers["stages"] == MOST else numbers


def _reading(stages: int | None, spare: int | None) -> Reading | None:
    if stages is not None:
        return of_numbers(stages, spare)
    return None if spare is None else Stages(MOST, spare)


def sae_as_recorded(sae: AbstractSae) -> dict[str, Any]:
    """What a pass's fingerprint holds of an SAE: `describe`, but a reading in stages as two numbers.

    Earlier releases had these: passes that they began are gone on with, those that they finished are found finished.
    """
    described = sae.describe()
    return {name: value for name, value in described.items() if name != "reading"} | as_numbers(sae.reading)
