"""Build, check and time the CUDA kernels on a machine with a GPU.

``python scripts/gpu_check.py`` needs cmake, nvcc, ninja or make, torch with CUDA and Python 3.10 or newer; no
network. The headers of pybind11 and nlohmann-json come from their Python packages, the latter's also from the
folder that ``--json-include`` names.

1. Builds the package with the CUDA ops for this GPU alone into ``--build`` and uses it from there.
2. Checks losses, front ends and the TCN's block against float64 references in plain torch: fresh random
   inputs, ragged sizes, masks, every number format, memory full of NaN before each call; two runs must give
   the same bits. The same kernels through CuPy and NVRTC, where CuPy is installed.
3. Runs the small checks under compute-sanitizer, memcheck and racecheck, where it is installed.
4. Times with CUDA events (medians, random data) beside eager torch, a copy and matrix products in one run.

Prints one Markdown table and exits with 1 if a check failed; with 2, and a reason, where it cannot run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Relative to the largest value: float32 sums, and operands that are rounded to 8 or 11 bits.
TOLERANCE = {"float64": 1e-10, "float32": 3e-5, "tf32": 2e-2, "bfloat16": 5e-2, "float16": 2e-2}
SANITIZER_SECONDS = 900
LEAST = 1e-6  # of the largest value of a tensor


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    size: str
    found: str
    beside: str = ""
    ok: bool | None = None

    def markdown(self) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.ok]
        return f"| {self.what} | {self.size} | {self.found} | {self.beside} | {verdict} |"


def table(rows: list[Row], title: str) -> str:
    head = f"{title}\n\n| what | size | found | beside | holds |\n|---|---|---|---|---|"
    return "\n".join([head, *(row.markdown() for row in rows)])


def missing(json_include: str | None = None) -> list[str]:
    """Return what this machine lacks, one reason each."""
    found = [f"no {program} on PATH" for program in ("cmake", "nvcc") if shutil.which(program) is None]
    if shutil.which("ninja") is None and shutil.which("make") is None:
        found.append("neither ninja nor make on PATH")
    modules = ["pybind11"] if json_include else ["pybind11", "nlohmann_json"]
    found += [f"no {name} in {sys.executable}" for name in modules if importlib.util.find_spec(name) is None]
    try:
        import torch
    except ImportError:
        return [*found, f"no torch in {sys.executable}"]
    if not torch.cuda.is_available():
        found.append(f"torch {torch.__version__} sees no GPU")
    return found


# ---- build -------------------------------------------------------------------------------------------------
def build(folder: Path, json_include: str | None) -> Path:
    """Build and install below `folder`; return what goes on the path of Python."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    # From sm_90 on, the code for this very GPU may use what later ones lack.
    architecture = f"{major}{minor}{'a' if major >= 9 else ''}-real"
    site = folder / "site"
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(folder / "build"), f"-DPython_EXECUTABLE={sys.executable}",
        "-DAFFEKT_TORCH=ON", "-DAFFEKT_CUDA=ON", f"-DAFFEKT_CUDA_ARCHITECTURES={architecture}",
    ]  # fmt: skip
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    if json_include:
        configure.append(f"-DAFFEKT_JSON_INCLUDE={json_include}")
    jobs = str(os.cpu_count() or 1)
    for command in (
        configure,
        ["cmake", "--build", str(folder / "build"), "--parallel", jobs],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr)
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(
        ROOT / "python/affekt", site / "affekt", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    subprocess.run(
        ["cmake", "--install", str(folder / "build"), "--prefix", str(site)], check=True, stdout=sys.stderr
    )
    return site


# ---- checks ------------------------------------------------------------------------------------------------
def poison(device: str) -> None:
    """Leave NaN in memory that the next allocations of torch get."""
    import torch

    held = [torch.full((2**k,), torch.nan, device=device) for k in range(6, 23)]
    del held


def worst(ours: list[Any], theirs: list[Any], least: float = LEAST) -> float:
    """Return the largest error relative to the largest value of its tensor; NaN if either has one alone.

    Tensors with nothing above `least` count as if they had that.
    """
    import torch

    error = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.double().cpu(), b.double().cpu()
        if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
            return float("nan")
        apart = (a - b).abs().nan_to_num(0).max().item() if a.numel() else 0.0
        error = max(error, apart / max(b.abs().nan_to_num(0).max().item() if b.numel() else 0.0, least))
    return error


def judge(
    what: str,
    size: str,
    call: Callable[[], list[Any]],
    expected: list[Any],
    bound: float,
    device: str,
    least: float = LEAST,
) -> Row:
    """Call twice over poisoned memory; compare with what is expected, and the two with each other."""
    import torch

    poison(device)
    ours = call()
    poison(device)
    again = call()
    same = all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(ours, again, strict=True))
    error = worst(ours, expected, least)
    found = f"error {error:.1e}" + ("" if same else ", another run differs")
    return Row(what, size, found, f"float64, {bound:.0e}", ok=error <= bound and same)


