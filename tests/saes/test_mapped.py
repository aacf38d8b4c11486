import subprocess
import sys

import pytest
import torch

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.pursuit import Encoder
from expander_sae.saes import DenseTopKSae, ExpanderSae, load_sae

CHILD = """
import sys
import torch
from expander_sae.saes import load_sae

def own_memory():
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

torch.zeros(300, 300) @ torch.zeros(300, 300)  # thread pools and the like
before = own_memory()
sae = load_sae(sys.argv[1])
print(own_memory() - before, float(sae.columns.raw[-1, -1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    "make",
    [
        lambda: DenseTopKSae(d_in=512, n_latents=40_000, k=8),
        lambda: DenseTopKSae(d_in=512, n_latents=20_000, k=8, tied=False, latent_bias=True),
    ],
    ids=["tied", "untied"],
)
def test_loading_maps_the_file_and_copies_nothing_large(make, tmp_path):
    sae = make()
    sae.save(tmp_path)
    size = (tmp_path / "sae.safetensors").stat().st_size
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, timeout=240, check=True
    )
    used, last = done.stdout.split()
    assert size > 80e6
    assert float(used) < 0.4 * size
    assert float(last) == float(load_sae(tmp_path).columns.raw[-1, -1].detach())


def test_a_loaded_sae_can_be_changed_and_the_file_stays(tmp_path):
    sae = ExpanderSae(d_in=64, n_latents=128, degree=4, k=8, reading=Encoder())
    sae.save(tmp_path)
    loaded, before = load_sae(tmp_path), (tmp_path / "sae.safetensors").read_bytes()
    with torch.no_grad():
        loaded.columns.raw.mul_(3.0)
        loaded.columns.raw[0] = torch.tensor([3.0, 0.0, 0.0, 0.0])
        loaded.b_dec += 1.0
        assert loaded.values[0].tolist() == [1.0, 0.0, 0.0, 0.0]
        torch.testing.assert_close(loaded.values[1:], sae.values[1:].detach())
    assert (tmp_path / "sae.safetensors").read_bytes() == before
    optimizer = torch.optim.Adam(loaded.parameters(), lr=1e-2)
    loaded.train().reconstruction_loss(torch.randn(32, 64)).loss.backward()
    optimizer.step()
    loaded.save(tmp_path)  # over the file it is mapped from
    torch.testing.assert_close(load_sae(tmp_path).values, loaded.values)


def test_another_type_after_loading_is_not_the_kept_one(tmp_path):
    DenseTopKSae(d_in=16, n_latents=32, k=4).save(tmp_path)
    loaded = load_sae(tmp_path)
    with torch.no_grad():
        assert loaded.values.dtype == torch.float32
        assert loaded.to(torch.float64).values.dtype == torch.float64


def test_columns_that_are_not_of_unit_length_are_scaled(tmp_path):
    sae = ExpanderSae(d_in=16, n_latents=32, degree=3, k=4, reading=Encoder())
    values = torch.full((32, 3), 2.0)
    sae.columns.take(values)
    with torch.no_grad():
        torch.testing.assert_close(sae.eval().values, torch.full((32, 3), 3**-0.5))


def test_learned_rows_come_back(tmp_path):
    rows = make_mask("uniform", d_in=300, n_latents=64, degree=5, seed=1).rows
    sae = ExpanderSae(
        d_in=300, n_latents=64, degree=5, k=4, mask=mask_from_rows(rows, d_in=300), tied=False, reading=Encoder()
    )
    sae.save(tmp_path)
    again = load_sae(tmp_path)
    assert torch.equal(again.encoder, sae.encoder)
    torch.testing.assert_close(again.values, sae.values)
    assert again.mask == sae.mask
