"""Run the suites and write one table of ratios, as Markdown and CSV, with curves of growth.

    python -m bench              every suite, then the growth curves; into bench/results
    python -m bench --quick      short: numbers for orientation
    python -m bench -k welch     some of them, as in pytest -k
    python -m bench --growth     the curves alone

A ratio is the time of the peer over ours, so more than 1 means that affekt is faster; rows where it is
slower stay in the table. Every contender runs on one thread unless its row says otherwise. bench/README.md
explains the columns and how to add a suite.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from . import growth
from .table import markdown, rows_of, write_csv

HERE = Path(__file__).parent
LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMBA", "AFFEKT")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in LIBRARIES} | {"VECLIB_MAXIMUM_THREADS": "1"}
PEERS = [
    "numpy", "torch", "librosa", "kaldi-native-fbank", "audioflux", "opensmile", "scipy", "mne",
    "brainflow", "soxr", "onnxruntime", "pytorch-tcn",
]  # fmt: skip


def processor() -> str:
    """Return the name of the processor, with family and model where the name alone says little."""
    found: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            found.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    name = found.get("model name") or found.get("Model") or platform.processor() or platform.machine()
    if "cpu family" in found:
        name += f" (family {found['cpu family']}, model {found.get('model', '?')})"
    return name


def versions() -> str:
    """Return the versions of Python and of the contenders that are installed."""
    import affekt

    found = [f"Python {platform.python_version()}", f"affekt {affekt.__version__}"]
    for name in PEERS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)


def machine() -> list[str]:
    """Return what a reader must know of the machine and the versions."""
    import affekt

    return [
        f"Machine: {processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}.",
        f"Instruction set of affekt: {affekt.isa()}. {versions()}.",
    ]


def about(report: dict[str, Any], rounds: int) -> list[str]:
    """Return what a reader must know of the machine and the run."""
    lines = [
        *machine(),
        "One thread each unless the row says otherwise. Contenders of a group took "
        f"{rounds} turns, forth and back, in one process; a time is the median over the turns of the median "
        "within a turn, a ratio (peer / affekt, above 1: affekt is faster) the median over the turns of the "
        "ratio within a turn; beside each the lowest and the highest turn.",
    ]
    rates = report.get("affekt", {}).get("rates", {})
    if rates:
        arithmetic = ", ".join(f"{k} {v / 1e9:.0f} G/s" for k, v in rates["operations"].items() if v)
        levels = dict(map(tuple, rates["bytes"]))
        memory = ", ".join(f"{s // 1024} KiB {levels[s] / 1e9:.0f} GB/s" for s in sorted(levels)[1::3])
        lines.append(
            f"Best rates of one core, measured in this run: operations {arithmetic}; bytes in a working set "
            f"of {memory}. `bound` is the least time that they allow for the arithmetic and the bytes of the "
            "problem."
        )
    return lines


def pytest_command(select: str | None, *more: str, where: str = "") -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(HERE), "-c", os.devnull, "-o", "python_files=bench_*.py"]
    command += ["-o", "python_functions=bench_*", "-o", f"pythonpath={HERE.parent}", str(HERE / where)]
    return command + (["-k", select] if select else []) + list(more)


def profile(test: str, scratch: Path) -> str | None:
    """Return the functions that take the most time while one of our tests runs; None without perf."""
    if shutil.which("perf") is None:
        return None
    data = scratch / "perf.data"
    command = pytest_command(None, f"--profile-to={data}", where=test)
    subprocess.run(
        command, cwd=HERE.parent, env={**os.environ, **ONE_THREAD}, capture_output=True, check=False
    )
    report = ["perf", "report", "-i", str(data), "--stdio", "--percent-limit", "2", "--sort", "dso,symbol"]
    text = subprocess.run(report, capture_output=True, text=True, check=False).stdout
    lines = re.findall(r"^\s*(\d+\.\d+)%\s+(\S+)\s+\[.\]\s+(.*\S)", text, flags=re.MULTILINE)
    return "; ".join(f"{share} % {name} ({library})" for share, library, name in lines[:5]) or None


def main(arguments: list[str] | None = None) -> int:
    """Run and write; the exit status is that of pytest."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-k", dest="select", help="run only what matches, as in pytest -k")
    parser.add_argument("--quick", action="store_true", help="short turns: numbers for orientation")
    parser.add_argument("--rounds", type=int, help="turns of each contender (default: 7; quick: 3)")
    parser.add_argument("--growth", action="store_true", help="the curves of growth alone")
    parser.add_argument("--no-growth", action="store_true", help="the table alone")
    parser.add_argument(
        "--no-profile", action="store_true", help="do not profile the rows that miss their floor"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder (default: bench/results)")
    options = parser.parse_args(arguments)
    if options.rounds is not None and options.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {options.rounds}")

    kind = ("-quick" if options.quick else "") + ("-some" if options.select else "")
    stem = f"{datetime.date.today().isoformat()}-{platform.machine()}{kind}"
    options.out.mkdir(parents=True, exist_ok=True)
    status = 0
    if not options.growth:
        status = table(options, options.out / stem)
    if not options.no_growth and (options.growth or not options.quick):
        growth.draw(options.select, options.out / stem, quick=options.quick, environment=ONE_THREAD)
    return status


def table(options: argparse.Namespace, name: Path) -> int:
    """Run the suites and write the table."""
    rounds = options.rounds or (3 if options.quick else 7)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "report.json"
        command = pytest_command(
            options.select, f"--rounds={rounds}", f"--benchmark-json={file}", "--benchmark-disable-gc",
            "--benchmark-warmup=on", "--benchmark-warmup-iterations=20",
            "--benchmark-min-rounds=1", "--benchmark-min-time=0.0001", "--benchmark-quiet",
            f"--benchmark-max-time={0.05 if options.quick else 0.3}",
        )  # fmt: skip
        status = subprocess.run(
            command, cwd=HERE.parent, env={**os.environ, **ONE_THREAD}, check=False
        ).returncode
        if not file.exists() or not file.stat().st_size:
            return status or 1
        report = json.loads(file.read_text())
        rows = rows_of(report)
        missed = {r["group"]: r for r in rows if r["verdict"] == "MISS"}
        profiles = {}
        if not options.no_profile:
            for row in (r for r in rows if r["contender"] == "affekt" and r["group"] in missed):
                told = profile(row["test"], Path(scratch))
                if told:
                    profiles[row["group"]] = told

    text = markdown(
        rows,
        heading=f"Kernels against their peers, {datetime.date.today().isoformat()}"
        + (" (quick run)" if options.quick else ""),
        about=about(report, rounds),
        absent=report["affekt"]["absent"],
        profiles=profiles,
    )
    write_csv(rows, name.with_suffix(".csv"))
    name.with_suffix(".md").write_text(text)
    print(text)
    print(f"written: {name.with_suffix('.md')}, {name.with_suffix('.csv')}")
    return status


if __name__ == "__main__":
    sys.exit(main())
