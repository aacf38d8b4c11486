"""Texts with labels, and the balanced yes-or-no tasks that are dealt from them, in the sizes of SAEBench."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from expander_sae.records import ExpanderSaeError

TRAIN_SIZE, TEST_SIZE = 4000, 1000
"""Texts of a task, half of them with the label; SAEBench's sizes."""
LEAST_TRAIN, LEAST_TEST = 20, 10
"""A class with fewer texts to fit or to test on is left out."""
SPLITS = ("train", "test")


@dataclass(frozen=True)
class LabelledTexts:
    """Texts and the class of each.

    Example:
        >>> LabelledTexts("two", ["a b", "c d"], ["yes", "no"]).classes
        ['no', 'yes']
    """

    name: str
    texts: list[str]
    labels: list[str]
    splits: list[str] | None = None
    """`train` or `test` for each text; None: they are drawn."""
    attributes: list[str] | None = None
    """A second label of each text, over which every class is balanced (the gender of a biography)."""

    @property
    def classes(self) -> list[str]:
        """The labels there are, sorted."""
        return sorted(set(self.labels))


class Task(NamedTuple):
    """Whether a text is of one class: rows of texts of that class, and as many of the others."""

    name: str
    fit: np.ndarray
    """int64 rows to choose latents and fit on."""
    fit_labels: np.ndarray
    """bool, whether each is of the class."""
    test: np.ndarray
    test_labels: np.ndarray


class Dealt(NamedTuple):
    """The texts that some task needs, and the tasks; rows count these texts."""

    name: str
    texts: list[str]
    labels: np.ndarray
    """str [texts]."""
    attributes: np.ndarray | None
    """str [texts]."""
    training: np.ndarray
    """bool [texts], whether a text is for fitting."""
    tasks: list[Task]


def read_labelled(source: str | os.PathLike[str]) -> LabelledTexts:
    """Texts with labels from a .jsonl file or a folder.

    A line of a .jsonl file has `text` and `label`, and may have `split` (train or test) and `attribute`. A folder has a
    folder of .txt files for each class. Empty texts are left out.

    Raises:
        ExpanderSaeError: nothing is there, a field is missing or of another type, or there are fewer than two classes.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "set.jsonl").write_text('{"text": "a b", "label": 0}\\n{"text": "c d", "label": 1}\\n')
        >>> read_labelled(folder / "set.jsonl").labels
        ['0', '1']
    """
    path = Path(source)
    if path.is_dir():
        files = sorted(path.glob("*/*.txt"))
        rows: Iterable[Mapping[str, Any]] = (
            {"text": file.read_text(encoding="utf-8", errors="replace"), "label": file.parent.name} for file in files
        )
    elif path.is_file() and path.suffix.lower() == ".jsonl":
        rows = _lines(path)
    else:
        raise ExpanderSaeError(
            f"expected labelled texts at {path}; got neither a .jsonl file (lines with text and label) nor a folder "
            "with a folder of .txt files for each class"
        )
    return collect(path.stem, rows, str(path))


def collect(name: str, rows: Iterable[Mapping[str, Any]], where: str) -> LabelledTexts:
    """Labelled texts out of rows with `text`, `label` and, in all rows or none, `split` and `attribute`.

    Raises:
        ExpanderSaeError: see `read_labelled`.
    """
    found: dict[str, list[str]] = {"text": [], "label": [], "split": [], "attribute": []}
    for number, row in enumerate(rows, 1):
        text, label = row.get("text"), row.get("label")
        if not isinstance(text, str) or not isinstance(label, str | int | float):
            raise ExpanderSaeError(
                f"expected a text and a label (a word or a number) in row {number} of {where}; got fields "
                f"{sorted(map(str, row))}"
            )
        if row.get("split", "train") not in SPLITS:
            raise ExpanderSaeError(f"expected split train or test in row {number} of {where}; got {row['split']!r}")
        if text.strip():
            for field in found:
                if field in row:
                    found[field].append(str(row[field]))
    count = len(found["text"])
    for field in ("split", "attribute"):
        if len(found[field]) not in (0, count):
            raise ExpanderSaeError(
                f"expected {field} in every row of {where} or in none; got it in {len(found[field])} of {count}"
            )
    read = LabelledTexts(name, found["text"], found["label"], found["split"] or None, found["attribute"] or None)
    if len(read.classes) < 2:
        raise ExpanderSaeError(f"expected texts of two classes or more in {where}; got {len(read.classes)}")
    return read


