"""Many sessions as one block: each with the bits of an engine alone."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affekt
from affekt import InputError
from affekt._native import Model
from affekt.live import Engine, EnginePool
from affekt.modelfile import model_bytes
from fused_model import RATES, as_input, fused, signals
from small_model import small_model

GOLDEN = Path(__file__).parent / "golden"
MODEL = Model.from_bytes(model_bytes(*fused()))
SIGNALS = [signals(3.0, seed) for seed in range(5, 14)]
SPEECH = [
    "schema1_utterance.safetensors",
    "schema1_utterance_int8.safetensors",
    "schema1_trace.safetensors",
    "schema1_speaker.safetensors",
]


class Found:
    """What came out of every session of a pool, in its order."""

    def __init__(self, pool: EnginePool) -> None:
        self.pool = pool
        self.parts = []

    def poll(self) -> None:
        self.parts.append(self.pool.poll())

    def rows(self, session: int) -> list[tuple]:
        return [
            (
                p.times[i],
                p.samples[i],
                p.values[i].tobytes(),
                p.valid[i],
                tuple(p.present[i]),
                p.latency[i],
                None if p.confidence is None else p.confidence[i],
            )
            for p in self.parts
            for i in np.flatnonzero(p.sessions == session)
        ]


def rows_of(estimates: list) -> list[tuple]:
    """The same of an engine's own estimates."""
    return [
        (
            e.time,
            e.sample,
            np.array(list(e.values.values()), np.float32).tobytes(),
            e.valid,
            tuple(e.present.values()),
            e.latency,
            None if e.confidence is None else np.float32(e.confidence),
        )
        for e in estimates
    ]


def pushes_of(signal: dict, cuts: list[tuple[int, int]]) -> list[tuple]:
    """(input, time, frames) in tenths of a second; an input rests in the tenths that `cuts` names for it."""
    pushes = []
    for k in range(30):
        for i, (name, x) in enumerate(signal.items()):
            if (i, k) in cuts:
                continue
            first, last = (round(0.1 * t * RATES[name]) for t in (k, k + 1))
            pushes.append((name, first / RATES[name], x[first:last]))
    return pushes


@settings(max_examples=10)
@given(data=st.data())
def test_any_order_of_pushes_and_polls_gives_the_bits_of_engines_alone(data):
    sessions = data.draw(st.integers(1, len(SIGNALS)))
    pool = EnginePool(MODEL, data.draw(st.integers(0, sessions)), wait_s=float("inf"))
    while len(pool) < sessions:
        pool.add()
    found = Found(pool)
    rests = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 29)), max_size=12)
    plans = [pushes_of(SIGNALS[s], data.draw(rests)) for s in range(sessions)]
    order = data.draw(st.randoms(use_true_random=False))
    left = [list(reversed(plan)) for plan in plans]
    while any(left):
        s = order.choice([s for s in range(sessions) if left[s]])
        for _ in range(min(len(left[s]), order.randrange(1, 30))):
            name, time, frames = left[s].pop()
            assert pool[s].push(name, as_input(name, frames), time) == len(frames)
        if order.random() < 0.3:
            found.poll()
    for session in pool:
        session.finish()
    found.poll()
    assert len(pool.poll()) == 0
    for s, plan in enumerate(plans):
        engine = Engine(MODEL, wait_s=float("inf"))
        for name, time, frames in plan:
            engine.push(name, as_input(name, frames), time)
        engine.finish()
        alone = rows_of(list(iter(engine.poll, None)))
        # The latency depends on how far the inputs were when it was polled.
        assert [r[:5] + r[6:] for r in found.rows(s)] == [r[:5] + r[6:] for r in alone]
        assert pool[s].counters()["estimates"] == len(alone) > 0
        assert pool[s].counters()["late"] == 0


def test_sessions_that_two_threads_add_have_the_core_s_numbers():
    pool = EnginePool(MODEL)
    core, held = pool._native, threading.Event()

    class Slow:
        """The core's pool, whose first session is handed over late."""

        def add(self):
            session = core.add()
            if not held.is_set():
                held.set()
                second.join(0.5)
            return session

        def __getattr__(self, name):
            return getattr(core, name)

    pool._native = Slow()
    second = threading.Thread(target=lambda: held.wait(20) and pool.add())
    second.start()
    first = pool.add()
    second.join(20)
    assert len(pool) == 2
    assert pool[0] is first
    pool[0].push("face", np.zeros((3, 6), np.float32), 0.0)
    pool[0].finish()
    assert set(pool.poll().sessions) == {0}


def test_a_poll_ends_and_the_next_goes_on(tmp_path):
    model = affekt.load(small_model(tmp_path / "small.safetensors", pool=False))
    samples = np.random.default_rng(3).normal(0, 0.1, 60 * 16000).astype(np.float32)
    pool, alone = EnginePool(model, 1, queue_s=61.0), Engine(model, queue_s=61.0)
    found = Found(pool)
    assert pool[0].push("audio", samples) == alone.push("audio", samples) == len(samples)
    for _ in range(3):
        found.poll()
    assert [len(part) for part in found.parts[::2]] == [1024, 0]
    assert found.rows(0) == rows_of(list(iter(alone.poll, None)))


