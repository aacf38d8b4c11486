"""Result records, hashes and files that are written whole or not at all. Nothing here imports torch."""

from .errors import ExpanderSaeError
from .fields import Fields
from .files import read_json, sha256_file, write_atomically, write_json
from .pairs import arrays_of, write_pair
from .results import EvaluationRecord, FrontierRecord, TrainingRecord

__all__ = [
    "EvaluationRecord",
    "ExpanderSaeError",
    "Fields",
    "FrontierRecord",
    "TrainingRecord",
    "arrays_of",
    "read_json",
    "sha256_file",
    "write_atomically",
    "write_json",
    "write_pair",
]
