"""Check what a wheel carries: `python scripts/check_wheel.py WHEEL [--ops] [--weights]`.

Everything a user needs and nothing else: the package with its stub and marker, one core library without debug
symbols, the headers, the CMake package, the licences; the torch op library and the trained models exactly
when they were asked for.
"""

from __future__ import annotations

import argparse
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(names: set[str], *, ops: bool, weights: bool) -> list[str]:
    """Return what is missing or too much among the file names of a wheel."""
    needed = {
        f"affekt/{p.relative_to(ROOT / 'python/affekt')}" for p in (ROOT / "python/affekt").rglob("*.py")
    }
    needed |= {
        f"affekt/include/{p.relative_to(ROOT / 'cpp/include')}" for p in (ROOT / "cpp/include").rglob("*.h*")
    }
    needed |= {f"affekt/kernels/{p.name}" for p in (ROOT / "kernels").glob("*.cuh")}
    needed |= {
        f"affekt/{name}"
        for name in ("kernels/types.hpp", "_core.pyi", "py.typed", "libaffekt.so", "weights/LICENSE")
    }
    needed |= {f"affekt/cmake/affekt{part}.cmake" for part in ("Config", "ConfigVersion", "Targets")}
    needed |= {"affekt/cmake/affektTargets-release.cmake", "affekt/pkgconfig/affekt.pc"}
    found = [f"missing: {name}" for name in sorted(needed - names)]
    for pattern, expected in (
        (r"affekt/_core\..*\.so", True),
        (r"affekt/libaffekt_ops\.so", ops),
        (r"affekt/weights/.*\.safetensors", weights),
        (r"affekt/training/configs/.*\.yaml", True),
        (r"affekt-.*\.dist-info/licenses/LICENSE", True),
    ):
        if any(re.fullmatch(pattern, name) for name in names) != expected:
            found.append(f"{'missing' if expected else 'too much'}: {pattern}")
    stray = [name for name in names if not name.startswith(("affekt/", "affekt-")) or "__pycache__" in name]
    stray += [name for name in names if name.endswith((".cpp", ".o", ".a")) or "/tests/" in name]
    stray += [name for name in names if name.endswith(".cmake") and not name.startswith("affekt/cmake/")]
    return found + [f"too much: {name}" for name in sorted(stray)]


def main() -> int:
    """Print the problems, or the size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--ops", action="store_true", help="built with AFFEKT_TORCH=ON")
    parser.add_argument("--weights", action="store_true", help="built with the trained models")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as file:
        names = {name for name in file.namelist() if not name.endswith("/")}
        core = file.read("affekt/libaffekt.so") if "affekt/libaffekt.so" in names else b""
    found = problems(names, ops=options.ops, weights=options.weights)
    if b"\0.symtab\0" in core:
        found.append("not stripped: affekt/libaffekt.so")
    for line in found:
        print(line)
    print(f"affekt/libaffekt.so: {len(core) / 1024:.0f} KiB")
    print(f"{options.wheel.name}: {len(names)} files, {options.wheel.stat().st_size / 1024:.0f} KiB")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
