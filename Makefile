# make train | test | fuzz | lint | bench | accuracy | reliability | setup — each sets up .venv first if need be.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: setup train test fuzz lint bench accuracy reliability

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

setup: $(VENV)/installed

$(VENV)/base: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	touch $@

$(VENV)/installed: $(VENV)/base
	$(PIP) -e '.[dev,sweep,cluster,export]'
	touch $@

train: $(VENV)/base # the base alone: what training never uses would slow its start
	$(BIN)/python -m src.train lr=0.005 hidden=128

test: lint
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: setup
	$(BIN)/python -m pytest tests/test_fuzz.py --hypothesis-profile=fuzz

bench: setup
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.predict
	$(BIN)/python -m benchmarks.batched
	$(BIN)/python -m benchmarks.best

accuracy: setup
	$(BIN)/python -m benchmarks.accuracy

reliability: setup
	$(BIN)/python -m benchmarks.reliability
