# SPDX-License-Identifier: Apache-2.0
# Needs python3 (3.11 or newer) with venv, make, and whatever package registry pip is configured for.
#
#   make demo         run the main job: scikit-learn's grid search on the local platform, no account
#   make test         format, lint, types and every test but those of `make conformance`
#   make conformance  other people's clients and suites, each in an environment of its own under .cache/
#   make bench        speed and memory beside other packages, on an idle machine (benchmarks/README.md)
#   make format       let ruff rewrite what it can
#   make lock         pin the newest versions in constraints.txt
#   make clean        remove everything that these commands made

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python

# Environments are rebuilt when one of these files changes, or when the checkout has moved.
INPUTS := pyproject.toml $(wildcard plugins/*/pyproject.toml) constraints.txt .ci/environment.py
KEY := $(shell { pwd; cat $(INPUTS); } | cksum | tr ' ' '_')
DEMO := $(VENV)/.installed-demo-$(KEY)
DEV := $(VENV)/.installed-dev-$(KEY)

SOURCES := flash_plugins tests $(wildcard conftest.py) $(wildcard plugins/*/flash_*) $(wildcard plugins/*/tests)
SCRIPTS := $(wildcard examples/*.py) $(wildcard benchmarks/*.py benchmarks/*/*.py)

export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# uv trusts its own list of authorities otherwise; pip uses the machine's.
export UV_SYSTEM_CERTS ?= 1
export PIP_ROOT_USER_ACTION := ignore
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
# Without a home directory that can be written to, the caches of uv and pip go into the checkout.
ifneq ($(shell test -d "$$HOME" && test -w "$$HOME" && { test ! -e "$$HOME/.cache" || test -w "$$HOME/.cache"; } && echo ok),ok)
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
endif

.PHONY: help demo test check conformance bench format lock clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(DEMO)
	@$(PY) examples/grid_search.py

check: $(DEV)
	@$(PY) -m ruff format --check . || { echo "error: run make format" >&2 ; exit 1 ; }
	@$(PY) -m ruff check --quiet .
	@$(PY) -m mypy --no-error-summary $(SOURCES) $(SCRIPTS)

test: check
	@$(PY) .ci/suite.py test

conformance: $(DEV)
	@$(PY) .ci/suite.py conformance

bench: $(DEV)
	@$(PY) -m benchmarks $(BENCH)

format: $(DEV)
	@$(PY) -m ruff check --fix --quiet . || true
	@$(PY) -m ruff format --quiet .

lock: $(DEV)
	@$(VENV)/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 --no-emit-index-url \
		--no-annotate --no-header --all-extras --group demo --group dev \
		$(wildcard pyproject.toml plugins/*/pyproject.toml) -o constraints.new
	@{ echo "# Pinned versions of everything that 'make' installs. Made by 'make lock'; do not edit." ; \
		grep '==' constraints.new ; } > constraints.txt
	@rm -f constraints.new

clean:
	rm -rf $(VENV) .cache build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DEMO) $(DEV):
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
		echo "error: $(PYTHON) is not installed; flash-plugins needs Python 3.11 or newer" >&2 ; exit 1 ; }
	@$(PYTHON) .ci/environment.py $(if $(filter $(DEMO),$@),demo,dev) $@
