"""A daemon on a file system of its own, on a loop device."""

import fcntl
import io
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading

from changes import Client

TOP = pathlib.Path(__file__).resolve().parent.parent.parent
SHUTDOWN, WITHOUT_LOG_FLUSH = 0x8004587D, 2  # _IOR('X', 125, __u32): of xfs, and of ext4 under another name.
MIB = 1 << 20
# How each is made, how small it can be, in MiB, and how it is mounted: ext4 so that it forgives no missing flush of a
# file that replaces another.
SYSTEMS = {
    "ext4": (["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"], 64,
             "noauto_da_alloc"),
    "xfs": (["mkfs.xfs", "-q", "-f", "-K"], 320, "defaults"),
    "btrfs": (["mkfs.btrfs", "-q", "-f", "-K"], 128, "defaults"),
}
NEEDED = {"mkfs.ext4": "e2fsprogs", "chattr": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs",
          "mount": "mount", "unshare": "util-linux"}


def run(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout.strip()


def inside():
    """A directory for images, in mount and process namespaces of its own: however this ends, mounts, loop devices and
    daemons end with it. Without what it needs it says so, and leaves."""
    if "FTD_POWER_INSIDE" in os.environ:
        return os.environ["FTD_POWER_INSIDE"]
    missing = sorted({package for tool, package in NEEDED.items() if not shutil.which(tool)})
    why = None
    if os.geteuid() != 0:
        why = "it needs root, for loop devices and mounts"
    elif missing:
        why = f"missing: {' '.join(missing)} (Debian: apt-get install {' '.join(missing)})"
    elif not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        why = "there is no /dev/fuse or no /dev/loop-control (modprobe fuse loop)"
    if why:
        print(f"power cuts: skipped: {why}")
        sys.exit(0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # In memory if there is room.
    memory = "/dev/shm" if os.path.isdir("/dev/shm") and shutil.disk_usage("/dev/shm").free > 2 << 30 else None
    with tempfile.TemporaryDirectory(prefix="ftd-power-", dir=memory) as directory:
        again = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                                  sys.executable, *sys.argv], env=os.environ | {"FTD_POWER_INSIDE": directory})
        try:
            sys.exit(again.wait())
        finally:
            again.kill()
            again.wait()


def scratch():
    """A directory for one file system and one daemon."""
    return tempfile.TemporaryDirectory(dir=inside())


class Place:
    """A file system in an image, and a daemon that serves a directory of it."""

    def __init__(self, directory, system, ftd, leave_out="", options=(), size=None):
        self.directory, self.system = pathlib.Path(directory), system
        self.ftd, self.leave_out = ftd, leave_out
        self.mounted = self.directory / "mounted"
        self.home = self.mounted / "root" / "alice"
        self.daemon = self.client = self.cutter = None
        self.is_mounted = False
        self.image = self.directory / f"{system}.image"
        self.mounted.mkdir(exist_ok=True)
        (self.directory / "ftd.toml").write_text(
            f'root = "{self.mounted}/root"\nlisten = ["unix:{self.directory}/sock"]\n'
            f'host-key = "{self.directory}/host_key"\n\n[[user]]\nname = "alice"\nunix = ["0"]\n'
            'allow = ["get", "list", "create", "replace", "remove", "rename", "mkdir"]\n')
        (self.directory / "ftd.toml").chmod(0o644)
        make, least, _ = SYSTEMS[system]
        with open(self.image, "wb") as file:
            file.truncate((size or least) * MIB)
        run(*make, *options, self.image)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close_cutter()
        self.stop()
        self.unmount()

    def mount(self, image=None, options=""):
        loop = run("losetup", "--find", "--show", image or self.image)
        try:
            run("mount", "-t", self.system, "-o", f"{SYSTEMS[self.system][2]},{options}".strip(","), loop, self.mounted)
        finally:
            run("losetup", "--detach", loop)  # As soon as nothing is mounted from it.
        self.is_mounted, self.device = True, os.path.basename(loop)
        (self.mounted / "root").mkdir(exist_ok=True)

    def unmount(self):
        if self.is_mounted:
            run("umount", self.mounted)
        self.is_mounted = False

    def start(self):
        """The daemon, and a connection to it."""
        environment = os.environ | {"FTD_LEAVE_OUT": self.leave_out, "NO_COLOR": "1"}
        self.daemon = subprocess.Popen([self.ftd, "serve", "--config", self.directory / "ftd.toml"],
                                       stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
        said = []
        for line in self.daemon.stderr:
            said.append(line)
            if line.endswith(b" ready\n"):
                break
        else:
            raise RuntimeError(f"the daemon does not start:\n{b''.join(said).decode()}")
        # So that it can go on speaking.
        self.listener = threading.Thread(target=shutil.copyfileobj, args=(self.daemon.stderr, io.BytesIO()))
        self.listener.start()
        self.client = Client(str(self.directory / "sock"))

    def stop(self):
        if self.client:
            self.client.socket.close()
        if self.daemon:
            self.daemon.send_signal(signal.SIGKILL)
            self.daemon.wait()
            self.listener.join()
            self.daemon.stderr.close()
        self.client = self.daemon = None

    def settle(self):
        """Everything up to here is safe."""
        run("sync", "-f", self.mounted)

    def arm(self):
        """Gets ready to cut without delay."""
        self.cutter = os.open(self.mounted, os.O_RDONLY)

    def cut(self):
        """The power fails: what is not on the disk is lost."""
        fcntl.ioctl(self.cutter, SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
        self.close_cutter()
        self.stop()
        self.unmount()

    def close_cutter(self):
        if self.cutter is not None:
            os.close(self.cutter)
        self.cutter = None
