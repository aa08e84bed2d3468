"""How a run is measured: wall seconds, processor seconds of both sides, the server's peak memory."""
import contextlib
import filecmp
import functools
import mmap
import os
import pathlib
import subprocess
import threading
import time

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def family(pid):
    """A process and all below it."""
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        for children in pathlib.Path(f"/proc/{found[-1]}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                todo += map(int, children.read_text().split())
    return found


def processor_seconds(pid):
    """User and system time of a process, its children that ended and those that live."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            words = pathlib.Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, words[11:15]))
    return total / TICKS


def touch_memory(amount):
    """Uses so many bytes of memory and gives them back. Below a hypervisor that takes back what was free for a few seconds,
    whoever writes next would pay for the same memory again, and that is not always the same peer."""
    with mmap.mmap(-1, amount, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for page in range(0, amount, PAGE):
            memory[page] = 1


@functools.cache
def size_of(path):
    """Bytes of a file, or of all files of a tree, neither of which changes."""
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file()) if path.is_dir() else path.stat().st_size


def resident(pid):
    """Bytes of the resident sets of a process and all below it; what they share counts once for each."""
    total = 0
    for member in family(pid):
        with contextlib.suppress(OSError):
            total += int(pathlib.Path(f"/proc/{member}/statm").read_text().split()[1]) * PAGE
    return total


def memory_of_idle(limits, pid, address, key, count):
    """Resident bytes of one of so many connections to the server `pid` on which nothing is asked; `limits` holds them."""
    before = resident(pid)
    words = [str(limits), "idle", address, str(key), str(count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        if not holder.stdout.readline():
            raise SystemExit("the idle connections did not come about")
        memory = (resident(pid) - before) / count
        holder.stdin.close()
    return memory


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


def timed(peer, commands):
    """Runs clients all at once, and gives what they and the server needed until the last one ended."""
    server_before = processor_seconds(peer.process.pid)
    with PeakMemory(peer.process.pid) as memory:
        start = time.monotonic()
        children = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
                    for command in commands]
        client = 0
        for child, command in zip(children, commands):
            with child.stderr:
                complaint = child.stderr.read()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            client += usage.ru_utime + usage.ru_stime
            if child.returncode != 0:
                raise SystemExit(f"bench: {peer.name}: {' '.join(command)}\n{complaint.decode(errors='replace')}")
        wall = time.monotonic() - start
    time.sleep(0.2 if peer.forks else 0.02)  # a child of sshd's ends a little after its client
    server = processor_seconds(peer.process.pid) - server_before
    return {"wall": wall, "cpu": client + server, "memory": memory.peak}


def fill(path, size):
    """A file of bytes that nobody can compress."""
    block = os.urandom(16 * MIB)
    with open(path, "wb") as out:
        for start in range(0, size, len(block)):
            # Each block differs, cheaply: nothing here looks for likeness.
            out.write((start.to_bytes(8) + block[8:])[:size - start])


def plant(top, files):
    """A tree of files of 4 KiB, a hundred to a directory or in a hundred directories, whichever is more to each."""
    to_each = max(files // 100, 100)
    for number in range(files):
        directory = top / f"d{number // to_each:03}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number:06}").write_bytes(os.urandom(4096))


def equal(one, other):
    """Whether two files, or two whole trees, are the same byte for byte."""
    if one.is_file():
        return filecmp.cmp(one, other, shallow=False)
    names = sorted(path.relative_to(one) for path in one.rglob("*"))
    return names == sorted(path.relative_to(other) for path in other.rglob("*")) and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names if (one / name).is_file())
