# The two commands to know are `make demo` and `make test`; `make help` lists the rest.
# ARGS is passed on: `make demo ARGS="--seed 7"`, `make test ARGS="tests/shared -x"`.

SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(CURDIR)/.parts/bin:$(PATH)

.PHONY: help demo test unit lint format bench setup parts pin clean

help: ## List the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: setup ## Start Kafka, Redis, bridge and two edges with moving vehicles; prints the page's URL
	@python scripts/parts.py --must redis
	@exec bridge demo $(ARGS)

test: setup parts ## Every test, on real Kafka and Redis
	@exec python -m pytest $(ARGS)

unit: setup ## Only the tests that need no server
	@exec python -m pytest -m "not integration and not faults and not browser" $(ARGS)

lint: setup ## Format, rules, types and import contracts
	@status=0; for check in "ruff format --check ." "ruff check ." mypy lint-imports; do \
	    echo "== $$check"; $$check || status=1; \
	done; exit $$status

format: setup ## Rewrite the code in the project's form
	ruff format .
	ruff check --fix .

bench: setup ## Measure: every benchmark in bench/, or ARGS=bench/NAME.py
	@python scripts/parts.py --must redis
	@set -e; for file in $(or $(ARGS),$(wildcard bench/bench_*.py)); do echo "== $$file"; python $$file; done

setup: ## Make .venv with all that is needed (the others call it)
	@scripts/setup.sh

parts: setup ## Obtain the real parts that the tests run on, under .parts/
	@python scripts/parts.py

pin: ## Pin the newest versions that pyproject.toml allows
	scripts/pin.sh

clean: ## Remove all that was made here
	rm -rf .venv .parts .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist bench/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
