"""The table of the benchmarks: ratios point the right way, ours leads its group, nothing is dropped."""

from __future__ import annotations

import pytest

bench = pytest.importorskip("bench.__main__")


def entry(group: str, name: str, median: float) -> dict:
    return {
        "group": group,
        "extra_info": {"contender": name},
        "stats": {"median": median, "iqr": median / 10, "rounds": 5},
    }


REPORT = {
    "benchmarks": [
        entry("mel", "librosa", 3e-3),
        entry("mel", "affekt", 1e-3),
        entry("step", "affekt", 4e-6),
        entry("step", "torch", 2e-6),
        entry("alone", "torch", 2.0),
    ]
}


def test_ratio_is_the_time_of_the_peer_over_ours():
    rows = bench.rows_of(REPORT)
    assert [(r["group"], r["contender"]) for r in rows] == [
        ("mel", "affekt"),
        ("mel", "librosa"),
        ("step", "affekt"),
        ("step", "torch"),
        ("alone", "torch"),
    ]
    assert [r["peer_over_affekt"] for r in rows] == [None, pytest.approx(3.0), None, pytest.approx(0.5), None]


def test_markdown_keeps_every_row_and_names_the_machine():
    text = bench.markdown(bench.rows_of(REPORT), today="2026-01-31", quick=True)
    assert "2026-01-31 (quick run)" in text
    assert "| mel | librosa | 3 ms | 300 us | 3.00 |" in text
    assert "| step | torch | 2 us | 0.2 us | 0.50 |" in text
    assert "| alone | torch | 2 s | 200 ms |  |" in text
    assert "Python" in text
