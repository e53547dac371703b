"""Models of several inputs on one clock: the graph, the full pass and the live engine."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affekt
from affekt import InputError, ModelFileError
from affekt._native import Estimates, Model
from affekt.features import Filter, Resampler
from affekt.live import Engine
from affekt.modelfile import model_bytes
from fused_model import CLOCK, RATES, SILENCE, as_input, expected, fused, signals

GOLDEN = Path(__file__).parent / "golden"
CARD, TENSORS = fused()
MODEL = Model.from_bytes(model_bytes(CARD, TENSORS))
SIGNALS = signals(6.0)
NAMES = list(RATES)


def cut(name: str, begin: float, end: float) -> tuple[float, np.ndarray]:
    """Samples of one input from about `begin` to `end`, and the time of the first."""
    first, last = (round(t * RATES[name]) for t in (begin, end))
    return first / RATES[name], SIGNALS[name][first:last]


def run(pieces: dict, mode: str = "full", chunk: int | None = None) -> Estimates:
    given = {name: [(t, as_input(name, x)) for t, x in parts] for name, parts in pieces.items()}
    return MODEL.run(given, mode, chunk)


def check(result: Estimates, pieces: dict) -> None:
    times, values, present, confidence = expected(CARD, TENSORS, pieces)
    np.testing.assert_allclose(result.times, times, atol=1e-9)
    np.testing.assert_array_equal(result.present, present)
    np.testing.assert_allclose(result.values, values, atol=2e-4)
    np.testing.assert_allclose(result.confidence, confidence, atol=2e-4)
    np.testing.assert_array_equal(result.valid, present.any(axis=1))


def same(a: Estimates, b: Estimates) -> None:
    for x, y in ((a.times, b.times), (a.values, b.values), (a.valid, b.valid)):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(a.present, b.present)
    np.testing.assert_array_equal(a.confidence, b.confidence)


def live(engine: Engine, pushes: list[tuple[str, float | None, np.ndarray]], polls: list[bool]) -> Estimates:
    """Pushes in that order, polling after those where `polls` says so and wherever a queue is full."""
    found = []
    for (name, time, frames), poll in zip(pushes, polls, strict=True):
        while len(frames):
            taken = engine.push(name, as_input(name, frames), time)
            frames, time = frames[taken:], None if taken else time
            if len(frames) or poll:
                got = list(iter(engine.poll, None))
                assert taken or got, "a full queue that nothing empties"
                found += got
    engine.finish()
    found += list(iter(engine.poll, None))
    return collected(found)


def collected(found: list) -> Estimates:
    return Estimates(
        np.array([e.time for e in found]),
        np.array([list(e.values.values()) for e in found], np.float32).reshape(-1, 2),
        np.array([e.valid for e in found], bool),
        None,
        np.array([list(e.present.values()) for e in found], bool).reshape(-1, 3),
        np.array([e.confidence for e in found], np.float32),
    )


@pytest.mark.parametrize("names", [c for n in (1, 2, 3) for c in itertools.combinations(NAMES, n)])
def test_every_subset_agrees_with_the_reference(names):
    pieces = {name: [cut(name, 0, 4)] for name in names}
    result = run(pieces)
    check(result, pieces)
    assert len(result.times) >= 40
    present = result.present[-1]
    assert [name for name, there in zip(NAMES, present, strict=True) if there] == list(names)
    same(result, run(pieces, "stream"))


def test_gaps_and_returns_agree_with_the_reference():
    pieces = {
        "audio": [cut("audio", 0.3, 2.0), cut("audio", 3.1, 5.0)],
        "eeg": [cut("eeg", 0.0, 5.0)],
        "face": [cut("face", 1.0, 1.8), cut("face", 2.0, 2.6), cut("face", 4.0, 6.0)],
    }
    result = run(pieces)
    check(result, pieces)
    same(result, run(pieces, "stream", 3))
    # Everything silent: no estimates until something comes.
    pieces = {"face": [cut("face", 0, 1), cut("face", 4, 5)], "eeg": [cut("eeg", 0.5, 1.5)]}
    result = run(pieces)
    check(result, pieces)
    assert not ((result.times > 1.5 + SILENCE + 0.1) & (result.times < 3.9)).any()


def test_pieces_that_overlap_stay_in_their_order():
    face = SIGNALS["face"]
    pieces = {"face": [(0.0, face[:25]), (0.5, face[25:60])], "eeg": [cut("eeg", 0, 2)]}
    for chunk in (1, 3, 300):
        same(run(pieces, "stream", chunk), run(pieces))
    with pytest.raises(InputError, match="smaller than the previous"):
        run({"face": [(1.0, face[:5]), (0.5, face[5:10])]}, "stream")


def test_a_wait_beyond_the_queue_is_refused():
    with pytest.raises(InputError, match="queue_s must be at least wait_s"):
        Engine(MODEL, queue_s=SILENCE)
    with pytest.raises(InputError, match="queue_s must be at least wait_s"):
        Engine(MODEL, queue_s=10.0, wait_s=10.0)
    Engine(MODEL, queue_s=11.0, wait_s=10.0)
    Engine(MODEL, wait_s=10.0)  # by default it holds as much


@settings(max_examples=25)
@given(data=st.data())
def test_any_interleaving_and_chunking_equals_the_full_pass(data):
    pieces, queues = {}, []
    for name in NAMES:
        # Up to three stretches with gaps in between, or nothing of that input.
        edges = sorted(data.draw(st.sets(st.integers(0, 20), max_size=6), label=name))
        parts = [cut(name, 0.1 * a, 0.1 * b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
        # Stretches that nearly touch are one recording for the engine, whose clock does not move for 0.1 s.
        parts = [
            part
            for i, part in enumerate(parts)
            if i == 0 or part[0] - (parts[i - 1][0] + len(parts[i - 1][1]) / RATES[name]) > 0.11
        ]
        pieces[name] = parts
        queue = []
        for time, frames in parts:
            while len(frames):
                n = data.draw(st.integers(1, max(1, min(len(frames), round(0.4 * RATES[name])))))
                queue.append((name, time, frames[:n]))
                frames, time = frames[n:], None
        queues.append(queue)
    result = run(pieces)
    check(result, pieces)
    order = data.draw(st.permutations([i for i, queue in enumerate(queues) for _ in queue]))
    rest = [iter(queue) for queue in queues]
    pushes = [next(rest[i]) for i in order]
    polls = data.draw(st.lists(st.booleans(), min_size=len(pushes), max_size=len(pushes)))
    same(live(Engine(MODEL, wait_s=float("inf")), pushes, polls), result)
    same(run(pieces, "stream", data.draw(st.integers(1, 900))), result)


def test_a_muted_input_is_masked_and_returns_within_a_frame():
    silent = {
        "audio": [cut("audio", 0, 6)],
        "eeg": [cut("eeg", 0, 6)],
        "face": [cut("face", 0, 2), cut("face", 4, 6)],
    }
    engine, found = Engine(MODEL), []
    for k in range(60):  # as it would come: 100 ms of everything at a time, the face not from 2 s to 4 s
        for name in NAMES:
            if name == "face" and 20 <= k < 40:
                continue
            time, frames = cut(name, k / 10, (k + 1) / 10)
            assert engine.push(name, as_input(name, frames), time) == len(frames)
        found += list(iter(engine.poll, None))
        behind = k / 10 - found[-1].time if found else 0.0
        if 20 <= k < 24:
            assert behind <= SILENCE + 0.11  # it waits for the face
        elif k > 26:
            assert behind <= 0.11  # and then no longer
    engine.finish()
    found += list(iter(engine.poll, None))
    same(collected(found), run(silent))
    face = np.array([e.present["face"] for e in found])
    times = np.array([e.time for e in found])
    last = cut("face", 0, 2)[0] + 1.96
    assert face[(times > 0) & (times <= last + SILENCE)].all()
    assert not face[(times > last + SILENCE + 1e-6) & (times < 4.0)].any()
    assert face[times >= 4.0].all()
    counted = engine.counters("face")
    assert (counted["silences"], counted["late"], counted["reanchors"]) == (1, 0, 1)
    assert counted["overdue"] > 10
    assert engine.counters("audio")["overdue"] == 0
    assert engine.counters("face")["estimates"] == face.sum()
    # From then on it equals a recording in which the face ended.
    muted = {**silent, "face": [cut("face", 0, 2)]}
    ended, whole = run(muted), collected(found)
    until = times < 4.0
    np.testing.assert_array_equal(ended.values[ended.times < 4.0], whole.values[until])


def test_what_comes_late_is_counted():
    engine = Engine(MODEL, wait_s=0.5, queue_s=5.0)
    for name in ("audio", "eeg"):
        time, frames = cut(name, 0, 3)
        engine.push(name, as_input(name, frames), time)
    assert engine.poll() is not None  # the face has not come, and is not waited for
    while engine.poll() is not None:
        pass
    time, frames = cut("face", 0, 3)
    engine.push("face", frames, time)
    while engine.poll() is not None:
        pass
    assert engine.counters("face")["late"] > 60
    assert engine.counters()["overdue"] > 10


def test_golden_file_of_schema_2_gives_its_values():
    spec = importlib.util.spec_from_file_location("make_schema2", GOLDEN / "make_schema2.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    pieces = maker.recording()
    given = {name: [(t, as_input(name, x)) for t, x in parts] for name, parts in pieces.items()}
    result = affekt.load(GOLDEN / "schema2_fused.safetensors").run(given)
    table = np.loadtxt(GOLDEN / "schema2_fused.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(result.times, table[:, 0], atol=1e-6)
    np.testing.assert_allclose(result.values, table[:, 1:3], atol=2e-4)
    np.testing.assert_array_equal(result.present, table[:, 3:6])
    np.testing.assert_allclose(result.confidence, table[:, 6], atol=2e-4)


SIGNAL_NODES = [
    {"name": "slow", "type": "resample", "inputs": ["eeg"], "options": {"rate": 100.0}},
    {"name": "steady", "type": "filter", "inputs": ["slow"], "options": {"sections": [[0.5, 0.5, 0, 0, 0]]}},
]


@pytest.mark.parametrize("rate", [100.0, 300.0, 64.0, 128.0, 33.0])
@pytest.mark.parametrize("mix", [None, [0.25, 0.25, -0.5, 1.0]])
def test_a_resampled_and_filtered_signal_equals_the_offline_calls(rate, mix):
    """Without a clock: every sample is an estimate, at the time of the sample that completes it."""
    nodes = copy.deepcopy(SIGNAL_NODES)
    nodes[0]["options"] |= {"rate": rate, **({"mix": mix} if mix else {})}
    width = 1 if mix else 4
    nodes.append({"name": "out", "type": "standardise", "inputs": ["steady"], "options": {}})
    card = {
        "schema": 2,
        "name": "samples",
        "version": "1",
        "inputs": [CARD["inputs"][1]],
        "nodes": nodes,
        "outputs": [
            {"name": "eeg", "node": "out", "kind": "continuous", "labels": [f"c{i}" for i in range(width)]}
        ],
    }
    tensors = {"out.mean": np.zeros(width, np.float32), "out.scale": np.ones(width, np.float32)}
    model = Model.from_bytes(model_bytes(card, tensors))
    x = SIGNALS["eeg"].T
    resampler = Resampler(128.0, rate)
    whole = resampler(x) if mix is None else resampler(np.ascontiguousarray(x), mix=mix)
    whole = Filter(np.array([[0.5, 0.5, 0, 1, 0, 0]]), sample_rate=rate)(np.atleast_2d(whole)).T
    result = model.run(x)
    n = len(result.times)
    np.testing.assert_array_equal(result.values, whole[:n])
    late = np.floor(np.arange(n) * 128.0 / rate + 1e-9) / 128.0
    delay = result.times - late
    np.testing.assert_allclose(delay, delay[0], atol=1e-9)
    assert n >= len(whole) - (delay[0] + 0.02) * rate - 1
    assert model.timing["first_estimate_s"] == pytest.approx(delay[0] + 1 / rate, abs=2 / 128)
    for chunk in (1, 7, 300):
        stream = model.run(x, "stream", chunk)
        np.testing.assert_array_equal(stream.values, result.values)
        np.testing.assert_array_equal(stream.times, result.times)
    engine = Engine(model)
    engine.push("eeg", x[:, :333])
    found = list(iter(engine.poll, None))
    other = Engine(model)
    other.restore(engine.snapshot())
    other.push("eeg", x[:, 333:])
    found += list(iter(other.poll, None))
    np.testing.assert_array_equal(np.array([list(e.values.values()) for e in found]), result.values)


def test_rows_keep_their_own_times():
    rows = SIGNALS["face"][:20]
    stamps = np.arange(20) / 25.0 + 0.015 * np.sin(np.arange(20) * 7.0) + 0.02
    pieces = {"face": [(float(t), row[None]) for t, row in zip(stamps, rows, strict=True)]}
    result = run(pieces)
    shifted = {"face": [(float(stamps[0]), rows)]}
    assert len(result.times) == len(run(shifted).times)
    # What a tick sees is the newest row by these times.
    card = {
        "schema": 2,
        "name": "rows",
        "version": "1",
        "inputs": [CARD["inputs"][2]],
        "clock": CARD["clock"],
        "nodes": [
            {"name": "now", "type": "align", "inputs": ["face"], "options": {}},
            {"name": "out", "type": "standardise", "inputs": ["now"], "options": {}},
        ],
        "outputs": [
            {"name": "face", "node": "out", "kind": "continuous", "labels": [f"f{i}" for i in range(6)]}
        ],
    }
    tensors = {"out.mean": np.zeros(6, np.float32), "out.scale": np.ones(6, np.float32)}
    seen = Model.from_bytes(model_bytes(card, tensors)).run(pieces)
    heard = [np.flatnonzero(stamps <= t + 1e-6)[-1] for t in seen.times]
    np.testing.assert_array_equal(seen.values, rows[heard].astype(np.float32))
    nominal = [np.flatnonzero(stamps[0] + np.arange(20) / 25.0 <= t + 1e-6)[-1] for t in seen.times]
    assert heard != nominal  # by count alone other rows would be seen
    # A row that has the time of the row before is left out and counted.
    engine = Engine(MODEL)
    assert engine.push("face", rows[:1], 0.0) == 1
    assert engine.push("face", rows[1:2], 0.0) == 1
    assert engine.push("face", rows[1:2], 0.04) == 1
    assert engine.counters("face")["duplicates"] == 1
    assert engine.counters("face")["taken"] == 2
    with pytest.raises(InputError, match="smaller than the previous"):
        engine.push("face", rows[2:3], 0.03)


def test_a_front_end_behind_a_filter_that_overflows_it_is_not_valid():
    rows = {n["name"]: n for n in CARD["nodes"]}
    width = len(TENSORS["norm.mean"])
    card = {
        "schema": 2,
        "name": "loud",
        "version": "1",
        "inputs": [CARD["inputs"][0]],
        "nodes": [
            {
                "name": "gain",
                "type": "filter",
                "inputs": ["audio"],
                "options": {"sections": [[1e6, 0, 0, 0, 0]] * 5},
            },
            {**rows["mel"], "inputs": ["gain"]},
            rows["norm"],
            {"name": "out", "type": "activation", "inputs": ["norm"], "options": {"kind": "tanh"}},
        ],
        "outputs": [
            {"name": "mel", "node": "out", "kind": "continuous", "labels": [f"m{i}" for i in range(width)]}
        ],
    }
    tensors = {name: TENSORS[name] for name in ("norm.mean", "norm.scale")}
    engine = Engine(Model.from_bytes(model_bytes(card, tensors)))
    noise = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    noise[4000:] = 0
    engine.push("audio", noise)
    found = list(iter(engine.poll, None))
    start = 1 - rows["mel"]["options"]["win_length"]  # of a row's window, from its last sample
    assert [e.valid for e in found] == [e.sample + start >= 4000 for e in found]


def test_snapshots_go_on_from_where_they_were_taken():
    pushes = [(name, *cut(name, k / 10, (k + 1) / 10)) for k in range(40) for name in (*NAMES[1:], NAMES[0])]
    whole = live(Engine(MODEL), pushes, [True] * len(pushes))
    engine = Engine(MODEL)
    found = []
    for i, (name, time, frames) in enumerate(pushes):
        engine.push(name, as_input(name, frames), time)
        if i % 7 == 3:
            found += list(iter(engine.poll, None))
        if i == 61:
            kept, before = engine.snapshot(), list(found)
    engine.finish()
    found += list(iter(engine.poll, None))
    same(collected(found), whole)
    for other in (engine, Engine(MODEL, queue_s=1.0)):
        for _ in range(2):
            other.restore(kept)
            again = list(before)
            for name, time, frames in pushes[62:]:
                other.push(name, as_input(name, frames), time)
                again += list(iter(other.poll, None))
            other.finish()
            again += list(iter(other.poll, None))
            same(collected(again), whole)
            assert other.counters() == engine.counters() or other is engine
    stranger = Engine(Model.from_bytes(model_bytes({**CARD, "version": "2"}, TENSORS)))
    with pytest.raises(InputError, match="not of an engine over this model"):
        stranger.restore(kept)
    with pytest.raises(InputError, match="expected a Snapshot"):
        engine.restore(None)


def test_others_may_look_while_an_engine_is_restored():
    engine = Engine(MODEL, queue_s=10.0)
    time, frames = cut("face", 0, 2)
    engine.push("face", frames, time)
    kept = engine.snapshot()
    thread = threading.Thread(target=lambda: [engine.restore(kept) for _ in range(50)])
    thread.start()
    while thread.is_alive():
        assert engine.counters()["taken"] == len(frames)
        assert engine.latency() > 0
        with pytest.raises(InputError, match="sample 0 is nan"):
            engine.push("face", np.full((1, 6), np.nan, np.float32))
    thread.join()


def test_threads_push_one_input_each():
    pieces = {name: [cut(name, 0, 6)] for name in NAMES}
    whole = run(pieces)
    engine = Engine(MODEL, queue_s=0.5, wait_s=float("inf"))

    def producer(name: str) -> None:
        frames = SIGNALS[name]
        while len(frames):
            taken = engine.push(name, as_input(name, frames[: max(1, round(0.05 * RATES[name]))]))
            frames = frames[taken:]

    threads = [threading.Thread(target=producer, args=(name,)) for name in NAMES]
    found = []
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found += list(iter(engine.poll, None))
    for thread in threads:
        thread.join()
    engine.finish()
    found += list(iter(engine.poll, None))
    same(collected(found), whole)
    assert engine.counters()["late"] == 0


def test_reset_starts_anew():
    pieces = {name: [cut(name, 0, 2)] for name in NAMES}
    pushes = [(name, 0.0, parts[0][1]) for name, parts in pieces.items()]
    engine = Engine(MODEL, wait_s=float("inf"))
    first = live(engine, pushes, [True] * 3)
    engine.reset()
    assert engine.poll() is None
    assert set(engine.counters().values()) == {0}
    same(live(engine, pushes, [False] * 3), first)
    same(first, run(pieces))


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.sampled_from(["full", "stream"]))
@settings(max_examples=25)
def test_rows_without_a_value_are_gaps(known, mode):
    """As if they had been left out, at the times at which they would have been."""
    n = len(known)
    rows = np.where(np.array(known)[:, None], SIGNALS["face"][:n], np.nan)
    rest = {"eeg": [cut("eeg", 0, 3)], "audio": [cut("audio", 0.5, 3)]}
    one_by_one = [(i / 25, SIGNALS["face"][i : i + 1]) for i in range(n) if known[i]]
    same(run({**rest, "face": [(0.0, rows)]}, mode), run({**rest, "face": one_by_one}))
    given = {name: [(t, as_input(name, x)) for t, x in parts] for name, parts in rest.items()}
    same(MODEL.run({**given, "face": rows.astype(np.float64)}, mode), run({**rest, "face": one_by_one}))


def test_only_a_row_without_any_value_is_a_gap():
    rows = SIGNALS["face"][:5].copy()
    rows[3, 2] = np.nan
    with pytest.raises(InputError, match="sample 20 is nan"):  # six values a row
        MODEL.run({"face": rows})
    with pytest.raises(InputError, match="is nan"):
        MODEL.run({"eeg": np.full((4, 64), np.nan)})
    with pytest.raises(InputError, match="is nan"):
        MODEL.run({"audio": np.full(64, np.nan)})
    assert len(MODEL.run({"face": np.full((5, 6), np.nan)}).times) == 0


@pytest.mark.parametrize("clock", [False, True])
@pytest.mark.parametrize("missing", [None, -3.0])
def test_what_a_band_power_cannot_tell_is_invalid_however_it_is_run(clock, missing):
    """An electrode that came off: relative power of a flat channel is 0 by 0."""
    bands = {"bands": [["alpha", 8.0, 12.0]], "window": 1.0, "hop": 0.25, "segment": 0.5}
    if missing is not None:
        bands["missing"] = missing
    align = [{"name": "now", "type": "align", "inputs": ["bands"], "options": {}}]
    card = {
        "schema": 2,
        "name": "bands",
        "version": "1",
        "inputs": [CARD["inputs"][1]],
        **({"clock": CARD["clock"]} if clock else {}),
        "nodes": [
            {"name": "bands", "type": "band_power", "inputs": ["eeg"], "options": bands},
            *(align if clock else []),
            {"name": "out", "type": "standardise", "inputs": ["now" if clock else "bands"], "options": {}},
        ],
        "outputs": [{"name": "power", "node": "out", "kind": "continuous", "labels": list("abcd")}],
    }
    tensors = {"out.mean": np.zeros(4, np.float32), "out.scale": np.ones(4, np.float32)}
    model = Model.from_bytes(model_bytes(card, tensors))
    x = as_input("eeg", SIGNALS["eeg"]).copy()
    x[1, 256:512] = 1.0  # from 2 s to 4 s
    engine = Engine(model, queue_s=10.0)
    engine.push("eeg", x, 0.0)
    engine.finish()
    found = list(iter(engine.poll, None))
    off = np.array([3.05 < e.time < 3.95 for e in found])
    heard = np.array([not clock or e.present["eeg"] for e in found])
    assert off.sum() >= 3
    if missing is None:
        assert not any(e.valid for e in itertools.compress(found, off))
        assert all(np.isnan(e["b"]) and np.isfinite(e["a"]) for e in itertools.compress(found, off))
        assert heard[[e.valid for e in found]].all()
        assert sum(e.valid for e in found) > len(found) // 3
    else:
        assert [e.valid for e in found] == heard.tolist()
        assert all(e["b"] == missing for e in itertools.compress(found, off))
    for mode in ("full", "stream"):
        result = model.run({"eeg": x} if clock else x, mode)
        np.testing.assert_array_equal(result.values, [list(e.values.values()) for e in found])
        assert result.valid.tolist() == [e.valid for e in found]


def test_samples_from_before_the_first_tick_are_late_once_it_is_chosen():
    """Nobody is waited for, so the first input that comes sets where the clock begins: at 0.3 s."""
    for begin, late in ((0.0, 6), (0.21, 0)):  # 0, 0.04, ..., 0.2 s; a tick at 0.2 s would have shown them
        engine = Engine(MODEL, wait_s=0.0)
        eeg, face = as_input("eeg", SIGNALS["eeg"][:64]), SIGNALS["face"][:12]
        engine.push("eeg", eeg[:, :2], 0.259)
        assert engine.poll() is None
        engine.push("face", face, begin)
        engine.push("eeg", eeg[:, 2:])
        engine.finish()
        found = collected(list(iter(engine.poll, None)))
        assert engine.counters("face")["late"] == late
        whole = MODEL.run({"eeg": [(0.259, eeg)], "face": [(begin, face)]})
        assert found.times[0] == 0.3
        if not late:
            same(found, whole)


def test_estimates_say_what_they_rest_on():
    engine = Engine(MODEL, queue_s=10.0)
    for name in NAMES:
        time, frames = cut(name, 0, 2)
        engine.push(name, as_input(name, frames), time)
    e = engine.poll()
    assert e.time == 0.0
    assert e.present == {"audio": False, "eeg": False, "face": True}
    assert e.valid
    assert 0 < e.confidence < 1
    assert 1.5 < e.latency < 2
    assert engine.latency() == pytest.approx(1 / CLOCK + 16 / 128)
    assert MODEL.timing["clock_hz"] == CLOCK
    assert MODEL.timing["silence_s"] == SILENCE


@pytest.mark.parametrize(
    ("name", "samples", "time", "message"),
    [
        ("eeg", np.zeros((5, 4), np.float32), None, r"takes shape \(4, time\)"),
        ("eeg", np.zeros((4, 5), np.int16), None, "int16 samples are for audio"),
        ("face", np.zeros((6, 5), np.float32), None, r"takes shape \(time, 6\)"),
        ("face", np.full((5, 6), np.nan, np.float32), None, "sample 0 is nan"),
        ("face", np.zeros((5, 6), np.float32), float("inf"), "time is inf"),
        ("face", np.zeros((5, 6), np.float32), 1e18, "time is 1000"),
        ("video", np.zeros(5, np.float32), None, "no input"),
    ],
)
def test_bad_pushes(name, samples, time, message):
    engine = Engine(MODEL)
    with pytest.raises(InputError, match=message):
        engine.push(name, samples, time)
    assert engine.counters()["taken"] == 0


def test_arrays_of_any_layout():
    pieces = {name: [cut(name, 0, 1)] for name in NAMES}
    given = {name: [(t, as_input(name, x)) for t, x in parts] for name, parts in pieces.items()}
    whole = MODEL.run(given)
    wide = {n: [(t, np.asfortranarray(x.astype(np.float64))) for t, x in p] for n, p in given.items()}
    for parts in wide.values():
        parts[0][1].flags.writeable = False
    same(MODEL.run(wide), whole)
    same(MODEL.run({name: parts[0][1] for name, parts in given.items()}), whole)
    spread = {n: [(t, np.repeat(x, 2, axis=-1)[..., ::2]) for t, x in p] for n, p in given.items()}
    same(MODEL.run(spread), whole)
    assert len(MODEL.run({}).times) == 0
    assert len(MODEL.run({"face": np.zeros((0, 6))}).times) == 0


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(5, np.float32), "takes a mapping"),
        ({"video": np.zeros(5)}, "no input 'video'"),
        ({"face": [np.zeros((5, 6))]}, "expected a pair"),
        ({"face": [("now", np.zeros((5, 6)))]}, "time in seconds"),
        ({"face": [(1.0, np.zeros((5, 6))), (0.5, np.zeros((5, 6)))]}, "smaller than the previous"),
    ],
)
def test_bad_recordings(samples, message):
    with pytest.raises(InputError, match=message):
        MODEL.run(samples)


def test_what_a_clock_refuses():
    with pytest.raises(InputError, match="neither"):
        MODEL.run({}, sample_rate=8000.0)
    with pytest.raises(InputError, match="has a clock"):
        MODEL.full_pass()
    with pytest.raises(InputError, match="detector"):
        Engine(MODEL, detector="energy")
    with pytest.raises(InputError, match="wait_s"):
        Engine(MODEL, wait_s=-1.0)
    with pytest.raises(InputError, match="chunk"):
        MODEL.run({}, "stream", 0)
    with pytest.raises(InputError, match="modality"):
        Engine(MODEL).counters("video")


def changed(edit) -> Model:
    card = copy.deepcopy(CARD)
    edit(card)
    return Model.from_bytes(model_bytes(card, TENSORS))


def options(card: dict, name: str) -> dict:
    return next(n for n in card["nodes"] if n["name"] == name)["options"]


def inputs(card: dict, name: str) -> list:
    return next(n for n in card["nodes"] if n["name"] == name)["inputs"]


def test_a_queue_beyond_all_proportion_is_refused():
    fast = changed(lambda c: c["inputs"][2].update(rate=2e5))
    with pytest.raises(InputError, match="queue_s of 3600"):
        Engine(fast, queue_s=3600.0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("clock"), "needs a card with a 'clock'"),
        (lambda c: c["clock"].update(silence=0.05), "'silence' must be at least 2 samples"),
        (lambda c: c["clock"].update(rate=0), "'rate' must be"),
        (lambda c: c["clock"].update(phase=0), "not a field"),
        (lambda c: c.update(schema=1), "'kind' must be one of audio"),
        (lambda c: inputs(c, "joint").__setitem__(0, "bands"), "do not tick together"),
        (lambda c: inputs(c, "eeg_there").__setitem__(0, "bands"), "must be a node of type align"),
        (lambda c: inputs(c, "head").__setitem__(0, "mel"), "must have shape"),
        (lambda c: inputs(c, "attention").pop(), "the mask, must have one value"),
        (lambda c: options(c, "attention").update(heads=3), "multiple of 'heads'"),
        (lambda c: options(c, "clean").update(sections=[[1, 0, 0, -2, 1]]), "unit circle"),
        (lambda c: options(c, "clean").update(sections=[[1, 0]]), "arrays of 5 numbers"),
        (lambda c: options(c, "clean").update(sections=[]), "1 to 64 arrays"),
        (lambda c: options(c, "bands").update(bands=[["x", 8, 4]]), "band"),
        (lambda c: options(c, "bands").update(hop=0), "hop"),
        (lambda c: options(c, "bands").update(hop_length=16), "hop_length"),
        (lambda c: options(c, "bands").update(sample_rate=100), "differs from the input's rate"),
        (lambda c: options(c, "calm").update(beta=-1), "'beta' must be"),
        (lambda c: options(c, "calm").update(kind="median"), "'kind' must be one of"),
        (lambda c: c["confidence"].update(node="doubt"), "sigmoid activation"),
        (lambda c: c["inputs"][2].update(channels=0), "'channels' must be"),
        (lambda c: c["inputs"][0].update(unit="uV"), "'unit' must be one of full scale"),
        (lambda c: inputs(c, "mel").__setitem__(0, "eeg"), "must be an audio signal"),
        (lambda c: inputs(c, "bands").__setitem__(0, "face"), "|"),
    ],
)
def test_bad_cards(edit, message):
    with pytest.raises(ModelFileError, match=message):
        changed(edit)


def test_an_input_that_is_finished_is_not_waited_for():
    """Nor one that is left out of a whole recording, however many gaps another has."""
    engine = Engine(MODEL, wait_s=float("inf"), queue_s=10.0)
    for name in ("eeg", "face"):
        time, frames = cut(name, 0, 2)
        engine.push(name, as_input(name, frames), time)
    assert engine.poll() is None
    engine.finish("audio")
    given = list(iter(engine.poll, None))
    assert [e.time for e in given] == [k / CLOCK for k in range(20)]
    assert not any(e.present["audio"] for e in given)
    with pytest.raises(InputError, match="push after finish"):
        engine.push("audio", np.zeros(8, np.float32))
    time, frames = cut("eeg", 2, 3)
    engine.push("eeg", as_input("eeg", frames), time)
    assert engine.poll() is None  # the face is still to come
    engine.finish("face")
    assert engine.poll().time == 2.0
    assert engine.counters()["overdue"] == 0
    for wrong in ("video", "vid\udc80", 3):
        with pytest.raises(InputError, match=r"no input|expected a name"):
            engine.finish(wrong)
    step = int(0.01 * RATES["eeg"] * 3)
    eeg = signals(3.0)["eeg"]
    gaps = [(2.0 * k, as_input("eeg", eeg[k : k + step])) for k in range(100)]
    whole, streamed = MODEL.run({"eeg": gaps}), MODEL.run({"eeg": gaps}, "stream")
    same(whole, streamed)
    assert len(whole.times) >= 100
