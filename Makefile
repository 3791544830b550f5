# Needs GNU make and Python >= 3.11 with venv and pip, nothing else; every target does its own set-up.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test properties lint types house coverage bench mutants fuzz-smoke fuzz mutation soak platforms chaos fire docs format clean FORCE

VENV := .venv
RUN := $(VENV)/bin/python
# Images for containers often forbid to keep what was compiled. Here some thousand processes start, and each would
# compile again all that it imports; `make clean` takes it away.
unexport PYTHONDONTWRITEBYTECODE
# The first of these that will do makes the virtual environment; `make PYTHON=/path/to/python3 …` names another.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
# More for pytest: `make test ARGS="-k tdx"`.
ARGS ?=
# Processes that run tests: one more than there are processors, as a test often waits for a process or for a time to be up.
WORKERS ?= $$($(RUN) -c "import os; print(1 + len(os.sched_getaffinity(0)))")
# How many mutants, which ones, how long to fuzz which target (all where none is named), and how many connections to make.
N ?= 10000
SEED ?= 1
SECONDS ?= 3600
HANDSHAKES ?= 20000
ROUNDS ?= 3000
COUNT ?= 1000000
ONE ?=

DEMO_READY := $(VENV)/.installed-pccs
DEV_READY := $(VENV)/.installed-dev

# A stamp counts only in the folder where it was written and while its interpreter runs: a clone that was copied or
# moved, or whose Python is gone, is set up anew.
ifneq ($(shell cat $(VENV)/.set-up-in 2>/dev/null; $(RUN) -c "" 2>/dev/null && echo runs),$(CURDIR) runs)
STALE := FORCE
endif

help:  ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(DEMO_READY)  ## attest a workload end to end on this machine, then show four attacks refused
	@$(VENV)/bin/eaa demo

test: $(DEV_READY)  ## run every test but the long ones, which `make fire` runs
	@$(RUN) -m pytest -n $(WORKERS) --dist worksteal -m "not long" $(ARGS)

properties: $(DEV_READY)  ## search for what breaks a property among examples that no run has seen
	@$(RUN) -m pytest -q -n $(WORKERS) --dist worksteal --hypothesis-profile search tests/property $(ARGS)

lint: $(DEV_READY)  ## ruff: rules and format
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check

format: $(DEV_READY)  ## let ruff rewrite what `make lint` complains of
	@$(RUN) -m ruff check --fix
	@$(RUN) -m ruff format

types: $(DEV_READY)  ## mypy, strict
	@$(RUN) -m mypy

house: $(DEV_READY)  ## who may import whom, and the other rules of tests/test_house.py
	@$(RUN) -m pytest -q tests/test_house.py

coverage: $(DEV_READY)  ## branch coverage of the pure rooms; fails under 95 %
	@$(RUN) -m pytest -q -n $(WORKERS) --dist worksteal --cov --cov-report=term-missing:skip-covered --ignore=tests/flow $(ARGS)
	@$(RUN) tests/support/branch_coverage.py 95

bench: $(DEV_READY)  ## measure verification, handshakes and relaying beside others; writes bench/results.json and the tables from it
	@$(RUN) bench/verify.py --write $(ARGS)
	@$(RUN) bench/handshake.py --write $(ARGS)
	@$(RUN) bench/relay.py --write $(ARGS)
	@$(RUN) bench/pccs.py --write $(ARGS)

mutants: $(DEV_READY)  ## N changed quotes and collaterals before us and an independent judge: make mutants N=10000 SEED=1
	@$(RUN) tests/mutants/run.py --count $(N) --seed $(SEED)

fuzz-smoke: $(DEV_READY)  ## every fuzz target for 20 seconds; prints executions
	@$(RUN) tests/fuzz/run.py --seconds 20

fuzz: $(DEV_READY)  ## fuzz for long: make fuzz SECONDS=3600 ONE=quote
	@$(RUN) tests/fuzz/run.py --seconds $(SECONDS) $(ONE)

mutation: $(DEV_READY)  ## change verify/ and appraise/ one check at a time: each change must fail a test
	@$(RUN) tests/mutation/run.py $(ARGS)

soak: $(DEV_READY)  ## mutually attested connections, make soak HANDSHAKES=20000: does any of them fail, or leave something behind?
	@$(RUN) tests/soak/run.py --count $(HANDSHAKES)

platforms: $(DEV_READY)  ## very many platforms into the cache, make platforms COUNT=1000000: how long, how large, and is each found?
	@$(RUN) tests/scale/run.py --count $(COUNT)

chaos: $(DEV_READY)  ## hang up at every step of the protocol, on every side: make chaos ROUNDS=3000 SEED=1
	@$(RUN) tests/chaos/run.py --rounds $(ROUNDS) --seed $(SEED)

fire: $(DEV_READY)  ## a node in real processes with 5,000 sessions at once, stalled readers, killed workloads, full disks, clocks that jump
	@$(RUN) -m pytest -q tests/chaos/fire.py
	@$(RUN) -m pytest -q -n auto --dist worksteal -m long

docs: $(DEV_READY)  ## write the programs' help into the documents, then check links, blocks and change log
	@$(RUN) tools/write_help.py
	@PYTHONPATH=tests $(RUN) -m support.spec_coverage
	@PYTHONPATH=tests $(RUN) -m support.attack_page
	@$(RUN) -m pytest -q tests/unit/test_documentation.py tests/unit/test_spec_coverage.py

clean:  ## remove the virtual environment and everything generated
	@rm -rf $(VENV) .coverage .coverage.* .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache dist
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# `dev` holds all that `pccs` does, so its stamp speaks for both.
$(DEV_READY): pyproject.toml $(STALE)
	@$(call set_up,dev)
	@pwd -P > $(VENV)/.set-up-in; touch $(DEMO_READY) $@

$(DEMO_READY): pyproject.toml $(STALE)
	@$(call set_up,pccs)
	@pwd -P > $(VENV)/.set-up-in; touch $@

FORCE:

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# Debian and Ubuntu ship ensurepip in a package of its own.
COMPLETE := import venv, ensurepip; $(NEW_ENOUGH)
# An environment of ours: new enough, has pip, and is an environment at all.
SOUND := import pip, sys; sys.exit(sys.version_info < (3, 11) or sys.prefix == sys.base_prefix)

# 1. Keep an environment that works. 2. Otherwise find an interpreter, or say what is missing. 3. Install, and compile:
# pip compiles all packages but one that is edited in its place.
# -qq: pip warns about indexes and its own age, which is of no use here; its errors still show.
define set_up
set -eu; \
if ! $(RUN) -c "$(SOUND)" 2>/dev/null; then \
  found=; old=; bare=; \
  for python in $(PYTHON); do \
    command -v $$python >/dev/null 2>&1 || continue; \
    if $$python -c "$(COMPLETE)" 2>/dev/null; then found=$$python; break; fi; \
    if $$python -c "$(NEW_ENOUGH)" 2>/dev/null; then bare=$$python; else old="$$($$python --version 2>&1)"; fi; \
  done; \
  if [ -z "$$found" ] && [ -n "$$bare" ]; then \
    echo "make: $$bare has no venv or no ensurepip: install them (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; \
  elif [ -z "$$found" ]; then \
    echo "make: Python 3.11 or newer is needed, found $${old:-none}: install it, or name it with make PYTHON=/path/to/python3" >&2; exit 1; \
  fi; \
  echo "make: setting up $(VENV) with $$($$found --version 2>&1)" >&2; \
  $$found -m venv --clear $(VENV); \
fi; \
echo "make: installing the project and what it needs into $(VENV)" >&2; \
$(RUN) -m pip install -qq --disable-pip-version-check --no-input --prefer-binary --editable '.[$(1)]' || \
  { echo "make: the installation failed, see above: check the network and pip's index, then run make again" >&2; exit 1; }; \
$(RUN) -m compileall -q src
endef
