# Everything a newcomer needs: `make demo` and `make test` work on a machine with git, make and Python 3.10-3.13.
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
DEMO_OUT ?= demo
WORKERS ?= auto

.PHONY: help demo test lint docs dist format bench fuzz clean

help:
	@echo "make demo    one synthetic patient at two doses -> quality report (own environment, no PyTorch)"
	@echo "make test    lint, types and tests (own environment); WORKERS=1 runs one test at a time"
	@echo "make lint    ruff, mypy, the direction of imports, no large files"
	@echo "make docs    the documentation site, in build/docs"
	@echo "make dist    sdist and wheel, checked; the wheel assesses a phantom in a bare environment"
	@echo "make format  ruff format"
	@echo "make fuzz    30,000 damaged files through reader and command line (about five minutes)"
	@echo "make bench   every speed figure (about ten minutes on two idle cores)"

# An environment is fresh when its stamp is newer than pyproject.toml.
$(VENV)/.stamp: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -e '.[dev]'
	@touch $@

$(DEMO_VENV)/.stamp: pyproject.toml
	$(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(DEMO_VENV)/bin/python -m pip install --quiet -e '.[cpu,sim]'
	@touch $@

demo: $(DEMO_VENV)/.stamp
	rm -rf $(DEMO_OUT)
	$(DEMO_VENV)/bin/n2q-edge phantom $(DEMO_OUT)/series --dose 25 --full-dose
	$(DEMO_VENV)/bin/n2q-edge assess $(DEMO_OUT)/series --reference $(DEMO_OUT)/series/dose-100 -o $(DEMO_OUT)/report
	@echo
	@echo "One patient at full dose and at a quarter of it, side by side: open $(DEMO_OUT)/report/report.html"

lint: $(VENV)/.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo
	$(VENV)/bin/python .ci/large_files.py

test: lint
	$(VENV)/bin/python -m pytest -n $(WORKERS)

docs: $(VENV)/.stamp
	$(VENV)/bin/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

dist: $(VENV)/.stamp
	rm -rf dist
	$(VENV)/bin/python -m build --outdir dist
	$(VENV)/bin/python -m twine check --strict dist/*
	.ci/try_wheel $(VENV)/bin/python

format: $(VENV)/.stamp
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# BENCH="--quick" only shows that it runs.
bench: $(VENV)/.stamp
	$(VENV)/bin/python -m benchmarks.all $(BENCH)

# FUZZ="--inputs 1000 --seed 7" for another run.
fuzz: $(VENV)/.stamp
	$(VENV)/bin/python -m tests.fuzz --inputs 30000 --seed 1 $(FUZZ)

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(DEMO_OUT) build dist .pytest_cache .mypy_cache .ruff_cache
