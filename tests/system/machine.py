"""The machines that the system tests run on, behind one small interface.

A machine can: exec (a shell command as root or somebody else), push (files to a directory), crash (a power
cut, and then it is up again), and tell its address. Two kinds are there: a testbed that boots throw-away machines
(a program with the commands start, exec, push, crash, stop and addr), and real Debian machines over ssh.
"""

import os
import pathlib
import shlex
import subprocess
import time

TOP = pathlib.Path(__file__).resolve().parents[2]


class Missing(Exception):
    """What is needed to run at all is not there; the text says what to do."""


class Machine:
    def sh(self, command, *, user=None, input=None, check=True, timeout=120):
        """Runs a shell command; gives its completed process, with text as output."""
        ran = subprocess.run(self.command(command, user), input=input, text=True, timeout=timeout,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             stdin=subprocess.DEVNULL if input is None else None)
        if check and ran.returncode != 0:
            raise AssertionError(f"{self.name}: {command}\n  exit {ran.returncode}\n{ran.stdout}{ran.stderr}")
        return ran

    def out(self, command, **options):
        return self.sh(command, **options).stdout.strip()

    def spawn(self, command, user=None):
        """Starts a shell command and leaves it running."""
        return subprocess.Popen(self.command(command, user), stdin=subprocess.DEVNULL, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def await_sh(self, command, seconds=60):
        """Waits until a command succeeds."""
        end = time.monotonic() + seconds
        while True:
            ran = self.sh(command, check=False)
            if ran.returncode == 0:
                return ran.stdout.strip()
            if time.monotonic() > end:
                raise AssertionError(f"{self.name}: not within {seconds} s: {command}\n{ran.stdout}{ran.stderr}")
            time.sleep(0.1)


class TestbedMachine(Machine):
    """A throw-away machine of the testbed."""

    def __init__(self, boot, name, disks=()):
        self.boot, self.name = boot, f"{name}-{os.getpid()}"
        options = [word for disk in disks for word in ("--disk", disk)]
        subprocess.run([boot, "start", self.name, *options], check=True, stdout=subprocess.DEVNULL)
        self.address = subprocess.check_output([boot, "addr", self.name], text=True).split()[0]

    def command(self, command, user):
        as_user = ["--user", user] if user else []
        return [self.boot, "exec", self.name, *as_user, "--", "bash", "-c", command]

    def push(self, files, directory):
        subprocess.run([self.boot, "push", self.name, *map(str, files), directory], check=True)

    def crash(self):
        subprocess.run([self.boot, "crash", self.name], check=True, stdout=subprocess.DEVNULL)
        subprocess.run([self.boot, "start", self.name], check=True, stdout=subprocess.DEVNULL)
        self.address = subprocess.check_output([self.boot, "addr", self.name], text=True).split()[0]
        # It comes back with another hardware address, which its neighbours learn when it speaks to them.
        self.sh("grep -oE '^[0-9.]+' /etc/hosts | while read ip; do timeout 1 bash -c \"</dev/tcp/$ip/9\"; done",
                check=False)

    def end(self):
        subprocess.run([self.boot, "rm", self.name], check=False, stdout=subprocess.DEVNULL)


class SshMachine(Machine):
    """A Debian that root's ssh reaches. What the tests install they also purge; nothing else of it may matter."""

    def __init__(self, host, disks=()):
        self.host = self.name = host
        self.address = host.split("@")[-1]
        self.sh("test -d /run/systemd/system && apt-get --version >/dev/null")
        for disk in disks:
            path, size = disk.split("=")
            self.sh(f"mkdir -p {path} && truncate -s {size} {path}.img && mkfs.ext4 -qF {path}.img && "
                    f"mount -o loop {path}.img {path}")
        self.disks = [disk.split("=")[0] for disk in disks]

    def command(self, command, user):
        if user:
            command = f"runuser -u {shlex.quote(user)} -- bash -c {shlex.quote(command)}"
        return ["ssh", "-o", "BatchMode=yes", self.host, "bash", "-c", shlex.quote(command)]

    def push(self, files, directory):
        self.sh(f"mkdir -p {directory}")
        subprocess.run(["scp", "-qB", *map(str, files), f"{self.host}:{directory}/"], check=True)

    def crash(self):
        before = self.out("cat /proc/sys/kernel/random/boot_id")
        self.sh("echo 1 > /proc/sys/kernel/sysrq; (sleep 0.1; echo b > /proc/sysrq-trigger) >/dev/null 2>&1 &",
                check=False)
        end = time.monotonic() + 300
        while time.monotonic() < end:
            ran = self.sh("cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait", check=False)
            if ran.stdout and not ran.stdout.startswith(before) and ran.returncode != 255:
                return
            time.sleep(1)
        raise AssertionError(f"{self.name} did not come back within 300 s")

    def end(self):
        for path in self.disks:
            self.sh(f"umount {path}; rm -f {path}.img; rmdir {path}", check=False)


def machines(server_disks):
    """The machine that serves, with an extra small disk, and a second one."""
    hosts = os.environ.get("FTD_SYSTEM_HOSTS", "").split()
    if hosts:
        if len(hosts) != 2:
            raise Missing("FTD_SYSTEM_HOSTS must name two hosts: the server and the client")
        return SshMachine(hosts[0], server_disks), SshMachine(hosts[1])
    boot = os.environ.get("FTD_TESTBED") or str(TOP.parent / "shared/testbed/boot")
    if not os.access(boot, os.X_OK):
        raise Missing(
            f"no machine to test on. Either FTD_TESTBED names a program that boots throw-away machines ({boot} is not"
            " there), or FTD_SYSTEM_HOSTS=\"root@server root@client\" names two Debian machines that ssh reaches"
            " without a password; they should be ones that nobody needs.")
    if os.geteuid() != 0:
        raise Missing("the testbed needs root; as somebody else, use FTD_SYSTEM_HOSTS")
    return (TestbedMachine(boot, "ftd-server", server_disks), TestbedMachine(boot, "ftd-client"))
