#!/usr/bin/env python3
"""Times ftd beside scp, rsync, nginx and vsftpd on this machine, and writes a report.

Every peer runs a real server of its own on the loopback interface. The rounds are interleaved, so that what else
the machine does meets all of them alike; figures are medians, and what counts are their ratios. In the first round,
which does not count, each result is compared with its source, byte for byte. Processor time is that of client and
server together.

Standard library only. A peer that is not installed is left out, with the command that installs it.
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import tempfile
import time

import report
from scenarios import Bench, lay_out, programs, tear_down


def commit():
    done = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def processor_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def measure(options, output):
    programs(options)
    lab = lay_out(pathlib.Path(tempfile.mktemp(prefix="lab.", dir=options.lab or output)).absolute())
    bench = None
    try:
        bench = Bench(lab, options)
        bench.run()
    finally:
        if bench:
            bench.close()
        tear_down(lab)
    return {"date": time.strftime("%Y-%m-%d"), "commit": commit(), "processor": processor_name(), "threads": os.cpu_count(),
            "kernel": platform.release().partition("-")[0], "rounds": options.rounds, "gib": options.size, "files": options.files,
            "peers": [{"name": peer.name, "guarantees": peer.guarantees} for peer in bench.peers],
            "left_out": bench.left_out, "figures": bench.figures}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--release", default="target/release", help="where ftd, ftc and the two examples were built")
    parser.add_argument("--rounds", type=int, default=3, help="that count; one more warms up")
    parser.add_argument("--size", type=float, default=1, help="of the large file, in GiB")
    parser.add_argument("--files", type=int, default=10_000, help="in the tree")
    parser.add_argument("--peers", help="only those whose name holds one of these words, parted by commas")
    parser.add_argument("--scenarios", help="only these: large, trees, fresh, distant, crowd, long, growth, limits, memory")
    parser.add_argument("--quick", action="store_true", help="one round of a small size: whether it works, not how fast it is")
    parser.add_argument("--long", action="store_true", help="ten times the bytes and the files too, once")
    parser.add_argument("--lab", help="a directory on the file system to measure (default: below target/bench)")
    parser.add_argument("--output", default="target/bench", type=pathlib.Path)
    parser.add_argument("--document", type=pathlib.Path, help="a Markdown file between whose marks the report goes, the chart beside it")
    parser.add_argument("--from", dest="earlier", type=pathlib.Path, help="report on an earlier run's results.json again")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.size, options.files = 1, 0.125, 1000
    release = pathlib.Path(options.release).absolute()
    options.ftd, options.ftc = str(release / "ftd"), str(release / "ftc")
    options.link, options.limits = str(release / "examples/link"), str(release / "examples/limits")
    options.output.mkdir(parents=True, exist_ok=True)
    results = json.loads(options.earlier.read_text()) if options.earlier else measure(options, options.output)
    (options.output / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(report.write(results, options.output, options.document))


if __name__ == "__main__":
    main()
