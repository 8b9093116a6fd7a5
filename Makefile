# Everything runs from .venv, which the first target makes; `make help` lists the targets.
PYTHON ?= python3
LAB_ARGS ?=
PAGES ?=
BIN := .venv/bin
LMMS := .venv-lmms
NOTEBOOK := notebooks/00_start_here.ipynb
AS_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
# Two files of tests at a time, the longest first, see conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
define CHECK
$(BIN)/ruff check .
$(BIN)/ruff format --check .
$(BIN)/mypy
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help lab check test test-lmms figures docs bench kills corpus life fuzz format clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

lab: .venv/.lab ## open the workbench in JupyterLab (LAB_ARGS="--no-browser --port 9999" adds arguments)
	$(BIN)/jupyter lab $(AS_ROOT) --ServerApp.root_dir=. --LabApp.default_url='/lab/tree/$(NOTEBOOK)?file-browser-path=/' $(LAB_ARGS)

check: .venv/.test ## check style and types, run the fast tests: an answer in two minutes
	$(CHECK)
	$(PYTEST) -m "not slow"

test: .venv/.test ## check style and types, run every test; gets a browser for those that drive one
	$(CHECK)
	$(BIN)/python tests/browser.py
	$(PYTEST)

test-lmms: $(LMMS)/.done ## run lmms-eval itself on a small task, in an environment of its own
	$(LMMS)/bin/python -m pytest tests/test_lmms_eval.py vtc_lab/integrations

figures: .venv/.test ## compute the gallery in figures/ anew (under 20 minutes on two cores)
	$(BIN)/python benchmarks/make_figures.py

docs: .venv/.test ## execute the notebooks and write their pages into docs/notebooks/ (PAGES="00 03" does these two)
	$(BIN)/python benchmarks/make_pages.py $(PAGES)

bench: .venv/.test ## measure: slider to picture, cost of each method and measure, a sweep against single runs, throughput, stages inside, streams
	$(BIN)/python benchmarks/explorer_latency.py
	$(BIN)/python benchmarks/reduce.py
	$(BIN)/python benchmarks/fidelity_cost.py
	$(BIN)/python benchmarks/sweep_cost.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/inside.py
	$(BIN)/python benchmarks/stream.py

kills: .venv/.test ## kill a sweep twenty times and compare its table with an undisturbed one
	$(BIN)/python benchmarks/sweep_kills.py --together

corpus: .venv/.test ## read 500 bad clips and count right frames, errors, wrong frames, exceptions and hangs
	$(BIN)/python benchmarks/corpus.py

life: .venv/.test ## live long in one kernel: 2,000 slider moves, 500 changes of clip, 200 exports; print memory and latency
	$(BIN)/python benchmarks/long_life.py

fuzz: .venv/.test ## draw 10,000 new values for every door that data comes in by (hours), and new ones for the invariants
	VTC_FUZZ=1 $(PYTEST) -m "not slow"
	VTC_FUZZ=10000 $(PYTEST) tests/test_fuzz.py

format: .venv/.test ## put the code into the agreed style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and all caches; figures stay
	rm -rf .venv $(LMMS) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# A stamp is younger than what it was installed from, so a second run starts at once.
.venv/.lab: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP_INSTALL) -e .
	@touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/pip
	$(PIP_INSTALL) -e '.[test]'
	@touch $@ .venv/.lab

# lmms-eval wants an older PyAV, and what writes its tables an older dateutil. Its command imports transformers before
# anything of ours, so beside a CPU torch, what lets torchvision import has to be there from the start.
$(LMMS)/.done: pyproject.toml constraints.txt constraints-lmms.txt
	$(PYTHON) -m venv $(LMMS)
	grep -vE '^(av|python-dateutil)==' constraints.txt | cat - constraints-lmms.txt > $(LMMS)/constraints.txt
	$(LMMS)/bin/python -m pip install --disable-pip-version-check -c $(LMMS)/constraints.txt -e '.[lmms-eval]' pytest
	$(LMMS)/bin/python -c "import torchvision" 2>/dev/null || { \
	  site=$$($(LMMS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))"); \
	  cp vtc_lab/models/torchvision_ops.py "$$site"; echo "import torchvision_ops" > "$$site/torchvision_ops.pth"; }
	@touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "vtc_lab needs Python 3.11 or newer, '$(PYTHON)' is $$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo not there); name one: make PYTHON=python3.12 lab" >&2; exit 1; }
	@echo "Installing into .venv; this takes some minutes the first time."
	$(PYTHON) -m venv .venv