def with_gradients(loss: Callable[..., Any], inputs: list[Any]) -> Callable[[], list[Any]]:
    """Return a call of the loss and its gradients; all in the format of the inputs."""

    def call() -> list[Any]:
        leaves = [x.detach().clone().requires_grad_() for x in inputs]
        value = loss(*leaves)
        value.sum().backward()
        return [value.detach(), *(x.grad for x in leaves)]

    return call


def check_ccc(device: str, small: bool) -> Iterator[Row]:
    import torch

    from affekt.ops import losses

    shapes = [(1, 1, 1), (1, 7, 1), (3, 50, 2), (33, 101, 3), (2, 41, 130), (4, 9, 1), (70, 30, 2)]
    if not small:
        shapes += [(1, 1_000_003, 1), (8, 40_000, 2), (3, 333, 1031), (5000, 12, 2)]
    for number, shape in enumerate(shapes):
        for dtype in (torch.float32, torch.float64):
            for masked in (False, True):
                pred, target = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
                mask = torch.rand(shape, device=device) > 0.3 if masked else None
                pool, reduction, mixed = number % 2 == 1, number % 3, number % 4 == 2
                options = (pool, reduction, 1e-8, mixed)
                expected = with_gradients(
                    lambda p, y, mask=mask, options=options: losses.reference_ccc(p, y, mask, *options),
                    [pred.double(), target.double()],
                )()
                call = with_gradients(
                    lambda p, y, mask=mask, options=options: losses.ccc(p, y, mask, *options),
                    [pred, target],
                )
                name = f"CCC {str(dtype).removeprefix('torch.')}{', masked' if masked else ''}"
                bound = TOLERANCE["float64" if dtype == torch.float64 else "float32"]
                yield judge(name, "x".join(map(str, shape)), call, expected, bound, device)


