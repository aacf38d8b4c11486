"""Result records, hashes and files that are written whole or not at all. Nothing here imports torch."""

from .errors import ExpanderSaeError, ExpanderSaeWarning
from .fields import Fields
from .files import disk_errors, read_json, sha256_file, write_atomically, write_json
from .pairs import arrays_of, write_pair
from .provenance import Provenance, ProvenanceWarning, check_provenance, warn_of_differences
from .results import (
    NULLS,
    AbsorptionRecord,
    EvaluationRecord,
    FrontierRecord,
    LabelledProbeRecord,
    ProbeRecord,
    TrainingRecord,
)
from .tensors import write_tensors, write_torch
from .whole_numbers import whole_number

__all__ = [
    "NULLS",
    "AbsorptionRecord",
    "EvaluationRecord",
    "ExpanderSaeError",
    "ExpanderSaeWarning",
    "Fields",
    "FrontierRecord",
    "LabelledProbeRecord",
    "ProbeRecord",
    "Provenance",
    "ProvenanceWarning",
    "TrainingRecord",
    "arrays_of",
    "check_provenance",
    "disk_errors",
    "read_json",
    "sha256_file",
    "warn_of_differences",
    "whole_number",
    "write_atomically",
    "write_json",
    "write_pair",
    "write_tensors",
    "write_torch",
]
