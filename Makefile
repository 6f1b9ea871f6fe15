# pgbaton: see README.md. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CARGO ?= cargo
# Where cargo puts the binaries: .cargo/config.toml names a target.
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
RELEASE := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)/$(HOST)/release

MEMBERS ?= 3
DURABILITY ?= sync
FAULT ?= postmaster-kill
REPEAT ?= 1
DATA ?= small
BACKLOG ?=
CLIENTS ?= 8
SUBNET ?= 0
KEEP ?=
JSON ?=
DEMO_FLAGS = --members $(MEMBERS) --durability $(DURABILITY) --repeat $(REPEAT) --clients $(CLIENTS) --subnet $(SUBNET) \
	--data $(DATA) $(if $(BACKLOG),--backlog $(BACKLOG)) $(foreach fault,$(FAULT),--fault $(fault)) $(if $(KEEP),--keep) $(if $(JSON),--json)

.PHONY: help setup prometheus monitoring-record monitoring-evidence build demo faults test screenshots model outages bench calm evidence soak soak-cluster simulate planted mutants lint deny clean image cluster cluster-down cluster-smoke chaos-all bench-cluster

help: ## Show this list
	@echo "Targets:"
	@sed -n 's/^\([a-z-]*\):.*## /\1 /p' $(MAKEFILE_LIST) | while read -r name text; do printf '  make %-20s %s\n' "$$name" "$$text"; done
	@echo "Settings of 'make demo', with their defaults:"
	@echo "  FAULT=$(FAULT) (several: FAULT=\"pod-kill pod-delete\"; 'make faults' lists them)  KEEP=1 leaves it running for play"
	@echo "  MEMBERS=$(MEMBERS) DURABILITY=$(DURABILITY) (or async) REPEAT=$(REPEAT) CLIENTS=$(CLIENTS) SUBNET=$(SUBNET) JSON=1"
	@echo "  DATA=$(DATA) (or dirty: pgbench at scale 100 under writes) BACKLOG=MIB (so much WAL to replay when the fault comes)"
	@echo "Setting of 'make outages' and 'make bench': OUTAGES=\"FAULT[,FAULT...]:RUNS[:DURABILITY[:MEMBERS[:DATA]]] ...\" instead of the whole list"

setup: ## Install what is missing (PostgreSQL, a C linker), or say what to install
	@scripts/setup.sh

prometheus: ## Fetch Prometheus and promtool for the tests of deploy/monitoring (Debian's package, unpacked into target/tools)
	@scripts/setup.sh prometheus

build: setup ## Build both binaries
	$(CARGO) build --release --locked --workspace

demo: build ## Start a cluster on this machine, kill its primary, show what happens
	@$(RELEASE)/pgbaton-chaos demo $(DEMO_FLAGS)

faults: build ## List what the demo can do to the cluster
	@$(RELEASE)/pgbaton-chaos faults

# cargo builds and places the binaries for the tests itself; `build` before it would compile much twice, for tests ask tokio for its paused clock.
test: setup prometheus ## Run all tests (some twenty minutes: every fault on real clusters is among them)
	@scripts/setup.sh browser
	$(CARGO) test --release --locked --workspace --no-fail-fast

# The program itself is built for the tests of its own package only, so one of them is named too.
screenshots: setup ## Make the pictures of the live page in docs/images anew
	@scripts/setup.sh browser
	$(CARGO) test --release --locked --workspace --test runbook --test live -- --ignored --exact page::pictures_for_the_docs

model: setup ## Model checking and exploration with the larger bounds of docs/safety.md (some twenty minutes)
	$(CARGO) test --release --locked -p pgbaton --test model -- --include-ignored --nocapture --test-threads=1
	$(CARGO) test --release --locked -p pgbaton --test simulation explorations:: -- --include-ignored --nocapture

outages: build ## Measure outages again and again, for docs/evidence/outages.md (hours; goes on where it was)
	@scripts/outages.sh $(RELEASE)/pgbaton-chaos $(OUTAGES)

bench: build ## Measure outages beside the goals, and the cost at rest, for docs/evidence (two hours; goes on where it was)
	@scripts/rest.sh $(RELEASE)/pgbaton-chaos
	@scripts/rest.sh --tps $(RELEASE)/pgbaton-chaos
	@scripts/outages.sh --bench $(RELEASE)/pgbaton-chaos $(OUTAGES); failed=$$?; $(RELEASE)/pgbaton-chaos evidence --bench docs/evidence; exit $$failed

calm: build ## An hour of full processor load with a slow API server, for docs/evidence/calm.jsonl: nobody may take over
	@scripts/rest.sh --calm $(RELEASE)/pgbaton-chaos

soak: build ## Random faults, two at once in half of the runs, 200 times, for docs/evidence/soak.jsonl (two hours; goes on where it was)
	@scripts/soak.sh $(RELEASE)/pgbaton-chaos

soak-cluster: build ## The same fifty times on the machine's own Kubernetes, for docs/evidence/soak-cluster.jsonl (goes on where it was)
	@scripts/soak.sh --cluster $(RELEASE)/pgbaton-chaos

simulate: setup ## Run the simulator until a thousand million things have happened, for docs/evidence/simulation.jsonl (an hour; goes on where it was)
	@scripts/simulate.sh

evidence: build ## Render docs/evidence.md from what the long checks noted
	@$(RELEASE)/pgbaton-chaos evidence docs/evidence >docs/evidence.md.new && mv docs/evidence.md.new docs/evidence.md

planted: setup ## Plant bugs in a copy and see which tests find them, for docs/evidence/planted.md (goes on where it was)
	@scripts/planted.sh

monitoring-record: setup ## Record what members say through faults again, for the unit tests of the alerts (root; ten minutes)
	@scripts/monitoring.sh record $(RECORD)

monitoring-evidence: setup prometheus ## Real Prometheus through faults: what the alerts did, for docs/evidence/monitoring.md
	@scripts/monitoring.sh evidence

image: build ## Build pgbaton's image into target/pgbaton.tar (an OCI archive; deploy/README.md says how to load it)
	@chaos/cluster/image-pgbaton.sh $(RELEASE)/pgbaton target/pgbaton.tar

cluster: build ## A real Kubernetes of three nodes on this machine, with pgbaton in it (root; the first time takes minutes)
	@chaos/cluster/cluster.sh $(RELEASE)/pgbaton

cluster-down: ## End the machine's Kubernetes and remove everything of it
	@chaos/cluster/down.sh

cluster-smoke: build ## Check deploy/, adoption and scenarios on a real Kubernetes (root)
	@chaos/cluster/smoke.sh $(RELEASE)

chaos-all: build ## Run all scenarios on a real Kubernetes, for docs/evidence/chaos.md (goes on where it was)
	@chaos/cluster/all.sh $(RELEASE)

bench-cluster: build ## Measure outages on a real Kubernetes beside the goals, for docs/evidence/bench-cluster.md (goes on where it was)
	@chaos/cluster/all.sh --bench $(RELEASE)

mutants: setup ## Change the core in small ways and see whether a test notices, for docs/evidence/mutants.jsonl (hours; goes on where it was)
	@scripts/mutants.sh

lint: ## Check format, lints and dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) clippy --locked -p pgbaton-chaos --test deploy --test cluster -- -D warnings
	@$(MAKE) --no-print-directory deny

deny: ## Check licences, sources and bans of dependencies
	@if [ -f deny.toml ]; then \
		scripts/setup.sh cargo-deny && $(CARGO) deny check bans licenses sources; \
	else echo "no deny.toml: nothing to check"; fi

clean: ## Remove what was built
	$(CARGO) clean
