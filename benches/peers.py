"""The peers: servers in use, each with its usual client. All serve on the loopback interface, from a directory of their own."""
import contextlib
import getpass
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

# Where the line of 40 ms and the one of 100 ms and 1 Gbit/s listen; each peer has the same port there.
NEAR, DISTANT, LONG = "127.0.0.1", "127.0.0.2", "127.0.0.3"
SBIN = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def free_ports(count=1):
    """The first of so many ports in a row that are free on every address in use here."""
    while True:
        with contextlib.ExitStack() as held:
            first = 0
            try:
                for offset in range(count):
                    for host in (NEAR, DISTANT, LONG):
                        s = held.enter_context(socket.socket())
                        s.bind((host, first + offset if first else 0))
                        first = first or s.getsockname()[1]
                return first
            except (OSError, OverflowError):
                continue


def new_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


def files_of(top):
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if path.is_file())


class Peer:
    """One server and the client commands that go with it. `root` is where its files land."""

    name = guarantees = ""
    ports = 1  # in a row, the first of which clients connect to
    forks = False  # a process for each client
    slow = False  # at a distance: measured there once
    far = True  # whether it can be reached over a line at all

    def __init__(self, directory, options):
        self.dir, self.options, self.port, self.host = directory, options, free_ports(self.ports), NEAR
        self.root = directory / "root"
        self.root.mkdir(parents=True)
        self.prepare()
        self.log = open(directory / "log", "wb")
        self.process = subprocess.Popen(self.server(), stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.await_port()

    def await_port(self):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection((NEAR, self.port), 1):
                return
            time.sleep(0.02)
        raise SystemExit(f"bench: {self.name} did not start:\n{(self.dir / 'log').read_text(errors='replace')}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        self.log.close()

    @classmethod
    def missing(cls, options):
        """The reason why this peer cannot run here, or None."""
        return None

    def prepare(self): pass
    def server(self): raise NotImplementedError
    def put(self, source, name): raise NotImplementedError
    def get(self, name, target): raise NotImplementedError
    def put_tree(self, source, name): raise NotImplementedError
    def get_tree(self, name, target): raise NotImplementedError


class Ftd(Peer):
    name, durability = "ftd", "full"
    guarantees = "encrypted; SHA-256 verified, atomic, flushed"
    lasting = []

    def prepare(self):
        key = new_key(self.dir / "key")
        (self.dir / "ftd.toml").write_text(f"""
root = "{self.root}"
listen = ["{NEAR}:{self.port}", "unix:{self.dir}/sock"]
host-key = "{self.dir}/host_key"
durability = "{self.durability}"
[limits]
connections = 2048
connections-per-user = 2048
connections-per-source = 2048
[[user]]
name = "bench"
keys = ["{key}"]
unix = ["{os.getuid()}"]
home = "."
allow = ["get", "list", "create", "replace", "mkdir"]
""")
        if self.durability == "none":
            told = subprocess.run([self.options.ftc, "get", "--help"], capture_output=True, text=True).stdout
            self.lasting = ["--durability", "none"] if "--durability" in told else []

    @property
    def place(self): return f"{self.host}:{self.port}"

    def server(self): return [self.options.ftd, "serve", "--config", str(self.dir / "ftd.toml")]

    def client(self, *words):
        return ["env", "-u", "SSH_AUTH_SOCK", f"FTC_SERVER={self.place}", f"FTC_IDENTITY={self.dir}/key",
                f"FTC_KNOWN_HOSTS={self.dir}/known", self.options.ftc, "--accept-new", "-q", *words]

    def put(self, source, name): return self.client("put", str(source), f":{name}")
    def get(self, name, target): return self.client("get", *self.lasting, f":{name}", str(target))
    def put_tree(self, source, name): return self.client("put", "-r", f"{source}/", f":{name}/")
    def get_tree(self, name, target): return self.client("get", *self.lasting, "-r", f":{name}/", f"{target}/")


class FtdNone(Ftd):
    name, durability = "ftd, durability none", "none"
    guarantees = "encrypted; SHA-256 verified, atomic"


class FtdUnix(FtdNone):
    name = "ftd, Unix socket, durability none"
    guarantees = "the kernel vouches; SHA-256 verified, atomic"
    far = False

    @property
    def place(self): return f"unix:{self.dir}/sock"


class Scp(Peer):
    name, cipher, forks, slow = "scp, aes128-gcm", "aes128-gcm@openssh.com", True, True
    guarantees = "encrypted; nothing verified"

    @classmethod
    def missing(cls, options):
        if not shutil.which("scp") or not cls.daemon():
            return "openssh-client and openssh-server are needed (Debian: apt-get install openssh-client openssh-server)"
        return None

    @staticmethod
    def daemon(): return shutil.which("sshd", path=SBIN)

    def prepare(self):
        (self.dir / "authorized_keys").write_text(new_key(self.dir / "key") + "\n")
        new_key(self.dir / "host")
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # where Debian's sshd separates its privileges
        (self.dir / "sshd_config").write_text(f"""
Port {self.port}
ListenAddress {NEAR}
HostKey {self.dir}/host
AuthorizedKeysFile {self.dir}/authorized_keys
StrictModes no
UsePAM no
PidFile none
PermitRootLogin prohibit-password
MaxStartups 200
Subsystem sftp internal-sftp
""")

    def server(self): return [self.daemon(), "-D", "-e", "-f", str(self.dir / "sshd_config")]

    def client(self, *words):
        return ["scp", "-q", "-F", "none", "-P", str(self.port), "-c", self.cipher, "-i", str(self.dir / "key"),
                "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={self.dir}/known",
                "-o", "StrictHostKeyChecking=accept-new", *words]

    def at(self, name): return f"{getpass.getuser()}@{self.host}:{self.root}/{name}"
    def put(self, source, name): return self.client(str(source), self.at(name))
    def get(self, name, target): return self.client(self.at(name), str(target))
    def put_tree(self, source, name): return self.client("-r", str(source), self.at(name))
    def get_tree(self, name, target): return self.client("-r", self.at(name), str(target))


class Rsyncd(Peer):
    name, flush, forks = "rsyncd, plain text", [], True
    guarantees = "plain text; xxh128 verified, atomic"

    @classmethod
    def missing(cls, options):
        return None if shutil.which("rsync") else "rsync is needed (Debian: apt-get install rsync)"

    def prepare(self):
        identity = f"uid = {os.getuid()}\ngid = {os.getgid()}\n" if os.getuid() == 0 else ""
        (self.dir / "rsyncd.conf").write_text(
            f"port = {self.port}\naddress = {NEAR}\nuse chroot = no\n{identity}"
            f"[b]\npath = {self.root}\nread only = no\n")

    def server(self): return ["rsync", "--daemon", "--no-detach", f"--config={self.dir}/rsyncd.conf"]
    def at(self, name): return f"rsync://{self.host}:{self.port}/b/{name}"
    def put(self, source, name): return ["rsync", "-W", *self.flush, str(source), self.at(name)]
    def get(self, name, target): return ["rsync", "-W", *self.flush, self.at(name), str(target)]
    def put_tree(self, source, name): return ["rsync", "-rW", *self.flush, f"{source}/", self.at(name)]
    def get_tree(self, name, target): return ["rsync", "-rW", *self.flush, f"{self.at(name)}/", str(target)]


class RsyncdFsync(Rsyncd):
    name, flush = "rsyncd, plain text, --fsync", ["--fsync"]
    guarantees = "plain text; xxh128 verified, atomic, files flushed"


class Curl(Peer):
    """Peers whose client is curl; a tree is one curl with a list of files, over up to 16 connections."""

    scheme, path = "http", ""
    flags = ["--http1.1", "-H", "Expect:"]

    def url(self, name): return f"{self.scheme}://{self.host}:{self.port}/{self.path}{name}"
    def curl(self, *words): return ["curl", "-sS", "--fail", "--noproxy", "*", *self.flags, *words]
    def put(self, source, name): return self.curl("-T", str(source), self.url(name))
    def get(self, name, target): return self.curl("-o", str(target), self.url(name))

    def many(self, pairs):
        script = self.dir / "tree.curl"
        script.write_text("".join(f'url = "{url}"\n{what} = "{path}"\n' for what, path, url in pairs))
        return self.curl("--create-dirs", "--parallel", "--parallel-immediate", "--parallel-max", "16", "-K", str(script))

    def put_tree(self, source, name):
        return self.many(("upload-file", source / f, self.url(f"{name}/{f}")) for f in files_of(source))

    def get_tree(self, name, target):
        return self.many(("output", target / f, self.url(f"{name}/{f}")) for f in files_of(self.root / name))


class Nginx(Curl):
    name, tls = "nginx + curl, plain text", ""
    guarantees = "plain text; nothing verified, atomic put"

    @classmethod
    def missing(cls, options):
        if not shutil.which("nginx", path=SBIN) or not shutil.which("curl"):
            return "nginx with WebDAV and curl are needed (Debian: apt-get install nginx curl)"
        return None

    def prepare(self):
        user = f"user {getpass.getuser()};" if os.getuid() == 0 else ""
        (self.dir / "nginx.conf").write_text(f"""
daemon off; {user} worker_processes auto; pid {self.dir}/pid; error_log stderr error;
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; client_max_body_size 0;
  client_body_temp_path {self.dir}/body; client_body_buffer_size 1m; default_type application/octet-stream;
  proxy_temp_path {self.dir}/t; fastcgi_temp_path {self.dir}/t; uwsgi_temp_path {self.dir}/t; scgi_temp_path {self.dir}/t;
  server {{
    listen {NEAR}:{self.port}{' ssl' if self.tls else ''}; {self.tls} root {self.root};
    dav_methods PUT DELETE MKCOL; create_full_put_path on; dav_access user:rw;
  }}
}}
""")

    def server(self):
        return [shutil.which("nginx", path=SBIN), "-c", str(self.dir / "nginx.conf"), "-p", str(self.dir), "-e", "stderr"]


class NginxTls(Nginx):
    name, scheme = "nginx + curl, TLS", "https"
    guarantees = "encrypted; nothing verified, atomic put"

    @classmethod
    def missing(cls, options):
        if not shutil.which("openssl"):
            return "openssl is needed for its certificate (Debian: apt-get install openssl)"
        return super().missing(options)

    def prepare(self):
        pem, key = self.dir / "cert.pem", self.dir / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                        "-subj", "/CN=bench", "-addext", "subjectAltName=" + ",".join(f"IP:{h}" for h in (NEAR, DISTANT, LONG)),
                        "-keyout", str(key), "-out", str(pem)], check=True, stderr=subprocess.DEVNULL)
        self.flags = [*self.flags, "--cacert", str(pem)]
        self.tls = f"ssl_certificate {pem}; ssl_certificate_key {key}; ssl_protocols TLSv1.3; ssl_buffer_size 16k;"
        super().prepare()


