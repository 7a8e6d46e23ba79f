# The whole door: everything a developer or CI does goes through a target here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODELS ?= .models
ENGINE ?= engines/all-minilm-l6-v2
PORT ?= 7997
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install models minilm truss demo serve test fuzz test-gpu bench-gpu lint format bench bench-peers size check clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv with everything, the command at .venv/bin/bei

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[build,tensorrt-rtx,s3,gcs,azure,bench,otel,dev]'
	@touch $@

models: install  ## fetch, verify, convert and cache the pinned test models
	$(BIN)/python -m tests.models --output $(MODELS)

# The one model of the demo and the server: needs neither npm nor apt-get.
minilm: install
	$(BIN)/python -m tests.models --output $(MODELS) --only all-minilm-l6-v2

demo: minilm  ## build a real model, serve it, query it, print the answer
	$(BIN)/python examples/demo.py --models $(MODELS)

serve: minilm  ## build MiniLM if needed and serve it on $(PORT)
	@test -d $(ENGINE) || $(BIN)/bei build examples/all-minilm-l6-v2 --output $(ENGINE)
	$(BIN)/bei serve $(ENGINE) --port $(PORT)

TRUSS := .venv-truss/.installed

truss: $(TRUSS)  ## Truss's own parser, in an environment of its own, for tests/differential

$(TRUSS): tests/differential/constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $< truss
	touch $@

test: models truss  ## run every test; no GPU, and no network once models and Truss are there
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

FUZZ_TARGETS ?= config manifest checkpoint weights tokenizer archive requests headers http
FUZZ_SECONDS ?= 60

FUZZ := $(VENV)/.installed-fuzz

$(FUZZ): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	@touch $@

fuzz: $(FUZZ)  ## look for inputs that break a parser, $(FUZZ_SECONDS) s each
	@for target in $(FUZZ_TARGETS); do \
		$(BIN)/python -m tests.fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; done

GPU := $(VENV)/.installed-gpu

# What compiles for every GPU, and comes from NVIDIA's own index.
$(GPU): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[tensorrt]'
	@touch $@

test-gpu: minilm $(GPU)  ## on a machine with an NVIDIA GPU: everything, into a report to send back
	$(BIN)/python -m tests.models --output $(MODELS) --only smollm2-135m
	$(BIN)/python -m tests.gpu --models $(MODELS) --report gpu-report.json

bench-gpu: minilm $(GPU)  ## on a machine with an NVIDIA GPU: its speed alone, into a report to send back
	$(BIN)/python -m tests.models --output $(MODELS) --only smollm2-135m
	$(BIN)/python -m tests.gpu --models $(MODELS) --speed-only --report gpu-speed.json

lint: install  ## formatting, lint, types, layers, sizes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python benchmarks/size.py

format: install  ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install  ## the serving benchmark: reference, raw engine, HTTP, in one run
	$(BIN)/python -m tests.models --output $(MODELS) --only all-minilm-l6-v2 lee50
	$(BIN)/python benchmarks/serving.py --models $(MODELS)

PEERS := .venv-peers
# Neither can live with the versions of the other, nor with ours.
PEERS_INSTALLED := $(PEERS)/infinity/.installed $(PEERS)/libraries/.installed

$(PEERS)/%/.installed: benchmarks/%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	touch $@

bench-peers: install $(PEERS_INSTALLED)  ## beside sentence-transformers, FastEmbed and Infinity, in one run
	$(BIN)/python -m tests.models --output $(MODELS) --only all-minilm-l6-v2 lee50
	$(BIN)/python benchmarks/peers.py --models $(MODELS) --peers-env $(PEERS) --markdown

size: install  ## lines per layer, and what exceeds the budget
	$(BIN)/python benchmarks/size.py

check: lint test  ## exactly what CI runs

clean:  ## remove everything that was made here
	rm -rf $(VENV) .venv-truss .venv-peers $(MODELS) $(ENGINE) engine engines dist .pytest_cache .ruff_cache .mypy_cache \
		.hypothesis .fuzz .import_linter_cache .coverage
