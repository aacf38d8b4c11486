"""Ctrl-C, SIGTERM, a closed terminal, a reader that leaves: a checkpoint, a line that says so, and the same bits."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
import torch
from shop import shop_in
from typer.testing import CliRunner

from expander_sae.cli import interrupted
from expander_sae.cli import main as command_line
from expander_sae.cli.main import app
from expander_sae.records import ExpanderSaeError, interrupts
from expander_sae.records.interrupts import Interrupted, held_back, make_interruptible

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return shop_in(tmp_path_factory)


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number in before:
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)
    make_interruptible()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupts._raised.clear()


def long_training(shop, out):
    return [*shop.arguments("train", out), "--tokens", "60000"]


def arrays(folder):
    return (folder / "expander-d4" / "sae.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(shop, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert CliRunner().invoke(app, long_training(shop, out)).exit_code == 0
    return arrays(out)


def when_it_trains(folder, do):
    """Do it in another thread, when the log has its first lines."""

    def wait():
        log = folder / "metrics.jsonl"
        while not log.exists() or log.stat().st_size == 0:
            time.sleep(0.002)
        do()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "signals", [(name,) for name in SIGNALS] + [("SIGINT", "SIGINT"), ("SIGTERM",) * 5], ids=" ".join
)
def test_a_checkpoint_is_kept_and_said_and_gone_on_from(signals, shop, undisturbed, tmp_path, handlers):
    def send():
        for name in signals:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(0.001)

    thread = when_it_trains(tmp_path, send)
    done = CliRunner().invoke(app, long_training(shop, tmp_path))
    thread.join()
    number = int(getattr(signal, signals[0]))
    assert done.exit_code == 128 + number, done.output
    said = (
        f"interrupted by {signals[0]}: what was done so far is kept in {tmp_path}; the same command goes on from there"
    )
    assert said in done.output
    assert (tmp_path / "checkpoint.pt").exists()
    assert not (tmp_path / "expander-d4").exists()
    assert CliRunner().invoke(app, long_training(shop, tmp_path)).exit_code == 0
    assert arrays(tmp_path) == undisturbed


def test_an_interrupt_while_saes_are_saved_waits_for_them(shop, tmp_path, handlers, monkeypatch):
    from expander_sae.training import loop

    def interrupted(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return finish(*given)

    finish = loop._finish
    monkeypatch.setattr(loop, "_finish", interrupted)
    assert CliRunner().invoke(app, shop.arguments("train", tmp_path)).exit_code == 143
    assert (tmp_path / "expander-d4" / "config.json").exists()
    assert not (tmp_path / "checkpoint.pt").exists()
    monkeypatch.undo()
    assert "is finished" in CliRunner().invoke(app, shop.arguments("train", tmp_path)).output


@pytest.mark.parametrize("verb", ["encode", "eval", "harvest", "convert"])
def test_what_a_verb_keeps_is_what_it_says(verb, shop, tmp_path, handlers, monkeypatch):
    from expander_sae.activations import ActivationStore
    from expander_sae.saes import base

    def stop(*_, **__):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ActivationStore, "shards", stop)
    monkeypatch.setattr(ActivationStore, "open", stop if verb == "harvest" else ActivationStore.open)
    monkeypatch.setattr(base, "write_folder", stop)
    done = CliRunner().invoke(app, shop.arguments(verb, tmp_path / "out"))
    assert done.exit_code == 143, done.output
    kept = "what was done so far is kept in" if verb == "harvest" else "nothing was half written; the same command does"
    assert kept in done.output
    assert (tmp_path / "out").exists() == (verb == "harvest")


@pytest.mark.parametrize("error", [RuntimeError, ExpanderSaeError, OSError])
def test_what_other_code_makes_of_an_interrupt_is_still_one(error, shop, tmp_path, handlers, monkeypatch):
    from expander_sae.saes import base

    def as_in_a_callback_of_c(*_, **__):
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise error("object type 'torch.storage.UntypedStorage'") from None

    monkeypatch.setattr(base, "write_folder", as_in_a_callback_of_c)
    done = CliRunner().invoke(app, shop.arguments("convert", tmp_path / "out"))
    assert done.exit_code == 143
    assert "interrupted by SIGTERM" in done.output


def test_signals_that_are_ignored_or_end_the_process_still_do():
    script = """
import signal, sys
from expander_sae.records.interrupts import held_back, make_interruptible
signal.signal(signal.SIGHUP, signal.SIG_IGN)
make_interruptible()
assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
signal.signal(signal.SIGTERM, signal.SIG_DFL)
with held_back():
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGTERM)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == ""


def test_signals_wait_and_the_first_is_raised_when_the_block_has_ended(handlers):
    done = []

    def work():
        with held_back() as came:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            done.extend(came)

    with pytest.raises(Interrupted) as caught:
        work()
    assert done == [signal.SIGTERM, signal.SIGINT]
    assert caught.value.number == signal.SIGTERM


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("made_of_it", [None, 130, 1])
def test_a_signal_outside_of_a_verb_has_its_own_exit_code(name, made_of_it, handlers, monkeypatch, capsys):
    def outside():
        try:
            signal.raise_signal(getattr(signal, name))
        except KeyboardInterrupt:
            if made_of_it is None:
                raise
            sys.exit(made_of_it)  # as typer does

    monkeypatch.setattr(command_line, "app", outside)
    monkeypatch.setattr(interrupted, "said", [])
    monkeypatch.setattr(command_line, "said", interrupted.said)
    with pytest.raises(SystemExit) as left:
        command_line.main()
    assert left.value.code == 128 + getattr(signal, name)
    assert f"interrupted by {name}: nothing was half written" in capsys.readouterr().err


def test_other_threads_have_no_signals_to_hold_back():
    found = []

    def work():
        make_interruptible()
        with held_back() as came:
            found.append(came)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]


def test_a_reader_that_leaves_is_told_nothing_and_nothing_is_lost(shop, undisturbed, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "expander_sae.cli.main", *long_training(shop, tmp_path)]
    # Sums of gradients depend on the number of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    said = process.communicate()[1]
    assert process.returncode == 141
    assert "Traceback" not in said
    assert "error" not in said
    assert arrays(tmp_path) == undisturbed  # the table at the end is all that nobody read


@pytest.mark.parametrize("error", [BrokenPipeError, SystemExit])
def test_a_progress_bar_that_nobody_sees_leaves_a_checkpoint(error, shop, undisturbed, tmp_path, monkeypatch):
    from expander_sae.training import loop

    @contextmanager
    def broken(*_):
        def show(_run):
            raise error(1)

        yield show

    monkeypatch.setattr(loop, "bar", broken)
    done = CliRunner().invoke(app, long_training(shop, tmp_path))
    assert done.exit_code == (141 if error is BrokenPipeError else 1)
    assert (tmp_path / "checkpoint.pt").exists()
    monkeypatch.undo()
    assert CliRunner().invoke(app, long_training(shop, tmp_path)).exit_code == 0
    assert arrays(tmp_path) == undisturbed
