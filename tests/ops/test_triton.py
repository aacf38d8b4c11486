"""Run the Triton cases in a process of their own: in the interpreter here, on a GPU where there is one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

CASES = Path(__file__).with_name("triton_cases.py")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed (pip install 'expander-sae[triton]')"
)


def run_cases(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]


def test_in_the_interpreter() -> None:
    run_cases(os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_kernels_compile_for_hopper_without_one() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = str(CASES.with_name("triton_compile.py"))
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("compiles") == 6


def test_importing_the_ops_imports_no_triton() -> None:
    code = (
        "import sys, expander_sae.ops, expander_sae.ops.encode_topk.triton, expander_sae.ops.sparse_decode.triton;"
        "print('triton' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_the_gpu() -> None:
    run_cases({name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"})
