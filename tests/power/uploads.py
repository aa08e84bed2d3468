"""A power cut under an upload: what a checkpoint claims is on the disk, and the upload goes on from there (X-10)."""

import hashlib
import os
import random

from ftd_client import ANSWER, DATA, EOF, TRAILER, Client, FtdError
from place import MIB, Place

WHOLE = 130  # MiB of the upload.
STEP = 64  # MiB from one checkpoint to the next.


def claimed(place):
    """The offset in the checkpoint of the upload that is under way; 0 before the first."""
    stage = place.mounted / "root" / ".ftd-stage"
    for name in os.listdir(stage):
        try:
            return int(os.getxattr(stage / name, "user.ftd.upload").split()[1])
        except OSError:
            pass
    return 0


def cut_and_go_on(place, rng):
    """Gives what was lost of an upload, or None."""
    block = rng.randbytes(MIB)
    pieces = [block[count:] + block[:count] for count in range(WHOLE)]
    words = {"verb": "put", "path": "large", "bytes": WHOLE * MIB}
    place.mount()
    place.start()
    client = place.client
    request = client.begin(**words, resumable=True)
    for piece in pieces[:rng.randint(STEP + 1, WHOLE - 1)]:
        client.send(DATA, request, piece)
    while not (offset := claimed(place)):
        client.stat()
    # The answer to another put takes what is known of the upload to the disk, its checkpoint included.
    with Client(str(place.directory / "sock")) as other:
        place.arm()
        other.put_many([("small", b"content")])
        place.cut()
    place.mount()
    place.start()
    client = place.client
    try:
        kept = client.answer(client.begin(verb="resume", path="large"))["resume"]
    except FtdError as error:
        return f"a checkpoint at {offset} is gone: {error}"
    content = b"".join(pieces)
    if kept["offset"] < offset or kept["sha256"] != hashlib.sha256(content[:kept["offset"]]).hexdigest():
        return f"a checkpoint at {offset} has become {kept}"
    request = client.begin(**words, resume={"upload": kept["upload"], "offset": kept["offset"]})
    for at in range(kept["offset"], len(content), MIB):
        client.send(DATA, request, content[at:at + MIB])
    client.send(EOF, request)
    client.send(TRAILER, request, {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    kind, _, payload = client.receive()
    if kind != ANSWER:
        return f"the upload from {kept} on was refused: {payload}"
    if (place.home / "large").read_bytes() != content:
        return f"the upload from {kept} on was stored, and is wrong"
    return None


def run(directory, system, ftd, leave_out, count, seed):
    """Gives what was lost of so many uploads."""
    rng = random.Random(f"{seed} {system}")
    words = []
    for _ in range(count):
        with Place(directory, system, ftd, leave_out, size=5 * STEP) as place:
            words.append(cut_and_go_on(place, rng))
    return [lost for lost in words if lost]
