# Everything goes into .venv; a stamp file there tells what is already installed, so nothing is installed twice.
#   make demo      trains a small language model on Python's own source code and lets it write
#   make test      the tests          make lint   style and types       make format   rewrites the style
#   make docs      the documentation  make bench  against transformers  make clean    removes what was built
#   make prove-resume   kills a run 20 times, and shows that it ends bit by bit as if it had never been stopped

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV ?= .venv
# Exact, so that the release that is there (a CPU build, on a machine without a GPU) is taken and no other is fetched.
TORCH ?= torch==2.13.0
# A new folder each time: a run is never overwritten.
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
WORKERS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
export HF_HUB_DISABLE_TELEMETRY := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help install demo test lint format docs bench prove-resume clean

help:
	@sed -n '2,5s/^#   //p' Makefile

$(VENV)/.stamp-venv:
	@for python in $(PYTHON) python3.11 python3.12 python3.13 python3 python; do \
	  if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    echo "Making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv --clear $(VENV) || { \
	      echo "$$python must be able to make a virtual environment, but its venv module failed. On Debian: apt-get install python3-venv" >&2; exit 1; }; \
	    touch $@; exit 0; \
	  fi; \
	done; \
	echo "Python 3.11, 3.12 or 3.13 must be installed, but none was found. Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

# torch first: whatever is installed after it finds it there, and replaces nothing.
$(VENV)/.stamp-torch: $(VENV)/.stamp-venv
	@echo "Installing $(TORCH)"
	@$(PIP) install "$(TORCH)"
	@touch $@

$(VENV)/.stamp-package: $(VENV)/.stamp-torch pyproject.toml
	@echo "Installing dougong"
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.stamp-%: $(VENV)/.stamp-package
	@echo "Installing what $* needs"
	@$(PIP) install --editable '.[$*]'
	@touch $@

install: $(VENV)/.stamp-package

demo: $(VENV)/.stamp-package
	$(BIN)/dougong train gpt-stdlib --run $(RUN)
	$(BIN)/dougong generate $(RUN) "def "
	@echo
	@echo "The run is in $(RUN); open $(RUN)/report.html to see its curves."

test: $(VENV)/.stamp-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(VENV)/.stamp-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.stamp-lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.stamp-docs
	$(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in site/index.html"

bench: $(VENV)/.stamp-bench
	$(BIN)/python -m benchmarks.language $(ARGS)

prove-resume: $(VENV)/.stamp-package
	$(BIN)/python scripts/prove_resume.py $(ARGS)

clean:
	rm -rf site dist build .mypy_cache .ruff_cache .pytest_cache tests/.cache
