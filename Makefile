# Needs Python 3.11 or newer with pip. `make help` lists the targets.
PYTHON ?= python3
STREETS := $(wildcard runtime/samples/street_*.jpg)
OBJECTS := $(filter-out $(STREETS),$(wildcard runtime/samples/*.jpg))
PICTURES := dlcv-demo
RUN := .venv/bin
DEV := .venv-dev/bin
BENCH_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PROJECT := pyproject.toml setup.py packages/vit/pyproject.toml

.PHONY: help demo test check format bench benchmarks docs systems clean
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

demo: .venv/installed ## name, segment and explain the sample photos (CPU, no PyTorch)
	$(RUN)/dlcv-infer classify $(OBJECTS) --out $(PICTURES)/classify --overlay --overwrite
	$(RUN)/dlcv-infer segment $(OBJECTS) --out $(PICTURES)/segment --overlay --overwrite
	$(RUN)/dlcv-infer segment $(STREETS) -m camvid-lraspp --out $(PICTURES)/streets --overlay --overwrite
	$(RUN)/dlcv-infer attend $(OBJECTS) --out $(PICTURES)/attend --overwrite
	@echo "The pictures are in $(abspath $(PICTURES))"

test: .venv-dev/installed ## run all tests
	$(DEV)/pytest -n auto --maxprocesses 4 --dist loadfile

check: .venv-dev/installed ## lint, formatting, types
	$(DEV)/ruff check
	$(DEV)/ruff format --check
	$(DEV)/mypy
	$(DEV)/pyright --pythonpath $(DEV)/python

format: .venv-dev/installed ## mend what ruff can, format
	$(DEV)/ruff check --fix-only
	$(DEV)/ruff format

bench: .venv-dev/installed ## run the benchmarks; BENCH_ARGS goes to pytest
	$(DEV)/pytest bench --benchmark-only $(BENCH_ARGS)

benchmarks: .venv-dev/installed ## measure docs/benchmarks.md anew (minutes; leave the machine alone)
	$(DEV)/python bench/page.py --measure

gpu-proof: .venv-dev/installed ## prove dlcv on this machine's NVIDIA GPU, in nine minutes; PROOF_ARGS, such as --wheels FOLDER
	$(DEV)/python bench/gpu_proof/prove.py --out docs/benchmarks $(PROOF_ARGS)

docs: .venv-dev/installed ## write the generated pages anew: command reference, JSON Schema
	$(DEV)/python -m dlcv.cli.reference > docs/cli.md.new && mv docs/cli.md.new docs/cli.md
	$(DEV)/python -m dlcv.export.schema > docs/bundle.schema.json.new && mv docs/bundle.schema.json.new docs/bundle.schema.json

systems: .venv-dev/installed ## write docs/systems.md anew from its rows and the recorded runs
	$(DEV)/python -m dlcv.export.systems docs > docs/systems.md.new && mv docs/systems.md.new docs/systems.md

clean: ## remove environments, caches, builds and the demo's pictures
	rm -rf .venv .venv-dev .mypy_cache .ruff_cache .pytest_cache .benchmarks build dist src/*.egg-info $(PICTURES)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed anew when the project's metadata changes. Editable: a change of the code needs nothing.
.venv/installed: $(PROJECT)
	$(PYTHON) -m venv .venv
	@echo "Installing dlcv with ONNX Runtime for the CPU into .venv"
	@$(RUN)/python -m pip install --quiet --editable '.[cpu]' --editable packages/vit
	@touch $@

.venv-dev/installed: $(PROJECT)
	$(PYTHON) -m venv .venv-dev
	@echo "Installing dlcv, PyTorch and the development tools into .venv-dev (some minutes, 6 GB)"
	@$(DEV)/python -m pip install --quiet --editable '.[dev]' --editable packages/vit
	@touch $@
