from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from expander_sae.compression import (
    Recipe,
    Target,
    compress,
    firing_agreement,
    measure,
    smallest_degree,
    summarise,
    write_latents,
)
from expander_sae.compression.agreement import LatentFates, cosines
from expander_sae.compression.compress import starting_point
from expander_sae.compression.encoder import regressed_encoder
from expander_sae.ops import Codes
from expander_sae.pursuit import Encoder, Stages, parse_reading
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import DenseTopKSae, ExpanderSae, IrregularSae, load_sae

RECIPE = Recipe(
    degree=8,
    encoder="pursuit",
    tokens=20_000,
    batch_size=256,
    sample_tokens=4096,
    reading=Stages(2, spare=None),
    learning_rate=5e-3,
)


def test_a_full_degree_is_the_dense_sae_itself(tiny, tmp_path):
    _, _, store, dense = tiny
    recipe = replace(RECIPE, degree=store.d_in, tokens=0, support="magnitude")
    sae = compress(dense, store, recipe, folder=tmp_path)
    x = store.sample("heldout", 200, 0)
    with torch.no_grad():
        for inference in ("encoder", "stages:2"):
            before, after = (
                dense.encode(x, reading=parse_reading(inference)),
                sae.encode(x, reading=parse_reading(inference)),
            )
            torch.testing.assert_close(after.values, before.values, rtol=1e-3, atol=1e-3)
            assert float((after.indices == before.indices).double().mean()) > 0.999
    own = compress(dense, store, replace(recipe, encoder="own"), folder=tmp_path / "own")
    with torch.no_grad():
        after = own.encode(x)
        fires = firing_agreement(dense.encode, {"own": own.encode}, [x], 96)["own"]
    assert own.reading.name == "encoder"
    assert summarise(LatentFates(torch.ones(96), fires))["f1_micro"] > 0.95


@pytest.fixture(scope="module")
def fine_tuned(tiny, tmp_path_factory):
    """By encoder: the folder, the SAE and what was measured."""
    _, _, store, dense = tiny
    found = {}
    for encoder in ("pursuit", "own"):
        folder = tmp_path_factory.mktemp(encoder)
        sae = compress(dense, store, replace(RECIPE, encoder=encoder), folder=folder, progress=False)
        found[encoder] = folder, sae, measure(dense, sae, store, progress=False)
    return found


@pytest.mark.parametrize("encoder", ["pursuit", "own"])
def test_fine_tuning_pays_and_ids_stay(tiny, fine_tuned, tmp_path, encoder):
    _, _, store, dense = tiny
    folder, warm, record = fine_tuned[encoder]
    cold = compress(dense, store, replace(RECIPE, encoder=encoder, tokens=0), folder=tmp_path)
    before = measure(dense, cold, store, progress=False)
    errors = [next(iter(one.compressed.values())).fvu for one in (before, record)]
    assert errors[1] < 0.97 * errors[0]
    # Latent j is nearer to its own column than to any other in the median, and fires with it far more than by chance.
    inner = torch.zeros(96, store.d_in).scatter(1, warm.rows.long(), warm.values.detach()) @ dense.values.detach().T
    rank = (inner > inner.diagonal()[:, None]).sum(1)
    assert int(rank.median()) == 0
    assert next(iter(record.latents.values()))["f1_micro"] > 0.3
    again = load_sae(folder / "expander-d8")
    assert isinstance(again, ExpanderSae)
    assert again.metadata["compression"]["support"] == "error"
    assert again.metadata["training"]["config"]["fine_tune"] is True


