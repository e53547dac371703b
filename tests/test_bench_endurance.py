"""Endurance of the live engine: slopes, percentiles, digests, what the sources give, runs of seconds."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

if not Path("/proc/self/statm").is_file():
    pytest.skip("the memory of a process is read from /proc", allow_module_level=True)

from bench import endurance
from bench.__main__ import ONE_THREAD
from bench.bench_engine import TICKS, model

from affekt.live import Engine


def test_a_line_has_its_slope_and_an_interval_without_width():
    x = np.arange(10.0) * 5
    assert endurance.slope(x, 3 * x + 1e9) == pytest.approx((3, 3, 3), abs=1e-6)
    assert endurance.slope(x, np.full(10, 7.0)) == (0, 0, 0)


def test_the_slope_and_its_interval_agree_with_scipy():
    x = np.sort(np.random.default_rng(0).uniform(0, 3600, 40))
    y = 2e-3 * x + np.random.default_rng(1).normal(size=40)
    found = endurance.slope(x, y, 0.9)
    expected = stats.linregress(x, y)
    half = stats.t.ppf(0.95, 38) * expected.stderr
    assert found == pytest.approx((expected.slope, expected.slope - half, expected.slope + half), rel=1e-9)


def test_the_interval_holds_the_slope_as_often_as_it_says():
    x, draw = np.arange(20.0), np.random.default_rng(2)
    held = 0
    for _ in range(1000):
        _, low, high = endurance.slope(x, 0.5 * x + draw.normal(size=20), 0.9)
        held += low <= 0.5 <= high
    # 0.9 within five standard errors of a thousand draws
    assert abs(held / 1000 - 0.9) < 5 * np.sqrt(0.9 * 0.1 / 1000)


def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed():
    values = np.random.default_rng(3).permutation(np.arange(1.0, 1001))
    assert endurance.percentiles(values) == {"p50": 500, "p99": 990, "p99.9": 999, "max": 1000}
    assert set(endurance.percentiles(np.array([4.0])).values()) == {4.0}


def test_memory_is_flat_where_no_estimate_could_have_lost_anything():
    page, least = endurance.PAGE, endurance.LEAST * TICKS
    assert endurance.flat(-1.0, 1.0, 2 * page)
    assert endurance.flat(5.0, 9.0, page - 1)
    assert not endurance.flat(5.0, 9.0, page)
    assert not endurance.flat(-least, least, 2 * page)  # too noisy to tell
    assert endurance.flat(-9.0, -5.0, -2 * page)


def test_rows_are_judged_by_floor_and_aim():
    def judged(value: float, **limits: float) -> str | None:
        return endurance.row("pace", "p99 / p50", value, **limits)["verdict"]

    assert judged(1.2, floor=2, aim=1.3) == "aim"
    assert judged(1.5, floor=2, aim=1.3) == "floor"
    assert judged(2.5, floor=2, aim=1.3) == "MISS"
    assert judged(0, floor=0) == "floor"
    assert judged(1, floor=0) == "MISS"
    assert judged(2.5) is None


def test_pieces_are_the_same_for_a_seed_and_hold_every_kind_of_trouble():
    ticks = list(endurance.pieces(180.0))
    chunks = list(itertools.chain(*ticks))
    again = itertools.chain(*endurance.pieces(180.0))
    for one, other in itertools.islice(zip(chunks, again, strict=True), 200):
        assert (one.modality, one.time) == (other.modality, other.time)
        np.testing.assert_array_equal(one.samples, other.samples)
    assert next(itertools.chain(*endurance.pieces(1.0, seed=1))).time != chunks[0].time
    assert len(ticks) == 180 * TICKS
    silences = []
    for name, (rate, _, _) in endurance.INPUTS.items():
        mine = [chunk for chunk in chunks if chunk.modality == name]
        times = np.array([chunk.time for chunk in mine])
        counted = np.array([chunk.frames for chunk in mine])
        gaps = np.diff(times) - counted[:-1] / rate
        assert (np.diff(times) > 0).all()
        assert 0 < np.abs(gaps[np.abs(gaps) < 0.02]).max() <= 0.009  # two stamps of 4 ms each
        silences += list(gaps[gaps > 0.02])
        assert counted.sum() + gaps[gaps > 0.02].sum() * rate == pytest.approx(180 * rate, rel=0.13)
    assert any(0.02 < gap < 0.05 for gap in silences)  # a piece lost
    assert any(0.25 < gap < 1 for gap in silences)
    assert any(gap > 2 for gap in silences)
    late = [k / TICKS - chunk.time for k, came in enumerate(ticks) for chunk in came]
    assert max(late) > 0.1


def test_one_bit_of_one_estimate_shows():
    def digests(value: np.float32) -> endurance.Digests:
        made = endurance.Digests(30.0)
        for k in range(300):
            made.add(k / 10, [value if k == 150 else 0.5], True, [True])
        made.close()
        return made

    half = np.float32(0.5)
    assert digests(half).same(digests(half)) == (3, 3)
    assert digests(half).same(digests(np.nextafter(half, np.float32(1)))) == (3, 2)
    assert digests(half).same(endurance.Digests(30.0)) == (3, 0)


def test_estimates_do_not_depend_on_cuts_and_order_but_on_the_samples():
    _, found, resident = endurance.as_it_comes(24.0, 0)
    assert found.count >= 23 * TICKS
    assert resident[:, 0].tolist() == [0, 5, 10, 15, 20]
    assert (resident[:, 1] > 1e7).all()
    _, again = endurance.cut_elsewhere(24.0, 0)
    assert again.count == found.count
    assert found.same(again) == (3, 3)
    assert found.same(endurance.in_one_pass(24.0, 0, 20), 2) == (2, 2)
    assert found.same(endurance.as_it_comes(24.0, 1)[1]) == (3, 0)


def test_a_second_at_its_pace():
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    source = endurance.Steady(1.0, speed=1.0, clock=lambda: now, sleep=sleep)
    engine = Engine(model()[0])
    found = endurance.paced(engine, source)
    assert now == pytest.approx(1.0)
    assert len(found["latency"]) == TICKS
    assert len(found["behind"]) == 3 * TICKS
    assert 0 < found["latency"].max() < found["wall"]
    assert 0 < found["engine_cpu"] <= found["cpu"]
    assert engine.counters()["late"] == engine.counters()["refused"] == 0


def test_the_command_writes_every_part(tmp_path, monkeypatch, capsys):
    for name in ONE_THREAD:
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(endurance, "alone", lambda part, argument: part(argument))
    options = [
        "--minutes",
        str(1 / 60),
        "--simulated-minutes",
        "0.4",
        "--sessions",
        "3",
        "--out",
        str(tmp_path),
    ]
    endurance.main(options)  # whether a row is met depends on the machine
    (page,) = tmp_path.glob("*-endurance-some.md")
    with page.with_suffix(".csv").open() as file:
        rows = {(r["part"], r["what"]): r for r in csv.DictReader(file)}
    assert {part for part, _ in rows} == {"hour", "pace", "sessions"}
    slope = rows["hour", "slope of the resident memory after 5 s"]
    assert float(slope["low"]) <= float(slope["value"]) <= float(slope["high"])
    assert slope["verdict"] in ("floor", "MISS")
    assert rows["hour", "blocks of 10 s that a fresh engine gave otherwise"]["value"] == "0"
    assert rows["hour", "blocks of 10 s that the whole pass gave otherwise"]["value"] == "0"
    assert rows["hour", "counted: late"]["value"] == "0"
    assert int(rows["hour", "counted: estimates"]["value"]) >= 24 * TICKS - 2
    assert float(rows["pace", "audio, EEG and face: latency, p50"]["value"]) > 0
    assert float(rows["pace", "speech in pieces of 20 ms: share of one core, push and poll"]["value"]) > 0
    text = page.read_text()
    assert text in capsys.readouterr().out
    assert "Machine: " in text
    for _, what in rows:
        assert f"| {what} |" in text


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--minutes", "0"], "--minutes: expected at least"),
        (["--simulated-minutes", "nan"], "--simulated-minutes: expected at least"),
        (["--sessions", "2"], "--sessions: expected at least 3, got 2"),
    ],
)
def test_bad_options_are_refused(options, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        endurance.main(options)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err
