"""Running a model: agreement with the definitions, and the same bits however the signal is cut."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affekt
import reference_model
from affekt import AffektError, InputError, ModelFileError
from affekt._native import Estimates, Model
from affekt.live import Engine
from affekt.modelfile import model_bytes
from reference_model import Numbers

GOLDEN = Path(__file__).parent / "golden"
SIGNAL = Numbers(7).signal(12000)


def build(card, tensors) -> Model:
    return Model.from_bytes(model_bytes(card, tensors))


UTTERANCE = build(*reference_model.utterance())
TRACE = build(*reference_model.trace())
SPEAKER = build(*reference_model.speaker())
MODELS = {
    "utterance": UTTERANCE,
    "trace": TRACE,
    "utterance_int8": build(*reference_model.utterance_int8()),
    "speaker": SPEAKER,
    "ensemble": build(*reference_model.ensemble()),
}


def same(a, b) -> bool:
    """Equal times and validity, and values equal bit for bit."""
    equal = np.array_equal(a[0], b[0]) and np.array_equal(a.valid, b.valid)
    return equal and a[1].shape == b[1].shape and a[1].tobytes() == b[1].tobytes()


def estimates_of(model: Model, got: list) -> Estimates:
    """What an engine gave, as `Model.run` gives it."""
    rows = np.array([list(e.values.values()) for e in got], np.float32).reshape(-1, len(model.columns))
    return Estimates(np.array([e.time for e in got]), rows, np.array([e.valid for e in got], bool))


# Values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"schema1_{name}" for name in MODELS])
def test_golden_files_load_and_give_their_values(name):
    model = affekt.load(GOLDEN / f"{name}.safetensors")
    table = np.genfromtxt(GOLDEN / f"{name}.csv", delimiter=",", names=True)
    says = ("valid",) if "validity" in model.card else ()
    assert tuple(table.dtype.names) == ("time", *model.columns, *says)
    found = model.run(SIGNAL)
    times, values = found
    np.testing.assert_array_equal(found.valid, table["valid"] == 1 if says else np.ones(len(times), bool))
    np.testing.assert_allclose(times, table["time"], atol=1e-6)
    for i, column in enumerate(model.columns):
        np.testing.assert_allclose(values[:, i], table[column], atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "prelu"])
@pytest.mark.parametrize("pool", ["attention_statistics", "attention", "statistics", "mean", "count"])
@pytest.mark.parametrize("half_life", [None, 4.0])
def test_agrees_with_the_definitions(activation, pool, half_life):
    card, tensors = reference_model.utterance(
        activation=activation, pool=pool, half_life=half_life, window=11, hop=2, seed=len(pool)
    )
    times, values = build(card, tensors).run(SIGNAL)
    expected_times, expected = reference_model.run(card, tensors, SIGNAL)
    np.testing.assert_allclose(times, expected_times, rtol=0, atol=1e-12)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    assert values[:, 3:].sum(axis=1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sigmoid"},
        {"kind": "tanh"},
        {"kind": "identity"},
        {"kind": "leaky_relu", "slope": 0.3},
        {"kind": "relu"},
        {"kind": "clip", "min": -0.1, "max": 0.05},
    ],
)
def test_output_activations(change):
    card, tensors = reference_model.trace()
    card["nodes"][-1]["options"] = change
    np.testing.assert_allclose(
        build(card, tensors).run(SIGNAL)[1], reference_model.run(card, tensors, SIGNAL)[1], rtol=0, atol=1e-5
    )


def test_an_average_is_the_mean_of_its_inputs():
    """In their order and in double, whatever they hold: an input may be the same node again."""
    card, tensors = reference_model.trace()
    single = build(card, tensors).run(SIGNAL).values.astype(np.float64)
    shift = {"shift.weight": np.diag([3.0, -5.0]).astype("f4"), "shift.bias": np.full(2, 0.7, "f4")}
    card["nodes"].append(reference_model.node("shift", "linear", "affect", units=2))
    card["nodes"].append(reference_model.node("mean", "average", ["affect", "shift", "affect"]))
    card["outputs"][0]["node"] = "mean"
    times, values = build(card, tensors | shift).run(SIGNAL)
    expected_times, expected = reference_model.run(card, tensors | shift, SIGNAL)
    np.testing.assert_allclose(times, expected_times, rtol=0, atol=1e-12)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    moved = (single * [3.0, -5.0] + np.float32(0.7)).astype(np.float32)
    np.testing.assert_allclose(values, (single + moved + single) / 3, rtol=1e-6, atol=1e-7)


def test_extreme_decay_and_scores_stay_finite():
    """A half-life far below one row, and scores whose exponentials overflow, still give a weighted mean."""
    card, tensors = reference_model.utterance(half_life=1e-3)
    tensors["pool.score.weight"] = tensors["pool.score.weight"] * np.float32(1e6)
    values = build(card, tensors).run(SIGNAL)[1]
    assert np.isfinite(values).all()


# Any cut ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@given(
    data=st.data(),
    n=st.integers(0, len(SIGNAL)),
    kind=st.sampled_from(["int16", "float32", "float64"]),
)
def test_any_chunking_gives_the_same_bits(name, data, n, kind):
    model = MODELS[name]
    whole = model.run(SIGNAL[:n])
    signal = SIGNAL[:n] if kind == "int16" else (SIGNAL[:n] / 32768.0).astype(kind)
    assert same(model.run(signal), whole)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=12)))
    pieces = np.split(signal, cuts)

    single = model.full_pass()
    parts = [single.feed(piece) for piece in pieces] + [single.finish()]
    assert same(Estimates.joined(parts), whole)

    engine = Engine(model, queue_s=data.draw(st.sampled_from([0.02, 0.3, 10.0])))
    stamped = data.draw(st.booleans())
    got: list = []
    position = 0
    for piece in pieces:
        while len(piece):
            taken = engine.push("audio", piece, position / 8000 if stamped else None)
            position += taken
            piece = piece[taken:]
            if len(piece) or data.draw(st.booleans()):
                got += iter(engine.poll, None)
    engine.finish()
    got += iter(engine.poll, None)
    assert same(estimates_of(model, got), whole)
    if model.adapts:
        assert single.profile() == engine.profile() == whole.profile


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [None, 1, 7, 160, 4096, 10**6])
def test_stream_mode_equals_full_mode(name, chunk):
    model = MODELS[name]
    signal = SIGNAL[:3000] if chunk == 1 else SIGNAL
    assert same(model.run(signal, mode="stream", chunk=chunk), model.run(signal))


@given(n=st.integers(0, 3000))
def test_length_follows_from_the_framing(n):
    times, values = UTTERANCE.run(SIGNAL[:n])
    frames = 0 if n < 256 else (n - 256) // 80 + 1
    rows = 0 if frames < 3 else (frames - 3) // 2 + 1
    assert len(times) == len(values) == -(-rows // 3)  # one per hop of 3, and one for the rest
    assert values.shape[1] == 6
    assert values.dtype == np.float32
    assert times.dtype == np.float64
    if rows:
        assert times[-1] == (255 + 160 + 160 * (rows - 1)) / 8000


@given(seed=st.integers(0, 10), changed=st.integers(1, 4000))
def test_audio_older_than_the_context_leaves_no_trace(seed, changed):
    other = SIGNAL.copy()
    other[:changed] = Numbers(seed).signal(changed) // 2 + 1
    a, b = UTTERANCE.run(SIGNAL), UTTERANCE.run(other)
    oldest = a[0] - UTTERANCE.timing["context_s"] + 1 / 8000
    free = oldest >= changed / 8000 - 1e-9
    assert free.any()
    assert a[1][free].tobytes() == b[1][free].tobytes()


def test_full_pass_starts_again_after_reset():
    single = UTTERANCE.full_pass()
    first = single.feed(SIGNAL), single.finish()
    with pytest.raises(InputError, match="finish"):
        single.feed(SIGNAL)
    assert len(single.finish()[0]) == 0
    single.reset()
    again = single.feed(SIGNAL), single.finish()
    assert same(first[0], again[0])
    assert same(first[1], again[1])


# Odd signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("mode", ["full", "stream"])
def test_empty_short_and_silent_signals(model, mode):
    for n in (0, 1, 100):
        times, values = model.run(np.zeros(n, np.float32), mode=mode)
        assert times.shape == (0,)
        assert values.shape == (0, len(model.columns))
    times, values = model.run(np.zeros(8000, np.int16), mode=mode)
    assert len(times) > 10
    assert np.isfinite(values).all()


@pytest.mark.parametrize("mode", ["full", "stream"])
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 800), "f4"), r"expected one dimension \(time,\), got shape \(2, 800\)"),
        (np.float32(1), "expected one dimension"),
        (np.zeros(800, "i4"), "got dtype int32"),
        (np.zeros(800, "u1"), "got dtype uint8"),
        (np.zeros(800, "c8"), "got dtype complex64"),
        (["a", "b"], "got dtype <U1"),
        (None, "samples"),
        (np.where(np.arange(800) == 5, np.nan, 0), "sample 5 is nan"),
        (np.where(np.arange(800) == 6, -np.inf, 0).astype("f4"), "sample 6 is -inf"),
        (np.full(800, 1e300), "sample 0 is inf"),
        (np.full(800, 2e6, "f4"), "full scale"),
    ],
)
def test_wrong_samples_are_named(mode, samples, message):
    with pytest.raises(InputError, match=message):
        UTTERANCE.run(samples, mode=mode)


def test_strided_and_swapped_signals_are_taken_as_they_are():
    expected = UTTERANCE.run(SIGNAL)
    padded = np.zeros(2 * len(SIGNAL), np.int16)
    padded[::2] = SIGNAL
    assert same(UTTERANCE.run(padded[::2]), expected)
    assert same(UTTERANCE.run(SIGNAL.astype(">i2")), expected)
    backwards = np.ascontiguousarray(SIGNAL[::-1])
    assert same(UTTERANCE.run(backwards[::-1]), expected)
    locked = SIGNAL.copy()
    locked.flags.writeable = False
    assert same(UTTERANCE.run(locked), expected)


def test_unaligned_signals_are_copied():
    for dtype in (np.float32, np.float64, np.int16):
        good = (SIGNAL * 1000).astype(dtype) if dtype == np.int16 else SIGNAL.astype(dtype)
        odd = np.frombuffer(b"\0" + good.tobytes(), dtype, offset=1)
        assert not odd.flags.aligned
        model = affekt.load(GOLDEN / "schema1_utterance.safetensors")
        for mode in ("full", "stream"):
            for a, b in zip(model.run(odd, mode=mode), model.run(good, mode=mode), strict=True):
                np.testing.assert_array_equal(a, b)


def test_wrong_options_are_named():
    with pytest.raises(InputError, match="8000 Hz, got 16000 Hz"):
        UTTERANCE.run(SIGNAL, sample_rate=16000)
    UTTERANCE.run(SIGNAL, sample_rate=8000)
    with pytest.raises(InputError, match="mode"):
        UTTERANCE.run(SIGNAL, mode="window")  # type: ignore[arg-type]
    for chunk in (0, -1, 1.5, True):
        with pytest.raises(InputError, match="chunk"):
            UTTERANCE.run(SIGNAL, mode="stream", chunk=chunk)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="chunk"):
        UTTERANCE.run(SIGNAL, chunk=100)


@pytest.mark.parametrize("mode", ["full", "stream"])
def test_a_model_that_overflows_says_so(mode):
    card, tensors = reference_model.utterance()
    tensors["tcn.1.conv1.weight"] = np.full_like(tensors["tcn.1.conv1.weight"], 3e38)
    tensors["tcn.1.conv2.weight"] = np.full_like(tensors["tcn.1.conv2.weight"], -3e38)
    model = build(card, tensors)
    with pytest.raises(AffektError, match="not finite at 0"):
        model.run(SIGNAL, mode=mode)
    engine = Engine(model)
    engine.push("audio", SIGNAL)
    estimate = engine.poll()
    assert estimate is not None
    assert not estimate.valid
    assert engine.counters()["invalid"] == 1


# The object ------------------------------------------------------------------------------------------------


def test_model_describes_itself():
    model = affekt.load(GOLDEN / "schema1_utterance.safetensors")
    assert model.columns == ["valence", "arousal", "dominance", "p_calm", "p_happy", "p_sad"]
    assert model.sample_rate == 8000
    assert [o["name"] for o in model.outputs] == ["affect", "emotion"]
    assert model.card["nodes"][3]["options"]["channels"] == [6, 6, 9]
    text = repr(model)
    for part in ("tiny", "audio", "8000 Hz", "valence", "CC0-1.0", "every 0.06 s"):
        assert part in text
    header = Path(affekt.get_include()) / "affekt" / "engine.hpp"
    assert "class AFFEKT_API Engine" in header.read_text()


def test_from_bytes_refuses_a_file_of_another_kind():
    with pytest.raises(ModelFileError):
        Model.from_bytes(b"not a model")


HOUR = """
import resource, sys
import numpy as np
import affekt
model = affekt.load(sys.argv[1])
single = model.full_pass()
block = np.random.default_rng(0).standard_normal(8000 * 10).astype(np.float32) * 0.1
estimates, early = 0, 0
for i in range(360):
    estimates += len(single.feed(block)[0])
    if i == 30:
        early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
estimates += len(single.finish()[0])
print(estimates, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early)
"""


@pytest.mark.skipif("libasan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer keeps freed memory")
def test_an_hour_takes_no_more_memory_than_five_minutes():
    result = subprocess.run(
        [sys.executable, "-c", HOUR, GOLDEN / "schema1_utterance.safetensors"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(affekt.__file__).parents[1])},
    )
    estimates, growth_kib = map(int, result.stdout.split())
    assert estimates == pytest.approx(3600 / 0.06, abs=3)
    assert growth_kib < 2048