@pytest.mark.parametrize("regular", [True, False])
def test_both_readings_of_a_gradually_cut_dictionary(regular, tiny, tmp_path):
    _, _, store, dense = tiny
    recipe = replace(RECIPE, encoder="both", learning_rate=None, regular=regular)
    sae = compress(dense, store, recipe, folder=tmp_path, progress=False)
    assert isinstance(sae, IrregularSae) != regular
    assert sae.decoder_values() == 8 * 96
    inner = torch.zeros(96, store.d_in).scatter(1, sae.rows.long(), sae.values.detach()) @ dense.values.detach().T
    rank = (inner > inner.diagonal()[:, None]).sum(1)
    assert int(rank.median()) == 0
    record = measure(dense, sae, store, readings=[Encoder()], progress=False)
    pursuit, encoder = record.compressed.values()
    assert pursuit.fvu < encoder.fvu < 1
    again = compress(dense, store, recipe, folder=tmp_path, progress=False)  # read back
    assert torch.equal(again.values, sae.values)
    with pytest.raises(ExpanderSaeError, match="without a support rule of its own"):
        replace(recipe, support="balanced")


def test_what_is_said_of_supports_and_tokens_chooses_the_encoder():
    usual = Recipe(degree=4)
    assert (usual.encoder, str(usual.reading)) == ("both", "stages:8")
    for said in ({"tokens": 0}, {"support": "magnitude"}, {"encoder": "pursuit"}):
        other = Recipe(degree=4, **said)
        assert (other.encoder, str(other.reading)) == ("pursuit", "stages:8+auto")
    assert "regular" in usual.to_dict()
    assert "regular" not in other.to_dict()  # folders of earlier releases are still known


def test_an_own_encoder_fires_where_the_dense_one_does_more_than_pursuit(fine_tuned):
    agreement = {name: next(iter(one[2].latents.values()))["f1_micro"] for name, one in fine_tuned.items()}
    assert agreement["own"] > agreement["pursuit"]


def test_the_regressed_encoder_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 2.0
    encoder, bias, center = torch.randn(3, 6), torch.randn(3), torch.randn(6)
    rows = torch.tensor([[0, 2], [1, 5], [3, 4]])
    found = regressed_encoder(encoder, bias, center, rows, x)
    for j in range(3):
        seen = (x - center)[:, rows[j]].numpy()
        design = np.hstack([seen, np.ones((500, 1))])
        wanted = ((x - center) @ encoder[j] + bias[j]).numpy()
        solution = np.linalg.lstsq(design, wanted, rcond=None)[0]
        np.testing.assert_allclose(found.values[j].numpy(), solution[:2], rtol=2e-2, atol=5e-3)
        np.testing.assert_allclose(float(found.bias[j]), solution[2], rtol=2e-2, atol=2e-2)


def test_agreement_by_hand():
    before = Codes(torch.tensor([[0, 1], [0, 2], [3, 0]]), torch.tensor([[1.0, 2.0], [1.0, 1.0], [1.0, 0.0]]))
    after = Codes(torch.tensor([[0, 2], [0, 2], [1, 0]]), torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, 0.0]]))
    found = firing_agreement(lambda x: before, {"a": lambda x: after}, [torch.zeros(3, 4)], 5)["a"]
    assert found.before.tolist() == [2, 1, 1, 1, 0]
    assert found.after.tolist() == [2, 1, 2, 0, 0]
    assert found.both.tolist() == [2, 0, 1, 0, 0]
    assert found.f1[:4].tolist() == pytest.approx([1.0, 0.0, 2 / 3, 0.0])
    assert found.jaccard[:4].tolist() == pytest.approx([1.0, 0.0, 0.5, 0.0])
    assert torch.isnan(found.f1[4])
    summary = summarise(LatentFates(torch.ones(5), found))
    assert summary["f1_micro"] == pytest.approx(6 / 10)
    assert summary["latents_firing_before"] == 4
    assert summary["share_f1_above_half"] == pytest.approx(0.5)


