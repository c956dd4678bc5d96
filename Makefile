# `make demo` shows what barn does, `make test` runs all tests; both do all set-up they need.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: build install demo test lint doc bench-hit bench-remote soak clean-testnet

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

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" $(CARGO) doc --workspace --no-deps --document-private-items

# The cost of a warm hit and of a warm remote compile, beside ccache, icecream and distcc.
bench-hit bench-remote:
	@.ci/setup bench
	$(build-release)
	$(SUDO) $(TARGET)/release/testnet $@ $(BENCH)

# 1000 kills of a writing store; takes some minutes.
soak:
	$(CARGO) run --release -p barn-cache --example kill9 -- 1000

# Removes what a crashed test or demo left behind.
clean-testnet:
	$(SUDO) $(TARGET)/release/testnet clean
