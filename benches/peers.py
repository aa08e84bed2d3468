#!/usr/bin/env python3
"""Times ftd beside scp and rsync on this machine, and writes a report.

Every peer runs a real server of its own on the loopback interface. The rounds are interleaved, so that what else
the machine does meets all of them alike; figures are medians, and what counts are their ratios. Each result is
compared with its source, byte for byte. Processor time is that of client and server together.

Standard library only. A peer that is not installed is left out, with the command that installs it.
"""
import argparse
import contextlib
import filecmp
import getpass
import os
import pathlib
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def new_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


class Peer:
    """One server and the client commands that go with it. `root` is where its files land."""

    name = install = ""

    def __init__(self, directory, options):
        self.dir, self.options, self.port = directory, options, free_port()
        self.root = directory / "root"
        self.root.mkdir(parents=True)
        self.prepare()
        self.log = open(directory / "log", "wb")
        self.process = subprocess.Popen(self.server(), stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.await_port()

    def await_port(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise SystemExit(f"bench: {self.name} did not start:\n{(self.dir / 'log').read_text(errors='replace')}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        self.log.close()

    @classmethod
    def missing(cls, options):
        """The reason why this peer cannot run here, or None."""
        return None

    def prepare(self): pass
    def server(self): raise NotImplementedError
    def put(self, source, name): raise NotImplementedError
    def get(self, name, target): raise NotImplementedError
    def put_tree(self, source, name): raise NotImplementedError
    def get_tree(self, name, target): raise NotImplementedError


class Ftd(Peer):
    name, durability = "ftd", "full"

    def prepare(self):
        key = new_key(self.dir / "key")
        (self.dir / "ftd.toml").write_text(f"""
root = "{self.root}"
listen = ["127.0.0.1:{self.port}", "unix:{self.dir}/sock"]
host-key = "{self.dir}/host_key"
durability = "{self.durability}"
[[user]]
name = "bench"
keys = ["{key}"]
unix = ["{os.getuid()}"]
home = "."
allow = ["get", "list", "create", "replace", "mkdir"]
""")
        self.place = f"127.0.0.1:{self.port}"

    def server(self):
        return [self.options.ftd, "serve", "--config", str(self.dir / "ftd.toml")]

    def client(self, *words):
        return ["env", "-u", "SSH_AUTH_SOCK", f"FTC_SERVER={self.place}", f"FTC_IDENTITY={self.dir}/key",
                f"FTC_KNOWN_HOSTS={self.dir}/known", self.options.ftc, "--accept-new", "-q", *words]

    def put(self, source, name): return self.client("put", str(source), f":{name}")
    def fetch(self, *words): return self.client("get", "--durability", self.durability, *words)
    def get(self, name, target): return self.fetch(f":{name}", str(target))
    def put_tree(self, source, name): return self.client("put", "-r", f"{source}/", f":{name}/")
    def get_tree(self, name, target): return self.fetch("-r", f":{name}/", f"{target}/")


class FtdNoSync(Ftd):
    name, durability = "ftd, durability none", "none"


class FtdUnix(Ftd):
    name, durability = "ftd, Unix socket, durability none", "none"

    def prepare(self):
        super().prepare()
        self.place = f"unix:{self.dir}/sock"


class Scp(Peer):
    name, cipher = "scp, aes128-gcm", "aes128-gcm@openssh.com"

    @classmethod
    def missing(cls, options):
        if not shutil.which("scp") or not cls.daemon():
            return "openssh-client and openssh-server are needed (Debian: apt-get install openssh-client openssh-server)"
        return None

    @staticmethod
    def daemon():
        return shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")

    def prepare(self):
        (self.dir / "authorized_keys").write_text(new_key(self.dir / "key") + "\n")
        new_key(self.dir / "host")
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # where Debian's sshd separates its privileges
        (self.dir / "sshd_config").write_text(f"""
Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.dir}/host
AuthorizedKeysFile {self.dir}/authorized_keys
StrictModes no
UsePAM no
PidFile none
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
""")

    def server(self): return [self.daemon(), "-D", "-e", "-f", str(self.dir / "sshd_config")]

    def client(self, *words):
        return ["scp", "-q", "-F", "none", "-P", str(self.port), "-c", self.cipher, "-i", str(self.dir / "key"),
                "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={self.dir}/known",
                "-o", "StrictHostKeyChecking=accept-new", *words]

    def at(self, name): return f"{getpass.getuser()}@127.0.0.1:{self.root}/{name}"
    def put(self, source, name): return self.client(str(source), self.at(name))
    def get(self, name, target): return self.client(self.at(name), str(target))
    def put_tree(self, source, name): return self.client("-r", str(source), self.at(name))
    def get_tree(self, name, target): return self.client("-r", self.at(name), str(target))


class Rsyncd(Peer):
    name, flush = "rsync, plain text", []

    @classmethod
    def missing(cls, options):
        return None if shutil.which("rsync") else "rsync is needed (Debian: apt-get install rsync)"

    def prepare(self):
        identity = f"uid = {os.getuid()}\ngid = {os.getgid()}\n" if os.getuid() == 0 else ""
        (self.dir / "rsyncd.conf").write_text(
            f"port = {self.port}\naddress = 127.0.0.1\nuse chroot = no\n{identity}"
            f"[b]\npath = {self.root}\nread only = no\n")

    def server(self): return ["rsync", "--daemon", "--no-detach", f"--config={self.dir}/rsyncd.conf"]
    def at(self, name): return f"rsync://127.0.0.1:{self.port}/b/{name}"
    def put(self, source, name): return ["rsync", "-W", *self.flush, str(source), self.at(name)]
    def get(self, name, target): return ["rsync", "-W", *self.flush, self.at(name), str(target)]
    def put_tree(self, source, name): return ["rsync", "-rW", *self.flush, f"{source}/", self.at(name)]
    def get_tree(self, name, target): return ["rsync", "-rW", *self.flush, f"{self.at(name)}/", str(target)]


class RsyncdFsync(Rsyncd):
    name, flush = "rsync --fsync, plain text", ["--fsync"]


PEERS = [Ftd, FtdNoSync, FtdUnix, Scp, Rsyncd, RsyncdFsync]


def family(pid):
    """A process and all below it."""
    children = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            parent = int(pathlib.Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += children.get(found[-1], [])
    return found


def processor_seconds(pid):
    """User and system time of a process, its children that ended and those that live."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            words = pathlib.Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, words[11:13])) + sum(map(int, words[13:15]))
    return total / TICKS


def resident(pid):
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += int(pathlib.Path(f"/proc/{member}/statm").read_text().split()[1]) * PAGE
    return total


class PeakMemory:
    """The largest resident set of a server and its children while the block runs, looked at 20 times a second."""

    def __init__(self, pid):
        self.pid, self.peak, self.over = pid, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def watch(self):
        while not self.over.wait(0.05):
            self.peak = max(self.peak, resident(self.pid))


def timed(peer, command):
    """Runs a client: wall seconds, processor seconds of both sides, the server's peak memory."""
    server_before = processor_seconds(peer.process.pid)
    with PeakMemory(peer.process.pid) as memory:
        start = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        complaint = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
    if child.returncode != 0:
        raise SystemExit(f"bench: {peer.name}: {' '.join(command)}\n{complaint.decode(errors='replace')}")
    time.sleep(0.2)  # sshd's children end a little after their client
    server = processor_seconds(peer.process.pid) - server_before
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime + server, "memory": memory.peak}


def fill(path, size):
    with open(path, "wb") as out:
        for _ in range(size // MIB):
            out.write(os.urandom(MIB))
        out.write(os.urandom(size % MIB))


def plant(top, files):
    """A tree of files of 4 KiB, a hundred to a directory."""
    for number in range(files):
        directory = top / f"d{number // 100:03}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number:06}").write_bytes(os.urandom(4096))


def equal(one, other):
    """Whether two files, or two whole trees, are the same byte for byte."""
    if one.is_file():
        return filecmp.cmp(one, other, shallow=False)
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    return names == sorted(path.relative_to(other) for path in other.rglob("*")) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names if (one / name).is_file())


def measure(lab, options):
    size = int(options.size * 1024) * MIB
    big, small, back = lab / "big", lab / "small", lab / "back"
    fill(big, size)
    fill(small, 64 * 1024)
    tree = lab / "tree"
    plant(tree, options.files)
    peers, left_out, results, idle = [], [], {}, {}
    for kind in PEERS:
        if options.peers and not any(word in kind.name for word in options.peers.split(",")):
            continue
        reason = kind.missing(options)
        if reason:
            left_out.append(f"{kind.name}: {reason}")
            print(f"left out: {left_out[-1]}", file=sys.stderr)
            continue
        peers.append(kind(lab / f"peer{len(peers)}", options))
        idle[kind.name] = resident(peers[-1].process.pid)
    try:
        for turn in range(options.rounds + 1):  # the first warms up and does not count
            for peer in peers[turn % len(peers):] + peers[:turn % len(peers)]:
                jobs = [("put", peer.put(big, "big"), big, peer.root / "big"),
                        ("get", peer.get("big", back), big, back),
                        ("put 64 KiB", peer.put(small, f"small{turn}"), small, peer.root / f"small{turn}"),
                        # New names each time: a file system that has just removed many files is slow for minutes.
                        ("put tree", peer.put_tree(tree, f"tree{turn}"), tree, peer.root / f"tree{turn}"),
                        ("get tree", peer.get_tree(f"tree{turn}", peer.dir / f"back{turn}"), tree,
                         peer.dir / f"back{turn}")]
                for scenario, command, source, result in jobs:
                    if not scenario.endswith("tree"):
                        result.unlink(missing_ok=True)  # nobody is to pay for the removal of an old file
                    elif scenario == "get tree":
                        result.mkdir()
                    os.sync()  # nor for the write-back of somebody else's
                    figures = timed(peer, command)
                    at = result / f"tree{turn}" if (result / f"tree{turn}").is_dir() else result  # as scp -r does
                    if not equal(source, at):
                        raise SystemExit(f"bench: {peer.name}: {scenario}: the result differs from its source")
                    if turn:
                        results.setdefault((scenario, peer.name), []).append(figures)
                print(f"round {turn} of {options.rounds}: {peer.name}", file=sys.stderr)
    finally:
        for peer in peers:
            peer.stop()
    return [p.name for p in peers], left_out, results, idle


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def processor_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def report(names, left_out, results, idle, options):
    base = Scp.name if Scp.name in names else names[0]
    lines = [
        f"{time.strftime('%Y-%m-%d')}, commit {commit()}; {processor_name()}, {os.cpu_count()} threads, "
        f"Linux {platform.release()}; {options.rounds} interleaved rounds, medians (lowest to highest); "
        f"large files of {options.size:g} GiB; ratios to {base}.", ""]
    titles = {"put": f"put {options.size:g} GiB", "get": f"get {options.size:g} GiB",
              "put 64 KiB": "put 64 KiB, a fresh client",
              "put tree": f"put {options.files} files of 4 KiB", "get tree": f"get {options.files} files of 4 KiB"}
    for scenario, title in titles.items():
        def median(name, key):
            return statistics.median(f[key] for f in results[scenario, name])
        lines += [f"**{title}**", "",
                  "| | wall s | ratio | CPU s, both sides | ratio | peak memory of the server |",
                  "|---|---|---|---|---|---|"]
        for name in names:
            walls = [f["wall"] for f in results[scenario, name]]
            wall, cpu = median(name, "wall"), median(name, "cpu")
            lines.append(
                f"| {name} | {wall:.3f} ({min(walls):.3f}–{max(walls):.3f}) | {wall / median(base, 'wall'):.2f} | "
                f"{cpu:.2f} | {cpu / max(median(base, 'cpu'), 0.01):.2f} | {median(name, 'memory') / MIB:.1f} MiB |")
        lines.append("")
    lines.append("Memory of the idle server: "
                 + ", ".join(f"{name} {idle[name] / MIB:.1f} MiB" for name in names) + ".")
    lines += [f"Left out: {reason}" for reason in left_out]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ftd", required=True, type=os.path.abspath)
    parser.add_argument("--ftc", required=True, type=os.path.abspath)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", help="only those whose name holds one of these words, parted by commas")
    parser.add_argument("--size", type=float, default=1, help="of the large file, in GiB")
    parser.add_argument("--files", type=int, default=2000, help="in the tree")
    parser.add_argument("--lab", help="a directory on the file system to measure (default: below target/bench)")
    parser.add_argument("--output", default="target/bench/report.md")
    options = parser.parse_args()
    output = pathlib.Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.lab or output.parent, prefix="lab.") as lab:
        text = report(*measure(pathlib.Path(lab).absolute(), options), options)
    output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
