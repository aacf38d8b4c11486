"""Irregular degrees: one budget of entries at every moment, the same numbers as a regular SAE's kernels give."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from memory_source import MemorySource

from expander_sae.graphs import mask_from_rows
from expander_sae.pursuit import Encoder, Stages
from expander_sae.records import ExpanderSaeError
from expander_sae.saes import ExpanderSae, IrregularSae, load_sae
from expander_sae.training import Flatness, MoveSupports, TrainConfig, Watch, train
from expander_sae.training.member import Member
from expander_sae.training.parts.irregular import keep_entries

CONFIG = TrainConfig(
    tokens=256 * 80,
    batch_size=256,
    learning_rate=1e-2,
    dead_after_tokens=2000,
    move_supports=MoveSupports(every=5),
    watch=Watch(checkpoint_every=20),
)
ENTRIES = 4 * 256


def irregular(**options):
    return IrregularSae(d_in=48, n_latents=256, degree=12, entries=ENTRIES, k=8, reading=Stages(4), **options)


def uneven_activations(tokens=4000):
    """A few atoms on 24 rows that nearly always fire, and many on two rows that hardly do."""
    generator = torch.Generator().manual_seed(0)
    atoms = torch.zeros(68, 48)
    for number in range(68):
        rows = torch.randperm(48, generator=generator)[: 24 if number < 4 else 2]
        atoms[number, rows] = 1.0 + torch.rand(len(rows), generator=generator)
    codes = torch.zeros(tokens, 68)
    codes[:, :4] = 1.0 + torch.rand(tokens, 4, generator=generator)
    codes[:, 4:].scatter_(1, torch.rand(tokens, 64, generator=generator).topk(3).indices, 2.0)
    return codes @ atoms


def dictionary_of(sae):
    with torch.no_grad():
        rows = torch.from_numpy(sae.mask.rows.astype(np.int64))
        return torch.zeros(sae.n_latents, sae.d_in).scatter_(1, rows, sae.eval().values)


def fvu(sae, x):
    with torch.no_grad():
        return float((x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


def test_the_budget_holds_at_every_step(tmp_path, monkeypatch):
    seen = []
    step = Member.step

    def watched(self, number, x, tokens):
        step(self, number, x, tokens)
        degrees = self.sae.column_degrees()
        rows = np.bincount(self.sae.mask.rows[self.sae.present().numpy()], minlength=48)
        seen.append((int(degrees.sum()), int(degrees.min()), int(degrees.max()), int(rows.min())))

    monkeypatch.setattr(Member, "step", watched)
    train({"sae": irregular()}, MemorySource(uneven_activations()), CONFIG, folder=tmp_path, progress=False)
    totals, fewest, most, rows = zip(*seen, strict=True)
    assert set(totals) == {ENTRIES}
    assert min(fewest) >= 2
    assert max(most) > 4
    assert max(most) <= 12
    assert min(rows) >= 1


def test_uneven_data_is_explained_better_by_irregular_degrees(tmp_path):
    x = uneven_activations()
    regular = ExpanderSae(d_in=48, n_latents=256, degree=4, k=8, reading=Stages(4))
    saes = {"irregular": irregular(), "regular": regular}
    train(saes, MemorySource(x), CONFIG, folder=tmp_path, progress=False)
    assert saes["irregular"].learned_values() == regular.learned_values()
    assert fvu(saes["irregular"], x) < 0.9 * fvu(regular, x)


def test_codes_are_those_of_a_regular_sae_with_zeros(tmp_path):
    x = uneven_activations(500)
    sae = irregular()
    train({"sae": sae}, MemorySource(x), CONFIG, folder=tmp_path, progress=False)
    padded = ExpanderSae(d_in=48, n_latents=256, degree=12, k=8, reading=Stages(4), mask=sae.mask)
    with torch.no_grad():
        padded.columns.raw.copy_(sae.columns.raw)
        padded.b_dec.copy_(sae.b_dec)
        ours, theirs = sae.encode(x), padded.encode(x)
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.values, theirs.values)


@pytest.mark.parametrize("values", ["float32", "float16", "bfloat16", "int8"])
def test_only_entries_are_stored_and_they_come_back(tmp_path, values):
    x = uneven_activations(500)
    sae = irregular()
    train({"sae": sae}, MemorySource(x), CONFIG, folder=tmp_path, progress=False)
    folder = sae.save(tmp_path / values, values=values)
    again = load_sae(folder)
    assert isinstance(again, IrregularSae)
    dense = [dictionary_of(one) for one in (sae, again)]
    tolerance = {"float32": 1e-7, "float16": 1e-3, "bfloat16": 8e-3, "int8": 1e-2}[values]
    assert torch.allclose(*dense, atol=tolerance, rtol=0)
    if values == "float32":
        assert again.describe() == sae.describe()
        assert fvu(again, x) == pytest.approx(fvu(sae, x), rel=1e-4)
        numbers = (folder / "sae.safetensors").stat().st_size
        assert numbers < ENTRIES * (4 + 1) + 256 + 48 * 4 + 600  # values, rows of one byte, counts, bias, header
        assert load_sae(again.save(tmp_path / "twice")).describe() == again.describe()


def test_a_damaged_file_is_refused(tmp_path):
    folder = irregular().save(tmp_path / "sae")
    path = folder / "sae.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ExpanderSaeError, match="damaged"):
        load_sae(folder)


def test_counts_that_do_not_fit_are_refused(tmp_path):
    import safetensors.torch

    from expander_sae.records import read_json, sha256_file
    from expander_sae.records.sealed import write_sealed

    folder = irregular().save(tmp_path / "sae")
    path = folder / "sae.safetensors"
    arrays = safetensors.torch.load_file(path)
    arrays["counts"][0] += 1
    safetensors.torch.save_file(arrays, path)
    write_sealed(folder / "config.json", read_json(folder / "config.json") | {"arrays_sha256": sha256_file(path)})
    with pytest.raises(ExpanderSaeError, match="counts"):
        load_sae(folder)


def test_resuming_is_bit_identical(tmp_path):
    x = uneven_activations()
    whole = irregular()
    train({"sae": whole}, MemorySource(x), CONFIG, folder=tmp_path / "whole", progress=False)
    source = MemorySource(x)
    source.interrupt_at = 41
    with pytest.raises(KeyboardInterrupt):
        train({"sae": irregular()}, source, CONFIG, folder=tmp_path / "parts", progress=False)
    parts = irregular()
    train({"sae": parts}, MemorySource(x), CONFIG, folder=tmp_path / "parts", progress=False)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, parts.state_dict()[key]), key


def test_the_least_worthy_entries_go():
    sae = IrregularSae(d_in=4, n_latents=4, degree=4, entries=8, k=2, reading=Stages(2))
    raw = torch.tensor([[0.9, 0.3, 0.2, 0.1], [0.9, 0.3, 0.2, 0.1], [0.6, 0.5, 0.4, 0.3], [0.9, 0.3, 0.2, 0.1]])
    sae.set_mask(mask_from_rows(np.tile(np.arange(4), (4, 1)), d_in=4))
    sae.columns.raw.data.copy_(raw)
    optimizer = torch.optim.Adam(sae.parameters())
    energy = torch.tensor([1.0, 1.0, 100.0, 1.0])
    assert keep_entries(sae, energy, optimizer, sae.entries) == 8
    # All of the busy column, one of each other, and the next largest: w^2 S of three equal ones, the first in order.
    assert sae.column_degrees().tolist()[2] == 4
    assert sae.column_degrees().min() == 1
    assert sae.column_degrees().sum() == 8


def test_pointing_a_latent_leaves_its_empty_slots_empty():
    sae = irregular()
    before = sae.present().clone()
    assert sae.point_latent(3, torch.randn(48, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(sae.present(), before)
    assert float(sae.values[3].detach().norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("entries", [255, 12 * 256 + 1, 4.0, True])
def test_impossible_budgets_are_refused(entries):
    with pytest.raises(ExpanderSaeError, match="entries"):
        IrregularSae(d_in=48, n_latents=256, degree=12, entries=entries, k=8, reading=Encoder())


def test_flatness_and_certificates_are_refused(tmp_path):
    from expander_sae.cli.certify import _sparse_sae

    config = replace(CONFIG, flatness=Flatness(2.0))
    with pytest.raises(ExpanderSaeError, match="flatness"):
        train({"sae": irregular()}, MemorySource(uneven_activations(500)), config, folder=tmp_path, progress=False)
    with pytest.raises(ExpanderSaeError, match="left-regular"):
        _sparse_sae(str(irregular().save(tmp_path / "sae")))


def test_the_model_card_says_what_it_is(tmp_path):
    from expander_sae.interop.model_card import model_card

    sae = irregular()
    train({"sae": sae}, MemorySource(uneven_activations()), CONFIG, folder=tmp_path, progress=False)
    card = model_card(sae, name="one", evaluations={}, licence="mit")
    assert "columns have different degrees" in card
    assert f"4 on the average, at most {int(sae.column_degrees().max())}" in card
    assert sae.describe()["mask"]["sha256"] in card
    assert f"{ENTRIES + 48:,}" in card


def test_amortise_and_the_saelens_object_are_refused(tmp_path):
    from typer.testing import CliRunner

    from expander_sae.cli.main import app

    folder = irregular().save(tmp_path / "sae")
    runner = CliRunner()
    for arguments, says in (
        (["amortise", str(folder), "acts", "--out", str(tmp_path / "a")], "an irregular one"),
        (["export", str(folder), "--out", str(tmp_path / "b"), "--to", "saelens"], "saelens-dense"),
    ):
        found = runner.invoke(app, arguments)
        assert found.exit_code != 0
        assert says in f"{found.output}{found.exception}"


def test_a_checkpoint_has_the_names_of_the_first_releases(tmp_path):
    source = MemorySource(uneven_activations(500))
    source.interrupt_at = 2
    with pytest.raises(KeyboardInterrupt):
        train({"sae": irregular()}, source, CONFIG, folder=tmp_path, progress=False)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["members"]["sae"]
    member = {"sae", "optimizer", "history", "generator", "diverged", "last"}
    assert set(state) == member | {"moved", "requests"} | {"energy"}  # and of the parts beside them
    assert set(state["history"]) == {"tokens_since", "firings"}


@torch.no_grad()
def test_a_dictionary_is_ordered_once_and_again_when_anything_changes():
    sae = irregular().eval()
    first = sae.dictionary()
    assert sae.dictionary().decoder is first.decoder
    full = first.dense()
    latent, slot = sae.present().nonzero()[7].tolist()
    sae.columns.raw.data[latent, slot] *= 2.0
    changed = sae.dictionary().dense()
    assert not torch.equal(changed[latent], full[latent])
    assert torch.equal(changed, dictionary_of(sae))
    rows = sae.rows.long().roll(1, dims=0)
    sae.set_mask(mask_from_rows(rows.numpy(), d_in=48))
    assert torch.equal(sae.dictionary().dense(), dictionary_of(sae))
