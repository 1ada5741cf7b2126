# Two commands for a fresh machine: `make quickstart` and `make test`. Both make .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := rfscale analysis tests benchmarks
TWO := --numprocesses 2 --dist loadfile  # two test files side by side, each in one thread

.PHONY: quickstart test test-slow check format clean

quickstart: .venv/.main
	$(BIN)/rfscale run experiments/quickstart.yaml

test: .venv/.dev
	$(BIN)/python -m pytest $(TWO)

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m slow $(TWO)

check: .venv/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/python docs/map.py
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

# The constraints pin everything, torch above all: unpinned, pip takes gigabytes of CUDA.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.main: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"  # for --group
	$(BIN)/python -m pip install --quiet -c constraints.txt -e . --group dev
	touch $@ .venv/.main
