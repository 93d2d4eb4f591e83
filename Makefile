# Each target sets up all it needs; `make quickstart` and `make test` are the two that a new user wants.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Where `make bench` keeps its rows.
OUT ?= runs/benchmarks
# The torch that `make wheel` tries its wheel with.
TORCH ?= 2.13.0
PINS := -c constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup quickstart test test-quick test-numerics sanitize bench bench-smoke gpu-check docs lint cross cubins wheel newest clean

setup: $(VENV)/.complete

$(VENV)/.packages: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"needs Python 3.11 or later, this is {sys.version.split()[0]}; set PYTHON=...")'
	@echo "Installing the pinned packages into $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(BIN)/python -m pip install --quiet $(PINS) setuptools wheel ninja pybind11 numpy torch
	@touch $@

$(VENV)/.built: $(VENV)/.packages setup.py $(shell find csrc -type f)
	@echo "Building stgt_kernels"
	@$(BIN)/python -m pip install --quiet --no-build-isolation $(PINS) --editable '.[train]'
	@touch $@

# What only tests, checks and pages need: pip finds the package installed, and adds the rest.
$(VENV)/.complete: $(VENV)/.built
	@echo "Installing the packages of the tests"
	@$(BIN)/python -m pip install --quiet $(PINS) 'stgt-kernels[finsta,dev,docs,samples]'
	@touch $@

quickstart: $(VENV)/.built
	$(BIN)/stgt quickstart

# Each core (at most 4) runs whole files of tests, because the tests of a file share fixtures.
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile
# Triton's interpreter replaces its compiler for a whole process, so its tests have one of their own.
test: setup
	$(PYTEST)
	TRITON_INTERPRET=1 $(PYTEST) -m triton_interpret tests

# About half of the tests in under three minutes on two cores, for who changes a line.
QUICK := tests/models tests/weights tests/evaluation/test_metrics.py tests/evaluation/test_retrieval.py \
  $(addprefix tests/kernels/test_, $(addsuffix .py, auto bad_input edge_attention golden graph graph_attention module \
    ragged_graph spatio_temporal_graph)) \
  $(addprefix tests/data/test_, $(addsuffix .py, edit_lists images samples text transforms video)) \
  $(addprefix tests/training/test_, $(addsuffix .py, optim sampler)) \
  $(addprefix tests/test_, $(addsuffix .py, errors files layers losses recipes structure))
test-quick: setup
	$(PYTEST) $(QUICK)

# The tests that compare numbers, with other rounding, other inputs and other threads than in `make test`. Each setting
# can be given: make test-numerics ATEN_CPU_CAPABILITY=avx2 STGT_CPU_ISA=avx2 STGT_TEST_SEED=7
NUMERIC := tests/test_losses.py tests/data/test_transforms.py tests/benchmarks/test_agreement.py \
  $(addprefix tests/training/test_, $(addsuffix .py, sharding trainer)) \
  $(addprefix tests/kernels/test_, $(addsuffix .py, edge_attention edge_attention_dropout edge_attention_fuzz \
    float32_weights fuzz golden graph graph_attention graph_attention_dropout graph_attention_rows limits released_stgt released_stgt_inside spatio_temporal_graph)) \
  $(addprefix tests/models/test_, $(addsuffix .py, chunks cross_frame golden_blocks golden_model graph_transformer qformer stgt \
    vqa)) \
  $(addprefix tests/evaluation/test_, $(addsuffix .py, encode retrieval)) tests/figures/test_figures.py \
  $(addprefix tests/finsta/model/test_finsta_, $(addsuffix .py, batch layers losses model))
test-numerics: export ATEN_CPU_CAPABILITY ?= default
test-numerics: export STGT_CPU_ISA ?= portable
test-numerics: export STGT_TEST_SEED ?= 1
test-numerics: export STGT_TEST_THREADS ?= 2
test-numerics: setup
	$(BIN)/python -m pytest -k "not few_steps" $(NUMERIC)  # How soon a model learns is no question of rounding.

# The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer, built beside the real ones and imported from
# there; Python itself has no sanitizer, so that the process has to preload them. Needs g++.
SANITIZED := build/sanitize
SANITIZERS = $(shell $${CXX:-c++} -print-file-name=libasan.so) $(shell $${CXX:-c++} -print-file-name=libstdc++.so)
sanitize: export ASAN_OPTIONS := detect_leaks=0
sanitize: export UBSAN_OPTIONS := print_stacktrace=1
sanitize: export STGT_TEST_THREADS := 2
sanitize: export STGT_TEST_SEED := 2
sanitize: setup
	STGT_BUILD_CUDA=0 STGT_SANITIZE=1 $(BIN)/python setup.py -q build --build-base $(SANITIZED) --build-lib $(SANITIZED)/lib
	cd $(SANITIZED)/lib && for isa in portable ""; do \
	  export STGT_CPU_ISA=$$isa; \
	  LD_PRELOAD="$(SANITIZERS)" $(CURDIR)/$(BIN)/python -c \
	    'from stgt_kernels import _C; info = _C.build_info(); assert "-fsanitize=" in info["flags"]; print(info["cpu_isa"])' && \
	  LD_PRELOAD="$(SANITIZERS)" $(CURDIR)/$(BIN)/python -m pytest --capture=sys -p no:cacheprovider \
	    $(CURDIR)/tests/kernels/test_fuzz.py $(CURDIR)/tests/kernels/test_edge_attention_fuzz.py \
	    $(CURDIR)/tests/kernels/test_dense_attention.py $(CURDIR)/tests/kernels/test_linear.py || exit 1; \
	done

bench: setup
	$(BIN)/python -m benchmarks --out $(OUT)

# What can be counted, not timed: FLOPs, operators, memory, launches. Seconds.
bench-smoke: setup
	$(BIN)/python -m benchmarks.counted

# On a machine with a GPU, with the Python in use: its PyTorch is the one for that GPU. PARTS="build tests" for some.
gpu-check:
	$(PYTHON) -m benchmarks.gpu_check $(PARTS)

# This site, into build/docs/index.html. -n: a reference that leads nowhere is a warning, and each warning is an error.
docs: setup
	$(BIN)/python -m sphinx -q -W --keep-going -n docs build/docs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run -Werror
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# The CUDA kernels compiled for both architectures, for the tests that read their machine code. Minutes; needs nvcc.
cubins: setup
	$(BIN)/python -c "from tools.compiled import machine_code; machine_code.compile_all()"

# The C++ sources compiled for aarch64, and its kernels run where qemu-user is installed. Needs g++-aarch64-linux-gnu.
cross: setup
	tools/aarch64/build.sh $(BIN)/python

# One wheel for this Python in dist/, tagged manylinux by auditwheel, and tried beside torch alone:
# make wheel TORCH=2.10.0
wheel: setup
	tools/wheel.sh $(BIN)/python $(TORCH)

# The tests of the model with the newest packages in place of the pinned ones, above the bounds of pyproject.toml, too.
newest:
	$(MAKE) setup VENV=build/newest PINS=
	build/newest/bin/python -m pip install --upgrade transformers open_clip_torch
	build/newest/bin/python -m pytest tests/models tests/weights tests/data tests/evaluation tests/search

# The two files in $(VENV) say that the kernels are built, so they go together with the kernels. The packages stay.
clean:
	rm -rf build dist *.egg-info stgt_kernels/*.so $(VENV)/.built $(VENV)/.complete
