"""Audio files of every kind give the right samples, in bounded memory, or an error that names them."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affekt.data import AudioWarning, audio_info, read_audio, stream_audio
from affekt.errors import DataError, InputError, MissingExtraError
from sounds import tone

soundfile = pytest.importorskip("soundfile")
soxr = pytest.importorskip("soxr")

WriteWav = Callable[..., Path]


@pytest.mark.parametrize(
    ("subtype", "step"),
    [
        ("PCM_U8", 2**-7),
        ("PCM_16", 2**-15),
        ("PCM_24", 2**-23),
        ("PCM_32", 2**-23),
        ("FLOAT", 2**-24),
        ("DOUBLE", 2**-24),
    ],
)
def test_every_sample_format_is_scaled_to_full_scale(write_wav: WriteWav, subtype: str, step: float) -> None:
    x = tone(0.2)
    path = write_wav("a.wav", x, subtype=subtype)
    y = read_audio(path, 16000)
    assert y.dtype == np.float32
    assert y.shape == x.shape
    np.testing.assert_allclose(y, x, atol=step)


def test_flac_ogg_and_mp3_are_read(write_wav: WriteWav) -> None:
    x = tone(0.5)
    np.testing.assert_allclose(read_audio(write_wav("a.flac", x)), x, atol=2**-15)
    for name in ("a.ogg", "a.mp3"):
        y = read_audio(write_wav(name, x))
        assert abs(len(y) - len(x)) < 4000
        assert 0.5 < np.std(y) / np.std(x) < 1.5


def test_16_bit_samples_are_exact(write_wav: WriteWav, rng: np.random.Generator) -> None:
    x = rng.integers(-32768, 32768, 4000, dtype=np.int16)
    np.testing.assert_array_equal(
        read_audio(write_wav("a.wav", x)), (x / np.float32(32768)).astype(np.float32)
    )


def test_channels_are_averaged_or_picked(write_wav: WriteWav) -> None:
    x = np.stack([tone(0.1, frequency=f) for f in (200, 300, 400, 500, 600)], axis=1)
    path = write_wav("a.wav", x, subtype="FLOAT")
    assert audio_info(path).channels == 5
    np.testing.assert_allclose(read_audio(path), x.mean(axis=1), atol=1e-7)
    for channel in range(5):
        np.testing.assert_allclose(read_audio(path, mono=channel), x[:, channel], atol=1e-7)
    with pytest.raises(InputError, match="channel from 0 to 4"):
        read_audio(path, mono=5)
    for wrong in ("left", True, -1, None):
        with pytest.raises(InputError, match="mono"):
            read_audio(path, mono=wrong)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
def test_any_rate_is_resampled_to_the_wanted_one(write_wav: WriteWav, rate: int) -> None:
    x = tone(0.5, rate, frequency=150.0)
    path = write_wav("a.wav", x, rate, subtype="FLOAT")
    y = read_audio(path, 16000)
    assert len(y) == round(len(x) * 16000 / rate)
    # The partials lie far below either Nyquist rate, so the result is the same tone sampled at the other
    # rate.
    np.testing.assert_allclose(y[800:-800], tone(0.5, 16000, frequency=150.0)[800 : len(y) - 800], atol=2e-4)
    np.testing.assert_array_equal(y, soxr.resample(x.astype(np.float32), rate, 16000, quality="HQ"))
    np.testing.assert_allclose(read_audio(path, None), x, atol=1e-7)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    seconds=st.floats(0.001, 6.0),
    block=st.floats(1e-4, 3.0),
    rates=st.tuples(st.sampled_from([8000, 16000, 44100]), st.sampled_from([8000, 16000, 22050])),
    channels=st.sampled_from([1, 2]),
)
def test_blocks_joined_are_the_whole_bit_for_bit(
    write_wav: WriteWav, seconds: float, block: float, rates: tuple[int, int], channels: int
) -> None:
    n = max(1, round(seconds * rates[0]))
    x = np.random.default_rng(n).uniform(-0.5, 0.5, (n, channels))
    path = write_wav("a.wav", x, rates[0])
    whole = read_audio(path, rates[1])
    blocks = list(stream_audio(path, rates[1], block))
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    size = max(1, round(block * rates[1]))
    assert all(len(part) == size for part in blocks[:-1])
    assert 0 < len(blocks[-1]) <= size


def test_a_part_is_the_same_samples(write_wav: WriteWav) -> None:
    x = tone(2.0)
    path = write_wav("a.wav", x, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path, start=0.5, end=1.25), read_audio(path)[8000:20000])
    np.testing.assert_array_equal(read_audio(path, start=1.5), read_audio(path)[24000:])
    with pytest.raises(DataError, match=r"lies beyond the recording, which lasts 2.000 s"):
        read_audio(path, end=2.5)
    with pytest.raises(DataError, match=r"nothing to read from 3.0 s"):
        read_audio(path, start=3.0)
    for start, end in ((1.0, 1.0), (1.0, 0.5), (-1.0, None), (np.nan, None)):
        with pytest.raises(InputError):
            read_audio(path, start=start, end=end)


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    minute = (tone(60.0, 22050) * 32767).astype(np.int16)
    with soundfile.SoundFile(path, "w", 22050, 2, "PCM_16") as file:
        for _ in range(10):
            file.write(np.stack([minute, minute], axis=1))
    del minute
    peaks = []
    for limit in (20, 600):
        tracemalloc.start()
        total = 0
        with stream_audio(path, 16000, 1.0) as stream:
            for block in stream:
                total += len(block)
                if total >= limit * 16000:
                    break
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 8e6  # the recording itself is 38 MB as float32 mono


def test_too_few_samples_to_resample_are_an_error(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", np.full(1, 0.5), 48000)
    assert len(read_audio(path, 48000)) == 1
    with pytest.raises(DataError, match="too few for one sample at 8000 Hz"):
        read_audio(path, 8000)


def test_a_stream_is_closed_by_its_context(write_wav: WriteWav) -> None:
    with stream_audio(write_wav("a.wav", tone(1.0)), 16000, 0.1) as stream:
        assert stream.sample_rate == 16000
        assert stream.seconds == pytest.approx(1.0)
        assert len(next(stream)) == 1600
    assert list(stream) == []


def _text(path: Path) -> None:
    path.write_text("This is a letter, not a recording.\n" * 30)


def _cut_header(path: Path) -> None:
    path.write_bytes(b"RIFF\x00\x01")


def _cut_flac(path: Path) -> None:
    soundfile.write(path.with_suffix(".flac"), tone(3.0), 16000)
    whole = path.with_suffix(".flac").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def _no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16000)


def _folder(path: Path) -> None:
    path.mkdir()


def _not_finite(value: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        x = tone(1.0)
        x[8000] = value
        soundfile.write(path, x, 16000, subtype="FLOAT")

    return write


BROKEN = {
    "absent": (lambda path: None, "no such file"),
    "folder": (_folder, "not a regular file"),
    "empty": (lambda path: path.write_bytes(b""), r"empty \(0 bytes\)"),
    "text": (_text, "not an audio file.*This is a lette"),
    "header only": (_cut_header, "not an audio file"),
    "no samples": (_no_samples, "holds no samples"),
    "cut flac": (_cut_flac, "damaged, decoding stops|before the 3.000 s of its header"),
    "nan": (_not_finite(np.nan), r"sample 8000 \(0.500 s\) of channel 0 is nan"),
    "inf": (_not_finite(-np.inf), r"sample 8000 \(0.500 s\) of channel 0 is -inf"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_file_is_named_with_its_reason(tmp_path: Path, kind: str) -> None:
    make, reason = BROKEN[kind]
    path = tmp_path / "clip.wav"
    make(path)
    with pytest.raises(DataError, match=reason) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    if kind not in (
        "cut flac",
        "nan",
        "inf",
    ):  # what the header shows is an error at once, not at the first block
        with pytest.raises(DataError, match=reason):
            stream_audio(path)


def test_an_unreadable_path_is_an_error(write_wav: WriteWav, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_wav("a.wav")
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read anything: let the system call refuse instead

        def refuse(self: Path, *args: object, **options: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.wav: cannot be read \(Permission denied\)"):
        read_audio(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 400), flip=st.integers(0, 399), value=st.integers(0, 255))
def test_a_mangled_file_never_does_worse_than_an_error(
    tmp_path: Path, cut: int, flip: int, value: int
) -> None:
    source = tmp_path / "whole.flac"
    if not source.exists():
        soundfile.write(source, tone(0.2), 16000)
    content = bytearray(source.read_bytes())
    content[flip] = value
    path = tmp_path / "mangled.flac"
    path.write_bytes(content[: len(content) - cut])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        try:
            x = read_audio(path, None)
        except DataError as error:
            if "mangled.flac" not in str(error):
                raise
        else:
            assert x.ndim == 1
            assert np.isfinite(x).all()


def test_silence_is_allowed_and_flagged(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", np.zeros(16000))
    with pytest.warns(AudioWarning, match="every sample is zero"):
        y = read_audio(path)
    assert len(y) == 16000
    assert not y.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quiet = np.zeros(16000)
        quiet[-1] = 2**-15
        read_audio(write_wav("b.wav", quiet))


def test_a_cut_wav_is_read_as_far_as_it_goes_and_flagged(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone(1.0))
    path.write_bytes(path.read_bytes()[:-16000])
    with pytest.warns(AudioWarning, match="cut off, it holds 16000 of 32000 bytes"):
        assert len(read_audio(path)) == 8000


def test_a_wav_written_into_a_pipe_is_no_damage(write_wav: WriteWav) -> None:
    path = write_wav("a.wav", tone(1.0))
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_audio(path)) == 16000


@pytest.mark.parametrize("rate", [0, -16000, np.nan, np.inf, "16k", True])
def test_a_wrong_sample_rate_is_named(write_wav: WriteWav, rate: object) -> None:
    with pytest.raises(InputError, match="sample_rate must be a positive number"):
        read_audio(write_wav("a.wav"), rate)


def test_reading_needs_neither_tables_nor_torch(write_wav: WriteWav) -> None:
    code = (
        "import sys, affekt.data; from affekt.data import read_audio\n"
        f"print(len(read_audio({str(write_wav('a.wav', tone(1.0, 48000), 48000))!r})))\n"
        "print([m for m in ('pandas', 'torch', 'sklearn', 'scipy', 'safetensors') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n")[:2] == ["16000", "[]"]


@pytest.mark.parametrize("missing", ["soundfile", "soxr"])
def test_a_missing_package_names_its_extra(
    write_wav: WriteWav, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    path = write_wav("a.wav", tone(0.1, 44100), 44100)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'affekt\[audio\]'"):
        stream_audio(path, 16000)
    if missing == "soxr":
        assert len(read_audio(path, None)) == 4410


def test_real_speech_is_read(data_dir: Path) -> None:
    files = sorted((data_dir / "ravdess" / "Actor_01").glob("*.flac"))[:5]
    if not files:
        pytest.skip("RAVDESS is not there")
    for file in files:
        x = read_audio(file)
        assert len(x) == audio_info(file).frames
        assert 0.001 < np.abs(x).max() <= 1
