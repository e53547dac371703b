"""The programs in docs/kernels.md and docs/live.md run as they stand."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import affekt
import fake_cupy
import fused_model
from affekt import _core
from affekt.modelfile import model_bytes

PAGE = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)
PYTHON = [code for language, code in BLOCKS if language == "python"]
# A fragment within a program of libtorch is not one of its own; the script tests run such a program.
CPP = [code for language, code in BLOCKS if language == "cpp" and "int main" in code]


def title(code: str) -> str:
    """Its first import of ours."""
    return next(line for line in code.splitlines() if "affekt" in line)


def test_the_program_of_the_live_page(tmp_path, monkeypatch, capsys):
    soundfile = pytest.importorskip("soundfile")
    page = PAGE.with_name("live.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "mine.safetensors").write_bytes(model_bytes(*fused_model.fused()))
    soundfile.write(tmp_path / "talk.wav", fused_model.signals(6.0)["audio"], 8000)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "live.md", "exec"), {"__name__": "__main__"})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("5.9 ")
    assert "'audio': True, 'eeg': True, 'face': False" in last


def test_the_page_has_programs():
    assert len(PYTHON) >= 5
    assert len(CPP) == 1


@pytest.mark.parametrize("code", [c for c in PYTHON if not c.startswith("# torchrun")], ids=title)
def test_python(code, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from affekt import ops

    program = compile(code, str(PAGE), "exec")
    if "import cupy" in code:  # on arrays of NumPy, its kernels noted
        monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module([]))
        # The module is made anew, and what other tests have of it comes back.
        monkeypatch.delitem(sys.modules, "affekt.cupy", raising=False)
        monkeypatch.delattr(affekt, "cupy", raising=False)
    if "torch.jit" in code and ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(program, {"__name__": "__main__"})
    if "import cupy" in code:
        del sys.modules["affekt.cupy"], affekt.cupy


@pytest.mark.parametrize("code", [c for c in PYTHON if c.startswith("# torchrun")], ids=title)
def test_program_of_several_processes(code, tmp_path):
    pytest.importorskip("torch")
    import ranks

    (tmp_path / "train.py").write_text(code)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = ranks.processes()
    pipes, programs = [], []
    for rank in range(2):
        ours, theirs = context.Pipe()
        args = str(tmp_path / "train.py"), rank, 2, port, theirs
        programs.append(context.Process(target=ranks.run_program, args=args, daemon=True))
        programs[-1].start()
        pipes.append(ours)
    try:
        found = [pipe.recv() if pipe.poll(ranks.PATIENCE) else TimeoutError() for pipe in pipes]
    finally:
        for program in programs:
            program.kill()
            program.join()
    for result in found:
        if isinstance(result, Exception):
            raise result
    # One loss, and the same parameters after the step.
    (loss, parameters), (other_loss, others) = found
    assert loss == other_loss
    assert len(parameters) == 2
    assert parameters == others


@pytest.mark.parametrize("code", CPP, ids=title)
def test_cpp(code, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    include, library = affekt.get_include(), Path(_core.__file__).parent
    (tmp_path / "program.cpp").write_text(code)
    flags = [f"-I{include}", f"-L{library}", "-laffekt", f"-Wl,-rpath,{library}", "-o", "program"]
    subprocess.run([compiler, "-std=c++20", "program.cpp", *flags], cwd=tmp_path, check=True, timeout=120)
    ran = subprocess.run([tmp_path / "program"], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == "97 x 40\n"  # (16000 - 512) // 160 + 1
