# Everything installs into .venv, at the versions and hashes of requirements/*.txt. A stamp records
# that it was done, so that a second call is instant, and a changed lock installs again.

VENV := .venv
BIN := $(VENV)/bin
UV ?= uv

RUN_STAMP := $(VENV)/.installed-run
DEV_STAMP := $(VENV)/.installed-dev
BENCH_STAMP := $(VENV)/.installed-bench
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
# "check" lists its steps in the order in which they are worth reading.
.NOTPARALLEL:
.PHONY: help run test check lint format chaos screenshots bench compose lock stop clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN_STAMP) ## Run everything in one process, on sample data
	@exec $(BIN)/python -m workers run --sample-data

# Most tests wait for a process most of the time, and so several run at once, each part on servers
# of its own. A file stays together; the order is not by size, lest the longest test begin last.
IN_PARALLEL := --numprocesses=auto --dist=loadfile --no-loadscope-reorder

test: $(DEV_STAMP) ## Run all tests, on a real PostgreSQL and RabbitMQ (ARGS="-k slot" narrows)
	@scripts/setup-rabbitmq
	@scripts/setup-chromium
	@scripts/setup-prometheus
	@$(BIN)/python -m pytest $(IN_PARALLEL) $(ARGS)

check: lint test ## Check format, style, types and import rules, then run all tests

lint: $(DEV_STAMP) ## Check format, style, types and import rules
	@$(BIN)/ruff format --quiet --check . || { echo "Some files need 'make format'" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports >.venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }

format: $(DEV_STAMP) ## Format the code, and mend what can be mended
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

chaos: $(DEV_STAMP) ## Torment a live service for ten minutes, then audit it (ARGS="--seed 5" repeats)
	@scripts/setup-rabbitmq
	@$(BIN)/python -m chaos $(ARGS)

screenshots: $(DEV_STAMP) ## Take the pictures of the operations page anew (docs/images)
	@scripts/setup-chromium
	@$(BIN)/python -m tests.web.screenshots

bench: $(BENCH_STAMP) ## Measure the jobs on much data (ARGS="--scale 0.1 --only coupons" for less)
	@$(BIN)/python -m bench $(ARGS)

compose: ## Start it all in containers, monitoring included (needs Docker; ARGS="down" stops it)
	@scripts/compose-secrets
	@docker compose --env-file .compose/secrets.env --env-file .compose/rabbitmq.env \
	    $(or $(ARGS),up --build --detach --wait)

lock: ## Pin the newest versions that pyproject.toml allows (needs uv)
	@$(LOCK) --upgrade --extra embedded --group build --output-file requirements/run.txt
	@$(LOCK) --constraint requirements/run.txt --output-file requirements.txt
	@$(LOCK) --upgrade --extra embedded --group build --group dev \
	    --constraint requirements/run.txt --output-file requirements/dev.txt
	@$(LOCK) --upgrade --extra embedded --group build --group bench \
	    --constraint requirements/dev.txt --output-file requirements/bench.txt

# --universal: one file for every Python from 3.11 on, and for every platform.
LOCK = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --custom-compile-command "make lock" pyproject.toml

stop: ## Stop the embedded PostgreSQL, should one still be up
	@scripts/stop-postgres .local

clean: stop ## Remove what was made here, the data of "make run" included; not that of "make compose"
	@rm -rf $(VENV) .local build dist *.egg-info
	@rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

$(RUN_STAMP): requirements/run.txt pyproject.toml
	@scripts/setup-python $(VENV)
	@echo "Installing what the service needs into $(VENV)"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/run.txt
	@$(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $@

$(DEV_STAMP): requirements/dev.txt pyproject.toml
	@scripts/setup-python $(VENV)
	@echo "Installing what the service and its tests need into $(VENV)"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/dev.txt
	@$(PIP_INSTALL) --no-build-isolation --no-deps --editable .
	@touch $(RUN_STAMP) $@

# Over what is there already, tests or not: the versions of what they share are the same.
$(BENCH_STAMP): requirements/bench.txt $(RUN_STAMP)
	@echo "Installing what the benchmarks need into $(VENV)"
	@$(PIP_INSTALL) --require-hashes --requirement requirements/bench.txt
	@touch $@
