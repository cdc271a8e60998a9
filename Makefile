# Millstream. `make help` lists the targets. Everything runs in a virtual environment of its own, $(VENV).
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
PACKAGES := client_sdk/python/millstream services/millstream_server metadata_raft/millstream_raft
PROTOS_PUBLIC := $(wildcard protos/millstream/v1/*.proto)
PROTOS_INTERNAL := $(wildcard protos/millstream_server/v1/*.proto)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "%-16s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(VENV)/.installed ## Make the virtual environment with everything in it

$(VENV)/.installed: pyproject.toml
	@echo "setting up $(VENV)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' >&2
	@touch $@

.PHONY: proto
proto: setup ## Generate the Python code of the protos
	@tests/check/generate_protos $(BIN) .

.PHONY: fmt
fmt: setup ## Format the code and mend what the linter can mend
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

.PHONY: check
check: setup ## Run every static check: format, lint, types, imports, protos, manifests, dashboards, tidy
	@tests/check/run $(BIN)

.PHONY: test
test: setup ## Run the whole test suite
	@$(BIN)/python -m pytest

.PHONY: test-unit
test-unit: setup ## Run the fast tests only
	@$(BIN)/python -m pytest tests/unit

.PHONY: dashboards
dashboards: setup ## Generate the Grafana dashboards from code
	@$(BIN)/python deploy/grafana/generate.py deploy/grafana

# Programs that print figures. Their last line of stdout is one JSON object.

.PHONY: demo
demo: setup ## Ship real logs through a cluster of eight processes: RECORDS LOGS KEEP KILL DEMO_TAMPER
	@$(BIN)/python -m tests.cluster.demo

.PHONY: bench
bench: setup ## Rates, CPU and latency, beside a bare path: RECORDS REPEAT SECONDS RATES MODES REPLICAS BARE
	@$(BIN)/python -m tests.benchmarks.bench

.PHONY: crash-embedded
crash-embedded: setup ## kill -9 of the embedded node while producing: ROUNDS SEED
	@$(BIN)/python -m tests.campaigns.crash_embedded

.PHONY: restart
restart: setup ## Start-up after kill -9 with a small and a large log: MEGABYTES
	@$(BIN)/python -m tests.campaigns.restart

.PHONY: idle
idle: setup ## CPU and memory of the embedded node and of the demo's cluster at rest: SECONDS
	@$(BIN)/python -m tests.campaigns.idle

.PHONY: raft-crash
raft-crash: setup ## Power loss at every operation that voters make on their folders: ROUNDS SEED
	@$(BIN)/python -m tests.campaigns.raft_crash

.PHONY: raft-kill
raft-kill: setup ## kill -9, pauses and damaged folders of the metadata quorum: ROUNDS DAMAGES SEED
	@$(BIN)/python -m tests.campaigns.raft_kill

.PHONY: failover
failover: setup ## Gaps after the metadata leader, a broker or a coordinator is lost: ROUNDS KINDS
	@$(BIN)/python -m tests.campaigns.failover

.PHONY: raft-bench
raft-bench: setup ## Latency, rate, idle CPU and fail-over of the metadata quorum: ROUNDS SECONDS PARTITIONS
	@$(BIN)/python -m tests.campaigns.raft_bench

.PHONY: raft-fuzz
raft-fuzz: setup ## Random schedules on the real Raft core: SEEDS MINUTES FIRST_SEED NODES DROP STOCK
	@$(BIN)/python -m tests.campaigns.raft_fuzz

.PHONY: sim
sim: setup ## Seeded fault schedules on a simulated cluster: SEEDS FIRST_SEED MINUTES JOBS REPLICAS RESUME
	@$(BIN)/python -m tests.campaigns.sim

.PHONY: power-loss
power-loss: setup ## Power cut from all nodes of a simulated cluster under load: CUTS MINUTES FIRST_SEED JOBS RESUME
	@$(BIN)/python -m tests.campaigns.power_loss

.PHONY: mutants
mutants: setup ## Bugs planted in production code, for the simulator to find: SEEDS FIRST_SEED JOBS ONLY RESUME
	@$(BIN)/python -m tests.campaigns.mutants

.PHONY: damage
damage: setup ## Damaged files of one broker's log directory, found and repaired: ROUNDS SEED
	@$(BIN)/python -m tests.campaigns.damage

.PHONY: faults
faults: setup ## Faults of every class on a real cluster, judged: MINUTES SEED FAULTS RATE EDN FOLDER
	@$(BIN)/python -m tests.campaigns.faults
