"""Build, check and time the CUDA kernels on a machine with a GPU.

``python scripts/gpu_check.py`` needs cmake, nvcc, ninja or make, torch with CUDA, pybind11 and Python 3.10 or
newer; no network. The headers of nlohmann-json come from its Python package, ``nlohmann-json``, which travels
as a wheel, or from the folder that ``--json-include`` names.

1. ``build``: the package with the CUDA ops for this GPU alone, into ``--build``; used from there.
2. ``checks``: losses, front ends, the TCN's block and gathered losses against float64 references in plain
   torch: fresh random inputs, ragged sizes, masks, every number format, memory full of NaN before each call;
   two runs must give the same bits. The same kernels through CuPy and NVRTC, where CuPy is installed.
3. ``sanitize``: the small checks under compute-sanitizer (memcheck, racecheck, initcheck, synccheck), every
   tensor in an allocation of its own.
4. ``times``: medians on random data beside eager torch, a copy of the same bytes and matrix products of the
   same run. Calls are repeated in a CUDA graph, so that the host takes no part, over inputs that together
   exceed the L2 cache where they are not small. What the project promises is judged in the last column.

Everything runs in processes of its own, case by case: what raises, dies or hangs is one row that does not
hold, and the next case goes on. Rows are printed as they come and written to ``gpu_check.md`` in ``--out``,
beside the logs. ``--only checks,times`` picks steps; ``--seconds`` ends the call in time, and what was not
run says so. ``--only build,checks``, ``sanitize`` and ``times`` take less than ten minutes each.

Exits with 1 if a row does not hold; with 2, and a reason, where it cannot run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import secrets
import selectors
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Relative to the largest value: float32 sums, and operands that are rounded to 8 or 11 bits.
TOLERANCE = {"float64": 1e-10, "float32": 3e-5, "tf32": 2e-2, "bfloat16": 5e-2, "float16": 2e-2}
LEAST = 1e-6  # of the largest value of a tensor
STEPS = ("build", "checks", "sanitize", "times")
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
CASE_SECONDS = 120  # that one case may take, and the start of a process
SANITIZER_SECONDS = 240  # that one tool may take over one group
MARK = "@row "  # before what a process tells the one that started it
# Under compute-sanitizer: the kernels alone, once, without references.
bare = False
remarks: list[str] = []  # on the case that runs, for its rows


@dataclass(frozen=True)
class Row:
    """One line of the table; `ok` None: nothing is promised."""

    what: str
    size: str
    found: str
    beside: str = ""
    ok: bool | None = None

    def markdown(self) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.ok]
        cells = (self.what, self.size, self.found, self.beside, verdict)
        return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


@dataclass(frozen=True)
class Case:
    """What gives rows when it is run."""

    what: str
    size: str
    run: Callable[[], Row | list[Row]]


def head(title: str) -> str:
    return f"{title}\n\n| what | size | found | beside | holds |\n|---|---|---|---|---|"


def size_of(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def kind_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def missing(json_include: str | None = None, *, to_build: bool = True) -> list[str]:
    """Return what this machine lacks, one reason each."""
    found = []
    if to_build:
        found += [f"no {program} on PATH" for program in ("cmake", "nvcc") if shutil.which(program) is None]
        if shutil.which("ninja") is None and shutil.which("make") is None:
            found.append("neither ninja nor make on PATH")
        modules = ["pybind11"] if json_include else ["pybind11", "nlohmann_json"]
        found += [
            f"no {name} in {sys.executable}" for name in modules if importlib.util.find_spec(name) is None
        ]
    try:
        import torch
    except ImportError:
        return [*found, f"no torch in {sys.executable}"]
    if not torch.cuda.is_available():
        found.append(f"torch {torch.__version__} sees no GPU")
    return found


# ---- build -------------------------------------------------------------------------------------------------
def build(folder: Path, json_include: str | None, log: Path, until: float) -> Row:
    """Build below `folder` and install into its `site`."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    # From sm_90 on, the code for this very GPU may use what later ones lack.
    architecture = f"{major}{minor}{'a' if major >= 9 else ''}-real"
    site, tree = folder / "site", str(folder / "build")
    configure = [
        "cmake", "-S", str(ROOT), "-B", tree, f"-DPython_EXECUTABLE={sys.executable}", "-DAFFEKT_ONE_ISA=ON",
        "-DAFFEKT_TORCH=ON", "-DAFFEKT_CUDA=ON", f"-DAFFEKT_CUDA_ARCHITECTURES={architecture}",
    ]  # fmt: skip
    if shutil.which("ninja"):
        configure += ["-G", "Ninja"]
    if json_include:
        configure.append(f"-DAFFEKT_JSON_INCLUDE={json_include}")
    shutil.rmtree(site, ignore_errors=True)
    without = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "python/affekt", site / "affekt", ignore=without)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as to:
        for command in (
            configure,
            ["cmake", "--build", tree, "--parallel", str(os.cpu_count() or 1)],
            ["cmake", "--install", tree, "--prefix", str(site)],
        ):
            try:
                left = max(1.0, until - time.monotonic())
                done = subprocess.run(command, stdout=to, stderr=subprocess.STDOUT, timeout=left)
            except subprocess.TimeoutExpired:
                return Row("build", architecture, f"not done in {left:.0f} s: {command[1]}", ok=False)
            if done.returncode:
                lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
                errors = [line for line in lines if "error" in line.lower()] or lines
                return Row("build", architecture, "; ".join(errors[:3])[:600], f"see {log.name}", ok=False)
    return Row("build", architecture, f"{time.monotonic() - start:.0f} s", ok=True)


