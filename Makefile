# `make help` lists the targets. The two that matter: `make demo` and `make test`; each sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# One process a core, each with files of its own; four at most, for each holds a copy of the libraries: a gigabyte.
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
MAIN   := --target evaluate@base --target evaluate@sft --target evaluate@dpo --target reward --target evaluate_onnx

.DEFAULT_GOAL := help
.PHONY: help setup demo check quick test test-services test-cluster lint format ui results images lock clean

help:  ## Show this list
	@awk -F ':.*##' '/^[a-z-]+:.*##/ {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Create .venv with the locked versions (done by itself when missing or stale)

# Stale means: the lock, the package metadata or the script that installs them changed since.
$(READY): infra/requirements.lock pyproject.toml infra/setup.sh
	@PYTHON="$(PYTHON)" bash infra/setup.sh $(VENV)

demo: $(READY)  ## Run the main line on the `tiny` recipe, from raw data to a promoted model, and print where to look
	@$(BIN)/polm run --recipe tiny $(MAIN)
	@$(BIN)/polm promote dpo
	@$(BIN)/polm show
	@echo "Next: '$(BIN)/polm run' trains and measures every other method, '$(BIN)/polm chat' talks to the champion."

check: $(READY)  ## Check style and types and run the tests that train nothing, in about two minutes
	@$(MAKE) --no-print-directory -j 2 lint quick

quick: $(READY)
	@$(PYTEST) -m "not slow and not services and not cluster"

test: $(READY)  ## Run all tests
	@$(PYTEST)

test-services: $(READY)  ## Run the tests that start PostgreSQL, an S3 store, MLflow and Prefect; installs these
	@flock $(VENV) bash infra/services/setup.sh $(VENV)
	@$(BIN)/python -m pytest -m services -n 0

test-cluster: $(READY)  ## Run the tests that start Slurm and Ray, and long ones of several processes; as root it installs what they need
	@flock $(VENV) bash infra/cluster/prepare.sh $(BIN)/python
	@$(BIN)/python -m pytest -m cluster -n 0 -rs --durations 8 --no-header tests/flows/runners tests/tasks/training

lint: $(READY)  ## Check style, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY)  ## Put the code into the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

ui: $(READY)  ## Open the MLflow and Prefect dashboards on loopback
	@$(BIN)/polm ui

results: $(READY)  ## Write the tables of docs/results.md from the artifacts of a whole run of `tiny`
	@$(BIN)/python -m infra.results

images: $(READY)  ## Make the README's pictures from the last run; needs chromium
	@$(BIN)/python -m infra.images

lock: $(READY)  ## Rewrite infra/requirements.lock from what .venv holds
	@$(BIN)/python infra/lock.py > infra/requirements.lock.new
	@mv infra/requirements.lock.new infra/requirements.lock

clean:  ## Remove .venv, working state and outputs; DVC's cache stays
	rm -rf $(VENV) .polm .checkpoints artifacts .mypy_cache .ruff_cache .pytest_cache
