#!/usr/bin/env bash
# Starts a real ftd on a directory of its own, with keys of its own, puts and gets a real file over the Unix
# socket and over TLS, and shows what happened. Usage: tests/demo.sh DIRECTORY-OF-THE-BINARIES
set -euo pipefail

bin=$(cd "${1:?the directory of ftd and ftc}" && pwd)
for tool in ssh-keygen sha256sum; do
  command -v "$tool" >/dev/null || { echo "demo: $tool is missing (Debian: apt-get install openssh-client coreutils)" >&2; exit 1; }
done
dir=$(mktemp -d "${TMPDIR:-/tmp}/ftd-demo.XXXXXX")
daemon=
cleanup() {
  [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -rf "$dir"
}
trap cleanup EXIT
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }
cd "$dir"

say "1. A server: one directory, one key, one user"
mkdir root
ssh-keygen -q -t ed25519 -N '' -C demo -f key
cat > ftd.toml <<CONFIG
root     = "$dir/root"
listen   = ["127.0.0.1:0", "unix:$dir/sock"]
host-key = "$dir/host_key"

[[user]]
name  = "demo"
keys  = ["$(cat key.pub)"]
unix  = ["$(id -u)"]
allow = ["get", "list", "create", "replace", "mkdir"]
CONFIG
cat ftd.toml
run "$bin/ftd" check --config ftd.toml
NO_COLOR=1 "$bin/ftd" serve --config ftd.toml 2>log &
daemon=$!
until grep -q ' ready$' log; do
  kill -0 "$daemon" 2>/dev/null || { cat log >&2; exit 1; }
  sleep 0.05
done
address=$(sed -n 's/.*listening address="\(127[^"]*\)".*/\1/p' log)
fingerprint=$("$bin/ftd" fingerprint --config ftd.toml | tail -1)
head -c 20000000 /dev/urandom > report.pdf
export FTC_KNOWN_HOSTS=$dir/known_hosts FTC_IDENTITY=$dir/key

say "2. Over the Unix socket: the kernel says who it is"
export FTC_SERVER=unix:$dir/sock
run "$bin/ftc" put report.pdf :by-unix/report.pdf
run "$bin/ftc" get :by-unix/report.pdf back-by-unix.pdf

say "3. Over TLS 1.3: the SSH key says who it is, the server's fingerprint was compared"
export FTC_SERVER=$address
run "$bin/ftc" --fingerprint "$fingerprint" put report.pdf :by-tls/report.pdf
run "$bin/ftc" get :by-tls/report.pdf back-by-tls.pdf

say "4. All five are the same file"
run sha256sum report.pdf root/demo/by-unix/report.pdf back-by-unix.pdf root/demo/by-tls/report.pdf back-by-tls.pdf
for copy in root/demo/by-unix/report.pdf back-by-unix.pdf root/demo/by-tls/report.pdf back-by-tls.pdf; do
  cmp report.pdf "$copy"
done
run "$bin/ftc" stat :by-tls/report.pdf
run ls -l root/demo/by-tls

say "5. What is not right is not stored"
printf '$ ftc put report.pdf :../outside\n'
"$bin/ftc" put report.pdf :../outside || echo "(exit $?)"
printf '$ ftc put --no-clobber report.pdf :by-tls/report.pdf\n'
"$bin/ftc" put --no-clobber report.pdf :by-tls/report.pdf || echo "(exit $?)"

say "6. One line for each transfer"
grep -E 'verb="(put|get)"' log | cut -c29- | sed 's/sha256=\([0-9a-f]\{12\}\)[0-9a-f]*/sha256=\1…/'

say "7. The end: SIGTERM lets running transfers finish"
kill "$daemon" && wait "$daemon"
tail -3 log | cut -c29-
daemon=
say "Everything in $dir is removed again."
