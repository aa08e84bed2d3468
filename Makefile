# Everything that can be done here; `make` alone lists it.

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
RELEASE = $(or $(CARGO_TARGET_DIR),target)/release

.DEFAULT_GOAL := help
.PHONY: help tools build manual check test long-test race-test history-test torture power-test sim-test flood-test coverage mutants assurance demo bench microbench guard fuzz deny install deb system-test clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

long-test: tools ## The tests that take minutes each: large trees and listings, and many cuts of large files
	$(CARGO) test --locked --test trees --test resume_client --test many_clients --test hostile_server -- --ignored --nocapture

race-test: tools ## Swap what is under a daemon's hands: FTD_RACES calls of each operation (50000; before a release 1000000)
	$(CARGO) test --locked --test races -- --ignored --nocapture

history-test: tools ## Look for the order that explains FTD_HISTORY operations (60000) of many clients
	$(CARGO) test --locked --test history -- --ignored --nocapture

# FTD_TORTURE repeats the first; FTD_KILLS, FTD_ENDS and FTD_CLIENTS set how much the others do.
torture: tools ## Fail, and kill, at every call of every operation; kill clients and daemons (about 5 minutes)
	$(CARGO) test --locked --test torture -- --ignored --nocapture
	FTD_KILLS=$${FTD_KILLS:-1000} FTD_CLIENTS=$${FTD_CLIENTS:-192} $(CARGO) test --locked --test atomicity --test restart -- --nocapture

# The switch that leaves out a flush is in no other build.
POWER = $(or $(CARGO_TARGET_DIR),target)/power/ftd

power-test: tools ## Cut the power under ftd, with all flushes and with each left out (needs root)
	$(CARGO) test --locked --features leave-out-flush --test flush_order -- --nocapture
	install -D $(or $(CARGO_TARGET_DIR),target)/debug/ftd $(POWER)
	$(CARGO) build --locked --bin ftd
	tests/power/run --ftd $(or $(CARGO_TARGET_DIR),target)/debug/ftd cuts blocks uploads faults
	for flush in file directory ancestor; do \
	  FTD_ACKS=6 FTD_STATES=40 tests/power/run --ftd $(POWER) --leave-out $$flush cuts blocks || exit 1; done
	FTD_UPLOADS=1 tests/power/run --ftd $(POWER) --leave-out checkpoint uploads

sim-test: tools ## Both programs under a network, a disk and a clock that fail: FTD_SEEDS=1000 worlds, or all about FTD_SEED
	RUST_BACKTRACE=0 $(CARGO) test --locked --lib simulation::tests::many -- --ignored --nocapture

# FLOODS=--include-ignored adds those that need a quiet machine; FTD_REFUSALS and FTD_TRIES set how much is done.
flood-test: tools ## Strangers, stalled peers, full tables and logs, disks that hang: others are served
	$(CARGO) test $(if $(FLOODS),--release) --locked --test flood --test exhaustion --test audit --test strangers -- --nocapture $(FLOODS)

coverage: tools ## Which lines the tests run, of the modules that the promise rests on (needs cargo-llvm-cov)
	tests/assurance/coverage.py

mutants: tools ## Which changes to these modules no test notices (needs cargo-mutants; an hour)
	tests/assurance/mutants.py

SETTING ?= long

assurance: tools ## All that tries to break ftd, and docs/assurance.md of it; SETTING=quick takes less than 40 minutes
	tests/assurance/run --setting $(SETTING)

demo: build ## Start a real ftd, put and get a real file, show what happened
	tests/demo.sh target/release

BENCH ?= --document docs/performance.md

bench: build ## Compare with scp, rsync, nginx and vsftpd here, in docs/performance.md; BENCH=--quick only tries
	$(CARGO) build --release --locked --example link --example limits
	benches/run.py --release $(RELEASE) $(BENCH)

microbench: tools ## Time framing, hashing and storing, each by itself
	$(CARGO) bench --locked --bench micro

guard: build ## Compare what transfers and connections cost with benches/guard.json (needs valgrind)
	$(CARGO) build --release --locked --example limits
	benches/guard.py --release $(RELEASE)

FUZZ_SECONDS ?= 60
FUZZERS = whole_session server_session client_session packed messages header path config key_line keys_file known_hosts spki

# On the stable toolchain: without the address sanitizer, which safe code has little use for. What is found
# lies in fuzz/artifacts; a find becomes a seed in fuzz/seeds.
fuzz: tools ## Search for a breach of each law of fuzz/ for FUZZ_SECONDS (needs cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked"; exit 1; }
	cargo fuzz build -s none
	FUZZ_SECONDS=$(FUZZ_SECONDS) fuzz/run $(FUZZERS)

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
	install -Dm644 docs/json.md $(DESTDIR)$(PREFIX)/share/doc/ftc/json.md
	install -Dm644 systemd/own-port.conf $(DESTDIR)$(PREFIX)/share/doc/ftd/examples/own-port.conf
	test -e $(DESTDIR)$(SYSCONFDIR)/ftd.toml || install -Dm644 etc/ftd.toml $(DESTDIR)$(SYSCONFDIR)/ftd.toml

deb: ## Build the Debian packages ftd and ftc, in target/deb
	packaging/build-deb

system-test: ## Try the packages on a booted Debian: as root beside a testbed, or over ssh; it says what is missing
	tests/system/run

clean: ## Remove what was built
	$(CARGO) clean