# ---- processes ---------------------------------------------------------------------------------------------
def tell(**what: Any) -> None:
    print(MARK + json.dumps(what), flush=True)


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:400]


def usable(device: str) -> bool:
    """Whether the device still works; after an error inside a kernel nothing does, for the whole process."""
    import torch

    try:
        if device == "cuda":
            torch.ones(8, device=device).sum().item()
    except Exception:
        return False
    return True


def serve(group: str, device: str, small: bool, seed: int, first: int) -> None:
    """Run the cases of a group from number `first` on and tell what each gives."""
    import torch

    from affekt import ops

    ops.load_library()
    if device == "cuda" and not ops.cuda_available():
        raise SystemExit("the CUDA ops do not load, see the warning above")
    for number, case in enumerate(GROUPS[group](device, small)):
        if number < first:
            continue
        tell(begin=number, what=case.what, size=case.size)
        torch.manual_seed(seed + number)
        failed = False
        remarks.clear()
        try:
            found = case.run()
            if device == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            traceback.print_exc()
            failed, found = True, Row(case.what, case.size, first_line(error), ok=False)
        rows = found if isinstance(found, list) else [found]
        more = "".join(f"; {remark}" for remark in dict.fromkeys(remarks))
        tell(rows=[asdict(replace(row, beside=row.beside + more)) for row in rows])
        if failed and not usable(device):
            raise SystemExit(3)
        if failed and device == "cuda":
            torch.cuda.empty_cache()
    tell(end=True)


def command_of(group: str, site: Path, device: str, small: bool, seed: int, *more: str) -> list[str]:
    command = [sys.executable, __file__, "--group", group, "--site", str(site), "--device", device]
    return [*command, "--seed", str(seed), *(["--small"] if small else []), *more]


def lines_of(process: subprocess.Popen[str], patience: float, until: float) -> Iterator[str | None]:
    """Lines that a process prints; None at the end where it printed nothing for so long, or time is up."""
    assert process.stdout is not None
    held = ""
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not ready.select(max(0.0, min(patience, until - time.monotonic()))):
                yield None
                return
            came = os.read(process.stdout.fileno(), 1 << 16).decode(errors="replace")
            if not came:
                return
            *whole, held = (held + came).split("\n")
            yield from whole


def in_processes(group: str, command: list[str], log: Path, until: float) -> Iterator[Row]:
    """Rows of a group; `command` runs its cases from the one on that ``--first`` names."""
    following = 0
    while True:
        if time.monotonic() >= until:
            yield Row(group, f"from case {following} on", "not run: the time is up", ok=False)
            return
        now: dict[str, Any] | None = None
        began, ended, silent, known = following, False, False, time.monotonic()
        with log.open("a", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [*command, "--first", str(following)], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        try:
            for line in lines_of(process, CASE_SECONDS, until):
                if line is None:
                    silent = True
                    break
                if not line.startswith(MARK):
                    continue
                known, told = time.monotonic(), json.loads(line[len(MARK) :])
                if "begin" in told:
                    now, following = told, told["begin"] + 1
                elif "rows" in told:
                    now = None
                    yield from (Row(**row) for row in told["rows"])
                else:
                    ended = True
        finally:
            if silent:
                process.kill()
            code = process.wait()
            assert process.stdout is not None
            process.stdout.close()
        if ended:
            return
        last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1][:300]
        why = (
            f"not done in {time.monotonic() - known:.0f} s"
            if silent
            else f"the process ended with {code}: {last}"
        )
        if now is not None:
            yield Row(now["what"], now["size"], why, ok=False)
        elif following == began:
            yield Row(group, "", why, f"see {log.name}", ok=False)
            return


