"""Sources: chunks of the right size and time, pacing by an injected clock, bounded queues."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import affekt
from affekt.errors import DataError, InputError, MissingExtraError
from affekt.live import Engine, FileSource, MicrophoneSource
from affekt.live.session import _Lane
from affekt.live.sources import Chunk, estimates, rechunk
from small_model import small_model

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "voice.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, 40_001).astype(np.float32), 16000)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return affekt.load(small_model(tmp_path_factory.mktemp("model") / "small.safetensors"))


class FakeClock:
    """A clock that only sleeping (and working) moves."""

    def __init__(self):
        self.now = 1000.0
        self.sleeps = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


def test_a_file_comes_in_chunks_with_the_time_of_their_first_sample(sound):
    chunks = list(FileSource(sound, chunk=1600))
    samples = affekt.data.read_audio(sound, 16000)
    np.testing.assert_array_equal(np.concatenate([chunk.samples for chunk in chunks]), samples)
    assert [chunk.samples.size for chunk in chunks] == [1600] * 25 + [1]
    assert [chunk.time for chunk in chunks] == [i / 10 for i in range(26)]
    assert {chunk.modality for chunk in chunks} == {"audio"}


@given(st.lists(st.integers(0, 30), max_size=8), st.integers(1, 12))
def test_rechunk_keeps_every_sample(sizes, size):
    samples = np.arange(sum(sizes))
    ends = np.cumsum([0, *sizes])
    chunks = list(rechunk(iter([samples[a:b] for a, b in pairwise(ends)]), size))
    np.testing.assert_array_equal(np.concatenate([*chunks, np.empty(0)]), samples)
    assert all(chunk.size == size for chunk in chunks[:-1])


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_replay_waits_until_a_chunk_would_have_been_recorded(sound, speed):
    clock = FakeClock()
    source = FileSource(sound, chunk=8000, speed=speed, clock=clock, sleep=clock.sleep)
    arrivals = [clock.now - 1000.0 for _ in source]
    np.testing.assert_allclose(arrivals, np.array([0.5, 1.0, 1.5, 2.0, 2.5, 40_001 / 16000]) / speed)


def test_a_slow_consumer_catches_up_and_loses_nothing(sound):
    clock = FakeClock()
    source = FileSource(sound, chunk=8000, speed=1.0, clock=clock, sleep=clock.sleep)
    total = 0
    for number, chunk in enumerate(source):
        total += chunk.samples.size
        if number == 0:
            clock.now += 1.2  # busy while two chunks pass
    assert total == 40_001
    assert source.counters() == {"delivered": 40_001, "dropped": 0}
    np.testing.assert_allclose(clock.sleeps, [0.5, 0.3, 0.5, 1 / 16000], atol=1e-9)


def test_a_source_drives_the_engine_to_the_same_numbers(sound, model):
    found = list(estimates(Engine(model), FileSource(sound, chunk=777)))
    times, values = model.run(affekt.data.read_audio(sound, 16000))
    np.testing.assert_array_equal([estimate.time for estimate in found], times)
    got = np.array([[e[name] for name in model.columns] for e in found], np.float32)
    np.testing.assert_array_equal(got, values)


def test_a_chunk_larger_than_the_engines_queue_is_taken_in_parts(sound, model):
    samples = affekt.data.read_audio(sound, 16000)
    engine = Engine(model, queue_s=0.25)
    found = list(estimates(engine, [Chunk("audio", samples, 0.0, 16000.0)]))
    assert [e.time for e in found] == list(model.run(samples)[0])
    assert engine.counters()["taken"] == samples.size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk: expected at least 1 sample, got 0"),
        ({"speed": 0.0}, "speed: expected a positive number"),
        ({"speed": float("inf")}, "speed: expected a positive number"),
    ],
)
def test_arguments_out_of_range(sound, options, message):
    with pytest.raises(InputError, match=message):
        FileSource(sound, **options)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(DataError, match=r"none\.wav: no such file"):
        list(FileSource(tmp_path / "none.wav"))


class FakeSoundDevice:
    """Stands in for the package sounddevice: the test plays PortAudio's thread."""

    class PortAudioError(Exception):
        pass

    def __init__(self, problem=None):
        self.problem = problem
        self.streams = []
        fake = self

        class InputStream:
            def __init__(self, *, callback, **options):
                if fake.problem is not None:
                    raise fake.problem
                self.callback, self.options, self.active, self.closed = callback, options, False, False
                fake.streams.append(self)

            def start(self):
                self.active = True

            def stop(self):
                if self.closed:
                    raise fake.PortAudioError("Invalid stream pointer")
                self.active = False

            def close(self):
                self.closed = True

            def give(self, samples, status=None, when=None):
                self.callback(np.asarray(samples, np.float32)[:, None], len(samples), when, status)

        self.InputStream = InputStream


