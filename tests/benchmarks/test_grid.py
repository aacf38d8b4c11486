"""The plan behind docs/results/index.md runs; its runner resumes, keeps records and says what failed."""

import csv
import importlib.util
import json
import re
import sys
import textwrap
from pathlib import Path

import pytest
import typer
from tiny_models import make_documents, make_tiny_model, write_jsonl

from expander_sae.cli.main import app
from expander_sae.frontier import CONTROLS
from expander_sae.frontier.experiments import find_experiment

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


load("machine")
grid = load("grid")
load("recorded")
load("overview")
load("prose")
documents = load("documents")
PLAN = """
[shared]
harvest = ""
activations = ""

[[group]]
name = "one"
arguments = "--preset default --k 4"
  [[group.run]]
  record = "a"
  experiment = "synthetic"
  arguments = "--set trials=1"
  [[group.run]]
  record = "b"
  experiment = "broken"

[[group]]
name = "two"
  [[group.run]]
  record = "c"
  experiment = "synthetic"
"""
PROGRAM = """
import json, pathlib, shlex, sys, time
while time.process_time() < 0.4: pass
arguments = sys.argv[1:]
name, out = arguments[1], pathlib.Path(arguments[arguments.index("--out") + 1])
if name == "broken":
    sys.exit("no such experiment")
(out / name).mkdir(parents=True)
made = {"command": shlex.join(["expander-sae", *arguments]), "calls": 1}
(out / name / "records.json").write_text(json.dumps(made))
"""


def test_every_run_of_the_plan_is_one_the_command_line_takes():
    command = typer.main.get_command(app).commands["experiment"]
    _, runs = grid.read_plan()
    assert {run.experiment for run in runs} >= {"frontier", "amortisation", "support", "steps", "latents", "storage"}
    for run in runs:
        arguments = run.command(Path("grid"))[1:]
        parsed = command.make_context("experiment", list(arguments), resilient_parsing=False).params
        assert parsed["quiet"], run
        # Activations of a model in a folder do not say where it is.
        assert parsed["model"] == (None if run.layer is None else str(grid.language_model(Path("grid")))), run
        assert parsed["compute_dtype"] == ("auto" if run.layer is None else "float32"), run
        pairs = dict(text.split("=", 1) for text in parsed["option"] or [])
        options = find_experiment(run.experiment).read_options(pairs)
        assert set(options.get("controls", [])) <= {*CONTROLS, "none"}, run


