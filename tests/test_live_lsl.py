"""The Lab Streaming Layer on loopback, with a player of generated samples; XDF recordings."""

from __future__ import annotations

import math
import struct
import threading
import time
import uuid
import xml.sax.saxutils as saxutils

import numpy as np
import pytest

from affekt import DataError, InputError
from affekt._native import Model
from affekt.live import Engine, GeneratedSource, LslSink, LslSource, Session, XdfSource
from affekt.modelfile import model_bytes
from fused_model import RATES, fused, signals

MODEL = Model.from_bytes(model_bytes(*fused()))
SPECS = {spec["name"]: spec for spec in MODEL.inputs}


def lsl():
    """mne_lsl.lsl, or a skip with the reason."""
    pytest.importorskip("mne_lsl", reason="no mne-lsl, whose wheels carry liblsl")
    try:
        import mne_lsl.lsl
    except (OSError, RuntimeError) as error:
        pytest.skip(f"no liblsl: {error}")
    return mne_lsl.lsl


class Player:
    """An outlet that plays (time, channels) at its rate, once somebody listens and `go` is set. Its stamps
    are of `ago` seconds before."""

    def __init__(self, frames, rate, *, names=None, go=None, ago=0.0):
        module = lsl()
        self.name = f"affekt-{uuid.uuid4().hex[:12]}"
        info = module.StreamInfo(self.name, "EEG", frames.shape[1], rate, "float32", self.name)
        if names:
            info.set_channel_names(names)
        self.outlet = module.StreamOutlet(info)
        self.frames, self.rate, self.clock = frames, rate, module.local_clock
        self.stop, self.go, self.ago = threading.Event(), go, ago
        self.thread = threading.Thread(target=self._play, daemon=True)
        self.thread.start()

    def _play(self):
        while not self.stop.is_set() and not self.outlet.has_consumers:
            self.stop.wait(0.01)
        if self.go is not None:
            self.go.wait(20)
        self.begun = self.clock() + 0.05
        for first in range(0, len(self.frames), 8):
            block = np.ascontiguousarray(self.frames[first : first + 8], np.float32)
            stamp = self.begun + (first + len(block) - 1) / self.rate
            if self.stop.wait(max(0.0, stamp - self.clock())):
                return
            self.outlet.push_chunk(block, timestamp=stamp - self.ago)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join(10)
        del self.outlet


@pytest.fixture
def eeg():
    with Player(signals(1.5)["eeg"], 128.0, names=["a", "b", "c", "d"], ago=5.0) as player:
        yield player


def unplugged_after(source, samples):
    """The patience of a slow machine while samples come, and none once all have come."""

    def watch():
        while source.counters()["delivered"] < samples:
            time.sleep(0.01)
        source._patience = 0.25

    threading.Thread(target=watch, daemon=True).start()
    return source


def test_what_is_played_is_what_comes(eeg):
    with unplugged_after(LslSource(eeg.name, SPECS["eeg"], patience=30.0), 192) as source:
        chunks = []
        with pytest.raises(DataError, match=r"gave nothing for 0\.25 s; is it unplugged"):
            chunks.extend(source)
        got = np.concatenate([c.samples for c in chunks], axis=1)
        np.testing.assert_array_equal(got, signals(1.5)["eeg"].T)
        offset = time.monotonic() - eeg.clock()
        # Of the stamps, not of the arrival 5 s later; liblsl compares clocks as well as the load allows.
        begun = eeg.begun - eeg.ago + offset
        np.testing.assert_allclose(chunks[0].time, begun, atol=1.0)
        np.testing.assert_allclose(chunks[-1].end - chunks[0].time, 1.5, atol=0.25)
        assert source.counters()["delivered"] == 192


def test_channels_by_name(eeg):
    with LslSource(eeg.name, {**SPECS["eeg"], "channels": 2}, channels=["d", "b"], patience=5.0) as source:
        chunk = next(iter(source))
        np.testing.assert_array_equal(chunk.samples, signals(1.5)["eeg"].T[[3, 1], : chunk.frames])


