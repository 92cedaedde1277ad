# The two commands of the README, and what they need. Everything goes into .venv; nothing else is touched.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test lint clean

# Live table of a fleet. `make demo` simulates the engines; `make demo DATA=DIR` replays the FD001 test engines in DIR.
demo: $(VENV)/demo.stamp
	@$(BIN)/python tools/demo.py $(if $(DATA),--data "$(DATA)")

test: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/mypy

$(VENV)/bin/python:
	@echo "making a Python environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(VENV)/bin/python pyproject.toml
	@echo "installing the run-time packages and the demo's broker ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[demo]'
	@touch $@

# torch by exact version: a plain `torch` may pull a CUDA build of several GB.
$(VENV)/dev.stamp: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q --disable-pip-version-check torch==2.13.0 -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
