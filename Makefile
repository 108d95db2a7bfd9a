# Every target makes what it needs: Python 3.11 or newer and make are all a machine has to have.
# PYTHON=/path/to/python3 chooses one; else the one that made .venv, or the first that is new enough.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help run dev test check lint types verify format generate load lock clean

ifndef PYTHON
PYTHON := $(shell for python in .venv/bin/python python3 python3.14 python3.13 python3.12 python3.11; do \
    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
endif
INSTALL = @$(if $(PYTHON),,$(error Bobbin needs Python 3.11 or newer: install it, or say PYTHON=/path/to/python3))\
    "$(PYTHON)" locks/install.py
PY := .venv/bin/python

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-9s %s\n", $$1, $$2}' Makefile

run: export BOBBIN_DEMO := $(or $(BOBBIN_DEMO),1)
run: ## start with demo data in .data, on HOST and PORT (127.0.0.1:8000)
	$(INSTALL) requirements.lock
	@exec $(PY) -m server serve

dev: export BOBBIN_DEMO := $(or $(BOBBIN_DEMO),1)
dev: ## the same, reloaded when a .py or .sql file changes
	$(INSTALL) requirements.lock
	@exec $(PY) -m server serve --reload

test: ## the tests, ARGS="-k page" for some; COVER=1 measures coverage
	$(INSTALL) requirements-dev.lock
ifndef COVER
	@$(PY) -m pytest -n 2 $(ARGS)
else
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m pytest -n 2 $(ARGS)
	@$(PY) -m coverage combine -q
	@$(PY) -m coverage report
endif

check: ## all that CI runs: lint, types, verify, test with coverage
	@$(MAKE) --no-print-directory lint types verify
	@$(MAKE) --no-print-directory test COVER=1

lint: ## ruff: rules and layout
	$(INSTALL) requirements-dev.lock
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: ## mypy --strict
	$(INSTALL) requirements-dev.lock
	@$(PY) -m mypy

verify: ## what is generated is up to date
	$(INSTALL) requirements-dev.lock
	@$(PY) -m server.ops.generate --check

generate: ## write db/schema.sql, db/plans.md, .env.example and the settings table of README.md anew
	$(INSTALL) requirements-dev.lock
	@$(PY) -m server.ops.generate

format: ## lay the code out and mend what ruff can mend
	$(INSTALL) requirements-dev.lock
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

load: ## Locust on a server of its own, held to load/targets.toml; ARGS="--seconds 60"
	$(INSTALL) requirements-load.lock
	@$(PY) -m load.run $(ARGS)

lock: ## write locks/*.lock anew from pyproject.toml; ARGS=--upgrade for newer versions
	$(INSTALL) requirements-dev.lock
	@test -x .venv/uv/bin/uv || $(PY) -m pip install -qq --target .venv/uv uv
	@for extra in "" dev load; do \
	    .venv/uv/bin/uv -q pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	        --no-annotate --no-header $${extra:+--extra $$extra} $(ARGS) \
	        -o locks/requirements$${extra:+-$$extra}.lock pyproject.toml || exit; done

clean: ## remove what make made, but not the messages in .data
	@rm -rf .venv .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis load/out
	@find . -name __pycache__ -not -path './.data/*' -prune -exec rm -rf {} +