def check_contrast(device: str, small: bool) -> Iterator[Row]:
    import torch

    from affekt.losses import _contrast
    from affekt.ops import losses

    formats = ["float32", "float64"] + (["tf32", "bfloat16", "float16"] if device != "cpu" else [])
    cases: list[tuple[str, int, int, int, float, dict[str, Any]]] = [
        ("InfoNCE", 1, 3, 0, 5.0, {}),
        ("InfoNCE", 131, 37, 0, 14.3, {}),
        ("InfoNCE one-sided, queue", 70, 24, 75, 14.3, {"columns": False}),
        ("InfoNCE of one feature", 66, 1, 0, 5.0, {}),
        ("InfoNCE, excluded, shifted", 66, 16, 0, 5.0, {"exclude": True, "shift": 33}),
        ("InfoNCE, free form", 129, 20, 0, 100.0, {}),
        ("InfoNCE in chunks", 700, 16, 0, 10.0, {"budget": 1}),
        ("SupCon, queue", 300, 40, 77, 10.0, {"labels": 40}),
        ("SupCon in chunks", 600, 8, 0, 60.0, {"labels": 9, "budget": 1}),
    ]
    if not small:
        cases += [("InfoNCE", 4096, 512, 0, 14.3, {}), ("SupCon", 3001, 257, 100, 10.0, {"labels": 50})]
    before = torch.backends.cuda.matmul.allow_tf32
    for name, n, dim, extra, scale, given in cases:
        for kind in formats:
            dtype = getattr(torch, "float32" if kind == "tf32" else kind)
            a, b = (torch.randn(n, dim, device=device).to(dtype) for _ in range(2))
            if dim == 1:  # away from 0, where the direction is all rounding
                a, b = a.sign() * (a.abs() + 0.5), b.sign() * (b.abs() + 0.5)
            more = torch.randn(extra, dim, device=device).to(dtype) if extra else None
            of_scale = torch.tensor(scale, device=device, dtype=torch.promote_types(dtype, torch.float32))
            options = dict(given)
            classes = options.pop("labels", 0)
            budget = options.pop("budget", 2**28)
            wide = [x.double() for x in (a, b, of_scale)]
            wide_more = None if more is None else more.double()
            torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
            if classes:
                labels = torch.randint(classes, (n,), device=device)
                expected = with_gradients(
                    lambda z, s, labels=labels, q=wide_more: losses.reference_sup_con(z, labels, q, s),
                    [wide[0], wide[2]],
                )()
                call = with_gradients(
                    lambda z, s, labels=labels, q=more, budget=budget: _contrast.sup_con(
                        z, labels, s, negatives=q, budget=budget
                    ),
                    [a, of_scale],
                )
            else:
                options = {"columns": True, "weight": 1 / n, "exclude": False, "shift": 0, **options}
                order = [options[k] for k in ("shift", "exclude", "columns", "weight")]
                expected = with_gradients(
                    lambda a, b, s, q=wide_more, order=order: losses.reference_info_nce(a, b, q, s, *order),
                    wide,
                )()
                call = with_gradients(
                    lambda a, b, s, q=more, options=options, budget=budget: _contrast.info_nce(
                        a, b, s, negatives=q, budget=budget, **options
                    ),
                    [a, b, of_scale],
                )
            # One feature or one row has gradients of 0, which no relative error measures.
            least = 1.0 if n == 1 or dim == 1 else LEAST
            yield judge(f"{name}, {kind}", f"{n}x{dim}", call, expected, TOLERANCE[kind], device, least)
    torch.backends.cuda.matmul.allow_tf32 = before


def front_ends() -> list[tuple[str, Any]]:
    """Front ends that take every branch of the kernels."""
    from affekt.features import BandPower, LogMel, Mfcc, PowerSpectrogram, Stft, Welch

    rate = {"sample_rate": 16000}
    return [
        ("log-mel", LogMel(**rate, n_fft=512, win_length=400, hop_length=160)),
        ("log-mel, Whisper live", LogMel.whisper(top_db=None, ref=1.0, n_fft=512)),
        ("log-mel, Kaldi, centred", LogMel.kaldi(center=True, pad_mode="symmetric")),
        ("MFCC, Kaldi", Mfcc.kaldi()),
        ("log-mel of magnitudes", LogMel(**rate, n_fft=256, win_length=200, n_mels=32, power=1.0)),
        ("log-mel, reflected", LogMel(**rate, n_fft=2048, center=True, pad_mode="reflect", preemphasis=0.9)),
        *(
            (f"spectrogram, n_fft {2**k}", PowerSpectrogram(**rate, n_fft=2**k, hop_length=2 ** (k - 1) + 1))
            for k in range(6, 13)
        ),
        ("STFT", Stft(**rate, n_fft=512, win_length=400, hop_length=160)),
        ("STFT, centred", Stft(**rate, n_fft=2048, center=True, pad_mode="reflect")),
        ("band power", BandPower(sample_rate=256)),
        ("band power, dB", BandPower(sample_rate=256, relative=False, log="db", hop=0.4, n_fft=512)),
        ("Welch", Welch(**rate)),
        ("Welch, linear, zeros behind", Welch(**rate, n_per_seg=400, n_fft=1024, detrend="linear")),
        ("Welch, many segments", Welch(**rate, n_per_seg=64, n_overlap=60, detrend=None, scaling="spectrum")),
    ]


