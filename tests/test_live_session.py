"""Several sources in one session: the same estimates as offline, nobody held up, everything counted, and a
recording that gives them again."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import re
import resource
import threading
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affekt import DataError, InputError
from affekt._native import Model
from affekt.data.manifest import read_csv
from affekt.live import Chunk, CsvSink, Engine, JsonLinesSink, Recorder, Recording, Session, Source
from affekt.live.opening import open_sink
from affekt.live.recording import RecordingWarning
from affekt.live.sources import GeneratedSource, Replay, estimates
from affekt.modelfile import model_bytes
from fused_model import RATES, SILENCE, as_input, fused, signals

CARD, TENSORS = fused()
MODEL = Model.from_bytes(model_bytes(CARD, TENSORS))
SIGNALS = signals(3.0)
WHOLE = MODEL.run({name: as_input(name, x) for name, x in SIGNALS.items()})


def chunks_of(name, sizes, frames=None):
    """The generated signal of one input in chunks of the given sizes (frames), cycling."""
    frames = SIGNALS[name] if frames is None else frames
    first, turn = 0, 0
    while first < len(frames):
        last = min(first + sizes[turn % len(sizes)], len(frames))
        yield Chunk(
            name, as_input(name, frames[first:last]), first / RATES[name], RATES[name], name == "face"
        )
        first, turn = last, turn + 1


class Scripted(Replay):
    """A replay of given chunks."""

    def __init__(self, name, chunks, **pacing):
        super().__init__(name, RATES[name], {"audio": 1, "eeg": 4, "face": 6}[name], **pacing)
        self.script = chunks

    def chunks(self):
        yield from self.script


class Device(Source):
    """A live source whose chunks a test gives; an exception among them is raised."""

    live = True

    def __init__(self, name, script, clock="session"):
        self.modality, self.rate, self.clock = name, RATES[name], clock
        self.channels = {"audio": 1, "eeg": 4, "face": 6}[name]
        self.script, self.closed, self.given = script, threading.Event(), 0

    def __iter__(self):
        for item in self.script:
            if isinstance(item, threading.Event):
                item.wait(20)
                continue
            if isinstance(item, Exception):
                raise item
            self.given += item.frames
            yield item

    def counters(self):
        return {"delivered": self.given, "dropped": 0}

    def close(self):
        self.closed.set()


SIZE = {"audio": 800, "eeg": 16, "face": 3}
FACE = list(chunks_of("face", [1]))


def same(found, whole):
    assert [e.time for e in found] == whole.times.tolist()
    got = np.array([list(e.values.values()) for e in found], np.float32).reshape(-1, len(MODEL.columns))
    np.testing.assert_array_equal(got, whole.values)
    np.testing.assert_array_equal([list(e.present.values()) for e in found], whole.present)


SIZES = {
    name: st.lists(st.integers(least, 40 * least), min_size=1, max_size=4)
    for name, least in (("audio", 50), ("eeg", 2), ("face", 1))
}


@settings(max_examples=15)
@given(st.fixed_dictionaries(SIZES), st.sets(st.sampled_from(list(RATES)), min_size=1))
def test_replays_of_any_chunks_give_what_the_model_gives_offline(sizes, names):
    sources = [Scripted(name, list(chunks_of(name, sizes[name]))) for name in sorted(names)]
    found = list(Session(Engine(MODEL, wait_s=math.inf), sources))
    same(found, MODEL.run({name: as_input(name, SIGNALS[name]) for name in names}))


def test_threads_give_what_the_model_gives_offline():
    engine = Engine(MODEL, wait_s=math.inf)
    devices = [Device(name, chunks_of(name, [37, 400, 5])) for name in RATES]
    session = Session(engine, devices, queue_s=100)
    same(list(session), WHOLE)
    assert all(device.closed.is_set() for device in devices)
    health = session.health()
    assert {h.state for h in health.values()} == {"ended"}
    assert {name: h.counters["delivered"] for name, h in health.items()} == {
        name: len(x) for name, x in SIGNALS.items()
    }
    assert all(0 <= session.delays()[q] < 60 for q in ("p50", "p99", "p99.9"))


def test_long_chunks_of_replays_give_what_short_ones_do():
    """Longer than the engine waits for an input."""
    for sizes in ({"audio": 8000, "eeg": 8, "face": 1}, {"audio": 80, "eeg": 128, "face": 60}):
        session = Session(Engine(MODEL), [Scripted(name, chunks_of(name, [n])) for name, n in sizes.items()])
        same(list(session), WHOLE)
        assert session.engine.counters()["late"] == session.engine.counters()["overdue"] == 0


def test_what_a_device_gave_before_the_session_is_left_out():
    now = [100.0]
    rows = [c._replace(time=c.time + 99.03) for c in chunks_of("face", [10])]
    session = Session(
        Engine(MODEL), [Device("face", rows, clock="monotonic")], queue_s=100, clock=lambda: now[0]
    )
    found = list(session)
    counters = session.health()["face"].counters
    assert counters["early"] == 25  # the row at 100.03 is the first
    assert session.engine.counters("face")["taken"] == 50
    assert session.engine.counters("face")["late"] == 0
    assert min(e.time for e in found) >= 0


def test_no_source_s_thread_is_left_when_it_is_closed():
    class Waiting(Device):
        def close(self):
            super().close()
            time.sleep(0.05)
            for item in self.script:
                if isinstance(item, threading.Event):
                    item.set()

    script = [*chunks_of("face", [1], SIGNALS["face"][:25]), threading.Event()]
    session = Session(Engine(MODEL), [Waiting("face", script), Device("eeg", chunks_of("eeg", [16]))])
    for _ in session:
        session.stop()
    session.close()
    assert not [t for t in threading.enumerate() if t.name in ("affekt face", "affekt eeg")]


def test_a_dead_source_leaves_the_others_alone_and_is_told_at_the_end():
    half = len(SIGNALS["eeg"]) // 2
    script = [*chunks_of("eeg", [16], SIGNALS["eeg"][:half]), DataError("the amplifier is unplugged")]
    devices = [
        Device("audio", chunks_of("audio", [800])),
        Device("eeg", script),
        Device("face", chunks_of("face", [1])),
    ]
    session = Session(Engine(MODEL, wait_s=math.inf), devices, queue_s=100)
    found = []
    with pytest.raises(DataError, match="the amplifier is unplugged"):
        found.extend(session)
    pieces = {name: as_input(name, x) for name, x in SIGNALS.items()}
    pieces["eeg"] = as_input("eeg", SIGNALS["eeg"][:half])
    same(found, MODEL.run(pieces))
    assert not found[-1].present["eeg"]
    assert session.failures == {"eeg": "the amplifier is unplugged"}
    assert session.health()["eeg"].state == "failed"


@pytest.mark.parametrize("speed", [None, 1e6])
def test_a_source_that_ended_is_not_waited_for(tmp_path, speed):
    """Nor in a replay of the recording."""
    parts = {**SIGNALS, "eeg": SIGNALS["eeg"][:128], "face": SIGNALS["face"][:0]}
    sources = [
        Scripted(name, chunks_of(name, [size], parts[name]), speed=speed) for name, size in SIZE.items()
    ]
    path = tmp_path / "session.csv"
    # On one thread what follows is longer than the queue; threads may be ahead of each other.
    engine = Engine(MODEL, wait_s=math.inf, queue_s=10.0 if speed else 1.5)
    found = list(Session(engine, sources, recorder=path, queue_s=0.1))
    same(found, MODEL.run({name: as_input(name, x) for name, x in parts.items() if len(x)}))
    if not speed:
        assert max(e.latency for e in found if e.time > 1.2) < 0.2
    assert list(Recording(path).replay(MODEL)) == found


def test_a_stuck_source_does_not_hold_up_the_others():
    never = threading.Event()
    stuck = Device("eeg", [*chunks_of("eeg", [16], SIGNALS["eeg"][:64]), never])
    free = Device("face", chunks_of("face", [1]))
    session = Session(Engine(MODEL), [stuck, free])
    found = []
    for estimate in session:
        found.append(estimate)
        if estimate.time > 2.0:
            session.stop()
    never.set()
    assert found[-1].present == {"audio": False, "eeg": False, "face": True}
    # The silence counts from the last EEG sample, at 63 / 128 s.
    assert all(e.present["eeg"] is False for e in found if e.time > 63 / 128 + SILENCE + 1e-6)


def test_a_full_queue_drops_new_chunks_of_a_device_and_counts_them():
    go, gone = threading.Event(), threading.Event()

    def script():
        chunks = list(chunks_of("face", [1]))
        yield from chunks[:25]
        go.wait(20)  # the consumer now stands still
        yield from chunks[25:]
        gone.set()

    device = Device("face", script())
    session = Session(Engine(MODEL, wait_s=0.0), [device], queue_s=0.4)
    estimates = iter(session)
    next(estimates)
    go.set()
    assert gone.wait(20)
    rest = list(estimates)
    counters = session.health()["face"].counters
    assert counters["delivered"] == 75
    assert counters["dropped"] > 20
    assert session.engine.counters("face")["taken"] == 75 - counters["dropped"]
    assert rest[-1].time <= 3.0


def test_a_replay_waits_for_a_slow_consumer():
    session = Session(
        Engine(MODEL, wait_s=math.inf),
        [Scripted(name, chunks_of(name, [400]), speed=1e6) for name in RATES],
        queue_s=0.3,
    )
    same(list(session), WHOLE)
    assert all(h.counters["dropped"] == 0 for h in session.health().values())


def test_own_clocks_are_placed_by_their_first_arrival():
    now = [100.0]
    started = threading.Event()

    def face():
        started.wait(20)
        now[0] = 101.2  # its first chunk, 0.2 s long, has just ended: it began 1 s after the session
        yield from chunks_of("face", [5])

    def audio():
        yield from chunks_of("audio", [800])
        started.set()

    devices = [Device("audio", audio()), Device("face", face(), clock="own")]
    session = Session(Engine(MODEL, wait_s=math.inf), devices, queue_s=100, clock=lambda: now[0])
    found = list(session)
    assert session.health()["face"].time == pytest.approx(4.0)
    assert next(e.time for e in found if e.present["face"]) == pytest.approx(1.0)
    assert found[-1].time == pytest.approx(3.9)  # the last of 75 rows at 25 Hz lies at 3.96 s


def bad(name, **change):
    chunks = list(chunks_of(name, [20]))
    chunks[2] = chunks[2]._replace(**change)
    return chunks


BAD = {
    "nan": ({"samples": np.full((20, 6), np.nan, np.float32)}, "face: samples must be finite"),
    "infinite": ({"samples": np.full((20, 6), np.inf, np.float32)}, "face: samples must be finite"),
    "beyond reason": ({"samples": np.full((20, 6), 1e7, np.float32)}, r"within \+-1e6"),
    "time backwards": ({"time": 0.1}, "do not go back, got 0.1 after 0.8"),
    "time nan": ({"time": math.nan}, "do not go back, got nan"),
    "shape": ({"samples": np.zeros((20, 5), np.float32)}, r"takes shape \(time, 6\), got \(20, 5\)"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_device_goes_on_after_a_bad_chunk(kind):
    change, message = BAD[kind]
    session = Session(Engine(MODEL), [Device("face", bad("face", **change))])
    found = list(session)
    health = session.health()["face"]
    assert health.counters["rejected"] == 1
    assert session.engine.counters("face")["taken"] == 55
    assert re.search(message, health.problem)
    assert found[-1].time == pytest.approx(2.9)


@pytest.mark.parametrize("kind", BAD)
def test_a_replay_ends_at_a_bad_chunk(kind):
    change, message = BAD[kind]
    session = Session(Engine(MODEL), [Scripted("face", bad("face", **change))])
    found = []
    with pytest.raises(DataError, match=message):
        found.extend(session)
    assert session.engine.counters("face")["taken"] == 40


def test_nothing_and_giant_chunks():
    empty = Chunk("face", np.zeros((0, 6), np.float32), 0.0, 25.0, True)
    giant = list(chunks_of("face", [75]))
    session = Session(Engine(MODEL, queue_s=0.5), [Device("face", [empty, *giant])], queue_s=0.1)
    same(list(session), MODEL.run({"face": SIGNALS["face"]}))


class Wrong(Scripted):
    def __init__(self, **change):
        super().__init__("face", [])
        self.__dict__.update(change)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "sources: expected at least one"),
        (["face"], "sources: expected affekt.live sources, got str"),
        ([Wrong(modality="fase")], "no input 'fase'; did you mean 'face'"),
        ([Wrong(rate=30.0)], "rate: the model's input 'face' takes 25 Hz, got 30"),
        ([Wrong(channels=5)], "channels: the model's input 'face' takes 6 values per sample, got 5"),
        ([Wrong(), Wrong()], "sources: two feed the input 'face'"),
        ([Wrong(), Device("audio", [])], "speed: the replay for 'face' would run ahead"),
        (
            [Wrong(speed=2.0), Device("audio", [])],
            "speed: expected one for all sources, got 2 for 'face' and 1",
        ),
        (
            [Wrong(speed=1.0, chunk_s=0.4), Device("audio", [])],
            r"chunk: those of 'face' are 0\.4 s long; expected less than the 0\.4 s that the engine waits",
        ),
    ],
)
def test_sources_that_do_not_fit_are_refused(sources, message, tmp_path):
    path = tmp_path / "session.csv"
    with pytest.raises(InputError, match=message):
        Session(Engine(MODEL), sources, recorder=path)
    assert not path.exists()


def test_the_seconds_asked_for():
    found = list(Session(Engine(MODEL), [Scripted("face", chunks_of("face", [1]))], seconds=1.0))
    assert found[-1].time == pytest.approx(0.9)


def test_every_input_goes_on_to_the_seconds_asked_for():
    """A long chunk that begins before comes after the others' first that begin later."""
    sizes = {"audio": 6400, "eeg": 64, "face": 1}
    sources = [Scripted(name, chunks_of(name, [n])) for name, n in sizes.items()]
    found = list(Session(Engine(MODEL, wait_s=math.inf), sources, seconds=1.0))
    lengths = {"audio": 12800, "eeg": 128, "face": 25}
    same(found, MODEL.run({name: as_input(name, SIGNALS[name][:n]) for name, n in lengths.items()}))


