"""How time and peak memory grow with the size of the problem: one PNG per case.

A case is a function that takes a size and returns what to time, per contender. Each point runs in a process
of its own, so that the peak of one does not hide behind the peak of another: a call at the least size loads
what loads late, then the peak of the resident memory over what was there before the call is read (Linux),
then calls are timed and the median is kept.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Make = Callable[[int], Callable[[], Any]]


@dataclass(frozen=True)
class Case:
    """One plot: contenders against a size.

    Attributes:
        title: what is done.
        axis: what the size is, with its unit.
        sizes: from small to large.
        contenders: name -> make(size) -> what to time; an ImportError leaves the contender out.
        limits: name -> largest size for this contender, where more would take minutes or all memory.
    """

    title: str
    axis: str
    sizes: tuple[int, ...]
    contenders: dict[str, Make]
    limits: dict[str, int]


CASES: dict[str, Case] = {}


def case(name: str, title: str, axis: str, sizes: tuple[int, ...], **limits: int):
    """Register a function that returns {contender: make} as the case `name`."""

    def register(contenders: Callable[[], dict[str, Make]]):
        CASES[name] = Case(title, axis, sizes, contenders(), limits)
        return contenders

    return register


# ---- the cases ---------------------------------------------------------------------------------------------
@case("log-mel-time", "log-mel, 80 mels, n_fft 512, 16 kHz", "seconds of signal", (1, 4, 16, 60, 240, 960))
def log_mel_time() -> dict[str, Make]:
    from .conftest import voice

    def ours(seconds: int):
        from affekt.features import LogMel

        mel, x = LogMel(sample_rate=16000), voice(seconds)
        return lambda: mel(x)

    def librosa(seconds: int):
        library, x = importlib.import_module("librosa"), voice(seconds)
        options = {"sr": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80}

        def run():
            power = library.feature.melspectrogram(y=x, center=False, **options)
            return library.power_to_db(power, top_db=None)

        return run

    def torch(seconds: int):
        t, x = importlib.import_module("torch"), voice(seconds)
        filters = t.from_numpy(importlib.import_module("librosa").filters.mel(sr=16000, n_fft=512, n_mels=80))
        window, signal = t.hann_window(400), t.from_numpy(x)

        def run():
            spectrum = t.stft(signal, 512, 160, 400, window, center=False, return_complex=True)
            return 10 * t.log10(t.clamp(filters @ (spectrum.real**2 + spectrum.imag**2), min=1e-10))

        return run

    return {"affekt": ours, "librosa": librosa, "torch.stft + matmul + log10": torch}


def tcn_contenders(
    shape: Callable[[int], tuple[int, int, int]], steps: Callable[[int], int]
) -> dict[str, Make]:
    from .bench_tcn import module_of, native

    def build(size: int) -> tuple[tuple[int, int, int, int], np.ndarray]:
        inputs, channels, blocks = shape(size)
        rows = np.random.default_rng(0).standard_normal((steps(size), inputs)).astype(np.float32)
        return (inputs, channels, blocks, 3), rows

    def ours(size: int):
        net, rows = build(size)
        tcn = native(net)
        return lambda: tcn.process(rows)

    def torch(size: int):
        net, rows = build(size)
        module = module_of(net)[0]
        t = importlib.import_module("torch")
        x = t.from_numpy(rows)[None]

        def run():
            with t.inference_mode():
                return module(x)

        return run

    return {"affekt": ours, "torch": torch}


@case("tcn-time", "TCN over a recording, 64 channels, 6 blocks", "steps", (10, 100, 1000, 10000, 100000))
def tcn_time() -> dict[str, Make]:
    return tcn_contenders(lambda _: (80, 64, 6), lambda steps: steps)


@case("tcn-channels", "TCN, 1000 steps, 6 blocks", "channels", (8, 16, 32, 64, 128, 256))
def tcn_channels() -> dict[str, Make]:
    return tcn_contenders(lambda channels: (80, channels, 6), lambda _: 1000)


@case(
    "info-nce",
    "InfoNCE symmetric, forward + backward, 256 features",
    "pairs",
    (256, 1024, 4096, 8192, 16384),
    **{"eager torch": 8192},
)
def info_nce() -> dict[str, Make]:
    from .bench_losses import growth

    return {name: growth(name) for name in ("affekt", "eager torch")}


def eeg_contenders(channels: Callable[[int], int], seconds: Callable[[int], int]) -> dict[str, Make]:
    def signals(size: int) -> np.ndarray:
        shape = (channels(size), seconds(size) * 256)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)

    def welch(size: int):
        from affekt.features import welch

        x = signals(size)
        return lambda: welch(x, 256, n_per_seg=512)

    def bands(size: int):
        from affekt.features import BandPower

        x, plan = signals(size), BandPower(sample_rate=256)
        return lambda: plan(x)

    def scipy(size: int):
        x, library = signals(size), importlib.import_module("scipy.signal")
        return lambda: library.welch(x, 256, "hann", 512, 256)

    def mne(size: int):
        x, library = signals(size), importlib.import_module("mne.time_frequency")
        options = {"n_fft": 512, "n_overlap": 256, "window": "hann", "verbose": "error"}
        return lambda: library.psd_array_welch(x, 256, **options)

    return {"affekt welch": welch, "affekt band power": bands, "SciPy welch": scipy, "MNE welch": mne}


@case(
    "eeg-time", "EEG spectra, 32 channels at 256 Hz", "seconds", (10, 60, 300, 1800, 7200),
    **{"SciPy welch": 1800, "MNE welch": 1800},
)  # fmt: skip
def eeg_time() -> dict[str, Make]:
    return eeg_contenders(lambda _: 32, lambda seconds: seconds)


@case("eeg-channels", "EEG spectra, 60 s at 256 Hz", "channels", (1, 4, 16, 64, 256))
def eeg_channels() -> dict[str, Make]:
    return eeg_contenders(lambda channels: channels, lambda _: 60)


# ---- one point, in a process of its own --------------------------------------------------------------------
def memory(field: str) -> int | None:
    """Return a field of /proc/self/status in bytes: VmRSS or VmHWM; None where there is none."""
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(field)), None)


def point(name: str, contender: str, size: int) -> dict[str, Any]:
    """Measure one contender at one size."""
    chosen = CASES[name]
    make = chosen.contenders[contender]
    try:
        make(min(chosen.sizes))()
        function = make(size)
    except ImportError as error:
        return {"absent": str(error)}
    gc.collect()
    peak = None
    # What building the case left free in the heap would hide what the call takes.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before = memory("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    except OSError:
        before = None
    kept = function()
    after = memory("VmHWM")
    if before is not None and after is not None:
        peak = max(after - before, 0)
    del kept
    times: list[float] = []
    while len(times) < 3 or (sum(times) < 0.5 and len(times) < 1000):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return {"seconds": median(times), "peak": peak}


# ---- the plots ---------------------------------------------------------------------------------------------
def draw(select: str | None, stem: Path, *, quick: bool, environment: dict[str, str]) -> None:
    """Measure the cases whose name contains `select` and write STEM-growth-CASE.png and STEM-growth.csv."""
    lines = ["case,contender,size,seconds,peak_bytes"]
    for name in [n for n in CASES if select is None or select in n]:
        chosen = CASES[name]
        curves: dict[str, list[tuple[int, float, float | None]]] = {}
        for size in chosen.sizes[:-2] if quick else chosen.sizes:
            for contender in chosen.contenders:
                if size > chosen.limits.get(contender, size):
                    continue
                found = measured(name, contender, size, environment)
                if "seconds" in found:
                    curves.setdefault(contender, []).append((size, found["seconds"], found["peak"]))
                    lines.append(f"{name},{contender},{size},{found['seconds']:.6g},{found['peak']}")
                elif size == chosen.sizes[0]:
                    print(f"growth {name}: no {contender}: {found['absent']}")
        plot(chosen, curves, stem.with_name(f"{stem.name}-growth-{name}.png"))
    if len(lines) > 1:
        stem.with_name(f"{stem.name}-growth.csv").write_text("\n".join(lines) + "\n")


def measured(name: str, contender: str, size: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run `point` in a child; a child that dies (out of memory, say) is told as absent."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.growth", name, contender, str(size)],
        cwd=Path(__file__).parents[1], env={**os.environ, **environment}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        return {"absent": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def plot(chosen: Case, curves: dict[str, list[tuple[int, float, float | None]]], path: Path) -> None:
    """Draw time and peak memory against size, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    styles = dict(zip(curves, zip("os^Dv<>P*", ["-", "--", "-.", ":"] * 3, strict=False), strict=False))
    for contender, points in curves.items():
        marker, line = styles[contender]
        look = {"marker": marker, "linestyle": line, "label": contender, "markersize": 5}
        left.plot([p[0] for p in points], [p[1] * 1e3 for p in points], **look)
        known = np.array([(p[0], p[2] / 2**20) for p in points if p[2]]).reshape(-1, 2)
        right.plot(known[:, 0], known[:, 1], **look)
    for axes, label in ((left, "time of one call, ms"), (right, "peak memory of one call, MiB")):
        scale = "log" if axes.has_data() and any(line.get_xdata().size for line in axes.lines) else "linear"
        axes.set(xscale="log", yscale=scale, xlabel=chosen.axis, ylabel=label)
        axes.set_xticks(chosen.sizes, [f"{size:,}" for size in chosen.sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.legend(fontsize=9)
    figure.suptitle(f"{chosen.title}, one thread")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


if __name__ == "__main__":
    # The cases live in the imported module, where `from bench import growth` finds them too.
    from bench import growth

    print(json.dumps(growth.point(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
