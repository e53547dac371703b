"""`predict`: one tidy table, the same numbers in full and stream mode, rows that rest on what they say."""

from __future__ import annotations

import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affekt
from affekt._predict import _cut, _pieces
from affekt.errors import DataError, InputError
from small_model import COLUMNS, EMOTIONS, small_model

soundfile = pytest.importorskip("soundfile")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return affekt.load(small_model(tmp_path_factory.mktemp("model") / "pooled.safetensors"))


@pytest.fixture(scope="module")
def trace_model(tmp_path_factory):
    return affekt.load(small_model(tmp_path_factory.mktemp("model") / "trace.safetensors", pool=False))


def babble(seconds, rate=16000, channels=1, seed=0):
    """Noise with a syllable-like rhythm, (time, channels) float32 within [-1, 1]."""
    draw = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    loud = 0.05 + 0.3 * np.sin(2 * np.pi * 1.7 * time) ** 2
    noise = draw.uniform(-1, 1, (time.size, channels))
    return (noise * loud[:, None]).astype(np.float32)


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound") / "voice.wav"
    soundfile.write(path, babble(3.21), 16000)
    return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """Stereo at 44.1 kHz, 24 bit: resampled and mixed down on the way."""
    path = tmp_path_factory.mktemp("sound") / "studio.flac"
    soundfile.write(path, babble(2.3, 44100, 2, seed=1), 44100, subtype="PCM_24")
    return path


def test_the_table_is_tidy(model, voice, studio):
    table = affekt.predict([voice, studio], model)
    assert list(table.columns) == ["file", "start", "end", *COLUMNS, "valid"]
    assert list(table["file"].unique()) == [str(voice), str(studio)]
    assert not table.isna().any().any()
    for file, seconds in ((voice, 3.21), (studio, 2.3)):
        rows = table[table["file"] == str(file)]
        assert rows["end"].is_monotonic_increasing
        assert (rows["start"] < rows["end"]).all()
        assert rows["start"].min() >= 0
        assert seconds - 0.2 < rows["end"].max() < seconds
    assert table[["valence", "arousal", "dominance"]].abs().max().max() <= 1
    np.testing.assert_allclose(table[COLUMNS[3:]].sum(axis=1), 1, atol=1e-6)
    assert table.attrs["model"] == "small 1"
    assert table.attrs["failures"] == []
    assert table.attrs["converted"] == {
        str(studio): "44100 Hz resampled to 16000 Hz, 2 channels averaged",
    }


def test_full_mode_is_the_native_pass_over_the_samples(model, voice):
    table = affekt.predict(voice, model)
    times, values = model.run(affekt.data.read_audio(voice, model.sample_rate))
    np.testing.assert_array_equal(table["end"], times)
    np.testing.assert_array_equal(table[model.columns].to_numpy(np.float32), values)


@settings(max_examples=25, deadline=None)
@given(chunk=st.lists(st.one_of(st.integers(1, 50), st.integers(1, 40_000)), min_size=1, max_size=5))
@pytest.mark.parametrize("which", ["model", "trace_model"])
def test_stream_equals_full_for_any_chunks(request, which, voice, chunk):
    chosen = request.getfixturevalue(which)
    full = affekt.predict(voice, chosen)
    live = affekt.predict(voice, chosen, mode="stream", chunk=chunk)
    pd.testing.assert_frame_equal(full, live, check_exact=True)


@pytest.mark.parametrize("chunk", [None, 1, 333, 100_000, [17, 4001, 3]])
def test_stream_equals_full_when_resampled(model, studio, chunk):
    full = affekt.predict(studio, model)
    live = affekt.predict(studio, model, mode="stream", chunk=chunk)
    pd.testing.assert_frame_equal(full, live, check_exact=True)