def sanitize(site: Path, device: str, seed: int, out: Path, until: float) -> Iterator[Row]:
    """Run the small checks under compute-sanitizer, several at a time."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        for tool in TOOLS:
            yield Row(f"compute-sanitizer {tool}", "small checks", "not run: not installed")
        return

    def one(tool: str, group: str) -> Row:
        what, log = f"compute-sanitizer {tool}", out / f"sanitize-{tool}-{group.replace(' ', '-')}.log"
        left = min(SANITIZER_SECONDS, until - time.monotonic())
        if left <= 1:
            return Row(what, group, "not run: the time is up", ok=False)
        command = [program, "--tool", tool, "--error-exitcode", "9"]
        command += command_of(group, site, device, True, seed, "--bare")
        # torch hands out pieces of large allocations, between which nothing is out of bounds.
        alone = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        with log.open("w", encoding="utf-8") as to:
            try:
                code = subprocess.run(
                    command, stdout=to, stderr=subprocess.STDOUT, env=alone, timeout=left
                ).returncode
            except subprocess.TimeoutExpired:
                return Row(what, group, f"not done in {left:.0f} s", ok=False)
        return Row(what, group, *sanitized(log.read_text(encoding="utf-8", errors="replace"), code))

    with ThreadPoolExecutor(4) as at_once:
        jobs = [(tool, group) for tool in TOOLS for group in SMALL_GROUPS]
        yield from at_once.map(lambda job: one(*job), jobs)


def sanitized(text: str, code: int) -> tuple[str, str, bool | None]:
    """What compute-sanitizer found, what it is about, and whether that is well."""
    lines = [line.strip("= ") for line in text.splitlines() if line.startswith("=========")]
    unfit = next((line for line in lines if "not supported" in line.lower()), None)
    if unfit is not None:
        return f"not run: {unfit}", "", None
    summary = next((line for line in reversed(lines) if "SUMMARY" in line), None)
    told = [json.loads(line[len(MARK) :]) for line in text.splitlines() if line.startswith(MARK)]
    if not any("end" in part for part in told):
        last = (text.strip().splitlines() or ["nothing"])[-1]
        return f"exit {code}, before the end of the checks: {last[:300]}", summary or "", False
    raised = [row for part in told for row in part.get("rows", ()) if row["ok"] is False]
    if raised:
        return f"{raised[0]['what']}: {raised[0]['found']}", summary or "", False
    if summary is None:
        return f"exit {code}, no summary", "", False
    of_ours = [line for line in lines if "affekt" in line]
    if code and not of_ours:  # torch's own kernels
        return summary, "in kernels of others, none of ours named", None
    return summary, of_ours[0][:200] if code else "", code == 0


# ---- checks ------------------------------------------------------------------------------------------------
def poison(device: str) -> None:
    """Leave NaN in memory that the next allocations of torch get."""
    import torch

    held = [torch.full((2**k,), torch.nan, device=device) for k in range(6, 23)]
    del held


def real(x: Any) -> Any:
    """Complex numbers as pairs."""
    import torch

    return torch.view_as_real(x) if x.is_complex() else x


def worst(ours: list[Any], theirs: list[Any], least: float = LEAST) -> float:
    """Return the largest error relative to the largest value of its tensor; NaN if either has one alone.

    Tensors with nothing above `least` count as if they had that.
    """
    import torch

    error = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = real(a).double().cpu(), real(b).double().cpu()
        if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
            return float("nan")
        apart = (a - b).abs().nan_to_num(0).max().item() if a.numel() else 0.0
        error = max(error, apart / max(b.abs().nan_to_num(0).max().item() if b.numel() else 0.0, least))
    return error


def judge(
    what: str,
    size: str,
    call: Callable[[], list[Any]],
    expected: Callable[[], list[Any]],
    bound: float,
    device: str,
    least: float = LEAST,
) -> Row:
    """Call twice over poisoned memory; compare with what is expected, and the two with each other."""
    import torch

    if bare:
        call()
        return Row(what, size, "ran")
    poison(device)
    ours = call()
    poison(device)
    again = call()
    same = all(
        torch.equal(real(a).nan_to_num(7), real(b).nan_to_num(7)) for a, b in zip(ours, again, strict=True)
    )
    error = worst(ours, expected(), least)
    found = f"error {error:.1e}" + ("" if same else ", another run differs")
    return Row(what, size, found, f"float64, {bound:.0e}", ok=error <= bound and same)


def with_gradients(loss: Callable[..., Any], inputs: list[Any]) -> Callable[[], list[Any]]:
    """Return a call of the loss and its gradients; all in the format of the inputs."""
    import torch

    def call() -> list[Any]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        value = loss(*leaves)
        return [value.detach(), *torch.autograd.grad(value.sum(), leaves)]

    return call


def check_ccc(device: str, small: bool) -> Iterator[Case]:
    import torch

    from affekt.ops import losses

    shapes = [(1, 1, 1), (1, 7, 1), (3, 50, 2), (33, 101, 3), (2, 41, 130), (4, 9, 1), (70, 30, 2)]
    if not small:
        shapes += [(1, 1_000_003, 1), (8, 40_000, 2), (3, 333, 1031), (5000, 12, 2)]

    def run(what: str, shape: tuple[int, ...], options: Any, dtype: Any, masked: bool) -> Row:
        pred, target = (torch.randn(shape, device=device, dtype=dtype) for _ in range(2))
        mask = torch.rand(shape, device=device) > 0.3 if masked else None
        expected = with_gradients(
            lambda p, y: losses.reference_ccc(p, y, mask, *options), [pred.double(), target.double()]
        )
        call = with_gradients(lambda p, y: losses.ccc(p, y, mask, *options), [pred, target])
        return judge(what, size_of(shape), call, expected, TOLERANCE[kind_of(dtype)], device)

    for number, shape in enumerate(shapes):
        options = (number % 2 == 1, number % 3, 1e-8, number % 4 == 2)  # pool, reduction, eps, mixed
        for dtype in (torch.float32, torch.float64):
            for masked in (False, True):
                what = f"CCC {kind_of(dtype)}{', masked' if masked else ''}"
                yield Case(
                    what,
                    size_of(shape),
                    lambda a=(what, shape, options, dtype, masked): run(*a),
                )


def format_of(kind: str) -> Any:
    """The dtype of a number format; tf32 is a way to multiply float32."""
    import torch

    return getattr(torch, "float32" if kind == "tf32" else kind)


class RoundingTo:
    """As a context: products of float32 may be rounded to tf32 where the format is that, and only there."""

    def __init__(self, kind: str) -> None:
        self.allowed = kind == "tf32"

    def __enter__(self) -> None:
        import torch

        self.switches = torch.backends.cuda.matmul, torch.backends.cudnn
        self.before = [switch.allow_tf32 for switch in self.switches]
        for switch in self.switches:
            switch.allow_tf32 = self.allowed

    def __exit__(self, *_: object) -> None:
        for switch, before in zip(self.switches, self.before, strict=True):
            switch.allow_tf32 = before


def check_contrast(device: str, small: bool) -> Iterator[Case]:
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

    def run(what: str, n: int, dim: int, extra: int, scale: float, given: dict[str, Any], kind: str) -> Row:
        dtype = format_of(kind)
        a, b = (torch.randn(n, dim, device=device).to(dtype) for _ in range(2))
        if dim == 1:  # away from 0, where the direction is all rounding
            a, b = a.sign() * (a.abs() + 0.5), b.sign() * (b.abs() + 0.5)
        more = torch.randn(extra, dim, device=device).to(dtype) if extra else None
        of_scale = torch.tensor(scale, device=device, dtype=torch.promote_types(dtype, torch.float32))
        options = dict(given)
        classes, budget = options.pop("labels", 0), options.pop("budget", 2**28)
        wide = [x.double() for x in (a, b, of_scale)]
        wide_more = None if more is None else more.double()
        if classes:
            labels = torch.randint(classes, (n,), device=device)
            expected = with_gradients(
                lambda z, s: losses.reference_sup_con(z, labels, wide_more, s), [wide[0], wide[2]]
            )
            call = with_gradients(
                lambda z, s: _contrast.sup_con(z, labels, s, negatives=more, budget=budget), [a, of_scale]
            )
        else:
            options = {"columns": True, "weight": 1 / n, "exclude": False, "shift": 0, **options}
            order = [options[k] for k in ("shift", "exclude", "columns", "weight")]
            expected = with_gradients(
                lambda a, b, s: losses.reference_info_nce(a, b, wide_more, s, *order), wide
            )
            call = with_gradients(
                lambda a, b, s: _contrast.info_nce(a, b, s, negatives=more, budget=budget, **options),
                [a, b, of_scale],
            )
        # One feature or one row has gradients of 0, which no relative error measures.
        least = 1.0 if n == 1 or dim == 1 else LEAST
        with RoundingTo(kind):
            return judge(what, f"{n}x{dim}", call, expected, TOLERANCE[kind], device, least)

    for name, n, dim, *rest in cases:
        for kind in formats:
            what = f"{name}, {kind}"
            yield Case(what, f"{n}x{dim}", lambda a=(what, n, dim, *rest, kind): run(*a))


def check_gathered(device: str, small: bool) -> Iterator[Case]:
    """Check the losses over a process group: one process of it, with every step of many."""
    import torch
    from torch import distributed as dist

    from affekt import losses

    if bare:  # nothing of ours but plain torch
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    n, dim = (40, 9) if small else (1500, 96)

    def run(what: str, kind: str, gather: str, of: str) -> Row:
        a, b = (torch.randn(n, dim, device=device).to(format_of(kind)) for _ in range(2))
        labels = torch.randint(n // 4, (n,), device=device)

        def loss(a: Any, b: Any, **options: Any) -> Any:
            if of == "SupCon":
                return losses.sup_con_loss(a, labels, **options) + 0 * b.sum()
            return losses.info_nce_loss(a, b, **options)

        expected = with_gradients(loss, [a.double(), b.double()])
        call = with_gradients(lambda a, b: loss(a, b, gather=gather), [a, b])
        # Sums are in float32 for every format, and gradients are rounded once, to that of their rows.
        bound = {"bfloat16": 2**-8, "float16": 2**-10}.get(kind, TOLERANCE[kind])
        return judge(what, f"{n}x{dim}", call, expected, bound, device)

    for of in ("InfoNCE", "SupCon"):
        for gather in ("all", "ring"):
            for kind in ("float32", "float64", "bfloat16", "float16"):
                what = f"{of} gathered, {gather}, {kind}"
                yield Case(what, f"{n}x{dim}", lambda a=(what, kind, gather, of): run(*a))


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


def check_front_ends(device: str, small: bool) -> Iterator[Case]:
    import torch

    from affekt import _core, ops
    from affekt.ops import acoustic, bandpower

    references = acoustic.REFERENCES | bandpower.REFERENCES
    # The references hold every segment of Welch spectra in float64, some of them forwards and back.
    shapes = [(1, 1), (3, 5001)] + ([] if small else [(2, 3, 44_100), (6, 160_000)])

    def run(what: str, front_end: Any, op: str, options: str, shape: tuple[int, ...], dtype: Any) -> Row:
        x = 0.1 * torch.randn(shape, device=device, dtype=dtype)
        if shape[-1] == 1:  # a line spectrum, beside which rounding shows: lengths alone count
            x.zero_()
        if bare:  # gradients run in plain torch
            call: Callable[[], list[Any]] = lambda: [real_rows(front_end(x))]  # noqa: E731
        else:
            call = with_gradients(lambda x: real_rows(front_end(x)), [x])
        expected = with_gradients(lambda x: real_rows(references[op](x, options)), [x.double()])
        return judge(what, size_of(shape), call, expected, TOLERANCE[kind_of(dtype)], device)

    for name, front_end in front_ends():
        op, options = op_of(front_end), json.dumps(front_end.options)
        takes = Row(name, "", "has kernels", _core.gpu_unfit(op, options), ok=ops.on_cuda(op, options))
        yield Case(name, "", lambda takes=takes: takes)
        for shape in shapes:
            if op == "welch" and shape[-1] < front_end.options["n_per_seg"]:
                continue
            for dtype in (torch.float32, torch.float64):
                what = f"{name}, {kind_of(dtype)}"
                given = (what, front_end, op, options, shape, dtype)
                yield Case(what, size_of(shape), lambda a=given: run(*a))


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


def check_tcn(device: str, small: bool) -> Iterator[Case]:
    """Check the TCN's residual block against plain convolutions, dropping what the CPU drops."""
    import torch

    from affekt.ops import tcn

    shapes = [(2, 37, 5, 7, 3), (3, 130, 16, 16, 3), (1, 1, 1, 1, 1), (2, 300, 33, 140, 2), (0, 7, 4, 6, 3)]
    if not small:
        shapes += [(32, 300, 192, 128, 5), (1, 40_000, 64, 64, 3)]

    def run(what: str, shape: tuple[int, ...], kind: str, dropout: float) -> Row:
        inputs = tcn_arguments(shape, device, format_of(kind))
        none = [None] * (7 - len(inputs))
        keys = torch.tensor([3, 4])
        # tf32 rounds what the second convolution takes, which only without a rectifier stays small.
        options = (4, 1.0 if kind == "tf32" else 0.25, dropout)

        def expected() -> list[Any]:
            wide = [x.double() for x in inputs]
            _, *dropped = torch.ops.affekt._tcn_block(*(x.cpu() for x in wide), *none, keys, *options, False)
            masks = [h.to(device) for h in dropped]
            return with_gradients(lambda *given: tcn._reference(masks, options, *given, *none), wide)()

        on_device = keys.to(device)
        call = with_gradients(
            lambda *given: tcn.block(*given, *none, on_device, *options, tcn.may_round(given[0])), inputs
        )
        with RoundingTo(kind):
            return judge(what, size_of(shape), call, expected, TOLERANCE[kind], device)

    for shape in shapes:
        for kind in ["float32", "float64"] + (["tf32"] if device != "cpu" else []):
            for dropout in (0.0, 0.5):
                what = f"TCN block, {kind}{', dropout' if dropout else ''}"
                yield Case(what, size_of(shape), lambda a=(what, shape, kind, dropout): run(*a))