def test_a_dead_device_does_not_keep_a_session_beyond_its_seconds():
    never = threading.Event()
    dead = Device("eeg", [*chunks_of("eeg", [16], SIGNALS["eeg"][:64]), never])
    session = Session(Engine(MODEL), [dead, Device("face", chunks_of("face", [1]))], seconds=1.0)
    closed, close = [], session.close
    session.close = lambda: (never.set(), close(), closed.append(1))
    found = list(session)
    assert found[-1].time == pytest.approx(0.9)
    assert closed


# ---- recordings


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@settings(max_examples=8)
@given(data=st.data())
def test_a_replayed_recording_gives_the_same_estimates(tmp_path_factory, ending, data):
    """Whatever came late, was refused or left a gap."""
    order = []
    for name in RATES:
        chunks = list(chunks_of(name, data.draw(SIZES[name])))
        gap = data.draw(st.integers(0, 3))
        order.append([c for i, c in enumerate(chunks) if i % 4 != 3 or gap])
    turns = [i for i, chunks in enumerate(order) for _ in chunks]
    np.random.default_rng(data.draw(st.integers(0, 99))).shuffle(turns)
    mixed = [order[i].pop(0) for i in turns]
    path = tmp_path_factory.mktemp("recording") / f"session.{ending}"
    engine = Engine(MODEL, queue_s=1.0, reanchor_s=0.05)

    with Recorder(path, engine) as recorder:
        found = list(estimates(engine, mixed, recorder.write))
        recorder.finish()
    recording = Recording(path)
    assert recording.model == MODEL.hash
    assert list(recording.replay(MODEL)) == found


