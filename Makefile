# `make demo` and `make test` are all that a fresh clone needs; both install first.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
LOCK_HEADER := "\# Every version that set-up installs, made by \`make lock\` from pyproject.toml: pip-compile with the dev extra,\n\# less what torch's CUDA build brings along, so that the CPU or CUDA build that the platform has is installed."

.PHONY: install demo up test test-slow bench bench-train bench-serve lint check lock clean

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or later is needed, {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install -r requirements.lock
	$(VENV)/bin/pip install --no-deps --editable .
	@touch $@

demo: install  ## DEMO_ARGS=--exit stops the platform at the end.
	$(VENV)/bin/gpu-assets demo $(DEMO_ARGS)

up: install
	$(VENV)/bin/gpu-assets up $(UP_ARGS)

test: install  ## About 9 minutes on 2 cores.
	$(VENV)/bin/python -m pytest -n 2 -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: install  ## About 7 minutes on 2 cores.
	$(VENV)/bin/python -m pytest -n 2 -m "slow and not gpu" $(PYTEST_ARGS)

bench: install  ## Figures of benchmarks/README.md; about ten minutes.
	$(VENV)/bin/python -m benchmarks.loop_latency
	$(VENV)/bin/python -m benchmarks.validation
	$(VENV)/bin/python -m benchmarks.duplicates

bench-train: install  ## Training beside TRL on a CPU; about two minutes on an idle machine.
	$(VENV)/bin/python -m benchmarks.train

bench-serve: install  ## Serving beside `transformers serve` on a CPU; about three minutes on an idle machine.
	$(VENV)/bin/python -W ignore -m benchmarks.serve $(BENCH_ARGS)

lint: install
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

check: lint test

lock: install  ## Versions already in the lock are kept where they still fit; delete it to take the newest.
	$(VENV)/bin/pip install pip-tools
	$(VENV)/bin/pip-compile --quiet --extra dev --strip-extras --no-header --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-annotate --output-file requirements.lock pyproject.toml
	@grep -v -E '^(nvidia-[^m]|cuda-|triton|#|$$)' requirements.lock | sed -E 's/^(torch==[0-9.]+)\+[a-z0-9.]+/\1/' > requirements.lock.new
	@{ printf $(LOCK_HEADER); echo; cat requirements.lock.new; } > requirements.lock && rm requirements.lock.new

clean:  ## Leaves var, where all data lies.
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +
