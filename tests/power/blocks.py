"""L3: a disk records its writes and flushes while a daemon serves from it; then states that a power cut could have left
are put together, mounted and judged (B1, S-11, S-12, X-08)."""

import collections
import dataclasses
import os
import random
import shutil

from changes import KINDS, Author, after, answered, found, judge
from disk import Disk, History
from place import Place

SYSTEMS = ("ext4", "btrfs")
ROUNDS = 80


@dataclasses.dataclass
class Told:
    states: int = 0
    judged: int = 0
    lost: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    under_way: int = 0
    torn: int = 0
    unusable: int = 0
    words: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Asked:
    """A change, and how much the disk had recorded when it was asked for and when it was answered."""
    change: object
    begin: int
    end: int | None = None


def workload(place, disk, rng, rounds):
    """Rounds of changes of all kinds, one or many at a time; gives the tree before them, and what was asked."""
    author, all_asked = Author(rng), []
    prepared = [author.put("new", author.name(name)) for name in ["files/f", "moved/f"] + ["files/f"] * 40]
    prepared += [author.put("new", f"{author.name('dirs/d')}/f") for _ in range(40)]
    for change in prepared:
        change.send(place.client)
    for _ in prepared:
        answered(place.client)
    author.settle(after({}, prepared))
    place.settle()
    before = author.tree
    for _ in range(rounds):
        asked, waiting = [], {}
        for kind in rng.choices(KINDS, k=rng.choice([1, 1, 1, 2, 6])):
            asked.append(Asked(author.change(kind), disk.position()))
            waiting[asked[-1].change.send(place.client)] = asked[-1]
        while waiting:
            done = waiting.pop(answered(place.client))
            done.end = disk.position()
        author.settle(after(author.tree, [one.change for one in asked]))
        all_asked += asked
    return before, all_asked


def moments(asked, history, rng, count):
    """Where to cut, in order, and what the disk then keeps of what it was not told to flush: most often right after
    an acknowledgement, when nothing later can have saved what it promised, else while something is under way."""
    chosen = []
    for _ in range(count):
        one = rng.choice(asked)
        between = [position for position in history.positions if one.begin <= position < one.end]
        position = rng.choice(between) if between and rng.random() < 0.4 else one.end
        chosen.append((position, rng.choice(["flushed", "everything", "subset", "subset"])))
    return sorted(chosen)


def run(directory, system, ftd, leave_out, states, seed):
    rng, told = random.Random(f"{seed} {system}"), Told()
    with Place(directory, system, ftd, leave_out) as place:
        safe, state = f"{directory}/safe", f"{directory}/state"
        shutil.copyfile(place.image, safe)
        with Disk(place.image) as disk:
            place.mount(disk.path)
            place.start()
            before, asked = workload(place, disk, rng, rounds=ROUNDS)
            place.stop()
            place.unmount()
        history, image = History(disk.record), os.open(safe, os.O_RDWR)
        for position, kind in moments(asked, history, rng, states):
            history.seek(image, position)
            shutil.copyfile(safe, state)
            with open(state, "r+b") as file:
                for offset, data in history.survivors(kind, rng):
                    file.seek(offset)
                    file.write(data)
            acknowledged = [one.change for one in asked if one.end <= position]
            under_way = [one.change for one in asked if one.begin <= position < one.end]
            told.states += 1
            told.judged += len(acknowledged)
            told.under_way += len(under_way)
            try:
                place.mount(state)
            except RuntimeError as error:
                told.unusable += 1
                told.words.append(f"{kind} at {position}: {error}")
                continue
            verdict = judge(before, acknowledged, under_way, found(place.home))
            told.lost.update(change.kind for change in verdict.lost)
            told.torn += len(verdict.torn)
            told.words += [f"{kind} at {position}: {words}" for words in verdict.words[:3]]
            if told.states % 10 == 0:  # A daemon starts there, and serves.
                place.start()
                Author(rng).put("new", "again").send(place.client)
                answered(place.client)
                place.stop()
            place.unmount()
    return told