@pytest.mark.parametrize("which", ["model", "trace_model"])
def test_a_row_rests_on_its_span_and_nothing_else(request, which, tmp_path):
    chosen = request.getfixturevalue(which)
    samples = babble(4.0)[:, 0]
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    before = affekt.predict(tmp_path / "a.wav", chosen)
    row = before.iloc[len(before) * 3 // 4]
    first, last = int(np.ceil(row["start"] * 16000)), round(row["end"] * 16000)
    assert first > 0
    changed = samples.copy()
    changed[: first - 1] *= 0.2
    changed[last + 1 :] *= 3.0
    soundfile.write(tmp_path / "b.wav", changed, 16000, subtype="FLOAT")
    after = affekt.predict(tmp_path / "b.wav", chosen)
    np.testing.assert_array_equal(after.loc[row.name, COLUMNS], row[COLUMNS])
    assert not after[COLUMNS].equals(before[COLUMNS])


def test_window_mode_starts_afresh_in_every_window(model, voice):
    samples = affekt.data.read_audio(voice, 16000)
    table = affekt.predict(voice, model, mode="window", window=1.0, hop=0.6)
    # Windows at 0, 0.6, 1.2, 1.8 s, and the rest (3.21 s) as one that ends with the recording.
    np.testing.assert_allclose(table["start"][:4], [0, 0.6, 1.2, 1.8])
    assert table["end"].iloc[-1] == pytest.approx(3.21, abs=1e-4)
    assert table["start"].iloc[-1] == pytest.approx(2.4)  # on the model's grid of 0.2 s
    for _, row in table.iterrows():
        piece = samples[round(row["start"] * 16000) : round(row["end"] * 16000) + 1]
        np.testing.assert_array_equal(row[model.columns].to_numpy(np.float32), model.run(piece)[1][-1])


def test_window_mode_averages_steps_where_windows_overlap(trace_model, voice):
    samples = affekt.data.read_audio(voice, 16000)
    table = affekt.predict(voice, trace_model, mode="window", window=1.0, hop=0.4)
    sums, counts = {}, {}
    starts = [0, 6400, 12800, 19200, 25600, 32000]
    for start in [*starts, 35840]:  # the rest: the first start on the grid of 640 that reaches the end
        times, values = trace_model.run(samples[start : start + 16000])
        for when, value in zip(times, values.astype(np.float64), strict=True):
            last = start + round(when * 16000)
            sums[last] = sums.get(last, 0) + value
            counts[last] = counts.get(last, 0) + 1
    assert max(counts.values()) == 3
    np.testing.assert_allclose(table["end"], np.array(sorted(sums)) / 16000)
    expected = np.array([sums[last] / counts[last] for last in sorted(sums)])
    np.testing.assert_allclose(table[trace_model.columns], expected, atol=1e-6)


def test_one_window_over_all_is_the_full_pass(model, voice):
    window = affekt.predict(voice, model, mode="window", window=60)
    full = affekt.predict(voice, model)
    assert len(window) == 1
    np.testing.assert_array_equal(window[COLUMNS].iloc[0], full[COLUMNS].iloc[-1])


@settings(max_examples=100, deadline=None)
@given(
    total=st.integers(0, 400),
    size=st.integers(1, 12),
    stride=st.integers(1, 12),
    step=st.integers(1, 5),
    block=st.integers(1, 90),
)
def test_windows_cover_every_sample_whatever_the_blocks(total, size, stride, step, block):
    size, stride = size * step, min(stride, size) * step
    samples = np.arange(total, dtype=np.float32)
    blocks = [samples[i : i + block] for i in range(0, total, block)]
    cuts = [(first, piece.copy()) for first, piece in _cut(iter(blocks), size, stride, step)]
    covered = np.zeros(total, bool)
    for first, piece in cuts:
        np.testing.assert_array_equal(piece, samples[first : first + piece.size])
        assert 0 < piece.size <= size
        assert first % step == 0
        covered[first : first + piece.size] = True
    # The last window begins on the grid; only less than a step between two windows may be left to it.
    assert covered.all()
    assert all(a < b for (a, _), (b, _) in pairwise(cuts))


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    blocks=st.lists(st.integers(0, 20), max_size=6),
)
def test_pieces_have_the_sizes_asked_for(sizes, blocks):
    samples = np.arange(sum(blocks), dtype=np.float32)
    ends = np.cumsum([0, *blocks])
    pieces = list(_pieces([samples[a:b] for a, b in pairwise(ends)], sizes))
    np.testing.assert_array_equal(np.concatenate([*pieces, np.empty(0)]), samples)
    wanted = [sizes[i % len(sizes)] for i in range(len(pieces))]
    assert [piece.size for piece in pieces[:-1]] == wanted[:-1]
    assert not pieces or 0 < pieces[-1].size <= wanted[-1]


@pytest.mark.parametrize("how", ["last", "mean"])
def test_summary_gives_a_row_per_file(model, voice, studio, how):
    rows = affekt.predict([voice, studio], model)
    table = affekt.predict([voice, studio], model, summary=how)
    assert list(table["file"]) == [str(voice), str(studio)]
    np.testing.assert_allclose(table["end"], [3.21, 2.3], atol=1e-3)
    assert (table["start"] == 0).all()
    groups = rows.groupby("file", sort=False)[COLUMNS]
    expected = groups.last() if how == "last" else groups.mean()
    np.testing.assert_allclose(table[COLUMNS], expected, atol=1e-6)


