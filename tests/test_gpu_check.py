"""The script for machines with a GPU: its checks find what is wrong, and it says where it cannot run."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import gpu_check

torch = pytest.importorskip("torch")

from affekt import ops  # noqa: E402
from affekt.losses import _contrast  # noqa: E402

needs_ops = pytest.mark.skipif(
    ops.binary_path() is None, reason="this build has no torch op library (AFFEKT_TORCH=ON builds it)"
)


def rows_of(*groups):
    """The rows of the small cases on the CPU."""
    ops.load_library()
    torch.manual_seed(0)
    found = [case.run() for group in groups for case in group("cpu", True)]
    return [row for one in found for row in (one if isinstance(one, list) else [one])]


@needs_ops
def test_the_checks_hold_for_the_ops_of_the_cpu():
    rows = rows_of(*(check for name, check in gpu_check.CHECKS.items() if name not in ("cupy", "gathered")))
    assert len(rows) > 30
    assert [row for row in rows if row.ok is not True] == []


@needs_ops
def test_the_times_are_taken_on_any_device():
    rows = rows_of(*gpu_check.TIMES.values())
    assert len(rows) > 15
    assert not any(row.ok is False for row in rows)
    assert all(row.found for row in rows)


@needs_ops
def test_the_checks_find_a_gradient_that_is_off(monkeypatch):
    right = _contrast.info_nce
    monkeypatch.setattr(_contrast, "info_nce", lambda *args, **kwargs: right(*args, **kwargs) * 1.01)
    rows = [row for row in rows_of(gpu_check.check_contrast) if row.what.startswith("InfoNCE,")]
    found = {row.ok for row in rows if row.size == "131x37"}
    assert found == {False}


@needs_ops
def test_the_imaginary_part_counts():
    x = torch.tensor([3 + 4j, 1j])
    assert gpu_check.worst([x], [x]) == 0
    assert gpu_check.worst([x.conj().resolve_conj()], [x]) == pytest.approx(2)


@needs_ops
def test_a_group_in_a_process_of_its_own(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(gpu_check, "TIMES", {"time of ccc": gpu_check.time_ccc})
    site = Path(ops.__file__).parents[2]
    arguments = ["--device", "cpu", "--small", "--site", str(site), "--out", str(tmp_path), "--only", "times"]
    assert gpu_check.main([*arguments, "--seed", "5", "--seconds", "100"]) == 0
    printed = capsys.readouterr().out
    assert "cpu, torch" in printed
    assert "times, seed 5" in printed
    assert "| CCC forward | 4x20x2 |" in printed
    assert (tmp_path / "gpu_check.md").read_text().strip() == printed.strip()


#: Cases 0 to 4: a row, one that ends the process, another row, one that hangs, two rows.
PROGRAM = """
import json, os, sys, time
def tell(**what):
    print("@row " + json.dumps(what), flush=True)