def test_streams_that_do_not_fit(eeg):
    with pytest.raises(DataError, match="expected 256 Hz for 'eeg', got 128"):
        LslSource(eeg.name, {**SPECS["eeg"], "rate": 256.0})
    with pytest.raises(DataError, match="expected 2 channels, got 4"):
        LslSource(eeg.name, {**SPECS["eeg"], "channels": 2})
    with pytest.raises(DataError, match="expected channels z, got a, b, c, d"):
        LslSource(eeg.name, SPECS["eeg"], channels=["a", "b", "c", "z"])
    with pytest.raises(DataError, match="'nobody': not found"):
        LslSource("nobody", SPECS["eeg"], search=0.2)
    with pytest.raises(InputError, match="patience must be a positive number"):
        LslSource(eeg.name, SPECS["eeg"], patience=0)


def test_a_session_from_the_network_to_the_network():
    """EEG from an outlet beside a generated face in real time; estimates through an outlet of their own."""
    module = lsl()
    name = f"affekt-{uuid.uuid4().hex[:12]}"
    sink = LslSink(name, MODEL)
    (found,) = module.resolve_streams(timeout=10, name=name)
    inlet = module.StreamInlet(found)
    inlet.open_stream(timeout=10)
    assert inlet.get_sinfo().get_channel_names() == [*MODEL.columns, "valid", "confidence", "age"]
    go = threading.Event()

    def started(seconds):
        go.set()  # the amplifier begins with the session
        time.sleep(seconds)

    with Player(signals(1.5)["eeg"], 128.0, go=go) as player:
        source = unplugged_after(LslSource(player.name, SPECS["eeg"], patience=30.0), 192)
        face = GeneratedSource(SPECS["face"], seconds=1.5, speed=1.0, chunk_seconds=0.04, sleep=started)
        session = Session(Engine(MODEL, wait_s=10.0), [source, face], sinks=[sink])
        estimates = []
        with pytest.raises(DataError, match="is it unplugged"):
            estimates.extend(session)
    both = [e for e in estimates if e.present["eeg"] and e.present["face"]]
    assert len(both) >= 2
    assert session.engine.counters("eeg")["taken"] == 192
    assert session.health()["eeg"].state == "failed"
    rows = []
    deadline = time.monotonic() + 5
    while len(rows) < len(estimates) and time.monotonic() < deadline:
        block, _ = inlet.pull_chunk(timeout=0.0)
        rows.extend(np.asarray(block).tolist() if len(block) else [])
        time.sleep(0.01)
    inlet.close_stream()
    np.testing.assert_array_equal(
        np.array(rows, np.float32)[:, :2],
        np.array([[e["valence"], e["arousal"]] for e in estimates], np.float32),
    )


# ---- XDF


def chunk(tag, content):
    """One chunk of the format: length of length, length, tag, content."""
    body = struct.pack("<H", tag) + content
    return b"\x04" + struct.pack("<I", len(body)) + body


def stream(number, name, stype, rate, frames, first):
    """Header, samples and footer of a stream of float32."""
    labels = "".join(
        f"<channel><label>{saxutils.escape(f'{name}{i}')}</label></channel>" for i in range(frames.shape[1])
    )
    header = (
        f"<?xml version='1.0'?><info><name>{name}</name><type>{stype}</type>"
        f"<channel_count>{frames.shape[1]}</channel_count><nominal_srate>{rate}</nominal_srate>"
        f"<channel_format>float32</channel_format><created_at>0</created_at>"
        f"<desc><channels>{labels}</channels></desc></info>"
    )
    samples = b"".join(
        b"\x08" + struct.pack("<d", first + i / rate) + row.astype("<f4").tobytes()
        for i, row in enumerate(frames)
    )
    who = struct.pack("<I", number)
    footer = (
        f"<?xml version='1.0'?><info><first_timestamp>{first}</first_timestamp>"
        f"<last_timestamp>{first + (len(frames) - 1) / rate}</last_timestamp>"
        f"<sample_count>{len(frames)}</sample_count></info>"
    )
    return [
        chunk(2, who + header.encode()),
        chunk(3, who + b"\x04" + struct.pack("<I", len(frames)) + samples),
        chunk(6, who + footer.encode()),
    ]


