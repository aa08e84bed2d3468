#!/usr/bin/env python3
"""Changes one thing at a time in the modules that the promise rests on, and looks whether a test notices.

    tests/assurance/mutants.py                 every group
    tests/assurance/mutants.py names access    these groups

cargo-mutants makes the changes. What is compiled is a package of the lower floors alone, made anew below
target/mutants: their unit tests need nothing else, and a change is built in a few seconds instead of a minute. What
these tests let pass stands in target/mutants/GROUP.missed; the same change may still be noticed by a test through the
front door, so the figure is a lower bound.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
OUT = TOP / "target/mutants"
FLOORS = ("types", "access", "identity", "proto", "fsroot", "wire", "transfer")

# What is changed, and the modules whose tests have to notice.
GROUPS = {
    "names": (["types::"], ["src/types/path.rs"]),
    "access": (["access::"], ["src/access/decide.rs", "src/access/model.rs"]),
    "framing": (["proto::", "wire::"], ["src/proto/frame.rs", "src/wire/frames.rs"]),
    "identity": (["identity::"], ["src/identity/*.rs"]),
    "commit": (["fsroot::", "transfer::"], ["src/fsroot/commit.rs", "src/fsroot/staging.rs", "src/transfer/staged.rs"]),
}


def package():
    """The lower floors as a package of their own."""
    home = OUT / "package"
    shutil.rmtree(home, ignore_errors=True)
    (home / "src").mkdir(parents=True)
    for floor in FLOORS:
        shutil.copytree(TOP / "src" / floor, home / "src" / floor)
    (home / "src/lib.rs").write_text("".join(f"pub mod {floor};\n" for floor in FLOORS))
    shutil.copytree(TOP / "docs", home / "docs", ignore=shutil.ignore_patterns("*.svg"))
    shutil.copy(TOP / "Cargo.lock", home)
    manifest = (TOP / "Cargo.toml").read_text()
    sections = re.split(r"(?m)^(?=\[)", manifest)
    kept = [s for s in sections if s.startswith(("[package]", "[dependencies]", "[dev-dependencies]"))]
    kept = [re.sub(r"(?m)^(.*optional = true.*|readme = .*)\n", "", s) for s in kept]
    lints = '[lints.rust]\nunexpected_cfgs = "allow"\n'
    profile = '[profile.dev]\ndebug = false\n[profile.dev.package."*"]\nopt-level = 2\ndebug = false\n'
    (home / "Cargo.toml").write_text("".join(kept) + "\n[workspace]\n" + lints + profile)
    return home


def mutate(home, group):
    tests, files = GROUPS[group]
    shutil.rmtree(OUT / group, ignore_errors=True)
    command = ["cargo", "mutants", "--in-place", "--no-shuffle", "--timeout", "90", "--baseline", "skip", "-o", OUT / group]
    for file in files:
        command += ["-f", file]
    command += ["--", "--lib", "--", *tests]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(OUT / "target"), PROPTEST_CASES="64")
    # Its own code tells of what was missed, which is what the figure is about.
    subprocess.run(command, cwd=home, env=environment, check=False, stdout=subprocess.DEVNULL)
    found = json.loads((OUT / group / "mutants.out/outcomes.json").read_text())
    missed = [o["scenario"]["Mutant"]["name"] for o in found["outcomes"] if o["summary"] == "MissedMutant"]
    (OUT / f"{group}.missed").write_text("".join(name + "\n" for name in missed))
    killed = found["caught"] + found["timeout"]
    judged = killed + len(missed)
    print(f"assurance: B12 mutants, {group}: {killed} of {judged} noticed ({100 * killed / judged:.1f} %)", flush=True)


def main():
    if subprocess.run(["cargo", "mutants", "--version"], capture_output=True, check=False).returncode:
        sys.exit("mutants: cargo-mutants is missing: cargo install cargo-mutants --locked")
    groups = sys.argv[1:] or list(GROUPS)
    home = package()
    # The tree must be sound before anything is changed, or every change is "noticed".
    environment = dict(os.environ, CARGO_TARGET_DIR=str(OUT / "target"))
    subprocess.run(["cargo", "test", "--lib", "-q"], cwd=home, env=environment, check=True)
    for group in groups:
        mutate(home, group)


if __name__ == "__main__":
    main()