def op_of(front_end: Any) -> str:
    """Name of the op of torch that computes a front end."""
    kind = type(front_end).__name__
    known = {"PowerSpectrogram": "spectrogram", "Welch": "welch", "Stft": "stft", "BandPower": "band_power"}
    return known.get(kind, "acoustic")


def real_rows(found: Any) -> Any:
    """Return what a front end gave as real numbers: the power of bands, pairs for complex ones."""
    import torch

    rows = found[0] if isinstance(found, tuple) else found
    return torch.stack([rows.real, rows.imag], -1) if rows.is_complex() else rows


def check_front_ends(device: str, small: bool) -> Iterator[Row]:
    import json

    import torch

    from affekt import _core, ops
    from affekt.ops import acoustic, bandpower

    references = acoustic.REFERENCES | bandpower.REFERENCES
    shapes = [(1, 1), (3, 5001)] + ([] if small else [(2, 3, 44_100), (64, 160_000)])
    for name, front_end in front_ends():
        op, options = op_of(front_end), json.dumps(front_end.options)
        yield Row(name, "", "has kernels", _core.gpu_unfit(op, options), ok=ops.on_cuda(op, options))
        for shape in shapes:
            if op == "welch" and shape[-1] < front_end.options["n_per_seg"]:
                continue
            for dtype in (torch.float32, torch.float64):
                x = 0.1 * torch.randn(shape, device=device, dtype=dtype)
                if shape[-1] == 1:  # a line spectrum, beside which rounding shows: lengths alone count
                    x.zero_()
                kind = str(dtype).removeprefix("torch.")
                call = with_gradients(lambda x, front_end=front_end: real_rows(front_end(x)), [x])
                expected = with_gradients(
                    lambda x, op=op, options=options: real_rows(references[op](x, options)), [x.double()]
                )()
                size = "x".join(map(str, shape))
                yield judge(f"{name}, {kind}", size, call, expected, TOLERANCE[kind], device)


def tcn_arguments(shape: tuple[int, ...], device: str, dtype: Any) -> list[Any]:
    """Return x, weights and biases of a block of the TCN: batch, time, in, out, taps.

    Numbers on a coarse grid, so that sums are exact and no rounding decides on which side of a rectifier a
    value is.
    """
    import torch

    batch, time, width, out, taps = shape

    def grid(*sizes: int) -> Any:
        return torch.randint(-4, 5, sizes, device=device).to(dtype) / 4

    found = [grid(batch, time, width), grid(out, width, taps), grid(out), grid(out, out, taps), grid(out)]
    return found if width == out else [*found, grid(out, width, 1), grid(out)]


