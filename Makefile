# The main targets: `make demo` fine-tunes a real model, `make test` runs the tests.
.PHONY: demo docs transcripts test test-all test-portable lint bench configs clean

PYTEST := .venv/bin/python -m pytest

demo:
	@PYTHON="$(PYTHON)" scripts/install.sh run
	@.venv/bin/python demo/run.py

test:
	@PYTHON="$(PYTHON)" scripts/install.sh dev
	@$(MAKE) --no-print-directory lint
	@$(PYTEST) -n 2

test-all:
	@PYTHON="$(PYTHON)" scripts/install.sh dev
	@$(MAKE) --no-print-directory lint
	@$(PYTEST) -m "slow or not slow"

# Run the numerical tests with kernels for older instruction sets, and with one and three threads.
test-portable:
	@PYTHON="$(PYTHON)" scripts/install.sh dev
	@scripts/test_portable.sh

lint:
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check . || { echo "run: .venv/bin/ruff format ."; exit 1; }
	@.venv/bin/mypy

# Render every config of configs_py/ to configs_yaml/.
configs:
	@.venv/bin/python -m pytest -q --update-configs tests/test_configs.py

# Run the commands in the docs' console blocks and update their output.
transcripts:
	@.venv/bin/python -m pytest -q --update-transcripts tests/test_docs.py -k tune_line

docs:
	@PYTHON="$(PYTHON)" scripts/install.sh dev
	@.venv/bin/python -m sphinx --fail-on-warning --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

bench:
	@.venv/bin/python -m benchmarks.startup

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