@pytest.mark.parametrize("file", SPEECH)
def test_models_without_a_clock(file):
    model = affekt.load(GOLDEN / file)
    draw = np.random.default_rng(4)
    whole = [draw.normal(0, 0.1, 9000 - 500 * s).astype(np.float32) for s in range(6)]
    pool = EnginePool(model, len(whole))
    engines = [Engine(model) for _ in whole]
    found, alone = Found(pool), [[] for _ in whole]
    for at in range(0, 9000, 450):
        for s, x in enumerate(whole):
            piece = x[at : at + 450]
            pool[s].push("audio", piece)
            engines[s].push("audio", piece)
            alone[s] += list(iter(engines[s].poll, None))
        found.poll()
    for s, engine in enumerate(engines):
        pool[s].finish()
        engine.finish()
        alone[s] += list(iter(engine.poll, None))
    found.poll()
    for s in range(len(whole)):
        assert found.rows(s) == rows_of(alone[s])
        assert found.rows(s)
        np.testing.assert_array_equal(
            np.frombuffer(b"".join(r[2] for r in found.rows(s)), np.float32).reshape(-1, len(model.columns)),
            model.run(whole[s]).values,
        )


def test_a_profile_belongs_to_its_session():
    model = affekt.load(GOLDEN / "schema1_speaker.safetensors")
    x = np.random.default_rng(1).normal(0, 0.1, 12000).astype(np.float32)
    profile = model.run(x).profile
    pool = EnginePool(model)
    pool.add()
    pool.add(profile)
    found = Found(pool)
    for session in pool:
        session.push("audio", x)
        session.finish()
    found.poll()
    for s, start in enumerate((None, profile)):
        values = np.frombuffer(b"".join(r[2] for r in found.rows(s)), np.float32)
        np.testing.assert_array_equal(values, model.run(x, profile=start).values.ravel())
    other = affekt.load(GOLDEN / "schema1_utterance.safetensors")
    with pytest.raises(InputError, match="no profiles"):
        EnginePool(other).add(profile)
    assert len(pool) == 2


def test_sessions_start_again_and_move_to_other_engines():
    pool = EnginePool(MODEL, 3, queue_s=5.0)
    found = Found(pool)
    plan = pushes_of(SIGNALS[0], [])
    for name, time, frames in plan[:45]:
        for session in pool:
            session.push(name, as_input(name, frames), time)
    found.poll()
    kept = pool[1].snapshot()
    pool[0].reset()
    pool[2].restore(kept)
    moved = Engine(MODEL)
    moved.restore(kept)
    assert pool[0].counters()["taken"] == 0
    later, rest = Found(pool), []
    for name, time, frames in plan[45:]:
        pool[1].push(name, as_input(name, frames), time)
        pool[2].push(name, as_input(name, frames), time)
        moved.push(name, as_input(name, frames), time)
    for name, time, frames in plan:
        pool[0].push(name, as_input(name, frames), time)
        later.poll()
    rest += list(iter(moved.poll, None))

    def told(rows: list) -> list:  # not the latency: the pushes came in other portions
        return [r[:5] + r[6:] for r in rows]

    assert told(later.rows(1)) == told(later.rows(2)) == told(rows_of(rest))
    assert told(found.rows(1)) + told(later.rows(1)) == told(later.rows(0))
    # A session by itself.
    pool[0].reset()
    for name, time, frames in plan:
        pool[0].push(name, as_input(name, frames), time)
    alone = [pool[0].poll()]
    last = Found(pool)
    last.poll()
    assert told(rows_of(alone)) + told(last.rows(0)) == told(later.rows(0))


def test_producers_on_threads_of_their_own():
    pool = EnginePool(MODEL, 4, wait_s=float("inf"), queue_s=0.5)

    def produce(s: int) -> None:
        for name, _, frames in pushes_of(SIGNALS[s], []):
            while len(frames):
                frames = frames[pool[s].push(name, as_input(name, frames)) :]

    threads = [threading.Thread(target=produce, args=(s,)) for s in range(4)]
    found = Found(pool)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        found.poll()
    for session in pool:
        session.finish()
    found.poll()
    for s in range(4):
        whole = MODEL.run({name: [(0.0, as_input(name, x))] for name, x in SIGNALS[s].items()})
        assert [r[0] for r in found.rows(s)] == whole.times.tolist()
        assert b"".join(r[2] for r in found.rows(s)) == whole.values.tobytes()


def test_bad_input():
    for sessions in (-1, 1.5, True, "many", None):
        with pytest.raises(InputError, match="sessions must be an integer"):
            EnginePool(MODEL, sessions)
    with pytest.raises(InputError, match="queue_s must be"):
        EnginePool(MODEL, 1, queue_s=0.0)
    with pytest.raises(InputError, match="wait_s: expected a number"):
        EnginePool(MODEL, wait_s="long")
    pool = EnginePool(MODEL)
    assert len(pool) == len(pool.poll()) == 0
    assert pool.poll().values.shape == (0, 2)
    with pytest.raises(IndexError):
        pool[0]
    session = pool.add()
    with pytest.raises(InputError, match="no input of this name: 'video'"):
        session.push("video", np.zeros(3, np.float32))
    with pytest.raises(InputError, match="NaN"):
        session.push("audio", np.full(3, np.nan, np.float32))
    del pool
    assert session.poll() is None  # the session keeps the pool alive
    assert "sessions over" in repr(EnginePool(MODEL, 2))
