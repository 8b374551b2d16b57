# Everything here works on a machine that has only Python 3.11+, make and git.
#   make run       start the server on the built-in model       (ARGS="--port 8080" adds flags)
#   make test      run the tests                                (ARGS="-k scheduler" picks some)
#   make check     lint, types and the architecture test
#   make catalogues  bring the translations up to date with the source, and say what is missing
#   make bench     print the figures, each beside its baseline
#   make bench-engines  every engine: speed beside the bare engine, load times, memory
#   make scorecard sixteen ways in which nodes fail, and what callers see
#   make bench-routing  compare ways to choose a node, simulated
#   make prove     the tests with their full counts             (long)
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
TORCH  ?= torch==2.13.0
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check catalogues bench bench-engines scorecard prove simulate lock clean
.DEFAULT_GOAL := run

run: $(VENV)/installed-run
	@exec $(BIN)/modelyard serve $(ARGS)

test: $(VENV)/installed-test
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/installed-test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_architecture.py

catalogues: $(VENV)/installed-test
	@$(BIN)/python -m tools.catalogues extract compile check

bench: $(VENV)/installed-test
	@$(BIN)/python -m bench $(ARGS)

scorecard: $(VENV)/installed-test
	@$(BIN)/python -m bench.scorecard

bench-engines: $(VENV)/installed-test
	@$(BIN)/python -m bench --engines $(ARGS)

bench-routing: $(VENV)/installed-test
	@$(BIN)/python -m bench.routing $(ARGS)

prove: $(VENV)/installed-test
	@MODELYARD_PROVE=1 $(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

simulate: $(VENV)/installed-test
	@$(BIN)/python -m tests.simulation.run --seeds $(or $(SEEDS),10000)

lock:
	@requirements/lock.sh

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Modelyard needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Set PYTHON=/path/to/python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed-run: requirements/run.txt pyproject.toml | $(BIN)/python
	@echo "installing what the server needs (once)"
	@$(PIP) --require-hashes -r requirements/run.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-test: requirements/test.txt requirements/engines.txt pyproject.toml | $(BIN)/python
	@echo "installing what the tests need (once); PyTorch's CPU build is enough, see CONTRIBUTING.md"
	@$(PIP) --require-hashes -r requirements/test.txt
	@$(PIP) $(TORCH)
	@$(PIP) --require-hashes --no-deps -r requirements/engines.txt
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/installed-run
