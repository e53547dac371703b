"""The benchmarks: ratios point the right way, floors are judged, bounds are right, contenders take turns."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark")
from bench import probe, table

ROOT = Path(__file__).resolve().parents[1]


def entry(group: str, name: str, *medians: float, units: int = 1, threads: int = 1, **facts) -> list[dict]:
    return [
        {
            "group": group,
            "fullname": f"bench_some.py::bench_{name}[turn{turn}]",
            "extra_info": {
                "contender": name,
                "units": units,
                "turn": turn,
                "threads": threads,
                "test": f"bench_some.py::bench_{name}",
                "facts": facts,
            },
            "stats": {"median": value},
        }
        for turn, value in enumerate(medians, 1)
    ]


RATES = {"operations": {"float32": 1e11, "float64": 5e10}, "bytes": [[2**14, 2e11], [2**20, 1e11]]}
REPORT = {
    "benchmarks": [
        *entry("mel", "librosa", 3e-3, 9e-3, 4e-3),
        *entry("mel", "affekt", 1e-3, 3e-3, 1e-3, floor={"librosa": 3, "torch": 2}, aim={"librosa": 3.5}),
        *entry("mel", "torch", 1e-3, 3e-3, 1e-3),
        *entry("step", "affekt", 4e-6, floor_us=5, aim_us=3, operations=2e5),
        *entry("step", "torch", 2e-6, note="without state"),
        *entry("alone", "torch", 2.0),
        *entry("block", "affekt", 8e-6, units=8, aim=3, operations=4e5),
        *entry("block", "step by step", 2e-6),
    ],
    "affekt": {"rates": RATES},
}


def row(group: str, name: str) -> dict:
    return next(r for r in table.rows_of(REPORT) if (r["group"], r["contender"]) == (group, name))


def test_ratio_is_the_time_of_the_peer_over_ours_turn_by_turn():
    assert [(r["group"], r["contender"]) for r in table.rows_of(REPORT)] == [
        ("mel", "affekt"),
        ("mel", "librosa"),
        ("mel", "torch"),
        ("step", "affekt"),
        ("step", "torch"),
        ("alone", "torch"),
        ("block", "affekt"),
        ("block", "step by step"),
    ]
    librosa = row("mel", "librosa")
    assert librosa["median_us"] == pytest.approx(4e3)
    assert (librosa["lowest_us"], librosa["highest_us"]) == pytest.approx((3e3, 9e3))
    # 3, 3, 4 turn by turn, where the ratio of the medians would be 4.
    assert librosa["peer_over_affekt"] == pytest.approx(3.0)
    assert (librosa["ratio_lowest"], librosa["ratio_highest"]) == pytest.approx((3.0, 4.0))
    assert row("step", "torch")["peer_over_affekt"] == pytest.approx(0.5)
    assert row("alone", "torch")["peer_over_affekt"] is None


def test_floor_and_aim_are_judged_per_peer_and_for_our_own_time():
    verdicts = {(r["group"], r["contender"]): r["verdict"] for r in table.rows_of(REPORT)}
    assert verdicts == {
        ("mel", "affekt"): None,
        ("mel", "librosa"): "floor",
        ("mel", "torch"): "MISS",
        ("step", "affekt"): "floor",
        ("step", "torch"): None,
        ("alone", "torch"): None,
        ("block", "affekt"): None,
        ("block", "step by step"): "below aim",
    }


def test_bound_is_the_slower_of_arithmetic_and_bytes_over_the_threads():
    assert probe.bound({"operations": 2e5}, RATES) == (pytest.approx(2e-6), "arithmetic")
    assert probe.bound({"operations": 2e5, "dtype": "float64"}, RATES, threads=2)[0] == pytest.approx(2e-6)
    assert probe.bound({"operations": 2e5, "bytes_moved": 1e6}, RATES) == (pytest.approx(1e-5), "bytes")
    few_again_and_again = {"bytes_moved": 1e6, "working_set": 1e4}
    assert probe.bound(few_again_and_again, RATES) == (pytest.approx(5e-6), "bytes")
    assert probe.bound({}, RATES) is None
    assert probe.bound({"operations": 1.0}, {}) is None
    step = row("step", "affekt")
    assert (step["bound_us"], step["time_over_bound"]) == (pytest.approx(2.0), pytest.approx(2.0))
    block = row("block", "affekt")  # eight frames in a call
    assert (block["median_us"], block["bound_us"]) == (pytest.approx(1.0), pytest.approx(0.5))


def test_facts_that_contradict_each_other_are_an_error():
    report = {"benchmarks": [*entry("mel", "affekt", 1.0, floor=2), *entry("mel", "torch", 1.0, floor=3)]}
    with pytest.raises(ValueError, match="mel: floor is 2 and 3"):
        table.rows_of(report)


def test_markdown_and_csv_keep_every_row(tmp_path):
    rows = table.rows_of(REPORT)
    text = table.markdown(
        rows,
        heading="Kernels, 2026-01-31",
        about=["Machine: any"],
        absent={"bench_some.py::bench_knf": "not installed"},
        profiles={"mel": "40 % fft"},
    )
    assert "# Kernels, 2026-01-31" in text
    assert "| mel | librosa | 4 ms | 3 ms, 9 ms | 3.00 | 3.00, 4.00 | 3x | 3.5x | floor |  |  |" in text
    assert "| mel | torch | 1 ms | 1 ms, 3 ms | 1.00 | 1.00, 1.00 | 2x |  | MISS |  |  |" in text
    assert (
        "| step | affekt | 4 us | 4 us, 4 us |  |  | <= 5 us | <= 3 us | floor | 2 us (arithmetic) | 2.00 |"
        in text
    )
    assert "| alone | torch | 2 s |" in text
    assert "4 rows with a floor or an aim: 0 aim, 2 floor, 1 below aim, 1 MISS" in text
    assert "- step: without state" in text
    assert "- missed, mel: 40 % fft" in text
    assert "`bench_some.py::bench_knf`: not installed" in text
    table.write_csv(rows, tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [(r["group"], r["contender"]) for r in read] == [(r["group"], r["contender"]) for r in rows]
    assert float(read[1]["peer_over_affekt"]) == 3.0


SUITE = """
import pytest

