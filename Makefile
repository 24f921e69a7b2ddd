# `make` checks everything; `make help` lists the targets. All run in .venv, which the first call makes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.DEFAULT_GOAL := all
.PHONY: all format-check lint types test faults fuzz soak archive format demo bench clean help
.NOTPARALLEL:  # the checks of `all` run in their order

all: format-check lint types test  ## everything below that CI wants: format-check, lint, types, test (the default)

format-check: $(READY)  ## fail where `make format` would change something
	$(BIN)/ruff format --check .

lint: $(READY)  ## ruff's rules
	$(BIN)/ruff check .

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

test: $(READY)  ## the tests, on all cores
	$(BIN)/python -m pytest -n auto -m "not faults"

faults: $(READY)  ## fault injection: storage that fails or never answers, processes killed at random (needs root and FUSE)
	$(BIN)/python -m pytest tests/faults -n 4 -m "faults or not faults"

fuzz: $(READY)  ## N=20000 damaged files through the command and reference decoders; SEED=1 repeats a run
	$(BIN)/python -m tests.fuzz $(or $(N),20000) $(SEED)

soak: $(READY)  ## MINUTES=10 of archives with 2 % faults and processes killed at random
	$(BIN)/python -m tests.soak $(or $(MINUTES),10) $(SEED)

archive: $(READY)  ## FILES=100000 small ones: a run that is killed, one that resumes, one that is idle; every result compared
	$(BIN)/python -m tests.archive $(or $(FILES),100000) $(FOLDER)

format: $(READY)  ## format the code in place
	$(BIN)/ruff format .

demo: $(READY)  ## decompress a CT series of 120 slices and compare every pixel
	rm -rf demo
	$(BIN)/python -m tests.series make demo/series
	$(BIN)/python -m dcmpool run demo/series -o demo/native
	$(BIN)/python -m tests.series check demo/series demo/native

bench: $(READY)  ## dcmpool against its peers, hours; FILES=280 ROUNDS=3 ONLY='ct/.70 noop' SERIES=DIR MILLION=1 WRITE=FILE
	$(BIN)/python -m benchmarks.bench $(if $(FILES),--files $(FILES)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(ONLY),--only '$(ONLY)') $(if $(SERIES),--series '$(SERIES)') $(if $(MILLION),--million) \
		$(if $(WRITE),--write '$(WRITE)')

clean:  ## remove all that make has made
	rm -rf .venv demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

# pip learned `--group` in 25.1; the one that Python brings may be older.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'dcmpool needs Python 3.11 or newer; try: make PYTHON=python3.11' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@
