# Everything runs in .venv, which is made on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv takes a tenth of pip's time; pip is for where uv does not find the index that pip is set to.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
install = $(UV) $(1) || $(PIP) $(1)
# Compiled modules are kept in the environment, also where Python is told to write none: otherwise
# each of the commands that tests start would compile anew all that it imports.
export PYTHONPYCACHEPREFIX := $(CURDIR)/$(VENV)/pycache
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-large fuzz kills mutants lint dist bench profile paper paper-quick docs docs-serve format clean

help:
	@echo "make run     train ProtoNorm, FedProto and Local on digits and compare them"
	@echo "make test    run the tests"
	@echo "make test-large  run those that take long"
	@echo "make fuzz    draw configurations, run them, resume and verify them (an hour)"
	@echo "make kills   kill runs and sweeps at random moments, and go on with them"
	@echo "make mutants change the core's code, and see whether its tests notice (two hours)"
	@echo "make lint    check style, format and types"
	@echo "make bench   measure speed and memory"
	@echo "make profile write a trace of one round"
	@echo "make paper-quick  run all experiments at their quick size, and write one page (20 minutes)"
	@echo "make paper   the same at full size, for accelerators and with the original data"
	@echo "make docs    build the site of the documentation into site/"
	@echo "make docs-serve  the same, served while pages are edited"
	@echo "make dist    build what is published, and try it in an empty environment"
	@echo "make format  put the code in format"
	@echo "make clean   remove the virtual environment and caches"

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python >= 3.11 is needed, got " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) uv
	$(call install,--editable .)
	touch $@

$(VENV)/.dev: $(VENV)/.run
	$(call install,--editable '.[dev]')
	touch $@

$(VENV)/.mutants: $(VENV)/.dev
	$(call install,--editable '.[mutants]')
	touch $@

$(VENV)/.docs: $(VENV)/.run
	$(call install,--editable '.[docs]')
	touch $@

run: $(VENV)/.run
	@for method in protonorm fedproto local; do \
	  $(BIN)/protonorm run --method $$method --out runs/digits-$$method --overwrite || exit $$?; \
	done
	@$(BIN)/protonorm compare runs/digits-protonorm runs/digits-fedproto runs/digits-local \
	  --out runs/digits.png

test: $(VENV)/.dev
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-large: $(VENV)/.dev
	$(BIN)/pytest -m large --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Another draw by `make fuzz SEED=1`, and so for the others.
SEED ?= 0

fuzz: $(VENV)/.dev
	FUZZ_SEED=$(SEED) $(BIN)/pytest -m fuzz --numprocesses 2

kills: $(VENV)/.dev
	$(BIN)/python tests/running/kills.py --kills 100 --seed $(SEED)

mutants: $(VENV)/.mutants
	$(BIN)/python -m tests.mutants --seed $(SEED)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# What is published: built, checked, and tried from the wheel in an empty environment.
dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist
	$(BIN)/twine check --strict dist/*
	DIST=$(CURDIR)/dist $(BIN)/pytest -m 'large or not large' tests/release

bench: $(VENV)/.run
	$(BIN)/python -m experiments.bench

profile: $(VENV)/.run
	$(BIN)/python -m experiments.bench.profile

# Both go on with what is there. Flags of `protonorm sweep` by `make paper FLAGS="--devices 1"`.
paper-quick: $(VENV)/.run
	$(BIN)/python -m experiments --all $(FLAGS)

paper: $(VENV)/.run
	$(BIN)/python -m experiments --all --size full $(FLAGS)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

docs-serve: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis
