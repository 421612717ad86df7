# Thin on purpose: each target is a line or two that you could type. Without an active virtual environment, .venv is made and used.

SHELL := bash
ENV := $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
BIN := $(ENV)/bin
EXTRAS := test,workflow,cluster,peers,browser
# Names the checkout that is installed in the environment; as old as its installation.
INSTALLED := $(ENV)/.metabench-checkout
# Compiled once, not in each of the hundred processes that import the package.
unexport PYTHONDONTWRITEBYTECODE
ifneq ($(shell cat '$(INSTALLED)' 2>/dev/null),$(CURDIR))
.PHONY: $(INSTALLED)
endif

.DEFAULT_GOAL := help
.PHONY: help reproduce smoke test test-full test-cluster lint install lock

help:
	@echo 'make reproduce   run the default suite and make its report'
	@echo 'make smoke       the same for a suite of two minutes'
	@echo 'make test        run every test'
	@echo 'make test-full   the same, with every certificate and planted bug on all cases'
	@echo 'make test-cluster  the tests on a SLURM of this machine: Debian, as root; elsewhere they are skipped'
	@echo 'make lint        ruff, snakefmt, snakemake --lint, import contracts, strict types'
	@echo 'make install     only install, with the versions of requirements.lock'
	@echo 'make lock        write requirements.lock anew with the newest versions'

reproduce: install
	$(BIN)/snakemake --cores all
	@echo 'report: $(CURDIR)/results/default/report/index.html'

smoke: install
	$(BIN)/snakemake --cores all --configfile config/suites/smoke.yaml
	@echo 'report: $(CURDIR)/results/smoke/report/index.html'

test: install
	$(BIN)/python -m pytest -n 2

# Every method's certificate and every planted bug on all cases: about ten minutes more.
test-full: install
	$(BIN)/python -m pytest -n 2 --full

# A scheduler that loses a job would keep them waiting for ever.
test-cluster: install
	timeout --signal=INT --kill-after=60 900 $(BIN)/python -m pytest tests/cluster -n 0

lint: install
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock | $(BIN)/python
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metabench needs Python 3.11 or newer, this environment has " + sys.version.split()[0])'
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[$(EXTRAS)]'
	@echo '$(CURDIR)' > '$@'

$(BIN)/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making $(ENV) with $$($$python --version)"; exec $$python -m venv '$(ENV)'; \
	    fi; \
	done; \
	echo 'metabench needs Python 3.11 or newer, and none was found: name one with make PYTHON=/path/to/python' >&2; exit 1

lock:
	scripts/lock.sh
