# Each target sets up all it needs; `make quickstart` and `make test` are the two that a new user wants.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where `make bench` keeps its rows.
OUT ?= runs/benchmarks
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup quickstart test bench bench-smoke gpu-check lint clean

setup: $(VENV)/.built

$(VENV)/.packages: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"needs Python 3.11 or later, this is {sys.version.split()[0]}; set PYTHON=...")'
	@echo "Installing the pinned packages into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet -c constraints.txt setuptools wheel ninja pybind11 numpy torch
	@touch $@

$(VENV)/.built: $(VENV)/.packages setup.py $(shell find csrc -type f)
	@echo "Building stgt_kernels"
	@$(BIN)/python -m pip install --quiet --no-build-isolation -c constraints.txt --editable '.[train,dev,samples]'
	@touch $@

quickstart: setup
	$(BIN)/stgt quickstart

# Triton's interpreter replaces its compiler for a whole process, so its tests have one of their own.
test: setup
	$(BIN)/python -m pytest
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -m triton_interpret tests

bench: setup
	$(BIN)/python -m benchmarks --out $(OUT)

# What can be counted, not timed: FLOPs, operators, memory, launches. Seconds.
bench-smoke: setup
	$(BIN)/python -m benchmarks.counted

# On a machine with a GPU, with the Python in use: its PyTorch is the one for that GPU. PARTS="build tests" for some.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(PARTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf build dist *.egg-info stgt_kernels/*.so
