"""Recordings that cannot be used: `predict` and the command line name the file and what is wrong with it."""

from __future__ import annotations

import os
import struct

import numpy as np
import pandas as pd
import pytest

import affekt
from affekt.cli import main
from affekt.errors import DataError, ModelFileError
from small_model import small_model

soundfile = pytest.importorskip("soundfile")

SECOND = (0.3 * np.sin(np.arange(16000) * 0.05)).astype(np.float32)


@pytest.fixture(scope="module")
def model_path(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model") / "small.safetensors")


@pytest.fixture(scope="module")
def model(model_path):
    return affekt.load(model_path)


def wav(path, samples, rate=16000, subtype="PCM_16"):
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def with_value(value, at=4000):
    samples = SECOND.copy()
    samples[at] = value
    return samples


# name -> (how to make it, what the message says)
UNUSABLE = {
    "empty file": (lambda path: path.write_bytes(b""), "the file is empty"),
    "header without samples": (lambda path: wav(path, np.empty(0, np.float32)), "no samples"),
    "all zero": (lambda path: wav(path, np.zeros(16000, np.float32)), "every sample is zero"),
    "NaN": (lambda path: wav(path, with_value(np.nan), subtype="FLOAT"), r"0\.250 s.*nan"),
    "infinity": (lambda path: wav(path, with_value(-np.inf), subtype="DOUBLE"), r"0\.250 s.*-inf"),
    "text": (lambda path: path.write_text("This is not a sound.\n" * 50), "not an audio file"),
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "not a regular file"),
    "too short": (lambda path: wav(path, SECOND[:200]), "too short for a single estimate"),
}


@pytest.fixture(params=list(UNUSABLE))
def unusable(request, tmp_path):
    make, message = UNUSABLE[request.param]
    path = tmp_path / "bad.wav"
    make(path)
    return path, message


@pytest.mark.parametrize("mode", ["full", "stream", "window"])
@pytest.mark.filterwarnings("error")
def test_predict_says_which_file_and_why(unusable, model, mode):
    path, message = unusable
    with pytest.raises(DataError, match=message) as caught:
        affekt.predict(path, model, mode)
    assert str(path) in str(caught.value)


