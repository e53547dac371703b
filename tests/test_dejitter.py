"""Regression through time stamps: against weighted least squares of all stamps, for any chunking, with drift,
jumps and rows beside it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affekt import InputError
from affekt._native import Model
from affekt.live import Engine
from affekt.modelfile import model_bytes
from fused_model import RATES, as_input, fused, signals

RATE = 100.0
GRAIN = 5  # samples between two lines
STIFF = (1e-2 / 1e-4) ** 2
FUSED = Model.from_bytes(model_bytes(*fused()))
SIGNALS = signals(4.0)


def plain() -> Model:
    """Every sample is an estimate, so every time shows."""
    card = {
        "schema": 2,
        "name": "times",
        "version": "1",
        "inputs": [{"name": "x", "kind": "signal", "rate": RATE, "channels": 1, "unit": "V"}],
        "nodes": [{"name": "out", "type": "standardise", "inputs": ["x"], "options": {}}],
        "outputs": [{"name": "y", "node": "out", "kind": "continuous", "labels": ["y"]}],
    }
    tensors = {"out.mean": np.zeros(1, np.float32), "out.scale": np.ones(1, np.float32)}
    return Model.from_bytes(model_bytes(card, tensors))


PLAIN = plain()


def timed(stamps: list[tuple[int, float]], total: int, **options: float) -> tuple[np.ndarray, dict]:
    """Times of all samples for stamps at those samples, and the counters."""
    engine = Engine(PLAIN, **options)
    edges = [index for index, _ in stamps] + [total]
    times = []
    for (index, stamp), end in zip(stamps, edges[1:], strict=True):
        assert engine.push("x", np.zeros(end - index, np.float32), stamp) == end - index
        times += [e.time for e in iter(engine.poll, None)]
    return np.array(times), engine.counters()


def expected(stamps: list[tuple[int, float]], total: int, half_life: float) -> np.ndarray:
    """Times by a weighted least squares of all stamps at every stamp: no jumps."""
    index = np.array([i for i, _ in stamps])
    stamp = np.array([t for _, t in stamps])
    times = np.empty(total)
    laid = None
    for n in range(1, len(stamps) + 1):
        at = index[n - 1]
        if laid is None or at - laid >= GRAIN:
            u = (index[:n] - at) / RATE
            weight = np.sqrt(0.5 ** (-u / half_life))
            count = stamp[0] + (index[:n] - index[0]) / RATE
            # offset and drift, and that the drift is small
            matrix = np.vstack([np.stack([weight, weight * u], axis=1), [0, np.sqrt(STIFF)]])
            offset, drift = np.linalg.lstsq(matrix, np.append(weight * (stamp[:n] - count), 0), rcond=None)[0]
            start, stretch, laid = count[-1] + offset, 1 + drift, at
        end = index[n] if n < len(stamps) else total
        times[at:end] = start + (np.arange(at, end) - laid) / RATE * stretch
    return times


@settings(max_examples=25)
@given(
    steps=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    jitter=st.lists(st.floats(-0.015, 0.015), min_size=60, max_size=60),
    drift=st.floats(-1e-3, 1e-3),
    half_life=st.sampled_from([1.0, 7.0, 90.0]),
)
def test_lines_are_those_of_a_weighted_least_squares(steps, jitter, drift, half_life):
    index = np.concatenate([[0], np.cumsum(steps)[:-1]]).astype(int)
    stamp = np.maximum.accumulate(50.0 + index / RATE * (1 + drift) + np.array(jitter[: len(index)]))
    stamps = list(zip(index.tolist(), stamp.tolist(), strict=True))
    total = int(sum(steps))
    times, counted = timed(stamps, total, dejitter_s=half_life, reanchor_s=1.0)
    np.testing.assert_allclose(times, expected(stamps, total, half_life), atol=1e-8)
    assert counted["reanchors"] == 0
    assert counted["dejittered"] == len(stamps) - 1


def test_drift_is_followed_and_jitter_averaged():
    draw = np.random.default_rng(0)
    index = np.arange(0, 200000, 10)
    true = index / RATE * (1 + 2e-4)
    stamps = list(zip(index.tolist(), (true + draw.uniform(0, 0.02, len(index))).tolist(), strict=True))
    times, counted = timed(stamps, 200000, dejitter_s=90.0)
    error = times - 0.01 - np.arange(200000) / RATE * (1 + 2e-4)
    late = np.arange(200000) > 60000
    assert np.abs(error[late]).max() < 0.003  # of stamps with +-10 ms
    assert (np.abs(np.diff(times)[60000:] * RATE - 1) < 0.2).all()
    assert counted["reanchors"] == 0
    # By counting alone the same drift moves the clock by steps.
    stepped, counted = timed(stamps, 200000)
    assert counted["reanchors"] >= 3
    assert counted["dejittered"] == 0
    assert np.abs(stepped - 0.01 - np.arange(200000) / RATE * (1 + 2e-4)).max() > 0.08


def test_a_jump_starts_anew_and_keeps_the_drift():
    index = np.arange(0, 100000, 10)
    true = index / RATE * (1 + 3e-4) + np.where(index >= 50000, 7.0, 0.0)
    stamps = list(zip(index.tolist(), true.tolist(), strict=True))
    times, counted = timed(stamps, 100000, dejitter_s=60.0)
    assert counted["reanchors"] == 1
    assert times[50000] == true[5000]
    # Without what was known before, the first lines would count at the nominal rate: 3e-4 s in a second.
    np.testing.assert_allclose(
        times[50000:52000] - times[50000], np.arange(2000) / RATE * (1 + 3e-4), atol=1e-4
    )
    np.testing.assert_allclose(times[90000:], np.arange(90000, 100000) / RATE * (1 + 3e-4) + 7.0, atol=1e-4)


def jittered(seed: int) -> dict[str, list[tuple[float, np.ndarray]]]:
    """All inputs in pieces with times that jitter, audio and EEG on clocks that drift."""
    draw = np.random.default_rng(seed)
    pieces = {}
    for name, x in SIGNALS.items():
        rate = RATES[name]
        edges = np.unique(draw.integers(0, len(x), 40 if name != "face" else 99))
        edges = np.concatenate([[0], edges[edges > 0], [len(x)]])
        stamp = edges[:-1] / rate * (1 + {"audio": 3e-4, "eeg": -3e-4, "face": 0.0}[name])
        stamp = np.maximum.accumulate(stamp + draw.uniform(0, 0.02, len(stamp)))
        pieces[name] = [(float(t), x[a:b]) for t, a, b in zip(stamp, edges[:-1], edges[1:], strict=True)]
    return pieces


@settings(max_examples=10)
@given(data=st.data())
def test_only_the_stamps_decide(data):
    """Full pass, replay in any chunks and an engine that is pushed to in any order agree bit for bit."""
    pieces = jittered(data.draw(st.integers(0, 99)))
    half_life = data.draw(st.sampled_from([1.0, 30.0]))
    given = {name: [(t, as_input(name, x)) for t, x in parts] for name, parts in pieces.items()}
    whole = FUSED.run(given, dejitter_s=half_life)
    assert len(whole.times) >= 39
    stream = FUSED.run(given, "stream", data.draw(st.integers(1, 700)), dejitter_s=half_life)
    np.testing.assert_array_equal(stream.times, whole.times)
    np.testing.assert_array_equal(stream.values, whole.values)
    np.testing.assert_array_equal(stream.present, whole.present)
    engine = Engine(FUSED, wait_s=float("inf"), dejitter_s=half_life)
    left = {name: list(reversed(parts)) for name, parts in pieces.items()}
    order = data.draw(st.randoms(use_true_random=False))
    values = []
    while any(left.values()):
        name = order.choice([name for name in left if left[name]])
        time, frames = left[name].pop()
        cut = order.randrange(1, len(frames) + 1)
        assert engine.push(name, as_input(name, frames[:cut]), time) == cut
        engine.push(name, as_input(name, frames[cut:]))
        if order.random() < 0.3:
            values += [list(e.values.values()) for e in iter(engine.poll, None)]
    engine.finish()
    values += [list(e.values.values()) for e in iter(engine.poll, None)]
    np.testing.assert_array_equal(np.array(values, np.float32), whole.values)
    assert engine.counters("face")["dejittered"] == 0  # rows keep their stamps
    assert engine.counters("eeg")["dejittered"] == len(pieces["eeg"]) - 1
    assert engine.counters()["late"] == 0


def test_snapshots_and_resets_keep_the_line():
    stamps = [(i, i / RATE + 0.01 * (i % 3 == 0)) for i in range(0, 600, 7)]
    whole, _ = timed(stamps, 607, dejitter_s=5.0)
    engine, other = Engine(PLAIN, dejitter_s=5.0), Engine(PLAIN)
    for _ in range(2):
        times = []
        for n, (index, stamp) in enumerate(stamps):
            if n == 40:
                other.restore(engine.snapshot())
            end = stamps[n + 1][0] if n + 1 < len(stamps) else 607
            for to in (engine, other)[: 2 if n >= 40 else 1]:
                to.push("x", np.zeros(end - index, np.float32), stamp)
            times += [e.time for e in iter(engine.poll, None)]
        np.testing.assert_array_equal(times, whole)
        again = [e.time for e in iter(other.poll, None)]
        np.testing.assert_array_equal(again, whole[stamps[40][0] :])
        engine.reset()


@pytest.mark.parametrize("value", [0.0, 0.99, -3.0, float("nan"), float("inf"), 1e7])
def test_half_lives_that_cannot_be(value):
    for make in (
        lambda: Engine(PLAIN, dejitter_s=value),
        lambda: FUSED.run({}, dejitter_s=value),
        lambda: FUSED.run({}, "stream", dejitter_s=value),
    ):
        with pytest.raises(InputError, match="dejitter_s must be in"):
            make()


def test_bad_input():
    with pytest.raises(InputError, match="dejitter_s: expected a number"):
        Engine(PLAIN, dejitter_s="long")
    with pytest.raises(InputError, match="dejitter_s: expected a number"):
        FUSED.run({}, dejitter_s="long")
    with pytest.raises(InputError, match="only a model with a clock"):
        PLAIN.run(np.zeros(9, np.float32), dejitter_s=90.0)
    engine = Engine(PLAIN, dejitter_s=90.0)
    engine.push("x", np.zeros(10, np.float32), 1.0)
    with pytest.raises(InputError, match="smaller than the previous"):
        engine.push("x", np.zeros(10, np.float32), 0.5)
    with pytest.raises(InputError, match="NaN or infinite"):
        engine.push("x", np.zeros(10, np.float32), float("nan"))
    assert engine.counters()["dejittered"] == 0
