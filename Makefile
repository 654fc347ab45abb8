# One vocabulary of commands for people and CI. Everything that touches the network does so in namespaces of its own.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)

# The lab's tests wait more than they compute, and each has namespaces of its own: three at a time.
LAB_THREADS ?= 3

.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: prepare
prepare: ## install what building and testing need (Debian, as root); does nothing when all is there
	@scripts/prepare.sh

.PHONY: build
build: prepare ## target/release/ringway
	$(CARGO) build --release -p ringway-agent

# The tests' own build: overflows and debug assertions end a test, and nothing has to be compiled a second time.
.PHONY: build-checked
build-checked: prepare
	$(CARGO) build -p ringway-agent

.PHONY: demo
demo: ## a node with pods in network namespaces, and real requests through a VIP: a minute, then all is gone
	@scripts/demo.sh

.PHONY: test
test: prepare lint test-fast test-lab test-apiserver ## everything: lint, unit, property, fixtures, stories, lab, apiserver (as root)

.PHONY: test-fast
test-fast: ## unit tests, property tests, stories: no root needed
	$(CARGO) test --workspace --exclude ringway-tests --exclude xdp-redirect
	$(CARGO) test -p ringway-tests --lib --test house --test deploy

.PHONY: test-lab
test-lab: build-checked ## BPF programs, packet fixtures and the lab (as root)
	$(CARGO) test -p xdp-redirect
	$(CARGO) test -p ringway-tests --test fixtures
	$(CARGO) test -p ringway-tests --test nat
	RINGWAY_BUILD=debug $(CARGO) test -p ringway-tests --test lab -- --test-threads=$(LAB_THREADS)

.PHONY: test-apiserver
test-apiserver: build-checked ## with the real kube-apiserver and etcd, which the first run builds with Go (as root)
	@scripts/kubernetes.sh >/dev/null
	RINGWAY_BUILD=debug $(CARGO) test -p ringway-tests --test apiserver -- --test-threads=1

.PHONY: test-long
test-long: build ## a million random clusters, many more random packets and simulated networks, lab and soak of the release binary, a minute of each fuzz target (as root, about half an hour)
	PROPTEST_CASES=300000 $(CARGO) test --release -p ringway-model --test reference
	PROPTEST_CASES=20000 RINGWAY_SEEDS=10000 $(CARGO) test --release -p ringway-model -p ringway-engine
	$(CARGO) test -p ringway-tests --test lab -- --test-threads=$(LAB_THREADS)
	$(CARGO) test -p ringway-tests --test soak
	dataplane/engine/fuzz/run.sh 60

.PHONY: fuzz
fuzz: prepare ## the engine against bytes that a fuzzer makes up: SECONDS_EACH for each target, one hour unless given
	dataplane/engine/fuzz/run.sh $(or $(SECONDS_EACH),3600)

.PHONY: cluster
cluster: build programs ## a real cluster of two nodes on this machine, with Ringway (as root); NODES=3 CNI=bridge|vxlan FAMILY=dual PROXY=kube-proxy
	@tests/cluster/cluster.sh up

# Programs of Kubernetes and images of pods: cached, so that only the first time takes its time.
.PHONY: programs
programs:
	@scripts/prepare.sh cluster
	@scripts/kubernetes.sh cluster >/dev/null
	@tests/cluster/images.sh

.PHONY: cluster-down
cluster-down: ## removes the cluster, also after a crash
	@tests/cluster/cluster.sh down

.PHONY: e2e
e2e: ## kubernetes' own suite against a cluster of its own (as root, about an hour): FOCUS and SKIP choose specs, PROXY=kube-proxy the peer
	@$(MAKE) --no-print-directory build programs
	@scripts/kubernetes.sh e2e >/dev/null
	@tests/cluster/e2e.sh

.PHONY: e2e-dual
e2e-dual: ## the suite's dual-stack specs, on a dual-stack cluster
	@FAMILY=dual $(MAKE) --no-print-directory e2e

.PHONY: stories
stories: ## rollouts, updates, kills, outages and removal on the cluster that `make cluster` laid out
	$(CARGO) test -p ringway-tests --test cluster -- --test-threads=1 --nocapture

.PHONY: lint
lint: ## formatting and clippy, warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check; else echo "cargo-deny is not installed: deny.toml is not checked here"; fi

.PHONY: bench
bench: ## criterion benchmarks of the engine and of publication
	$(CARGO) bench -p ringway-bench

.PHONY: perf
perf: build ## the whole path against peers, in rounds (as root, about half an hour)
	$(CARGO) build --release -p ringway-tests --bins
	$(CARGO) run --release -p ringway-perf

.PHONY: clean
clean: ## built files, and whatever a killed test or demo left behind
	-@$(TARGET_DIR)/release/ringway-demo --sweep
	$(CARGO) clean
