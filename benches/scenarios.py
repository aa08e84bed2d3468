"""What is measured: each scenario asks every peer in turn, round by round."""
import contextlib
import copy
import json
import pathlib
import shutil
import subprocess
import sys
import time

from measure import KIB, MIB, equal, fill, memory_of_idle, plant, resident, size_of, timed, touch_memory
from peers import DISTANT, LONG, NEAR, PEERS, FtdNone, NginxTls, Rsyncd

RTT_MS, LONG_RTT_MS, LONG_RATE = 40, 100, 125_000_000
CROWD, CROWD_BYTES = 32, 32 * MIB
DISTANT_FILES = 100
IDLE_CONNECTIONS = 1000


class Lines:
    """The two long lines before all peers that can be reached over one."""

    def __init__(self, helper, peers):
        ports = [port for peer in peers if peer.far for port in range(peer.port, peer.port + peer.ports)]
        self.children = [self.lay(helper, ports, DISTANT, RTT_MS),
                         self.lay(helper, ports, LONG, LONG_RTT_MS, "--rate", str(LONG_RATE))]

    @staticmethod
    def lay(helper, ports, host, rtt_ms, *words):
        pairs = [f"{host}:{port}={NEAR}:{port}" for port in ports]
        child = subprocess.Popen([helper, "--delay-ms", str(rtt_ms / 2), *words, *pairs], stdout=subprocess.PIPE)
        for _ in pairs:
            if not child.stdout.readline():
                raise SystemExit("bench: the long line did not start")
        return child

    def cut(self):
        for child in self.children:
            child.kill()
            child.wait()
            child.stdout.close()


def over(peer, host):
    """The same server, reached by another address."""
    far = copy.copy(peer)
    far.host = host
    return far


