# `make demo` shows what holdfast does; `make test` is what CI runs. Both need Python 3.11 or newer and nothing else.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints-cpu.txt
export OMP_NUM_THREADS := 1

.PHONY: demo test slow lint clean help which-python

help:
	@echo "make demo   install into $(VENV) and run the demo: a table and a report in minutes"
	@echo "make test   lint, types and tests, as in CI"
	@echo "make slow   the longer checks"
	@echo "make clean  remove $(VENV), caches and runs"

demo: $(VENV)/.installed
	$(BIN)/holdfast demo --out runs/demo

test: lint
	$(BIN)/pytest -n 2

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

slow: $(VENV)/.installed-dev
	$(BIN)/pytest -m slow

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis

which-python:
	@echo $(PYTHON)

# Debian ships python3 without the module that puts pip into a new environment; virtualenv then does it.
$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; install it, or give PYTHON=path"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); $(PYTHON) -m virtualenv $(VENV); } || \
	  { echo "could not make $(VENV): install python3-venv, or run 'pip install virtualenv'"; rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints-cpu.txt | $(BIN)/python
	$(PIP) -e ".[dev]"
	touch $@ $(VENV)/.installed
