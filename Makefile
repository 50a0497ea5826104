# Thin, over Meson. `make help` lists what there is.
BUILD ?= build
PYTHON ?= /usr/bin/python3
# Two workers a core: system tests mostly wait for other processes.
TEST_WORKERS ?= 4

.PHONY: all help bootstrap demo check unit system torture powerloss mutants faults bench release sanitize coverage fuzz clean install

all: $(BUILD)/build.ninja ## build $(BUILD)/claudemesh
	@ninja -C $(BUILD) --quiet
	@ln -sf src/claudemesh $(BUILD)/claudemesh

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

bootstrap: ## install what is missing (apt)
	@script/bootstrap

$(BUILD)/build.ninja:
	@script/bootstrap build
	@meson setup $(BUILD) --buildtype=debugoptimized >/dev/null || { meson setup $(BUILD) --buildtype=debugoptimized; false; }

demo: ## build, then watch messages survive a kill -9
	@script/bootstrap build
	@$(MAKE) --no-print-directory all
	@$(PYTHON) script/demo $(BUILD)/claudemesh

check: ## build (warnings are errors, gcc and clang) and run every test
	@script/check

unit: all ## the unit tests
	@meson test -C $(BUILD) --suite unit --print-errorlogs

system: all ## the system tests: the built binary, driven as a user would
	@CLAUDEMESH_BINARY=$(abspath $(BUILD)/claudemesh) $(PYTHON) -m pytest -q -n $(TEST_WORKERS) tests/system

# 300 kills take six to ten minutes. SEED plays a run again; MINUTES bounds it; TORTURE_DIRECTORY says where (default /tmp).
KILLS ?= 300
MINUTES ?= 30

torture: all ## kill daemons and broker under load, KILLS times (SEED=… again), and check every message
	@CLAUDEMESH_BINARY=$(abspath $(BUILD)/claudemesh) $(PYTHON) tests/torture/torture.py --kills $(KILLS) --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(TORTURE_DIRECTORY),--directory $(TORTURE_DIRECTORY))

powerloss: all ## take the power away at every sync of a workload, in every mode (POINTS=20: fewer; SEED=…: another workload; JOBS=…)
	@CLAUDEMESH_BINARY=$(abspath $(BUILD)/claudemesh) $(PYTHON) tests/powerloss/run

mutants: all ## break one promise at a time, in copies, and demand that the instruments catch it (MUTANTS=name: one)
	@CLAUDEMESH_BINARY=$(abspath $(BUILD)/claudemesh) $(PYTHON) tests/powerloss/mutants.py --long $(MUTANTS)
	@CLAUDEMESH_BINARY=$(abspath $(BUILD)/claudemesh) CLAUDEMESH_LONG=1 $(PYTHON) -m pytest -q -n $(TEST_WORKERS) -p no:cacheprovider tests/powerloss/test_file_layer.py

faults: all ## make each call into the system and each allocation fail in turn, over the main flows (FAULTS="--sample 100 --seed 7": fewer)
	@CLAUDEMESH_BINARY=$(abspath $(BUILD)/claudemesh) $(PYTHON) tests/faults/faults.py $(FAULTS)

bench: ## measure; prints what docs/benchmarks.md records
	@script/bootstrap
	@$(MAKE) --no-print-directory BUILD=build-release release
	@$(PYTHON) bench/run.py build-release

release:
	@test -f $(BUILD)/build.ninja || meson setup $(BUILD) --buildtype=release -Db_lto=true >/dev/null
	@ninja -C $(BUILD) --quiet
	@ln -sf src/claudemesh $(BUILD)/claudemesh

sanitize: ## every test under AddressSanitizer and UndefinedBehaviorSanitizer, what crosses threads under ThreadSanitizer, a smoke run under valgrind
	@script/bootstrap sanitize
	@script/sanitize

coverage: ## line coverage of all tests, by room and file; fails below 90 % where messages could be lost
	@script/bootstrap coverage
	@script/coverage

FUZZ_SECONDS ?= 60
FUZZ_RUNS ?= 0
FUZZ_TARGETS ?=

fuzz: ## fuzz every parser (or FUZZ_TARGETS), FUZZ_SECONDS each, at most FUZZ_RUNS executions; fails when anything is found
	@script/bootstrap fuzz
	@script/fuzz $(FUZZ_SECONDS) $(FUZZ_RUNS) $(FUZZ_TARGETS)

install: all ## install under the prefix (PREFIX with meson setup)
	@ninja -C $(BUILD) install

clean: ## remove build directories
	@rm -rf build build-mutants build-release build-clang build-asan build-tsan build-valgrind build-coverage build-fuzz
