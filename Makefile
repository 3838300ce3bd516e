# Every command of the project. Each sets up what it needs; `make` alone lists them.

PYTHON ?= python3
VENV := .venv
PARITY_VENV := .venv-parity
TRAIN_VENV := .venv-train
INFINITY_VENV := .venv-infinity
CLIP_AS_SERVICE_VENV := .venv-clip-as-service
BIN := $(VENV)/bin
BUF := $(BIN)/buf
# Exact tested versions, of build requirements too: pip reads this variable wherever it installs.
export PIP_CONSTRAINT := $(CURDIR)/requirements/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP_INSTALL := -m pip install --quiet --no-input

DEMO_STAMP := $(VENV)/.demo-stamp
DEV_STAMP := $(VENV)/.dev-stamp
PHOTOS_STAMP := $(VENV)/.photos-stamp
LOADTEST_STAMP := $(VENV)/.loadtest-stamp
PARITY_STAMP := $(PARITY_VENV)/.stamp
BENCH_STAMP := $(PARITY_VENV)/.bench-stamp
TRAIN_STAMP := $(TRAIN_VENV)/.stamp
INFINITY_STAMP := $(INFINITY_VENV)/.stamp
CLIP_AS_SERVICE_STAMP := $(CLIP_AS_SERVICE_VENV)/.stamp
SETUP_INPUTS := pyproject.toml requirements/constraints.txt

# Words to search for in `make demo`, the folder of `make photos`, and options for the programs that the targets run.
QUERY ?=
DIR ?=
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help prerequisites setup demo serve photos train-demo test test-system test-large faults parity check format protos \
	proto-baseline bench bench-pixels bench-towers bench-serving bench-telemetry bench-peers bench-index bench-index-command bench-churn loadtest clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

prerequisites: ## check that this machine can set the project up
	@$(PYTHON) scripts/prerequisites.py

setup: $(DEV_STAMP) ## set up .venv with everything for working on the project

# ── For users ────────────────────────────────────────────────────────────────────────────────────────────────────────

demo: $(DEMO_STAMP) ## export the demo model, serve it, index sample pictures, search; QUERY="…" adds a query
	$(BIN)/python -m demo.run $(if $(QUERY),--query "$$QUERY") $(ARGS)

serve: $(DEMO_STAMP) ## the demo's server and its page, staying up until interrupted
	$(BIN)/python -m demo.run --stay $(ARGS)

photos: $(PHOTOS_STAMP) ## search your own photos: make photos DIR=~/Pictures (downloads a model once)
	$(BIN)/clip-search up $(if $(DIR),"$(DIR)",$(error say which folder: make photos DIR=~/Pictures)) $(ARGS)

train-demo: $(TRAIN_STAMP) ## train the demo model afresh (hours; downloads pictures from the npm registry)
	$(TRAIN_VENV)/bin/python -m demo.training.train $(ARGS)

# ── Tests ────────────────────────────────────────────────────────────────────────────────────────────────────────────

test: $(DEV_STAMP) ## every test that needs only Python
	$(BIN)/python -m pytest -m "not system and not large and not faults and not parity" $(ARGS)

test-system: $(DEV_STAMP) ## tests that need programs of the system, such as Chromium or strace, or root
	$(BIN)/python -m pytest -m "system and not faults and not parity" $(ARGS)

test-large: $(DEV_STAMP) ## models of true size, which take minutes and gigabytes
	$(BIN)/python -m pytest -m large $(ARGS)

faults: $(DEV_STAMP) ## the long fault suite
	$(BIN)/python -m pytest -m faults tests/faults $(ARGS)

parity: $(PARITY_STAMP) ## comparison with PyTorch, in a set-up of its own
	$(PARITY_VENV)/bin/python -m pytest -m parity tests/parity $(ARGS)

# ── Quality ──────────────────────────────────────────────────────────────────────────────────────────────────────────

check: $(DEV_STAMP) ## format, lint, types, import rules, protos, generated code
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BUF) lint
	$(BUF) format --diff --exit-code
	$(BUF) breaking --against proto/baseline.binpb
	$(BIN)/python scripts/generate_protos.py --check
	$(BIN)/python scripts/generate_api_page.py --check

format: $(DEV_STAMP) ## format the code and the protos, and fix what can be fixed
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	$(BUF) format --write

protos: $(DEV_STAMP) ## regenerate the Python code of the API and its page, docs/api.md
	$(BIN)/python scripts/generate_protos.py
	$(BIN)/python scripts/generate_api_page.py

proto-baseline: $(DEV_STAMP) ## make the API as it is now the one that later changes must not break
	$(BUF) build --exclude-source-info -o proto/baseline.binpb

# ── Measurements ─────────────────────────────────────────────────────────────────────────────────────────────────────

bench: $(BENCH_STAMP) $(INFINITY_STAMP) $(CLIP_AS_SERVICE_STAMP) ## every benchmark, one after the other; each ends with one JSON line
	set -e; for program in bench/bench_*.py; do echo "== $$program"; $(PARITY_VENV)/bin/python -m "bench.$$(basename $$program .py)"; done

bench-towers: $(BENCH_STAMP) ## the towers beside other exports and runtimes; ARGS="vit-b-32 --only '1 text'"
	$(PARITY_VENV)/bin/python -m bench.bench_towers $(ARGS)

bench-serving: $(DEMO_STAMP) ## a real server beside its bare towers; ARGS="--only throughput --soak 10"
	$(BIN)/python -m bench.bench_serving $(ARGS)

