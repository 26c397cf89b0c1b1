# Everything a newcomer needs: make quickstart, make test. make help lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup quickstart demo docs test test-slow mutants check format lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## create .venv with the exact versions of requirements.lock and install the project in it

# Safe to call again after an interruption: the stamp is written last, packages that are there are kept, and a virtual environment
# without a working pip is made anew.
$(STAMP): requirements.lock pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "setup: Python 3.11 to 3.13 is needed, found $$("$(PYTHON)" --version 2>&1); say make PYTHON=/path/to/python3.12" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV); }
	@echo "setup: installing the locked packages into $(VENV) (once; about 6 GB on Linux)" >&2
	@if command -v uv >/dev/null 2>&1; then \
	  uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps -r requirements.lock; \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .; \
	fi
	@touch $@
	@echo "setup: done" >&2

quickstart: $(STAMP) ## everything once on generated signs: train, attack end to end, report
	@$(BIN)/foreguard ablate experiment=quickstart devices=2

demo: $(STAMP) ## after the quickstart: watch attacks on its systems live, in a page of this machine
	@test -f runs/quickstart/ablation.json || { echo "demo: runs/quickstart is not there yet; say make quickstart first" >&2; exit 2; }
	@$(BIN)/foreguard lab run=runs/quickstart

docs: $(STAMP) ## the site, from docs/ and the code, into build/docs/site
	@$(BIN)/python docs/site/build.py

test: $(STAMP) ## the fast tests
	@$(BIN)/python -m pytest -q -n auto --dist worksteal

test-slow: $(STAMP) ## the heavy tests, by one process more than there are cores: many of them wait for others
	@$(BIN)/python -m pytest -q -n $$("$(PYTHON)" -c 'import os; print(os.cpu_count() + 1)') --dist worksteal -m slow

mutants: $(STAMP) ## by hand, for hours: what share of small changes to the core the tests notice (docs/testing.md)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cosmic-ray>=8.4,<9' 'coverage>=7.6,<8'
	@$(BIN)/python tests/mutants.py

check: $(STAMP) ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(STAMP) ## rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(STAMP) ## resolve the newest versions that pyproject.toml allows into requirements.lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --group pyproject.toml:dev --group pyproject.toml:docs pyproject.toml --output-file requirements.lock

clean: ## remove what can be made again (not data sets and runs)
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