def test_the_command_line_says_it_in_one_line(unusable, model_path, capsys):
    path, _ = unusable
    assert main(["predict", str(path), "--model", str(model_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"affekt predict: error: {path}: ")


@pytest.mark.parametrize(
    "unusable", sorted(UNUSABLE.keys() - {"all zero"}), indirect=True
)  # silence is fine live
def test_stream_on_the_command_line_says_it_too(unusable, model_path, capsys):
    path, _ = unusable
    assert main(["stream", str(path), "--model", str(model_path)]) == 2
    _, err = capsys.readouterr()
    assert err.startswith(f"affekt stream: error: {path}: ")
    assert err.count("\n") == 1


def test_skipping_keeps_the_others_and_counts(unusable, model, tmp_path):
    path, _ = unusable
    good = wav(tmp_path / "good.wav", SECOND)
    table = affekt.predict([good, path], model, on_error="skip")
    assert list(table["file"].unique()) == [str(good)]
    (failure,) = table.attrs["failures"]
    assert failure["file"] == str(path)
    assert str(path) in failure["reason"]


def test_skipping_on_the_command_line(unusable, model_path, tmp_path, capsys):
    path, _ = unusable
    good = wav(tmp_path / "good.wav", SECOND)
    out = tmp_path / "table.csv"
    arguments = ["--model", str(model_path), "--on-error", "skip", "--out", str(out)]
    assert main(["predict", str(good), str(path), *arguments]) == 0
    err = capsys.readouterr().err
    assert f"skipped: {path}" in err
    assert "1 of 2 recordings skipped" in err
    assert set(pd.read_csv(out)["file"]) == {str(good)}
    # Nothing left to report on is a failure.
    assert main(["predict", str(path), *arguments]) == 2


def test_nothing_but_failures_gives_an_empty_table_with_columns(model, tmp_path):
    table = affekt.predict([tmp_path / "a.wav", tmp_path / "b.wav"], model, on_error="skip")
    assert len(table) == 0
    assert list(table.columns)[:4] == ["file", "start", "end", "valence"]
    assert len(table.attrs["failures"]) == 2


def test_evaluate_names_the_file_too(unusable, model_path, tmp_path, capsys):
    path, _ = unusable
    pd.DataFrame({"file": [str(path)], "arousal": [0.5]}).to_csv(tmp_path / "labels.csv", index=False)
    assert main(["evaluate", str(tmp_path / "labels.csv"), "--model", str(model_path)]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_sample_width_gives_the_same_estimates(model, tmp_path, subtype):
    steps = np.round(SECOND * 128).astype(np.int16) * 256  # what all widths can hold
    full_scale = steps / 32768.0
    reference = affekt.predict(wav(tmp_path / "reference.wav", full_scale, subtype="DOUBLE"), model)
    samples = full_scale if subtype in ("FLOAT", "DOUBLE") else steps
    table = affekt.predict(wav(tmp_path / "other.wav", samples, subtype=subtype), model)
    assert table.attrs["converted"] == {}
    pd.testing.assert_frame_equal(
        table.drop(columns="file"), reference.drop(columns="file"), check_exact=True
    )


def test_samples_beyond_reason_are_refused(model, tmp_path):
    path = wav(tmp_path / "huge.wav", SECOND * 1e8, subtype="FLOAT")
    with pytest.raises(DataError, match=r"huge\.wav: its samples reach 3e\+07 where full scale is 1"):
        affekt.predict(path, model)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_other_rates_are_resampled_and_stated(model, model_path, tmp_path, rate, capsys):
    time = np.arange(rate) / rate
    path = wav(tmp_path / "other.wav", 0.3 * np.sin(2 * np.pi * 220 * time), rate)
    table = affekt.predict(path, model)
    assert table.attrs["converted"] == {str(path): f"{rate} Hz resampled to 16000 Hz"}
    assert table["end"].iloc[-1] == pytest.approx(1.0, abs=0.1)
    assert main(["predict", str(path), "--model", str(model_path)]) == 0
    assert f"{path}: {rate} Hz resampled to 16000 Hz" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged_or_chosen(model, model_path, tmp_path, channels, capsys):
    samples = np.zeros((16000, channels))
    samples[:, -1] = SECOND
    path = wav(tmp_path / "many.wav", samples, subtype="FLOAT")
    table = affekt.predict(path, model)
    assert table.attrs["converted"] == {str(path): f"{channels} channels averaged"}
    mixed = wav(tmp_path / "mixed.wav", SECOND / channels, subtype="FLOAT")
    np.testing.assert_allclose(table[model.columns], affekt.predict(mixed, model)[model.columns], atol=1e-4)

    alone = wav(tmp_path / "alone.wav", SECOND, subtype="FLOAT")
    chosen = affekt.predict(path, model, mono=channels - 1)
    np.testing.assert_array_equal(chosen[model.columns], affekt.predict(alone, model)[model.columns])
    assert chosen.attrs["converted"] == {str(path): f"channel {channels - 1} of {channels}"}
    with pytest.raises(DataError, match="every sample is zero"):
        affekt.predict(path, model, mono=0)
    assert main(["predict", str(path), "--model", str(model_path), "--channel", str(channels)]) == 2
    assert f"channel from 0 to {channels - 1}" in capsys.readouterr().err


def test_a_cut_off_file_is_used_as_far_as_it_goes_with_a_warning(model, model_path, tmp_path, capsys):
    path = wav(tmp_path / "cut.wav", np.tile(SECOND, 3))
    os.truncate(path, 44 + 2 * 24000)
    with pytest.warns(affekt.data.AudioWarning, match="cut off"):
        table = affekt.predict(path, model)
    assert table["end"].iloc[-1] == pytest.approx(1.5, abs=0.1)
    assert main(["predict", str(path), "--model", str(model_path)]) == 0
    assert "affekt predict: warning: " in capsys.readouterr().err


def test_a_header_that_promises_too_much_is_no_reason_to_crash(model, tmp_path):
    path = tmp_path / "liar.wav"
    form = (b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    body = (SECOND * 32767).astype("<i2").tobytes()
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 2**31, b"WAVE", *form, b"data", 2**31 - 60)
    path.write_bytes(header + body)
    with pytest.warns(affekt.data.AudioWarning):
        assert len(affekt.predict(path, model)) > 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(model, tmp_path):
    path = wav(tmp_path / "secret.wav", SECOND)
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        affekt.predict(path, model)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "model"), (b"\x00" * 4000, "model"), (b"RIFFxxxxWAVEfmt ", "model")]
)
def test_a_model_file_that_is_none(tmp_path, content, message, capsys):
    good = wav(tmp_path / "good.wav", SECOND)
    path = tmp_path / "not-a-model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        affekt.predict(good, path)
    assert main(["predict", str(good), "--model", str(path)]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert err.count("\n") == 1


def test_a_model_file_that_is_missing(tmp_path, capsys):
    good = wav(tmp_path / "good.wav", SECOND)
    assert main(["predict", str(good), "--model", str(tmp_path / "none.safetensors")]) == 2
    assert "none.safetensors" in capsys.readouterr().err
