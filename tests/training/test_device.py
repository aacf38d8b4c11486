"""SAEs train where they are. No GPU here: `far_device.py` says how a device that is not the CPU is made up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import make_documents, make_tiny_model, write_jsonl

from expander_sae.activations import harvest, load_language_model
from expander_sae.ops.backends import check_device
from expander_sae.pursuit import Stages
from expander_sae.records import ExpanderSaeError

TESTS = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("far")
    model = load_language_model(make_tiny_model(folder / "model"), dtype="float32")
    text = write_jsonl(folder / "text.jsonl", make_documents(8))
    sizes = {"context": 32, "heldout_share": 0.25}
    harvest(model, text, folder / "acts", **sizes, compute_dtype="float32", progress=False)
    ran = subprocess.run(
        [sys.executable, str(TESTS / "training" / "train_far.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS / "training")])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_every_kind_trains_on_another_device_as_on_the_cpu(found):
    assert set(found["cpu"]) == {"pursuit", "paper", "irregular", "dense", "untied", "flat", "own"}
    for name, cpu in found["cpu"].items():
        far = found["far"][name]
        assert (cpu["device"], far["device"]) == ("cpu", "far:0")
        # The C++ core on the CPU, plain PyTorch there: the same to rounding, until a near tie goes the other way.
        assert far["losses"] == pytest.approx(cpu["losses"], rel=1e-3), name
        assert far["held out"] == pytest.approx(cpu["held out"], rel=1e-3), name
    assert all(found["cpu"][name]["moved"] > 0 for name in ("pursuit", "irregular", "flat"))
    assert found["far"]["pursuit"]["moved"] == pytest.approx(found["cpu"]["pursuit"]["moved"], rel=0.02)
    assert all(found["far"][name]["most dead"] > 0 for name in ("pursuit", "paper", "dense"))  # and were revived


def test_a_pass_begun_on_one_device_ends_on_another(found):
    for name, record in found["resumed"].items():
        assert record["device"] == "cpu"
        assert record["loss"] == pytest.approx(found["cpu"][name]["losses"][-1], rel=1e-3), name


def test_a_frontier_trains_and_measures_there(found):
    cpu, far = found["frontier, cpu"], found["frontier, far"]
    assert set(cpu) == set(far) == {"expander-d4", "dense", "pruned-d4"}
    for name in cpu:
        assert (cpu[name]["device"], far[name]["device"]) == ("cpu", "far:0")
        assert far[name]["fvu"] == pytest.approx(cpu[name]["fvu"], rel=1e-3), name
        assert far[name]["delta_ce"] == pytest.approx(cpu[name]["delta_ce"], rel=1e-2, abs=1e-4), name


def test_the_far_device_refuses_what_a_gpu_refuses(found):
    assert "expected all tensors on one device" in found["mixed"]


@pytest.mark.parametrize("name", ["nowhere", "meta", "cuda:77"])
def test_a_device_that_is_not_there_is_one_clear_error(name):
    with pytest.raises(ExpanderSaeError, match=f"a device that torch can use here.*{name}"):
        check_device(name)


@pytest.mark.gpu
def test_on_the_gpu(tmp_path):
    import torch
    from memory_source import MemorySource, sparse_activations

    from expander_sae.saes import ExpanderSae
    from expander_sae.training import MoveSupports, TrainConfig, train

    x = sparse_activations()
    config = TrainConfig(tokens=256 * 60, batch_size=256, learning_rate=1e-2, move_supports=MoveSupports(every=10))
    losses = {}
    for device in ("cpu", "cuda"):
        sae = ExpanderSae(d_in=48, n_latents=256, degree=6, k=8, reading=Stages(4, 4)).to(device)
        record = train({"sae": sae}, MemorySource(x), config, folder=tmp_path / device, progress=False)["sae"]
        assert torch.device(record.device).type == device
        losses[device] = record.final_fvu
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=0.02)
