"""Changes that a daemon is asked for, and what may be found after a power cut.

A tree is a dict of paths below the home: DIRECTORY, or what `described` says of a file. A change knows what
it sets, by path; None is a name that is gone.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "python"))
from ftd_client import ANSWER, DATA, EOF, REQUEST, TRAILER, Client  # noqa: E402

DIRECTORY = "directory"
KINDS = ("new", "over", "rename", "rename directory", "remove", "mkdir -p", "new below new directories")
CHUNK = 1 << 20


def described(digest, size, mode, mtime_ns):
    return f"{size} bytes {digest[:16]} {mode:o} {mtime_ns}"


def found(home):
    """The tree at a path, as it is on the disk."""
    tree = {}
    for top, directories, files in os.walk(home):
        for name in directories:
            tree[os.path.relpath(os.path.join(top, name), home)] = DIRECTORY
        for name in files:
            path = os.path.join(top, name)
            with open(path, "rb") as file:
                content = file.read()
            stat, digest = os.stat(path), hashlib.sha256(content).hexdigest()
            what = described(digest, len(content), stat.st_mode & 0o777, stat.st_mtime_ns)
            try:
                kept = os.getxattr(path, "user.ftd.sha256")
            except OSError:
                kept = b""
            is_kept = digest.encode() in kept or bytes.fromhex(digest) in kept
            tree[os.path.relpath(path, home)] = what if is_kept else f"{what}, but another digest"
    return tree


@dataclasses.dataclass(eq=False)
class Change:
    kind: str
    request: dict
    sets: dict  # Path to what is there afterwards.
    content: bytes | None = None
    moves: tuple | None = None  # Of these two names at least one is there at any time.

    def send(self, client: Client):
        """Asks for it, and gives the request's id."""
        client.last += 1
        out = [client.frame(REQUEST, client.last, self.request)]
        if self.content is not None:
            for at in range(0, len(self.content), CHUNK):
                out.append(client.frame(DATA, client.last, self.content[at:at + CHUNK]))
            trailer = {"bytes": len(self.content), "sha256": hashlib.sha256(self.content).hexdigest()}
            out += [client.frame(EOF, client.last), client.frame(TRAILER, client.last, trailer)]
        client.socket.sendall(b"".join(out))
        return client.last


def answered(client):
    """The id of the next request that is done."""
    kind, request, payload = client.receive()
    if kind != ANSWER:
        raise client.error(kind, request, payload)
    return request


def ways_to(path):
    """The directories above a path."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


class Author:
    """Makes up changes, none of which depends on another that is not done yet; `tree` is what is settled."""

    def __init__(self, rng):
        self.rng, self.tree, self.count, self.taken = rng, {}, 0, set()

    def settle(self, tree):
        """All that was asked for is done, or known to be lost."""
        self.tree, self.taken = tree, set()

    def name(self, word):
        self.count += 1
        return f"{word}-{self.count}"

    def put(self, kind, path):
        rng = self.rng
        size = rng.choice([0, 1, rng.randrange(4096), rng.randrange(1 << 16), rng.randrange(1 << 19)])
        content = rng.randbytes(size)
        mode, mtime = rng.choice([0o600, 0o644, 0o400]), rng.randrange(10**18, 2 * 10**18)
        what = described(hashlib.sha256(content).hexdigest(), size, mode, mtime)
        return Change(kind, {"verb": "put", "path": path, "mode": mode, "mtime_ns": mtime},
                      {way: DIRECTORY for way in ways_to(path)} | {path: what}, content)

    def pick(self, directories):
        """Something that is there, and that no other change has to do with."""
        free = [path for path, what in self.tree.items()
                if (what == DIRECTORY) == directories and path not in self.taken
                and (path.startswith("dirs/") if directories else path.startswith("files/"))]
        path = self.rng.choice(sorted(free))
        self.taken.add(path)
        return path

    def prepare(self, kind, count):
        """What must be there for so many changes of a kind."""
        homes = [self.name(home) for home in ("files/f", "moved/f") if home[:5] not in self.tree]
        if kind == "rename directory":
            return [self.put("new", name) for name in homes + [f"{self.name('dirs/d')}/f" for _ in range(count)]]
        missing = count if kind in ("over", "rename", "remove") else 0
        return [self.put("new", name) for name in homes + [self.name("files/f") for _ in range(missing)]]

    def change(self, kind):
        rng = self.rng
        if kind == "new":
            return self.put(kind, self.name("files/f"))
        if kind == "over":
            return self.put(kind, self.pick(False))
        if kind == "remove":
            path = self.pick(False)
            return Change(kind, {"verb": "remove", "path": path}, {path: None})
        if kind == "new below new directories":
            return self.put(kind, self.name("made/m") + "/on/the/way/f")
        if kind == "mkdir -p":
            path = self.name("made/m") + "/on/the/way"
            return Change(kind, {"verb": "mkdir", "path": path, "parents": True},
                          {way: DIRECTORY for way in ways_to(f"{path}/")})
        is_directory = kind == "rename directory"
        from_, to = self.pick(is_directory), self.name(rng.choice(["dirs/r" if is_directory else "files/r", "moved/r"]))
        below = {path: what for path, what in self.tree.items() if path == from_ or path.startswith(f"{from_}/")}
        return Change(kind, {"verb": "rename", "path": from_, "to": to},
                      {path: None for path in below} | {to + path[len(from_):]: what for path, what in below.items()},
                      moves=(from_, to))


def after(tree, changes):
    """The tree once these are done."""
    tree = dict(tree)
    for change in changes:
        tree.update(change.sets)
    return {path: what for path, what in tree.items() if what is not None}


@dataclasses.dataclass
class Verdict:
    lost: list  # Changes that were acknowledged and are not as promised.
    torn: list  # Changes under way that are neither the old nor the new, and None for what nobody touched.
    words: list


def judge(tree, acknowledged, under_way, there):
    """What is not as promised: of what is settled and acknowledged everything must be there, of what is under way
    the old or the new, whole. Of a rename under way at least one name must be there."""
    due = after(tree, acknowledged)
    verdict = Verdict([], [], [])

    def wrong(changes, what):
        for change in changes:
            of = verdict.lost if change in acknowledged else verdict.torn
            if change not in of:
                of.append(change)
        verdict.words.append(f"{changes[0].kind if changes[0] else 'untouched'}: {what}")

    allowed = {path: {what} for path, what in due.items()}
    by = collections.defaultdict(list)
    for change in acknowledged + under_way:
        for path, what in change.sets.items():
            by[path].append(change)
            allowed.setdefault(path, {due.get(path)})
            if change in under_way:
                allowed[path].add(what)
    for change in under_way:
        if change.moves and not any(path in there for path in change.moves):
            wrong([change], f"{' and '.join(change.moves)}: neither is there")
    for path in sorted(allowed.keys() | there.keys()):
        may_be = allowed.get(path, {None})
        if there.get(path) not in may_be:
            expected = " or ".join(sorted(str(what or "nothing") for what in may_be))
            concerned = [change for change in by[path] if change in acknowledged] or by[path]
            wrong(concerned or [None], f"{path}: {there.get(path, 'nothing')} instead of {expected}")
    return verdict
