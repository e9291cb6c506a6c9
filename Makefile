# Two commands: `make demo` runs the main job, `make test` the tests. Both make .venv first.
PYTHON ?= python3
BIN := .venv/bin
SHELL := /bin/bash

.PHONY: demo test check lint benchmarks clean

demo: .venv/demo
	$(BIN)/onnxmpq compile models/digits.onnx --budget 4bit-avg

test: lint
	$(BIN)/python -m pytest -m "not slow"

check: lint
	$(BIN)/python -m pytest

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

clean:
	rm -rf .venv build dist *.egg-info
