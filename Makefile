# The commands people and CI use. Each sets up what it needs in .venv from the package registry.
PYTHON ?= python3
PORT ?= 8000
DATA ?= .dreamqueue
WORKERS ?= 1
OUT ?= out
ONLY ?=
MINUTES ?= 30
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo up test check static ci extras bench faults clean

demo: $(VENV)/.local
	@$(BIN)/dreamqueue demo --port $(PORT) --data $(DATA) --out $(OUT)

up: $(VENV)/.local
	@exec $(BIN)/dreamqueue up --port $(PORT) --data $(DATA) --workers $(WORKERS)

# Two files of tests at a time, each process with servers of its own: much of the suite is waiting for real leases and
# real processes. One torch thread each, since two processes with two threads each only get into each other's way.
# Nothing is run again: a test that fails in company is wrong, or has found a race.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test: $(VENV)/.dev
	$(PYTEST)

# Before each commit: all that needs no server and no worker process. The import contracts are among the architecture tests.
check: static
	$(PYTEST) tests/unit tests/architecture -q

# What CI runs, and each part of it once.
ci: static test extras

static: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Each extra, installed alone as the documents say, starts and does its work.
extras: $(VENV)/.dev
	$(BIN)/python -m tests.extras

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks --only "$(ONLY)"

faults: $(VENV)/.dev
	$(BIN)/python -m tests.faults --only "$(ONLY)" --minutes $(MINUTES) --publish

clean:
	rm -rf $(VENV) out .dreamqueue build *.egg-info

# pip, not uv: where torch's wheel lies on the disk only pip looks there.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dreamqueue needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.local: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.local
