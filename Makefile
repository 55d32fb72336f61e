# make install | demo | test | check | bench, and nothing else: CI runs these too.
#
# PYTHON=python3.11   the interpreter that the virtual environment is made from
# TORCH_INDEX=URL     an index with PyTorch's CPU builds, asked beside the usual one
# ONCE=1              make demo plays one visitor's session and ends

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
KERNEL := src/ouzel/retrieval/scan.cpp src/ouzel/inference/target_attention.cpp \
	src/ouzel/inference/gated_steps.cpp src/ouzel/inference/lanes.h src/ouzel/models/steps.cpp \
	src/ouzel/retrieval/search.h $(wildcard src/ouzel/serving/front*.cpp src/ouzel/serving/front*.h)
TORCH := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: install demo test check bench
.DEFAULT_GOAL := install

install: $(VENV)/installed-dev

demo: $(VENV)/installed-train
	$(BIN)/python recipes/demo.py $(if $(ONCE),--once)

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: install
	@mkdir -p .bench
	$(BIN)/ouzel benchmark serving --peer --json .bench/serving.json

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	"ouzel needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-train: pyproject.toml $(KERNEL) | $(BIN)/python
	$(PIP) $(TORCH) -e '.[train]'
	@touch $@

# What development needs includes what training needs.
$(VENV)/installed-dev: pyproject.toml $(KERNEL) | $(BIN)/python
	$(PIP) $(TORCH) -e '.[dev]'
	@touch $(VENV)/installed-train $@
