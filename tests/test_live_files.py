"""Recorded signals as sources: tables, EEG, video; what the words of the command line open; the command."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affekt import DataError, InputError, cli
from affekt._native import Model
from affekt.cli import main
from affekt.data.manifest import read_csv
from affekt.live import CsvSink, EegSource, FileSource, GeneratedSource, Recording, RowsSource
from affekt.live.opening import open_sink, open_source
from affekt.live.sources import runs
from affekt.modelfile import model_bytes
from fused_model import RATES, as_input, fused, signals

SIGNALS = signals(2.0)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "fused.safetensors"
    path.write_bytes(model_bytes(*fused()))
    return path


@pytest.fixture(scope="module")
def model(model_file):
    return Model(model_file)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The generated signals as files: audio in float, EEG and faces as tables with times."""
    folder = tmp_path_factory.mktemp("files")
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(folder / "talk.wav", SIGNALS["audio"][:, 0], 8000, subtype="FLOAT")
    for name in ("eeg", "face"):
        table = pd.DataFrame(SIGNALS[name], columns=[f"{name}{i}" for i in range(SIGNALS[name].shape[1])])
        table.insert(0, "time", np.arange(len(table)) / RATES[name])
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


@given(st.lists(st.floats(0.001, 0.2), max_size=60), st.integers(1, 7))
@settings(max_examples=30)
def test_runs_cover_all_samples_and_follow_the_stamps(steps, most):
    times = np.cumsum([0.0, *steps])
    found = list(runs(times, 25.0, most))
    assert [first for first, _ in found] == [0, *(last for _, last in found[:-1])]
    assert found[-1][1] == len(times)
    for first, last in found:
        assert 1 <= last - first <= most
        counted = times[first] + np.arange(last - first) / 25
        assert (np.abs(times[first:last] - counted) <= 0.02).all()


def test_rows_come_with_their_stamps(files):
    source = RowsSource(files / "face.csv", 25, modality="face", chunk=10)
    chunks = list(source)
    np.testing.assert_array_equal(np.concatenate([c.samples for c in chunks]), SIGNALS["face"])
    assert [c.time for c in chunks] == pytest.approx([0, 0.4, 0.8, 1.2, 1.6])
    assert source.counters() == {"delivered": 50, "dropped": 0, "missing": 0}
    eeg = list(RowsSource(files / "eeg.csv", 128, modality="eeg", rows=False, chunk=64))
    np.testing.assert_array_equal(np.concatenate([c.samples for c in eeg], axis=1), SIGNALS["eeg"].T)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_rows_without_a_face_are_gaps(tmp_path, ending):
    table = pd.DataFrame({"time": 1e9 + np.arange(10) / 25, "x": np.arange(10.0), "y": -1.0})
    table.loc[4:6, ["x", "y"]] = np.nan
    path = tmp_path / f"face.{ending}"
    getattr(table, f"to_{ending}")(path, index=False)
    source = RowsSource(path, 25, modality="face", chunk=100, origin="first")
    chunks = list(source)
    assert [c.samples[:, 0].tolist() for c in chunks] == [[0, 1, 2, 3], [7, 8, 9]]
    assert [c.time for c in chunks] == pytest.approx([0, 0.28], abs=1e-6)
    assert source.counters()["missing"] == 3
    one = list(RowsSource(path, 25, modality="face", columns=["x"], origin="first", chunk=100))
    assert one[0].samples.shape == (4,)


BAD_TABLES = {
    "no file": (None, {}, "no such file"),
    "half a row": ("time,x,y\n0,1,2\n0.04,,2\n", {}, "row 1, column 'x': expected a finite number, got nan"),
    "infinite": ("time,x\n0,1\n0.04,inf\n", {}, "row 1, column 'x'"),
    "too large": ("time,x\n0,1\n0.04,1e39\n", {}, "row 1, column 'x'"),
    "words": ("time,x\n0,1\n0.04,a\n", {}, "expected numbers in x"),
    "time backwards": ("time,x\n0,1\n0.04,1\n0.02,1\n", {}, "row 2: expected times that do not go back"),
    "time missing": ("time,x\n0,1\n,1\n", {}, "row 1, column 'time'"),
    "other rate": ("time,x\n0,1\n0.02,1\n0.04,1\n", {}, "expected rows at 25 Hz, got 50 Hz"),
    "time stands still": ("time,x\n1,1\n1,1\n1,1\n", {}, "a time that stands still"),
    "wall clock": ("time,x\n1700000000,1\n1700000000.04,1\n", {}, "origin='first'"),
    "no rows": ("time,x\n", {}, "at least one row"),
    "no values": ("time\n0\n", {}, "expected columns of values"),
    "lacking column": ("time,x\n0,1\n", {"columns": ["z"]}, "expected columns z, got x"),
    "not a table": (b"\xff\xfe\x00\x01", {}, "not a csv table"),
}