bench-telemetry: $(DEV_STAMP) ## what metrics and traces cost: servers with them beside one without
	$(BIN)/python -m bench.bench_telemetry $(ARGS)

bench-peers: $(BENCH_STAMP) $(INFINITY_STAMP) $(CLIP_AS_SERVICE_STAMP) ## the server beside Infinity and clip-as-service; ARGS="--rounds 1"
	$(PARITY_VENV)/bin/python -m bench.bench_peers $(ARGS)

bench-pixels: $(DEV_STAMP) ## decoding and preprocessing beside Pillow's full decode; ARGS="--pictures 8"
	$(BIN)/python -m bench.bench_pixels $(ARGS)

bench-index: $(DEV_STAMP) ## a collection under searches and ingest; ARGS="--rows 1000000 --data DIR"
	$(BIN)/python -m bench.bench_index $(ARGS)

bench-index-command: $(DEV_STAMP) ## `search_client index` beside a bare client, killed and started again
	$(BIN)/python -m bench.bench_index_command $(ARGS)

bench-churn: $(DEV_STAMP) ## what many updates leave of a collection's recall, memory and files
	$(BIN)/python -m bench.bench_churn $(ARGS)

loadtest: $(LOADTEST_STAMP) ## a load test with an SLO and an HTML report; ARGS="--host HOST:PORT --profile spike"
	$(BIN)/python -m loadtest.run $(ARGS)

clean: ## remove set-ups, caches and whatever the commands wrote
	rm -rf $(VENV) $(PARITY_VENV) $(TRAIN_VENV) $(INFINITY_VENV) $(CLIP_AS_SERVICE_VENV) .demo .bench build dist out .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# ── Set-up ───────────────────────────────────────────────────────────────────────────────────────────────────────────
# A stamp says that its extras are installed; it is renewed when the requirements change.

$(VENV)/bin/python:
	@$(PYTHON) scripts/prerequisites.py --without-compiler
	$(PYTHON) -m venv $(VENV)

$(DEMO_STAMP): $(SETUP_INPUTS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[demo]'
	@touch $@

$(LOADTEST_STAMP): $(SETUP_INPUTS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[demo,loadtest]'
	@touch $@ $(DEMO_STAMP)

$(PHOTOS_STAMP): $(SETUP_INPUTS) | $(VENV)/bin/python
	$(BIN)/python $(PIP_INSTALL) --editable '.[photos]'
	@touch $@

$(DEV_STAMP): $(SETUP_INPUTS) | $(VENV)/bin/python
	@$(PYTHON) scripts/prerequisites.py
	$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(DEMO_STAMP) $(LOADTEST_STAMP) $(PHOTOS_STAMP)

# torch comes first: a plain requirement is answered with the small build for processors where there is one.
$(PARITY_STAMP): export PIP_CONSTRAINT := $(CURDIR)/requirements/constraints-parity.txt
$(PARITY_STAMP): pyproject.toml requirements/constraints-parity.txt
	@$(PYTHON) scripts/prerequisites.py
	$(PYTHON) -m venv $(PARITY_VENV)
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) torch==2.13.0
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) --editable '.[server,export,optimum,train,test]'
	@touch $@

# The benchmarks' peers are those of the comparison with PyTorch, and more.
$(BENCH_STAMP): export PIP_CONSTRAINT := $(CURDIR)/requirements/constraints-parity.txt
$(BENCH_STAMP): $(PARITY_STAMP)
	$(PARITY_VENV)/bin/python $(PIP_INSTALL) --editable '.[bench]'
	@touch $@

# Peer servers need older companions than the project. torch comes first here too.
$(INFINITY_STAMP): export PIP_CONSTRAINT := $(CURDIR)/requirements/constraints-infinity.txt
$(INFINITY_STAMP): requirements/constraints-infinity.txt
	$(PYTHON) -m venv $(INFINITY_VENV)
	$(INFINITY_VENV)/bin/python $(PIP_INSTALL) torch==2.13.0
	$(INFINITY_VENV)/bin/python $(PIP_INSTALL) 'infinity-emb[server,torch]==0.0.78' aiohttp pillow
	@touch $@

# torchvision without its requirements: this is the last line of releases whose Python transforms load beside any torch.
$(CLIP_AS_SERVICE_STAMP): export PIP_CONSTRAINT := $(CURDIR)/requirements/constraints-clip-as-service.txt
$(CLIP_AS_SERVICE_STAMP): requirements/constraints-clip-as-service.txt
	$(PYTHON) -m venv $(CLIP_AS_SERVICE_VENV)
	$(CLIP_AS_SERVICE_VENV)/bin/python $(PIP_INSTALL) torch==2.13.0 'setuptools==80.10.2'
	$(CLIP_AS_SERVICE_VENV)/bin/python $(PIP_INSTALL) --no-deps torchvision==0.16.2
	$(CLIP_AS_SERVICE_VENV)/bin/python $(PIP_INSTALL) --no-deps --requirement requirements/constraints-clip-as-service.txt
	@touch $@

$(TRAIN_STAMP): $(SETUP_INPUTS)
	@$(PYTHON) scripts/prerequisites.py
	$(PYTHON) -m venv $(TRAIN_VENV)
	$(TRAIN_VENV)/bin/python $(PIP_INSTALL) torch==2.13.0
	$(TRAIN_VENV)/bin/python $(PIP_INSTALL) --editable '.[export,train]'
	@touch $@
