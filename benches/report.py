"""The report: what was to be reached, a table for each scenario, the chart, and their place in a document."""
import statistics

import chart
from measure import KIB, MIB
from scenarios import (CROWD, DISTANT_FILES, IDLE_CONNECTIONS, LONG_RATE, LONG_RTT_MS, RTT_MS)

FTD, NONE, UNIX = "ftd", "ftd, durability none", "ftd, Unix socket, durability none"
SCP, RSYNC, RSYNC_FSYNC, NGINX_TLS = "scp, aes128-gcm", "rsyncd, plain text", "rsyncd, plain text, --fsync", "nginx + curl, TLS"
BEGIN, END = "<!-- bench: what follows is written by `make bench` -->", "<!-- bench: end -->"


class Results:
    """The figures of a run, by scenario and name."""

    def __init__(self, results):
        self.all = results
        self.names = [peer["name"] for peer in results["peers"]]

    def values(self, scenario, name, key="wall"):
        return [figures[key] for figures in self.all["figures"].get(scenario, {}).get(name, []) if key in figures]

    def median(self, scenario, name, key="wall"):
        values = self.values(scenario, name, key)
        return statistics.median(values) if values else None


def titles(results):
    size, files = f"{results['gib']:g} GiB", f"{results['files']:,} files of 4 KiB"
    return {"put big": f"put {size}", "get big": f"get {size}", "put tree": f"put {files}", "get tree": f"get {files}",
            "put small": "put 64 KiB, a fresh client", "distant": f"put {DISTANT_FILES} files of 4 KiB, round trip {RTT_MS} ms",
            "crowd": f"{CROWD} clients put 32 MiB each, at once",
            "put long": f"put {size}, round trip {LONG_RTT_MS} ms, {LONG_RATE * 8 // 10**9} Gbit/s",
            "get long": f"get {size}, round trip {LONG_RTT_MS} ms, {LONG_RATE * 8 // 10**9} Gbit/s"}


def write(results, output, document):
    """Writes report and chart to `output`, puts them into `document` if there is one, and gives the report's text."""
    of = Results(results)
    text = "\n".join([head(results), "", *goals(of), "", *tables(of), *rest(of)]) + "\n"
    drawing = chart.draw([(title, [(name, of.median(scenario, name)) for name in ["plain TCP", *of.names] if of.median(scenario, name)])
                          for scenario, title in titles(results).items()], head(results))
    (output / "report.md").write_text(text)
    (output / "performance.svg").write_text(drawing)
    if document:
        before, begin, remaining = document.read_text().partition(BEGIN)
        _, end, after = remaining.partition(END)
        if not begin or not end:
            raise SystemExit(f"bench: {document} has no place for the report: {BEGIN} and {END}")
        picture = "![Wall seconds of every peer in every scenario](performance.svg)"
        document.write_text(f"{before}{BEGIN}\n\n{text}\n{picture}\n\n{END}{after}")
        document.with_name("performance.svg").write_text(drawing)
    return text


def head(results):
    return (f"{results['date']}, commit {results['commit']}; {results['processor']}, {results['threads']} threads, Linux "
            f"{results['kernel']}; {results['rounds']} interleaved rounds, medians (lowest to highest).")