@pytest.mark.parametrize("kind", BAD_TABLES)
def test_tables_that_cannot_be_used(tmp_path, kind):
    content, options, message = BAD_TABLES[kind]
    path = tmp_path / "rows.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        RowsSource(path, 25, modality="face", **options)


def test_arguments_of_sources_out_of_range(files, model):
    with pytest.raises(DataError, match=r"ends in \.csv or \.parquet"):
        RowsSource(files / "talk.wav", 25, modality="face")
    with pytest.raises(InputError, match="chunk must be an integer"):
        RowsSource(files / "face.csv", 25, modality="face", chunk=0)
    with pytest.raises(InputError, match="rate must be a positive number"):
        RowsSource(files / "face.csv", 0, modality="face")
    with pytest.raises(InputError, match="speed: expected a positive number"):
        GeneratedSource(model.inputs[0], speed=-1)


def test_an_edf_recording_in_chunks(data_dir):
    mne = pytest.importorskip("mne")
    path = data_dir / "eegmat" / "Subject00_2.edf"
    names = ["EEG Fp1", "EEG O2"]
    source = EegSource(path, 500, channels=names, chunk=700)
    chunks = list(source)
    got = np.concatenate([c.samples for c in chunks], axis=1)
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    np.testing.assert_array_equal(got, (raw.get_data(names) * 1e6).astype(np.float32))
    assert 1 < np.abs(got).max() < 1000  # microvolts
    assert chunks[1].time == pytest.approx(1.4)
    with pytest.raises(DataError, match="expected EEG at 128 Hz, got 500"):
        EegSource(path, 128)
    with pytest.raises(DataError, match="expected channels Oz"):
        EegSource(path, 500, channels=["Oz"])
    with pytest.raises(InputError, match="unit: expected one of"):
        EegSource(path, 500, unit="g")


def test_eeg_files_that_cannot_be_read(tmp_path):
    pytest.importorskip("mne")
    with pytest.raises(DataError, match="no such file"):
        EegSource(tmp_path / "none.edf", 128)
    path = tmp_path / "bad.edf"
    path.write_bytes(b"not EEG")
    with pytest.raises(DataError, match="not an EEG recording"):
        EegSource(path, 128)


def test_words_open_what_they_name(files, model, tmp_path):
    audio = open_source(f"audio={files / 'talk.wav'}", model)
    assert isinstance(audio, FileSource)
    assert (audio.modality, audio.rate) == ("audio", 8000)
    eeg = open_source(f"eeg={files / 'eeg.csv'}?columns=eeg3,eeg2,eeg1,eeg0&origin=first", model, speed=2.0)
    assert isinstance(eeg, RowsSource)
    assert eeg.speed == 2.0
    np.testing.assert_array_equal(next(iter(eeg)).samples[:, 0], SIGNALS["eeg"][0, ::-1])
    made = open_source("face=generated:1.5?seed=3", model)
    assert isinstance(made, GeneratedSource)
    assert sum(c.frames for c in made) == 38
    odd = tmp_path / "what?x=1.csv"
    odd.write_bytes((files / "face.csv").read_bytes())
    assert open_source(f"face={odd}", model).channels == 6
    assert isinstance(open_sink(str(tmp_path / "a.csv"), model), CsvSink)