def deal(labelled: LabelledTexts, *, train_size: int = TRAIN_SIZE, test_size: int = TEST_SIZE, seed: int = 42) -> Dealt:
    """One balanced task for each class, as SAEBench makes them.

    Of every class at most `train_size / 2` texts are drawn to fit on and `test_size / 2` to test on, evenly over the
    attribute where there is one. The positives of a task are all of its class; the negatives are drawn evenly from the
    other classes, as many as there are positives. Smaller sets make smaller tasks, balanced as well.

    Raises:
        ExpanderSaeError: the sizes are too small, or fewer than two classes have texts enough.
    """
    if train_size < 2 * LEAST_TRAIN or test_size < 2 * LEAST_TEST:
        raise ExpanderSaeError(
            f"expected at least {2 * LEAST_TRAIN} texts to fit and {2 * LEAST_TEST} to test on; got {train_size} and "
            f"{test_size}"
        )
    draw = np.random.default_rng(seed)
    share = train_size / (train_size + test_size)
    sides: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in labelled.classes:
        rows = np.array([row for row, label in enumerate(labelled.labels) if label == name])
        if labelled.splits is None:
            rows = draw.permutation(rows)
            cut = round(share * len(rows))
            both = rows[:cut], rows[cut:]
        else:
            which = np.array([labelled.splits[row] for row in rows])
            both = draw.permutation(rows[which == "train"]), draw.permutation(rows[which == "test"])
        fit, test = (_evenly(side, labelled.attributes, size // 2)
                     for side, size in zip(both, (train_size, test_size), strict=True))  # fmt: skip
        if len(fit) >= LEAST_TRAIN and len(test) >= LEAST_TEST:
            sides[name] = fit, test
    if len(sides) < 2:
        raise ExpanderSaeError(
            f"expected two classes with {LEAST_TRAIN} texts to fit and {LEAST_TEST} to test on in {labelled.name}; got "
            f"{len(sides)} among {len(labelled.classes)} classes. Give more texts."
        )
    kept = np.concatenate([rows for both in sides.values() for rows in both])
    place = np.full(len(labelled.texts), -1)
    place[kept] = np.arange(len(kept))
    placed = {name: (place[fit], place[test]) for name, (fit, test) in sides.items()}
    tasks = [Task(name, *_balanced(placed, name, 0, draw), *_balanced(placed, name, 1, draw)) for name in placed]
    training = np.zeros(len(kept), dtype=bool)
    training[np.concatenate([fit for fit, _ in placed.values()])] = True
    return Dealt(
        name=labelled.name,
        texts=[labelled.texts[row] for row in kept],
        labels=np.array(labelled.labels)[kept],
        attributes=None if labelled.attributes is None else np.array(labelled.attributes)[kept],
        training=training,
        tasks=tasks,
    )


def _evenly(rows: np.ndarray, attributes: list[str] | None, count: int) -> np.ndarray:
    """The first rows, as many of each attribute as of any other."""
    if attributes is None:
        return rows[:count]
    of = np.array([attributes[row] for row in rows])
    values, counts = np.unique(of, return_counts=True)
    if len(values) == 0:
        return rows
    each = min(count // len(values), int(counts.min()))
    return np.concatenate([rows[of == value][:each] for value in values])


def _balanced(
    sides: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str, side: int, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a class and as many of the others, and which is which."""
    positives = sides[name][side]
    others = [both[side] for other, both in sides.items() if other != name]
    each = -(-len(positives) // len(others))
    negatives = draw.permutation(np.concatenate([draw.permutation(rows)[:each] for rows in others]))[: len(positives)]
    positives = positives[: len(negatives)]
    labels = np.arange(2 * len(positives)) < len(positives)
    return np.concatenate([positives, negatives]), labels


def _lines(path: Path) -> Iterable[Mapping[str, Any]]:
    number = 0
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, Mapping):
                        raise ExpanderSaeError(
                            f"expected a JSON object with text and label in line {number} of {path}; got a "
                            f"{type(row).__name__}"
                        )
                    yield row
    except ExpanderSaeError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise ExpanderSaeError(f"expected one JSON object a line in {path}; at line {number} got {error}") from error
