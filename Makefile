# Two commands do all the set-up: `make demo` draws a picture, `make test` runs every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# `make bench BENCH="loop unet --quick"` measures some of it; `python -m benchmarks --list` says what there is.
BENCH ?= --json .cache/benchmarks.json

.PHONY: demo test bench clean

demo: $(VENV)/.installed
	$(BIN)/calotype generate "a red apple" --output apple.png --force

test: $(VENV)/.installed-test
	scripts/check

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable ".[test]"
	@touch $(VENV)/.installed $@

# The peers live in an environment of their own, at the versions that the published figures were measured beside.
bench: .venv-bench/.installed
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} .venv-bench/bin/python -m benchmarks $(BENCH)

.venv-bench/.installed: pyproject.toml constraints.txt benchmarks/constraints.txt benchmarks/alone.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--constraint benchmarks/constraints.txt --editable ".[bench]"
	.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement benchmarks/alone.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
