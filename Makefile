# `make demo` shows a pod in its environment, `make test` runs every test; both set up what they need.

PYTHON ?=
export PYTHON
BIN := .venv/bin
PIP_TOOLS := 7.6.2

.PHONY: help venv demo test bench lint proto docs lock clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   a real pod on a private containerd, start to end, on this machine (as root)"
	@echo "make test   every test (as root for those on a real containerd)"
	@echo "make bench  against a Go plugin, and through a real containerd (as root, ten minutes)"
	@echo "make lint   ruff and mypy        make proto  generate the code of proto/"
	@echo "make venv   .venv as locked      make docs   generate config.toml.example and the tables of docs/"
	@echo "make lock   newer dependencies   make clean  remove what was made"

venv: .venv/.made

.venv/.made: requirements-dev.lock pyproject.toml
	@.ci/prepare venv
	@# --clear: one whose Python is gone, or that moved here, is of no use.
	@$(BIN)/python -c '' 2>/dev/null || "$$(.ci/python)" -m venv --clear .venv
	@echo "==> installing what requirements-dev.lock says into .venv"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv
	@$(BIN)/nri-flox demo

test: venv
	@.ci/prepare test
	@$(BIN)/python -m pytest

bench: venv
	@.ci/prepare test
	@benchmarks/run

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

proto: venv
	$(BIN)/python proto/generate

docs: venv
	$(BIN)/python -m nri_flox.config example > config.toml.example
	$(BIN)/python -m nri_flox.config tables | \
		sed -i -e '/^<!-- keys:/,/^<!-- end of keys/{//!d}' -e '/^<!-- keys:/r /dev/stdin' docs/configuration.md

# The locks have every platform's hashes, so they are the same wherever this is run.
lock:
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && \
		"$$(.ci/python)" -m venv "$$tools" && "$$tools/bin/pip" install --quiet pip-tools==$(PIP_TOOLS) && \
		compile() { CUSTOM_COMPILE_COMMAND="make lock" "$$tools/bin/pip-compile" --quiet --upgrade --generate-hashes \
			--allow-unsafe --strip-extras --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
			"$$@" pyproject.toml; } && \
		compile --output-file requirements.lock && \
		compile --extra dev --constraint requirements.lock --output-file requirements-dev.lock

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