def check_tcn(device: str, small: bool) -> Iterator[Row]:
    """Check the TCN's residual block against plain convolutions, dropping what the CPU drops."""
    import torch

    from affekt.ops import tcn

    shapes = [(2, 37, 5, 7, 3), (3, 130, 16, 16, 3), (1, 1, 1, 1, 1), (2, 300, 33, 140, 2), (0, 7, 4, 6, 3)]
    if not small:
        shapes += [(32, 300, 192, 128, 5), (1, 40_000, 64, 64, 3)]
    before = torch.backends.cudnn.allow_tf32
    for shape in shapes:
        for kind in ["float32", "float64"] + (["tf32"] if device != "cpu" else []):
            for dropout in (0.0, 0.5):
                dtype = getattr(torch, "float32" if kind == "tf32" else kind)
                inputs = tcn_arguments(shape, device, dtype)
                none = [None] * (7 - len(inputs))
                keys = torch.tensor([3, 4])
                # tf32 rounds what the second convolution takes, which only without a rectifier stays small.
                options = (4, 1.0 if kind == "tf32" else 0.25, dropout)
                wide = [x.double() for x in inputs]
                _, *dropped = torch.ops.affekt._tcn_block(
                    *(x.cpu() for x in wide), *none, keys, *options, False
                )
                masks = [h.to(device) for h in dropped]
                expected = with_gradients(
                    lambda *given, none=none, masks=masks, options=options: tcn._reference(
                        masks, options, *given, *none
                    ),
                    wide,
                )()
                torch.backends.cudnn.allow_tf32 = kind == "tf32"
                on_device = keys.to(device)
                call = with_gradients(
                    lambda *given, none=none, keys=on_device, options=options: tcn.block(
                        *given, *none, keys, *options, tcn.may_round(given[0])
                    ),
                    inputs,
                )
                name = f"TCN block, {kind}{', dropout' if dropout else ''}"
                yield judge(name, "x".join(map(str, shape)), call, expected, TOLERANCE[kind], device)
    torch.backends.cudnn.allow_tf32 = before


def check_cupy(device: str) -> Iterator[Row]:
    """Check the kernels that CuPy compiles against the ops of torch."""
    import torch

    if device == "cpu":
        return
    try:
        import cupy as cp
    except ImportError:
        yield Row("CuPy", "", "not run: not installed")
        return
    from affekt import cupy as on_gpu
    from affekt.losses import ccc_loss, info_nce_loss, sup_con_loss

    def torch_of(call: Callable[[], Any]) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            found = call()
            cp.cuda.get_current_stream().synchronize()
            arrays = found if isinstance(found, tuple) else (found,)
            return [torch.from_dlpack(array) for array in arrays]

        return run

    for name, front_end in front_ends():
        x = 0.1 * torch.randn(3, 5001, device=device)
        call = torch_of(lambda x=x, front_end=front_end: on_gpu.features(front_end, x))
        given = front_end(x)
        expected = list(given) if isinstance(given, tuple) else [given]
        yield judge(f"CuPy: {name}", "3x5001", call, expected, 1e-5, device)
    p, y = (torch.randn(33, 101, 3, device=device) for _ in range(2))
    call = torch_of(lambda: on_gpu.ccc_loss(p, y, gradients=True))
    yield judge("CuPy: CCC", "33x101x3", call, with_gradients(ccc_loss, [p, y])(), 1e-5, device)
    for kind in ("float32", "float64", "float16"):
        a, b = (torch.randn(300, 40, device=device).to(getattr(torch, kind)) for _ in range(2))
        bound = TOLERANCE[kind]
        call = torch_of(lambda a=a, b=b: on_gpu.info_nce_loss(a, b, gradients=True)[:3])
        expected = with_gradients(info_nce_loss, [a.double(), b.double()])()
        yield judge(f"CuPy: InfoNCE, {kind}", "300x40", call, expected, bound, device)
        labels = torch.randint(40, (300,), device=device)
        call = torch_of(lambda a=a, labels=labels: on_gpu.sup_con_loss(a, labels, gradients=True)[:2])
        expected = with_gradients(lambda z, labels=labels: sup_con_loss(z, labels), [a.double()])()
        yield judge(f"CuPy: SupCon, {kind}", "300x40", call, expected, bound, device)


def checks(device: str, small: bool) -> list[Row]:
    """Run all checks; every input is fresh."""
    from affekt import ops

    ops.load_library()
    found = [*check_ccc(device, small), *check_contrast(device, small), *check_front_ends(device, small)]
    found += check_tcn(device, small)
    return found if small else [*found, *check_cupy(device)]


