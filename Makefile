# `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check docs format clean help

help: ## Say what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[dev,docs]'
	touch $(READY)

demo: $(READY) ## Make a small corpus of synthetic videos and run the whole pipeline on it
	$(BIN)/mbert demo

test: $(READY) ## Run all tests, a process for each core; PYTEST="-m many" for the long ones
	$(BIN)/python -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder $(PYTEST)

check: $(READY) ## Formatting, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: $(READY) ## The documentation site, into site/index.html; any dead link stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: $(READY) ## Format the code and sort the imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and what the tools left
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info mbert-demo site