def test_an_empty_push_is_not_the_end_of_an_input(tmp_path):
    engine = Engine(MODEL)
    with Recorder(tmp_path / "a.csv", engine) as recorder:
        recorder.write(Chunk("face", np.zeros((0, 6), np.float32), 0.0, 25.0, True))
        found = list(estimates(engine, chunks_of("face", [5]), recorder.write))
        recorder.finish()
    assert list(Recording(tmp_path / "a.csv").replay(MODEL)) == found
    assert len(found) > 10


@pytest.fixture
def recorded(tmp_path):
    path = tmp_path / "session.csv"
    engine = Engine(MODEL, wait_s=math.inf)
    with Recorder(path, engine) as recorder:
        found = list(
            Session(
                engine, [Scripted(name, chunks_of(name, [n])) for name, n in SIZE.items()], recorder=recorder
            )
        )
    return path, found


def test_a_session_records_itself(recorded):
    path, found = recorded
    assert list(Recording(path).replay(MODEL)) == found
    table = pd.read_csv(path, comment="#")
    assert list(table.columns) == ["modality", "time", "rate", "frames", "values"]
    assert table.groupby("modality")["frames"].sum().to_dict() == {n: len(x) for n, x in SIGNALS.items()}


def test_a_recording_that_broke_off_replays_up_to_there(recorded):
    path, found = recorded
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.warns(RecordingWarning, match="its end was not written"):
        again = list(Recording(path).replay(MODEL))
    assert 0 < len(again) < len(found)
    assert again == found[: len(again)]