@pytest.mark.parametrize("size", [1, 60])
def bench_ours(contender, size):
    contender(f"sum {size}", "affekt", lambda: None, floor=0.5)

@pytest.mark.parametrize("size", [1, 60])
def bench_theirs(contender, size):
    contender(f"sum {size}", "python", lambda: None)

def bench_absent(contender, peer):
    peer("no_such_library_anywhere")

def bench_last(contender):
    contender("last", "affekt", lambda: None)
"""


def test_contenders_of_a_group_take_turns(tmp_path):
    (tmp_path / "bench_some.py").write_text(SUITE)
    (tmp_path / "conftest.py").write_text("from bench.conftest import *\n")
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:xdist", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "-c", os.devnull, "-o", f"pythonpath={ROOT}"]
    command += [
        "-o",
        "python_files=bench_*.py",
        "-o",
        "python_functions=bench_*",
        "--rounds=3",
        "--probe-seconds=0",
    ]
    command += [
        f"--benchmark-json={report}",
        "--benchmark-max-time=0.001",
        "--benchmark-min-rounds=1",
        str(tmp_path),
    ]
    # A worker of pytest-xdist passes on a variable that switches pytest-benchmark off.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(report.read_text())
    order = [(e["group"], e["extra_info"]["contender"], e["extra_info"]["turn"]) for e in found["benchmarks"]]
    forth_and_back = [
        ("affekt", 1),
        ("python", 1),
        ("python", 2),
        ("affekt", 2),
        ("affekt", 3),
        ("python", 3),
    ]
    assert order == [
        *[("sum 1", name, turn) for name, turn in forth_and_back],
        *[("sum 60", name, turn) for name, turn in forth_and_back],
        *[("last", "affekt", turn) for turn in (1, 2, 3)],
    ]
    ((absent, reason),) = found["affekt"]["absent"].items()
    assert absent.endswith("bench_absent")
    assert "no_such_library_anywhere is not installed here" in reason
    rows = table.rows_of(found)
    assert [r["turns"] for r in rows] == [3] * 5
    assert {r["test"].rpartition("::")[2] for r in rows} == {
        "bench_ours[1]", "bench_ours[60]", "bench_theirs[1]", "bench_theirs[60]", "bench_last",
    }  # fmt: skip