class Bench:
    """A laboratory with sources, peers and lines, and the figures that were taken in it."""

    def __init__(self, lab, options):
        self.lab, self.options = lab, options
        self.figures, self.machine, self.left_out = {}, {}, []
        self.size = int(options.size * 1024) * MIB
        self.wanted = options.scenarios.split(",") if options.scenarios else None
        self.sources()
        self.peers = []
        for kind in PEERS:
            if options.peers and not any(word in kind.name for word in options.peers.split(",")):
                continue
            reason = kind.missing(options)
            if reason:
                self.left_out.append(f"{kind.name}: {reason}")
                print(f"left out: {self.left_out[-1]}", file=sys.stderr)
            else:
                self.peers.append(kind(lab / f"peer{len(self.peers)}", options))
        for peer in self.peers:
            self.note("idle", peer.name, {"memory": resident(peer.process.pid)})
        self.lines = Lines(options.link, self.peers)

    def sources(self):
        lab, options = self.lab, self.options
        self.big, self.tenth, self.piece, self.small = (lab / name for name in ("big", "tenth", "piece", "small"))
        self.tree, self.tree_tenth, self.tree_far = (lab / name for name in ("tree", "tree-tenth", "tree-far"))
        for path, size in ((self.big, self.size), (self.tenth, self.size // 10), (self.piece, CROWD_BYTES),
                           (self.small, 64 * KIB)):
            fill(path, size)
        plant(self.tree, options.files)
        plant(self.tree_tenth, options.files // 10)
        plant(self.tree_far, DISTANT_FILES)

    def close(self):
        self.lines.cut()
        for peer in self.peers:
            peer.stop()

    def note(self, scenario, name, figures):
        self.figures.setdefault(scenario, {}).setdefault(name, []).append(figures)

    def run(self):
        for turn in range(self.options.rounds + 1):  # the first warms up, compares all results, and does not count
            self.turn = turn
            for scenario in (self.large, self.trees, self.fresh, self.distant, self.crowd, self.long, self.growth, self.limits):
                if self.wanted and scenario.__name__ not in self.wanted:
                    continue
                start = time.monotonic()
                shift = turn % len(self.peers)
                scenario(self.peers[shift:] + self.peers[:shift])
                print(f"round {turn} of {self.options.rounds}: {scenario.__name__}, {time.monotonic() - start:.0f} s", file=sys.stderr)
        if not self.wanted or "memory" in self.wanted:
            self.memory()

    def time(self, scenario, peer, commands, source, result):
        """One measurement. New names each time: a file system that has just removed many files is slow for minutes."""
        subprocess.run(["sync"], check=True)  # nobody is to pay for the write-back of somebody else's
        touch_memory(size_of(source) * len(commands) * 3 // 2 + 64 * MIB)
        figures = timed(peer, commands)
        if self.turn == 0:
            at = result / source.name if source.is_dir() and (result / source.name).is_dir() else result  # as scp -r does
            if not equal(source, at):
                raise SystemExit(f"bench: {peer.name}: {scenario}: the result differs from its source")
        else:
            self.note(scenario, peer.name, figures)

    def large(self, peers):
        for peer in peers:
            stored, back = peer.root / "big", self.lab / "back"
            self.time("put big", peer, [peer.put(self.big, "big")], self.big, stored)
            self.time("get big", peer, [peer.get("big", back)], self.big, back)
            stored.unlink()
            back.unlink()

    def trees(self, peers):
        for peer in peers:
            name, back = f"tree{self.turn}", peer.dir / f"back{self.turn}"
            back.mkdir()
            if peer.name.startswith("scp"):
                (peer.root / name).mkdir()  # or else it depends on whether it is there
            self.time("put tree", peer, [peer.put_tree(self.tree, name)], self.tree, peer.root / name)
            if (peer.root / name / self.tree.name).is_dir():
                name = f"{name}/{self.tree.name}"
            self.time("get tree", peer, [peer.get_tree(name, back)], self.tree, back)

    def fresh(self, peers):
        for peer in peers:
            for again in range(5):
                name = f"small{self.turn}.{again}"
                self.time("put small", peer, [peer.put(self.small, name)], self.small, peer.root / name)

    def distant(self, peers):
        for peer in peers:
            if not peer.far or peer.slow and self.turn != 1:
                continue
            name, far = f"far{self.turn}", over(peer, DISTANT)
            self.time("distant", far, [far.put_tree(self.tree_far, name)], self.tree_far, peer.root / name)

    def crowd(self, peers):
        for peer in peers:
            names = [f"crowd{self.turn}.{number}" for number in range(CROWD)]
            self.time("crowd", peer, [peer.put(self.piece, name) for name in names], self.piece, peer.root / names[-1])
            for name in names:
                (peer.root / name).unlink()

    def long(self, peers):
        """A big file over a line of 100 ms and 1 Gbit/s, beside plain TCP over the same."""
        if self.turn not in (1, 2, 3):
            return
        with subprocess.Popen([self.options.limits, "sink"], stdout=subprocess.PIPE, text=True) as sink:
            target = sink.stdout.readline().strip()
            pair = f"{LONG}:0={target}"
            words = [self.options.link, "--delay-ms", str(LONG_RTT_MS / 2), "--rate", str(LONG_RATE), pair]
            with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as line:
                words = [self.options.limits, "source", line.stdout.readline().strip(), str(self.size)]
                taken = subprocess.run(words, capture_output=True, text=True, check=True).stdout
                line.kill()
            sink.kill()
        self.note("put long", "plain TCP", {"wall": float(taken)})
        for peer in peers:
            if type(peer) not in (FtdNone, Rsyncd, NginxTls):
                continue  # each takes nine seconds, and the others tell nothing more
            stored, back, far = peer.root / "long", self.lab / "back", over(peer, LONG)
            self.time("put long", far, [far.put(self.big, "long")], self.big, stored)
            self.time("get long", far, [far.get("long", back)], self.big, back)
            stored.unlink()
            back.unlink()

    def growth(self, peers):
        """A tenth of the bytes and of the files, and with --long ten times as much, once."""
        for peer in (peer for peer in peers if type(peer) is FtdNone):
            name = f"tenth{self.turn}"
            self.time("put tenth", peer, [peer.put(self.tenth, name)], self.tenth, peer.root / name)
            self.time("put tree tenth", peer, [peer.put_tree(self.tree_tenth, f"t{name}")], self.tree_tenth, peer.root / f"t{name}")
            if self.options.long and self.turn == 1:
                tenfold, forest = self.lab / "tenfold", self.lab / "forest"
                fill(tenfold, self.size * 10)
                self.time("put tenfold", peer, [peer.put(tenfold, "tenfold")], tenfold, peer.root / "tenfold")
                tenfold.unlink()
                (peer.root / "tenfold").unlink()
                plant(forest, self.options.files * 10)
                self.time("put tree tenfold", peer, [peer.put_tree(forest, "forest")], forest, peer.root / "forest")

    def limits(self, _peers):
        """What the machine can do, taken in the same rounds."""
        if self.turn == 0:
            return
        start = time.monotonic()
        if shutil.which("openssl"):
            subprocess.run(["openssl", "dgst", "-sha256", str(self.big)], stdout=subprocess.DEVNULL, check=True)
            self.note("openssl", "machine", {"wall": time.monotonic() - start})
        words = [self.options.limits, "unavoidable", str(self.big), str(self.lab / "scratch")]
        sums = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        self.note("unavoidable", "machine", sums)

    def memory(self):
        """One transfer, and idle connections, each in a fresh server: what others have used and given back hides nothing."""
        if not any(type(peer) is FtdNone for peer in self.peers):
            return
        with contextlib.ExitStack() as held:
            one, many = (FtdNone(self.lab / name, self.options) for name in ("one", "many"))
            held.callback(one.stop)
            held.callback(many.stop)
            self.note("one transfer", one.name, timed(one, [one.put(self.big, "big")]))
            memory = memory_of_idle(self.options.limits, many.process.pid, f"{NEAR}:{many.port}", many.dir / "key", IDLE_CONNECTIONS)
        self.note("idle connection", many.name, {"memory": memory})


def lay_out(path):
    """A laboratory that every peer's account may enter."""
    path.mkdir(parents=True)
    path.chmod(0o755)
    return path


def tear_down(path):
    shutil.rmtree(path, ignore_errors=True)


def programs(options):
    """The programs that are measured and that measure, each with the command that builds it."""
    for name in ("ftd", "ftc", "link", "limits"):
        if not pathlib.Path(getattr(options, name)).exists():
            raise SystemExit(f"bench: {getattr(options, name)} is missing: make bench builds it")
