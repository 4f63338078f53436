# Every target makes the machine ready first (.ci/setup); a second run needs no network.
PYTHON_BIN := .venv/bin

.PHONY: demo test faults bench soak lint openapi format
demo: setup-demo
	$(PYTHON_BIN)/python -m tests.e2e.demo

# Every fault, but a fifth of the operations that `make faults` takes.
test: export NETPOL_FAULT_OPERATIONS ?= 2000
test: setup-test lint
	$(PYTHON_BIN)/python -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

faults: setup-faults
	$(PYTHON_BIN)/python -m pytest -q tests/faults

bench: setup-bench
	$(PYTHON_BIN)/python -m bench

soak: setup-bench
	$(PYTHON_BIN)/python -m bench.soak

lint: setup-test
	$(PYTHON_BIN)/ruff check .
	$(PYTHON_BIN)/ruff format --check .
	$(PYTHON_BIN)/lint-imports
	$(PYTHON_BIN)/mypy

openapi: setup-openapi
	$(PYTHON_BIN)/python -m apiserver.api.openapi_files

format: setup-format
	$(PYTHON_BIN)/ruff format .
	$(PYTHON_BIN)/ruff check --fix .

.PHONY: setup-%
setup-%:
	@.ci/setup $*
