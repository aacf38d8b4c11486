"""Saving over an SAE: old or new to the bit whenever the saver is killed, nothing lost where the disk is full."""

import os
import random
import shutil
import signal
import time

import pytest
import torch
from full_disk import files_of_at_most

from expander_sae.interop import WRITABLE, read_sae, write_sae
from expander_sae.interop.hub import save_pretrained
from expander_sae.pursuit import Encoder
from expander_sae.records import ExpanderSaeError, arrays_of, write_pair
from expander_sae.saes import ExpanderSae, IrregularSae, load_sae


def make(seed, **options):
    return ExpanderSae(d_in=64, n_latents=4096, degree=5, k=8, seed=seed, **{"reading": Encoder(), **options})


def numbers(folder):
    sae = load_sae(folder)
    return sae.values.detach(), sae.rows.long()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_old_or_new_after_twenty_kills(tmp_path):
    place = tmp_path / "place"
    make(1).save(tmp_path / "old")
    make(2).save(tmp_path / "new")
    load_sae(tmp_path / "new").save(tmp_path / "rounded", values="float16")
    wanted = [numbers(tmp_path / name) for name in ("old", "rounded")]
    load_sae(tmp_path / "old").save(place)
    (place / "notes.txt").write_text("mine")
    draw, seen = random.Random(0), set()
    # One process forked many times: the import of torch is what takes long.
    parent = load_sae(tmp_path / "old"), load_sae(tmp_path / "new")
    for _ in range(20):
        child = os.fork()
        if child == 0:
            try:
                while True:
                    parent[1].save(place, values="float16")
                    parent[0].save(place)
            finally:
                os._exit(1)
        time.sleep(draw.uniform(0.001, 0.04))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        values, rows = numbers(place)
        which = [torch.equal(values, v) and torch.equal(rows, r) for v, r in wanted]
        assert any(which)
        seen.add(which.index(True))
    load_sae(tmp_path / "old").save(place)
    assert names(place) == ["config.json", "notes.txt", "sae.safetensors"]
    assert (place / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("stop", range(8))
def test_every_point_between_the_renames(stop, tmp_path, monkeypatch):
    """The process ends at the given rename or flush, with nothing cleaned up."""
    make(1).save(tmp_path / "place")
    make(2).save(tmp_path / "new")
    wanted = [numbers(tmp_path / name) for name in ("place", "new")]
    new, left = make(2), [stop]

    def counted(function):
        def call(*arguments, **options):
            if left[0] == 0:
                os._exit(0)
            left[0] -= 1
            return function(*arguments, **options)

        return call

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "replace", counted(os.replace))
        monkeypatch.setattr(os, "fsync", counted(os.fsync))
        new.save(tmp_path / "place")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    values, rows = numbers(tmp_path / "place")
    assert any(torch.equal(values, v) and torch.equal(rows, r) for v, r in wanted)
    load_sae(tmp_path / "place").save(tmp_path / "place")  # over itself: what waits is what it was read from
    assert names(tmp_path / "place") == ["config.json", "sae.safetensors"]
    again = numbers(tmp_path / "place")
    assert torch.equal(again[0], values)


def test_a_failing_writer_leaves_the_old_pair(tmp_path):
    def write(text):
        return lambda path: path.write_text(text)

    write_pair(tmp_path, "a.bin", "a.json", write("one"), lambda path: {"n": 1})
    (tmp_path / ".a.bin.0123.part").write_text("of a process that was killed")
    with pytest.raises(ZeroDivisionError):
        write_pair(tmp_path, "a.bin", "a.json", write("two"), lambda path: 1 / 0)
    assert names(tmp_path) == ["a.bin", "a.json"]
    assert arrays_of(tmp_path, "a.bin", "a.json").read_text() == "one"


WRITERS = {form: lambda sae, path, form=form: write_sae(sae, path, form) for form in WRITABLE} | {
    "ours": lambda sae, path: sae.save(path),
    "hub": lambda sae, path: save_pretrained(sae, path, name="mine"),
}


def where(folder, form):
    return folder / ("sae.pt" if form == "openai" else "sae")


@pytest.mark.parametrize("size", [0, 100, 3000])
@pytest.mark.parametrize("form", WRITERS)
def test_a_full_disk_is_one_error_and_nothing_is_lost(form, size, tmp_path):
    sae, x = ExpanderSae(d_in=16, n_latents=96, degree=3, k=4, reading=Encoder()), torch.randn(5, 16)
    path = where(tmp_path, form)
    WRITERS[form](sae, path)
    want = read_sae(path).encode(x)
    before = names(tmp_path if path.is_file() else path)
    with files_of_at_most(size), pytest.raises(ExpanderSaeError, match="cannot write"):
        WRITERS[form](ExpanderSae(d_in=16, n_latents=900, degree=3, k=4, seed=1, reading=Encoder()), path)
    assert names(tmp_path if path.is_file() else path) == before
    assert torch.equal(read_sae(path).encode(x).values, want.values)


@pytest.mark.parametrize("form", WRITERS)
def test_the_same_sae_is_the_same_bytes(form, tmp_path):
    kinds = [ExpanderSae(d_in=16, n_latents=96, degree=3, k=4, reading=Encoder())]
    kinds += (
        [IrregularSae(d_in=16, n_latents=96, degree=6, entries=300, k=4, reading=Encoder())] if form == "ours" else []
    )
    for number, sae in enumerate(kinds):
        found = []
        for again in ("a", "b"):
            folder = tmp_path / f"{number}{again}"
            folder.mkdir()
            path = WRITERS[form](sae, where(folder, form))
            files = [path] if path.is_file() else sorted(path.iterdir())
            found.append([(file.name, file.read_bytes()) for file in files])
        assert found[0] == found[1]
        shutil.rmtree(tmp_path / f"{number}a")
