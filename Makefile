# Every target sets up what it needs in .venv by itself; nothing else on the machine is touched.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
ARGS   ?=
SOAK_MINUTES ?= 5

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
DEMO := $(VENV)/.ready-demo
DEV  := $(VENV)/.ready-dev

.PHONY: help demo test test-slow check bench clean

help:
	@echo "make demo    teach a frozen Gemma 3 270M two tasks, see how good they are, run both in one batch"
	@echo "make test    lint, types, layers, and the tests on tiny and packaged models"
	@echo "make test-slow  the rest: kills, several processes, every benchmark in small, $(SOAK_MINUTES) minutes of traffic"
	@echo "make check   lint, types and layers only"
	@echo "make bench   benchmarks beside PEFT, written to results/ (options: make bench ARGS='--help')"
	@echo "make clean   remove $(VENV) and the tools' caches"

demo: $(DEMO)
	@echo "== demo"
	@$(BIN)/softprompt demo $(ARGS)

test: check
	@echo "== tests (tiny models, $(JOBS) processes)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not real and not slow" $(ARGS)
	@echo "== tests (packaged backbone and data)"
	@$(BIN)/python -m pytest -q -m real $(ARGS)

test-slow: $(DEV)
	@echo "== tests that take long"
	@OMP_NUM_THREADS=1 SOFTPROMPT_SOAK_MINUTES=$(SOAK_MINUTES) $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile \
		--no-loadscope-reorder -m "slow and not real" $(ARGS)

check: $(DEV)
	@echo "== lint"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check src tests benchmarks conftest.py
	@echo "== types"
	@$(BIN)/mypy
	@echo "== layers"
	@$(BIN)/lint-imports

bench: $(DEV)
	@echo "== benchmarks"
	@$(BIN)/python benchmarks/run.py $(ARGS)

# One virtual environment, two sets of extras; a set is installed again when its ranges or pins change.
$(BIN)/python:
	@echo "== setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing softprompt[demo] into $(VENV) (a few minutes the first time)"
	@$(PIP) -e '.[demo]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "== installing softprompt[all,dev] into $(VENV) (a few minutes the first time)"
	@$(PIP) -e '.[all,dev]'
	@touch $@ $(DEMO)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
