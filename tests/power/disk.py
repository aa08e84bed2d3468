"""A disk that remembers: one file, served through FUSE, whose every write and flush is recorded in order.

A loop device on it carries a file system. It can also fail: writes from a given size on end in EIO. The kernel's
protocol is spoken directly (linux/fuse.h), because one file needs little of it.
"""

import ctypes
import errno
import mmap
import os
import signal
import stat
import struct

MAX_WRITE = 1 << 20
PAGE = 4096
FLUSH = (1 << 64) - 1  # In the record, in place of an offset.
RECORD = struct.Struct("<QI")
GETATTR, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, FLUSH_CLOSE, INIT = 3, 14, 15, 16, 17, 18, 20, 25, 26
FORGET, BATCH_FORGET, INTERRUPT, DESTROY = 2, 42, 36, 38
DIRECT_IO = 1
INIT_FLAGS = 1 << 5 | 1 << 22  # Big writes, and many pages in one.


class Disk:
    """Serves the content of `image` as the file `self.path`, from a process of its own.

    The image has at any time what was written; the record lies beside it. A context: at its end the file is gone.
    """

    def __init__(self, image):
        self.image, self.record, self.path = image, f"{image}.record", f"{image}.disk"
        self.control = mmap.mmap(-1, 16)  # From which size on writes fail; how much is recorded.
        for name in (self.record, self.path):
            open(name, "wb").close()

    def __enter__(self):
        fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={fuse},rootmode=100600,user_id=0,group_id=0"
        if libc.mount(b"disk", self.path.encode(), b"fuse", 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), f"mount a FUSE file at {self.path}")
        self.server = os.fork()
        if self.server == 0:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            try:
                self.serve(fuse)
            finally:
                os._exit(1)
        os.close(fuse)
        return self

    def __exit__(self, *_):
        ctypes.CDLL(None).umount2(self.path.encode(), 0)
        os.kill(self.server, signal.SIGKILL)
        os.waitpid(self.server, 0)

    def fail_writes(self, size):
        """From here on writes of at least `size` bytes fail; none do for 0."""
        self.control[:8] = struct.pack("<Q", size)

    def position(self):
        """How much is recorded."""
        return struct.unpack("<Q", self.control[8:])[0]

    def serve(self, fuse):
        image, record = os.open(self.image, os.O_RDWR), open(self.record, "wb", buffering=0)

        def note(offset, data):
            record.write(RECORD.pack(offset, len(data)) + data)
            self.control[8:] = struct.pack("<Q", record.tell())

        size = os.fstat(image).st_size
        attributes = struct.pack("<QIIQQQQQQIIIIIIIIII", 3600, 0, 0, 1, size, size // 512, 0, 0, 0, 0, 0, 0,
                                 stat.S_IFREG | 0o600, 1, 0, 0, 0, PAGE, 0)
        while True:
            try:
                request = os.read(fuse, MAX_WRITE + 2 * PAGE)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                return  # Unmounted.
            _, kind, unique = struct.unpack_from("<IIQ", request)
            error, answer = 0, b""
            if kind == INIT:
                answer = struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, INIT_FLAGS, 16, 12, MAX_WRITE, 1, MAX_WRITE // PAGE,
                                     0, 0)
            elif kind == GETATTR:
                answer = attributes
            elif kind == OPEN:
                answer = struct.pack("<QII", 0, DIRECT_IO, 0)
            elif kind == READ:
                _, offset, length = struct.unpack_from("<QQI", request, 40)
                answer = os.pread(image, length, offset)
            elif kind == WRITE:
                _, offset, length = struct.unpack_from("<QQI", request, 40)
                limit, = struct.unpack("<Q", self.control[:8])
                if 0 < limit <= length:
                    error = errno.EIO
                else:
                    data = request[80:80 + length]
                    os.pwrite(image, data, offset)
                    note(offset, data)
                    answer = struct.pack("<II", length, 0)
            elif kind == FSYNC:
                note(FLUSH, b"")
            elif kind == STATFS:
                answer = struct.pack("<QQQQQIIII24x", 0, 0, 0, 0, 0, PAGE, 255, PAGE, 0)
            elif kind in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            elif kind not in (RELEASE, FLUSH_CLOSE, DESTROY):
                error = errno.ENOSYS
            os.write(fuse, struct.pack("<IiQ", 16 + len(answer), -error, unique) + answer)


class History:
    """What a disk recorded, and every state that a power cut could have left."""

    def __init__(self, record):
        self.file, self.positions, self.later = open(record, "rb"), [], []
        while header := self.file.read(RECORD.size):
            _, length = RECORD.unpack(header)
            self.positions.append(self.file.seek(length, os.SEEK_CUR))
        self.file.seek(0)

    def seek(self, image, position):
        """Brings an image, a file descriptor, to what was safe at `position`; positions must not go back.

        What had been written and not flushed by then is kept aside, for `states`.
        """
        while self.file.tell() < position:
            offset, length = RECORD.unpack(self.file.read(RECORD.size))
            if offset == FLUSH:
                for at, data in self.later:
                    os.pwrite(image, data, at)
                self.later = []
            else:
                self.later.append((offset, self.file.read(length)))
        assert self.file.tell() == position, "not between two records"

    def survivors(self, kind, rng):
        """Those of the later writes that a cut leaves: none, all, or any pages of any of them."""
        if kind == "flushed":
            return []
        if kind == "everything":
            return self.later
        share = rng.random()
        pages = [(offset + at, data[at:at + PAGE]) for offset, data in self.later for at in range(0, len(data), PAGE)]
        return [page for page in pages if rng.random() < share]
