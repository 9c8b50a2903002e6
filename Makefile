# `make demo` and `make test` need Python 3.11+ and git; each builds .venv when it is missing or out of date.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help demo test lint format clean

help:
	@echo "make demo    draw scenes, train DeepLab on them, segment in bulk, query the result (into ./demo)"
	@echo "make test    lint, type check and the whole test suite"
	@echo "make format  format the code"

$(STAMP): pyproject.toml
	@echo "==> Installing segpipe and its dependencies into .venv (PyTorch included: about 6 GB, some minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: segpipe needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev]'
	@touch $(STAMP)
	@echo "==> Installed."

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python jobs/demo.py

lint: $(STAMP)
	@echo "==> ruff and mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

test: $(STAMP) lint
	@echo "==> pytest"
	@$(BIN)/python -m pytest

format: $(STAMP)
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:
	rm -rf .venv demo