def check_cupy(device: str, small: bool) -> Iterator[Case]:
    """Check the kernels that CuPy compiles against the ops of torch."""
    import torch

    if device == "cpu" or importlib.util.find_spec("cupy") is None:
        reason = "no GPU" if device == "cpu" else "not installed"
        yield Case("CuPy", "", lambda: Row("CuPy", "", f"not run: {reason}"))
        return
    import cupy as cp

    from affekt import cupy as on_gpu
    from affekt.losses import ccc_loss, info_nce_loss, sup_con_loss

    def torch_of(call: Callable[[], Any]) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            found = call()
            cp.cuda.get_current_stream().synchronize()
            arrays = found if isinstance(found, tuple) else (found,)
            return [torch.from_dlpack(array) for array in arrays]

        return run

    def features(what: str, front_end: Any) -> Row:
        x = 0.1 * torch.randn(3, 5001, device=device)

        def expected() -> list[Any]:
            given = front_end(x)
            return list(given) if isinstance(given, tuple) else [given]

        call = torch_of(lambda: on_gpu.features(front_end, x))
        return judge(what, "3x5001", call, expected, 1e-5, device)

    def ccc(what: str) -> Row:
        p, y = (torch.randn(33, 101, 3, device=device) for _ in range(2))
        call = torch_of(lambda: on_gpu.ccc_loss(p, y, gradients=True))
        return judge(what, "33x101x3", call, with_gradients(ccc_loss, [p, y]), 1e-5, device)

    def contrast(what: str, kind: str, of: str) -> Row:
        a, b = (torch.randn(300, 40, device=device).to(format_of(kind)) for _ in range(2))
        labels = torch.randint(40, (300,), device=device)
        if of == "InfoNCE":
            call = torch_of(lambda: on_gpu.info_nce_loss(a, b, gradients=True)[:3])
            expected = with_gradients(info_nce_loss, [a.double(), b.double()])
        else:
            call = torch_of(lambda: on_gpu.sup_con_loss(a, labels, gradients=True)[:2])
            expected = with_gradients(lambda z: sup_con_loss(z, labels), [a.double()])
        return judge(what, "300x40", call, expected, TOLERANCE[kind], device)

    for name, front_end in front_ends():
        what = f"CuPy: {name}"
        yield Case(what, "3x5001", lambda a=(what, front_end): features(*a))
    yield Case("CuPy: CCC", "33x101x3", lambda: ccc("CuPy: CCC"))
    for kind in ("float32", "float64", "float16"):
        for of in ("InfoNCE", "SupCon"):
            what = f"CuPy: {of}, {kind}"
            yield Case(what, "300x40", lambda a=(what, kind, of): contrast(*a))


