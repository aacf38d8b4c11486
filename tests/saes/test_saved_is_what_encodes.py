"""Whatever was done to an SAE in memory: what it saves and exports encodes as it does, to the last bit."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from expander_sae.graphs import make_mask, mask_from_rows
from expander_sae.interop import ThresholdSae, read_sae, write_sae
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae

SIZES = {"d_in": 24, "n_latents": 96, "k": 6}


def expander(seed=0, **options):
    return ExpanderSae(**SIZES, degree=4, seed=seed, **{"reading": Encoder(), **options})


def learned(seed=0):
    rows = make_mask(d_in=24, n_latents=96, degree=4, seed=seed + 50).rows
    return expander(seed, mask=mask_from_rows(rows, d_in=24))


def wide(seed=0):
    return ExpanderSae(d_in=70_000, n_latents=12, degree=3, k=4, seed=seed, reading=Encoder())


def irregular(seed=0):
    return IrregularSae(**SIZES, degree=8, entries=300, seed=seed, reading=Encoder())


def dense(seed=0):
    return DenseTopKSae(**SIZES, seed=seed, tied=False, latent_bias=True)


def threshold(seed=0):
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = (torch.randn(96, 24, generator=generator) for _ in range(2))
    limits = torch.rand(96, generator=generator)
    return ThresholdSae(
        encoder=encoder, decoder=decoder, b_enc=limits - 0.5, b_dec=limits[:24], activation="jumprelu", threshold=limits
    ).eval()


KINDS = [
    pytest.param(expander, id="expander"),
    pytest.param(lambda seed=0: expander(seed, tied=False, latent_bias=True), id="untied"),
    pytest.param(learned, id="learned-rows"),
    pytest.param(wide, id="wide"),
    pytest.param(irregular, id="irregular"),
    pytest.param(dense, id="dense"),
    pytest.param(threshold, id="threshold"),
]


def by_state_dict(source, other):
    other.load_state_dict(source.state_dict())
    return other


def by_assignment(source, other):
    other.load_state_dict(copy.deepcopy(source.state_dict()), assign=True)
    return other


def by_old_state_dict(source, other):
    state = source.state_dict()
    if "rows" in state:
        state["rows"] = state["rows"].to(torch.uint16 if source.d_in <= 65536 else torch.int64)
    other.load_state_dict(state)
    return other


def by_averaging(source, other):
    averaged = AveragedModel(other)
    averaged.update_parameters(source)
    averaged.update_parameters(source)
    return averaged.module


def by_torch_save(source, _):
    file = io.BytesIO()
    torch.save(source, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_a_state_file(source, other):
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


def by_a_sequence_around_it(source, other):
    around, inside = torch.nn.Sequential(source), torch.nn.Sequential(other)
    inside.load_state_dict(around.state_dict())
    return inside[0]


WAYS = {
    "state_dict": by_state_dict,
    "assign": by_assignment,
    "old state_dict": by_old_state_dict,
    "AveragedModel": by_averaging,
    "torch.save": by_torch_save,
    "state file": by_a_state_file,
    "nested": by_a_sequence_around_it,
    "pickle": lambda source, _: pickle.loads(pickle.dumps(source)),
    "deepcopy": lambda source, _: copy.deepcopy(source),
    "deepcopy after a read": lambda source, other: copy.deepcopy(by_state_dict(source, other)),
}


def same(a, b):
    return torch.equal(a.indices, b.indices) and torch.equal(a.values, b.values)


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_saved_is_what_encodes(make, way, tmp_path):
    source, x = make(seed=1), torch.randn(9, make().d_in, generator=torch.Generator().manual_seed(3))
    other = make(seed=2).eval()
    other.encode(x)  # whatever it keeps of its old columns must go
    copied = WAYS[way](source.eval(), other)
    want = source.encode(x)
    assert same(copied.encode(x), want)
    with torch.no_grad():
        assert same(copied.encode(x), want)
    if isinstance(copied, ThresholdSae):
        write_sae(copied, tmp_path, "saelens-dense")
        assert torch.equal(read_sae(tmp_path).encode(x).indices, want.indices)
        return
    found = load_sae(copied.save(tmp_path / "saved"))
    assert same(found.encode(x), want)
    with torch.no_grad():
        assert same(found.encode(x), want)
    assert found.describe() == copied.describe()
    if copied.kind in ("expander", "dense") and source.d_in < 1000:
        for form in ("saelens", "saelens-dense", "sparsify"):
            exported = read_sae(write_sae(copied, tmp_path / form, form)).encode(x)
            assert torch.equal(exported.indices, want.indices), form
            torch.testing.assert_close(exported.values, want.values)


def test_a_construction_is_claimed_only_by_the_rows_it_makes():
    a, b = expander(1), expander(0)
    b.load_state_dict(a.state_dict())
    assert (b.mask.construction, b.mask.seed) == ("rows", None)
    assert b.mask == a.mask
    b.set_mask(a.mask)
    assert (b.mask.construction, b.mask.seed) == ("balanced", 1)
    same_rows = expander(1)
    same_rows.load_state_dict(a.state_dict())
    assert same_rows.mask.seed == 1
    with torch.no_grad():
        b.rows.copy_(expander(0).rows)
    assert b.mask.seed is None
    assert np.array_equal(b.mask.rows, expander(0).mask.rows)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (lambda rows: rows.flip(1), "sorted and distinct"),
        (lambda rows: rows + 24, r"rows in \[0, 24\)"),
        (lambda rows: rows - 24, r"rows in \[0, 24\)"),
        (lambda rows: rows.bfloat16(), "rows as integers"),
    ],
)
def test_rows_that_are_no_mask_are_refused_and_nothing_is_changed(rows, why):
    sae = expander(0)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    state = expander(1).state_dict()
    with pytest.raises(ExpanderSaeError, match=why):
        sae.load_state_dict(state | {"rows": rows(state["rows"])})
    assert all(torch.equal(value, before[name]) for name, value in sae.state_dict().items())


def test_missing_and_misshapen_rows_are_torchs_own_errors():
    state = expander(1).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for rows"):
        expander(0).load_state_dict(state | {"rows": state["rows"][:, :3]})
    del state["rows"]
    with pytest.raises(RuntimeError, match=r'Missing key.* "rows"'):
        expander(0).load_state_dict(state)
    sae = expander(0)
    assert sae.load_state_dict(state, strict=False).missing_keys == ["rows"]
    assert sae.mask == expander(0).mask


@pytest.mark.parametrize(("stages", "spare"), [(0, 0), (2, 3)])
def test_modules_pickled_by_earlier_releases_are_read(stages, spare):
    sae = expander(3, reading=Stages(stages, spare) if stages else Encoder())
    old = dict(sae.__dict__)
    old["mask"] = old.pop("_mask")
    del old["reading"]
    old |= {"stages": stages, "spare": spare}
    old["_buffers"] = {"input_scale": sae.input_scale, "rows": sae.rows.clone()}
    old["_non_persistent_buffers_set"] = set()
    again = ExpanderSae.__new__(ExpanderSae)
    again.__setstate__(old)
    x = torch.randn(5, 24)
    assert again.reading == sae.reading
    assert same(again.encode(x), sae.encode(x))
    assert again.mask.seed == 3


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("make", KINDS[:-1])  # the last has nothing to train
def test_distributed_data_parallel(make, one_process, tmp_path):
    sae = make(seed=1)
    x = torch.randn(9, sae.d_in)
    wrapped = DistributedDataParallel(sae)
    wrapped(x).square().sum().backward()
    for buffer in sae.buffers():
        dist.broadcast(buffer, 0)
    plain = make(seed=2)
    plain.load_state_dict({name.removeprefix("module."): value for name, value in wrapped.state_dict().items()})
    assert same(load_sae(plain.save(tmp_path / "saved")).encode(x), sae.encode(x))


@pytest.mark.parametrize("write", ["data", "numpy", "fused", "copy", "assign", "inference"])
def test_kept_columns_are_never_those_of_other_numbers(write, tmp_path):
    """Several of these change a parameter without raising its version."""
    for sae in (expander(0).eval(), load_sae(expander(0).save(tmp_path)), dense(0).eval()):
        x, new = torch.randn(9, 24), torch.randn_like(sae.columns.raw)
        raw = sae.columns.raw
        with torch.no_grad():
            sae.encode(x)
            if write == "data":
                raw.data.copy_(new)
            elif write == "numpy":
                raw.detach().numpy()[:] = new.numpy()
            elif write == "fused":
                raw.grad = new
                torch.optim.Adam([raw], lr=0.1, fused=True).step()
                raw.grad = None
            elif write == "copy":
                raw.copy_(new)
            elif write == "assign":
                sae.load_state_dict(sae.state_dict() | {"columns.raw": new}, assign=True)
            else:
                with torch.inference_mode():
                    raw.copy_(new)
            unit = torch.nn.functional.normalize(sae.columns.raw, dim=1)
            torch.testing.assert_close(sae.values, unit)
            kept = sae.encode(x)
        assert same(kept, sae.encode(x))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("make", KINDS[:-1])
def test_what_is_made_or_loaded_without_gradients_can_be_used_and_trained_later(make, mode, tmp_path):
    x = torch.randn(9, make().d_in)
    want = make().encode(x)
    with mode():
        sae = make()
        assert same(sae.encode(x), want)
        loaded = load_sae(sae.save(tmp_path))
        read = copy.copy(loaded).encode(x)
        assert same(read, want)
        loss = loaded.reconstruction_loss(x)
    for again in (sae, loaded):
        assert same(again.encode(x), want)
        out = again.train().reconstruction_loss(x)
        torch.testing.assert_close(out.loss.detach(), loss.loss.clone())
        out.loss.backward()
        assert float(again.columns.raw.grad.abs().sum()) > 0
        torch.optim.Adam(again.parameters()).step()
        again.eval()
        again.encode(loss.codes.values.new_zeros(1, again.d_in))
