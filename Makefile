# The whole interface for people and CI. Each target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help install demo serve test check lock clean
help:            ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY)  ## make .venv with pinned dependencies

$(READY): pyproject.toml constraints.txt
	@echo "making $(VENV) with pinned dependencies: a few minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)   ## the main job, end to end, on this machine
	$(BIN)/mergefront demo

serve: $(READY)  ## keep serving what the demo left
	$(BIN)/mergefront serve --home demo-output/home --models demo-output/zoo --tasks demo-output/zoo/tasks

test: $(READY)   ## run the tests
	$(BIN)/python -m pytest

check: $(READY)  ## format, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(READY)   ## write constraints.txt anew from what is installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude mergefront | sed -E 's/^(torch==[0-9.]+).*/\1/' > constraints.txt

clean:           ## remove what the targets made, the demo's output included
	rm -rf $(VENV) demo-output
