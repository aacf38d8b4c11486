import numpy as np
import pytest
import torch

from expander_sae.pursuit import (
    DEFAULT_READING,
    OMP,
    READINGS,
    Encoder,
    MatchingPursuit,
    Refit,
    Stages,
    WarmOMP,
    parse_reading,
)
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae
from expander_sae.training import with_own_encoder

SAES = {
    "expander": lambda **options: ExpanderSae(d_in=24, n_latents=120, degree=4, k=6, **options),
    "dense": lambda **options: DenseTopKSae(d_in=24, n_latents=120, k=6, **options),
}
EXAMPLES = {"stages": Stages(3, 2), "warm": WarmOMP(2)}


@pytest.mark.parametrize("kind", SAES)
@pytest.mark.parametrize("name", READINGS)
def test_every_reading_gives_k_codes_that_explain_something(kind, name):
    sae, x = SAES[kind](), torch.randn(50, 24)
    reading = EXAMPLES.get(name) or READINGS[name]()
    codes = sae.encode(x, reading=reading)
    assert codes.indices.shape == (50, 6)
    assert not codes.values.requires_grad or name == "encoder"
    assert reading.passes(6) >= 1
    left = (x - sae.decode(codes)).square().sum()
    if name == "encoder":  # a wide tied dictionary counts the same direction several times
        return
    assert left < 0.9 * x.square().sum()
    assert left < (x - sae.decode(sae.encode(x, reading=Encoder()))).square().sum()


@pytest.mark.parametrize("name", READINGS)
def test_the_loss_finds_its_codes_as_encode_does(name):
    sae, x = SAES["expander"](), torch.randn(50, 24)
    read = sae.read_by(EXAMPLES.get(name) or READINGS[name]())
    loss, codes = read.reconstruction_loss(x), read.encode(x)
    assert torch.equal(loss.codes.indices, codes.indices)
    torch.testing.assert_close(loss.loss, (x - sae.decode(codes)).square().sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["omp", "mp", "warm", "refit"])
def test_an_sae_hands_its_center_its_signs_and_its_encoder_on(way):
    sae, x = SAES["expander"](signed=True), torch.randn(20, 24)
    with torch.no_grad():
        sae.b_dec.normal_(std=0.3)
        sae.input_scale.fill_(2.0)
    w, moved = sae.dictionary(), x - sae.b_dec.detach() / 2.0
    centered = type(w)(w.rows, w.decoder.detach(), 24, signed=True)
    best = sae.encode(x, reading=Encoder())
    reading, want = {
        "omp": (OMP(), lambda: OMP().codes(centered, moved, 6)),
        "mp": (MatchingPursuit(steps=9), lambda: MatchingPursuit(steps=9).codes(centered, moved, 6)),
        "warm": (WarmOMP(2), lambda: OMP().codes_from(type(best)(*(t[:, :2] for t in best)), centered, moved, 6)),
        "refit": (Refit(), lambda: Refit().codes_on(best, centered, moved, 6)),
    }[way]
    codes, expected = sae.encode(x, reading=reading), want()
    assert torch.equal(codes.indices, expected.indices)
    torch.testing.assert_close(codes.values, expected.values, rtol=1e-4, atol=1e-5)


def test_reading_otherwise_shares_the_parameters():
    sae, x = SAES["expander"](reading=Stages(2)), torch.randn(20, 24)
    other = sae.read_by(OMP())
    assert (str(sae.reading), str(other.reading), str(sae.read_by(None).reading)) == ("stages:2", "omp", "stages:2")
    assert other.b_dec is sae.b_dec
    assert other.columns is sae.columns
    assert torch.equal(other.encode(x).indices, sae.encode(x, reading=OMP()).indices)
    assert torch.equal(sae.encode(x).indices, sae.encode(x, reading=Stages(2)).indices)


@pytest.mark.parametrize("reading", [Encoder(), Stages(3, 4), OMP(tolerance=0.25), MatchingPursuit(9)])
@pytest.mark.parametrize("kind", SAES)
def test_the_reading_is_saved_with_the_sae(kind, reading, tmp_path):
    sae, x = SAES[kind](reading=reading), torch.randn(20, 24)
    loaded = load_sae(sae.save(tmp_path))
    assert loaded.reading == reading
    assert torch.equal(loaded.encode(x).indices, sae.encode(x).indices)


