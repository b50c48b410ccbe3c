# `make` lists the targets. Nothing is needed beforehand but Python >= 3.10 with venv and pip.

# The Python that the virtual environment is made from: make setup PYTHON=python3.12
PYTHON ?= python3
VENV := .venv
# Passed on by `make test`: make test ARGS="-m slow"
ARGS ?=

# The versions to install
CONSTRAINTS := constraints.txt

BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-matrix test-lowest audit lint format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## Make .venv with everything installed (the others do it when needed)

# Written last, so that a set-up that failed half-way is done again.
$(READY): setup.py constraints.txt tools/install_detectron2.py tools/detectron2_wheel.py
	@$(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	  command -v $(PYTHON) >/dev/null || { \
	    echo "error: there is no $(PYTHON); name a Python >= 3.10: make setup PYTHON=python3.12"; \
	    exit 1; }; \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "error: Python >= 3.10 is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	      "name another: make setup PYTHON=python3.12"; \
	    exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV); } >&2
	$(BIN)/python -m pip install --disable-pip-version-check --constraint $(CONSTRAINTS) --editable '.[dev]'
	$(BIN)/python tools/install_detectron2.py --constraint $(CONSTRAINTS)
	@touch $@

demo: $(READY) ## Train, evaluate and draw LRFormer-T on made-up street scenes (CPU, minutes)
	$(BIN)/python datasets/make_demo_scenes.py
	$(BIN)/python tools/train_net.py --config-file configs/demo/lrformer_t.yaml \
	  --report output/demo/report MODEL.DEVICE cpu OUTPUT_DIR output/demo
	$(BIN)/python tools/visualize.py --config-file configs/demo/lrformer_t.yaml --device cpu \
	  --weights output/demo/model_final.pth --dataset demo_scenes_sem_seg_val --limit 16 \
	  --ground-truth --side-by-side --output output/demo/pictures

test: $(READY) ## Run the tests; ARGS="-m slow" or ARGS="-m gpu" for those left out
	$(BIN)/python -m pytest $(ARGS)

test-matrix: ## Run the tests in a new environment for each Python 3.10 to 3.13 that is here
	@for version in 3.10 3.11 3.12 3.13; do \
	  python$$version --version 2>/dev/null || { echo "Python $$version: not here"; continue; }; \
	  $(MAKE) test PYTHON=python$$version VENV=build/matrix || exit 1; \
	  rm -rf build/matrix; \
	done

test-lowest: ## Run the tests with the lowest versions that setup.py declares, in a new environment
	@mkdir -p build
	grep -oE '"[a-z0-9-]+>=[0-9a-z.]+' setup.py | tr -d '"' | sed -E 's/>=(.*)/==\1.*/' > build/lowest.txt
	$(MAKE) test PYTHON=python3.10 VENV=build/lowest CONSTRAINTS=build/lowest.txt
	rm -rf build/lowest

audit: $(READY) ## Look up the pinned versions among the known vulnerabilities (needs network)
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/python -m pip_audit --no-deps --disable-pip --requirement constraints.txt

lint: $(READY) ## Check style and formatting
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(READY) ## Format the code, fix what can be fixed
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

clean: ## Remove .venv and caches; datasets and output stay
	rm -rf $(VENV) .pytest_cache .ruff_cache build dist projects/LRFormer/*.egg-info
	find bench configs datasets demo projects tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