# ---- times -------------------------------------------------------------------------------------------------
def seconds(calls: Sequence[Callable[[], Any]], device: str) -> float:
    """Return the median time of a call on the device; `calls` do the same on inputs of their own."""
    import torch

    if device == "cpu":
        found = []
        for call in calls:
            start = time.perf_counter()
            call()
            found.append(time.perf_counter() - start)
        return statistics.median(found)

    def took(work: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def all_of(rounds: int) -> None:
        for _ in range(rounds):
            for call in calls:
                call()

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            calls[0]()
        first = took(calls[0])
    torch.cuda.current_stream().wait_stream(aside)
    if first > 5e-3:  # launches take no part in it
        calls = calls[: max(1, int(0.5 / first))]
        return statistics.median(took(lambda: all_of(1)) / len(calls) for _ in range(7))
    rounds = max(1, math.ceil(0.01 / (first * len(calls))))
    torch.cuda.empty_cache()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            all_of(rounds)
        graph.replay()
        again = graph.replay
    except RuntimeError as error:
        remarks.append(f"launches by the host are in it: no graph, {first_line(error)}")

        def again() -> None:
            all_of(rounds)

    return statistics.median(took(again) for _ in range(9)) / (rounds * len(calls))


def sets_for(nbytes: int, device: str) -> int:
    """How many inputs of so many bytes together exceed the L2 cache; at most 32."""
    import torch

    if device == "cpu":
        return 2
    cached = int(torch.cuda.get_device_properties(0).L2_cache_size)
    return min(32, max(1, math.ceil(3 * cached / max(nbytes, 1))))


def timed(make: Callable[[], Callable[[], Any]], nbytes: int, device: str) -> float:
    """Return the time of a call that make() gives, over as many of them as exceed the cache."""
    return seconds([make() for _ in range(sets_for(nbytes, device))], device)


def extra_memory(call: Callable[[], list[Any]], device: str) -> int:
    """Return the bytes that a call takes at its peak beyond its inputs and its results."""
    import torch

    if device == "cpu":
        return 0
    call()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = call()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated()) - before - sum(x.nbytes for x in results)


