"""Controls that are made in ways of their own: principal directions, pruned SAEs, fixed supports."""

from dataclasses import replace

import pytest
import torch
from experiment_place import make_place
from tiny_models import D_IN

from expander_sae.evaluation import bytes_on_disk
from expander_sae.frontier import SaeOptions, Sweep, passes, plan, run_frontier
from expander_sae.graphs import mask_from_rows
from expander_sae.pursuit import Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae, IrregularSae, load_sae
from expander_sae.training import Inputs, MoveSupports, TrainConfig

CONFIG = TrainConfig(
    tokens=3000, batch_size=100, inputs=Inputs(statistics_tokens=500), move_supports=MoveSupports(every=3)
)
SIZES = {"d_in": D_IN, "n_latents": 64, "k": 4, "note": lambda text: None}
STAGES = SaeOptions(reading=Stages(2, spare=None))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_place(tmp_path_factory.mktemp("place"))[1][0]


def run(store, folder, variants, **options):
    return run_frontier(Sweep(store, folder, variants, CONFIG, progress=False, **options))


def tokens_of(store, split):
    x = torch.cat([block.double() for block in store.blocks(split)])
    return x[x.norm(dim=1) <= 5 * x.norm(dim=1).median()]


def test_principal_directions_leave_what_the_other_directions_hold(store, tmp_path):
    variants = plan([4, 8], ["pca"], seeds=(0, 1), **SIZES)
    names = [variant.name for variant in variants if variant.training == "closed"]
    assert names == ["pca-r8", "pca-r8-k4", "pca-r16", "pca-r16-k4"]
    found = run(store, tmp_path, variants, readings=["omp"])
    records = {record.variant: record for record in found.records if record.seed == 0}
    train, held = tokens_of(store, "train"), tokens_of(store, "heldout")
    _, _, v = torch.linalg.svd(train - train.mean(0), full_matrices=False)
    for r in (8, 16):
        centred = held - train.mean(0)
        error = (centred - centred @ v[:r].T @ v[:r]).square().sum()
        expected = float(error / (held - held.mean(0)).square().sum())
        assert records[f"pca-r{r}"].evaluation.fvu == pytest.approx(expected, rel=1e-3)
        assert records[f"pca-r{r}"].evaluation.learned_values == r * D_IN + D_IN
        codes = centred @ v[:r].T
        best = torch.zeros_like(codes).scatter(1, codes.abs().topk(4).indices, 1.0) * codes
        expected = float((centred - best @ v[:r]).square().sum() / (held - held.mean(0)).square().sum())
        assert records[f"pca-r{r}-k4"].evaluation.fvu == pytest.approx(expected, rel=1e-3)
    assert {record.family for record in found.readings} == {"expander"}


def test_fixed_supports_stay_and_learned_ones_move(store, tmp_path):
    controls = ["fixed", "clustered", "banded", "shared", "diversity"]
    variants = plan([4], controls, diversities=(0.0, 1.0), **SIZES)
    found = run(store, tmp_path, variants, saes=STAGES)
    for variant in variants:
        sae = load_sae(tmp_path / variant.sae_path)
        assert isinstance(sae, ExpanderSae)
        assert sae.reading.stages == 2
        start = variant.build(D_IN, STAGES)
        assert isinstance(start, ExpanderSae)
        assert (sae.mask == start.mask) == (variant.family != "expander"), variant.name
    assert {record.folder.split("/")[0] for record in found.records} == {"seed0", "seed0-fixed"}
    fvu = {record.variant: record.evaluation.fvu for record in found.records}
    # The dial's end is the fixed mask itself, made another way.
    assert fvu["diversity1-d4"] == fvu["fixed-d4"]