@pytest.fixture
def xdf(tmp_path):
    pytest.importorskip("pyxdf")
    made = signals(2.0)
    path = tmp_path / "lab.xdf"
    parts = [b"XDF:", chunk(1, b"<?xml version='1.0'?><info><version>1.0</version></info>")]
    parts += stream(1, "amplifier", "EEG", 128.0, made["eeg"], 5000.0)
    parts += stream(2, "webcam", "Face", 25.0, made["face"], 5000.5)
    path.write_bytes(b"".join(parts))
    return path, made


def test_an_xdf_recording_is_replayed_on_one_clock(xdf, caplog):
    path, made = xdf
    eeg = XdfSource(path, SPECS["eeg"])
    assert not caplog.records
    face = XdfSource(path, SPECS["face"], stream="Face")
    got = list(eeg)
    np.testing.assert_array_equal(np.concatenate([c.samples for c in got], axis=1), made["eeg"].T)
    assert got[0].time == 0.0
    assert next(iter(face)).time == pytest.approx(0.5)
    found = list(Session(Engine(MODEL, wait_s=math.inf), [eeg, face]))
    times = np.arange(len(made["face"])) / RATES["face"] + 5000.5 - 5000.0
    expected = MODEL.run({"eeg": [(0.0, made["eeg"].T)], "face": [(float(times[0]), made["face"])]})
    np.testing.assert_array_equal(
        np.array([list(e.values.values()) for e in found], np.float32), expected.values
    )
    two = XdfSource(path, {**SPECS["eeg"], "channels": 2}, channels=["amplifier2", "amplifier0"])
    np.testing.assert_array_equal(next(iter(two)).samples[:, 0], made["eeg"][0, [2, 0]])


@pytest.mark.parametrize("step", [0.05, 0.5])
def test_stamps_of_xdf_that_go_back(xdf, monkeypatch, step):
    import pyxdf

    path, _ = xdf
    load = pyxdf.load_xdf

    def moved(*args, **options):
        streams, header = load(*args, **options)
        for stream in streams:
            stream["time_stamps"] = np.array(stream["time_stamps"])
            stream["time_stamps"][20:] -= step
        return streams, header

    monkeypatch.setattr(pyxdf, "load_xdf", moved)
    if step > 0.1:
        with pytest.raises(DataError, match=r"stamps go back by 0\.49\d* s at sample 20"):
            XdfSource(path, SPECS["eeg"])
    else:
        source = XdfSource(path, SPECS["eeg"])
        times = [chunk.time for chunk in source]
        assert times == sorted(times)
        assert source.counters()["backward"] == 6  # 50 ms at 128 Hz


def test_xdf_recordings_that_cannot_be_used(xdf, tmp_path):
    path, _ = xdf
    with pytest.raises(DataError, match="expected one stream 'ECG', got 0 of amplifier, webcam"):
        XdfSource(path, SPECS["eeg"], stream="ECG")
    with pytest.raises(DataError, match="expected 128 Hz, got 25"):
        XdfSource(path, SPECS["eeg"], stream="webcam")
    with pytest.raises(DataError, match="expected 3 channels, got 4"):
        XdfSource(path, {**SPECS["eeg"], "channels": 3})
    with pytest.raises(DataError, match="no such file"):
        XdfSource(tmp_path / "none.xdf", SPECS["eeg"])
    (tmp_path / "bad.xdf").write_bytes(b"not a recording")
    with pytest.raises(DataError, match="not an XDF recording"):
        XdfSource(tmp_path / "bad.xdf", SPECS["eeg"])
