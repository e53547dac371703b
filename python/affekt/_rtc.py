"""The source of the CUDA kernels for compilers at run time (NVRTC); the package carries it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from affekt import _core
from affekt.errors import AffektError

__all__ = ["folder", "options", "program"]

_FILES = ("causal_conv.cuh", "ccc.cuh", "contrast.cuh", "spectra.cuh")


def folder() -> Path:
    """Where the device code lies."""
    path = Path(_core.__file__).with_name("kernels")
    if not all((path / name).is_file() for name in _FILES):
        raise AffektError(f"this build of affekt lacks its device code: expected it in {path}")
    return path


@cache
def _digest() -> str:
    """What is in the files: who keeps binaries looks at the text of a program, not at what it includes."""
    found = hashlib.sha256()
    for path in sorted([*folder().glob("*.cuh"), folder() / "types.hpp"]):
        found.update(path.read_bytes())
    return found.hexdigest()


def program(*kernels: tuple[str, int]) -> tuple[str, tuple[str, ...]]:
    """Return the source text for kernels, and the name expression of each.

    A kernel is a type, as the core spells it, and the size in bytes of its one argument, which the core lays
    out: a compiler that would read it otherwise must not get through.
    """
    lines = [f"// {_digest()}", *(f'#include "{name}"' for name in _FILES)]
    lines.append("namespace affekt::gpu {")
    for i, (kernel, size) in enumerate(kernels):
        lines.append(f"using Chosen{i} = {kernel};")
        lines.append(f'static_assert(sizeof(Chosen{i}) == {size}, "host and device disagree");')
    lines.append("}")
    names = tuple(f"affekt::gpu::entry<affekt::gpu::Chosen{i}>" for i in range(len(kernels)))
    return "\n".join(lines) + "\n", names


def options() -> tuple[str, ...]:
    """Return the options of the compiler: those of the kernels that are built ahead of time.

    CuPy adds ``-ftz=true``: denormals of float32 are 0 there.
    """
    # No contraction, as everywhere: a fused multiply-add is where the source says so.
    return ("-std=c++20", "-fmad=false", "-default-device", f"-I{folder()}")