def sanitize(site: Path) -> Iterator[Row]:
    """Run the small checks under compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        if program is None:
            yield Row(f"compute-sanitizer {tool}", "small checks", "not run: not installed")
            continue
        command = [
            program,
            "--tool",
            tool,
            "--error-exitcode",
            "9",
            sys.executable,
            __file__,
            "--small",
            str(site),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SANITIZER_SECONDS)
        except subprocess.TimeoutExpired:
            yield Row(
                f"compute-sanitizer {tool}", "small checks", f"not done in {SANITIZER_SECONDS} s", ok=False
            )
            continue
        lines = [x for x in done.stdout.splitlines() + done.stderr.splitlines() if "ERROR SUMMARY" in x]
        lines += [x for x in done.stdout.splitlines() if "SUMMARY" in x and x not in lines]
        found = lines[-1].strip("= ") if lines else f"exit {done.returncode}: {done.stderr[-200:]!r}"
        yield Row(f"compute-sanitizer {tool}", "small checks", found, ok=done.returncode == 0)


# ---- times -------------------------------------------------------------------------------------------------
def seconds(call: Callable[[], Any], times: int = 20) -> float:
    """Return the median time of a call on the GPU."""
    import torch

    for _ in range(3):
        call()
    found = []
    for _ in range(times):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return statistics.median(found)


def extra_memory(call: Callable[[], Any]) -> int:
    """Return the bytes that a call takes at its peak beyond what was there before."""
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - before


def times_of_ccc(shape: tuple[int, ...], copy: float) -> Iterator[Row]:
    import torch

    from affekt.ops import losses

    p, y = (torch.randn(shape, device="cuda") for _ in range(2))
    options = (True, 0, 1e-8, False)
    loss, columns = torch.ops.affekt._ccc_fwd(p, y, None, *options)
    grad = torch.ones_like(loss)
    forward = seconds(lambda: torch.ops.affekt._ccc_fwd(p, y, None, *options))
    backward = seconds(lambda: torch.ops.affekt._ccc_bwd(grad, p, y, None, columns, True, True, False))
    eager = seconds(with_gradients(lambda p, y: losses.reference_ccc(p, y, None, *options), [p, y]))
    ours = seconds(with_gradients(lambda p, y: losses.ccc(p, y, None, *options), [p, y]))
    size, big = "x".join(map(str, shape)), p.numel() >= 2**24
    for what, took, passes in (("forward", forward, 2), ("backward", backward, 3)):
        rate = passes * p.nbytes / took
        found = f"{took * 1e6:.0f} us, {rate / 1e12:.2f} TB/s"
        beside = f"{rate / copy:.0%} of the copy" + (", floor 85 %" if big else "")
        yield Row(f"CCC {what}", size, found, beside, ok=rate / copy >= 0.85 if big else None)
    yield Row("CCC with gradients", size, f"{ours * 1e6:.0f} us", f"eager {eager / ours:.1f} x ours")


def times_of_front_ends(batch: int, seconds_each: int) -> Iterator[Row]:
    """Time log-mel and the spectrogram beside torch.stft with the same window, filters and logarithm."""
    import json

    import torch

    from affekt import _core
    from affekt.features import LogMel, PowerSpectrogram, Welch
    from affekt.ops import bandpower

    x = 0.1 * torch.randn(batch, 16000 * seconds_each, device="cuda")
    size = f"{batch}x{seconds_each} s"
    framing = {"sample_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160}
    log_mel, spectrogram, welch = LogMel(**framing), PowerSpectrogram(**framing), Welch(sample_rate=16000)
    plan = _core.FrontEnd(json.dumps(log_mel.options))
    window, filters = (
        torch.from_numpy(table).to("cuda", torch.float32) for table in (plan.window, plan.mel_filters)
    )

    def power() -> Any:
        spectrum = torch.stft(x, 512, 160, 400, window, center=False, return_complex=True)
        return spectrum.real.square() + spectrum.imag.square()

    for what, ours, theirs in (
        ("log-mel", lambda: log_mel(x), lambda: 10 * (filters @ power()).clamp(min=1e-10).log10()),
        ("power spectrogram", lambda: spectrogram(x), power),
        ("Welch", lambda: welch(x), lambda: bandpower.REFERENCES["welch"](x, json.dumps(welch.options))),
    ):
        out, other = ours(), theirs()
        error = worst([out], [other if what == "Welch" else other.mT])
        took = seconds(ours)
        ratio = seconds(theirs) / took
        rate = (x.nbytes + out.nbytes) / took
        found = f"{took * 1e6:.0f} us, {rate / 1e12:.2f} TB/s, {error:.0e} from torch"
        judged = batch == 64 and what != "power spectrogram"
        beside = f"plain torch {ratio:.1f} x ours{', floor 3' if judged else ''}"
        yield Row(what, size, found, beside, ratio >= 3 and error < 1e-3 if judged else None)


def times_of_bands(channels: int, minutes: int) -> Iterator[Row]:
    """Time band power beside plain torch on the device."""
    import json

    import torch

    from affekt.features import BandPower
    from affekt.ops import bandpower

    x = torch.randn(channels, 256 * 60 * minutes, device="cuda")
    bands = BandPower(sample_rate=256)
    options = json.dumps(bands.options)
    took = seconds(lambda: bands(x))
    ratio = seconds(lambda: bandpower.REFERENCES["band_power"](x, options), 5) / took
    found = f"{took * 1e6:.0f} us, {x.nbytes / took / 1e12:.2f} TB/s"
    yield Row("band power", f"{channels}x{minutes} min", found, f"plain torch {ratio:.1f} x ours")


def times_of_tcn(shape: tuple[int, ...]) -> Iterator[Row]:
    """Time a block of the TCN with gradients and dropout beside torch's convolutions, in float32 and tf32."""
    import torch
    from torch.nn import functional

    from affekt.ops import tcn

    inputs = tcn_arguments(shape, "cuda", torch.float32)
    batch, time, width, out, taps = shape
    keys, none, dilation = torch.tensor([3, 4], device="cuda"), [None] * (7 - len(inputs)), 4

    def plain(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any = None, b3: Any = None) -> Any:
        def conv(x: Any, weight: Any, bias: Any) -> Any:
            x = functional.pad(x, ((taps - 1) * dilation, 0))
            z = functional.leaky_relu(functional.conv1d(x, weight, bias, dilation=dilation), 0.01)
            return functional.dropout(z, 0.1)

        x = x.mT
        aside = x if w3 is None else functional.conv1d(x, w3, b3)
        return functional.leaky_relu(conv(conv(x, w1, b1), w2, b2) + aside, 0.01).mT

    def ours(*given: Any) -> Any:
        return tcn.block(*given, *none, keys, dilation, 0.01, 0.1, tcn.may_round(given[0]))

    before = torch.backends.cudnn.allow_tf32
    aside = out * width if width != out else 0
    work = 6 * batch * time * ((width + out) * out * taps + aside)  # two passes back for each one forward
    for tf32 in (False, True):
        torch.backends.cudnn.allow_tf32 = tf32
        took = seconds(with_gradients(ours, inputs))
        ratio = seconds(with_gradients(plain, inputs)) / took
        found = f"{took * 1e6:.0f} us, {work / took / 1e12:.1f} TFLOP/s"
        name = f"TCN block with gradients, {'tf32' if tf32 else 'float32'}"
        yield Row(name, "x".join(map(str, shape)), found, f"plain torch {ratio:.1f} x ours")
    torch.backends.cudnn.allow_tf32 = before