class Vsftpd(Curl):
    name, scheme, path, ports, forks, slow = "vsftpd + curl, plain text", "ftp", "up/", 64, True, True
    guarantees, flags = "plain text; nothing", ["--ftp-create-dirs"]

    @classmethod
    def missing(cls, options):
        if not shutil.which("vsftpd", path=SBIN) or not shutil.which("curl"):
            return "vsftpd and curl are needed (Debian: apt-get install vsftpd curl)"
        return None if os.getuid() == 0 else "vsftpd takes anonymous uploads only when it is started by root"

    def prepare(self):
        self.root.rmdir()
        jail = self.dir / "jail"
        self.root = jail / "up"
        self.root.mkdir(parents=True)
        (self.dir / "empty").mkdir()
        shutil.chown(self.root, "ftp")
        (self.dir / "vsftpd.conf").write_text(f"""listen=YES
listen_ipv6=NO
listen_address={NEAR}
listen_port={self.port}
pasv_min_port={self.port + 1}
pasv_max_port={self.port + self.ports - 1}
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root={jail}
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
secure_chroot_dir={self.dir}/empty
seccomp_sandbox=NO
max_clients=0
max_per_ip=0
""")

    def server(self): return [shutil.which("vsftpd", path=SBIN), str(self.dir / "vsftpd.conf")]


PEERS = [Ftd, FtdNone, FtdUnix, Scp, Rsyncd, RsyncdFsync, NginxTls, Nginx, Vsftpd]
