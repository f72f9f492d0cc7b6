# Two commands: `make search` and `make test`. Both set everything up first; `make setup` is that alone.
# Parts of the tests: `make test-fast` (under two minutes) and `make test-slow` (soaks and whole tables, which `make test` samples).
SHELL := /bin/bash
# Where nothing compiled may be kept, every process compiles PyTorch's sources anew, which takes longer than running them.
unexport PYTHONDONTWRITEBYTECODE
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.setup
TEST_STAMP := .venv/.tests
ARGS ?=
comma := ,
PIP := -m pip install --quiet --disable-pip-version-check
# uv takes a fifth of pip's time, and trusts whom the system trusts; where it cannot (an index that only pip is told of), pip does it.
install = $(BIN)/uv pip install --quiet --system-certs --python $(BIN)/python --editable '.[$(1)]' \
	|| { echo "uv could not; pip goes on"; $(BIN)/python $(PIP) --editable '.[$(1)]'; }
LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy -n 2
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder --durations=10

.PHONY: search test test-fast test-slow setup lint

search: setup
	@$(BIN)/python -m pipeline.search $(ARGS)

# First what needs the machine's memory for itself, while the sources are checked; then one worker a core; then those that start
# clusters, servers and browsers and wait for them, three at once. The tests marked slow: make test-slow.
test: setup $(TEST_STAMP)
ifneq ($(strip $(ARGS)),)
	@$(LINT) && $(BIN)/python -m pytest $(ARGS)
else
	@status=0; said=$$(mktemp); trap 'rm -f "$$said"' EXIT; \
	{ $(LINT); } >"$$said" 2>&1 & lint=$$!; \
	$(PYTEST) -m "alone and not slow" tests/system || status=$$?; \
	wait $$lint || { lint=$$?; cat "$$said"; exit $$lint; }; cat "$$said"; \
	$(PYTEST) -n auto --cov --cov-report=term -m "not system and not slow" || status=$$?; \
	$(BIN)/python tests/branches.py 95 || status=$$?; \
	$(PYTEST) -n 3 -m "system and not slow and not alone" tests/system || status=$$?; \
	exit $$status
endif

test-fast: setup
	@$(PYTEST) -n auto -m "not system and not emulated and not long and not slow" $(ARGS)

test-slow: setup $(TEST_STAMP)
	@$(PYTEST) -n auto -m "slow" --outcomes tests/slow.csv --faults benchmarks/results/faults.csv $(ARGS)

lint: setup
	@$(LINT)

setup: $(STAMP)

$(STAMP): pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11")'
	@echo "setting up .venv (a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python $(PIP) uv==0.13.9
	@$(call install,dev)
	@$(BIN)/python -m deploy_arm.toolchain --install
	@touch $(STAMP)

# The tests also cover the tool chain that comes from PyPI alone.
$(TEST_STAMP): $(STAMP)
	@$(call install,dev$(comma)arm-pip)
	@touch $(TEST_STAMP)
