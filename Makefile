# `make demo` shows the whole job on a fresh machine, `make test` checks it; both make .venv on first use.
PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
DEMO ?= demo
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := $(shell find csrc -type f) CMakeLists.txt setup.py

# The first import of a module writes its bytecode, which the installation leaves out.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo weights test lint bench notebook profile clean

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE)
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "amt needs Python >= 3.11: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Build without isolation: the PyTorch that was just installed is the one to build against, no second copy is fetched.
	@# Without compiling: the bytecode of all that is installed takes a minute, of what is imported a few seconds, once.
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt torch setuptools cmake ninja
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -q --no-compile -c constraints.txt --no-build-isolation -e ".[$(EXTRAS)]"
	@touch $@

install: $(INSTALLED)

# Training sees every grasp, person, object pose, camera, light and background once: eight cameras and nearly equal frames of one
# grasp teach little that is new. Validation and test people are seen by eight cameras, as people are in DexYCB.
SCENES := --independent 2000 --held-out 8 --frames 2
# Two people whom training never saw, one camera, the second frame of each grasp.
UNSEEN := $(DEMO)/data/*-subject-08/*/840412060917/color_000001.jpg $(DEMO)/data/*-subject-09/*/840412060917/color_000001.jpg
FIRST := $(DEMO)/first/*/*/840412060917/color_000000.jpg

demo: $(INSTALLED)
	@echo "1/5 what the weights that come with the package see in two rendered grasps"
	$(BIN)/python -m amt.data.synthetic $(DEMO)/first --seed 1 --subjects 1 --sequences 2 --frames 1
	$(BIN)/python -m amt.infer amt-tiny $(FIRST) --out $(DEMO)/first-pictures
	@echo "2/5 rendering a data set in DexYCB's layout into $(DEMO)/data (a second run reuses it)"
	$(BIN)/python -m amt.data.synthetic $(DEMO)/data $(SCENES)
	@echo "3/5 training the tiny model, six minutes"
	$(BIN)/python -m amt.train experiment=demo data.root=$(DEMO)/data train.output=$(DEMO)/train train.checkpoint=$(DEMO)/checkpoint
	@echo "4/5 predicting from the .jpg files of people it never saw"
	$(BIN)/python -m amt.infer $(DEMO)/checkpoint $(UNSEEN) --out $(DEMO)/pictures
	@echo "5/5 evaluating on all frames of these people"
	$(BIN)/python -m amt.evaluate $(DEMO)/checkpoint data.root=$(DEMO)/data
	@echo
	@echo "checkpoint        $(DEMO)/checkpoint   (python: amt.load(\"$(DEMO)/checkpoint\"))"
	@echo "metrics           $(DEMO)/checkpoint/metrics.json"
	@echo "report            $(DEMO)/checkpoint/report.html"
	@echo "overlay picture   $(DEMO)/pictures/overview.png   (of amt-tiny: $(DEMO)/first-pictures/overview.png)"
	@echo "loss curves       $(DEMO)/train/loss.png"

# amt/model/assets/amt-tiny, the weights that come with the package: a night on two cores. An interrupted run in WEIGHTS goes on;
# a finished one does not: train its weights further by train.finetune=amt-tiny with another train.seed, into another folder.
WEIGHTS ?= runs/amt-tiny
weights: $(INSTALLED)
	$(BIN)/python -m amt.data.synthetic $(WEIGHTS)/data --independent 16000 --held-out 12 --frames 2
	$(BIN)/python -m amt.train experiment=amt_tiny data.root=$(WEIGHTS)/data train.output=$(WEIGHTS)/train
	$(BIN)/python -m tools.ship $(WEIGHTS)/train/checkpoint $(WEIGHTS)/data

# One process a core and one thread a process: two that each want every core slow each other down many times over.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile

test: $(INSTALLED) lint
	@echo "== all tests, with what this machine has"
	$(PYTEST)
	@# AMT_CPU_ISA: 0 baseline, 1 AVX2, 2 AVX-512; only what is below this machine's own
	@for isa in $$($(BIN)/python -m tools.instruction_sets); do \
	  echo "== the native library as a machine with instruction set $$isa runs it"; \
	  AMT_CPU_ISA=$$isa $(PYTEST) -m native tests/kernels || exit 1; \
	done
	@echo "== Triton's kernels in its interpreter"
	TRITON_INTERPRET=1 $(PYTEST) -m interpreted tests/kernels
	@echo "== the steps of docker/cpu.Dockerfile; what is installed already stays"
	VENV=$(VENV) bash docker/steps.sh
	$(BIN)/python -m benchmarks.report --check

lint: $(INSTALLED)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	git ls-files '*.cpp' '*.h' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

bench: $(INSTALLED)
	$(BIN)/python -m pytest benchmarks

# docs/train_amt.html: the notebook as it runs from top to bottom, ten minutes on two cores
notebook: $(INSTALLED)
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt ipykernel nbclient nbconvert
	$(BIN)/python -m tools.notebook

# KERNEL=refine also profiles the kernels with that in their names; WORDS="model=small" goes to the run
profile: $(INSTALLED)
	PYTHON=$(BIN)/python tools/profile.sh $(if $(KERNEL),--kernel $(KERNEL)) $(WORDS)

clean:
	rm -rf build amt/_native.so