def test_progress_names_each_file(model, voice, studio):
    seen = []
    affekt.predict([voice, studio], model, progress=lambda *args: seen.append(args))
    assert seen == [(0, 2, str(voice)), (1, 2, str(studio)), (2, 2, str(studio))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "batch"}, "mode: expected 'full', 'window' or 'stream', got 'batch'"),
        ({"window": 2.0}, "window, hop: for mode='window' only, got mode='full'"),
        ({"chunk": 160}, "chunk: for mode='stream' only, got mode='full'"),
        ({"mode": "stream", "chunk": 0}, "chunk: expected sizes of at least 1 sample, got 0"),
        ({"mode": "stream", "chunk": []}, "chunk: expected sizes of at least 1"),
        ({"mode": "window", "window": -1.0}, "window: expected a positive number of seconds, got -1.0"),
        ({"mode": "window", "window": 1.0, "hop": 2.0}, "hop: expected at most the window of 1 s, got 2 s"),
        ({"mode": "window", "hop": float("nan")}, "hop: expected a positive number of seconds, got nan"),
        ({"summary": "median"}, "summary: expected None, 'last' or 'mean', got 'median'"),
        ({"on_error": "ignore"}, "on_error: expected 'raise' or 'skip', got 'ignore'"),
        ({"mono": 7}, "mono"),
    ],
)
def test_options_out_of_range_are_refused(model, voice, options, message):
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        affekt.predict(voice, model, **options)


def test_no_files_are_refused(model):
    with pytest.raises(InputError, match="paths: expected at least one recording"):
        affekt.predict([], model)


def test_a_model_for_another_modality_is_refused(tmp_path, voice):
    class Other(affekt.Model):
        def __init__(self):
            pass

        inputs = [{"name": "eeg", "kind": "signal", "rate": 256.0, "channels": 32}]  # noqa: RUF012

    with pytest.raises(InputError, match=r"expected one that takes a single audio signal.*eeg \(signal\)"):
        affekt.predict(voice, Other())


