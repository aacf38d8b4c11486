"""scikit-learn is optional: what needs it says so in one sentence, and nothing else does."""

import subprocess
import sys

import pytest

HIDE = """
import sys
from importlib.machinery import PathFinder
class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ("sklearn", "scipy") else super().find_spec(name, path, target)
sys.meta_path[:] = [Others if finder is PathFinder else finder for finder in sys.meta_path]
"""


def python(code):
    return subprocess.run([sys.executable, "-c", HIDE + code], capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    "code", ["import expander_sae.evaluation.meaning", "from expander_sae.training.estimator import SparseDictionary"]
)
def test_what_needs_it_says_so(code):
    done = python(code)
    assert "ExpanderSaeError: expected scikit-learn >= 1.6 for" in done.stderr
    assert "pip install 'expander-sae[sklearn]'" in done.stderr


def test_nothing_else_needs_it():
    done = python("""
import expander_sae, torch
from expander_sae import ExpanderSae, fit
import expander_sae.evaluation.nulls, expander_sae.compression
from expander_sae.frontier.experiments import NAMES, find_experiment
assert [find_experiment(name).name for name in NAMES] == list(NAMES)  # their pages are drawn without it
from expander_sae.interop import read_sae
fit(ExpanderSae(d_in=16, n_latents=32, degree=4, k=4), torch.randn(300, 16), tokens=600, progress=False)
""")
    assert done.returncode == 0, done.stderr
