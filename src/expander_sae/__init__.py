"""Expander sparse autoencoders: dictionaries with `degree` non-zeros per column, placed by an expander graph.

The public names; each room documents itself: graphs, ops, saes, activations, training, evaluation, frontier.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .activations import ActivationStore, harvest
    from .evaluation import evaluate
    from .graphs import Mask, make_mask
    from .ops import Codes
    from .records import ExpanderSaeError
    from .saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae
    from .training import TrainConfig, fit, train
    from .training.estimator import SparseDictionary

__all__ = [
    "ActivationStore",
    "Codes",
    "DenseTopKSae",
    "ExpanderSae",
    "ExpanderSaeError",
    "IrregularSae",
    "Mask",
    "SparseDictionary",
    "TrainConfig",
    "evaluate",
    "fit",
    "harvest",
    "load_sae",
    "make_mask",
    "train",
]

_ROOMS = {
    "ActivationStore": "activations",
    "Codes": "ops",
    "DenseTopKSae": "saes",
    "ExpanderSae": "saes",
    "ExpanderSaeError": "records",
    "IrregularSae": "saes",
    "Mask": "graphs",
    "SparseDictionary": "training.estimator",
    "TrainConfig": "training",
    "evaluate": "evaluation",
    "fit": "training",
    "harvest": "activations",
    "load_sae": "saes",
    "make_mask": "graphs",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Import a public name's room when it is first asked for, so that `expander-sae --help` need not load torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module 'expander_sae' has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