def launches(call: Callable[[], Any], device: str) -> int | None:
    """Return how many kernels a call starts; None where the profiler sees none."""
    import torch

    if device == "cpu":
        return None
    call()
    torch.cuda.synchronize()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            call()
            torch.cuda.synchronize()
        names = [e.name for e in seen.events() if str(e.device_type).endswith("CUDA")]
    except Exception:
        return None
    return len([name for name in names if "Memset" not in name and "Memcpy" not in name]) or None


@cache
def copy_rate(nbytes: int, device: str) -> float:
    """Bytes read and written per second by a copy that moves so many in all."""
    import torch

    def make() -> Callable[[], Any]:
        source = torch.randn(nbytes // 8, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return nbytes / timed(make, nbytes, device)


@cache
def product_rate(kind: str, device: str, size: int) -> float:
    """Operations per second of torch's own matrix product."""
    import torch

    x, y = (torch.randn(size, size, device=device).to(format_of(kind)) for _ in range(2))
    with RoundingTo(kind):
        return 2 * size**3 / seconds([lambda: x @ y], device)


def time_ceilings(device: str, small: bool) -> Iterator[Case]:
    def copy(nbytes: int) -> Row:
        return Row("copy", f"{nbytes >> 20} MiB moved", f"{copy_rate(nbytes, device) / 1e12:.2f} TB/s")

    def product(kind: str, size: int) -> Row:
        rate = product_rate(kind, device, size)
        return Row(f"torch matrix product, {kind}", f"{size}^3", f"{rate / 1e12:.0f} TFLOP/s")

    for nbytes in (2**20,) if small else (2**27, 2**31):
        yield Case("copy", "", lambda nbytes=nbytes: copy(nbytes))
    size = 64 if small else 8192
    for kind in ("bfloat16", "float16", "tf32", "float32"):
        yield Case(f"torch matrix product, {kind}", "", lambda kind=kind: product(kind, size))


def time_ccc(device: str, small: bool) -> Iterator[Case]:
    import torch

    from affekt.ops import losses

    options = (True, 0, 1e-8, False)

    def run(shape: tuple[int, ...]) -> list[Row]:
        each = 4 * math.prod(shape)
        big = math.prod(shape) >= 2**24

        def pair() -> list[Any]:
            return [torch.randn(shape, device=device) for _ in range(2)]

        def forward() -> Callable[[], Any]:
            p, y = pair()
            return lambda: torch.ops.affekt._ccc_fwd(p, y, None, *options)

        def backward() -> Callable[[], Any]:
            p, y = pair()
            loss, columns = torch.ops.affekt._ccc_fwd(p, y, None, *options)
            grad = torch.ones_like(loss)
            return lambda: torch.ops.affekt._ccc_bwd(grad, p, y, None, columns, True, True, True)

        rows = []
        # One read of both forward; one read and one write of both back.
        for what, make, passes in (("forward", forward, 2), ("backward", backward, 4)):
            took = timed(make, passes * each, device)
            share = passes * each / took / copy_rate(passes * each, device)
            rows.append(
                Row(
                    f"CCC {what}",
                    size_of(shape),
                    f"{took * 1e6:.1f} us, {passes * each / took / 1e12:.2f} TB/s",
                    f"{share:.0%} of a copy of these bytes" + (", floor 85 %" if big else ""),
                    share >= 0.85 if big else None,
                )
            )
        count, most = launches(forward(), device), 2 if big else 1
        judged = None if count is None or not (big or math.prod(shape) <= 2**14) else count <= most
        found = "not counted: the profiler sees none" if count is None else f"{count} launches"
        rows.append(Row("CCC forward", size_of(shape), found, f"at most {most}", judged))
        ours, eager = (
            timed(
                lambda loss=loss: with_gradients(lambda p, y: loss(p, y, None, *options), pair()),
                4 * each,
                device,
            )
            for loss in (losses.ccc, losses.reference_ccc)
        )
        rows.append(
            Row(
                "CCC with gradients",
                size_of(shape),
                f"{ours * 1e6:.1f} us",
                f"eager {eager / ours:.1f} x ours",
            )
        )
        return rows

    for shape in ((4, 20, 2),) if small else ((32, 100, 2), (64, 1000, 2), (1, 2**20, 2), (1, 2**24, 1)):
        yield Case("CCC", size_of(shape), lambda shape=shape: run(shape))


def time_front_ends(device: str, small: bool) -> Iterator[Case]:
    """Time front ends beside torch.stft with the same window, filters and logarithm, or plain torch."""
    import torch

    from affekt import _core
    from affekt.features import BandPower, LogMel, PowerSpectrogram, Welch
    from affekt.ops import bandpower

    framing = {"sample_rate": 16000, "n_fft": 512, "win_length": 400, "hop_length": 160}
    log_mel, spectrogram, welch = LogMel(**framing), PowerSpectrogram(**framing), Welch(sample_rate=16000)
    plan = _core.FrontEnd(json.dumps(log_mel.options))
    window, filters = (torch.from_numpy(x).to(device, torch.float32) for x in (plan.window, plan.mel_filters))
    bands, long_bands = BandPower(sample_rate=256), json.dumps(BandPower(sample_rate=256).options)

    def power(x: Any) -> Any:
        spectrum = torch.stft(x, 512, 160, 400, window, center=False, return_complex=True)
        return spectrum.real.square() + spectrum.imag.square()

    known: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "log-mel": (log_mel, lambda x: (10 * (filters @ power(x)).clamp(min=1e-10).log10()).mT),
        "power spectrogram": (spectrogram, lambda x: power(x).mT),
        "Welch": (welch, lambda x: bandpower.REFERENCES["welch"](x, json.dumps(welch.options))),
        "band power": (
            lambda x: bands(x)[0],
            lambda x: bandpower.REFERENCES["band_power"](x, long_bands)[0],
        ),
    }

    def run(what: str, shape: tuple[int, ...], size: str, floor: float | None) -> Row:
        ours, theirs = known[what]

        def on_fresh(of: Callable[[Any], Any]) -> Callable[[], Callable[[], Any]]:
            def make() -> Callable[[], Any]:
                x = 0.1 * torch.randn(shape, device=device)
                return lambda: of(x)

            return make

        x = 0.1 * torch.randn(shape, device=device)
        out = ours(x)
        error = worst([out], [theirs(x)])
        took, other = (timed(on_fresh(of), x.nbytes + out.nbytes, device) for of in (ours, theirs))
        found = (
            f"{took * 1e6:.1f} us, {(x.nbytes + out.nbytes) / took / 1e12:.2f} TB/s, {error:.0e} from torch"
        )
        beside = f"plain torch {other / took:.1f} x ours" + ("" if floor is None else f", floor {floor:g}")
        return Row(
            what, size, found, beside, None if floor is None else other / took >= floor and error < 1e-3
        )

    for what in ("log-mel", "power spectrogram", "Welch"):
        for batch, length in ((1, 1),) if small else ((1, 10), (64, 10)):
            size = f"{batch}x{length} s"
            floor = 3.0 if batch == 64 and what != "power spectrogram" else None
            given = (what, (batch, 16000 * length), size, floor)
            yield Case(what, size, lambda a=given: run(*a))
    channels, minutes = (2, 1) if small else (64, 10)
    size = f"{channels}x{minutes} min"
    yield Case("band power", size, lambda: run("band power", (channels, 256 * 60 * minutes), size, None))


