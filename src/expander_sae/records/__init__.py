"""Result records, hashes and files that are written whole or not at all. Nothing here imports torch."""

from .errors import ExpanderSaeError
from .files import disk_errors, read_json, sha256_file, write_atomically, write_json
from .results import EvaluationRecord, FrontierRecord, TrainingRecord
from .tensors import write_tensors, write_torch

__all__ = [
    "EvaluationRecord",
    "ExpanderSaeError",
    "FrontierRecord",
    "TrainingRecord",
    "disk_errors",
    "read_json",
    "sha256_file",
    "write_atomically",
    "write_json",
    "write_tensors",
    "write_torch",
]