def goals(of):
    """One row for each aim: what was measured, as part of what it is measured against."""
    size, files = f"{of.all['gib']:g} GiB", f"{of.all['files']:,} files"
    gib = of.all["gib"]
    lines = ["**What is to be reached**", "", "| scenario | against | to reach | measured | reached |", "|---|---|---|---|---|"]

    def row(scenario, against, goal, measured, shown, at_least=False):
        if measured is None:
            told, reached = "not measured here", "–"
        else:
            told = shown(measured)
            reached = "yes" if (measured >= goal if at_least else measured <= goal) else "**no**"
        lines.append(f"| {scenario} | {against} | {'≥' if at_least else '≤'} {shown(goal)} | {told} | {reached} |")

    def part(scenario, ours, theirs, key="wall", other=None, other_key=None):
        mine = of.median(scenario, ours, key)
        their = of.median(other or scenario, theirs, other_key or key)
        return mine / their if mine and their else None

    def times(value): return f"{value:.2f}×" if value >= 0.1 else f"{value:.3f}×"
    def mib(value): return f"{value / MIB:.1f} MiB"
    def kib(value): return f"{value / KIB:.1f} KiB"

    row(f"put {size}, wall", SCP, 0.45, part("put big", NONE, SCP), times)
    row(f"put {size}, CPU", SCP, 0.55, part("put big", NONE, SCP, "cpu"), times)
    row(f"put {size}, wall", RSYNC, 1.0, part("put big", NONE, RSYNC), times)
    row(f"get {size}, wall", SCP, 0.5, part("get big", NONE, SCP), times)
    row(f"get {size}, CPU", SCP, 0.55, part("get big", NONE, SCP, "cpu"), times)
    row(f"get {size}, wall", RSYNC, 1.0, part("get big", NONE, RSYNC), times)
    row(f"put {size} over the Unix socket, wall", RSYNC, 0.85, part("put big", UNIX, RSYNC), times)
    row(f"put {files}, wall", RSYNC, 1.0, part("put tree", NONE, RSYNC), times)
    row(f"get {files}, wall", RSYNC, 1.0, part("get tree", NONE, RSYNC), times)
    row(f"put {size} durable, wall", RSYNC_FSYNC, 1.0, part("put big", FTD, RSYNC_FSYNC), times)
    row(f"put {files}, every one durable, wall", RSYNC_FSYNC, 0.3, part("put tree", FTD, RSYNC_FSYNC), times)
    row(f"put {files}, every one durable, wall", NONE, 1.4, part("put tree", FTD, NONE), times)
    row(f"{DISTANT_FILES} files at {RTT_MS} ms, wall", SCP, 0.03, part("distant", NONE, SCP), times)
    row(f"{DISTANT_FILES} files at {RTT_MS} ms, wall", RSYNC, 0.8, part("distant", NONE, RSYNC), times)
    row("one durable 64 KiB put, a fresh client, wall", NGINX_TLS, 1.3, part("put small", FTD, NGINX_TLS), times)
    row(f"{CROWD} clients × 32 MiB at once, wall", RSYNC, 1.0, part("crowd", NONE, RSYNC), times)
    row(f"{CROWD} clients × 32 MiB at once, server's memory", "", 64 * MIB, of.median("crowd", NONE, "memory"), mib)
    row("idle server's memory", "", 8 * MIB, of.median("idle", NONE, "memory"), mib)
    row("server's memory, one transfer", "", 16 * MIB, of.median("one transfer", NONE, "memory"), mib)
    row(f"memory of one of {IDLE_CONNECTIONS:,} idle connections", "", 32 * KIB, of.median("idle connection", NONE, "memory"), kib)
    row(f"CPU of put {size}", "the sum of what is unavoidable", 1.15, part("put big", NONE, "machine", "cpu", "unavoidable", "sum"), times)
    row(f"wall of put {size}", "`openssl dgst -sha256` of the file", 1.7, part("put big", NONE, "machine", "wall", "openssl"), times)
    row(f"put {size}, round trip {LONG_RTT_MS} ms, throughput", "plain TCP over the same line", 0.9,
        part("put long", "plain TCP", NONE), times, at_least=True)
    row("ten times the bytes, CPU", "ten times the CPU", 1.1, tenfold(of, "put tenth", "put big"), times)
    row("ten times the files, CPU", "ten times the CPU", 1.1, tenfold(of, "put tree tenth", "put tree"), times)
    sums = [of.median("unavoidable", "machine", key) for key in ("digest", "aes", "copies", "sum")]
    if all(sums) and gib:
        lines += ["", "What is unavoidable, in CPU s: two digests 2 × {:.2f}, encryption and decryption 2 × {:.2f}, read, send, recv and "
                  "write {:.2f}: {:.2f} together. `openssl dgst -sha256` of the file: {:.2f} s.".format(
                      *sums, of.median("openssl", "machine"))]
    return lines


def tenfold(of, less, more):
    one, ten = of.median(less, NONE, "cpu"), of.median(more, NONE, "cpu")
    return ten / one / 10 if one and ten else None


def tables(of):
    lines = []
    for scenario, title in titles(of.all).items():
        names = [name for name in ["plain TCP", *of.names] if of.median(scenario, name)]
        if not names:
            continue
        base = next((name for name in (SCP, RSYNC) if name in names), names[0])
        lines += [f"**{title}**", "", f"| | wall s | to {base.partition(',')[0]} | CPU s, both sides | peak memory of the server |",
                  "|---|---|---|---|---|"]
        for name in names:
            walls, cpu, memory = of.values(scenario, name), of.median(scenario, name, "cpu"), of.median(scenario, name, "memory")
            wall = statistics.median(walls)
            cpu = "" if cpu is None else f"{cpu:.2f}"
            memory = f"{memory / MIB:.1f} MiB" if memory else ""
            lines.append(f"| {name} | {wall:.3f} ({min(walls):.3f}–{max(walls):.3f}) | {wall / of.median(scenario, base):.2f} | {cpu} | {memory} |")
        lines.append("")
    return lines


def rest(of):
    lines = ["Memory of the idle server: " + ", ".join(
        f"{name} {of.median('idle', name, 'memory') / MIB:.1f} MiB" for name in of.names) + "."]
    growth = []
    for scenario, what, unit in (("put tenth", of.all["gib"] / 10, "GiB"), ("put big", of.all["gib"], "GiB"),
                                 ("put tenfold", of.all["gib"] * 10, "GiB"), ("put tree tenth", of.all["files"] // 10, "files"),
                                 ("put tree", of.all["files"], "files"), ("put tree tenfold", of.all["files"] * 10, "files")):
        if of.median(scenario, NONE):
            growth.append(f"| {what:,g} {unit} | {of.median(scenario, NONE):.3f} | {of.median(scenario, NONE, 'cpu'):.2f} | "
                          f"{of.median(scenario, NONE, 'memory') / MIB:.1f} MiB |")
    if growth:
        lines += ["", f"**Growth** ({NONE})", "", "| put | wall s | CPU s, both sides | peak memory of the server |", "|---|---|---|---|", *growth]
    lines += ["", "What each peer promises: " + "; ".join(f"{peer['name']}: {peer['guarantees']}" for peer in of.all["peers"]) + "."]
    lines += [f"\nLeft out: {reason}." for reason in of.all["left_out"]]
    return lines
