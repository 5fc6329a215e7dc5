PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

# Tests wait more than they work. A file stays with one process: its servers are started once.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

SECONDS ?= 120
DATABASE ?= postgresql
BROKER ?= redis
DURABILITY ?= database
RELAYS ?= mix

.PHONY: bench chaos check demo docs faults format lint openapi test

demo: $(STAMP)
	@$(BIN)/python -m worker demo

test: $(STAMP)
	$(PYTEST)

faults: $(STAMP)
	$(PYTEST) -m faults

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/mypy docs/build.py docs/reference.py docs/examples/first.py docs/examples/relay.py
	$(BIN)/lint-imports

# After a change of what the HTTP door takes or answers.
openapi: $(STAMP)
	$(BIN)/python -m tests.unit.api.test_describing > docs/openapi.json

check: lint test

# The site, strictly: a broken link is an error. It is in var/site.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Breaks everything at random, mends nothing, and proves every balance:
# make chaos SECONDS=600 DATABASE=mariadb BROKER=rabbitmq DURABILITY=broker RELAYS=http SEED=7
chaos: $(STAMP)
	@$(BIN)/python -m tests.faults.chaos --seconds $(SECONDS) --database $(DATABASE) --broker $(BROKER) \
		--durability $(DURABILITY) --relays $(RELAYS) $(if $(SEED),--seed $(SEED))

# Ours against the naive ways, half an hour: make bench PARTS="price holds mariadb http settles tuning growth memory"
bench: $(STAMP)
	$(BIN)/python -m benchmarks $(PARTS)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)
