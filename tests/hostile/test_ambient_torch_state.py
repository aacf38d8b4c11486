"""What the process has set in torch changes no number of ours: every public step, bit for bit, under each state."""

import contextlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "training"))
from by_method import METHODS, pursue
from memory_source import MemorySource, sparse_activations
from memory_store import MemoryStore

from expander_sae.evaluation import evaluate
from expander_sae.interop import ThresholdSae, dense_weights, read_sae, write_sae
from expander_sae.ops import Codes, encode_topk, reconstruction_loss, sparse_decode, unit_columns
from expander_sae.pursuit import Dictionary, Encoder, Stages, parse_reading, refit_codes
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae
from expander_sae.theory import CodeShares, certify_dictionary, posterior_certificates
from expander_sae.training import Coherence, Inputs, MoveSupports, TrainConfig, Watch, train

SIZES = {"d_in": 16, "n_latents": 48, "k": 4}
READINGS = ("encoder", "refit", "stages:2+2", "omp", "warm:2", "nnomp", "mp", "gradient", "cosamp", "niht")


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


STATES = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "deterministic": deterministic,
}


def make():
    generator = torch.Generator().manual_seed(5)
    draw = {"generator": generator, "dtype": torch.float32, "device": "cpu"}
    encoder, decoder = torch.randn(48, 16, **draw), torch.randn(48, 16, **draw)
    limits = torch.rand(48, **draw)
    return {
        "expander": ExpanderSae(**SIZES, degree=3, reading=Encoder()),
        "untied": ExpanderSae(**SIZES, degree=3, tied=False, latent_bias=True, signed=True, reading=Encoder()),
        "irregular": IrregularSae(**SIZES, degree=6, entries=150, reading=Encoder()),
        "dense": DenseTopKSae(**SIZES),
        "dense-untied": DenseTopKSae(**SIZES, tied=False, latent_bias=True),
        "threshold": ThresholdSae(
            encoder=encoder,
            decoder=decoder,
            b_enc=limits - 0.5,
            b_dec=limits[:16],
            activation="jumprelu",
            threshold=limits,
        ),
    }


def encoded(x, folder):
    """Everything that needs no gradient, as numbers."""
    found = {}
    for name, sae in make().items():
        sae.eval()
        readings = READINGS if name != "threshold" else ("encoder",)
        for reading in readings:
            codes = sae.encode(x, reading=parse_reading(reading))
            found |= {f"{name} {reading} indices": codes.indices, f"{name} {reading}": codes.values}
        found[f"{name} decoded"] = sae.decode(sae.encode(x))
        found[f"{name} none"] = sae.encode(x[:0]).values
        if name == "threshold":
            write_sae(sae, folder / name, "saelens-dense")
            found[f"{name} written"] = read_sae(folder / name).encode(x).values
            continue
        loss = sae.reconstruction_loss(x, keep_residual=True)
        found |= {f"{name} loss": loss.loss, f"{name} residual": loss.residual, f"{name} fired": loss.fired}
        for values in ("float32", "bfloat16"):
            loaded = load_sae(sae.save(folder / name / values, values=values))
            found[f"{name} {values} loaded"] = loaded.encode(x).values
        if not sae.signed:
            for form in ("saelens-dense", "sparsify", "dictionary_learning", "openai"):
                path = folder / name / (form + ".pt" if form == "openai" else form)
                found[f"{name} {form}"] = read_sae(write_sae(sae, path, form)).encode(x).values
            found[f"{name} dense"] = dense_weights(sae).encoder
        if name in ("expander", "untied"):
            found[f"{name} saelens"] = read_sae(write_sae(sae, folder / name / "saelens", "saelens")).encode(x).values
    return found