def test_recordings_that_cannot_be_replayed(recorded, tmp_path, monkeypatch):
    path, _ = recorded
    with pytest.raises(DataError, match="no such recording"):
        Recording(tmp_path / "none.csv")
    other = Model.from_bytes(model_bytes({**CARD, "version": "2"}, TENSORS))
    with pytest.raises(InputError, match="expected the one that was recorded, 'fused'"):
        Recording(path).replay(other)
    with pytest.raises(InputError, match="recorded with a model from memory"):
        Recording(path).replay()
    with pytest.raises(DataError, match="exists already"):
        Recorder(path, Engine(MODEL))
    with pytest.raises(InputError, match=r"ends in \.csv or \.parquet"):
        Recorder(tmp_path / "a.txt", Engine(MODEL))
    used = Engine(MODEL)
    used.push("face", SIGNALS["face"])
    with pytest.raises(InputError, match="expected a fresh one"):
        Recorder(tmp_path / "b.csv", used)
    text = path.read_text().splitlines(keepends=True)
    for line, message in {
        "not a recording\n": "not a recording of affekt",
        "# {}\n": "not a recording of affekt",
        text[0].replace('"affekt_recording": 1', '"affekt_recording": 9'): "of format 9, expected 1",
    }.items():
        path.write_text(line + "".join(text[1:]))
        with pytest.raises(DataError, match=message):
            Recording(path)
    damaged = [*text[:3], text[3].rsplit(" ", 1)[0] + "\n", *text[4:]]
    path.write_text("".join(damaged))
    with pytest.raises(DataError, match=r"push 1: expected \d+ x \d values"):
        list(Recording(path).replay(MODEL))
    monkeypatch.setattr("affekt._core.isa", lambda: "other")
    path.write_text("".join(text))
    with pytest.warns(RecordingWarning, match="replayed on other"):
        Recording(path).replay(MODEL)


