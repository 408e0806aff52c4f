# Each target works alone on a machine that has Python 3.10+, pip and make.
PYTHON ?= python3
PYTEST := pytest -n 2 --dist loadfile --no-loadscope-reorder
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

.PHONY: demo test check docs setup setup-all

demo: setup  ## draw synthetic receipts, train a small DBNet on them, print the validation hmean
	$(UV) run --no-sync scripts/train.py

# Two test files run at a time: threads of theirs beyond that would spend their time waiting for each other.
test check: export OMP_NUM_THREADS = 1

test: setup-all  ## run the tests; those that need a GPU are skipped where there is none
	$(UV) run --no-sync $(PYTEST)

check: setup-all  ## everything that CI runs: format, lint, types, tests
	$(UV) run --no-sync ruff format --check .
	$(UV) run --no-sync ruff check .
	$(UV) run --no-sync mypy
	$(UV) run --no-sync lint-imports
	$(UV) run --no-sync $(PYTEST)

docs: $(UV)  ## build the documentation into site/; open site/index.html
	$(UV) sync --quiet --inexact --group docs
	NO_MKDOCS_2_WARNING=1 $(UV) run --no-sync mkdocs build --strict --quiet

setup: $(UV)
	$(UV) sync --quiet

setup-all: $(UV)  ## with what only tests and benchmarks need
	$(UV) sync --quiet --extra webdataset --extra s3 --extra bench --compile-bytecode  # many interpreters are started

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv
