"""Files that say what is built and how it is tested agree with each other."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from scikit_build_core.settings.skbuild_read_settings import SettingsReader

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CIBUILDWHEEL = PYPROJECT["tool"]["cibuildwheel"]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "wheels.yml").read_text(encoding="utf-8"))
PREFIX = "Programming Language :: Python :: 3."
MINORS = [int(c.removeprefix(PREFIX)) for c in PYPROJECT["project"]["classifiers"] if c.startswith(PREFIX)]


def test_every_python_that_is_named_gets_a_tested_wheel():
    assert list(range(MINORS[0], MINORS[-1] + 1)) == MINORS
    requires = SpecifierSet(PYPROJECT["project"]["requires-python"])
    assert f"3.{MINORS[0]}" in requires
    assert f"3.{MINORS[0] - 1}" not in requires
    assert CIBUILDWHEEL["build"] == [f"cp3{minor}-*" for minor in MINORS]
    assert PYPROJECT["tool"]["scikit-build"]["wheel"]["py-api"] in [f"cp3{minor}" for minor in MINORS]


@pytest.mark.parametrize(("asked", "sets"), [({}, "local"), (CIBUILDWHEEL["config-settings"], "all")])
def test_a_build_makes_this_machines_sets_unless_all_are_asked_for(asked, sets):
    # Said at every build: without it CMake's cache would keep `all` for the next build in the same folder.
    settings = SettingsReader(PYPROJECT, asked, state="wheel").settings
    assert str(settings.cmake.define["EXPANDER_SETS"]) == sets
    assert re.search(r"set\(EXPANDER_SETS local CACHE", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))


def test_make_wheels_and_the_workflow_build_and_test_alike():
    script = (ROOT / "dev" / "wheels.sh").read_text(encoding="utf-8")
    assert " ".join(CIBUILDWHEEL["test-sources"]) in script
    assert " ".join(CIBUILDWHEEL["test-requires"]) in script
    assert all((ROOT / source).exists() for source in CIBUILDWHEEL["test-sources"])
    settings = [f"-C {name}={value}" for name, value in CIBUILDWHEEL["config-settings"].items()]
    assert all(setting in script for setting in settings)
    for command in ("doctor", "pytest"):
        assert command in script
        assert command in CIBUILDWHEEL["test-command"]


def test_the_workflow_has_the_three_machines_and_the_sdist():
    machines = {row["machine"] for row in WORKFLOW["jobs"]["wheels"]["strategy"]["matrix"]["include"]}
    assert machines == {"linux-x86_64", "linux-aarch64", "macos-arm64"}
    assert any(step.get("uses", "").startswith("pypa/cibuildwheel@v") for step in WORKFLOW["jobs"]["wheels"]["steps"])
    assert any("python -m build" in step.get("run", "") for step in WORKFLOW["jobs"]["sdist"]["steps"])


def test_what_the_sdist_leaves_out_is_not_needed_to_build():
    left_out = PYPROJECT["tool"]["scikit-build"]["sdist"]["exclude"]
    needed = ("src", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE", "constraints.txt")
    assert not [path for path in left_out if path.startswith(needed)]
