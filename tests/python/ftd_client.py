"""A client for the protocol ftd/1, written from docs/protocol.md: standard library only, Unix socket only.

    ftd_client.py SOCKET put LOCAL REMOTE | get REMOTE LOCAL | list [PATH] | stat [PATH] | selftest
"""
import base64
import hashlib
import io
import json
import os
import select
import socket
import struct
import sys

HELLO, REQUEST, DATA, EOF, TRAILER, ABORT, CANCEL, ANSWER, ENTRIES, ERROR = range(1, 11)
HEADER = struct.Struct(">BBHII")  # kind, flags, reserved, request id, payload length
CHUNK = 256 * 1024


class FtdError(Exception):
    """The server's ERROR frame: a code of the table, a text, and the request (0: the connection)."""

    def __init__(self, code, message, request):
        super().__init__(f"{code}: {message}")
        self.code, self.request = code, request


class Closed(Exception):
    """The server closed the connection."""


def spelled(path):
    """A path as JSON has it: a string, or base64 of bytes that are not UTF-8."""
    if isinstance(path, str):
        return path
    try:
        return path.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(path).decode()}


def name_of(value):
    """The bytes of a name in a listing."""
    return value.encode() if isinstance(value, str) else base64.b64decode(value["base64"])


class Client:
    """One connection. Requests are numbered from 1; several may be in flight."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.settimeout(30)
        self.last, self.incoming = 0, b""
        kind, request, payload = self.receive()
        if (kind, request) != (HELLO, 0):
            raise self.error(kind, request, payload)
        self.hello = json.loads(payload)
        self.send(HELLO, 0, {"version": 1, "client": "ftd_client.py"})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    @staticmethod
    def frame(kind, request, payload=b""):
        if isinstance(payload, dict):
            payload = json.dumps(payload).encode()
        return HEADER.pack(kind, 0, 0, request, len(payload)) + payload

    def send(self, kind, request, payload=b""):
        self.socket.sendall(self.frame(kind, request, payload))

    def read(self, count):
        while len(self.incoming) < count:
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise Closed()
            self.incoming += piece
        piece, self.incoming = self.incoming[:count], self.incoming[count:]
        return piece

    def receive(self):
        """The next frame: kind, request id, payload."""
        kind, flags, reserved, request, length = HEADER.unpack(self.read(HEADER.size))
        assert flags == 0 and reserved == 0, "bits that must be zero"
        return kind, request, self.read(length)

    @staticmethod
    def error(kind, request, payload):
        if kind == ERROR:
            error = json.loads(payload)
            return FtdError(error["code"], error["message"], request)
        return FtdError("UNEXPECTED", f"frame {kind} {payload[:80]!r}", request)

    def begin(self, **request):
        self.last += 1
        self.send(REQUEST, self.last, {k: v for k, v in request.items() if v is not None})
        return self.last

    def answer(self, request):
        """The final frame of a request that ends in ANSWER."""
        while True:
            kind, of, payload = self.receive()
            if kind == ANSWER and of == request:
                return json.loads(payload)
            raise self.error(kind, of, payload)

    def put(self, path, source, size=None, **meta):
        """Stores what `source` gives; gives what the server says it stored."""
        request = self.begin(verb="put", path=spelled(path), bytes=size, **meta)
        digest, length = hashlib.sha256(), 0
        while chunk := source.read(CHUNK):
            if select.select([self.socket], [], [], 0)[0]:
                break  # A refusal: nothing else comes before the trailer.
            self.send(DATA, request, chunk)
            digest.update(chunk)
            length += len(chunk)
        else:
            self.send(EOF, request)
            self.send(TRAILER, request, {"bytes": length, "sha256": digest.hexdigest()})
            return self.answer(request)["stored"]
        try:
            return self.answer(request)["stored"]
        finally:
            self.send(CANCEL, request)

    def put_many(self, items):
        """Stores many small contents without waiting for any answer; gives the answers by path."""
        waiting, out = {}, io.BytesIO()
        for path, content in items:
            self.last += 1
            waiting[self.last] = path
            trailer = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            out.write(self.frame(REQUEST, self.last, {"verb": "put", "path": spelled(path), "bytes": len(content)}))
            if content:
                out.write(self.frame(DATA, self.last, content))
            out.write(self.frame(EOF, self.last) + self.frame(TRAILER, self.last, trailer))
        rest, stored = memoryview(out.getvalue()), {}
        self.socket.setblocking(False)
        while rest or waiting:
            readable, writable, _ = select.select([self.socket], [self.socket] if rest else [], [], 30)
            assert readable or writable, "the server neither reads nor answers"
            if writable:
                rest = rest[self.socket.send(rest):]
            if readable:
                piece = self.socket.recv(1 << 20)
                if not piece:
                    raise Closed()
                self.incoming += piece
                while len(self.incoming) >= HEADER.size:
                    length = HEADER.unpack_from(self.incoming)[4]
                    if len(self.incoming) < HEADER.size + length:
                        break
                    kind, request, payload = self.receive()
                    if kind != ANSWER:
                        raise self.error(kind, request, payload)
                    stored[waiting.pop(request)] = json.loads(payload)["stored"]
        self.socket.settimeout(30)
        return stored

    def get(self, path, sink):
        """Fetches a file; raises unless length and digest are what the trailer says."""
        request = self.begin(verb="get", path=spelled(path))
        info = self.answer(request)["file"]
        digest, length = hashlib.sha256(), 0
        while True:
            kind, of, payload = self.receive()
            if (kind, of) == (DATA, request):
                sink.write(payload)
                digest.update(payload)
                length += len(payload)
            elif (kind, of) == (EOF, request):
                assert length == info["bytes"], "not as long as announced"
            elif (kind, of) == (TRAILER, request):
                if json.loads(payload) != {"bytes": length, "sha256": digest.hexdigest()}:
                    raise FtdError("BAD_DIGEST", "the content is not what was stored", request)
                return info
            else:
                raise self.error(kind, of, payload)

    def list(self, path=None):
        request = self.begin(verb="list", path=None if path is None else spelled(path))
        entries = []
        while True:
            kind, of, payload = self.receive()
            if (kind, of) == (ENTRIES, request):
                entries += json.loads(payload)["entries"]
            elif (kind, of) == (ANSWER, request):
                assert json.loads(payload)["listed"]["entries"] == len(entries)
                return entries
            else:
                raise self.error(kind, of, payload)

    def stat(self, path=None):
        return self.answer(self.begin(verb="stat", path=None if path is None else spelled(path)))["stat"]


def refused(code, act, *words, **meta):
    """Expects the server to refuse with `code`."""
    try:
        act(*words, **meta)
    except FtdError as error:
        assert error.code == code, f"{error.code} instead of {code}"
    else:
        raise AssertionError(f"not refused with {code}")


def selftest(path):
    """Every sentence of the document that a client meets, against a live server."""

    def check(what):
        print("ok", what, flush=True)

    with Client(path) as client:
        assert client.hello["protocol"] == "ftd" and client.hello["versions"]["min"] <= 1
        for size in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20):
            content = os.urandom(size)
            for announced in (size, None):
                stored = client.put(f"size/{size}", io.BytesIO(content), announced)
                assert stored["sha256"] == hashlib.sha256(content).hexdigest() and stored["bytes"] == size
            back = io.BytesIO()
            client.get(f"size/{size}", back)
            assert back.getvalue() == content
        check("put and get of every size, announced and not")
        content = b"EOF\n" + client.frame(EOF, 1) + client.frame(TRAILER, 1, {"bytes": 0}) + client.frame(ABORT, 1, {})
        client.put("frames", io.BytesIO(content))
        back = io.BytesIO()
        client.get("frames", back)
        assert back.getvalue() == content
        check("content that looks like the protocol")
        client.put("meta", io.BytesIO(b"x"), mode=0o600, mtime_ns=10**18)
        stat = client.stat("meta")
        assert (stat["type"], stat["mode"], stat["mtime_ns"]) == ("file", 0o600, 10**18)
        assert stat["sha256"] == hashlib.sha256(b"x").hexdigest()
        assert {name_of(entry["name"]) for entry in client.list()} == {b"size", b"frames", b"meta"}
        assert client.stat()["type"] == "directory"
        check("mode, time, digest, listing")
        items = [(f"many/{n}", os.urandom(n * 7)) for n in range(200)]
        stored = client.put_many(items)
        assert all(stored[name]["sha256"] == hashlib.sha256(content).hexdigest() for name, content in items)
        check("200 pipelined puts")

        request = client.begin(verb="put", path="meta")
        client.send(DATA, request, b"other")
        client.send(EOF, request)
        client.send(TRAILER, request, {"bytes": 5, "sha256": "0" * 64})
        refused("BAD_DIGEST", client.answer, request)
        request = client.begin(verb="put", path="meta")
        client.send(DATA, request, b"other")
        client.send(ABORT, request, {"reason": "no more"})
        assert client.receive()[:2] == (ABORT, request)
        request = client.begin(verb="put", path="meta")
        client.send(DATA, request, b"other")
        client.send(CANCEL, request)
        assert client.receive()[:2] == (ABORT, request)
        assert client.stat("meta")["sha256"] == hashlib.sha256(b"x").hexdigest()
        check("wrong trailer, ABORT and CANCEL change nothing")
        refused("EXISTS", client.put, "meta", io.BytesIO(b"y" * (3 << 20)), replace=False)
        refused("NOT_FOUND", client.get, "missing", io.BytesIO())
        refused("WRONG_TYPE", client.get, "size", io.BytesIO())
        for bad in ("", "/x", "x/", "a//b", ".", "..", "a/../b", ".ftd-x", "n" * 256, "/".join("d" * 65), "\0"):
            refused("BAD_NAME", client.stat, bad)
        refused("BAD_NAME", client.put, "new\nline", io.BytesIO(b""))
        refused("BAD_NAME", client.put, b"\xff", io.BytesIO(b""))
        refused("PROTOCOL", client.answer, client.begin(verb="frobnicate"))
        check("refusals, and the connection goes on")
        request = client.begin(verb="get", path=f"size/{5 << 20}")
        client.send(CANCEL, request)
        while client.receive()[0] not in (ABORT, TRAILER):
            pass
        client.put("after", io.BytesIO(b"still here"))
        check("CANCEL of a get")
        change = lambda **words: client.answer(client.begin(**words))
        assert change(verb="mkdir", path="new/dir", parents=True) == {"made": {"directories": 2}}
        refused("EXISTS", change, verb="rename", path="after", to="meta")
        assert change(verb="rename", path="after", to="meta", replace=True) == {"renamed": {"replaced": True}}
        digest = change(verb="digest", path="meta", reread=True)["digest"]
        assert digest["sha256"] == hashlib.sha256(b"still here").hexdigest() and digest["reread"]
        assert change(verb="check", path="meta", bytes=1) == {"check": {"exists": True}}
        assert change(verb="remove", path="meta") == change(verb="rmdir", path="new/dir") == {"removed": {}}
        refused("NOT_EMPTY", change, verb="rmdir", path="size")
        refused("NOT_FOUND", change, verb="resume", path="size/new")
        info = client.answer(client.begin(verb="get", path="size/1"))["file"]
        while client.receive()[0] != TRAILER:
            pass
        client.begin(verb="get", path="size/1", offset=1, version=info["version"])
        assert [client.receive()[0] for _ in range(3)] == [ANSWER, EOF, TRAILER]
        refused("CHANGED", change, verb="get", path="size/1", offset=1, version="another")
        check("the verbs that change names, check, and a get that goes on")

    whole = Client.frame(HELLO, 0, {"version": 1}) + Client.frame(REQUEST, 1, {"verb": "stat"})
    for cut in range(1, len(whole)):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(path)
        raw.sendall(whole[:cut])
        raw.sendall(whole[cut:])
        raw.settimeout(30)
        seen = b""
        while b'"stat"' not in seen:
            seen += raw.recv(1 << 16)
        raw.close()
    check("frames split anywhere")
    stat = {"verb": "stat"}
    for broken in (
        Client.frame(REQUEST, 1, stat) * 2, Client.frame(DATA, 9, b"x"), HEADER.pack(REQUEST, 1, 0, 1, 2),
        HEADER.pack(DATA, 0, 0, 1, (1 << 20) + 1), HEADER.pack(77, 0, 0, 1, 1), Client.frame(REQUEST, 1, b"[]"),
    ):
        with Client(path) as client:
            client.socket.sendall(broken)
            try:
                while True:
                    kind, request, payload = client.receive()
                    if request == 0:
                        assert kind == ERROR and json.loads(payload)["code"] == "PROTOCOL"
            except (Closed, ConnectionResetError):
                pass
    check("breaches end the connection")


def main(path, verb, *words):
    if verb == "selftest":
        return selftest(path)
    with Client(path) as client:
        if verb == "put":
            with open(words[0], "rb") as source:
                print(client.put(os.fsencode(words[1]), source, os.path.getsize(words[0])))
        elif verb == "get":
            with open(words[1], "wb") as sink:
                print(client.get(os.fsencode(words[0]), sink))
        else:
            print(json.dumps({"list": client.list, "stat": client.stat}[verb](*map(os.fsencode, words)), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
