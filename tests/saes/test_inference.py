import pytest
import torch

from expander_sae.pursuit import pursue
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import INFERENCES, DenseTopKSae, ExpanderSae, Inference, load_sae

SAES = {
    "expander": lambda **options: ExpanderSae(d_in=24, n_latents=120, degree=4, k=6, **options),
    "dense": lambda **options: DenseTopKSae(d_in=24, n_latents=120, k=6, **options),
}


def example(name):
    return {"stages:T": "stages:3+2", "warm:M": "warm:2"}.get(name, name)


@pytest.mark.parametrize("kind", SAES)
@pytest.mark.parametrize("name", INFERENCES)
def test_every_inference_gives_k_codes_that_explain_something(kind, name):
    sae, x = SAES[kind](), torch.randn(50, 24)
    codes = sae.encode(x, inference=example(name))
    assert codes.indices.shape == (50, 6)
    assert not codes.values.requires_grad or name == "encoder"
    left = (x - sae.decode(codes)).square().sum()
    if name == "encoder":  # a wide tied dictionary counts the same direction several times
        return
    assert left < 0.9 * x.square().sum()
    assert left < (x - sae.decode(sae.encode(x, inference="encoder"))).square().sum()


def test_an_inference_is_the_pursuit_it_names():
    sae, x = SAES["expander"](signed=True), torch.randn(20, 24)
    with torch.no_grad():
        sae.b_dec.normal_(std=0.3)
    center = sae.center().detach()
    assert torch.equal(sae.encode(x, inference="omp").indices, pursue(x, sae, 6, center=center).indices)
    assert torch.equal(sae.encode(x, inference="mp:9").values, pursue(x, sae, 6, "mp", steps=9, center=center).values)
    start = sae.encode(x, inference="encoder")
    refitted = pursue(x, sae, 6, "refit", warm_start=start, center=center)
    assert torch.equal(sae.encode(x, inference="refit").values, refitted.values)
    warm = sae.encode(x, inference="warm:2")
    best = start.indices[:, :2]
    assert (warm.indices[:, :, None] == best[:, None, :]).any(1).all()


def test_reading_by_another_inference_shares_the_parameters():
    sae, x = SAES["expander"](stages=2), torch.randn(20, 24)
    other = sae.read_by("omp")
    assert str(sae.own_inference()) == "stages:2"
    assert str(other.own_inference()) == "omp"
    assert other.values.data_ptr() != 0
    assert other.b_dec is sae.b_dec
    assert other.columns is sae.columns
    assert torch.equal(other.encode(x).indices, sae.encode(x, inference="omp").indices)
    assert torch.equal(sae.encode(x).indices, sae.encode(x, inference="stages:2").indices)
    assert str(sae.read_by(None).own_inference()) == "stages:2"


def test_spare_columns_are_part_of_an_sae(tmp_path):
    sae, x = SAES["expander"](stages=3, spare=4), torch.randn(20, 24)
    assert str(sae.own_inference()) == "stages:3+4"
    want = pursue(x, sae, 6, block=2, spare=4, signed=False, center=sae.center().detach())
    assert torch.equal(sae.encode(x).indices, want.indices)
    assert torch.equal(load_sae(sae.save(tmp_path)).encode(x).indices, want.indices)
    loss = sae.reconstruction_loss(x).loss
    torch.testing.assert_close(loss, (x - sae.decode(want)).square().sum(), rtol=1e-4, atol=1e-4)
    with pytest.raises(ExpanderSaeError, match=r"spare in 0\.\.0 with 0 stages"):
        SAES["expander"](spare=4)
    with pytest.raises(ExpanderSaeError, match=r"spare in 0\.\.114"):
        SAES["dense"](stages=2, spare=115)


@pytest.mark.parametrize(
    "text",
    [
        "lasso",
        "",
        "stages",
        "stages:0",
        "stages:7",
        "stages:x",
        "stages:2+",
        "stages:2+x",
        "mp:3+1",
        "omp:3",
        "warm",
        "warm:7",
        "mp:0",
        "mp:-1",
    ],
)
def test_an_impossible_inference_says_what_there_is(text):
    with pytest.raises(ExpanderSaeError, match="expected"):
        Inference.parse(text, 6)


def test_names_come_back_as_written():
    for text in ("encoder", "stages:3", "stages:3+4", "mp", "mp:40", "warm:2"):
        assert str(Inference.parse(text, 6)) == text
    assert Inference.parse("stages:3", 6).stages() == 3
    assert Inference.parse("encoder", 6).stages() == 0
    assert Inference.parse("omp", 6).stages() is None
