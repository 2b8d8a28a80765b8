PYTHON ?= python3
VENV ?= .venv
HOST ?= 127.0.0.1
PORT ?= 8000
BIN = $(VENV)/bin

.PHONY: run check test test-all lint types packages bench clean

run: $(VENV)/.installed
	$(BIN)/vento-wsgi run examples.demo.app:app --host $(HOST) --port $(PORT)

# for daily work, in less than a minute
check: lint types
	$(BIN)/python -X dev -m pytest -q -n 2 -m "not redis" tests/unit

# everything; or a part of the tests: make test ARGS="tests/unit/test_sse.py -k retry"
ifdef ARGS
test: $(VENV)/.installed-test
	$(BIN)/python -X dev -m pytest $(ARGS)
else
test: packages lint types
	$(BIN)/python -X dev -m pytest -n 3 --dist loadfile --no-loadscope-reorder
endif

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

# run the tests on every supported Python that is installed, each in its own venv
test-all:
	@set -e; for version in 3.10 3.11 3.12 3.13; do \
		python=$$(tests/python $$version) || { echo "Python $$version: not here"; continue; }; \
		echo "Python $$version: $$python"; \
		$(MAKE) test PYTHON=$$python VENV=.venv-$$version; \
	done

# install the browser and the servers that the tests need, if possible
packages:
	@tests/packages

# CPU time and memory of servers: make bench ROWS=two,tokens ONLY=raw,ours RUNS=3 SCALE=0.1
bench: $(VENV)/.installed-fast
	@PYTHONPATH=tests $(BIN)/python -m bench --home $(VENV) \
		$(if $(ROWS),--rows $(ROWS)) $(if $(ONLY),--only $(ONLY)) \
		$(if $(RUNS),--runs $(RUNS)) $(if $(SCALE),--scale $(SCALE))

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: setup.cfg setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[test]
	@touch $@ $(VENV)/.installed

# with gunicorn's C parser, or without it where it cannot be compiled
$(VENV)/.installed-fast: setup.cfg setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[fast] || \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@ $(VENV)/.installed

clean:
	rm -rf .venv* build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
