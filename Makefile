# Everything a contributor or CI runs. `make help` lists it.
SHELL := bash
CARGO ?= cargo
# Where tests/setup.sh puts Rust and Go where they are missing: a target finds what its own set-up has installed.
# A user's own PATH need not have the directories of root's tools.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/portcullis/go/bin:$(PATH):/usr/sbin:/sbin
# The lab needs root: it makes network namespaces.
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo -E env "PATH=$(PATH)")

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

.PHONY: setup
setup: ## Install what build, lab and tests need
	@tests/setup.sh

# What the programs report as their commit. A plain `cargo build` names none, so that a commit rebuilds nothing.
build release release-again: export PORTCULLIS_COMMIT = $(shell git describe --always --dirty --abbrev=40 --exclude='*')

.PHONY: build
build: setup ## Build the agent
	$(CARGO) build --release --package portcullis-controller

.PHONY: demo
demo: setup ## Show packets obeying policies: three nodes, twelve pods, real connections; BACKEND=nftables
	$(CARGO) build --quiet --package portcullis-controller --package portcullis-demo --bins
	@$(SUDO) target/debug/demo $(BACKEND:%=--backend=%)

.PHONY: test
test: ## Run every check and test, as CI does
	@tests/setup.sh --tests
	@tests/run.sh

.PHONY: test-nftables
test-nftables: setup ## Run the suites on packets with the nftables backend
	$(CARGO) build --quiet --workspace --bin portcullis
	$(SUDO) PORTCULLIS_BACKEND=nftables $(CARGO) test --quiet --package portcullis-tests \
	    --test kernel --test attacks --test denials --test inspect --test rendered -- nft ipv

.PHONY: cluster
cluster: ## Start a throwaway cluster of two real nodes with Portcullis; ARGS='--cni ptp --families ipv6', ARGS=--help
	@tests/setup.sh --cluster
	$(CARGO) build --quiet --workspace --bins
	@$(SUDO) target/debug/cluster up $(ARGS)

.PHONY: cluster-down
cluster-down: ## End that cluster and remove every trace of it
	@$(SUDO) target/debug/cluster down

.PHONY: test-cluster
test-cluster: ## Upstream's suites and what operators do, on a real cluster with the image
	@tests/setup.sh --cluster
	$(CARGO) build --quiet --workspace --bins
	$(SUDO) CLUSTER_FULL=1 $(CARGO) test --quiet --workspace --test cluster -- $(ARGS)

.PHONY: test-cluster-full
test-cluster-full: ## The same on clusters of every kind, for hours: docs/compatibility.md
	@tests/setup.sh --cluster
	$(CARGO) build --quiet --workspace --bins
	@$(SUDO) tests/cluster/matrix.sh

.PHONY: bench-cluster
bench-cluster: ## Measure a real cluster: from the API server's answer to the packet, CPU and memory
	@tests/setup.sh --cluster
	$(CARGO) build --release --quiet --package portcullis-controller
	$(SUDO) $(CARGO) bench --quiet --package portcullis-cluster --bench cluster

.PHONY: lint
lint: ## Formatting, clippy, rustdoc, licences
	@tests/setup.sh --lint
	@tests/run.sh lint

.PHONY: bench
bench: setup ## Measure the engine, the agent, the dataplane and a cluster of three nodes
	$(CARGO) bench --package portcullis-tests --bench engine --bench agent --bench whatif
	$(CARGO) build --release --quiet --package portcullis-controller
	$(SUDO) $(CARGO) bench --quiet --package portcullis-tests --bench latency
	$(SUDO) $(CARGO) test --release --quiet --package portcullis-controller --test dataplane speed -- --nocapture --test-threads 1

.PHONY: bench-packets
bench-packets: setup ## Measure what a packet costs, beside a lone conntrack rule; PORTCULLIS_OTHER=PATH adds another agent
	$(CARGO) build --release --quiet --workspace --bins
	$(SUDO) $(CARGO) bench --quiet --package portcullis-tests --bench packets

.PHONY: bench-backends
bench-backends: setup ## Measure what changes take with iptables and with nftables, side by side
	$(SUDO) PORTCULLIS_BENCH=1 $(CARGO) test --release --quiet --package portcullis-controller --test dataplane side_by_side -- \
	    --nocapture --test-threads 1

.PHONY: soak
soak: setup ## Make SOAK_CHANGES random changes on three nodes; kernel and memory are as they have to be at the end
	$(CARGO) build --release --quiet --workspace --bins
	$(SUDO) $(CARGO) bench --quiet --package portcullis-tests --bench soak

.PHONY: faults
faults: setup ## Try every fault under traffic, and print the table of docs/faults.md; FAULTS=ipset tries some
	$(CARGO) build --release --quiet --workspace --bins
	$(SUDO) $(CARGO) bench --quiet --package portcullis-tests --bench faults

.PHONY: test-alerts
test-alerts: ## Try deploy/alerts.yaml with the rule engine of Prometheus, on what real agents serve during faults
	@tests/setup.sh --cluster
	tests/kube/program.sh promtool > /dev/null
	$(CARGO) build --quiet --workspace --bins
	$(SUDO) KUBEBUILDER_ASSETS="$$(tests/kube/build.sh | tail -n 1)" $(CARGO) test --quiet --workspace --bench alerts

