"""Every kind of SAE by the name it has in `config.json`."""

from .base import AbstractSae
from .dense_topk import DenseTopKSae
from .expander import ExpanderSae
from .irregular import IrregularSae

KINDS: dict[str, type[AbstractSae]] = {kind.kind: kind for kind in (ExpanderSae, IrregularSae, DenseTopKSae)}
"""Kind -> class."""
