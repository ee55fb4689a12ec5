# lbq: `make` alone explains the targets.  Everything is installed into .venv and by apt-get, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SANITIZED := build/sanitized/lbq-sanitized
RESULTS := bench/results/$(shell date +%F).json
# A mirror that is away for half a minute stops nothing.
export PIP_RETRIES ?= 8
SOURCES := setup.py pyproject.toml $(shell find lbq -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -path 'lbq/bench/*.[cl]*' -o -name 'page.*')

help:  ## explain the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 18

lab: $(VENV)/lbq-run  ## build the article's network in namespaces, balance ten requests, take it down (root)
	@$(BIN)/lbq lab nat

test: $(VENV)/lbq-kernel $(SANITIZED)  ## install what is missing and run every suite, slices of the long ones (root)
	@$(BIN)/python tests/run.py

test-full: $(VENV)/lbq-kernel $(SANITIZED)  ## the same suites in full length (root)
	@$(BIN)/python tests/run.py --full

test-kernel: $(VENV)/lbq-kernel  ## the same packets through kernel IPVS in guests and through lbq: a slice (root)
	@$(BIN)/python tests/run.py kernel

test-kernel-full: $(VENV)/lbq-kernel  ## 100,000 decisions with the classic kernel, 10,000 with the new one (root)
	@$(BIN)/python tests/run.py --full kernel

fuzz: $(VENV)/lbq-test $(SANITIZED)  ## hostile bytes to everything that reads any, compiled with gcc's sanitizers: two minutes
	@$(BIN)/python tests/run.py fuzz

soak: $(VENV)/lbq-test  ## a director under mixed traffic and steady changes, for a minute: nothing lost, nothing grows (root)
	@$(BIN)/python tests/run.py soak

unit: $(VENV)/lbq-test  ## unit, packet, ipvsadm, docs and agreement tests: no root, no network
	@$(BIN)/python tests/run.py unit pure packets ipvsadm docs agreement

bench: $(VENV)/lbq-test  ## forwarding, DNAT, proxies, lbq and the floor side by side in one run, with charts (root)
	@packaging/install-debian bench
	@$(BIN)/pip install -q --group bench
	@$(BIN)/lbq bench --output $(RESULTS) --terminal
	@$(BIN)/python bench/micro.py $(RESULTS)
	@$(BIN)/python bench/trace_off.py $(RESULTS)

bench-ipvs: $(VENV)/lbq-kernel  ## lbq beside kernel IPVS, one kernel guest after the other, half an hour (root)
	@$(BIN)/python bench/ipvs.py --output $(RESULTS:.json=-ipvs.json)

bench-memory: $(VENV)/lbq-test  ## scheduler, table and rewrite in memory
	@$(BIN)/pytest -q bench

lint: $(VENV)/lbq-test  ## ruff, cython-lint, codespell
	@$(BIN)/pip install -q --group lint
	@$(BIN)/ruff check lbq tests bench docs setup.py
	@PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/cython-lint --max-line-length 120 lbq
	@$(BIN)/codespell --skip "*.json" --ignore-words-list wieght,clasic,lits,fo,ect,iif lbq tests bench docs README.md CONTRIBUTING.md

docs: $(VENV)/lbq-run  ## the documentation, build/docs/index.html, and manual pages, build/man; a warning is an error
	@$(BIN)/pip install -q --group docs
	@$(BIN)/python -m sphinx -q -W --keep-going -n docs build/docs
	@$(BIN)/python -m sphinx -q -W --keep-going -n -b man docs build/man
	@echo "build/docs/index.html" build/man/*

annotate: $(VENV)/lbq-test  ## where compiled code still talks to Python: build/c/**/*.html
	@LBQ_ANNOTATE=1 $(BIN)/python setup.py -q build_ext --build-lib build/annotated --force

clean:  ## remove everything that was built or installed here
	rm -rf build $(VENV) *.egg-info

$(BIN)/pip:
	@packaging/install-debian run
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lbq needs Python 3.11 or newer, not " + sys.version)'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install -q --upgrade pip setuptools 'cython>=3.2,<4'

$(VENV)/lbq-run: $(BIN)/pip $(SOURCES)
	@packaging/install-debian run
	@echo "compiling lbq into $(VENV)"
	@$(BIN)/pip install -q --no-build-isolation .
	@touch $@

$(VENV)/lbq-test: $(VENV)/lbq-run
	@packaging/install-debian test
	@echo "installing what the tests need into $(VENV)"
	@$(BIN)/pip install -q --group test --group docs
	@touch $@

$(SANITIZED): $(SOURCES) | $(VENV)/lbq-run
	@echo "compiling lbq into build/sanitized, with gcc's sanitizers"
	@LBQ_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib build/sanitized --build-temp build/sanitized-objects
	@touch $@

$(VENV)/lbq-kernel: $(VENV)/lbq-test
	@packaging/install-debian kernel
	@touch $@

.PHONY: help lab test test-full test-kernel test-kernel-full fuzz soak unit bench bench-ipvs bench-memory lint docs annotate clean
