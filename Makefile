# make demo: from nothing to a curated pool and its report.   make test: everything that CI checks.   make bench: speed.
.PHONY: demo test test-object-store test-monitoring cluster-test chaos bench bench-full lint help
.DELETE_ON_ERROR:

VENV ?= .venv
output ?= runs/demo
# The newest of the interpreters that are known to work.
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
BIN := $(VENV)/bin
SOURCES := pipeline stages cluster

help:
	@sed -n 's/^# //p' Makefile | head -1

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (two to five minutes, 7 GB with torch)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

data/demo/demo.json: | $(VENV)/.installed
	$(BIN)/gradsieve pool make data/demo

demo: $(VENV)/.installed data/demo/demo.json
	$(BIN)/python -m pipeline.run demo.yaml output=$(output)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES) tests benchmarks
	$(BIN)/ruff format --check $(SOURCES) tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

workers ?= 2
test: lint
	$(BIN)/python -m pytest -n $(workers) --dist loadfile --no-loadscope-reorder

# Whole runs on a real S3 server; Debian: apt-get install radosgw ceph-mon ceph-osd ceph-common
test-object-store: $(VENV)/.installed-dev
	GRADSIEVE_STORE_RUNS=1 $(BIN)/python -m pytest tests/object_store

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

# Ratios beside targets, under 10 minutes; bench-full measures at full size, for hours. `cases="select reshard"` chooses.
# Exit code 2 where a target was missed.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --form short $(cases)

bench-full: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --form full $(cases)

# Real clusters on this machine: jobs over a real S3 server, lost nodes, killed drivers, fewer ranks, an autoscaler, and
# hosts in network namespaces whose cables are pulled (root). About an hour. Debian: the packages of test-object-store.
cluster-test: $(VENV)/.installed-dev
	GRADSIEVE_CLUSTER_RUNS=1 GRADSIEVE_FULL_MATRIX=1 $(BIN)/python -m pytest tests/cluster tests/crash/test_nodes.py

# Minutes: a real Prometheus on a run on a real Ray; Debian: apt-get install prometheus
test-monitoring: $(VENV)/.installed-dev
	GRADSIEVE_LIVE_METRICS=1 $(BIN)/python -m pytest tests/cluster/monitoring

# Hours: the full kill matrix, then random kills until there were enough; the seed is printed and can be given again.
kills ?= 100
chaos: $(VENV)/.installed-dev
	GRADSIEVE_FULL_MATRIX=1 $(BIN)/python -m pytest tests/crash
	$(BIN)/python -m tests.crash.chaos --kills $(kills) $(if $(seed),--seed $(seed))