def times() -> Iterator[Row]:
    import torch
    from torch.nn.functional import cross_entropy, normalize

    from affekt.losses import info_nce_loss

    big, other = torch.randn(2**28, device="cuda"), torch.empty(2**28, device="cuda")
    copy = 2 * big.nbytes / seconds(lambda: other.copy_(big))
    yield Row("copy", "1 GiB", f"{copy / 1e12:.2f} TB/s")
    big = other = torch.empty(0)
    peak = {}
    for kind in ("bfloat16", "float16", "tf32", "float32"):
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        dtype = getattr(torch, "float32" if kind == "tf32" else kind)
        x, y = (torch.randn(8192, 8192, device="cuda").to(dtype) for _ in range(2))
        peak[kind] = 2 * 8192**3 / seconds(lambda x=x, y=y: x @ y)
        yield Row(f"torch matrix product, {kind}", "8192^3", f"{peak[kind] / 1e12:.0f} TFLOP/s")

    for shape in ((32, 100, 2), (64, 1000, 2), (1, 2**20, 2), (1, 2**24, 1)):
        yield from times_of_ccc(shape, copy)
    for batch, length in ((1, 10), (64, 10)):
        yield from times_of_front_ends(batch, length)
    yield from times_of_bands(64, 10)
    for shape in ((32, 300, 128, 128, 5), (32, 300, 192, 128, 5), (64, 1000, 64, 64, 3)):
        yield from times_of_tcn(shape)

    def open_clip(a: Any, b: Any) -> Any:
        logits = normalize(a, dim=1) @ normalize(b, dim=1).T / 0.07
        at = torch.arange(len(a), device=a.device)
        return (cross_entropy(logits, at) + cross_entropy(logits.T, at)) / 2

    for kind, n, dim in (
        ("bfloat16", 1024, 256), ("bfloat16", 8192, 512), ("bfloat16", 8192, 768), ("bfloat16", 32768, 512),
        ("float16", 8192, 512), ("tf32", 8192, 512), ("float32", 8192, 512), ("bfloat16", 131072, 512),
    ):  # fmt: skip
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        dtype = getattr(torch, "float32" if kind == "tf32" else kind)
        a, b = (torch.randn(n, dim, device="cuda").to(dtype) for _ in range(2))
        call = with_gradients(lambda a, b: info_nce_loss(a, b), [a, b])
        took, memory = seconds(call, 5 if n > 40_000 else 20), extra_memory(call)
        rate = 8 * n * n * dim / took
        beside = f"{rate / peak[kind]:.0%} of torch's product"
        ok = None
        try:
            ratio = seconds(with_gradients(open_clip, [a, b]), 5) / took
            beside += f", eager {ratio:.2f} x ours"
            ok = ratio >= 1.5 if n >= 8192 and kind == "bfloat16" else None
        except torch.cuda.OutOfMemoryError:
            beside += ", eager out of memory"
        found = f"{took * 1e3:.2f} ms, {rate / 1e12:.0f} TFLOP/s, {memory / a.nbytes:.1f} x input more memory"
        yield Row(f"InfoNCE with gradients, {kind}", f"{n}x{dim}", found, beside, ok)


def main(arguments: list[str] | None = None) -> int:
    """Run everything; see the text above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build/gpu", help="where to build")
    parser.add_argument("--json-include", help="folder of nlohmann-json's headers")
    parser.add_argument(
        "--small", type=Path, metavar="SITE", help="only the small checks, on a finished build"
    )
    options = parser.parse_args(arguments)
    # The small checks run on what is built.
    reasons = [] if options.small else missing(options.json_include)
    if reasons:
        print(f"gpu_check: cannot run here: {'; '.join(reasons)}", file=sys.stderr)
        return 2
    import torch

    site = options.small or build(options.build, options.json_include)
    sys.path.insert(0, str(site))
    from affekt import ops

    if not ops.cuda_available():
        print("gpu_check: the CUDA ops do not load, see the warning above", file=sys.stderr)
        return 1
    rows = checks("cuda", small=options.small is not None)
    if options.small is None:
        rows += [*sanitize(site), *times()]
    name = torch.cuda.get_device_name()
    print(table(rows, f"{name}, torch {torch.__version__}"))
    failed = [row for row in rows if row.ok is False]
    for row in failed:
        print(f"does not hold: {row.what} {row.size}: {row.found}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
