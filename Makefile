# make train | test | test-all | test-cluster | fuzz | lint | bench | accuracy | reliability | setup
# Each target sets up its virtual environment first if necessary.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLUSTER_VENV := .venv-cluster
CLUSTER_BIN := $(CLUSTER_VENV)/bin

# Compiled modules are kept, whatever the environment says: importing torch takes seconds already.
export PYTHONDONTWRITEBYTECODE =

.PHONY: setup train test test-all test-cluster fuzz lint bench accuracy reliability

# Installing without compilation is twice as fast, as most modules are never imported.
INSTALL := -m pip install --quiet --disable-pip-version-check --no-compile

setup: $(VENV)/installed

$(VENV)/created $(CLUSTER_VENV)/created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python $(INSTALL) --upgrade pip
	touch $@

# The base dependencies alone: packages that training never uses would slow down its start.
$(VENV)/base: $(VENV)/created pyproject.toml
	$(BIN)/python $(INSTALL) -e .
	touch $@

# Importing what the tests import compiles it, once for all of their processes.
$(VENV)/installed: $(VENV)/created pyproject.toml
	$(BIN)/python $(INSTALL) -e '.[dev,sweep,export]'
	$(BIN)/python -m pytest --collect-only -qq > /dev/null
	touch $@ $(VENV)/base

$(VENV)/bench: $(VENV)/installed
	$(BIN)/python $(INSTALL) -e '.[bench]'
	touch $@

$(CLUSTER_VENV)/installed: $(CLUSTER_VENV)/created pyproject.toml
	$(CLUSTER_BIN)/python $(INSTALL) -e '.[test,cluster]'
	touch $@

train: $(VENV)/base
	$(BIN)/python -m src.train lr=0.005 hidden=128

PYTEST := -m pytest --numprocesses auto --dist worksteal

test: lint
	$(BIN)/python $(PYTEST)

test-all: test
	$(BIN)/python $(PYTEST) -m slow

test-cluster: $(CLUSTER_VENV)/installed
	$(CLUSTER_BIN)/python -m pytest -m cluster tests/test_cluster.py tests/test_readme.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers auto

fuzz: setup
	$(BIN)/python -m pytest tests/test_fuzz.py --hypothesis-profile=fuzz

bench: setup
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.sweep
	$(BIN)/python -m benchmarks.predict
	$(BIN)/python -m benchmarks.batched
	$(BIN)/python -m benchmarks.best

accuracy: $(VENV)/bench
	$(BIN)/python -m benchmarks.accuracy

reliability: setup
	$(BIN)/python -m benchmarks.reliability
