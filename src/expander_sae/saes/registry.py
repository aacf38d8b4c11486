"""Every kind of SAE by the name that files have for it."""

from collections.abc import Iterable
from typing import Any

from expander_sae.records import ExpanderSaeError

from .base import AbstractSae
from .dense_topk import DenseTopKSae
from .expander import ExpanderSae
from .irregular import IrregularSae

CLASSES: dict[str, type[AbstractSae]] = {one.kind: one for one in (ExpanderSae, IrregularSae, DenseTopKSae)}
"""Kind -> class, for checkpoints and for every other format that holds an SAE of this package."""


def class_of_kind(kind: Any, known: Iterable[str] = tuple(CLASSES), where: object = None) -> type[AbstractSae]:
    """The class of a kind that a file names.

    Args:
        kind: of any type: files hold what they like.
        known: kinds that the format has.
        where: the file, for the error.

    Raises:
        ExpanderSaeError: it is none of these.

    Example:
        >>> class_of_kind("expander").__name__
        'ExpanderSae'
    """
    known = tuple(known)
    if kind not in known:
        place = "" if where is None else f" in {where}"
        raise ExpanderSaeError(f"expected kind as one of {', '.join(known)}{place}; got {kind!r}")
    return CLASSES[kind]
