"""The scikit-learn transformer: scikit-learn's own checks, and what its words promise."""

import warnings

import numpy as np
import pytest
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from expander_sae import SparseDictionary
from expander_sae.pursuit import OMP


def data(rows=400, seed=0):
    generator = np.random.default_rng(seed)
    return np.maximum(generator.normal(size=(rows, 30)) - 1, 0) @ np.random.default_rng(1).normal(size=(30, 20))


def test_scikit_learns_own_checks():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degree and k that are clipped to their tiny X
        found = check_estimator(SparseDictionary(16, 3, 3, tokens=1500, random_state=0), on_fail=None)
    failed = {one["check_name"]: one["exception"] for one in found if one["status"] not in ("passed", "skipped")}
    assert not failed
    assert sum(one["status"] == "passed" for one in found) > 40


def test_codes_rebuild_the_rows_in_their_units():
    for scale, offset in ((1.0, 0.0), (1e-4, 0.0), (1e6, 0.0), (1.0, 1e5)):
        x = data() * scale + offset
        model = SparseDictionary(80, 5, 6, tokens=8000, random_state=0).fit(x)
        codes = model.transform(x)
        assert (codes != 0).sum(1).max() <= 6
        assert ((model.components_ != 0).sum(1) <= 5).all()
        left = ((x - model.inverse_transform(codes)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
        assert left < 0.5
        np.testing.assert_allclose(
            model.inverse_transform(codes), codes @ model.components_ + model.mean_, rtol=1e-4, atol=1e-4 * scale
        )


def test_options_pipelines_and_sparse_output():
    x = data()
    model = SparseDictionary(60, 4, 5, tokens=3000, reading=OMP(), sparse_output=True, random_state=3)
    codes = model.fit(x).transform(x)
    assert issparse(codes)
    assert codes.shape == (400, 60)
    assert model.sae_.reading == OMP()
    assert np.array_equal(clone(model).fit(x).transform(x).toarray(), codes.toarray())
    assert list(model.get_feature_names_out()[:2]) == ["latent0", "latent1"]
    assert make_pipeline(StandardScaler(), clone(model)).fit_transform(x).shape == (400, 60)


def test_more_than_there_is_is_clipped_with_a_warning():
    with pytest.warns(UserWarning, match="degree = 30 is more than there is"):
        model = SparseDictionary(60, 30, 5, tokens=1500, random_state=0).fit(data())
    assert model.sae_.degree == 20
    with pytest.warns(UserWarning, match="k = 90 is more than there is"):
        assert SparseDictionary(60, 4, 90, tokens=1500, random_state=0).fit(data()).sae_.k == 60