def test_groups_are_run_kept_and_not_run_again(tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    _, runs = grid.read_plan(tmp_path / "plan.toml")
    kept = tmp_path / "kept"
    kept.mkdir()
    program = [sys.executable, str(tmp_path / "program.py")]
    assert grid.run_groups(grid.Lanes(program, tmp_path / "out", 2), runs, [kept]) == ["b"]
    assert sorted(path.name for path in kept.iterdir()) == ["a.json", "c.json"]
    command = json.loads((kept / "a.json").read_text())["command"]
    assert command.endswith("--quiet --preset default --k 4 --set trials=1")
    assert "no such experiment" in (tmp_path / "out/log/b.log").read_text()
    assert [run.is_done(tmp_path / "out") for run in runs] == [True, False, True]
    took = [json.loads(line) for line in (tmp_path / "out/took.jsonl").read_text().splitlines()]
    assert {one["name"]: one["exit_code"] for one in took} == {"a": 0, "b": 1, "c": 0}
    assert all(0 < one["core_minutes"] < 1 and one["minutes"] > 0 for one in took)
    assert [one["command"] for one in took if one["name"] == "a"] == [command]
    before = (tmp_path / "out/one/a/synthetic/records.json").stat().st_mtime_ns
    capsys.readouterr()
    assert grid.run_groups(grid.Lanes(program, tmp_path / "out", 2), runs, []) == ["b"]
    said = capsys.readouterr().out
    assert "b: started" in said
    assert "a: started" not in said
    assert (tmp_path / "out/one/a/synthetic/records.json").stat().st_mtime_ns == before


def test_times_are_of_every_call_of_the_runs_that_are_done(tmp_path, capsys):
    (tmp_path / "plan.toml").write_text(PLAN)
    _, runs = grid.read_plan(tmp_path / "plan.toml")
    out, kept = tmp_path / "out", tmp_path / "kept/grid.csv"
    assert grid.times(out, runs) == []
    a, b, c = runs
    for run in (a, c):
        run.records(out).parent.mkdir(parents=True)
        run.records(out).write_text(json.dumps({"command": run.line(out)}))
    calls = [("offline", "x", 0.5, 0), ("a", a.line(out), 1.0, 130), ("a", a.line(out), 2.0, 0), ("a", "earlier", 9, 0)]
    calls += [("b", b.line(out), 3, 1), ("c", c.line(out), 4.25, 0), ("report", "x", 1, 0), ("gone", "x", 1, 0)]
    with open(out / "took.jsonl", "w") as ledger:
        for name, command, minutes, code in calls:
            line = {"name": name, "command": command, "date": "2026-11-29", "cpu": "x", "threads": 1,
                    "minutes": 2 * minutes, "core_minutes": minutes, "exit_code": code}  # fmt: skip
            ledger.write(json.dumps(line) + "\n")
        ledger.write('{"name": "c", "mi')
    rows = grid.times(out, runs)
    assert "line 9 is not JSON" in capsys.readouterr().err
    assert {row["name"]: (row["group"], row["calls"], row["core_minutes"]) for row in rows} == {
        "offline": ("prepare", "1", "0.5"), "a": ("one", "2", "3.0"), "c": ("two", "1", "4.2")
    }  # fmt: skip

    kept.parent.mkdir()
    grid.keep_times([], runs, kept)
    assert not kept.exists()
    kept.write_text("name,group,minutes,core_minutes,torch\na,one,7,7,2\ngone,one,8,8,2\n")
    grid.keep_times(rows[-1:], runs, kept)
    with open(kept, newline="") as file:
        found = {row["name"]: (row["core_minutes"], row["torch"], row["cpu"]) for row in csv.DictReader(file)}
    assert found == {"a": ("7", "2", ""), "c": ("4.2", "", "x")}
    grid.keep_times(rows, runs, kept)
    assert documents.table("took", "grid | prepare, one, two", kept.parent)[2:] == [
        "| prepare | 1 | 0 | 1 |", "| one | 1 | 3 | 6 |", "| two | 1 | 4 | 8 |", "| **together** |  | **8** | 8 |"
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="runs of the group three"):
        documents.table("took", "grid | one, three", kept.parent)
    with pytest.raises(SystemExit, match=r"nothing\.csv, which .* writes"):
        documents.table("took", "nothing | one", kept.parent)


REAL_PLAN = """
[shared]
harvest = "--context 32"
activations = "--compute-dtype float32"

[[group]]
name = "one"
layer = 1
arguments = "--tokens 2000 --batch-size 100 --n-latents 64 --k 4 --seeds 0 --ce-tokens 100"
  [[group.run]]
  record = "few"
  experiment = "frontier"
  arguments = "--degrees 2 --set controls=dense"

[[group]]
name = "two"
layer = 1
arguments = "--tokens 2000 --batch-size 100 --n-latents 64 --k 4 --seeds 0 --no-ce"
  [[group.run]]
  record = "more"
  experiment = "frontier"
  arguments = "--degrees 2,4 --set controls=dense"
"""


@pytest.mark.slow
def test_the_command_line_runs_a_plan_side_by_side_and_trains_each_sae_once(tmp_path):
    (tmp_path / "plan.toml").write_text(REAL_PLAN)
    shared, runs = grid.read_plan(tmp_path / "plan.toml")
    make_tiny_model(grid.language_model(tmp_path))
    write_jsonl(tmp_path / "base/text.jsonl", make_documents(24))
    lanes = grid.Lanes([str(Path(sys.executable).with_name("expander-sae"))], tmp_path, 2)
    assert grid.harvest(lanes, 1, shared["harvest"]), (tmp_path / "log/harvest-layer1.log").read_text()
    kept = tmp_path / "records"
    assert grid.run_groups(lanes, runs, [kept]) == [], [log.read_text() for log in (tmp_path / "log").iterdir()]
    few, more = (json.loads((kept / f"{name}.json").read_text())["measured"]["records"] for name in ("few", "more"))
    trained = {one["variant"]: one["training"] for one in more}
    assert all(trained[one["variant"]] == one["training"] for one in few)
    assert few[0]["evaluation"]["delta_ce"] is not None
    assert {one["variant"] for one in more} == {"expander-d2", "expander-d4", "dense"}
    (kept / "another.json").write_text("{}")
    assert lanes.call("report", ["report", str(kept)]), (tmp_path / "log/report.log").read_text()
    report = (kept / "report.html").read_text()
    assert re.findall(r'<section id="([^"]*)">', report) == ["few", "more"]
    assert {path.name for path in kept.iterdir()} == {"few.json", "more.json", "another.json", "report.html"}


def test_a_run_with_other_arguments_is_not_done(tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    _, runs = grid.read_plan(tmp_path / "plan.toml")
    program = [sys.executable, str(tmp_path / "program.py")]
    grid.run_groups(grid.Lanes(program, tmp_path / "out", 1), grid.choose(runs, "c"), [])
    assert runs[2].is_done(tmp_path / "out")
    (tmp_path / "plan.toml").write_text(PLAN + '  arguments = "--k 8"\n')
    _, changed = grid.read_plan(tmp_path / "plan.toml")
    assert not changed[2].is_done(tmp_path / "out")


def test_what_is_chosen():
    _, runs = grid.read_plan()
    assert grid.choose(runs, None) == runs
    assert {run.group for run in grid.choose(runs, "k64")} == {"k64"}
    assert [run.record for run in grid.choose(runs, "smollm2-135m-layer22-k32")] == ["smollm2-135m-layer22-k32"]
    with pytest.raises(SystemExit, match="got k65"):
        grid.choose(runs, "k64,k65")


@pytest.mark.parametrize("path", sorted(documents.DOCS.rglob("*.md")), ids=lambda path: path.stem)
def test_the_tables_of_the_documents_are_what_the_records_say(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert documents.filled(lines, documents.DOCS / "results") == lines


def test_the_documents_have_tables_made_from_records():
    for name, fewest in (("results/fidelity", 1), ("concepts/what-is-guaranteed", 5)):
        lines = (documents.DOCS / f"{name}.md").read_text(encoding="utf-8").splitlines()
        assert sum(documents.MARKER.match(line) is not None for line in lines) >= fewest, name


def test_every_figure_of_the_documents_is_one_of_a_record():
    texts = [path.read_text(encoding="utf-8") for path in documents.DOCS.rglob("*.md")]
    shown = {name for text in texts for name in re.findall(r"(\w+)\.svg", text)} - {"cpu"}
    assert shown == {documents.OVERVIEW, *documents.FIGURES}
    assert (documents.DOCS / "figures" / f"{documents.OVERVIEW}.svg").is_file()
    for name, (record, figure) in documents.FIGURES.items():
        assert (documents.DOCS / "figures" / f"{name}.svg").is_file(), name
        if record in ("smollm2-135m-layer14-k64", "collisions"):  # drawing all of them takes half a minute
            assert b"<svg" in documents.draw(record, figure, documents.DOCS / "results")


def test_a_table_that_disagrees_with_its_records_is_made_anew():
    lines = [
        "<!-- quality: smollm2-135m-layer14-k32 | dense | fvu; Δ CE, nats -->",
        "| SAE | fvu |",
        "|---|---|",
        "| a | 1 |",
    ]
    made = documents.filled([*lines, "", "text"], documents.DOCS / "results")
    assert made[:3] == [lines[0], "| SAE | fvu | Δ CE, nats |", "|---|---|---|"]
    assert made[3].startswith("| full dense | .2393 ± .0025 | .49")
    assert made[4:] == ["", "text"]
    with pytest.raises(SystemExit, match="expected expander-d8 among"):
        documents.filled(["<!-- quality: smollm2-135m-layer14-k32 | expander-d8 -->"], documents.DOCS / "results")
