PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help
.PHONY: help setup check fix test run bench mutants soak compose-smoke

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 15

setup: .venv/ready .venv-prefect/ready ## make .venv with everything that development needs

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[embedded]' --group dev
	@touch $@

# Prefect's own client polls us in a test; what it depends on stays apart from what we do.
.venv-prefect/ready:
	$(PYTHON) -m venv .venv-prefect
	.venv-prefect/bin/python -m pip install --quiet 'prefect-client>=3.4,<4'
	@touch $@

.venv/run: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[embedded]'
	@touch $@

check: setup ## formatting, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: setup ## format and repair what can be repaired
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup ## all tests; the real server is the embedded one, and redis-server where it is found
	$(BIN)/pytest

run: .venv/run ## a dispatcher, a worker and one run, on this machine, until Ctrl-C
	$(BIN)/dispatcher dev --submit examples/hello.json --at +2s --new-id

bench: setup ## measurements side by side in one run, on a real server
	$(BIN)/python -m bench

mutants: setup ## break each script on purpose; fails if the property test does not notice
	$(BIN)/python tests/mutants.py

soak: setup ## the property test, ten times longer
	DISPATCHER_TEST_STEPS=20000 $(BIN)/pytest tests/redis/test_properties.py

compose-smoke: setup ## docker-compose.yml on an engine of its own, as root, about six minutes
	$(BIN)/python -m tests.compose.smoke