def test_words_name_an_input_with_a_dash():
    card, tensors = fused()
    card = json.loads(json.dumps(card).replace('"face"', '"face-2"'))
    model = Model.from_bytes(model_bytes(card, tensors))
    assert open_source("face-2=generated:1?seed=1", model).modality == "face-2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("talk.wav", "expected INPUT=..., because the model takes several: audio, eeg, face"),
        ("fase=x.csv", "no input 'fase'; did you mean 'face'"),
        ("face=", "expected a file or a device"),
        ("face=generated?sead=1", "takes no option 'sead'; did you mean 'seed'"),
        ("face=generated?seed=one", "seed: invalid literal"),
        ("face=generated?seed=1&x", "expected OPTION=VALUE, got 'x'"),
        ("face=generated:long", "expected a number of seconds, got 'long'"),
    ],
)
def test_words_that_make_no_sense(model, words, message):
    with pytest.raises(InputError, match=message):
        open_source(words, model)


def test_sinks_that_make_no_sense(model, tmp_path):
    with pytest.raises(InputError, match=r"sink: expected a name that ends in \.csv or \.jsonl"):
        open_sink("estimates.txt", model)
    with pytest.raises(DataError, match="cannot be written"):
        open_sink(str(tmp_path / "none" / "a.csv"), model)


def test_the_command_runs_sources_records_and_replays(files, model, model_file, tmp_path, capsys):
    sources = [f"audio={files / 'talk.wav'}", f"eeg={files / 'eeg.csv'}", f"face={files / 'face.csv'}"]
    words = [word for source in sources for word in ("--source", source)]
    first, again = tmp_path / "first.csv", tmp_path / "again.csv"
    record, table = tmp_path / "session.csv", tmp_path / "table.csv"
    command = ["stream", "--model", str(model_file), *words, "--record", str(record), "--out", str(table)]
    assert main([*command, "--sink", str(first)]) == 0
    expected = model.run({name: as_input(name, x) for name, x in SIGNALS.items()})
    assert len(capsys.readouterr().out.splitlines()) == len(expected.times)
    read = read_csv(first, ())
    assert read["time"].tolist() == expected.times.tolist()
    np.testing.assert_array_equal(read["valence"].to_numpy(np.float32), expected.values[:, 0])
    assert len(pd.read_csv(table)) == len(read)
    assert main(["replay", str(record), "--sink", str(again)]) == 0
    assert again.read_bytes() == first.read_bytes()


def test_pictures_without_a_face_are_gaps_live_and_in_a_whole_recording(
    files, model, model_file, tmp_path, capsys
):
    face = SIGNALS["face"].copy()
    face[[0, 7, 8, 9, 30, 49]] = np.nan
    path, out = tmp_path / "face.csv", tmp_path / "out.csv"
    pd.DataFrame(face).assign(time=np.arange(50) / 25).to_csv(path, index=False)
    words = ["--source", f"eeg={files / 'eeg.csv'}", "--source", f"face={path}", "--sink", str(out)]
    assert main(["stream", "--model", str(model_file), *words]) == 0
    expected = model.run({"eeg": as_input("eeg", SIGNALS["eeg"]), "face": face})
    read = read_csv(out, ())
    assert len(read) > 15
    assert read["time"].tolist() == expected.times.tolist()
    np.testing.assert_array_equal(read["valence"].to_numpy(np.float32), expected.values[:, 0])
    assert (read["has_face"].to_numpy() == expected.present[:, 2]).all()


