"""Kill every verb at random moments, run it to its end, and compare bits with a run that nobody disturbed.

    PYTHONPATH=tests OMP_NUM_THREADS=1 python tests/hostile/kills.py [--kills 50] [--verbs train,encode] [--seed 0]

Each kill is a SIGKILL, SIGTERM or SIGINT at a random moment of the run, or of the run after it, which may be killed as
well. Afterwards the same command has to end well. Then the results must be those of the undisturbed run: files byte for
byte, records but for times. Nothing half-written may be under a final name, and no lock may be stuck.

One process imports the package and forks for every run: a kill then meets the verb's own work and not two seconds of
imports. Prints one line for each verb and ends with exit code 1 if one differs.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open
from shop import Shop, make_shop

from expander_sae.cli import main as command_line

VERBS = (
    "harvest", "train", "amortise", "compress", "convert", "export", "import", "push", "encode", "features", "eval",
    "certify", "frontier", "experiment",
)  # fmt: skip
TIMES = {
    "seconds", "cpu_seconds", "cost_seconds", "tokens_per_second", "encode_tokens_per_second", "tokens_per_cpu_second",
    "sha256", "bytes_on_disk",
}  # fmt: skip
"""What differs from run to run, and checksums and sizes of files that hold such."""
SIGNALS = (signal.SIGKILL,) * 8 + (signal.SIGTERM, signal.SIGINT)
TOKENS = 50_000
"""Of each training: 500 steps, two checkpoints, unless another number is asked for."""
PATIENCE = 120
"""Seconds after which a run is stuck."""


def fork(arguments, folder):
    """Start a verb in a child, what it says going to a file."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS[-2:])  # a child must not come out of here as a second parent
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[-2:])
        return child
    code = 1
    try:
        log = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["expander-sae", *arguments]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS[-2:])
        command_line.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        code = 130  # before the verb began
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(child, seconds=PATIENCE):
    """The exit code of a child, negative for a signal; None if it does not end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def without_times(value):
    if isinstance(value, dict):
        return {name: without_times(one) for name, one in value.items() if name not in TIMES}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def results(out):
    """What a run left under final names: JSON without times, lines of JSON too, other files as bytes."""
    files = [out] if out.is_file() else sorted(file for file in out.rglob("*") if file.is_file())
    found = {}
    for file in files:
        name = str(file.relative_to(out))
        drawn = file.suffix in (".html", ".svg") or file.name == "page.json"  # from records, with times
        if drawn or file.name.endswith((".lock", ".part")):
            continue
        if file.suffix == ".json":
            found[name] = without_times(json.loads(file.read_text().replace(str(out), "OUT")))
        elif file.suffix == ".jsonl":
            found[name] = [without_times(json.loads(line)) for line in file.read_text().splitlines()]
        else:
            found[name] = file.read_bytes()
    return found


def half_written(out):
    """Files under final names that are not whole: JSON that is none, tensors that cannot be read."""
    files = [out] if out.is_file() else [file for file in out.rglob("*") if file.is_file()]
    wrong = []
    for file in files:
        if file.name.startswith("."):
            continue
        try:
            if file.suffix == ".json":
                json.loads(file.read_text())
            elif file.suffix == ".safetensors":
                with safe_open(file, "pt") as tensors:
                    list(tensors.keys())
            elif file.suffix == ".pt":
                torch.load(file, weights_only=True)
        except Exception as error:
            wrong.append(f"{file.name}: {error}")
    return wrong


def differences(wanted, found):
    return sorted(name for name in wanted | found if wanted.get(name) != found.get(name))


def name_of(verb):
    files = {"encode": "codes.safetensors", "features": "latents.db", "eval": "records.json", "certify": "records.json"}
    return files.get(verb, "out")


def kill_and_rerun(shop, verb, tokens, place, draw, seconds, wanted):
    """One disturbed run; what was wrong with it, and how often it was killed."""
    place.mkdir()
    out, kills, wrong = place / name_of(verb), 0, []
    arguments = shop.arguments(verb, out, tokens)
    while True:
        number = draw.choice(SIGNALS)
        child = fork(arguments, place)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, number)
        code = wait(child)
        if code is None:
            return [f"did not end after {number.name}"], kills
        kills += code != 0
        if code not in (0, -number, 128 + number):
            wrong.append(f"exit code {code} after {number.name}")
        if out.exists():
            wrong += half_written(out)
        if draw.random() < 0.7:
            break
    code = wait(fork(arguments, place))
    if code != 0:
        wrong.append("stuck" if code is None else f"the rerun ended with exit code {code}")
    elif different := differences(wanted, results(out)):
        wrong.append(f"other bits in {', '.join(different[:4])}")
    if wrong:
        wrong.append((place / "said.txt").read_text()[-3000:])
    return wrong, kills


def undisturbed(shop, verb, tokens, place):
    """The results of a run, and how long it took."""
    place.mkdir()
    out = place / name_of(verb)
    started = time.monotonic()
    code = wait(fork(shop.arguments(verb, out, tokens), place))
    if code != 0:
        raise SystemExit(f"{verb} does not run: {(place / 'said.txt').read_text()}")
    return results(out), time.monotonic() - started


def in_a_child(folder):
    """A shop, made where the threads it needs end with it."""
    child = os.fork()
    if not child:
        make_shop(folder)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the shop could not be made")
    return Shop(folder)


def main(arguments=None):
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=int, default=50, help="disturbed runs of each verb")
    options.add_argument("--verbs", default=",".join(VERBS))
    options.add_argument("--tokens", type=int, default=TOKENS, help="of each training")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args(arguments)
    torch.set_num_threads(1)  # a fork has no thread team to wait for
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        (at / "shop").mkdir()
        shop = in_a_child(at / "shop")
        for verb in given.verbs.split(","):
            draw = random.Random(f"{given.seed} {verb}")
            wanted, first = undisturbed(shop, verb, given.tokens, at / f"{verb}-whole")
            again, second = undisturbed(
                shop, verb, given.tokens, at / f"{verb}-again"
            )  # the first run imports what the verb needs
            if unsteady := differences(wanted, again):
                raise SystemExit(f"{verb}: two undisturbed runs differ in {unsteady}")
            kills = wrong = 0
            for number in range(given.kills):
                place = at / f"{verb}-{number}"
                found, killed = kill_and_rerun(shop, verb, given.tokens, place, draw, 1.1 * min(first, second), wanted)
                kills += killed
                if found:
                    wrong += 1
                    print(f"{verb}, run {number}: " + "; ".join(found), file=sys.stderr)
                shutil.rmtree(place)
            bad += wrong
            print(
                f"{verb:10} {given.kills} runs, {kills} killed, {wrong} wrong ({min(first, second):.2f} s each)",
                flush=True,
            )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
