"""The live engine in Python: statuses as errors, the clock, estimates by name, threads."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import affekt
import reference_model
from affekt import InputError, ModelFileError
from affekt._native import Model
from affekt.live import Engine, Estimate
from affekt.modelfile import model_bytes
from reference_model import Numbers

GOLDEN = Path(__file__).parent / "golden"
FILE = GOLDEN / "schema1_utterance.safetensors"
SIGNAL = Numbers(7).signal(12000)
MODEL = affekt.load(FILE)


@pytest.fixture
def engine() -> Engine:
    return Engine(MODEL)


def drain(engine: Engine) -> list[Estimate]:
    return list(iter(engine.poll, None))


def test_estimates_are_named(engine):
    engine.push("audio", SIGNAL)
    first = engine.poll()
    values = MODEL.run(SIGNAL)[1][0]
    assert list(first.values) == MODEL.columns
    assert first["valence"] == float(values[0])
    assert first.probabilities == {
        k: float(v) for k, v in zip(("calm", "happy", "sad"), values[3:], strict=True)
    }
    assert "p_calm" in first
    assert "calm" not in first
    assert first.valid
    assert first.sample == first.time * 8000
    with pytest.raises(KeyError):
        first["joy"]
    trace = Engine(GOLDEN / "schema1_trace.safetensors")
    trace.push("audio", SIGNAL)
    assert trace.poll().probabilities == {}


def test_nothing_comes_of_nothing(engine):
    assert engine.poll() is None
    assert engine.push("audio", np.zeros(0, np.float32)) == 0
    assert engine.push("audio", SIGNAL[:100]) == 100
    assert engine.poll() is None
    engine.finish()
    assert engine.poll() is None
    assert engine.latency() == pytest.approx(0.092)  # until the first estimate; the hop is 0.06 s


BAD_PUSHES = {
    "unknown modality": (("video", SIGNAL, 1.0), "'video'; it listens to: audio"),
    "lone surrogate": (("\ud800", SIGNAL, 1.0), r"no input '\\ud800'; it listens to: audio"),
    "modality not text": ((3, SIGNAL, 1.0), "modality: expected a name"),
    "time backwards": (("audio", SIGNAL, 0.5), r"smaller than the previous push's time: time is 0\.5"),
    "time nan": (("audio", SIGNAL, float("nan")), "time is nan"),
    "time infinite": (("audio", SIGNAL, float("inf")), "time is inf"),
    "time not a number": (("audio", SIGNAL, "now"), "time: expected seconds"),
    "nan sample": (("audio", np.array([0.0, np.nan]), 1.0), "sample 1 is nan"),
    "infinite sample": (("audio", np.array([np.inf], "f4"), 1.0), "sample 0 is inf"),
    "far beyond full scale": (("audio", np.full(9, 1e7), 1.0), "sample 0 is 10000000"),
    "two dimensions": (("audio", np.zeros((1, 9), "f4"), 1.0), r"got shape \(1, 9\)"),
    "24-bit in int32": (("audio", np.zeros(9, "i4"), 1.0), "got dtype int32"),
    "8-bit": (("audio", np.zeros(9, "u1"), 1.0), "got dtype uint8"),
    "bytes": (("audio", b"\0\0", 1.0), "samples: expected one dimension"),
    "nothing": (("audio", None, 1.0), "samples"),
}


@pytest.mark.parametrize("kind", BAD_PUSHES)
def test_bad_push_raises_and_takes_nothing(engine, kind):
    arguments, message = BAD_PUSHES[kind]
    engine.push("audio", SIGNAL[:4000], 0.9)
    with pytest.raises(InputError, match=message):
        engine.push(*arguments)
    engine.push("audio", SIGNAL[4000:], 1.4)
    engine.finish()
    got = drain(engine)
    times, values = MODEL.run(SIGNAL)
    assert [list(e.values.values()) for e in got] == values.tolist()
    np.testing.assert_allclose([e.time for e in got], times + 0.9, atol=1e-9)
    assert engine.counters()["taken"] == len(SIGNAL)


def test_push_after_finish_raises_until_reset(engine):
    engine.push("audio", SIGNAL, 7.0)
    engine.finish()
    engine.finish()
    with pytest.raises(InputError, match="push after finish"):
        engine.push("audio", SIGNAL)
    before = drain(engine)
    assert engine.counters() == {
        "taken": 12000,
        "refused": 0,
        "rejected": 1,
        "reanchors": 0,
        "dejittered": 0,
        "estimates": len(before),
        "invalid": 0,
    }
    engine.reset()
    assert set(engine.counters().values()) == {0}
    engine.push("audio", SIGNAL)
    engine.finish()
    after = drain(engine)
    assert [e.values for e in after] == [e.values for e in before]
    assert after[0].time == pytest.approx(before[0].time - 7.0)


def test_a_reset_in_the_middle_forgets(engine):
    engine.push("audio", SIGNAL[5000:])
    engine.poll()
    engine.reset()
    engine.push("audio", SIGNAL)
    engine.finish()
    assert [list(e.values.values()) for e in drain(engine)] == MODEL.run(SIGNAL)[1].tolist()


def test_full_queue_takes_what_fits():
    engine = Engine(MODEL, queue_s=0.5)
    assert engine.push("audio", SIGNAL) == 4000
    assert engine.push("audio", SIGNAL[4000:]) == 0
    assert engine.counters()["refused"] == 8000 + 8000
    drain(engine)
    assert engine.push("audio", SIGNAL[4000:]) == 4000


def test_clock_follows_gaps_but_not_jitter(engine):
    rng = np.random.default_rng(1)
    for i in range(15):
        late = 2.0 if i >= 8 else 0.0
        engine.push("audio", SIGNAL[800 * i : 800 * (i + 1)], 50 + 0.1 * i + late + rng.uniform(-0.04, 0.04))
    engine.finish()
    got = drain(engine)
    times = MODEL.run(SIGNAL)[0]
    offset = np.array([e.time for e in got]) - times
    late = times >= 0.8 - 1e-9
    assert np.ptp(offset[~late]) < 1e-9
    assert np.ptp(offset[late]) < 1e-9
    assert offset[0] == pytest.approx(50, abs=0.05)
    assert offset[-1] == pytest.approx(52, abs=0.05)
    assert engine.counters()["reanchors"] == 1


@pytest.mark.parametrize(
    "options", [{"queue_s": 0}, {"queue_s": float("nan")}, {"queue_s": 1e9}, {"reanchor_s": -1}]
)
def test_options_out_of_range(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Engine(MODEL, **options)


def test_more_moves_than_the_clock_keeps_stop_nothing():
    card, tensors = reference_model.utterance()
    card = {key: value for key, value in card.items() if key != "latency"}
    pool = next(node for node in card["nodes"] if node["type"] == "pool")
    pool["options"]["hop"] = 50  # an estimate per second
    engine = Engine(Model.from_bytes(model_bytes(card, tensors)))
    assert engine.model.timing["hop_s"] == pytest.approx(1.0)
    got = []
    for i in range(300):  # 10 ms each, with gaps of 0.2 s
        assert engine.push("audio", SIGNAL[:80], time=i * 0.21) == 80
        got += drain(engine)
    assert len(got) == 2
    assert engine.counters()["refused"] == 0
    assert [e.time for e in got] == sorted(e.time for e in got)
    assert engine.counters()["reanchors"] > 100


def test_options_of_another_type():
    with pytest.raises(InputError, match="queue_s"):
        Engine(MODEL, queue_s="long")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"model: expected a model, its file or the name .* got NoneType"):
        Engine(None)  # type: ignore[arg-type]


def test_file_that_is_no_model(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("valence,arousal\n")
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        Engine(path)


def test_model_for_another_modality():
    card, tensors = reference_model.utterance()
    card["inputs"][0]["name"] = card["nodes"][0]["inputs"][0] = "speech"
    from affekt._native import Model
    from affekt.modelfile import model_bytes

    engine = Engine(Model.from_bytes(model_bytes(card, tensors)))
    with pytest.raises(InputError, match="'audio'; it listens to: speech"):
        engine.push("audio", SIGNAL)
    assert engine.push("speech", SIGNAL) == len(SIGNAL)


def test_one_thread_pushes_and_another_polls():
    engine = Engine(MODEL, queue_s=0.05)
    signal = np.tile(SIGNAL, 5)
    expected = MODEL.run(signal)[1]
    got: list[Estimate] = []

    def produce() -> None:
        rest = signal
        while len(rest):
            rest = rest[engine.push("audio", rest[:500]) :]
        engine.finish()

    producer = threading.Thread(target=produce)
    producer.start()
    while len(got) < len(expected):
        got += drain(engine)
    producer.join()
    assert drain(engine) == []
    assert [list(e.values.values()) for e in got] == expected.tolist()


def test_misuse_by_many_threads_is_harmless():
    """Two producers and two consumers on one engine: the order is theirs to lose, memory is not."""
    engine = Engine(MODEL, queue_s=0.1)
    counts: list[int] = []

    def work() -> None:
        for i in range(200):
            engine.push("audio", SIGNAL[:123])
            counts.append(len(drain(engine)))
            if i % 50 == 49:
                engine.reset()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) > 0


def test_many_sessions_share_one_model():
    expected = MODEL.run(SIGNAL)
    results: list = [None] * 4

    def run(i: int) -> None:
        results[i] = MODEL.run(SIGNAL, mode="stream", chunk=100 + i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for times, values in results:
        assert np.array_equal(times, expected[0])
        assert values.tobytes() == expected[1].tobytes()
