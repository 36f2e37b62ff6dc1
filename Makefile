# Commands of development, in the environment that CONTRIBUTING.md sets up. `make check BIN=path/to/bin` uses another.
BIN = .venv/bin

.PHONY: check slow format
check: # what .ci/run does after its set-up
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

slow: # learning tests, a wheel, launchers that need other packages
	$(BIN)/pytest -m slow

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
