# Everything that can be done here; `make` alone lists it.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system

.DEFAULT_GOAL := help
.PHONY: help tools build check test demo bench fuzz deny install clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools: # Say exactly what is missing, and how to get it.
	@missing=; \
	need() { command -v "$$1" >/dev/null 2>&1 || missing="$$missing\n  $$1: $$2"; }; \
	need $(CARGO) "Rust 1.91 or later, from https://rustup.rs"; \
	need cc "a C compiler (Debian: apt-get install gcc)"; \
	need ssh-keygen "OpenSSH's client tools (Debian: apt-get install openssh-client)"; \
	need strace "strace, which the tests of faults use (Debian: apt-get install strace)"; \
	need python3 "Python 3 (Debian: apt-get install python3)"; \
	if [ -n "$$missing" ]; then printf "missing:$$missing\n"; exit 1; fi

build: tools ## Build ftd and ftc, optimised
	$(CARGO) build --release --locked

check: tools ## Formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

test: tools ## The everyday tests: no root needed, a few minutes
	$(CARGO) test --locked

demo: build ## Start a real ftd, put and get a real file, show what happened
	tests/demo.sh target/release

bench: build ## Compare with rsync and scp on this machine; writes target/bench/report.md
	benches/peers.py --ftd target/release/ftd --ftc target/release/ftc

FUZZ_SECONDS ?= 60
FUZZERS = header server_session client_session messages path config key_line spki

# On the stable toolchain: without the address sanitizer, which safe code has little use for. What is found
# lies in fuzz/artifacts; a find becomes a seed in fuzz/seeds.
fuzz: tools ## Search for a breach of each law in fuzz/laws.rs for FUZZ_SECONDS (needs cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked"; exit 1; }
	@for law in $(FUZZERS); do \
	  mkdir -p fuzz/corpus/$$law && \
	  cargo fuzz run -s none $$law fuzz/corpus/$$law fuzz/seeds/$$law -- \
	    -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 || exit 1; \
	done

deny: tools ## Licences and advisories of the dependencies (needs cargo-deny)
	$(CARGO) deny check

install: ## Install below DESTDIR and PREFIX; an existing configuration stays
	install -Dm755 target/release/ftd $(DESTDIR)$(PREFIX)/bin/ftd
	install -Dm755 target/release/ftc $(DESTDIR)$(PREFIX)/bin/ftc
	install -Dm644 systemd/ftd.service $(DESTDIR)$(UNITDIR)/ftd.service
	sed -i 's|/usr/bin/ftd|$(PREFIX)/bin/ftd|g' $(DESTDIR)$(UNITDIR)/ftd.service
	install -Dm644 packaging/ftd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/ftd.conf
	test -e $(DESTDIR)$(SYSCONFDIR)/ftd.toml || install -Dm644 etc/ftd.toml $(DESTDIR)$(SYSCONFDIR)/ftd.toml

clean: ## Remove what was built
	$(CARGO) clean