@pytest.fixture
def sounddevice(monkeypatch):
    fake = FakeSoundDevice()
    monkeypatch.setattr("affekt.live.sources.require", lambda name, **_: fake)
    return fake


def test_microphone_blocks_come_out_in_order(sounddevice):
    clock = FakeClock()
    with MicrophoneSource(sample_rate=16000, chunk=160, clock=clock) as source:
        (stream,) = sounddevice.streams
        assert not stream.active  # what is heard before somebody listens would be old
        assert stream.options["samplerate"] == 16000
        assert stream.options["blocksize"] == 160
        chunks = iter(source)
        for number in range(3):
            clock.now += 0.01
            stream.give(np.full(160, number))
            chunk = next(chunks)
            assert stream.active
            assert chunk.samples.tolist() == [number] * 160
            assert chunk.time == pytest.approx(1000 + number * 0.01)
    assert not stream.active
    assert stream.closed
    assert list(chunks) == []
    source.close()  # again, as a session and its caller do


def test_a_full_queue_drops_new_blocks_and_the_times_show_the_gap(sounddevice):
    clock = FakeClock()
    source = MicrophoneSource(sample_rate=16000, chunk=160, queue_seconds=0.03, clock=clock)
    (stream,) = sounddevice.streams
    for number in range(5):
        clock.now += 0.01
        stream.give(np.full(160, number), status=number == 4)
    chunks = iter(source)
    got = [next(chunks) for _ in range(3)]
    clock.now += 0.01
    stream.give(np.full(160, 5))
    got.append(next(chunks))
    clock.now += 0.04  # PortAudio lost three blocks
    stream.give(np.full(160, 6), status=1)
    got.append(next(chunks))
    assert [int(chunk.samples[0]) for chunk in got] == [0, 1, 2, 5, 6]
    assert [round(chunk.time - 1000, 6) for chunk in got] == [0, 0.01, 0.02, 0.05, 0.09]
    assert source.counters() == {"delivered": 800, "dropped": 320, "overflows": 2}


def test_a_block_is_stamped_with_what_portaudio_tells_where_it_does(sounddevice):
    clock = FakeClock()
    source = MicrophoneSource(sample_rate=16000, chunk=160, clock=clock)
    (stream,) = sounddevice.streams
    chunks = iter(source)
    for adc, expected in ((49.97, 999.97), (0.0, 999.99), (50.0, 999.99)):
        # The last two tell nothing: no time at all, and one after the end of the block.
        stream.give(np.zeros(160), when=SimpleNamespace(currentTime=50.0, inputBufferAdcTime=adc))
        assert next(chunks).time == pytest.approx(expected)


def test_a_microphone_that_was_opened_long_before_the_session_is_in_time(sounddevice):
    """While other devices were opened, which took 3 s."""
    clock = FakeClock()
    source = MicrophoneSource(sample_rate=16000, chunk=1600, clock=clock)
    clock.now += 3.0
    (stream,) = sounddevice.streams
    lane = _Lane(source, 5.0)
    chunks = iter(source)
    clock.now += 0.1
    stream.give(np.zeros(1600))
    placed = lane.placed(next(chunks), clock.now, 1003.0, False)
    assert placed.time == pytest.approx(0.0)


def test_a_block_outlives_the_buffer_it_came_in(sounddevice):
    source = MicrophoneSource(sample_rate=16000, chunk=4)
    buffer = np.ones((4, 1), np.float32)
    sounddevice.streams[0].callback(buffer, 4, None, None)
    buffer[:] = 7  # PortAudio reuses its memory
    assert next(iter(source)).samples.tolist() == [1, 1, 1, 1]


def test_a_microphone_that_falls_silent_is_reported(sounddevice):
    source = MicrophoneSource(sample_rate=16000, chunk=160, patience=0.01)
    with pytest.raises(DataError, match=r"no sound for 0\.01 s; is it unplugged"):
        next(iter(source))


def test_no_such_device(sounddevice):
    sounddevice.problem = sounddevice.PortAudioError("Error querying device -1")
    with pytest.raises(DataError, match=r"the microphone \(default\): Error querying device -1"):
        MicrophoneSource()


def test_portaudio_is_absent(monkeypatch):
    def broken(name, **_):
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("affekt.live.sources.require", broken)
    with pytest.raises(DataError, match="apt-get install libportaudio2"):
        MicrophoneSource()


def test_the_package_is_absent(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sounddevice", None)
    with pytest.raises(MissingExtraError, match=r"affekt\[live\]"):
        MicrophoneSource()


def test_a_queue_too_small_for_a_chunk(sounddevice):
    with pytest.raises(InputError, match="queue_seconds: expected room for one chunk of 1600 samples"):
        MicrophoneSource(queue_seconds=0.05)
