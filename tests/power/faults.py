"""What a disk or its file system can refuse, by itself and not by injection: S-05, S-06, S-13, S-16. In every case the
connection is kept, what was there stays, and nothing staged is left."""

import hashlib
import io
import os
import random

from changes import found
from disk import Disk
from ftd_client import ABORT, CANCEL, DATA, EOF, TRAILER, FtdError, refused
from place import MIB, Place, run

LARGE = 64 << 10  # Bytes from which on a write is content, and none of the journal.


def content(size):
    return io.BytesIO(random.randbytes(size))


def change(client, **words):
    return client.answer(client.begin(**words))


def still_serves(place):
    """On the same connection, and with nothing staged."""
    place.client.get("old", io.BytesIO())
    assert not os.listdir(place.mounted / "root" / ".ftd-stage"), "something staged is left"


def s_05_a_disk_that_fails_is_told_and_never_acknowledged(directory, ftd):
    with Place(directory, "ext4", ftd) as place:
        with Disk(place.image) as disk:
            place.mount(disk.path)
            place.start()
            client = place.client
            for path in ("old", "d/old"):
                client.put(path, content(100_000))
            place.settle()
            before = found(place.home)
            for path in ("old", "d/old", "new", "n/e/w"):
                disk.fail_writes(LARGE)
                refused("IO", client.put, path, content(4 * MIB))
                disk.fail_writes(0)
                still_serves(place)
            client.put("after", content(4 * MIB))
            before["after"] = found(place.home)["after"]
            # A disk that takes nothing any more: the directory cannot be flushed either.
            disk.fail_writes(1)
            for words in ({"verb": "remove", "path": "old"}, {"verb": "mkdir", "path": "made"},
                          {"verb": "rename", "path": "after", "to": "moved"}):
                try:
                    raise AssertionError(f"acknowledged without a disk: {words} {change(client, **words)}")
                except FtdError as error:
                    assert error.code in ("IO", "UNKNOWN_OUTCOME", "READ_ONLY"), error
            place.stop()
            place.unmount()
        # What the disk has, and not what the cache had.
        place.mount()
        there = found(place.home)
        assert there == before, f"{there} instead of {before}"


def s_06_a_root_that_is_read_only_for_a_while_is_told_and_needs_no_restart(directory, ftd):
    with Place(directory, "ext4", ftd) as place:
        place.mount()
        place.start()
        client = place.client
        client.put("old", content(100))
        request = client.begin(verb="put", path="old")
        client.send(DATA, request, bytes(MIB))
        client.stat()  # Answered behind it: the upload is open by now, or never will be.
        while not os.listdir(place.mounted / "root" / ".ftd-stage"):
            client.stat()
        try:
            run("mount", "-o", "remount,ro", place.mounted)
            raise AssertionError("the kernel lets nobody do this while an upload is open")
        except RuntimeError as error:
            assert "busy" in str(error), error
        client.send(CANCEL, request)
        assert client.receive()[:2] == (ABORT, request)
        run("mount", "-o", "remount,ro", place.mounted)
        for _ in range(2):
            refused("READ_ONLY", client.put, "old", content(100))
            refused("READ_ONLY", client.put, "new", content(MIB), MIB)
            refused("READ_ONLY", change, client, verb="remove", path="old")
            refused("READ_ONLY", change, client, verb="mkdir", path="made")
            refused("READ_ONLY", change, client, verb="rename", path="old", to="moved")
            still_serves(place)
        run("mount", "-o", "remount,rw", place.mounted)
        client.put("old", content(100))
        change(client, verb="rename", path="old", to="moved")


def s_06_a_file_system_that_turns_read_only_under_an_upload(directory, ftd):
    with Place(directory, "ext4", ftd) as place:
        place.mount(options="errors=remount-ro")
        place.start()
        client = place.client
        client.put("old", content(100))
        before = found(place.home)
        request = client.begin(verb="put", path="old")
        client.send(DATA, request, bytes(MIB))
        while not os.listdir(place.mounted / "root" / ".ftd-stage"):
            client.stat()
        with open(f"/sys/fs/ext4/{place.device}/trigger_fs_error", "w") as error:
            error.write("1")
        client.send(DATA, request, bytes(MIB))
        client.send(EOF, request)
        client.send(TRAILER, request, {"bytes": 2 * MIB, "sha256": hashlib.sha256(bytes(2 * MIB)).hexdigest()})
        refused("READ_ONLY", client.answer, request)
        refused("READ_ONLY", client.put, "new", content(100))
        client.get("old", io.BytesIO())
        place.stop()
        place.unmount()
        place.mount()
        assert found(place.home) == before


def s_13_no_more_names_is_no_space(directory, ftd):
    with Place(directory, "ext4", ftd, options=("-N", "64")) as place:
        place.mount()
        place.start()
        client = place.client
        client.put("old", content(100))
        count = 0
        try:
            while count < 200:
                client.put(f"many-{count}", content(10))
                count += 1
        except FtdError as error:
            assert error.code == "NO_SPACE", error
        assert 10 < count < 100, count
        before = found(place.home)
        refused("NO_SPACE", client.put, "old", content(10))
        refused("NO_SPACE", client.put, "n/e/w", content(10))
        refused("NO_SPACE", change, client, verb="mkdir", path="m/a/d/e", parents=True)
        assert found(place.home) == before
        still_serves(place)
        change(client, verb="remove", path="many-0")
        client.put("again", content(10))


def s_16_what_attributes_forbid_is_denied(directory, ftd):
    with Place(directory, "ext4", ftd) as place:
        place.mount()
        place.start()
        client = place.client
        for path in ("old", "file", "d/file"):
            client.put(path, content(100))
        for attribute in ("i", "a"):
            run("chattr", f"+{attribute}", place.home / "file")
            before = found(place.home)
            refused("DENIED", client.put, "file", content(100))
            refused("DENIED", change, client, verb="remove", path="file")
            refused("DENIED", change, client, verb="rename", path="file", to="moved")
            refused("DENIED", change, client, verb="rename", path="old", to="file", replace=True)
            assert found(place.home) == before
            still_serves(place)
            run("chattr", f"-{attribute}", place.home / "file")

            run("chattr", f"+{attribute}", place.home / "d")
            refused("DENIED", client.put, "d/file", content(100))
            refused("DENIED", change, client, verb="remove", path="d/file")
            refused("DENIED", change, client, verb="rename", path="d/file", to="moved")
            refused("DENIED", change, client, verb="rename", path="d", to="e")
            if attribute == "i":
                refused("DENIED", client.put, "d/new", content(100))
                refused("DENIED", client.put, "d/n/e/w", content(100))
                refused("DENIED", change, client, verb="mkdir", path="d/made")
                refused("DENIED", change, client, verb="rename", path="old", to="d/moved")
            else:
                client.put("d/added", content(100))  # What append-only allows.
            still_serves(place)
            run("chattr", f"-{attribute}", place.home / "d")
            client.put("file", content(100))
            client.put("d/file", content(100))


CASES = [s_05_a_disk_that_fails_is_told_and_never_acknowledged,
         s_06_a_root_that_is_read_only_for_a_while_is_told_and_needs_no_restart,
         s_06_a_file_system_that_turns_read_only_under_an_upload,
         s_13_no_more_names_is_no_space,
         s_16_what_attributes_forbid_is_denied]