.PHONY: bench-memory
bench-memory: setup ## Measure the memory of an agent at 100,000 pods and 10,000 policies, with hostile objects and faults
	$(CARGO) build --release --quiet --workspace --bins
	$(SUDO) $(CARGO) bench --quiet --package portcullis-tests --bench memory

.PHONY: bench-large-sets
bench-large-sets: setup ## Measure changes of one tenant while another makes sets of 100,000 pods; PORTCULLIS_OTHER=PATH adds another agent
	$(CARGO) build --release --quiet --workspace --bins
	$(SUDO) $(CARGO) bench --quiet --package portcullis-tests --bench large_sets

.PHONY: bench-hostile
bench-hostile: ## Measure changes of an ordinary tenant on a real cluster beside a hostile one, with faults
	@tests/setup.sh --cluster
	$(CARGO) build --release --quiet --package portcullis-controller
	$(SUDO) $(CARGO) bench --quiet --package portcullis-cluster --bench cluster -- 'beside a hostile tenant'

.PHONY: bench-status
bench-status: ## Change policies 1,000 times on a real cluster: packets obey when `kubectl whatif status --wait` returns
	@tests/setup.sh --cluster
	$(CARGO) build --release --quiet --workspace --bins
	$(SUDO) $(CARGO) bench --quiet --package portcullis-cluster --bench cluster -- 'status --wait'

# Which files are mutated, and which part of the mutants is tried: all of them take hours.
MUTANTS_PACKAGE ?= policy-engine
MUTANTS_FILES ?= policy-engine/src/{evaluate,tier,allow_set}.rs
MUTANTS_SHARD ?= 0/1

.PHONY: mutants
mutants: setup ## Change the code of MUTANTS_FILES in many ways, one at a time, and list the changes that no unit test notices
	command -v cargo-mutants > /dev/null || $(CARGO) install --locked cargo-mutants
	CARGO_PROFILE_DEV_DEBUG=0 PROPTEST_CASES=64 $(CARGO) mutants --package $(MUTANTS_PACKAGE) --file '$(MUTANTS_FILES)' \
	    --jobs 1 --timeout 120 --shard $(MUTANTS_SHARD) --sharding round-robin --output target \
	    --cargo-arg=--config=profile.dev.package.policy-engine.opt-level=0 -- --lib

# Seconds for each target of tests/fuzz, and which of them.
FUZZ_SECONDS ?= 120
FUZZ_TARGETS ?= cni conntrack endpoint http ipset iptables nflog objects yaml
# What libFuzzer needs to see which branches an input takes. These are options of a stable compiler.
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
	-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1

.PHONY: fuzz
fuzz: setup ## Feed random bytes to what reads bytes of others, FUZZ_SECONDS for each of FUZZ_TARGETS
	cp Cargo.lock tests/fuzz/run/Cargo.lock
	cd tests/fuzz/run && RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --quiet --target-dir target --target "$$(rustc -vV | sed -n 's/^host: //p')"
	cd tests/fuzz && for target in $(FUZZ_TARGETS); do \
	    mkdir -p run/found/$$target; echo "$$target"; \
	    FUZZ_TARGET=$$target run/target/*/debug/portcullis-fuzz-run -max_total_time=$(FUZZ_SECONDS) -timeout=5 -rss_limit_mb=1024 -max_len=8192 \
	        -verbosity=0 -print_final_stats=1 -artifact_prefix=run/found/ run/found/$$target corpus/$$target || exit 1; \
	done

.PHONY: generate
generate: setup ## Generate deploy/crds from the types in crds/src/api
	$(CARGO) run --quiet --package portcullis-crds --example generate-crds -- deploy/crds

# Apart from `make test`: it needs a Debian mirror and a release build.
.PHONY: image-check
image-check: build ## Build the image's root without docker, run the agent in it, say its size
	$(SUDO) tests/image.sh target/release/portcullis

# amd64 or arm64. A release for another architecture than that of this machine is cross-compiled.
ARCH ?= $(subst aarch64,arm64,$(subst x86_64,amd64,$(shell uname -m)))
RELEASED = target/$(subst arm64,aarch64,$(subst amd64,x86_64,$(ARCH)))-unknown-linux-gnu/release

# Apart from `make test`, as image-check is.
.PHONY: release
release: ## Build the programs for ARCH=amd64 or arm64, and write what a release has beside the images to target/dist
	@tests/setup.sh --release $(ARCH)
	deploy/build.sh $(ARCH)
	deploy/release.sh $(RELEASED) $(ARCH) target/dist "$$($(SUDO) tests/image.sh --root $(RELEASED)/portcullis)" \
	    "$$($(SUDO) tests/image.sh --root $(RELEASED)/portcullis nftables)"

.PHONY: release-check
release-check: release ## Check the programs, SBOMs and checksums of this release, and start the programs of the images for ARCH
	SUDO='$(SUDO)' tests/release.sh $(ARCH)
	$(SUDO) tests/image.sh $(RELEASED)/portcullis

.PHONY: release-again
release-again: release ## Build the programs once more in a copy of the sources elsewhere, and compare the bytes: minutes
	tests/reproducible.sh $(ARCH)

.PHONY: fmt
fmt: setup ## Format the code
	$(CARGO) fmt --all

.PHONY: clean
clean: ## Remove what builds left
	$(CARGO) clean
