"""Result records, hashes and files that are written whole or not at all. Nothing here imports torch."""

from .errors import ExpanderSaeError
from .files import read_json, sha256_file, write_atomically, write_json
from .results import EvaluationRecord, FrontierRecord, TrainingRecord

__all__ = [
    "EvaluationRecord",
    "ExpanderSaeError",
    "FrontierRecord",
    "TrainingRecord",
    "read_json",
    "sha256_file",
    "write_atomically",
    "write_json",
]
