# `make demo` shows what barn does, `make test` runs all tests; both do all set-up they need.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: build install demo test oracle lint doc bench-hit bench-miss bench-neighbour bench-remote bench-mesh bench-rust bench-store rivals soak simulate-cache clean-testnet

# The wrapper starts 0.4 ms sooner when it is linked statically (docs/performance.md). Where there is no static C library, the
# dynamic one of the first line stays.
STATIC := -C target-feature=+crt-static -C relocation-model=static
define build-release
$(CARGO) build --release --workspace --bins
@$(CARGO) rustc --quiet --release -p barn-wrapper --bin barn -- $(STATIC) 2>/dev/null \
    || echo "no static C library here: the wrapper is linked dynamically"
endef

build:
	$(build-release)

# The programs of one machine; PREFIX=/usr/local for all users.
PREFIX ?= $(HOME)/.local
install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install $(TARGET)/release/barn $(TARGET)/release/barn-node $(TARGET)/release/barn-room $(DESTDIR)$(PREFIX)/bin/

demo:
	@.ci/setup demo
	$(build-release)
	$(SUDO) $(TARGET)/release/testnet demo $(DEMO)

test:
	@.ci/setup test
	$(CARGO) build --workspace --bins
	$(CARGO) test --workspace --no-fail-fast

# The include scanner against traced compilers over thousands of real units, e.g. ORACLE="--units 500 --only RocksDB --whole".
oracle:
	@.ci/setup test
	$(CARGO) run --release -p barn-tests --example oracle -- $(ORACLE)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --no-deps --document-private-items

# The cost of a warm hit, of a miss, of a hit from a neighbour and of a warm remote compile, beside ccache, icecream and distcc.
bench-hit bench-miss bench-neighbour bench-remote:
	@.ci/setup bench
	$(build-release)
	$(SUDO) $(TARGET)/release/testnet $@ $(BENCH)

# Whole builds on eight hosts, beside distcc, its pump, icecream, sccache and one machine with all the cores. About a quarter of
# an hour. Without BENCH it writes docs/performance.md and docs/bench; with it, it only prints: `make bench-mesh
# BENCH="--hosts 2,4,8,16 --cpu 0.1 --only barn"`, `BENCH=--cold`; `testnet bench-mesh --help` lists all options.
bench-mesh: rivals
	@.ci/setup bench
	$(build-release)
	$(SUDO) $(TARGET)/release/testnet $@ $(or $(BENCH),--docs docs)

# sccache with distributed compilation is in no distribution. Where cargo cannot install it, the benchmark says so and goes on.
RIVAL := sccache --version 0.19.0 --locked --no-default-features --features dist-client,dist-server
rivals:
	@[ -x $(TARGET)/rivals/bin/sccache-dist ] || command -v sccache-dist >/dev/null \
	    || $(CARGO) install --quiet --root $(TARGET)/rivals $(RIVAL) \
	    || echo "sccache cannot be installed here"

# 1000 kills of a writing store, and 1000 of a node under a running build; takes some minutes.
soak:
	$(build-release)
	$(CARGO) run --release -p barn-cache --example kill9 -- 1000
	$(CARGO) run --release -p barn-tests --example kills -- 1000

# The rebuild of two published Rust tools after cargo clean, dev and release, beside sccache and cargo alone. Some twenty minutes;
# BENCH="--rounds 2 --only b3sum".
bench-rust: rivals
	$(build-release)
	$(SUDO) $(TARGET)/release/testnet $@ $(BENCH)

# What a store of 100,000 actions costs: putting, finding, opening after an order and after a crash, a full one; and the memory of a
# node that has it. Some minutes, and 2 GB of disk in TMPDIR.
bench-store:
	$(build-release)
	$(CARGO) build --release -p barn-cache --example measure -p barn-tests --example full_store
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && measure=$(TARGET)/release/examples/measure && \
	    $$measure "$$dir" && $$measure "$$dir" reopen && $$measure "$$dir" reopen && $$measure "$$dir" full
	$(TARGET)/release/examples/full_store

# The office's cache in virtual time: 200 nodes with 100,000 entries each for an hour. Some minutes and 2 GB of memory.
simulate-cache:
	$(CARGO) run --release -p barn-protocol --example dht_simulation

# Removes what a crashed test or demo left behind.
clean-testnet:
	$(SUDO) $(TARGET)/release/testnet clean
