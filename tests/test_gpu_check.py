"""The script for machines with a GPU: its checks find what is wrong, and it says where it cannot run."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import gpu_check

torch = pytest.importorskip("torch")

from affekt import ops  # noqa: E402
from affekt.losses import _contrast  # noqa: E402

needs_ops = pytest.mark.skipif(
    ops.library_path() is None, reason="this build has no torch op library (AFFEKT_TORCH=ON builds it)"
)


@needs_ops
def test_the_checks_hold_for_the_ops_of_the_cpu():
    torch.manual_seed(0)
    rows = gpu_check.checks("cpu", small=True)
    assert len(rows) > 30
    assert [row for row in rows if row.ok is not True] == []


@needs_ops
def test_the_checks_find_a_gradient_that_is_off(monkeypatch):
    right = _contrast.info_nce
    monkeypatch.setattr(_contrast, "info_nce", lambda *args, **kwargs: right(*args, **kwargs) * 1.01)
    rows = [row for row in gpu_check.check_contrast("cpu", small=True) if row.what.startswith("InfoNCE,")]
    found = {row.ok for row in rows if row.size == "131x37"}
    assert found == {False}


def test_errors_are_relative_and_nan_is_seen():
    one = torch.tensor([1.0, -4.0])
    assert gpu_check.worst([one * 1.01], [one]) == pytest.approx(0.01, rel=1e-4)
    assert math.isnan(gpu_check.worst([torch.tensor([torch.nan, -4.0])], [one]))
    assert math.isnan(gpu_check.worst([one[:1]], [one]))


def test_runs_that_differ_do_not_hold():
    answers = iter([torch.tensor([1.0]), torch.tensor([1.0 + 1e-7])])
    row = gpu_check.judge("x", "1", lambda: [next(answers)], [torch.tensor([1.0])], 1e-3, "cpu")
    assert row.ok is False
    assert "differs" in row.found


def test_table():
    rows = [gpu_check.Row("copy", "1 GiB", "3 TB/s"), gpu_check.Row("x", "2", "error 1", "bound", ok=False)]
    assert gpu_check.table(rows, "GPU").splitlines()[-2:] == [
        "| copy | 1 GiB | 3 TB/s |  |  |",
        "| x | 2 | error 1 | bound | **no** |",
    ]


def test_a_gradient_of_zero_has_its_own_measure():
    zero = torch.zeros(3)
    assert gpu_check.worst([zero + 1e-7], [zero], least=1.0) == pytest.approx(1e-7)
    assert gpu_check.worst([zero + 1e-7], [zero]) == pytest.approx(0.1)


def test_a_sanitizer_that_does_not_end_does_not_hold(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda program: program)
    monkeypatch.setattr(gpu_check, "SANITIZER_SECONDS", 0.1)
    slow = [sys.executable, "-c", "import time; time.sleep(30)"]
    run = gpu_check.subprocess.run
    monkeypatch.setattr(gpu_check.subprocess, "run", lambda command, **options: run(slow, **options))
    rows = list(gpu_check.sanitize(tmp_path))
    assert [row.ok for row in rows] == [False, False]
    assert "not done in 0.1 s" in rows[0].found


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda program: None)
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    found = "; ".join(gpu_check.missing())
    for what in ("cmake", "nvcc", "neither ninja nor make", "pybind11", "nlohmann_json"):
        assert what in found
    assert "nlohmann_json" not in "; ".join(gpu_check.missing("/somewhere"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA: the script runs there")
def test_says_why_it_cannot_run_here(capsys):
    assert gpu_check.main([]) == 2
    assert "sees no GPU" in capsys.readouterr().err