@contextlib.contextmanager
def room(size):
    """No file gets longer than `size` bytes, as on a full disk: the write that meets the end comes short."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class FullDisk:
    """A file on a disk that has room for so many more writes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, text):
        self.room -= 1
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.file.write(text)

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("size", [150_000, 200_001])
def test_a_full_disk_ends_the_recording_and_not_the_session(tmp_path, size):
    path = tmp_path / "session.csv"
    engine = Engine(MODEL, wait_s=math.inf)
    found = []
    sources = [Scripted(name, chunks_of(name, [n])) for name, n in SIZE.items()]
    session = Session(engine, sources, recorder=path)
    with (
        room(size),
        pytest.raises(DataError, match=r"session\.csv: recording stopped at .* File too large; what"),
    ):
        found.extend(session)
    same(found, WHOLE)
    assert list(session.failures) == ["recording"]
    assert path.stat().st_size == size
    with pytest.warns(RecordingWarning, match="its end was not written"):
        again = list(Recording(path).replay(MODEL))
    assert 3 < len(again) < len(found)
    assert again == found[: len(again)]


def test_a_full_disk_ends_a_sink_and_not_the_session(monkeypatch):
    sink = JsonLinesSink(FullDisk(io.StringIO(), 3))
    closed = []
    monkeypatch.setattr(sink, "close", lambda: closed.append(1))
    found = []
    session = Session(Engine(MODEL), [Scripted("face", chunks_of("face", [1]))], sinks=[sink])
    with pytest.raises(DataError, match="No space left on device"):
        found.extend(session)
    assert len(found) > 10
    assert closed


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_what_a_full_disk_does_to_a_sink_is_said_with_its_name(tmp_path, kind):
    """At its first row, which a table writes when it is made, and at a later one."""
    full = tmp_path / f"full.{kind}"
    full.symlink_to("/dev/full")
    message = rf"full\.{kind}: cannot be written: No space left on device"
    with pytest.raises(DataError, match=message):
        open_sink(str(full), MODEL).write(next(iter(Session(Engine(MODEL), Scripted("face", FACE)))))
    path = tmp_path / f"late.{kind}"
    session = Session(Engine(MODEL), Scripted("face", FACE), sinks=[open_sink(str(path), MODEL)])
    found = []
    with room(1000), pytest.raises(DataError, match=rf"late\.{kind}: cannot be written: File too large"):
        found.extend(session)
    assert len(found) > 10
    assert list(session.failures) == [str(path)]


