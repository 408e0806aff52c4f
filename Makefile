# Each target works alone on a machine that has Python 3.10+, pip and make.
PYTHON ?= python3
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.DEFAULT_GOAL := help
.PHONY: help demo test check fuzz faults docs constraints image-proof setup setup-all

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: setup  ## draw synthetic receipts, train a small DBNet on them, print the validation hmean
	$(UV) run --no-sync scripts/train.py

# Two test files run at a time, so one thread each: more would only wait for each other.
test check: export OMP_NUM_THREADS = 1
# Container images set it; then each interpreter that the tests start would compile the project again.
test check: export PYTHONDONTWRITEBYTECODE =

test: setup-all  ## run the tests; those that need a GPU are skipped where there is none
	$(UV) run --no-sync $(PYTEST)

check: setup-all  ## everything that CI runs: format, lint, types, import contracts, tests with the slowest 20 listed
	$(UV) run --no-sync ruff format --check .
	$(UV) run --no-sync ruff check .
	$(UV) run --no-sync mypy
	$(UV) run --no-sync lint-imports
	$(UV) run --no-sync $(PYTEST) --durations=20

FUZZ_SECONDS ?= 3600

fuzz: setup-all  ## feed broken files to every reader for FUZZ_SECONDS, one hour by default, and print the counts
	$(UV) run --no-sync pytest -s tests/faults/fuzz --fuzz-seconds $(FUZZ_SECONDS)

FAULT_ROUNDS ?= 30

faults: setup-all  ## kill, stop and fill the disks of runs FAULT_ROUNDS times a test, 30 by default, and compare how they end; an hour or more
	FAULT_ROUNDS=$(FAULT_ROUNDS) OMP_NUM_THREADS=1 $(UV) run --no-sync pytest -s -m slow tests/faults

docs: $(UV)  ## build the documentation into site/; open site/index.html
	$(UV) sync --quiet --inexact --group docs
	NO_MKDOCS_2_WARNING=1 $(UV) run --no-sync mkdocs build --strict --quiet

constraints: $(UV)  ## write docker/constraints.txt, the versions that the images install, from the lock file
	head -2 docker/constraints.txt > docker/constraints.new
	$(UV) export --quiet --no-dev --extra bench --extra webdataset --extra s3 --extra onnx --no-hashes --no-annotate --no-header \
		--no-emit-project >> docker/constraints.new
	mv docker/constraints.new docker/constraints.txt

image-proof:  ## install the CPU image's packages into an empty environment and try its commands; minutes, 10 GB, then deleted
	docker/image_proof.sh $(PYTHON)

setup: $(UV)  ## install what training needs into .venv
	$(UV) sync --quiet

# The packages are compiled because the tests start many interpreters. On a busy machine this exceeds the 60 seconds that uv allows.
setup-all: $(UV)  ## install what tests and benchmarks need too
	UV_COMPILE_BYTECODE_TIMEOUT=900 $(UV) sync --quiet --extra webdataset --extra s3 --extra onnx --extra bench --compile-bytecode

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==0.13.8  # the version of docker/install.sh