def test_cosines_by_hand():
    columns = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    rows, values = torch.tensor([[0, 2], [0, 2]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    assert cosines(columns, rows, values).tolist() == pytest.approx([0.6, 0.8])


def test_measure_writes_every_latents_fate(tiny, tmp_path):
    _, lm, store, dense = tiny
    sae = compress(dense, store, replace(RECIPE, tokens=0), folder=tmp_path, source="a dense one")
    record = measure(dense, sae, store, readings=[Encoder()], language_model=lm, ce_tokens=200, progress=False)
    write_latents(record, tmp_path / "latents.safetensors")
    arrays = load_file(tmp_path / "latents.safetensors")
    assert {len(array) for array in arrays.values()} == {96}
    assert int(arrays["firings_before"].sum()) == int(record.fates.agreement.before.sum()) > 0
    written = record.to_dict()
    assert list(written["compressed"]) == ["stages:2+4", "encoder"]
    assert written["recipe"]["source"] == "a dense one"
    kept = written["retention"]["stages:2+4"]
    assert kept["ce_recovered_zero"] == pytest.approx(
        record.compressed["stages:2+4"].ce_recovered_zero / record.dense.ce_recovered_zero
    )
    sizes = [sum(file.stat().st_size for file in one.folder.glob("[cs]*")) for one in (sae, dense)]
    assert kept["bytes_on_disk"] == pytest.approx(sizes[0] / sizes[1])


def test_a_second_run_reads_back_and_another_recipe_is_refused(tiny, tmp_path):
    _, _, store, dense = tiny
    recipe = replace(RECIPE, tokens=0)
    first = compress(dense, store, recipe, folder=tmp_path)
    again = compress(dense, store, recipe, folder=tmp_path)
    torch.testing.assert_close(first.values, again.values)
    with pytest.raises(ExpanderSaeError, match="another folder"):
        compress(dense, store, replace(recipe, support="magnitude"), folder=tmp_path)


def test_k_comes_from_the_dense_sae_or_from_its_mean(tiny):
    _, _, store, dense = tiny
    x = store.sample("train", 500, 0)
    assert starting_point(dense, x, RECIPE).k == 4
    assert starting_point(dense, x, replace(RECIPE, k=6)).k == 6
    unbounded = DenseTopKSae(d_in=store.d_in, n_latents=96, k=96, seed=3)
    with torch.no_grad():
        unbounded.b_dec.copy_(x.mean(0))
        active = float((unbounded.encode(x).values != 0).double().sum(1).mean())
    assert starting_point(unbounded, x, RECIPE).k == int(np.ceil(active))


def test_codes_are_found_with_spare_columns_as_in_training_from_nothing(tiny):
    _, _, store, dense = tiny
    x = store.sample("train", 500, 0)
    for changes, says in (
        ({}, "stages:2+4"),
        ({"reading": Stages(2)}, "stages:2"),
        ({"reading": Stages(9, spare=1)}, "stages:4+1"),
        ({"encoder": "own"}, "encoder"),
        ({"encoder": "own", "reading": Stages(2, spare=3)}, "encoder"),
    ):
        assert str(starting_point(dense, x, replace(RECIPE, **changes)).reading) == says
    with pytest.raises(ExpanderSaeError, match="spare in 0"):
        starting_point(dense, x, replace(RECIPE, reading=Stages(2, spare=93)))


@pytest.mark.parametrize("needed", [1, 6, 15, 32])
def test_the_smallest_degree_is_found(needed):
    asked = []

    def retention(degree):
        asked.append(degree)
        return 0.95 if degree >= needed else 0.5

    found = smallest_degree(retention, 0.95, 64)
    assert found == {1: 1, 6: 6, 15: 16, 32: 32}[needed]
    assert len(asked) <= 6
    assert max(asked) <= max(16, 2 * needed)  # high degrees only where they are needed


def test_a_target_that_no_degree_reaches_is_an_error():
    with pytest.raises(ExpanderSaeError, match="nothing to be saved"):
        smallest_degree(lambda degree: 0.5, 0.95, 64)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Recipe(degree=4, encoder="none"), "expected an encoder"),
        (lambda: Recipe(degree=4, tokens=-1), "tokens >= 0"),
        (lambda: Target(metric="fvu"), "target metric"),
        (lambda: Target(retention=0.0), "positive retention"),
    ],
)
def test_impossible_settings(make, says):
    with pytest.raises(ExpanderSaeError, match=says):
        make()


def test_activations_of_another_width(tiny, tmp_path):
    _, _, store, _ = tiny
    with pytest.raises(ExpanderSaeError, match="d_in 16"):
        compress(DenseTopKSae(d_in=16, n_latents=32, k=4), store, RECIPE, folder=tmp_path)
