# make train   set up and run the main job;  make train ARGS="data=emnist partition.segments=3"
# make test    set up and pass the tests; make test-all   pass those that take minutes;
#                 make test ARGS="tests/runs/test_run.py -k recovery"; with -n 0 in this process, as for --pdb
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

.PHONY: setup train test test-all lint
setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "partrain needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version 2>&1); set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $(READY)

train: $(READY)
	@$(BIN)/python experiments/train.py $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest -m kills $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
