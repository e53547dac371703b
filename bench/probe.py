"""What one core of this machine can do at best: the arithmetic and the bytes behind the derived bounds.

The rates are measured in the same run as the rows by a small C++ program (probe.cpp), compiled for this very
machine, with the best of many short bursts. A bound made from them is a time that no program can beat here:
`max(operations / arithmetic rate, bytes moved / byte rate)`, each rate times the number of threads.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ARITHMETIC = ("float32", "float64", "int8")
# Bytes that are touched again and again: from the first cache to memory.
SIZES = [2**k for k in range(14, 28)]


def build(folder: str) -> ctypes.CDLL | None:
    """Compile probe.cpp into `folder` for this machine and load it; None without a compiler."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    library = Path(folder) / "probe.so"
    flags = ["-O3", "-march=native", "-ffp-contract=fast", "-std=c++17", "-shared", "-fPIC"]
    source = Path(__file__).with_name("probe.cpp")
    done = subprocess.run([compiler, *flags, source, "-o", library], capture_output=True, check=False)
    if done.returncode:
        return None
    loaded = ctypes.CDLL(str(library))
    for name in ARITHMETIC:
        getattr(loaded, f"{name}_rate").restype = ctypes.c_double
        getattr(loaded, f"{name}_rate").argtypes = [ctypes.c_double]
    loaded.byte_rate.restype = ctypes.c_double
    loaded.byte_rate.argtypes = [ctypes.c_size_t, ctypes.c_double]
    return loaded


class Probe:
    """Keeps the best rates seen; `measure` may run several times in a run, since other jobs come and go."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._library = build(self._folder.name)
        self.operations = dict.fromkeys(ARITHMETIC, 0.0)
        self.bytes = dict.fromkeys(SIZES, 0.0)

    def measure(self, seconds: float) -> None:
        """Measure every rate within about `seconds`; nothing where that is 0."""
        if self._library is None or not seconds:
            return
        share = seconds / (len(ARITHMETIC) + len(SIZES))
        for name in ARITHMETIC:
            rate = getattr(self._library, f"{name}_rate")(share)
            self.operations[name] = max(self.operations[name], rate)
        for size in SIZES:
            self.bytes[size] = max(self.bytes[size], self._library.byte_rate(size, share))

    def report(self) -> dict[str, Any]:
        """Return operations per second by type and [size, bytes per second] pairs; empty if not measured."""
        if not any(self.operations.values()):
            return {}
        return {"operations": self.operations, "bytes": [[s, r] for s, r in self.bytes.items()]}


def bound(facts: dict[str, Any], rates: dict[str, Any], threads: int = 1) -> tuple[float, str] | None:
    """Return the least time in seconds that `facts` allow at these rates, and what sets it; None if unknown.

    `facts` may hold `operations` (a fused multiply-add is two), their `dtype`, `bytes_moved` and
    `working_set` (bytes that are touched again and again, which picks the level of the memory; default:
    `bytes_moved`).
    """
    if not rates:
        return None
    found = []
    if facts.get("operations"):
        rate = rates["operations"].get(facts.get("dtype", "float32"), 0)
        if rate:
            found.append((facts["operations"] / (rate * threads), "arithmetic"))
    if facts.get("bytes_moved"):
        size = math.log(max(facts.get("working_set") or facts["bytes_moved"], 1))
        _, rate = min(rates["bytes"], key=lambda pair: abs(math.log(pair[0]) - size))
        found.append((facts["bytes_moved"] / (rate * threads), "bytes"))
    return max(found, default=None)
