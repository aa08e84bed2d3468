# Everything that can be done here; `make` alone lists it.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release

.DEFAULT_GOAL := help
.PHONY: help tools build manual check test long-test demo bench fuzz deny install deb system-test clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

manual: tools ## Make the manual pages and completions, in target/manual
	$(CARGO) build --release --locked --features manual --bin manual
	$(RELEASE)/manual target/manual

check: tools ## Formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings

test: tools ## The everyday tests: no root needed, a few minutes
	$(CARGO) test --locked

long-test: tools ## The tests that take minutes each: large trees, and many cuts of large files
	$(CARGO) test --locked --test trees --test resume_client -- --ignored --nocapture

demo: build ## Start a real ftd, put and get a real file, show what happened
	tests/demo.sh target/release

bench: build ## Compare with rsync and scp on this machine; writes target/bench/report.md
	benches/peers.py --ftd target/release/ftd --ftc target/release/ftc

FUZZ_SECONDS ?= 60
FUZZERS = header server_session client_session packed messages path config key_line spki

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

install: ## Install below DESTDIR and PREFIX, after build and manual; an existing configuration stays
	install -Dm755 $(RELEASE)/ftd $(DESTDIR)$(PREFIX)/bin/ftd
	install -Dm755 $(RELEASE)/ftc $(DESTDIR)$(PREFIX)/bin/ftc
	install -d $(DESTDIR)$(UNITDIR)
	for unit in ftd.service ftd-setup.service; do \
	  sed 's|/usr/bin/ftd|$(PREFIX)/bin/ftd|g' systemd/$$unit > $(DESTDIR)$(UNITDIR)/$$unit && \
	  chmod 644 $(DESTDIR)$(UNITDIR)/$$unit || exit 1; done
	install -Dm644 systemd/ftd.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/ftd.conf
	install -Dm644 systemd/ftd.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/ftd.conf
	install -Dm644 systemd/ftd.catalog $(DESTDIR)$(PREFIX)/lib/systemd/catalog/ftd.catalog
	install -Dm644 target/manual/ftd.8 $(DESTDIR)$(PREFIX)/share/man/man8/ftd.8
	install -Dm644 target/manual/ftd.toml.5 $(DESTDIR)$(PREFIX)/share/man/man5/ftd.toml.5
	install -Dm644 target/manual/ftc.1 $(DESTDIR)$(PREFIX)/share/man/man1/ftc.1
	for name in ftd ftc; do \
	  install -Dm644 target/manual/$$name.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/$$name && \
	  install -Dm644 target/manual/$$name.fish $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/$$name.fish && \
	  install -Dm644 target/manual/_$$name $(DESTDIR)$(ZSHDIR)/_$$name || exit 1; done
	for text in admin journal rights recipes; do \
	  install -Dm644 docs/$$text.md $(DESTDIR)$(PREFIX)/share/doc/ftd/$$text.md || exit 1; done
	install -Dm644 systemd/own-port.conf $(DESTDIR)$(PREFIX)/share/doc/ftd/examples/own-port.conf
	test -e $(DESTDIR)$(SYSCONFDIR)/ftd.toml || install -Dm644 etc/ftd.toml $(DESTDIR)$(SYSCONFDIR)/ftd.toml

deb: ## Build the Debian packages ftd and ftc, in target/deb
	packaging/build-deb

system-test: ## Try the packages on a booted Debian: as root beside a testbed, or over ssh; it says what is missing
	tests/system/run

clean: ## Remove what was built
	$(CARGO) clean
