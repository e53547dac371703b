"""Profiles of the two hottest kernels, as text: where the time of a frame and of a step goes.

    python -m bench.evidence            into bench/results/DATE-ARCHITECTURE-profile.md
    python -m bench.evidence -o FILE

hot.cpp, linked to the libaffekt that Python uses, runs log-mel (n_fft 512) and the TCN step (128 inputs, 8
blocks of 128 channels, 3 taps) alone on one thread. perf samples it on the widest instruction set; where the
machine offers counters, they give instructions, IPC and cache misses. callgrind counts instructions exactly
and simulates caches and branches, on AVX2 at most, as valgrind knows no AVX-512; counts of a short and a
long run are subtracted, so that loading and planning drop out.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import affekt
from affekt import _core

from .__main__ import ONE_THREAD, processor

HERE = Path(__file__).parent
KERNELS = {  # name: (title, unit)
    "log-mel": ("Log-mel, n_fft 512, window 400, hop 160, 80 mels, dB; 10 s of 16 kHz a pass", "frame"),
    "tcn-step": ("TCN step, (128, 128, 8), 3 taps, float32; 100 steps a pass", "step"),
}
COUNTERS = ["instructions", "cycles", "L1-dcache-load-misses", "cache-misses", "branch-misses"]
PASSES = (1, 5)  # of a short and a long run under callgrind
LEAST = 2.0  # per cent of a function that is listed


def told(command: list[str], **environment: str) -> str:
    """Run and return what a command prints on both channels."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **ONE_THREAD, **environment}
    )
    return done.stdout + done.stderr


def build(folder: Path) -> Path:
    """Compile hot.cpp against the libaffekt of this Python."""
    package = Path(_core.__file__).parent
    if not (package / "include").is_dir():
        sys.exit("affekt is not installed with its headers here")
    program = folder / "hot"
    flags = ["-std=c++20", "-O2", f"-I{package / 'include'}", f"-L{package}", f"-Wl,-rpath,{package}"]
    source = str(HERE / "hot.cpp")
    told([os.environ.get("CXX", "c++"), *flags, source, "-laffekt", "-o", str(program)])
    return program


def nanoseconds(program: Path, kernel: str, isa: str) -> tuple[float, int]:
    """Return the processor time of a frame or step, the best of three short runs, and the passes of a run."""
    units, seconds = told([str(program), kernel, "3"], AFFEKT_ISA=isa).split()
    passes = max(1, round(0.4 / float(seconds)))
    best = float("inf")
    for _ in range(3):
        units, seconds = told([str(program), kernel, str(passes)], AFFEKT_ISA=isa).split()
        best = min(best, float(seconds) / int(units) * 1e9)
    return best, passes


def short(name: str) -> str:
    """Return a function's name without what says little: the anonymous namespace, arguments, clones."""
    name = name.replace("(anonymous namespace)::", "").replace("affekt::", "")
    name = re.sub(r"__attribute__\(\(vector_size\((\d+)\)\)\)", r"x\1", name)
    depth, kept = 0, ""
    for character in re.sub(r" \[clone [^]]*\]", "", name):
        depth += character == "("
        kept += character if depth == 0 else ""
        depth -= character == ")"
    kept = re.sub(r"^(void|bool|float|double|unsigned long) ", "", kept).strip()
    return kept if len(kept) <= 90 else kept[:87] + "..."


def sampled(program: Path, kernel: str, passes: int, folder: Path) -> list[str]:
    """Return rows of functions by time."""
    if shutil.which("perf") is None:
        return ["perf is not installed here."]
    data = str(folder / "perf.data")
    record = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "4000", "-o", data]
    told([*record, str(program), kernel, str(4 * passes)])
    report = ["perf", "report", "-i", data, "--stdio", "--percent-limit", str(LEAST), "--sort", "dso,symbol"]
    lines = re.findall(r"^\s*(\d+\.\d+)%\s+(\S+)\s+\[(.)\]\s+(.*\S)", told(report), flags=re.MULTILINE)
    rows = ["| time | function | library |", "|--:|---|---|"]
    return rows + [
        f"| {share} % | `{short(re.split(' {2,}', name)[0])}` | {library if kind == '.' else 'kernel'} |"
        for share, library, kind, name in lines
    ]


