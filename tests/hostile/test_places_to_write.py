"""Where a result can go: devices, pipes, links, standard output, other modes; and a disk that is full."""

import errno
import os
import stat
import threading

import pytest
import torch
from safetensors.torch import load_file

from expander_sae.records import ExpanderSaeError, write_atomically, write_json, write_tensors, write_torch
from expander_sae.records.files import remove_leftovers

TENSORS = {"b": torch.arange(6, dtype=torch.int64), "a": torch.ones(3, 5)}
STATE = {"a": torch.ones(300), "steps": [1, 2]}


def write_text(path):
    with write_atomically(path) as temporary:
        temporary.write_text("text\n")


WRITERS = {
    "text": write_text,
    "json": lambda path: write_json(path, {"a": [1.5, float("nan")]}),
    "tensors": lambda path: write_tensors(path, TENSORS, {"z": "1", "a": "2"}),
    "state": lambda path: write_torch(path, STATE),
    "sealed state": lambda path: write_torch(path, STATE, sealed=True),
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@every_writer
@pytest.mark.parametrize(("mask", "expected"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664), (0o000, 0o666)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(write, mask, expected, umask, tmp_path):
    umask(mask)
    write(tmp_path / "new")
    assert mode(tmp_path / "new") == expected
    assert os.listdir(tmp_path) == ["new"]


@every_writer
@pytest.mark.parametrize("kept", [0o600, 0o640, 0o444, 0o755])
def test_an_old_file_keeps_its_mode(write, kept, umask, tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "old").chmod(kept)
    write(tmp_path / "old")
    assert mode(tmp_path / "old") == kept
    assert (tmp_path / "old").read_bytes() != b"old"


@every_writer
@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_one_and_what_it_points_to_is_written(write, there, relative, tmp_path):
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "target"
    if there:
        target.write_text("old")
    link, second = tmp_path / "link", tmp_path / "second"
    link.symlink_to("far/target" if relative else target)
    second.symlink_to("link" if relative else link)
    write(second)
    write(tmp_path / "plain")
    assert second.is_symlink()
    assert link.is_symlink()
    assert target.read_bytes() == (tmp_path / "plain").read_bytes()
    assert os.listdir(target.parent) == ["target"]


@every_writer
def test_links_in_a_circle_and_a_folder_are_errors(write, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(ExpanderSaeError, match="cannot write"):
            write(path)
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    assert (tmp_path / "a").is_symlink()


@every_writer
def test_a_device_is_written_to_and_stays_one(write):
    write("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@every_writer
@pytest.mark.parametrize("with_link", [False, True])
def test_a_named_pipe_gets_the_bytes(write, with_link, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / ("link" if with_link else "pipe"))
    reader.join()
    write(tmp_path / "file")
    assert got == [(tmp_path / "file").read_bytes()]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@every_writer
@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_gets_the_bytes_after_what_was_printed(write, name, tmp_path, monkeypatch, capsysbinary):
    monkeypatch.chdir(tmp_path)
    print("before")
    write(name)
    print("after")
    assert os.listdir(tmp_path) == []
    write(tmp_path / "file")
    assert capsysbinary.readouterr().out == b"before\n" + (tmp_path / "file").read_bytes() + b"after\n"


@every_writer
def test_the_descriptor_of_a_pipe_gets_the_bytes(write, tmp_path):
    write(tmp_path / "file")
    wanted = (tmp_path / "file").read_bytes()
    reading, writing = os.pipe()
    write(f"/dev/fd/{writing}")
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == wanted


@every_writer
def test_a_full_disk_is_one_error_that_names_the_file(write, tmp_path, monkeypatch):
    with pytest.raises(ExpanderSaeError, match="cannot write /dev/full: No space left on device"):
        write("/dev/full")
    (tmp_path / "old").write_text("old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExpanderSaeError, match=r"old: No space left on device. The old file, if any, is untouched"):
        write(tmp_path / "old")
    assert (tmp_path / "old").read_text() == "old"
    assert os.listdir(tmp_path) == ["old"]


@every_writer
def test_a_reader_that_has_left_is_no_fault_of_the_file(write):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(BrokenPipeError):
            write(f"/dev/fd/{writing}")
    finally:
        os.close(writing)


@every_writer
def test_the_same_is_the_same_bytes_whatever_the_name(write, tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two.other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two.other").read_bytes()


def test_a_long_name_has_room_for_its_temporary_file(tmp_path):
    write_text(tmp_path / ("x" * 255))
    assert os.listdir(tmp_path) == ["x" * 255]


def test_tensors_of_every_kind_are_read_back(tmp_path):
    kinds = (
        "uint64",
        "int64",
        "float64",
        "float32",
        "uint32",
        "int32",
        "bfloat16",
        "float16",
        "uint16",
        "int16",
        "int8",
    )
    tensors = {kind: torch.arange(6).to(getattr(torch, kind)).view(2, 3) for kind in (*kinds, "uint8", "bool")}
    tensors |= {"transposed": torch.arange(6.0).view(2, 3).T, "number": torch.tensor(3.0), "none": torch.zeros(0, 4)}
    tensors["negative"] = torch._neg_view(torch.ones(3))
    write_tensors(tmp_path / "t", tensors)
    found = load_file(tmp_path / "t")
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    for name in (".a.json.0123.part", ".b.json.0123.part", "a.json", ".a.json"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "a.json")
    assert sorted(os.listdir(tmp_path)) == [".a.json", ".b.json.0123.part", "a.json"]