def computed(x, folder):
    """The ops, the theory and evaluation on their own."""
    saes = make()
    sparse, full = saes["expander"], saes["dense"]
    found = {}
    rows, values = sparse.rows, sparse.values.detach()
    wide = full.values.detach()
    for backend in ("native", "reference"):
        codes = encode_topk(x, rows, values, 4, backend=backend)
        found[f"encode {backend}"] = codes.values
        found[f"decode {backend}"] = sparse_decode(codes, rows, values, 16, backend=backend)
        found[f"unit {backend}"] = unit_columns(values * 3, backend=backend)
        center = sparse.center().detach()
        found[f"loss {backend}"] = reconstruction_loss(x, rows, values, 4, center=center, backend=backend).loss
    for method in METHODS[:-1]:  # the refit comes below
        w = sparse.dictionary()
        for backend, dictionary in (
            ("auto", w),
            ("reference", w),
            ("auto", full.dictionary()),
            ("auto", wide.double()),
        ):
            codes = pursue(x, dictionary, 4, method, backend=backend)
            found[f"{method} {backend} {type(dictionary)} {dictionary is w}"] = codes.values
    codes = encode_topk(x, rows, values, 4)
    found["refit"] = refit_codes(x, codes.indices, w, used=codes.values != 0).codes.values
    certificates = posterior_certificates(x, codes, Dictionary(rows, values, 16))
    found |= {f"posterior {i}": part for i, part in enumerate(certificates) if isinstance(part, torch.Tensor)}
    shares = CodeShares(Dictionary(rows, values, 16))
    shares.update(x, codes)
    found["shares"] = repr({k: v for k, v in shares.summary().items() if "second" not in k})
    found["certify"] = repr(
        [
            (c.name, c.value, c.status)
            for c in certify_dictionary(Dictionary(rows, values, 16), sparse.mask, k=4, seed=0)
        ]
    )
    ordinary = torch.zeros(len(x), dtype=torch.bool, device="cpu")
    store = MemoryStore({"train": x, "heldout": x}, {"train": ordinary, "heldout": ordinary})
    for name, record in evaluate({name: sae.eval() for name, sae in saes.items()}, store, progress=False).items():
        found[f"evaluate {name}"] = repr((record.fvu, record.l0, record.rel_err, record.dead_fraction))
    return found


def trained(x, folder):
    """What needs gradients, which training turns on itself."""
    saes = {name: sae for name, sae in make().items() if name != "threshold"}
    saes["pursuit"] = ExpanderSae(**SIZES, degree=3, reading=Stages(2, 2))
    config = TrainConfig(
        tokens=6 * 64,
        batch_size=64,
        inputs=Inputs(statistics_tokens=100),
        move_supports=MoveSupports(every=2),
        coherence=Coherence(0.1),
        watch=Watch(heldout_every=3, log_every=2),
    )
    train(saes, MemorySource(x, 64), config, folder=folder, progress=False, heldout=x[:20])
    return {f"{name} {part}": value for name, sae in saes.items() for part, value in sae.state_dict().items()} | {
        f"{name} {part}": value
        for name in saes
        for part, value in load_sae(folder / name).state_dict().items()
        if part != "input_scale"
    }


def gradients(x, folder):
    """Backward, in the same state."""
    found = {}
    with torch.enable_grad():
        for name, sae in make().items():
            if name == "threshold":
                continue
            sae.reconstruction_loss(x).loss.backward()
            sae(x).square().sum().backward()
            found |= {f"{name} {part}": p.grad for part, p in sae.named_parameters() if p.grad is not None}
        for backend in ("native", "reference"):
            for rows, raw in ((make()["expander"].rows, make()["expander"].values), (None, make()["dense"].values)):
                leaf = raw.detach().clone().requires_grad_()
                moved = x.clone().requires_grad_()
                codes = encode_topk(moved, rows, unit_columns(leaf, backend=backend), 4, backend=backend)
                sparse_decode(codes, rows, leaf, 16, backend=backend).square().sum().backward()
                fitted = refit_codes(moved, codes.indices, Dictionary(rows, leaf, 16)).codes
                sparse_decode(Codes(*fitted), rows, leaf, 16, backend=backend).pow(3).sum().backward()
                found |= {f"{backend} {rows is None} leaf": leaf.grad, f"{backend} {rows is None} x": moved.grad}
    return found


PARTS = {"encoded": encoded, "computed": computed, "trained": trained, "gradients": gradients}


@pytest.fixture(scope="module")
def x():
    return sparse_activations(120, 16)


@pytest.fixture(scope="module")
def plain(x, tmp_path_factory):
    return {name: part(x, tmp_path_factory.mktemp(name)) for name, part in PARTS.items()}


def check_same(found, want):
    assert found.keys() == want.keys()
    for name, value in want.items():
        same = torch.equal(found[name], value) if isinstance(value, torch.Tensor) else found[name] == value
        assert same, (name, found[name], value)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("state", STATES)
def test_every_number_is_the_same(state, part, plain, x, tmp_path):
    if part == "gradients" and state == "inference_mode":
        pytest.skip("torch itself has no gradients there")
    with STATES[state]():
        found = PARTS[part](x, tmp_path)
    check_same(found, plain[part])


def test_codes_are_the_same_with_other_numbers_of_threads(plain, x, tmp_path):
    with threads(3):
        found = encoded(x, tmp_path)
    codes = {name: value for name, value in plain["encoded"].items() if "loss" not in name}
    check_same({name: found[name] for name in codes}, codes)
