#!/usr/bin/env python3
"""Which lines of the modules that the promise rests on the tests run; 95 in a hundred is the bar.

cargo-llvm-cov builds and counts. The counters are kept in a file that is mapped into memory, because most daemons of the
tests end by SIGKILL, and all of them are shut out of the directory that the counters would be written to at an end.
"""

import json
import os
import pathlib
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
# What is judged. Tests beside the code are left out of the count.
AREAS = {
    "framing": ("src/proto/frame.rs", "src/wire/frames.rs"),
    "names": ("src/types/path.rs",),
    "commit": ("src/fsroot/commit.rs", "src/fsroot/staging.rs", "src/fsroot/made.rs", "src/transfer/staged.rs"),
    "identity": ("src/identity/",),
    "access": ("src/access/",),
}
TESTS = ("fuzz_laws", "hostile_frames", "hostile_paths", "identity", "strangers", "roundtrip", "changes", "resume", "admission",
         "recipes", "faults", "quota", "compression", "trees", "resume_client", "config",
         "verdicts")


def cargo(*words):
    flags = os.environ.get("RUSTFLAGS", "") + " -C llvm-args=-runtime-counter-relocation"
    environment = dict(os.environ, RUSTFLAGS=flags.strip(), CARGO_LLVM_COV_TARGET_DIR=str(TOP / "target/coverage"),
                       LLVM_PROFILE_FILE_NAME="ftd-%m-%c.profraw")
    return subprocess.run(["cargo", "llvm-cov", *words], cwd=TOP, env=environment, check=True, text=True,
                          stdout=subprocess.PIPE if "report" in words else None).stdout


def tell(area, covered, total):
    print(f"assurance: B12 lines run by tests, {area}: {covered} of {total} ({100 * covered / max(1, total):.1f} %)", flush=True)


def main():
    if subprocess.run(["cargo", "llvm-cov", "--version"], capture_output=True, check=False).returncode:
        sys.exit("coverage: cargo-llvm-cov is missing: cargo install cargo-llvm-cov --locked && rustup component add llvm-tools")
    if "--report" not in sys.argv:
        cargo("--no-report", "--locked", "--lib", "--bins", *(word for test in TESTS for word in ("--test", test)))
    files = json.loads(cargo("report", "--json", "--summary-only"))["data"][0]["files"]
    sums = [0, 0]
    for area, places in AREAS.items():
        covered = total = 0
        for file in files:
            name = str(pathlib.Path(file["filename"]).relative_to(TOP)) if file["filename"].startswith(str(TOP)) else ""
            if name.startswith(places) and not re.search(r"(^|/)tests(/|\.rs$)", name):
                lines = file["summary"]["lines"]
                covered, total = covered + lines["covered"], total + lines["count"]
                if "-v" in sys.argv:
                    print(f"{name}: {lines['covered']} of {lines['count']}")
        tell(area, covered, total)
        sums = [sums[0] + covered, sums[1] + total]
    tell("together", *sums)


if __name__ == "__main__":
    main()