def test_defaults_are_those_of_the_command_line():
    """Eight stages, two spare columns for each that a stage adds, as far as sizes allow; dense ones one pass."""
    made = {
        "stages:8+8": ExpanderSae(d_in=64, n_latents=512, degree=4, k=32),
        "stages:6+2": SAES["expander"](),
        "stages:4": ExpanderSae(d_in=16, n_latents=4, degree=2, k=4),
        "stages:8+10": IrregularSae(d_in=64, n_latents=512, degree=8, entries=2048, k=33),
        "encoder": SAES["dense"](),
    }
    for text, sae in made.items():
        assert str(sae.reading) == text
    assert DEFAULT_READING.fitted(32, 512) == Stages(8, 8)
    assert with_own_encoder(SAES["expander"]()).reading == SAES["expander"]().reading


@pytest.mark.parametrize("reading", [Stages(7), Stages(2, 115), WarmOMP(7)])
@pytest.mark.parametrize("kind", SAES)
def test_a_reading_that_does_not_fit_is_refused_at_once(kind, reading):
    for use in (lambda: SAES[kind](reading=reading), lambda: SAES[kind]().read_by(reading)):
        with pytest.raises(ExpanderSaeError, match="expected"):
            use()


WRONG = [
    "lasso", "", "stages", "stages:0", "stages:x", "stages:2+", "stages:2+x", "mp:3+1", "omp:3", "warm", "mp:0",
    "mp:-1", "mp:1.5", "encoder:2", "encoder@0.1", "stages:2@0.1", "omp@", "omp@x", "omp@1.5", "omp@nan",
    "stages:2+3+4", "warm:auto", "stages:99999999999", "mp:²",
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_an_impossible_reading_says_what_there_is(text):
    with pytest.raises(ExpanderSaeError, match="expected"):
        parse_reading(text)


@pytest.mark.parametrize(
    "text",
    ["encoder", "refit", "stages:3", "stages:3+4", "stages:8+auto", "mp", "mp:40", "warm:2", "omp@0.1", "niht:7@0.001"],
)
def test_names_come_back_as_written(text):
    assert str(parse_reading(text)) == text
    assert parse_reading(str(parse_reading(text))) == parse_reading(text)


@pytest.mark.parametrize("kind", SAES)
@pytest.mark.parametrize("wrong", ["omp", OMP, 3, ""], ids=str)
def test_what_is_no_reading_is_one_clear_error(kind, wrong):
    sae = SAES[kind]()
    for use in (
        lambda: sae.encode(torch.randn(3, 24), reading=wrong),
        lambda: sae.reconstruction_loss(torch.randn(3, 24), reading=wrong),
        lambda: sae.read_by(wrong),
        lambda: SAES[kind](reading=wrong),
    ):
        with pytest.raises(ExpanderSaeError, match="expected a reading such as"):
            use()


@pytest.mark.parametrize("wrong", [Stages(7), Stages(2, 115), None, "omp"], ids=str)
def test_a_reading_that_would_not_load_is_not_saved_over_a_good_one(wrong, tmp_path):
    sae = SAES["expander"]()
    sae.save(tmp_path)
    sae.reading = wrong
    with pytest.raises(ExpanderSaeError, match="expected"):
        sae.save(tmp_path)
    assert load_sae(tmp_path).reading == SAES["expander"]().reading


@pytest.mark.parametrize("kind", SAES)
def test_an_sae_in_float64_is_saved_as_float32(kind, tmp_path):
    sae, x = SAES[kind](), torch.randn(20, 24)
    sae.double().save(tmp_path)
    assert torch.equal(load_sae(tmp_path).encode(x).indices, sae.float().eval().encode(x).indices)


def test_numbers_are_kept_as_pythons_own():
    assert str(OMP(tolerance=np.float64(0.1))) == "omp@0.1"
    assert str(Stages(np.int64(8), np.int32(8))) == "stages:8+8"
    for make in (
        lambda: MatchingPursuit(10**10),
        lambda: OMP(tolerance="0.1"),
        lambda: OMP(tolerance=True),
        lambda: Stages(2.0),
    ):
        with pytest.raises(ExpanderSaeError, match="expected"):
            make()


@pytest.mark.parametrize("reading", [Encoder(), Stages(2), OMP(), Refit()], ids=str)
def test_activations_of_another_width_are_refused_by_a_dictionary(reading):
    w = SAES["expander"]().dictionary()
    w = type(w)(w.rows, w.decoder, 24)  # without a center, which has the width too
    with pytest.raises(ExpanderSaeError, match="d_in"):
        reading.codes(w, torch.randn(3, 28), 4)
    with pytest.raises(ExpanderSaeError, match="d_in"):
        w.correlate(torch.randn(3, 28))
