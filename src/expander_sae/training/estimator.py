"""An Expander SAE as a scikit-learn transformer; scikit-learn is imported with this file and is optional."""

import warnings
from typing import Any, Self

import numpy as np
import torch

from expander_sae.ops import Codes
from expander_sae.pursuit import Reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae

from .fit import fit

try:
    from scipy.sparse import csr_matrix, issparse
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ExpanderSaeError(
        f"expected scikit-learn >= 1.6 for SparseDictionary; got {error}. pip install 'expander-sae[sklearn]'"
    ) from error


class SparseDictionary(TransformerMixin, BaseEstimator):
    """Sparse coding with an Expander SAE: `X ~ codes @ components_ + mean`, at most k codes a row.

    Columns of the dictionary (rows of `components_`) have `degree` non-zeros each, whose places are learned. Where X
    has fewer features than `degree`, or k exceeds `n_latents`, the smaller number is used, with a warning.

    Args:
        n_latents: dictionary columns.
        degree: non-zeros of each.
        k: most codes of a row.
        tokens: rows seen in training, counting repeats; rows whose norm is above five medians are left out of it.
        reading: how codes are found (`expander_sae.pursuit`); None: the SAE's default.
        sparse_output: give codes as a scipy CSR matrix instead of an array [n_samples, n_latents].
        random_state: of the mask, the initial values and the order of rows.
        verbose: show a progress bar.

    Attributes:
        sae_: the trained `ExpanderSae`.
        record_: how its training went.
        components_: the dictionary [n_latents, n_features].
        mean_: what is subtracted before coding [n_features].
        offset_, scale_: the SAE works on (X - offset_) / scale_.
        n_features_in_: features seen in `fit`.

    Raises:
        ExpanderSaeError: from `fit`, impossible sizes or data (fewer than two rows, no variance).

    Example:
        >>> X = np.maximum(np.random.default_rng(0).normal(size=(500, 20)) - 1, 0) @ np.eye(20, 30)
        >>> model = SparseDictionary(n_latents=60, degree=4, k=5, tokens=5000, random_state=0).fit(X)
        >>> model.transform(X).shape
        (500, 60)
    """

    def __init__(
        self,
        n_latents: int = 1024,
        degree: int = 7,
        k: int = 32,
        *,
        tokens: int = 1_000_000,
        reading: Reading | None = None,
        sparse_output: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.n_latents = n_latents
        self.degree = degree
        self.k = k
        self.tokens = tokens
        self.reading = reading
        self.sparse_output = sparse_output
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train the dictionary on the rows of X [n_samples, n_features]; y is not used."""
        data: Any = validate_data(self, X, dtype=[np.float32, np.float64], ensure_min_samples=2)
        degree, k = _at_most("degree", self.degree, data.shape[1]), _at_most("k", self.k, self.n_latents)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        reading = None if self.reading is None else self.reading.fitted(k, self.n_latents)
        self.sae_ = ExpanderSae(
            d_in=data.shape[1], n_latents=self.n_latents, degree=degree, k=k, seed=seed, reading=reading
        )
        # Data of any place and scale: training works in units of the norm, and float32 ends.
        self.offset_ = data.mean(0, dtype=np.float64)
        self.scale_ = float(np.abs(data - self.offset_).max()) or 1.0
        scaled = self._scaled(data)
        self.record_ = fit(self.sae_, scaled, tokens=self.tokens, seed=seed, preset="fidelity", progress=self.verbose)
        w = self.sae_.dictionary().detached()
        assert w.center is not None
        self.components_ = w.dense().numpy()
        self.mean_ = w.center.numpy() * self.scale_ + self.offset_
        return self

    def transform(self, X: Any) -> Any:
        """Codes [n_samples, n_latents] of the rows of X, float32, in the units of X."""
        codes = self.encode(X)
        values = codes.values.numpy() * np.float32(self.scale_)
        shape = (len(values), self.sae_.n_latents)
        kept = values != 0
        starts = np.concatenate([[0], kept.sum(1).cumsum()])
        made = csr_matrix((values[kept], codes.indices.numpy()[kept], starts), shape=shape)
        return made if self.sparse_output else made.toarray()

    def encode(self, X: Any) -> Codes:
        """The codes of the rows of X as indices and values [n_samples, k], in units of `scale_`."""
        check_is_fitted(self)
        data: Any = validate_data(self, X, dtype=[np.float32, np.float64], reset=False)
        with torch.no_grad():
            return self.sae_.encode(torch.from_numpy(self._scaled(data)))

    def _scaled(self, data: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray((data - self.offset_) / self.scale_, dtype=np.float32)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Rows [n_samples, n_features] rebuilt from codes [n_samples, n_latents], dense or sparse."""
        check_is_fitted(self)
        codes = X if issparse(X) else np.asarray(X, dtype=np.float32)
        if codes.ndim != 2 or codes.shape[1] != self.sae_.n_latents:
            raise ExpanderSaeError(f"expected codes [n_samples, {self.sae_.n_latents}]; got {list(codes.shape)}")
        return np.asarray(codes @ self.components_ + self.mean_, dtype=np.float32)

    @property
    def _n_features_out(self) -> int:
        return self.sae_.n_latents

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """`latent0`, `latent1`, ..."""
        check_is_fitted(self)
        return np.asarray([f"latent{j}" for j in range(self.sae_.n_latents)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _at_most(name: str, value: int, most: int) -> int:
    if value > most:
        warnings.warn(f"{name} = {value} is more than there is; {name} = {most} is used", stacklevel=3)
        return most
    return value
