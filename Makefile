# Needs make and Python 3.11 or newer with venv and pip; everything else is installed into .venv.
# PYTHON chooses the interpreter, ARGS goes to the program: make test ARGS="tests/common -k config"

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -c constraints.txt
# More workers than cores: half of the time of the tests is waiting for brokers, timeouts and processes.
WORKERS ?= 4
MINUTES ?= 10
SEED ?=
KILLS ?=
SEEDS ?= 1000
ARGS ?=
comma := ,

.DEFAULT_GOAL := help
.PHONY: help up down test soak simulate check bench docs image airgap-images test-containers
IMAGE ?= fieldpost:local
PYTHON_IMAGE ?=
# Behind a proxy that signs for others: the build trusts what this machine trusts.
AUTHORITIES ?= $(firstword $(wildcard $(SSL_CERT_FILE) /etc/ssl/certs/ca-certificates.crt))

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 22

up: $(VENV)/.ready-up ## Start broker, cloud controller and an edge agent; Ctrl-C stops them
	@$(BIN)/fieldpost up $(ARGS)

down: $(VENV)/.ready-up ## Stop what make up started, from another terminal
	@$(BIN)/fieldpost down $(ARGS)

# Hundreds of processes start there: Python must keep what it compiles. One test at a time is handed out, the long ones
# first (tests/conftest.py), so that no worker is left with the last long ones.
test: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.ready-test ## Run the whole test suite; HYPOTHESIS_PROFILE=thorough makes more examples; says what it skips
	@$(BIN)/python -m pytest -n $(WORKERS) --maxschedchunk=1 $(ARGS)

soak: $(VENV)/.ready-test ## Break everything for MINUTES (10) or KILLS with SEED (a random one) and print what became of it
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(KILLS),--kills $(KILLS)) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate: $(VENV)/.ready-test ## Run SEEDS (1000) simulated lives of edge, broker and cloud; a failure prints its seed
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) $(ARGS)

check: $(VENV)/.ready-test ## Check style, types and the dependency rule
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(VENV)/.ready-test ## Measure throughput, latency and footprint on this machine; ARGS="--only b5" chooses
	@$(BIN)/python -m bench $(ARGS)

image: ## Build the container image fieldpost:local; PYTHON_IMAGE names another base image
	@docker build --network host $(if $(PYTHON_IMAGE),--build-arg BASE_IMAGE=$(PYTHON_IMAGE)) \
		$(if $(AUTHORITIES),--secret id=authorities$(comma)src=$(AUTHORITIES)) -t $(IMAGE) .

airgap-images: ## Make stand-ins for the official images from Debian's packages, where no registry is reachable
	@deploy/airgap/build.sh

test-containers: $(VENV)/.ready-test ## Test the stack of compose.yaml and the brokers in containers, on the engine of this machine
	@FIELDPOST_CONTAINERS=1 $(BIN)/python -m pytest tests/stack $(ARGS)
	@FIELDPOST_CONTAINERS=1 $(BIN)/python -m tests.support.containers tests/cloud $(ARGS)

docs: $(VENV)/.ready-up ## Write the pages that come from the code: settings, commands, language-commands
	@$(BIN)/python docs/generate.py

$(VENV)/.ready-up: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing fieldpost into $(VENV)"
	@$(PIP) -e '.[embedded,api]'
	@touch $@

$(VENV)/.ready-test: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing fieldpost and the tools for its tests into $(VENV)"
	@$(PIP) -e '.[embedded,api,dev]'
	@touch $@ $(VENV)/.ready-up

# The interpreter is a link to the system's, older than the stamps: it is only ever made, never made again.
$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "fieldpost needs Python 3.11 or newer, found $$(python3 --version 2>&1 || :);" \
		"install one, or name it: make up PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "fieldpost needs Python 3.11 or newer;" \
		"$(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; exit 1; }
	@echo "making the virtual environment $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no virtual environment could be made;" \
		"on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
