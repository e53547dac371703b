"""Check what the built libraries ask of others: `python scripts/check_symbols.py BUILD_DIR`.

`check_symbols.py --torch LIBTORCH_CPU > cpp/ops/torch_2.10_symbols.txt` writes the list of torch's symbols
anew, from the libtorch_cpu.so in the wheel of the oldest torch that the ops are for.

- libaffekt and affekt._core need no torch, and libaffekt no Python;
- no library but the CUDA ops knows CUDA, and these neither need nor export its runtime;
- the torch op libraries use the stable C interface of LibTorch alone (no C++ symbol of c10, at or torch), and
  of it what torch 2.10 has (cpp/ops/torch_2.10_symbols.txt);
- no library records a folder of this machine as its run path once installed;
- a kernel that is compiled for one instruction set defines no symbol outside its own namespace: the linker
  could give an inline function with AVX-512 code to callers on any CPU.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# C++ names of torch are mangled: _ZN3c10..., _ZN2at..., _ZNK5torch..., also as template arguments.
TORCH_CXX = re.compile(r"_Z.*(3c10|2at|5torch)\w")
TORCH_C = re.compile(r"^(aoti_)?torch_")
TORCH_2_10 = Path(__file__).resolve().parents[1] / "cpp/ops/torch_2.10_symbols.txt"
# The runtime and the driver: cudaMalloc, cuLaunchKernel, __cudaRegisterFunction.
CUDA = re.compile(r"^(__)?cu(da)?[A-Z]")


def symbols(library: Path, which: str) -> list[str]:
    """Return the names of the dynamic symbols of `library` that nm's option picks, without versions."""
    text = subprocess.run(
        ["nm", "-D", which, "--without-symbol-versions", library], check=True, capture_output=True, text=True
    ).stdout
    return [line.split()[-1] for line in text.splitlines()]


def undefined(library: Path) -> list[str]:
    """Return what `library` asks of others."""
    return symbols(library, "--undefined-only")


def exported(library: Path) -> list[str]:
    """Return what `library` offers."""
    return symbols(library, "--defined-only")


def torch_symbols(library: Path) -> list[str]:
    """Return the C interface that a libtorch_cpu offers."""
    return sorted(s for s in exported(library) if TORCH_C.match(s))


def dynamic(library: Path, tag: str) -> list[str]:
    """Return the values of one tag of the dynamic section: NEEDED, RUNPATH or RPATH."""
    text = subprocess.run(["readelf", "-dW", library], check=True, capture_output=True, text=True).stdout
    return re.findall(rf"\({tag}\).*\[(.*)\]", text)


def problems(folder: Path) -> list[str]:
    """Return what is wrong with the installed libraries in `folder`, one line each."""
    found = []
    core = next(folder.glob("_core*.so"))
    for library in sorted(folder.glob("*.so")):
        for path in dynamic(library, "RUNPATH") + dynamic(library, "RPATH"):
            if path != "$ORIGIN":
                found.append(f"{library.name}: the run path is {path!r}, expected '$ORIGIN'")
    for library in (folder / "libaffekt.so", core):
        torch = [s for s in undefined(library) if TORCH_C.match(s) or TORCH_CXX.match(s)]
        torch += [n for n in dynamic(library, "NEEDED") if "torch" in n or "c10" in n]
        if torch:
            found.append(f"{library.name}: needs torch: {torch[:5]}")
    python = [s for s in undefined(folder / "libaffekt.so") if re.match(r"_?Py[A-Z_]", s)]
    if python:
        found.append(f"libaffekt.so: needs Python: {python[:5]}")
    oldest = set(TORCH_2_10.read_text(encoding="utf-8").split())
    for ops in sorted(folder.glob("libaffekt_ops*.so")):
        names = undefined(ops)
        newer = sorted({s for s in names if TORCH_C.match(s)} - oldest)
        if newer:
            found.append(f"{ops.name}: symbols that torch 2.10 lacks: {newer[:5]}")
        unstable = [s for s in names if TORCH_CXX.match(s)]
        if unstable:
            found.append(f"{ops.name}: C++ symbols of torch, outside the stable ABI: {unstable[:5]}")
        if not any(TORCH_C.match(s) for s in names):
            found.append(f"{ops.name}: no symbol of torch at all, so it registers nothing")
        extra = [
            n for n in dynamic(ops, "NEEDED") if re.search("torch|c10|cuda", n) and n != "libtorch_cpu.so"
        ]
        if extra:
            found.append(f"{ops.name}: needs {extra}, expected libtorch_cpu.so alone")
    for library in sorted(folder.glob("*.so")):
        cuda = [s for s in undefined(library) + exported(library) if CUDA.match(s)]
        if cuda:
            found.append(f"{library.name}: symbols of CUDA: {cuda[:5]}")
    return found


def shared_kernel_symbols(build: Path) -> list[str]:
    """Return what the kernel objects in `build` define outside the namespace of their instruction set."""
    found = []
    for folder in sorted(build.glob("CMakeFiles/affekt_kernels_*.dir")):
        isa = folder.name.removeprefix("affekt_kernels_").removesuffix(".dir")
        for path in sorted(folder.rglob("*.o")):
            text = subprocess.run(
                ["nm", "--defined-only", "--extern-only", "--demangle", path],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            names = [line.split(maxsplit=2)[2] for line in text.splitlines() if line.strip()]
            foreign = [name for name in names if f"affekt::{isa}::" not in name]
            if foreign:
                found.append(f"{path.name} for {isa}: defines {foreign[:5]}, expected affekt::{isa}:: alone")
    return found


def main() -> int:
    """Install the build into a scratch folder and check the libraries there."""
    if len(sys.argv) == 3 and sys.argv[1] == "--torch":
        print("\n".join(torch_symbols(Path(sys.argv[2]))))
        return 0
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(
            ["cmake", "--install", sys.argv[1], "--prefix", scratch], check=True, stdout=subprocess.DEVNULL
        )
        folder = Path(scratch) / "affekt"
        found = problems(folder) + shared_kernel_symbols(Path(sys.argv[1]))
        for line in found:
            print(line)
        if not found:
            for library in sorted(folder.glob("*.so")):
                print(
                    f"{library.name}: {library.stat().st_size / 1024:.0f} KiB, needs",
                    *dynamic(library, "NEEDED"),
                )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
