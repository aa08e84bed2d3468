#!/usr/bin/env python3
"""Notices when a transfer comes to cost more: instructions of ftc, system calls and memory of ftd, against benches/guard.json.

Counts, because they do not depend on what else the machine does. Three fixed transfers of the release build run below
valgrind, which shows every host with AVX2 the same processor: it has no instructions for SHA-256, so that digests and ciphers are
left out; what is left is this project's own work and the libraries that it calls, with the bytes copied as a figure of their
own. One thread runs at a time there, and who waits for whom differs a little: by 2.4 % at most, and 4 % in what a get copies.
ftd itself cannot run there (valgrind does not know openat2), so that its system calls for small files are counted: those that
name, open, store and flush, which are the same in every run; and the resident bytes of connections on which nothing happens, which
are the size of a connection's task and buffers. After an intended change: benches/guard.py --write.

Standard library only; needs valgrind and strace.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from measure import MIB, family, fill, memory_of_idle, plant
from peers import new_key

BASELINE = pathlib.Path(__file__).with_name("guard.json")
BIG, FILES, CONNECTIONS = 16 * MIB, 500, 500
# What the emulated processor decides about, and not we.
FOREIGN = re.compile(r"sha2::|aws_lc_|aesni|aes_gcm|aes_hw|curve25519|ed25519|edwards|p256|p384|ecp_|bignum_|strlen|ld-linux|_dl_|do_lookup")
COPIES = re.compile(r"^_*mem(cpy|move)")
CALLS = ("openat2 renameat renameat2 linkat unlinkat fsync fdatasync syncfs sync_file_range fallocate ftruncate fsetxattr "
         "fgetxattr utimensat fchmod fchown fstat newfstatat statx pwrite64").split()


class Server:
    """An ftd without flushes, below strace where its calls are to be counted."""

    def __init__(self, lab, release, calls=None):
        (lab / "root").mkdir(parents=True)
        key = new_key(lab / "key")
        self.lab, self.release, self.socket = lab, release, lab / "sock"
        # TCP, so that there is TLS; the port is the one that the kernel gives to the log's first line about it.
        (lab / "ftd.toml").write_text(f"""
root = "{lab}/root"
listen = ["127.0.0.1:0"]
host-key = "{lab}/host_key"
durability = "none"
[limits]
connections-per-user = {CONNECTIONS}
connections-per-source = {CONNECTIONS}
[[user]]
name = "guard"
keys = ["{key}"]
home = "."
allow = ["get", "list", "create", "replace", "mkdir"]
""")
        words = [str(release / "ftd"), "serve", "--config", str(lab / "ftd.toml")]
        if calls:
            words = ["strace", "-f", "-qq", "-c", "-o", str(calls), "-e", "trace=" + ",".join(CALLS), *words]
        self.process = subprocess.Popen(words, stderr=open(lab / "log", "wb"), stdout=subprocess.DEVNULL)
        self.address = self.await_address()

    def await_address(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            found = re.search(r"127\.0\.0\.1:[1-9]\d*", (self.lab / "log").read_text(errors="replace"))
            if found:
                return found.group()
            time.sleep(0.05)
        raise SystemExit(f"guard: ftd did not start:\n{(self.lab / 'log').read_text(errors='replace')}")

    def client(self, *words, below=()):
        environment = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        environment |= {"FTC_SERVER": self.address, "FTC_IDENTITY": str(self.lab / "key"),
                        "FTC_KNOWN_HOSTS": str(self.lab / "known")}
        subprocess.run([*below, str(self.release / "ftc"), "--accept-new", "-q", *words], env=environment,
                       stdout=subprocess.DEVNULL, check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(family(self.process.pid)[-1], signal.SIGTERM)  # strace itself would not pass it on
        self.process.wait(60)


def instructions(path):
    """Instructions by function of one run below callgrind, calls not included."""
    names, counts, function, is_call = {}, collections.Counter(), "", False
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("fn="):
            number, _, name = line[3:].partition(" ")
            function = names.setdefault(number, name) if name else names[number]
        elif line.startswith("cfn="):
            number, _, name = line[4:].partition(" ")
            if name:
                names[number] = name
        elif line.startswith("calls="):
            is_call = True
        elif re.match(r"[0-9+*-]", line):
            if not is_call:
                counts[function] += int(line.split()[1])
            is_call = False
    return counts


def below_valgrind(server, out, *words):
    server.client(*words, below=["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"])
    counts = instructions(out)
    return {"instructions": sum(n for name, n in counts.items() if not FOREIGN.search(name) and not COPIES.search(name)),
            "copying": sum(n for name, n in counts.items() if COPIES.search(name))}


def calls_of(path):
    """The calls of strace's table, by name."""
    counts = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) >= 5 and words[-1] in CALLS:
            counts[words[-1]] = int(words[3])
    return counts


def measure(release, lab):
    big, tree, found = lab / "big", lab / "tree", {}
    fill(big, BIG)
    plant(tree, FILES)
    with Server(lab / "idle", release) as server:
        memory = memory_of_idle(release / "examples" / "limits", server.process.pid, server.address, lab / "idle" / "key", CONNECTIONS)
        found["ftd idle connection: bytes"] = round(memory)
    with Server(lab / "timed", release) as server:
        server.client("put", str(lab / "big"), ":first")  # which meets a server that is not known yet
        for name, words in (("put 16 MiB", ("put", str(big), ":big")), ("put 500 files", ("put", "-r", f"{tree}/", ":tree/")),
                            ("get 16 MiB", ("get", ":first", "-"))):
            for what, count in below_valgrind(server, lab / "out", *words).items():
                found[f"ftc {name}: {what}"] = count
    with Server(lab / "traced", release, lab / "calls") as server:
        server.client("put", "-r", f"{tree}/", ":tree/")
    for name, count in calls_of(lab / "calls").items():
        found[f"ftd put 500 files: {name}"] = count
    return found


def tolerance(name):
    """How much more is tolerated: what a get copies depends a little on which thread waits for which, and memory on what the
    allocator of the machine at hand rounds up."""
    return {"copying": 0.10, "bytes": 0.20}.get(name.rpartition(" ")[2], 0.05)


def judge(found, baseline):
    """Prints each count beside the one that was recorded; gives those that have grown too much."""
    worse = []
    for name in sorted({*found, *baseline}):
        count, before = found.get(name, 0), baseline.get(name, 0)
        change = count / before - 1 if before else float("inf")
        is_worse = count > before * (1 + tolerance(name)) + 4
        worse += [name] * is_worse
        print(f"{'WORSE' if is_worse else '':5} {name:45} {count:>12,} {before:>12,} {change:+8.1%}")
    return worse


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", default="target/release", type=pathlib.Path)
    parser.add_argument("--write", action="store_true", help="record the counts of this build")
    options = parser.parse_args()
    for tool in ("valgrind", "strace", "ssh-keygen"):
        if not shutil.which(tool):
            raise SystemExit(f"guard: {tool} is missing (Debian: apt-get install valgrind strace openssh-client)")
    with tempfile.TemporaryDirectory(prefix="guard.", dir=options.release.parent) as lab:
        found = measure(options.release.absolute(), pathlib.Path(lab).absolute())
    if options.write:
        BASELINE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"wrote {BASELINE}")
        return
    worse = judge(found, json.loads(BASELINE.read_text()))
    if worse:
        print(f"guard: too far above benches/guard.json: {', '.join(worse)}", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()
