# Every command that a contributor needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
BENCH := $(VENV)/.bench-installed
MAKE_VENV := packaging/make_venv.sh

.PHONY: help setup run test check format binary notices bench soak lock clean

help: ## List the commands.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

$(RUNTIME): requirements/runtime.txt requirements/bare.txt $(MAKE_VENV) packaging/choose_python.sh
	@$(MAKE_VENV) $(VENV) requirements/runtime.txt requirements/bare.txt
	@touch $@

KERNELS := monolite/kernels/libkernels.so
$(KERNELS): packaging/kernels.py $(wildcard monolite/kernels/native/*) | $(RUNTIME)
	@printf 'setup: building the kernels\n'
	@$(BIN)/python packaging/kernels.py

MODEL := monolite/models/all-MiniLM-L6-v2.model
MODEL_MAKERS := $(addprefix monolite/,$(addsuffix .py,kernels/arrays models/bert models/calibration models/checkpoint models/conversion models/file))
$(MODEL): packaging/models.py $(MODEL_MAKERS) | $(RUNTIME)
	@$(BIN)/python packaging/models.py

CHAT_MODEL := monolite/models/SmolLM2-135M-Instruct.gguf
$(CHAT_MODEL): packaging/models.py | $(RUNTIME)
	@$(BIN)/python packaging/models.py chat

$(DEV): requirements/dev.txt $(RUNTIME)
	@$(MAKE_VENV) $(VENV) requirements/runtime.txt requirements/dev.txt
	@touch $@

$(BENCH): requirements/bench.txt $(DEV)
	@$(MAKE_VENV) $(VENV) requirements/bench.txt
	@touch $@

setup: $(DEV) $(KERNELS) $(MODEL) $(CHAT_MODEL) ## Make .venv from the hashed requirements.

run: $(RUNTIME) $(KERNELS) $(MODEL) $(CHAT_MODEL) ## Set up and serve on 127.0.0.1:8080 from ./data.
	@exec $(BIN)/python server.py serve --data data --listen 127.0.0.1:8080 --demo

test: setup ## Set up and run every test.
	@$(BIN)/python -m pytest $(ARGS)

check: setup ## Lint, formatting, strict types, one-way imports.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup ## Format, and mend what the linter can.
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

binary: setup ## Build dist/monolite, the one executable.
	@$(BIN)/python packaging/build.py

notices: setup ## Write THIRD_PARTY_NOTICES anew from what is installed.
	@$(BIN)/python packaging/notices.py --write

bench: $(BENCH) ## Run the benchmarks beside their peers.
	@$(BIN)/python -m bench $(ARGS)

soak: $(BENCH) ## Run the long survival tests.
	@$(BIN)/python -m bench.soak $(ARGS)

lock: setup ## Pin and hash the requirements anew; ARGS=--upgrade moves versions.
	@requirements/lock.sh $(ARGS)

clean: ## Remove everything that was made, except ./data.
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
