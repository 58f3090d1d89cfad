# `make demo` and `make test` do all their set-up themselves, in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint unit wheel-test bench docs clean

demo: $(VENV)/.core
	$(BIN)/adapass demo

test: $(VENV)/.dev lint unit wheel-test

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright

# One thread a worker: the machine may have two cores, and the runtimes would fight over them.
unit: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -q

# The installed wheel, not the checkout: catches packages and files that are missing in it.
wheel-test: $(VENV)/.dev
	rm -rf dist .wheel-venv
	$(BIN)/python -m build --wheel --outdir dist . > /dev/null
	$(PYTHON) -m venv .wheel-venv
	.wheel-venv/bin/pip install --quiet dist/*.whl pytest hypothesis
	PYTHONSAFEPATH=1 .wheel-venv/bin/python -m pytest -q -p no:randomly tests/contracts/test_installed.py

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.main_job

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/.core: $(VENV)/.made pyproject.toml setup.py
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml setup.py
	$(BIN)/pip install --quiet -e '.[dev]'
	touch $@ $(VENV)/.core

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/pip install --quiet -e '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) .wheel-venv dist build *.egg-info