def counted(program: Path, kernel: str, passes: int, unit: str) -> str:
    """Return what the counters of the machine say, per frame or step."""
    if shutil.which("perf") is None:
        return "perf is not installed here."
    found = {}
    output = told(["perf", "stat", "-x", ";", "-e", ",".join(COUNTERS), str(program), kernel, str(passes)])
    units = int(output.split()[0])
    for line in output.splitlines():
        value, _, rest = line.partition(";")
        name = next((c for c in COUNTERS if f";{c}" in f";{rest}"), None)
        if name and value.isdigit():
            found[name] = int(value)
    if not found:
        return (
            "The machine offers no hardware counters (a virtual machine), so neither IPC nor measured misses."
        )
    text = ", ".join(f"{value / units:.4g} {name}" for name, value in found.items())
    if {"instructions", "cycles"} <= set(found):
        text += f"; IPC {found['instructions'] / found['cycles']:.2f}"
    return f"Counters, per {unit}: {text}."


def simulated(program: Path, kernel: str, unit: str, folder: Path) -> list[str]:
    """Return counts per frame or step out of callgrind, and the functions by instructions."""
    if shutil.which("valgrind") is None:
        return ["valgrind is not installed here."]
    isa = "avx2" if affekt.isa() == "avx512" else affekt.isa()
    totals: list[dict[str, int]] = []
    functions: list[dict[tuple[str, str], int]] = []
    units: list[int] = []
    out = folder / f"callgrind.{kernel}"
    flags = ["-q", "--tool=callgrind", "--cache-sim=yes", "--branch-sim=yes", f"--callgrind-out-file={out}"]
    for passes in PASSES:
        printed = told(["valgrind", *flags, str(program), kernel, str(passes)], AFFEKT_ISA=isa)
        units.append(int(re.findall(r"^(\d+) \d+\.\d+$", printed, flags=re.MULTILINE)[0]))
        text = out.read_text()
        events = re.findall(r"^events: (.*)$", text, flags=re.MULTILINE)[0].split()
        values = re.findall(r"^totals: (.*)$", text, flags=re.MULTILINE)[-1].split()
        totals.append(dict(zip(events, map(int, values), strict=True)))
        functions.append({})
        for line in told(["callgrind_annotate", "--threshold=100", "--show=Ir", str(out)]).splitlines():
            found = re.match(r"\s*([\d,]+) \([^)]*\)\s+\S*?[^:]:([^:].*)", line)
            if found:
                name, _, library = found[2].rstrip("]").rpartition(" [")
                functions[-1][short(name), Path(library).name] = int(found[1].replace(",", ""))
    each = {name: (totals[1][name] - totals[0][name]) / (units[1] - units[0]) for name in totals[0]}
    taken = nanoseconds(program, kernel, isa)[0]
    rows = [
        f"callgrind on {isa}, per {unit}: {each['Ir']:.0f} instructions, "
        f"{each['D1mr'] + each['D1mw']:.1f} misses of the first cache, "
        f"{each['DLmr'] + each['DLmw']:.2f} of the last, {each['Bc'] + each['Bi']:.0f} branches, "
        f"{each['Bcm'] + each['Bim']:.1f} mispredicted. Outside valgrind that {unit} takes {taken:.0f} ns on "
        f"{isa}: {each['Ir'] / taken:.2f} instructions per ns.",
        "",
        "| instructions | function | library |",
        "|--:|---|---|",
    ]
    grown = {key: count - functions[0].get(key, 0) for key, count in functions[1].items()}
    for (name, library), count in sorted(grown.items(), key=lambda item: -item[1]):
        share = 100 * count / (totals[1]["Ir"] - totals[0]["Ir"])
        if share >= LEAST:
            rows.append(f"| {share:.1f} % | `{name}` | {library} |")
    return rows


def main() -> int:
    """Write the profiles."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.evidence",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    today = f"{datetime.date.today().isoformat()}-{platform.machine()}-profile.md"
    parser.add_argument(
        "-o", dest="out", type=Path, default=HERE / "results" / today, help="the file to write"
    )
    options = parser.parse_args()
    text = [
        f"# Profiles of the two hottest kernels, {datetime.date.today().isoformat()}",
        "",
        f"Made by `python -m bench.evidence`. Machine: {processor()}, {platform.system()} "
        f"{platform.machine()}. affekt {affekt.__version__}, {affekt.isa()}, one thread.",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        program = build(Path(scratch))
        for kernel, (title, unit) in KERNELS.items():
            taken, passes = nanoseconds(program, kernel, affekt.isa())
            text += ["", f"## {title}", "", f"{taken:.0f} ns per {unit} on {affekt.isa()}, called from C++."]
            text += ["", counted(program, kernel, passes, unit), ""]
            text += sampled(program, kernel, passes, Path(scratch))
            text += ["", *simulated(program, kernel, unit, Path(scratch))]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("\n".join(text) + "\n")
    print(options.out.read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