def test_the_command_tells_of_a_source_that_failed(files, model_file, tmp_path, capsys):
    broken = tmp_path / "face.csv"
    pd.DataFrame({"time": np.arange(50) / 25, **{f"f{i}": 1e7 for i in range(6)}}).to_csv(broken, index=False)
    out = tmp_path / "out.jsonl"
    words = ["--source", f"eeg={files / 'eeg.csv'}", "--source", f"face={broken}", "--sink", str(out)]
    assert main(["stream", "--model", str(model_file), *words]) == 2
    assert "face: samples: expected values within +-1e6" in capsys.readouterr().err
    assert len(out.read_text().splitlines()) == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--source", "face=generated", "x.wav"], "stream takes either a FILE"),
        (["--source", "face=generated:1", "--realtime", "--speed", "2"], "--realtime is --speed 1"),
        (["--source", "face=generated:1", "--device", "2"], "--device is for --mic"),
        (["--source", "face=generated:1", "--record", "x.txt"], "ends in .csv or .parquet"),
        (["--source", "face=generated:1", "--speed", "0"], "speed: expected a positive number"),
        (
            [
                "--source",
                "face=generated:1",
                "--source",
                "eeg=generated:1",
                "--realtime",
                "--chunk-ms",
                "500",
            ],
            "expected less than the 0.4 s that the engine waits for an input",
        ),
    ],
)
def test_the_command_refuses_what_makes_no_sense(model_file, words, message, capsys):
    assert main(["stream", "--model", str(model_file), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("failing", [True, False])
def test_what_failed_is_told_after_ctrl_c_too(model_file, tmp_path, capsys, monkeypatch, failing):
    show, shown = cli._Live.__call__, []

    def stopped(self, estimate):
        show(self, estimate)
        shown.append(estimate)
        if len(shown) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli._Live, "__call__", stopped)
    sink, out = tmp_path / "sink.jsonl", tmp_path / "out.csv"
    if failing:
        sink.symlink_to("/dev/full")
    words = ["--source", "face=generated:3", "--sink", str(sink), "--out", str(out)]
    assert main(["stream", "--model", str(model_file), *words]) == (2 if failing else 0)
    said = capsys.readouterr().err
    assert ("sink.jsonl: cannot be written: No space left on device" in said) is failing
    assert "Traceback" not in said
    assert len(pd.read_csv(out)) >= 4


def test_the_command_goes_on_after_a_source_that_cannot_be_closed(model_file, tmp_path, capsys, monkeypatch):
    def stuck(self):
        raise RuntimeError("the driver hangs")

    monkeypatch.setattr(GeneratedSource, "close", stuck)
    record, out = tmp_path / "session.csv", tmp_path / "out.csv"
    words = ["--source", "face=generated:2", "--record", str(record), "--out", str(out)]
    assert main(["stream", "--model", str(model_file), *words]) == 2
    assert "error: closing face: the driver hangs" in capsys.readouterr().err
    assert len(pd.read_csv(out)) == len(list(Recording(record).replay())) > 10


def test_the_command_gives_the_same_for_long_chunks(files, model, model_file, tmp_path, capsys):
    """Longer than the engine waits for an input."""
    sources = [f"audio={files / 'talk.wav'}", f"eeg={files / 'eeg.csv'}", f"face={files / 'face.csv'}"]
    words = [word for source in sources for word in ("--source", source)]
    out = tmp_path / "out.csv"
    command = ["stream", "--model", str(model_file), *words, "--chunk-ms", "900", "--sink", str(out)]
    assert main(command) == 0
    expected = model.run({name: as_input(name, x) for name, x in SIGNALS.items()})
    np.testing.assert_array_equal(read_csv(out, ())["valence"].to_numpy(np.float32), expected.values[:, 0])
    assert "too late" not in capsys.readouterr().err


def test_the_command_takes_the_jitter_out_of_devices_and_tells_what_they_lose(
    model, model_file, tmp_path, monkeypatch, capsys
):
    class Lossy(GeneratedSource):
        live, clock = True, "monotonic"

        def __iter__(self):
            begun = time.monotonic()
            for chunk in super().__iter__():
                yield chunk._replace(time=chunk.time + begun)

        def counters(self):
            return {**super().counters(), "overflows": 2}

    def opened(words, model, **options):
        return Lossy(model.inputs[2], seconds=2)

    monkeypatch.setattr("affekt.live.opening.open_source", opened)
    record = tmp_path / "session.csv"
    assert main(["stream", "--model", str(model_file), "--source", "face=x", "--record", str(record)]) == 0
    assert "face: 2 times that the device lost input" in capsys.readouterr().err
    assert Recording(record).options["dejitter_s"] == 90.0


def test_a_view_that_cannot_be_shown_begins_no_recording(model_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.live", None)
    record = tmp_path / "session.csv"
    words = ["--source", "face=generated:1", "--record", str(record), "--view"]
    assert main(["stream", "--model", str(model_file), *words]) == 2
    assert "affekt[live]" in capsys.readouterr().err
    assert not record.exists()


def test_the_view_of_the_command(model_file, capsys):
    pytest.importorskip("rich")
    words = [w for name in RATES for w in ("--source", f"{name}=generated:1")]
    assert main(["stream", "--model", str(model_file), *words, "--view"]) == 0
    assert "valence" in capsys.readouterr().err


def test_a_replay_of_nothing(tmp_path, capsys):
    assert main(["replay", str(tmp_path / "none.csv")]) == 2
    assert "no such recording" in capsys.readouterr().err
