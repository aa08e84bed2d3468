"""L2: the file system is shut down, without a flush of its log, right after an answer; then it is mounted again, and
everything must be as it was acknowledged (B1, S-11)."""

import collections
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

        Half of the time the changes go one after the other, else all at once, and some are still under way.
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


def run(directory, ftd, leave_out, acks, seed):
    """Cuts until every kind of change has been acknowledged so often on every file system; gives the numbers of
    answers, of lost and of torn changes by file system and kind, and the number of cuts."""
    answers, lost, torn, cuts = collections.Counter(), collections.Counter(), collections.Counter(), 0
    for system in SYSTEMS:
        rng = random.Random(f"{seed} {system}")
        with Place(directory, system, ftd, leave_out) as place:
            cutter = Cutter(place, rng)
            left = {kind: acks for kind in KINDS}
            while any(left.values()):
                kind = rng.choice([kind for kind in KINDS if left[kind]])
                count, verdict = cutter.cut(kind, left[kind])
                left[kind] -= count
                cuts += 1
                answers[system, kind] += count
                lost[system, kind] += len(verdict.lost)
                torn[system, kind] += len(verdict.torn)
                for words in verdict.words[:3]:
                    print(f"  {system}, {words}")
    return answers, lost, torn, cuts
