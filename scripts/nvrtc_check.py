"""Compile every kernel that affekt.cupy can start with NVRTC, as CuPy does at run time; no GPU is needed.

``python scripts/nvrtc_check.py LIBNVRTC [ARCHITECTURE ...]`` takes the path of libnvrtc.so and, by default,
sm_80 and sm_90. Kernels, and the sizes of their arguments, are those that the launchers of the core write
down.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affekt import _core, _rtc

# Addresses are only written down; their low bits decide how wide the kernels read.
ALIGNED, ODD = 1 << 20, (1 << 20) + 8


def launches() -> Iterator[Any]:
    """Yield launches of every kernel."""
    for in_double in (False, True):
        for power in range(6, 13):
            options = json.dumps({"n_fft": 2**power, "n_mels": 16, "win_length": 2**power})
            plan = _core.GpuFrames(options, True)
            for whole in (False, True):
                yield from plan.launches(
                    in_double=in_double, tables=ALIGNED, x=ALIGNED, signals=2, samples=16000, out=ALIGNED,
                    complex=whole,
                )  # fmt: skip
            segment = 2**power / 256
            lengths = {"window": 2 * segment, "hop": segment, "segment": segment}
            bands = _core.GpuBands(json.dumps({**lengths, "bands": [["all", 0, 128]]}))
            yield from bands.launches(
                in_double=in_double, tables=ALIGNED, x=ALIGNED, recordings=1, channels=2,
                samples=8 * 2**power, power=ALIGNED, valid=ALIGNED, workspace=ALIGNED,
            )  # fmt: skip
            welch = _core.GpuWelch(json.dumps({"n_per_seg": 2**power}))
            yield from welch.launches(
                in_double=in_double, tables=ALIGNED, x=ALIGNED, signals=2, samples=200 * 2**power,
                out=ALIGNED, used=0, workspace=ALIGNED,
            )  # fmt: skip
        for tf32 in (False, True):
            block: dict[str, Any] = {
                "sizes": (2, 100, 8, 16, 3, 2), "weights": [ALIGNED] * 6, "slope": 0.01, "dropout": 0.1,
                "in_double": in_double, "tf32": tf32, "x": ALIGNED, "outputs": [ALIGNED] * 3,
                "workspace": ALIGNED,
            }  # fmt: skip
            yield from _core.gpu_tcn_block(**block, keys=ALIGNED)[1]
            yield from _core.gpu_tcn_block_gradient(**block, grad=ALIGNED, gradients=[ALIGNED] * 7)[1]
        for shape in ((2, 100, 2), (3, 100_000, 1)):
            for at in (ALIGNED, ODD):
                data = {"in_double": in_double, "pred": at, "target": at, "mask": 0, "columns": ALIGNED}
                yield from _core.gpu_ccc(
                    *shape, **data, eps=0.0, mixed=False, reduction=0, loss=ALIGNED, workspace=ALIGNED
                )
                yield from _core.gpu_ccc_gradient(
                    *shape, **data, upstream=ALIGNED, one_upstream=True, grad_pred=at, grad_target=at
                )
    for number, tf32 in (
        ("float32", False), ("float32", True), ("float64", False), ("float16", False), ("bfloat16", False),
    ):  # fmt: skip
        for labels in (0, ALIGNED):
            _, found = _core.gpu_contrast(
                number=number, tf32=tf32, rows=300, dim=40, extra=0, a=ALIGNED, b=ALIGNED, negatives=0,
                labels=labels, scale=ALIGNED, shift=0, exclude=False, columns=not labels, weight=1.0,
                budget=0, loss=ALIGNED, grad_a=ALIGNED, grad_b=ALIGNED, grad_scale=ALIGNED, workspace=ALIGNED,
            )  # fmt: skip
            yield from found


def kernels() -> list[tuple[str, int]]:
    """Return all kernels with the sizes of their arguments."""
    return sorted({(name, len(argument)) for name, _, _, _, argument in launches()})


def compiled(library: Any, architecture: str, chosen: list[tuple[str, int]]) -> str:
    """Return the log of the compiler where it fails, else nothing."""
    code, names = _rtc.program(*chosen)
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None)
    for name in names:
        library.nvrtcAddNameExpression(program, name.encode())
    options = [text.encode() for text in (*_rtc.options(), f"-arch={architecture}")]
    failed = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    if failed:
        return log.value.decode()
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    return "" if size.value > 1 else "no code came out"


def main(arguments: list[str]) -> int:
    """Compile for each architecture; 1 if one fails."""
    # The compiler looks its builtins up by name: found if they are loaded already.
    for beside in Path(arguments[0]).resolve().parent.glob("libnvrtc-builtins.so*"):
        ctypes.CDLL(str(beside))
    library = ctypes.CDLL(arguments[0])
    chosen, failed = kernels(), False
    for architecture in arguments[1:] or ["sm_80", "sm_90"]:
        began = time.monotonic()
        problem = compiled(library, architecture, chosen)
        failed = failed or bool(problem)
        print(
            f"NVRTC, {architecture}: {problem or f'{len(chosen)} kernels'}, {time.monotonic() - began:.0f} s"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