def write_long_wav(path: Path, seconds: int, rate: int = 16000) -> None:
    """A mono 16-bit recording: noise in the first second of every minute, holes that read as silence."""
    size = 2 * seconds * rate
    form = (b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    noise = np.random.default_rng(0).integers(-8000, 8000, rate).astype("<i2").tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", *form, b"data", size))
        for minute in range(0, seconds, 60):
            file.seek(44 + 2 * minute * rate)
            file.write(noise)
        file.truncate(44 + size)


@pytest.mark.parametrize("mode", ["full", "stream", "window"])
def test_memory_does_not_grow_with_the_recording(tmp_path, mode):
    """Peak memory of a whole process for an hour of sound against five minutes of it."""
    path = small_model(tmp_path / "m.safetensors")
    program = (
        "import sys, resource, affekt\n"
        "table = affekt.predict(sys.argv[1], sys.argv[2], sys.argv[3])\n"
        "print(len(table), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    rows, peak = {}, {}
    for seconds in (300, 3600):
        sound = tmp_path / f"{seconds}.wav"
        write_long_wav(sound, seconds)
        done = subprocess.run(
            [sys.executable, "-c", program, str(sound), str(path), mode],
            capture_output=True,
            text=True,
            check=True,
        )
        rows[seconds], peak[seconds] = (int(word) for word in done.stdout.split())
    assert rows[3600] > 10 * rows[300]
    # The samples of the longer one alone would be 200 MB as float32; its table of estimates is under 2 MB.
    assert peak[3600] - peak[300] < 25_000, f"peak RSS in KiB: {peak}"


def test_evaluate_reports_what_the_metrics_say(model, tmp_path):
    from affekt import metrics

    draw = np.random.default_rng(3)
    rows = []
    for number in range(6):
        soundfile.write(tmp_path / f"{number}.wav", babble(1.0 + number / 3, seed=number), 16000)
        emotion = ["happy", "sad", "bored", "happy", "sad", None][number]
        rows.append(
            {
                "file": f"{number}.wav",
                "session": f"s{number % 2}",
                "emotion": emotion,
                "arousal": draw.uniform(-1, 1),
            }
        )
    pd.DataFrame(rows).to_csv(tmp_path / "labels.csv", index=False)
    result = affekt.evaluate(model, tmp_path / "labels.csv")
    table = affekt.predict([tmp_path / row["file"] for row in rows], model, summary="last")
    figures = result.metrics.set_index(["label", "metric"])["value"]
    truth = np.array([row["arousal"] for row in rows])
    assert figures["arousal", "CCC"] == pytest.approx(metrics.ccc(table["arousal"].to_numpy(), truth))
    assert figures["arousal", "RMSE"] == pytest.approx(np.sqrt(np.mean((table["arousal"] - truth) ** 2)))
    columns = [f"p_{name}" for name in EMOTIONS]
    chosen = table[columns].idxmax(axis=1).str.removeprefix("p_")[[0, 1, 3, 4]]
    true = np.array(["happy", "sad", "happy", "sad"])
    assert result.classes == [name for name in EMOTIONS if name in {*true, *chosen}]
    assert set(chosen) - {"happy", "sad"}, "the case is meant to have estimates outside the labels"
    assert result.confusion.sum() == 4
    recalls = [(chosen[true == name] == name).mean() for name in ("happy", "sad")]
    assert figures["emotion", "UAR"] == pytest.approx(np.mean(recalls))
    assert result.confusion.trace() / 4 == pytest.approx(figures["emotion", "WAR"])
    text = str(result)
    assert "the model does not know bored: 1 recordings left out" in text
    assert "could choose any of its 4 emotions" in text
    assert "neutral, angry" in text
    assert "concatenated" in text
    assert set(result.metrics["mode"]) == {"full"}
    assert set(result.metrics["estimate"]) == {"last"}
    assert set(result.metrics["notes"]) == {"; ".join(result.notes)}

    restricted = affekt.evaluate(model, tmp_path / "labels.csv", restrict=True)
    best = table[["p_happy", "p_sad"]].idxmax(axis=1).str.removeprefix("p_")[[0, 1, 3, 4]]
    assert restricted.classes == ["happy", "sad"]
    assert restricted.metrics.set_index("metric")["value"]["WAR"] == pytest.approx((best == true).mean())
    assert "could choose only among the 2 emotions" in str(restricted)


def test_evaluate_says_when_the_model_was_trained_on_that_corpus(tmp_path):
    own = affekt.load(small_model(tmp_path / "own.safetensors", data=["mine", "other"]))
    soundfile.write(tmp_path / "a.wav", babble(1.0), 16000)
    table = pd.DataFrame({"file": [str(tmp_path / "a.wav")], "corpus": "mine", "valence": [0.5]})
    assert "names mine as its training data" in str(affekt.evaluate(own, table))
    assert "training data" not in str(affekt.evaluate(own, table.assign(corpus="foreign")))
    nameless = affekt.load(small_model(tmp_path / "nameless.safetensors", data=["user's manifest"]))
    note = "card does not name the corpus of its training data: if these speakers were in it"
    for corpus in ("foreign", None):
        assert note in str(affekt.evaluate(nameless, table.assign(corpus=corpus)))


def test_evaluate_counts_what_it_skips(model, tmp_path):
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", babble(1.0, seed=number), 16000)
    (tmp_path / "1.wav").write_text("no sound at all")
    table = pd.DataFrame({"file": ["0.wav", "1.wav", "2.wav"], "valence": [0.1, 0.2, 0.3]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    with pytest.raises(DataError, match=r"1\.wav"):
        affekt.evaluate(model, tmp_path / "labels.csv")
    result = affekt.evaluate(model, tmp_path / "labels.csv", on_error="skip")
    assert len(result.predictions) == 2
    assert [Path(failure["file"]).name for failure in result.failures] == ["1.wav"]
    assert "1 of 3 recordings could not be used" in str(result)


def test_evaluate_uses_the_part_that_a_row_names(model, tmp_path):
    samples = babble(4.0)
    soundfile.write(tmp_path / "long.wav", samples, 16000)
    soundfile.write(tmp_path / "part.wav", samples[16000:40000], 16000)
    table = pd.DataFrame({"file": "long.wav", "start": [1.0, 0.0], "end": [2.5, 1.0], "valence": [0.1, 0.2]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    found = affekt.evaluate(model, tmp_path / "labels.csv").predictions
    np.testing.assert_allclose(found[["start", "end"]], [[1.0, 2.5], [0.0, 1.0]])
    alone = affekt.predict(tmp_path / "part.wav", model, summary="last")
    np.testing.assert_array_equal(found[COLUMNS].iloc[0], alone[COLUMNS].iloc[0])


def test_evaluate_leaves_out_a_label_without_values(model, voice):
    table = pd.DataFrame({"file": [str(voice)], "valence": [np.nan], "arousal": [0.5], "emotion": [None]})
    result = affekt.evaluate(model, table)
    assert set(result.metrics["label"]) == {"arousal"}
    assert result.confusion is None
    assert "no recording has a valence label: left out" in result.notes
    assert "no recording has an emotion label: left out" in result.notes
    with pytest.raises(DataError, match="no row of the manifest has a value of valence, emotion"):
        affekt.evaluate(model, table.drop(columns="arousal"))
    with pytest.raises(DataError, match=r"nothing to compare: .* at least two are needed"):
        affekt.evaluate(model, table.assign(arousal=np.nan, emotion="happy"))


def test_evaluate_without_common_labels_is_refused(model, voice):
    with pytest.raises(DataError, match="nothing to compare"):
        affekt.evaluate(model, pd.DataFrame({"file": [str(voice)]}))
