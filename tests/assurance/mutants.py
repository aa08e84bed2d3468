#!/usr/bin/env python3
"""Changes one thing at a time in the modules that the promise rests on, and looks whether a test notices.

    tests/assurance/mutants.py                 every group
    tests/assurance/mutants.py names access    these groups

cargo-mutants makes the changes. First what is compiled is a package of the lower floors alone, made anew below
target/mutants: their unit tests need nothing else, and a change is built in a few seconds instead of a minute. What
they let pass stands in target/mutants/GROUP.missed, and is tried once more in a copy of the whole project, with those
tests through the front door that are about it; what passes there too stands in GROUP.survived. What no
test can tell from the code as it is, is left out.
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

# What no test can tell from the code as it is: when the kernel is told of what will be flushed, and whether flushes go side
# by side, which only changes how fast it is; and flags that are added up, where "or" and "either or" are the same.
SAME = r"replace \| with \^|Finished::(start_flush|is_flushed)|replace > with \S+ in Staging::commit_all|replace == with != in flush_directories"

# What is changed, the modules whose tests have to notice, and the tests through the front door that are about it.
GROUPS = {
    "names": (["types::"], ["src/types/path.rs"], ["hostile_paths"]),
    "access": (["access::"], ["src/access/decide.rs", "src/access/model.rs"], ["recipes", "changes"]),
    "framing": (["proto::", "wire::"], ["src/proto/frame.rs", "src/wire/frames.rs"], ["hostile_frames", "admission", "compression"]),
    "identity": (["identity::"], ["src/identity/*.rs"], ["identity", "strangers"]),
    "commit": (["fsroot::", "transfer::"], ["src/fsroot/commit.rs", "src/fsroot/staging.rs", "src/transfer/staged.rs"],
               ["flush_order", "flush_batches", "quota", "faults", "resume", "hostile_paths"]),
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


def whole():
    """The whole project, to be changed as it is."""
    home = OUT / "whole"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(TOP, home, ignore=shutil.ignore_patterns("target", ".git", "corpus"))
    return home


def mutate(home, out, files, words, timeout, only=()):
    """Tries each change; gives how many a test noticed, and the names of the others."""
    shutil.rmtree(out, ignore_errors=True)
    command = ["cargo", "mutants", "--in-place", "--no-shuffle", "--timeout", str(timeout), "--baseline", "skip", "-E", SAME, "-o", out]
    command += [word for file in files for word in ("-f", file)]
    if only:
        command += ["--re", "^(" + "|".join(re.escape(name) for name in only) + ")$"]
    environment = dict(os.environ, CARGO_TARGET_DIR=str(OUT / f"{home.name}-target"), PROPTEST_CASES="64")
    # Its own code tells of what was missed, which is what the figure is about.
    subprocess.run([*command, "--", *words], cwd=home, env=environment, check=False, stdout=subprocess.DEVNULL)
    found = json.loads((out / "mutants.out/outcomes.json").read_text())
    missed = [o["scenario"]["Mutant"]["name"] for o in found["outcomes"] if o["summary"] == "MissedMutant"]
    return found["caught"] + found["timeout"], missed


def judge(home, group):
    modules, files, doors = GROUPS[group]
    killed, missed = mutate(home, OUT / group, files, ["--lib", "--", *modules], 90)
    all_of_them = killed + len(missed)
    (OUT / f"{group}.missed").write_text("".join(name + "\n" for name in missed))
    noticed = f"{killed} by unit tests"
    if missed:
        words = [word for door in doors for word in ("--test", door)]
        more, missed = mutate(whole(), OUT / f"{group}-whole", files, words, 300, missed)
        killed += more
        noticed += f", {more} more through the front door"
    (OUT / f"{group}.survived").write_text("".join(name + "\n" for name in missed))
    percent = 100 * killed / all_of_them
    print(f"assurance: B12 mutants, {group}: {killed} of {all_of_them} noticed ({percent:.1f} %): {noticed}", flush=True)


def main():
    if subprocess.run(["cargo", "mutants", "--version"], capture_output=True, check=False).returncode:
        sys.exit("mutants: cargo-mutants is missing: cargo install cargo-mutants --locked")
    groups = sys.argv[1:] or list(GROUPS)
    home = package()
    # The tree must be sound before anything is changed, or every change is "noticed".
    environment = dict(os.environ, CARGO_TARGET_DIR=str(OUT / "package-target"))
    subprocess.run(["cargo", "test", "--lib", "-q"], cwd=home, env=environment, check=True)
    for group in groups:
        judge(home, group)


if __name__ == "__main__":
    main()
