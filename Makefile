# Octavo's own tasks. Needs Python 3.11 or later, make and a C compiler; everything else goes into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt
DATA_DIR ?= octavo-data
WORKERS ?= 2

# Two libraries that each start a thread for every core make every test slower.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo up test check format docs bench clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed ## Start the service, quantize a real model three ways, stop it again
	$(BIN)/python examples/demo.py

up: $(VENV)/installed ## Keep the service running in DATA_DIR until Ctrl-C
	$(BIN)/octavo-server up --data-dir $(DATA_DIR)

test: $(VENV)/installed-dev ## Every test, on real PostgreSQL, Valkey, S3 and Prometheus servers
	$(BIN)/python tests/services/install.py
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_OPTIONS)

check: $(VENV)/installed-dev ## Formatting, lint, types, import contracts, generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	MYPYPATH=client $(BIN)/mypy
	MYPYPATH=client:benchmarks $(BIN)/mypy --config-file tests/mypy.ini tests benchmarks examples docs client/scripts
	$(BIN)/lint-imports
	$(BIN)/python client/scripts/unasync.py --check
	$(BIN)/python docs/generate_reference.py --check

format: $(VENV)/installed-dev ## Format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed-dev ## Write the generated pages of docs/reference/
	$(BIN)/python docs/generate_reference.py

bench: $(VENV)/installed-dev ## The figures of docs/explanation/benchmarks.md, into benchmarks/results/ (four hours at first, then two)
	$(BIN)/python benchmarks/run_all.py

clean: ## Remove the virtual environment and everything that was generated
	rm -rf $(VENV) .tools build dist *.egg-info client/*.egg-info octavo-demo
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Octavo needs Python 3.11 or later; name one with make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

REQUIREMENTS := pyproject.toml client/pyproject.toml constraints.txt

$(VENV)/installed: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) -e '.[all]' -e 'client[torch]' scikit-learn
	@touch $@

$(VENV)/installed-dev: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) -e '.[dev]' -e 'client[torch]'
	@touch $(VENV)/installed $@
