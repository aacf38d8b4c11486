"""Work that is finished: the same command finds it done, another one does not replace it unasked, one at a time."""

import json

import pytest
from filelock import FileLock
from shop import call, shop_in

from expander_sae.records import ExpanderSaeError
from expander_sae.saes import load_sae
from expander_sae.training.checkpointing import load_checkpoint, save_checkpoint

OTHER = {
    # verb: what makes it another piece of work
    "train": ["--seed", "1"],
    "amortise": ["--seed", "1"],
    "compress": ["--support", "magnitude"],
    "convert": ["--values", "int8"],
    "export": ["--to", "saelens-dense", "--inference", "encoder"],
    "import": ["--values", "float16"],
    "push": ["--licence", "mit"],
    "encode": ["--split", "train"],
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


def contents(path):
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.suffix != ".lock"}


@pytest.mark.parametrize("verb", OTHER)
def test_a_rerun_changes_nothing_and_another_run_has_to_ask(verb, shop, tmp_path):
    out = tmp_path / "out"
    same = shop.arguments(verb, out)
    other = [*same, *OTHER[verb]]
    call(same)
    before = contents(out)
    call(same)
    again = contents(out)
    (
        again.pop("expander-d4/compression.json", None),
        before.pop("expander-d4/compression.json", None),
    )  # has speeds in it
    assert again == before
    with pytest.raises(ExpanderSaeError, match="--overwrite"):
        call(other)
    assert contents(out).items() >= before.items()
    call([*other, "--overwrite"])
    assert contents(out) != before
    with pytest.raises(ExpanderSaeError, match="--overwrite"):
        call(same)


def test_train_says_that_it_is_finished_and_returns_what_was_trained(shop, tmp_path):
    same = [*shop.arguments("train", tmp_path), "--json", str(tmp_path / "r.json")]
    assert "is finished" not in call(same)
    first = (tmp_path / "r.json").read_bytes()
    assert "is finished: these SAEs were trained there by this very pass" in call(same)
    assert (tmp_path / "r.json").read_bytes() == first  # seconds too: nothing was trained


def test_other_saes_may_be_trained_beside_finished_ones(shop, tmp_path):
    call(shop.arguments("train", tmp_path))
    before = contents(tmp_path)
    lines = (tmp_path / "metrics.jsonl").read_text()
    call([*shop.arguments("train", tmp_path), "--degree", "2"])
    after = contents(tmp_path)
    for name in ("expander-d4/config.json", "expander-d4/sae.safetensors"):
        assert after[name] == before[name]
    assert set(json.loads(after["training.json"])) == {"expander-d2", "expander-d4"}
    assert (tmp_path / "metrics.jsonl").read_text().startswith(lines)
    assert "is finished" in call(shop.arguments("train", tmp_path))
    with pytest.raises(ExpanderSaeError, match="holds finished work already: expander-d4,"):
        call([*shop.arguments("train", tmp_path), "--degree", "8,4"])  # not the pass that either was trained in


def test_a_folder_of_an_earlier_release_is_finished_work(shop, tmp_path):
    call(shop.arguments("train", tmp_path))
    config = json.loads((tmp_path / "expander-d4/config.json").read_text())
    del config["metadata"]["training_pass"], config["sha256"]
    (tmp_path / "expander-d4/config.json").write_text(json.dumps(config))
    with pytest.raises(ExpanderSaeError, match="by an earlier release"):
        call(shop.arguments("train", tmp_path))


def checkpoint(folder, **given):
    save_checkpoint(folder, {"fingerprint": "another pass", "members": {"other": {}}, **given})


@pytest.mark.parametrize("verb", ["train", "amortise", "compress"])
def test_unfinished_work_of_another_pass_is_one_error_and_is_kept(verb, shop, tmp_path):
    checkpoint(tmp_path)
    with pytest.raises(ExpanderSaeError, match=r"belongs to a training pass with other settings.*--overwrite"):
        call(shop.arguments(verb, tmp_path))
    assert load_checkpoint(tmp_path, "another pass") is not None
    call([*shop.arguments(verb, tmp_path), "--overwrite"])
    assert not (tmp_path / "checkpoint.pt").exists()


def test_overwrite_starts_anew_from_a_damaged_checkpoint(shop, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(ExpanderSaeError, match="damaged"):
        call(shop.arguments("train", tmp_path))
    call([*shop.arguments("train", tmp_path), "--overwrite"])
    assert load_sae(tmp_path / "expander-d4").n_latents == 64


@pytest.mark.parametrize("tokens", ["1000", "0"])
@pytest.mark.parametrize("released", ["now", "earlier"])
def test_compress_removes_the_checkpoint_of_what_is_finished(tokens, released, shop, tmp_path):
    same = [*shop.arguments("compress", tmp_path), "--tokens", tokens]
    call(same)
    config = tmp_path / "expander-d4/config.json"
    stored = json.loads(config.read_text())
    mark = stored["metadata"].pop("training_pass", None)
    if released == "earlier" or mark is None:
        del stored["sha256"]
        config.write_text(json.dumps(stored))
        checkpoint(tmp_path, members={"expander-d4": {}})
    else:
        checkpoint(tmp_path, fingerprint=mark)
    with pytest.raises(ExpanderSaeError, match="belongs to"):
        call([*same, "--degree", "8", "--tokens", "1000"])
    call(same)  # as the killed process would have done
    assert not (tmp_path / "checkpoint.pt").exists()
    call([*same, "--degree", "8", "--tokens", "1000"])
    checkpoint(tmp_path)
    call(same)
    assert load_checkpoint(tmp_path, "another pass") is not None  # somebody else's stays


LOCKS = {"train": "training", "amortise": "training", "compress": "compression", "experiment": "geometry"}


@pytest.mark.parametrize("verb", LOCKS)
def test_one_process_at_a_time(verb, shop, tmp_path):
    folder = tmp_path / "geometry" if verb == "experiment" else tmp_path
    folder.mkdir(exist_ok=True)
    with (
        FileLock(folder / f".{LOCKS[verb]}.lock"),
        pytest.raises(ExpanderSaeError, match=r"another process .* now. Wait until it has ended"),
    ):
        call(shop.arguments(verb, tmp_path))
    assert contents(tmp_path) == {}


def test_a_codes_file_of_something_else_is_refused_before_the_work(shop, tmp_path):
    for content in (b"", b"no codes", b"\x08" + b"\0" * 7 + b"{}      "):
        (tmp_path / "c").write_bytes(content)
        with pytest.raises(ExpanderSaeError, match="is there already"):
            call(shop.arguments("encode", tmp_path / "c"))
        assert (tmp_path / "c").read_bytes() == content


def test_files_beside_those_of_a_verb_are_left_alone(shop, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    call(shop.arguments("convert", tmp_path / "out"))
    assert load_sae(tmp_path / "out").n_latents == 64
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "out" / "config.json").unlink()  # as if killed half-way
    call(shop.arguments("convert", tmp_path / "out"))
    assert load_sae(tmp_path / "out").n_latents == 64
