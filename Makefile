# Everything from a bare clone. It needs a Rust toolchain, Python 3 with pip, and a C++ compiler; nothing is installed
# outside this folder (and cargo's own cache).

.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-stores gpu-check gpu-bench deny clean

CARGO ?= cargo
PYTHON ?= python3
# One profile for the tests, the demo and daily work, so that everything is compiled once.
PROGRAMS := target/debug

help:
	@echo 'make demo    set up, build, and run the whole pipeline on built-in music: MIDI in, result tables out'
	@echo 'make test    set up, then check format, lints and documentation, and run every test'
	@echo 'make test-stores   test real object stores on this machine (moto, SeaweedFS, Azurite; installed into target/stores)'
	@echo 'make gpu-check   compare this machine'"'"'s GPU with its processor (LIBTORCH: a libtorch 2.11.0 for CUDA 13.0)'
	@echo 'make gpu-bench   the same, and the times of the WKV operator and of a training step'
	@echo 'make build   set up and build the four programs into $(PROGRAMS)/'
	@echo 'make setup   put libtorch into third_party/libtorch (544 MB to download, once)'
	@echo 'make clean   remove what was built; libtorch and the runs stay'
	@echo
	@echo 'LIBTORCH=/path/to/libtorch uses another libtorch of the same version instead, for example one with CUDA.'

setup:
ifdef LIBTORCH
	@echo "libtorch: LIBTORCH is set, so $(LIBTORCH) is used"
else
	@$(PYTHON) train/setup-libtorch.py third_party/libtorch
endif

build: setup
	$(CARGO) build --workspace --bins

demo: build
	$(PROGRAMS)/midi-rwkv run configs/demo.toml

test: setup
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps
	$(CARGO) test --workspace
	@$(MAKE) --no-print-directory deny

test-stores:
	$(PYTHON) ingest/test-stores.py target/stores

# On a machine with a GPU; elsewhere they say what is missing and end with 78.
gpu-check: setup
	$(CARGO) run --release -p midi-train --bin midi-train -- gpu-check

gpu-bench: setup
	$(CARGO) run --release -p midi-train --bin midi-train -- gpu-check --bench

# What the dependencies may be. It is checked where cargo-deny is installed, and without the network: the advisories
# only where a copy of them was fetched before.
deny:
	@if ! $(CARGO) deny --version >/dev/null 2>&1; then \
		echo 'skipped: cargo deny, which is not installed'; exit 0; \
	fi; \
	if ! $(CARGO) metadata --offline --locked --all-features --format-version 1 >/dev/null 2>&1; then \
		echo 'skipped: cargo deny, which needs crates of other platforms that were never downloaded (cargo fetch)'; exit 0; \
	fi; \
	set -e; \
	$(CARGO) deny --offline check bans licenses sources; \
	if ls -d "$${CARGO_HOME:-$$HOME/.cargo}"/advisory-dbs/*/ >/dev/null 2>&1; then \
		$(CARGO) deny --offline check advisories; \
	else \
		echo 'skipped: the advisories of cargo deny, of which there is no copy here'; \
	fi

clean:
	$(CARGO) clean
