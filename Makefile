# Two commands: `make search` and `make test`. Both set everything up first; `make setup` is that alone.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.setup
TEST_STAMP := .venv/.tests
ARGS ?=

.PHONY: search test setup lint

search: setup
	@$(BIN)/python -m pipeline.search $(ARGS)

# One worker a core; those that start clusters, servers and browsers afterwards, alone.
test: setup $(TEST_STAMP) lint
ifneq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest $(ARGS)
else
	@status=0; \
	$(BIN)/python -m pytest -n auto --dist loadfile --durations=10 --ignore tests/system || status=$$?; \
	$(BIN)/python -m pytest --durations=10 tests/system || status=$$?; \
	exit $$status
endif

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

setup: $(STAMP)

$(STAMP): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11")'
	@echo "setting up .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@$(BIN)/python -m deploy_arm.toolchain --install
	@touch $(STAMP)

# The tests also cover the tool chain that comes from PyPI alone.
$(TEST_STAMP): $(STAMP)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,arm-pip]'
	@touch $(TEST_STAMP)
