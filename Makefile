# Everything a newcomer needs: `make demo` and `make test` work on a machine with git, make and Python 3.10-3.13.
PYTHON ?= python3
VENV ?= .venv
DEMO_VENV ?= .venv-demo
DEMO_OUT ?= demo

.PHONY: help demo test lint format bench fuzz clean

help:
	@echo "make demo   synthetic CT series -> quality report (own environment, no PyTorch)"
	@echo "make test   lint, types and tests (own environment)"
	@echo "make lint   ruff and mypy only"
	@echo "make format ruff format"
	@echo "make fuzz   30,000 damaged files through reader and command line (about five minutes)"
	@echo "make bench  every figure of the README's performance section (about ten minutes on two idle cores)"

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
	$(DEMO_VENV)/bin/n2q-edge phantom $(DEMO_OUT)/series --slices 24 --dose 25
	$(DEMO_VENV)/bin/n2q-edge assess $(DEMO_OUT)/series -o $(DEMO_OUT)/report
	@echo
	@echo "Pictures and report:"
	@find $(DEMO_OUT)/report -type f | sort | sed 's/^/  /'

lint: $(VENV)/.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: lint
	$(VENV)/bin/python -m pytest

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
	rm -rf $(VENV) $(DEMO_VENV) $(DEMO_OUT) .pytest_cache .mypy_cache .ruff_cache