def test_pruned_saes_start_at_the_largest_entries_of_the_dense_one(store, tmp_path, monkeypatch):
    variants = plan([4], ["dense", "pruned"], **SIZES)
    starts = {}
    real = passes.train

    def look(saes, stream, config, **options):
        if config.fine_tune:
            starts.update({name: (sae.rows.clone(), sae.values.detach().clone()) for name, sae in saes.items()})
            assert config.move_supports is None
        return real(saes, stream, config, **options)

    monkeypatch.setattr(passes, "train", look)
    found = run(store, tmp_path, variants)
    dense = load_sae(tmp_path / "seed0/dense").values.detach()
    rows, values = starts["pruned-d4"]
    kept = torch.zeros_like(dense).scatter(1, rows.long(), 1.0).bool()
    assert bool((dense.abs().where(kept, 1e9).amin(1) >= dense.abs().where(~kept, 0.0).amax(1)).all())
    expected = dense.gather(1, rows.long())
    assert torch.allclose(values, expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    pruned = load_sae(tmp_path / "seed0-pruned/pruned-d4")
    assert torch.equal(pruned.rows, rows)
    assert not torch.allclose(pruned.values, values)
    assert {record.variant for record in found.records} == {"expander-d4", "pruned-d4", "dense"}


def test_pruning_a_diverged_sae_is_reported(store, tmp_path, monkeypatch):
    real = passes.train

    def diverge(saes, *args, **kwargs):
        done = real(saes, *args, **kwargs)
        return {name: replace(record, diverged=name == "dense") for name, record in done.items()}

    monkeypatch.setattr(passes, "train", diverge)
    found = run(store, tmp_path, plan([4], ["dense", "pruned"], **SIZES))
    assert {r.variant for r in found.records if r.evaluation is None} == {"dense", "pruned-d4"}


def test_widths_of_the_matched_controls():
    sizes = {"d_in": 576, "n_latents": 4608, "k": 32}
    controls = ["matched", "matched-decoder", "matched-untied", "matched-bytes", "matched-bytes-omp"]
    variants = {v.family: v for v in plan([16], controls, **sizes)}
    built = {
        family: variant.build(576, SaeOptions(reading=Stages(8, spare=None))) for family, variant in variants.items()
    }
    sparse = built["expander"]
    assert built["matched-decoder"].decoder_values() == sparse.decoder_values()
    assert built["matched-decoder"].learned_values() == 2 * sparse.decoder_values() + 576
    assert built["matched-untied"].learned_values() == sparse.learned_values()
    # Rows of a learned support take 113 bits a column beside the 512 of its values.
    assert built["matched-bytes"].n_latents == round(4608 * (512 + 113) / (32 * 576))
    assert (str(built["matched-bytes"].reading), built["matched-bytes-omp"].reading.stages) == ("encoder", 8)


@pytest.mark.parametrize("degree", [7, 64, 200])
def test_matched_bytes_are_those_of_the_files(degree, tmp_path):
    variants = {v.family: v for v in plan([degree], ["matched-bytes"], d_in=576, n_latents=4608, k=32)}
    sparse, dense = (variants[family].build(576) for family in ("expander", "matched-bytes"))
    assert isinstance(sparse, ExpanderSae)
    sparse.set_mask(mask_from_rows(sparse.mask.rows, d_in=576))  # as if learned: no seed makes it
    sizes = [bytes_on_disk(sae.save(tmp_path / sae.kind)) for sae in (sparse, dense)]
    assert abs(sizes[0] - sizes[1]) < 4 * 576  # the dense one has a whole number of columns


def test_a_random_encoder_is_not_the_decoder():
    variants = {v.name: v for v in plan([4], ["dense-untied", "dense-randinit"], **SIZES)}
    warm, random = (variants[name].build(D_IN) for name in ("dense-untied", "dense-randinit"))
    assert torch.equal(warm.encoder, warm.values)
    assert float(torch.cosine_similarity(random.encoder, random.values).abs().mean().detach()) < 0.3
    assert torch.equal(random.values, warm.values)


def test_less_data_is_part_of_more(store, tmp_path):
    variants = plan([4], [], **SIZES)
    few = run(store, tmp_path / "few", variants, train_tokens=200)
    many = run(store, tmp_path / "many", variants, train_tokens=store.n_tokens("train"))
    assert few.records[0].evaluation.fvu > many.records[0].evaluation.fvu
    with pytest.raises(ExpanderSaeError, match="train_tokens was 200, now 300"):
        run(store, tmp_path / "few", variants, train_tokens=300)
    with pytest.raises(ExpanderSaeError, match="training tokens, those there are"):
        run(store, tmp_path / "more", variants, train_tokens=10**9)


def test_pruned_needs_the_dense_sae():
    with pytest.raises(ExpanderSaeError, match="control dense beside pruned"):
        plan([4], ["pruned"], **SIZES)


def test_irregular_degrees_have_the_entries_of_the_regular_sae_and_use_them_unevenly(store, tmp_path):
    variants = plan([2], ["irregular"], **SIZES)
    found = run(store, tmp_path, variants, saes=STAGES)
    values = {record.variant: record.evaluation.learned_values for record in found.records}
    assert values["irregular-d2"] == values["expander-d2"] == 2 * 64 + D_IN
    sae = load_sae(tmp_path / "seed0/irregular-d2")
    assert isinstance(sae, IrregularSae)
    degrees = sae.column_degrees()
    assert int(degrees.sum()) == 2 * 64
    assert int(degrees.max()) > 2


def test_a_reading_with_more_spare_columns_than_an_sae_has_leaves_it_out(store, tmp_path):
    variants = plan([2], ["matched"], **SIZES)
    assert {variant.name: variant.n_latents for variant in variants} == {"expander-d2": 64, "dense-n4": 4}
    found = run(store, tmp_path, variants, saes=STAGES, readings=["stages:2+6", "stages:2"])
    assert {(record.variant, record.reading) for record in found.readings} == {
        ("expander-d2", "stages:2+6"), ("expander-d2", "stages:2"), ("dense-n4", "stages:2")
    }  # fmt: skip
