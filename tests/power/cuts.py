"""L2: the file system is shut down, without a flush of its log, right after an answer; then it is mounted again, and
everything must be as it was acknowledged (B1, S-11)."""

import collections
import dataclasses
import random

from changes import KINDS, Author, after, answered, found, judge
from place import Place

SYSTEMS = ("ext4", "xfs")


class Cutter:
    """One file system through many cuts."""

    def __init__(self, place, rng):
        self.place, self.rng, self.author = place, rng, Author(rng)
        place.mount()

    def cut(self, kind, most):
        """Asks for changes of a kind, cuts after an answer, and gives how many answers there were and what is lost.

        Half of the time the changes go one after the other, so that at least the last has nothing behind it that
        could have saved it; else all at once, and some are still under way.
        """
        place, author, rng = self.place, self.author, self.rng
        place.start()
        count = min(most, 1 if rng.random() < 0.3 else rng.randint(2, 8))
        at_once, more = rng.random() < 0.5, rng.randint(0, 4)
        done = author.prepare(kind, count + more)
        for change in done:
            change.send(place.client)
            answered(place.client)
        author.settle(after(author.tree, done))
        place.settle()
        changes = [author.change(kind) for _ in range(count + more)]
        acknowledged = []
        place.arm()
        if at_once:
            sent = {change.send(place.client): change for change in changes}
            for _ in range(count):
                acknowledged.append(sent.pop(answered(place.client)))
            under_way = list(sent.values())
        else:
            for change in changes[:count]:
                change.send(place.client)
                answered(place.client)
            acknowledged, under_way = changes[:count], []
        place.cut()
        place.mount()
        there = found(place.home)
        verdict = judge(author.tree, acknowledged, under_way, there)
        author.settle(there)  # What is lost is told once.
        return count, verdict


@dataclasses.dataclass
class Told:
    cuts: int = 0
    answers: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    lost: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    torn: int = 0
    words: list = dataclasses.field(default_factory=list)


def run(directory, system, ftd, leave_out, acks, most, seed):
    """Cuts until every kind of change has been acknowledged so often, at most `most` of them before one cut."""
    rng, told = random.Random(f"{seed} {system}"), Told()
    left = {kind: acks for kind in KINDS}
    while any(left.values()):
        with Place(directory, system, ftd, leave_out) as place:
            cutter = Cutter(place, rng)
            for _ in range(100):  # Then a file system that is empty, because this one fills up.
                kinds = [kind for kind in KINDS if left[kind]]
                if not kinds:
                    break
                kind = rng.choice(kinds)
                count, verdict = cutter.cut(kind, min(most, left[kind]))
                left[kind] -= count
                told.cuts += 1
                told.answers[kind] += count
                told.lost[kind] += len(verdict.lost)
                told.torn += len(verdict.torn)
                told.words += verdict.words[:3]
    return told