for n in range(int(sys.argv[-1]), 5):
    tell(begin=n, what=f"case {n}", size="1")
    print("chatter", flush=True)
    if n == 1:
        print("worse than an exception", file=sys.stderr)
        os._exit(7)
    if n == 3:
        time.sleep(60)
    tell(rows=[{"what": f"case {n}", "size": "1", "found": str(k), "ok": True} for k in range(1 + n // 4)])
tell(end=True)
"""


def test_what_dies_or_hangs_is_one_row(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "CASE_SECONDS", 2)
    log = tmp_path / "log"
    rows = list(gpu_check.in_processes("group", [sys.executable, "-c", PROGRAM], log, time.monotonic() + 50))
    assert [(row.what, row.ok) for row in rows] == [
        ("case 0", True),
        ("case 1", False),
        ("case 2", True),
        ("case 3", False),
        ("case 4", True),
        ("case 4", True),
    ]
    assert rows[1].found == "the process ended with 7: worse than an exception"
    assert rows[3].found.startswith("not done in 2 s")


def test_the_end_of_the_time_is_said(monkeypatch, tmp_path):
    start = time.monotonic()
    rows = list(gpu_check.in_processes("group", [sys.executable, "-c", PROGRAM], tmp_path / "log", start + 3))
    assert time.monotonic() - start < 30
    assert rows[-1] == gpu_check.Row("group", rows[-1].size, "not run: the time is up", ok=False)


def test_what_cannot_start_is_one_row(tmp_path):
    program = [sys.executable, "-c", "raise SystemExit('no library')"]
    rows = list(gpu_check.in_processes("group", program, tmp_path / "log", time.monotonic() + 50))
    assert [(row.found, row.ok) for row in rows] == [("the process ended with 1: no library", False)]


@needs_ops
def test_an_exception_is_one_row(monkeypatch, capsys):
    def cases(device, small):
        yield gpu_check.Case("a", "1", lambda: 1 / 0)
        yield gpu_check.Case("b", "2", lambda: gpu_check.Row("b", "2", "fine", ok=True))

    monkeypatch.setitem(gpu_check.GROUPS, "ccc", cases)
    gpu_check.serve("ccc", "cpu", True, 0, 0)
    lines = capsys.readouterr().out.splitlines()
    told = [json.loads(line.removeprefix(gpu_check.MARK)) for line in lines]
    assert [row["ok"] for part in told for row in part.get("rows", ())] == [False, True]
    assert told[1]["rows"][0]["found"] == "ZeroDivisionError: division by zero"
    assert told[-1] == {"end": True}


def test_errors_are_relative_and_nan_is_seen():
    one = torch.tensor([1.0, -4.0])
    assert gpu_check.worst([one * 1.01], [one]) == pytest.approx(0.01, rel=1e-4)
    assert math.isnan(gpu_check.worst([torch.tensor([torch.nan, -4.0])], [one]))
    assert math.isnan(gpu_check.worst([one[:1]], [one]))


def test_runs_that_differ_do_not_hold():
    answers = iter([torch.tensor([1.0]), torch.tensor([1.0 + 1e-7])])
    row = gpu_check.judge("x", "1", lambda: [next(answers)], lambda: [torch.tensor([1.0])], 1e-3, "cpu")
    assert row.ok is False
    assert "differs" in row.found


def test_table():
    rows = [gpu_check.Row("copy", "1 GiB", "3 TB/s"), gpu_check.Row("x", "2", "a|b", "bound", ok=False)]
    assert [row.markdown() for row in rows] == [
        "| copy | 1 GiB | 3 TB/s |  |  |",
        "| x | 2 | a/b | bound | **no** |",
    ]


def test_a_gradient_of_zero_has_its_own_measure():
    zero = torch.zeros(3)
    assert gpu_check.worst([zero + 1e-7], [zero], least=1.0) == pytest.approx(1e-7)
    assert gpu_check.worst([zero + 1e-7], [zero]) == pytest.approx(0.1)


def test_a_sanitizer_that_does_not_end_does_not_hold(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda program: program)
    monkeypatch.setattr(gpu_check, "SANITIZER_SECONDS", 1.2)
    slow, seen = [sys.executable, "-c", "import time; time.sleep(30)"], []
    run = gpu_check.subprocess.run

    def instead(command, **options):
        seen.append((command[2], options["env"]["PYTORCH_NO_CUDA_MEMORY_CACHING"]))
        return run(slow, **options)

    monkeypatch.setattr(gpu_check.subprocess, "run", instead)
    rows = list(gpu_check.sanitize(tmp_path, "cpu", 0, tmp_path, time.monotonic() + 3))
    assert len(rows) == len(gpu_check.TOOLS) * len(gpu_check.SMALL_GROUPS)
    assert {row.ok for row in rows} == {False}
    assert "not done in 1" in rows[0].found
    assert rows[-1].found == "not run: the time is up"
    assert ("memcheck", "1") in seen


END = '@row {"end": true}\n'
SUMMARY = "========= ERROR SUMMARY: {} errors"


@pytest.mark.parametrize(
    ("text", "code", "ok", "words"),
    [
        (END + SUMMARY.format(0), 0, True, "0 errors"),
        (
            "========= Invalid read\n=========  at affekt::gpu::Ccc\n" + END + SUMMARY.format(1),
            9,
            False,
            "1 e",
        ),
        (
            "========= Uninitialized\n=========  at at::native\n" + END + SUMMARY.format(1),
            9,
            None,
            "1 errors",
        ),
        ("========= Device not supported. Please refer", 1, None, "not run: Device not supported"),
        ("Traceback\nRuntimeError: no", 1, False, "before the end of the checks: RuntimeError: no"),
        (
            '@row {"rows": [{"what": "CCC", "found": "Error: bad", "ok": false}]}\n'
            + END
            + SUMMARY.format(0),
            0,
            False,
            "CCC: Error: bad",
        ),
        (END, 0, False, "no summary"),
    ],
)
def test_what_the_sanitizer_says(text, code, ok, words):
    found, _, holds = gpu_check.sanitized(text, code)
    assert holds is ok
    assert words in found


def test_a_build_that_fails_is_one_row(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "cmake"
    program.write_text(f"#!{sys.executable}\nprint('x.cu(3): error: wrong')\nraise SystemExit(1)\n")
    program.chmod(0o755)
    row = gpu_check.build(tmp_path / "build", None, tmp_path / "log", time.monotonic() + 30)
    assert row == gpu_check.Row("build", "90a-real", "x.cu(3): error: wrong", "see log", ok=False)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(gpu_check.shutil, "which", lambda program: None)
    monkeypatch.setattr(gpu_check.importlib.util, "find_spec", lambda name: None)
    found = "; ".join(gpu_check.missing())
    for what in ("cmake", "nvcc", "neither ninja nor make", "pybind11", "nlohmann_json"):
        assert what in found
    assert "nlohmann_json" not in "; ".join(gpu_check.missing("/somewhere"))
    assert "cmake" not in "; ".join(gpu_check.missing(to_build=False))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA: the script runs there")
def test_says_why_it_cannot_run_here(capsys):
    assert gpu_check.main([]) == 2
    assert "sees no GPU" in capsys.readouterr().err