def test_closing_goes_on_after_a_source_that_cannot_be_closed(tmp_path):
    class Stuck(Scripted):
        def close(self):
            raise RuntimeError("the driver hangs")

    path, out = tmp_path / "session.parquet", tmp_path / "out.csv"
    pytest.importorskip("pyarrow")
    sources = [Stuck("face", FACE), Scripted("eeg", chunks_of("eeg", [16]))]
    session = Session(Engine(MODEL), sources, sinks=[CsvSink(out, MODEL)], recorder=path)
    found = []
    with pytest.raises(DataError, match="closing face: the driver hangs"):
        found.extend(session)
    session.close()
    assert session.failures == {"closing face": "closing face: the driver hangs"}
    assert len(found) > 10
    assert list(Recording(path).replay(MODEL)) == found
    assert len(read_csv(out, ())) == len(found)


# ---- sinks, generated signals, the view


def test_sinks_write_what_came(tmp_path):
    lines = io.StringIO()
    table = tmp_path / "estimates.csv"
    sinks = [CsvSink(table, MODEL), JsonLinesSink(lines), JsonLinesSink(tmp_path / "e.jsonl")]
    found = list(Session(Engine(MODEL), [Scripted("face", chunks_of("face", [1]))], sinks=sinks))
    read = read_csv(table, ())
    assert read["time"].tolist() == [e.time for e in found]
    assert read["valence"].tolist() == [e["valence"] for e in found]
    assert read["confidence"].tolist() == [e.confidence for e in found]
    assert read["has_face"].tolist() == [e.present["face"] for e in found]
    objects = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert [o["values"] for o in objects] == [e.values for e in found]
    assert [o["present"] for o in objects] == [e.present for e in found]
    assert (tmp_path / "e.jsonl").read_text() == lines.getvalue()


def test_generated_signals_are_the_same_for_a_seed_whatever_the_pace():
    for spec in MODEL.inputs:
        first, second, other = (
            np.concatenate([c.samples if c.rows or c.samples.ndim == 1 else c.samples.T for c in source])
            for source in (
                GeneratedSource(spec, seconds=2, seed=1),
                GeneratedSource(spec, seconds=2, seed=1, speed=1e6),
                GeneratedSource(spec, seconds=2, seed=2),
            )
        )
        assert len(first) == round(2 * spec["rate"])
        np.testing.assert_array_equal(first, second)
        assert not np.array_equal(first, other)
    found = list(Session(Engine(MODEL), [GeneratedSource(spec, seconds=2) for spec in MODEL.inputs]))
    endless = iter(GeneratedSource(MODEL.inputs[0]))
    assert [next(endless).frames for _ in range(3)] == [800] * 3
    assert found[-1].valid
    assert all(found[-1].present.values())


def test_the_view_shows_trace_sources_and_delays():
    rich = pytest.importorskip("rich.console")
    from affekt.live.view import View

    console = rich.Console(file=io.StringIO(), width=200, record=True)
    nan = np.full((20, 6), np.nan, np.float32)
    session = Session(Engine(MODEL), [Device("face", bad("face", samples=nan)), Device("eeg", [])])
    view = View(session, {"valence": (-1, 1)}, console)
    console.print(view.picture())
    assert "no estimate yet" in console.export_text()
    for estimate in session:
        view(estimate)
    console.print(view.picture())
    text = console.export_text()
    for word in ("valence", "arousal", "confidence", "face", "eeg", "ended", "masked", "late", "p99", "ms"):
        assert word in text
    assert "face: samples must be finite" in text
