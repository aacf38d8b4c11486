"""A disk that is full after so many bytes of a file: one error that names the file, and the rerun does the rest."""

import pytest
import torch
from full_disk import files_of_at_most
from kills import half_written, name_of, results
from shop import call, shop_in

from expander_sae.records import ExpanderSaeError
from expander_sae.saes import load_sae

VERBS = (
    "harvest", "train", "amortise", "compress", "convert", "export", "import", "push", "encode", "features", "eval",
    "certify",
)  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("size", [0, 300])
def test_a_full_disk_is_one_error_and_the_rerun_ends_well(verb, size, shop, tmp_path):
    out = tmp_path / name_of(verb)
    arguments = [*shop.arguments(verb, out), "--quiet"]
    refused = ""
    with files_of_at_most(size):
        try:
            call(arguments)
        except ExpanderSaeError as error:
            refused = str(error)
    assert refused.startswith("cannot write ")
    assert "File too large" in refused
    if out.exists():
        assert half_written(out) == []
        assert not list(tmp_path.rglob("*.part"))
    call(arguments)
    assert results(out)


@pytest.mark.parametrize("to", ["openai", "sparsify", "dictionary_learning", "saelens", "saelens-dense"])
def test_an_export_keeps_the_old_file(to, shop, tmp_path):
    out = tmp_path / ("sae.pt" if to == "openai" else "out")
    arguments = [
        "export",
        str(shop.folder / "saes/expander-d4"),
        "--out",
        str(out),
        "--to",
        to,
        "--inference",
        "encoder",
    ]
    call(arguments)
    before = results(out)
    with files_of_at_most(700), pytest.raises(ExpanderSaeError, match="cannot write"):
        call([*arguments, "--overwrite", "--dtype", "float16"])
    assert results(out) == before


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(shop, tmp_path):
    arguments = [*shop.arguments("train", tmp_path, 50_000), "--quiet"]
    with (
        files_of_at_most(20_000),
        pytest.raises(ExpanderSaeError, match=r"cannot write .*checkpoint.pt: File too large"),
    ):
        call(arguments)
    assert not (tmp_path / "checkpoint.pt").exists()
    call(arguments)
    with torch.no_grad():
        assert load_sae(tmp_path / "expander-d4")(torch.zeros(1, 32)).shape == (1, 32)
