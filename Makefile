# The targets need Python 3.11+ and git; each builds .venv if it is missing or out of date. Bytecode is compiled at once,
# because where PYTHONDONTWRITEBYTECODE is set, as in containers, every process would compile PyTorch's sources again.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help demo check test lint format site clean

help:
	@echo "make demo    draw scenes, train DeepLab on them, segment in bulk, query the result (into ./demo)"
	@echo "make check   lint, types, and the tests that need neither Ray nor a server"
	@echo "make test    lint, types, and all tests, against a real Ray and a real S3 server"
	@echo "make format  format the code"
	@echo "make site    build the documentation into ./site"

$(STAMP): pyproject.toml
	@echo "==> Installing segpipe and its dependencies into .venv (PyTorch included: about 6 GB, some minutes) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: segpipe needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	@echo "==> Compiling the dense CRF (half a minute) ..."
	@$(BIN)/python -m pipeline.crf.warm
	@touch $(STAMP)
	@echo "==> Installed."

demo: $(STAMP)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/segpipe demo

lint: $(STAMP)
	@echo "==> ruff and mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: $(STAMP) lint
	@echo "==> pytest, without Ray and servers"
	@$(BIN)/python -m pytest --quiet --numprocesses auto -m "not ray and not s3"

test: $(STAMP) lint
	@echo "==> pytest"
	@$(BIN)/python -m pytest --numprocesses auto

format: $(STAMP)
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

site: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build

clean:
	rm -rf .venv demo site
