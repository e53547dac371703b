"""Run the suites and write one table of ratios, as Markdown and CSV.

Every contender runs on one thread. A ratio is the median time of the peer over ours, so more than 1 means
that affekt is faster; rows where it is slower stay in the table.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMBA")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in LIBRARIES} | {"VECLIB_MAXIMUM_THREADS": "1"}
PEERS = ["affekt", "numpy", "librosa", "kaldi-native-fbank", "torch"]
COLUMNS = ["group", "contender", "median_us", "iqr_us", "rounds", "peer_over_affekt"]


def processor() -> str:
    """Return the name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def instruction_sets() -> str:
    """Return the vector instruction sets that the processor reports, of those that matter here."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return "unknown"
    flags = set(next((x for x in text.splitlines() if x.startswith(("flags", "Features"))), "").split())
    known = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "asimd", "sve")
    return " ".join(f for f in known if f in flags) or "none of note"


def versions() -> str:
    """Return the versions of Python and of the contenders that are installed."""
    found = [f"Python {platform.python_version()}"]
    for name in PEERS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)


def rows_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return table rows from the JSON report of pytest-benchmark, ours first in each group."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for entry in report["benchmarks"]:
        groups.setdefault(entry["group"], []).append(entry)
    rows = []
    for group, entries in groups.items():
        ours = next((e["stats"]["median"] for e in entries if e["extra_info"]["contender"] == "affekt"), None)
        for entry in sorted(entries, key=lambda e: e["extra_info"]["contender"] != "affekt"):
            stats, name = entry["stats"], entry["extra_info"]["contender"]
            ratio = None if ours is None or name == "affekt" else stats["median"] / ours
            rows.append(
                {
                    "group": group,
                    "contender": name,
                    "median_us": stats["median"] * 1e6,
                    "iqr_us": stats["iqr"] * 1e6,
                    "rounds": stats["rounds"],
                    "peer_over_affekt": ratio,
                }
            )
    return rows


def duration(microseconds: float) -> str:
    """Return a time in the unit that reads best, with three figures."""
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{microseconds / size:.3g} {unit}"
    return f"{microseconds:.3g} us"


def markdown(rows: list[dict[str, Any]], *, today: str, quick: bool) -> str:
    """Return the table as Markdown, with the machine above it."""
    lines = [
        f"# Kernels against their peers, {today}" + (" (quick run)" if quick else ""),
        "",
        f"- Machine: {processor()}, {os.cpu_count()} cores, {platform.machine()}; {instruction_sets()}",
        f"- {versions()}",
        "- One thread each, one run; median and interquartile range; ratio = peer / affekt, above 1: faster.",
        "",
        "| what | contender | median | spread (IQR) | ratio |",
        "|---|---|--:|--:|--:|",
    ]
    for row in rows:
        ratio = "" if row["peer_over_affekt"] is None else f"{row['peer_over_affekt']:.2f}"
        cells = [row["group"], row["contender"], duration(row["median_us"]), duration(row["iqr_us"]), ratio]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run and write; the exit status is that of pytest."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("-k", dest="select", help="run only what matches, as in pytest -k")
    parser.add_argument("--quick", action="store_true", help="short rounds: numbers for orientation")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder (default: bench/results)")
    options = parser.parse_args(arguments)

    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [
            *(
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:xdist",
                "-p",
                "no:cacheprovider",
                "--rootdir",
                str(HERE),
            ),
            *("-o", "python_files=bench_*.py", "-o", "python_functions=bench_*", str(HERE)),
            *(
                "--benchmark-json",
                str(report),
                "--benchmark-disable-gc",
                "--benchmark-columns=median,iqr,rounds",
            ),
            *("--benchmark-warmup=on", "--benchmark-warmup-iterations=20"),
            f"--benchmark-max-time={0.2 if options.quick else 2.0}",
            *(["-k", options.select] if options.select else []),
        ]
        status = subprocess.run(
            command, cwd=HERE.parent, env={**os.environ, **ONE_THREAD}, check=False
        ).returncode
        if not report.exists() or not report.stat().st_size:
            return status or 1
        rows = rows_of(json.loads(report.read_text()))

    today = datetime.date.today().isoformat()
    options.out.mkdir(parents=True, exist_ok=True)
    name = options.out / f"{today}-{platform.machine()}{'-quick' if options.quick else ''}"
    with name.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    text = markdown(rows, today=today, quick=options.quick)
    name.with_suffix(".md").write_text(text)
    print(text)
    print(f"written: {name.with_suffix('.md')}, {name.with_suffix('.csv')}")
    return status


if __name__ == "__main__":
    sys.exit(main())
