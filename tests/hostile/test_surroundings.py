"""A folder that is removed under a run, a place that cannot be written, no home, a clock that goes back."""

import os
import shutil
import subprocess
import sys
import time

import pytest
from shop import call, shop_in

from expander_sae.activations import ActivationStream
from expander_sae.records import ExpanderSaeError
from expander_sae.records.remote import CACHE, cache_folder
from expander_sae.saes import ExpanderSae


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


def test_a_folder_removed_under_a_pass_is_one_error_or_made_again(shop, tmp_path, monkeypatch):
    following, done = ActivationStream.__next__, []

    def removing(self):
        done.append(1)
        if len(done) == 5:
            shutil.rmtree(tmp_path / "out")
        return following(self)

    monkeypatch.setattr(ActivationStream, "__next__", removing)
    said = str(tmp_path / "out")
    try:
        call([*shop.arguments("train", tmp_path / "out"), "--quiet"])
    except ExpanderSaeError as error:
        said = str(error)
    assert str(tmp_path / "out") in said
    monkeypatch.undo()
    call([*shop.arguments("train", tmp_path / "out"), "--quiet"])
    assert (tmp_path / "out/expander-d4/sae.safetensors").is_file()


def test_a_clock_that_goes_back_changes_nothing(shop, tmp_path, monkeypatch):
    call([*shop.arguments("train", tmp_path / "one"), "--quiet"])
    now, asked = time.time(), []

    def back():
        asked.append(1)
        return now - 3600 * len(asked)

    monkeypatch.setattr(time, "time", back)
    call([*shop.arguments("train", tmp_path / "two"), "--quiet"])
    os.utime(tmp_path / "two/expander-d4/config.json", (0, 0))
    call([*shop.arguments("train", tmp_path / "two"), "--quiet"])  # finished, whatever its date
    files = ("one", "two")
    first, second = ((tmp_path / name / "expander-d4/sae.safetensors").read_bytes() for name in files)
    assert first == second


def test_a_place_that_cannot_be_written_is_one_error():
    sae = ExpanderSae(d_in=8, n_latents=16, degree=2, k=2)
    with pytest.raises(ExpanderSaeError, match="cannot write /proc/nothing"):
        sae.save("/proc/nothing")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become somebody else")
def test_other_users_files_are_one_error(shop, tmp_path):
    shutil.copytree(shop.folder / "saes/expander-d4", tmp_path / "sae")
    for file in (tmp_path / "sae").iterdir():
        file.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and folder != folder.parent and folder.name.startswith(("pytest", "test")):
            folder.chmod(0o755)
    code = (
        "import os, sys\nfrom expander_sae.saes import load_sae\nos.setuid(65534)\n"
        "try: load_sae(sys.argv[1])\nexcept ValueError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sae")], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(f"ExpanderSaeError cannot read {tmp_path / 'sae/config.json'}: Permission denied"), (
        done
    )


def test_without_a_home_the_cache_is_among_temporary_files(monkeypatch):
    monkeypatch.delenv(CACHE, raising=False)

    def none():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", none)
    assert "expander-sae-" in cache_folder().name