def time_tcn(device: str, small: bool) -> Iterator[Case]:
    """Time a block of the TCN with gradients and dropout beside torch's convolutions, in float32 and tf32."""
    import torch
    from torch.nn import functional

    from affekt.ops import tcn

    def run(shape: tuple[int, ...], kind: str) -> Row:
        batch, steps, width, out, taps = shape
        keys, dilation = torch.tensor([3, 4], device=device), 4

        def plain(x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any = None, b3: Any = None) -> Any:
            def conv(x: Any, weight: Any, bias: Any) -> Any:
                x = functional.pad(x, ((taps - 1) * dilation, 0))
                z = functional.leaky_relu(functional.conv1d(x, weight, bias, dilation=dilation), 0.01)
                return functional.dropout(z, 0.1)

            x = x.mT
            aside = x if w3 is None else functional.conv1d(x, w3, b3)
            return functional.leaky_relu(conv(conv(x, w1, b1), w2, b2) + aside, 0.01).mT

        def ours(*given: Any) -> Any:
            none = [None] * (7 - len(given))
            return tcn.block(*given, *none, keys, dilation, 0.01, 0.1, tcn.may_round(given[0]))

        aside = out * width if width != out else 0
        work = (
            6 * batch * steps * ((width + out) * out * taps + aside)
        )  # two passes back for each one forward
        nbytes = 4 * batch * steps * (width + out)
        with RoundingTo(kind):
            took, other = (
                timed(
                    lambda of=of: with_gradients(of, tcn_arguments(shape, device, torch.float32)),
                    nbytes,
                    device,
                )
                for of in (ours, plain)
            )
        found = f"{took * 1e6:.0f} us, {work / took / 1e12:.1f} TFLOP/s"
        what = f"TCN block with gradients, {kind}"
        return Row(what, size_of(shape), found, f"plain torch {other / took:.1f} x ours")

    shapes = ((32, 300, 128, 128, 5), (32, 300, 192, 128, 5), (64, 1000, 64, 64, 3))
    for shape in ((2, 20, 4, 4, 3),) if small else shapes:
        for kind in ("float32", "tf32"):
            what = f"TCN block with gradients, {kind}"
            yield Case(what, size_of(shape), lambda a=(shape, kind): run(*a))


