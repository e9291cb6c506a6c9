# Two commands: `make demo` runs the main job, `make test` the tests. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

# A process a core; what one file needs once is made once a process.
WORKERS := -n auto --dist worksteal

OLDEST := .venv-oldest/bin
# What `make quick` runs: values, files and passes, which need no compile; no real networks.
QUICK := tests/values tests/budgets tests/operators tests/allocate tests/onnx_io tests/passes/expose tests/passes/lower tests/passes/normalize \
	tests/test_plugins.py tests/test_request.py -k "not real_ and not battery and not third"

# What `make test-oldest` leaves out: minutes of NumPy and of whole compiles.
LONG := tests/rounding tests/requantize tests/test_pipeline.py tests/test_benchmarks.py tests/test_methods_benchmark.py

.PHONY: demo test check quick test-oldest coverage lint benchmarks clean

demo: .venv/demo
	$(BIN)/onnxmpq compile models/digits.onnx --budget 4bit-avg

test: lint
	$(BIN)/python -m pytest $(WORKERS) -m "not slow"

check: lint
	$(BIN)/python -m pytest $(WORKERS) --cov --cov-report=
	$(BIN)/coverage report --format=total | sed 's/.*/coverage: & % of the lines of the package/'

# The inner loop, under a minute.
quick: lint
	$(BIN)/python -m pytest -q -m "not slow" $(QUICK)

coverage: .venv/test
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" --cov

# The demo and the tests with the lowest versions that pyproject.toml allows: all that meet other packages' interfaces.
test-oldest: .venv-oldest/floors
	$(OLDEST)/onnxmpq compile models/digits.onnx --budget 4bit-avg
	$(OLDEST)/python -m pytest $(WORKERS) -m "not slow" $(LONG:%=--ignore=%) -k "not limpq"
	@echo "left out with the lowest versions, for time: $(LONG), and limpq"

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

benchmarks: .venv/benchmarks
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/robustness.py
	$(BIN)/python benchmarks/gradients.py
	$(BIN)/python benchmarks/bytes.py
	$(BIN)/python benchmarks/blocks.py
	$(BIN)/python benchmarks/calibrators.py
	$(BIN)/python benchmarks/drops.py
	$(BIN)/python benchmarks/ablation.py
	$(BIN)/python benchmarks/methods.py

.venv/demo: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onnxmpq needs Python 3.11 or newer; set PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

.venv/benchmarks: .venv/demo
	$(BIN)/pip install --quiet --editable '.[benchmarks]'
	touch $@

.venv-oldest/floors: pyproject.toml .ci/floors.py
	rm -rf .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) .ci/floors.py test > .venv-oldest/floors.txt
	$(OLDEST)/pip install --quiet --requirement .venv-oldest/floors.txt
	$(OLDEST)/pip install --quiet --no-deps --editable .
	touch $@

clean:
	rm -rf .venv .venv-oldest build dist *.egg-info
