# make run | test | test-oldest | test-colab | lab | smoke | rehearse | faults | book | check-book | lint | notebooks | help
PYTHON ?= python3
VENV ?= .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
OLDEST := build/oldest
FLAGS :=  # of pytest; old versions speak of things that are deprecated now
READY := $(VENV)/.ready
BOOK := $(VENV)/.book
# Tests share the cores: a worker a core, each with one thread (two threads each would fight).
PYTEST := OMP_NUM_THREADS=1 FASTTRICKS_BUDGET=smoke $(BIN)/python -m pytest -n auto --dist loadfile
# The longest notebooks begin first, so that no core waits for them at the end. All are named, for
# an old pytest does not look into a folder of which it was given files.
LONGEST := notebooks/08_capstone.ipynb notebooks/01_multi_gpu.ipynb
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=600 --no-loadscope-reorder \
	$(LONGEST) $(filter-out $(LONGEST),$(wildcard notebooks/*.ipynb))

.DEFAULT_GOAL := help
.PHONY: help run test test-oldest test-colab lab smoke rehearse faults book check-book lint notebooks clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 20

$(READY): pyproject.toml tools/check_setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..." >&2; exit 2; }
	@echo "Setting up $(VENV) (about 6 GB, a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(BIN)/python tools/check_setup.py
	@touch $@

run: $(READY)  ## train plainly and with all seven tricks, and print how much faster that is (about 6 minutes)
	@$(BIN)/python tools/execute.py 08_capstone

test: $(READY)  ## every test, and every notebook under nbval
	@PYTHONWARNDEFAULTENCODING=1 $(PYTEST) tests --durations=15 $(FLAGS)
	@$(PYTEST) $(NBVAL)

test-oldest:  ## every test on the oldest versions that pyproject.toml allows (6 GB more)
	@$(PYTHON) -m venv $(OLDEST)
	@$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check uv
	@$(OLDEST)/bin/uv pip install --quiet --python $(OLDEST)/bin/python --resolution lowest-direct \
	    -e '.[dev]'
	@$(OLDEST)/bin/uv pip list --quiet --python $(OLDEST)/bin/python
	@$(MAKE) --no-print-directory VENV=$(OLDEST) FLAGS="-W ignore::DeprecationWarning" test

test-colab: $(READY)  ## every chapter as a bare Google Colab would run it, on our oldest dependencies
	@$(BIN)/python tools/colab.py

smoke: $(READY)  ## every notebook in the smallest budget
	@$(PYTEST) -q $(NBVAL)

rehearse: $(READY)  ## every notebook on a GPU that is pretended, and launches on several
	@$(BIN)/python tools/rehearse.py

faults: $(READY)  ## kill, cut and damage runs at random moments, and count what is lost (23 minutes)
	@$(BIN)/python tools/faults.py

lab: $(READY)  ## open the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

book: $(BOOK)  ## the site, in build/book/html, from the chapters as they are committed
	@$(BIN)/python tools/book.py

check-book: $(BOOK)  ## every page of the site in a headless Chromium (which must be installed)
	@$(BIN)/python tools/check_book.py

$(BOOK): $(READY)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[book]'
	@touch $@

lint: $(READY)  ## style, which file may import which, and the types of the public interface
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/mypy

notebooks: $(READY)  ## execute all notebooks again and keep their outputs
	@$(BIN)/python tools/execute.py --in-place $(basename $(notdir $(wildcard notebooks/0*.py)))
	@$(BIN)/python tools/readme.py

clean:  ## remove what was set up and built
	rm -rf $(VENV) build