def time_info_nce(device: str, small: bool) -> Iterator[Case]:
    """Time InfoNCE with its gradients beside open_clip's two cross entropies."""
    import torch
    from torch.nn.functional import cross_entropy, normalize

    from affekt.losses import info_nce_loss

    def open_clip(a: Any, b: Any) -> Any:
        logits = normalize(a, dim=1) @ normalize(b, dim=1).T / 0.07
        at = torch.arange(len(a), device=a.device)
        return (cross_entropy(logits, at) + cross_entropy(logits.T, at)) / 2

    def run(kind: str, n: int, dim: int) -> list[Row]:
        what, size = f"InfoNCE with gradients, {kind}", f"{n}x{dim}"
        halves, large = kind in ("bfloat16", "float16"), n >= 8192

        def inputs() -> list[Any]:
            return [torch.randn(n, dim, device=device).to(format_of(kind)) for _ in range(2)]

        with RoundingTo(kind):
            call = with_gradients(lambda a, b: info_nce_loss(a, b), inputs())
            memory = extra_memory(call, device)
            each = n * dim * (2 if halves else 4)
            took = timed(lambda: with_gradients(lambda a, b: info_nce_loss(a, b), inputs()), 2 * each, device)
            finite = all(bool(x.isfinite().all()) for x in call())
            rate = 8 * n * n * dim / took
            share = rate / product_rate(kind, device, 64 if small else 8192)
            judged = large and kind == "bfloat16"
            rows = [
                Row(
                    what,
                    size,
                    f"{took * 1e3:.3f} ms, {rate / 1e12:.0f} TFLOP/s{'' if finite else ', not finite'}",
                    f"{share:.0%} of torch's product" + (", aim 350 TFLOP/s" if judged else ""),
                    finite and (rate >= 350e12 if judged else True),
                ),
                Row(
                    what,
                    size,
                    f"{memory / 2**20:.0f} MiB more memory, {memory / (n * dim * 4):.2f} N D of float32",
                    "at most 4 N D of float32 and 512 bytes a row" if judged else "",
                    memory <= 16 * n * dim + 512 * n if judged else None,
                ),
            ]
            del call
            try:
                other = timed(lambda: with_gradients(open_clip, inputs()), 2 * each, device)
                beside = f"{other / took:.2f} x ours" + (", floor 1.5" if judged else "")
                fast = other / took >= 1.5 if judged else None
            except torch.cuda.OutOfMemoryError:
                beside, fast = "out of memory", None
            rows.append(Row(what, size, "beside eager", beside, fast))
        return rows

    sizes = [
        ("bfloat16", 1024, 256), ("bfloat16", 8192, 512), ("bfloat16", 8192, 768), ("bfloat16", 32768, 512),
        ("float16", 8192, 512), ("tf32", 8192, 512), ("float32", 8192, 512), ("bfloat16", 131072, 512),
    ]  # fmt: skip
    if small:
        sizes = [("float32", 16, 8)]
    for kind, n, dim in sizes:
        yield Case(f"InfoNCE with gradients, {kind}", f"{n}x{dim}", lambda a=(kind, n, dim): run(*a))


CHECKS: dict[str, Callable[[str, bool], Iterator[Case]]] = {
    "ccc": check_ccc,
    "contrast": check_contrast,
    "front ends": check_front_ends,
    "tcn": check_tcn,
    "gathered": check_gathered,
    "cupy": check_cupy,
}
TIMES: dict[str, Callable[[str, bool], Iterator[Case]]] = {
    "time of ceilings": time_ceilings,
    "time of ccc": time_ccc,
    "time of info_nce": time_info_nce,
    "time of front ends": time_front_ends,
    "time of tcn": time_tcn,
}
GROUPS = CHECKS | TIMES
SMALL_GROUPS = ("ccc", "contrast", "front ends", "tcn")


# ---- all of it ---------------------------------------------------------------------------------------------
def everything(options: argparse.Namespace, site: Path, until: float) -> Iterator[Row]:
    """The rows of the steps that were asked for, as they come."""
    for step in options.only:
        if step == "build":
            row = build(options.build, options.json_include, options.out / "build.log", until)
            yield row
            if row.ok is False:
                return
        elif step == "sanitize":
            yield from sanitize(site, options.device, options.seed, options.out, until)
        else:
            for group in CHECKS if step == "checks" else TIMES:
                command = command_of(group, site, options.device, options.small, options.seed)
                log = options.out / f"{group.replace(' ', '-')}.log"
                log.unlink(missing_ok=True)
                yield from in_processes(group, command, log, until)


def steps_of(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := [step for step in asked if step not in STEPS]:
        raise argparse.ArgumentTypeError(f"expected some of {','.join(STEPS)}, got {','.join(unknown)}")
    return [step for step in STEPS if step in asked]


def main(arguments: list[str] | None = None) -> int:
    """Run everything; see the text above."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--build", type=Path, default=ROOT / "build/gpu", help="where to build")
    parser.add_argument("--json-include", help="folder of nlohmann-json's headers")
    parser.add_argument("--only", type=steps_of, default=list(STEPS), help=f"some of {','.join(STEPS)}")
    parser.add_argument("--seconds", type=float, default=3600, help="that the whole call may take")
    parser.add_argument("--out", type=Path, help="folder of the table and the logs, else --build")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the random inputs")
    parser.add_argument("--site", type=Path, help="a finished build: what goes on the path of Python")
    parser.add_argument("--device", default="cuda", help="cpu rehearses checks and times, without CUDA")
    parser.add_argument("--small", action="store_true", help="small sizes alone")
    inner = parser.add_argument_group("of the processes that this one starts")
    inner.add_argument("--group", choices=GROUPS)
    inner.add_argument("--first", type=int, default=0)
    inner.add_argument("--bare", action="store_true")
    options = parser.parse_args(arguments)
    if options.group:
        global bare
        bare = options.bare
        sys.path.insert(0, str(options.site))
        serve(options.group, options.device, options.small, options.seed, options.first)
        return 0
    until = time.monotonic() + options.seconds
    if options.site:
        options.only = [step for step in options.only if step != "build"]
    if options.device == "cuda":
        reasons = missing(options.json_include, to_build="build" in options.only)
        if reasons:
            print(f"gpu_check: cannot run here: {'; '.join(reasons)}", file=sys.stderr)
            return 2
    import torch

    options.out = options.out or options.build
    options.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if options.device == "cuda" else options.device
    title = head(f"{name}, torch {torch.__version__}, {'+'.join(options.only)}, seed {options.seed}")
    failed = []
    with (options.out / "gpu_check.md").open("a", encoding="utf-8") as page:
        print(f"\n{title}", file=page, flush=True)
        print(title, flush=True)
        for row in everything(options, (options.site or options.build / "site").resolve(), until):
            print(row.markdown(), flush=True)
            print(row.markdown(), file=page, flush=True)
            if row.ok is False:
                failed.append(row)
    for row in failed:
        print(f"does not hold: {row.what} {row.size}: {row.found}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
