PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

SECONDS ?= 120
BROKER ?= redis

.PHONY: demo test check format chaos bench

demo: $(STAMP)
	@$(BIN)/python -m worker demo

test: $(STAMP)
	$(BIN)/pytest

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest

# Breaks everything at random and proves the books: make chaos SECONDS=600 BROKER=rabbitmq SEED=7
chaos: $(STAMP)
	@$(BIN)/python -m tests.faults.chaos --seconds $(SECONDS) --broker $(BROKER) $(if $(SEED),--seed $(SEED))

# Ours against the naive ways, half an hour: make bench PARTS="holds settles growth memory"
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(PARTS)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)
