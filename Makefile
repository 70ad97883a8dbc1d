# Every target works without an activated environment; .venv is made when it is missing or stale.
.DEFAULT_GOAL := help
SHELL := /bin/sh
RUN = PATH="$(CURDIR)/.venv/bin:$$PATH"
# Two processes; tests/conftest.py says which tests stay together. ARGS="-n 0 tests/test_files.py" takes one.
PYTEST = $(RUN) python -m pytest -n 2 --dist loadscope --no-loadscope-reorder
UV_COMPILE = .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	--custom-compile-command "make lock" $(UPGRADE)

.PHONY: help setup repro test test-all mutants lint bench gate verify audit docs lock

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: ## make or fix .venv (PYTHON=python3.12 chooses the interpreter)
	@scripts/setup.sh

repro: setup ## run the pipeline of params.yaml: data, models, tables, figures (ARGS="-j 1" runs one stage at a time)
	@scripts/repro.sh $(ARGS)

test: setup ## run all tests but the exhaustive ones
	@$(PYTEST) $(ARGS)

test-all: setup ## run every test, the exhaustive ones too; much longer
	@$(PYTEST) --exhaustive $(ARGS)

mutants: setup ## plant known faults one by one and tell which test notices each (ARGS="-j 4 NAME ..."); half an hour
	@$(RUN) python scripts/mutants.py $(ARGS)

lint: setup ## check style, formatting and types
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

bench: setup ## measure speed, as ratios, and memory on this machine; 20 minutes (ARGS=--quick: two, speed alone)
	@$(RUN) python benchmarks/bench.py $(ARGS)
	@case "$(ARGS)" in *--quick*) ;; *) $(RUN) python benchmarks/memory.py ;; esac

gate: setup ## check that the committed dvc.lock follows from the committed code and params
	@scripts/check_lock.sh

verify: setup ## run the committed results again and compare (ARGS=--quick compares what is written, in seconds)
	@$(RUN) python -m netpress verify $(ARGS)

audit: setup ## report known vulnerabilities of the pinned requirements
	@scripts/audit.sh

docs: setup ## build the site of docs/ in site/, with the report of the committed metrics; a dead link is an error
	@.venv/bin/uv run --quiet --no-project --python .venv/bin/python --isolated --with-requirements requirements-docs.txt \
		sphinx-build -q -W --keep-going -c docs . site
	@$(RUN) python stages/aggregate.py > /dev/null
	@cp reports/index.html site/report.html

lock: setup ## compile requirements*.in again (UPGRADE=--upgrade takes newer versions)
	@$(UV_COMPILE) -o requirements.txt requirements.in
	@$(UV_COMPILE) -o requirements-timm.txt requirements-timm.in
	@$(UV_COMPILE) -o requirements-openvino.txt requirements-openvino.in
	@$(UV_COMPILE) -o requirements-s3.txt requirements-s3.in
	@$(UV_COMPILE) -o requirements-ray.txt requirements-ray.in
	@$(UV_COMPILE) -o requirements-docs.txt requirements-docs.in
	@$(UV_COMPILE) -o requirements-dev.txt requirements-dev.in
