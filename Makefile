# make train: the embedded default from nothing.   make test: the whole test suite from nothing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Several processes on few cores: one thread each, or they take each other's time.
THREADS := OMP_NUM_THREADS=1
# Files of tests run side by side: many cases wait for a process to start.
WORKERS ?= 2

.PHONY: train test test-large lint bench clean

train: $(VENV)/core
	$(BIN)/python -m trainer +strategy=fsdp $(ARGS)

test: $(VENV)/dev
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

test-large: $(VENV)/dev
	$(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m large --timeout 3600 -rP $(ARGS)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/bench
	$(THREADS) $(BIN)/python -m benchmarks $(ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say which with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

# Stamps: a change of the pins or of the package's metadata installs again.
$(VENV)/core: pyproject.toml constraints.txt $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev: $(VENV)/core
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

$(VENV)/bench: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev,bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
