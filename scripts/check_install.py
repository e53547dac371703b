"""Build the robot example against an installed affekt and run it: `python scripts/check_install.py PREFIX`.

With `find_package` the C++ and the C program, shared, and static where the static library is there, the C
program also in a project without C++; by pkg-config the C program likewise. Each must print, from a WAV and
two CSV files, exactly what the Python package computes from the same samples. Installation and example are
copied elsewhere first, so that neither finds what it should not. `--most-kib` bounds the stripped shared
library.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import numpy as np

import affekt

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "tests/golden/schema2_fused.safetensors"
# A project that knows no C++.
C_ALONE = """
cmake_minimum_required(VERSION 3.16)
project(alone LANGUAGES C)
find_package(affekt REQUIRED)
add_executable(c_alone main.c)
target_link_libraries(c_alone PRIVATE affekt::affekt)
if(TARGET affekt::affekt_static)
  add_executable(c_alone_static main.c)
  target_link_libraries(c_alone_static PRIVATE affekt::affekt_static)
endif()
"""
SECONDS = 4.0


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """Run a command and return what it prints; show it where that fails."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=env)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def recordings(folder: Path) -> dict[str, np.ndarray]:
    """Write voice.wav, eeg.csv and face.csv; return the same samples as `Model.run` takes them."""
    random = np.random.default_rng(5)
    pcm = random.integers(-3000, 3000, int(SECONDS * 8000)).astype("<i2")
    with wave.open(str(folder / "voice.wav"), "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(pcm.tobytes())
    made = {"audio": pcm.astype(np.float32) / 32768}
    for name, rate, width in (("eeg", 128, 4), ("face", 25, 6)):
        x = random.standard_normal((int(SECONDS * rate), width)).astype(np.float32)
        rows = [",".join([repr(i / rate), *(f"{v:.9g}" for v in row)]) for i, row in enumerate(x)]
        header = ",".join(["time", *(f"c{c}" for c in range(width))])
        (folder / f"{name}.csv").write_text("\n".join([header, *rows, ""]))
        made[name] = x.T if name == "eeg" else x
    return made


def expected(recording: dict[str, np.ndarray]) -> list[str]:
    """Return the lines that the robot should print."""
    model = affekt.load(MODEL)
    result = model.run(recording)
    lines = []
    for i, time in enumerate(result.times):
        values = [f"{name}={value:.9g}" for name, value in zip(model.columns, result.values[i], strict=True)]
        there = [name for name, present in zip(recording, result.present[i], strict=True) if present]
        mark = [] if result.valid[i] else ["(not valid)"]
        lines.append(
            " ".join([f"{time:.3f}", *values, f"confidence={result.confidence[i]:.9g}", *there, *mark])
        )
    return lines


def main() -> int:
    """Build, run, compare; return 1 for the first difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prefix", type=Path)
    parser.add_argument("--most-kib", type=float, help="most KiB of the stripped shared library")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        prefix = shutil.copytree(options.prefix, work / "moved" / "prefix", symlinks=True)
        config = next(prefix.rglob("affektConfig.cmake"), None)
        library = next((p for p in prefix.rglob("libaffekt.so*") if not p.is_symlink()), None)
        if config is None or library is None:
            sys.exit(f"{options.prefix}: no affektConfig.cmake or no libaffekt.so below it")
        shutil.copytree(ROOT / "cpp/examples/robot", work / "robot")
        configure = ["-S", work / "robot", "-B", work / "build", f"-Daffekt_DIR={config.parent}"]
        run(
            "cmake",
            *configure,
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_C_FLAGS=-Werror",
            "-DCMAKE_CXX_FLAGS=-Werror",
        )
        run("cmake", "--build", work / "build")
        programs = sorted(p for p in (work / "build").glob("robot*") if p.is_file())

        shutil.copytree(work / "robot", work / "c")
        (work / "c/CMakeLists.txt").write_text(C_ALONE)
        run("cmake", "-S", work / "c", "-B", work / "c/build", f"-Daffekt_DIR={config.parent}")
        run("cmake", "--build", work / "c/build")
        programs += sorted((work / "c/build").glob("c_alone*"))

        pc = next(prefix.rglob("affekt.pc"))
        search = {**os.environ, "PKG_CONFIG_PATH": str(pc.parent)}
        flags = run("pkg-config", "--cflags", "--libs", "affekt", env=search).split()
        by_hand = work / "robot_pkg_config"
        run("cc", "-std=c99", work / "robot/main.c", *flags, f"-Wl,-rpath,{library.parent}", "-o", by_hand)
        programs.append(by_hand)
        if any(prefix.rglob("libaffekt.a")):
            static = run("pkg-config", "--static", "--cflags", "--libs", "affekt", env=search).split()
            by_hand = work / "robot_pkg_config_static"
            run("cc", "-std=c99", "-static", work / "robot/main.c", *static, "-o", by_hand)
            programs.append(by_hand)

        recording = recordings(work)
        wanted = expected(recording)
        arguments = [f"audio={work / 'voice.wav'}", f"eeg={work / 'eeg.csv'}", f"face={work / 'face.csv'}"]
        for program in programs:
            lines = run(program, MODEL, *arguments).splitlines()
            for got, want in zip(lines, wanted, strict=False):
                if got != want:
                    sys.exit(f"{program.name} prints\n{got}\ninstead of\n{want}")
            if len(lines) != len(wanted):
                sys.exit(f"{program.name} prints {len(lines)} estimates instead of {len(wanted)}")
            for bad in (
                [work / "nowhere", *arguments],
                [MODEL, f"eeg={work / 'voice.wav'}"],
                [MODEL, "face=nowhere"],
            ):
                done = subprocess.run([program, *bad], capture_output=True, text=True)
                if done.returncode != 1 or not done.stderr.startswith("robot: "):
                    sys.exit(f"{program.name} {bad}: {done.returncode} {done.stderr}")
        print(f"{len(wanted)} estimates, as the Python package, from each of:")
        for file in (*programs, library):
            run("strip", "-o", work / "stripped", file)
            kib = (work / "stripped").stat().st_size / 1024
            print(f"  {file.name:<24} {kib:6.0f} KiB stripped{'' if file != library else ' (the library)'}")
        if options.most_kib is not None and kib > options.most_kib:
            sys.exit(f"{library.name}: {kib:.0f} KiB, at most {options.most_kib:.0f} expected")
    return 0


if __name__ == "__main__":
    sys.exit(main())
