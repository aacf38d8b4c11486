"""The numbers of every latent as tables of other libraries, where these are installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expander_sae.records import ExpanderSaeError


def frame(columns: Mapping[str, np.ndarray]) -> Any:
    """A `pandas.DataFrame`, one row a latent.

    Raises:
        ExpanderSaeError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise _missing("pandas") from error
    return pandas.DataFrame(dict(columns)).set_index("latent")


def arrow(columns: Mapping[str, np.ndarray]) -> Any:
    """A `pyarrow.Table`, one row a latent.

    Raises:
        ExpanderSaeError: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise _missing("pyarrow") from error
    return pyarrow.table({name: pyarrow.array(column, from_pandas=True) for name, column in columns.items()})


def _missing(name: str) -> ExpanderSaeError:
    return ExpanderSaeError(f"expected {name}, which makes this table; got none. Run `pip install {name}`.")
