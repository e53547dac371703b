"""The front end agrees with librosa, kaldi-native-fbank and Whisper's definition, in their own conventions.

Bounds: linear mel values within 1e-5 of the clip's peak; logarithms within 0.005 dB wherever the reference
lies above -80 dB of the clip's peak. librosa gets float64 input, which keeps its own rounding out of it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from affekt.features import LogMel, Mfcc

librosa = pytest.importorskip("librosa")
knf = pytest.importorskip("kaldi_native_fbank")

Array = NDArray[Any]
RATE = 16000
LINEAR = 1e-5
DECIBEL = 5e-3
RANGE = 80.0


def generated() -> dict[str, Array]:
    """Signals that need no data: wide-band, tonal, transient, with an offset, a quiet one beside a tone."""
    rng = np.random.default_rng(7)
    t = np.arange(int(1.3 * RATE)) / RATE
    noise = rng.standard_normal(t.size)
    click = np.zeros(t.size)
    click[::4001] = 0.9
    signals = {
        "noise": 0.1 * noise,
        "chirp": 0.5 * np.sin(2 * np.pi * (50 * t + 2500 * t * t)),
        "clicks": click,
        "tone over quiet noise": 0.9 * np.sin(2 * np.pi * 1000.3 * t) + 2e-4 * noise,
        "offset": 0.5 + 0.01 * noise,
        "random walk": 1e-3 * np.cumsum(noise),
        "clipped": np.clip(5 * np.sin(2 * np.pi * 220 * t), -1, 1),
    }
    return {name: x.astype(np.float32) for name, x in signals.items()}


@cache
def speech(root: Path) -> tuple[Array, ...]:
    """54 clips of acted speech, spread over the speakers of two corpora."""
    soundfile = pytest.importorskip("soundfile")
    files = [
        *sorted(root.glob("ravdess/Actor_*/*.flac"))[::40][:36],
        *sorted(root.glob("emotale/audio/*.flac"))[::44][:18],
    ]
    if len(files) < 54:
        pytest.skip(f"fewer than 54 clips of RAVDESS and EmoTale below {root}")
    # From 0.5 s to 3 s: the clips begin and end with silence.
    return tuple(soundfile.read(file, dtype="float32", start=8000, stop=48000)[0] for file in files)


@pytest.fixture(params=["generated", "speech"])
def clips(request: pytest.FixtureRequest) -> tuple[Array, ...]:
    if request.param == "generated":
        return tuple(generated().values())
    return speech(request.getfixturevalue("data_dir"))


@pytest.fixture(params=["generated", "speech"])
def kaldi_clips(request: pytest.FixtureRequest) -> tuple[Array, ...]:
    if request.param == "generated":
        # kaldi-native-fbank takes the mean in float32, which costs it 0.01 dB where the offset is 50 times
        # the rest; test_a_large_offset_costs_kaldi_features_nothing looks at that signal.
        return tuple(x for name, x in generated().items() if name != "offset")
    return speech(request.getfixturevalue("data_dir"))


def worst_linear(ours: Array, reference: Array) -> float:
    assert ours.shape == reference.shape
    return float(np.abs(ours - reference).max() / reference.max())


def worst_decibel(ours: Array, reference: Array, linear: Array, power: float) -> float:
    """Largest difference of two spectra in dB over the cells where `linear` lies above -80 dB of its peak."""
    assert ours.shape == reference.shape
    audible = linear > linear.max() * 10 ** (-RANGE * power / 20)
    assert audible.any()
    return float(np.abs(ours - reference)[audible].max())


# --------------------------------------------------------------------------------------------------- librosa

LIBROSA_WINDOWS = {"hann": "hann", "hamming": "hamming", "blackman": "blackman", "rectangular": "boxcar"}

MEL: list[dict[str, Any]] = [
    {},
    {"power": 1.0},
    {"n_fft": 400, "n_mels": 128},
    {"n_fft": 1024, "win_length": 1024, "hop_length": 256},
    {"n_fft": 2048, "win_length": 2048, "hop_length": 512, "center": True, "n_mels": 128},
    {"n_fft": 2048, "win_length": 1200, "center": True, "pad_mode": "reflect", "power": 1.0},
    {"n_fft": 441, "n_mels": 64, "center": True, "pad_mode": "edge"},  # 3^2 7^2
    {"n_fft": 509, "mel_scale": "htk"},  # a prime
    {"n_fft": 997, "win_length": 800, "power": 1.0, "center": True},  # a larger prime
    {"n_fft": 998, "win_length": 998},  # twice a prime
    {"n_fft": 496, "n_mels": 40, "window": "hamming"},  # 2^4 31
    {"n_fft": 961, "win_length": 961, "n_mels": 40, "window": "hamming", "power": 1.0},  # 31^2
    {"n_fft": 1000, "win_length": 640, "hop_length": 320, "mel_scale": "htk", "mel_norm": None},
    {"n_fft": 600, "win_length": 599, "hop_length": 101, "window": "blackman"},
    {"n_fft": 1536, "win_length": 1536, "window": "blackman", "power": 1.0, "mel_norm": None},
    {"n_fft": 256, "win_length": 256, "hop_length": 128, "n_mels": 20, "window": "rectangular"},
    {"n_mels": 23, "f_min": 60.0, "f_max": 7600.0, "mel_scale": "htk"},
    {"n_mels": 40, "f_min": 133.33, "f_max": 6855.4976, "power": 1.0},
    {"center": True, "pad_mode": "reflect", "log": "ln"},
    {"center": True, "pad_mode": "symmetric", "log": "log10", "floor": 1e-10},
    {"n_fft": 405, "win_length": 405, "log": "ln", "floor": 1e-6, "center": True},  # 3^4 5, odd
    {"preemphasis": 0.97, "n_mels": 64},
    {"preemphasis": 0.9, "center": True, "pad_mode": "reflect", "power": 1.0},
    {"top_db": 80.0, "ref": "max", "center": True},
    {"top_db": 40.0, "ref": 0.3, "floor": 1e-7},
    {"power": 1.5, "n_mels": 40},
]


def librosa_mel(x: Array, o: dict[str, Any]) -> Array:
    """Linear mel values (frames, n_mels) by librosa."""
    y = x.astype(np.float64)
    if o["preemphasis"]:
        y = librosa.effects.preemphasis(y, coef=o["preemphasis"], zi=[0.0])
    mel = librosa.feature.melspectrogram(
        y=y,
        sr=RATE,
        n_fft=o["n_fft"],
        win_length=o["win_length"],
        hop_length=o["hop_length"],
        window=LIBROSA_WINDOWS[o["window"]],
        center=o["center"],
        pad_mode=o["pad_mode"],
        power=o["power"],
        n_mels=o["n_mels"],
        fmin=o["f_min"],
        fmax=o["f_max"],
        htk=o["mel_scale"] == "htk",
        norm=o["mel_norm"],
    )
    return np.ascontiguousarray(mel.T)


def librosa_log(mel: Array, o: dict[str, Any]) -> Array:
    if o["log"] == "ln":
        return np.log(np.maximum(mel, o["floor"]))
    if o["log"] == "log10":
        return np.log10(np.maximum(mel, o["floor"]))
    ref = np.max if o["ref"] == "max" else o["ref"]
    if o["power"] == 2.0:
        return librosa.power_to_db(mel, ref=ref, amin=o["floor"], top_db=o["top_db"])
    if o["power"] == 1.0:
        return librosa.amplitude_to_db(mel, ref=ref, amin=o["floor"], top_db=o["top_db"])
    return 20 / o["power"] * np.log10(np.maximum(mel, o["floor"]))


def decibels(o: dict[str, Any]) -> float:
    """Decibels per unit of the logarithm in use."""
    return {"db": 1.0, "ln": 20 / o["power"] / np.log(10), "log10": 20 / o["power"]}[o["log"]]


def name(options: dict[str, Any]) -> str:
    return " ".join(f"{k}={v}" for k, v in options.items()) or "default"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("config", MEL, ids=name)
def test_log_mel_agrees_with_librosa(config: dict[str, Any], clips: tuple[Array, ...]) -> None:
    log = LogMel(sample_rate=RATE, **config)
    o = log.options
    plain = LogMel.from_options({**o, "log": None, "floor": 0.0, "ref": 1.0, "top_db": None})
    for x in clips:
        mel = librosa_mel(x, o)
        assert worst_linear(plain(x), mel) <= LINEAR
        reference = librosa_log(mel, o)
        assert worst_decibel(log(x), reference, mel, o["power"]) * decibels(o) <= DECIBEL
    # float64 in, float64 arithmetic: only librosa's filter weights, which it rounds to float32, remain.
    x = clips[0]
    assert worst_linear(plain(x.astype(np.float64)), librosa_mel(x, o)) <= 2e-7


CEPSTRA: list[dict[str, Any]] = [
    {},
    {"n_mfcc": 20, "n_mels": 128, "n_fft": 2048, "win_length": 2048, "hop_length": 512, "center": True},
    {"n_mfcc": 40, "dct_norm": None},
    {"lifter": 22.0, "n_mels": 80},
    {"lifter": 12.0, "dct_norm": None, "mel_scale": "htk", "n_fft": 400},
    {"deltas": 1},
    {"deltas": 2, "delta_width": 5, "center": True, "pad_mode": "reflect"},
    {"deltas": 2, "n_mfcc": 20, "n_fft": 441, "power": 1.0},
]


@pytest.mark.parametrize("config", CEPSTRA, ids=name)
def test_mfcc_and_deltas_agree_with_librosa(config: dict[str, Any], clips: tuple[Array, ...]) -> None:
    mfcc = Mfcc(sample_rate=RATE, top_db=RANGE, **config)
    o = mfcc.options
    # With top_db every mel value is within DECIBEL; the orthonormal DCT keeps the norm of such a difference.
    gain = 1.0 if o["dct_norm"] == "ortho" else np.sqrt(2.0 * o["n_mels"]) * np.sqrt(2.0)
    bound = DECIBEL * np.sqrt(o["n_mels"]) * gain * (1 + o["lifter"] / 2)
    for x in clips:
        mel = librosa_log(librosa_mel(x, o), o)
        c = librosa.feature.mfcc(
            S=mel.T, n_mfcc=o["n_mfcc"], norm=o["dct_norm"], lifter=o["lifter"], dct_type=2
        )
        parts = [c] + [
            librosa.feature.delta(c, width=o["delta_width"], order=k + 1) for k in range(o["deltas"])
        ]
        reference = np.concatenate(parts).T
        ours = mfcc(x)
        assert ours.shape == reference.shape
        assert np.abs(ours - reference).max() <= bound
        assert np.abs(mfcc(x.astype(np.float64)) - reference).max() <= 1e-3 * bound


def test_librosa_presets_are_its_defaults(rng: np.random.Generator) -> None:
    x = 0.1 * rng.standard_normal(30000)
    mel = librosa.power_to_db(librosa.feature.melspectrogram(y=x, sr=22050)).T
    np.testing.assert_allclose(LogMel.librosa()(x), mel, atol=1e-4)
    np.testing.assert_allclose(Mfcc.librosa()(x), librosa.feature.mfcc(y=x, sr=22050).T, atol=1e-3)


# --------------------------------------------------------------------------------------------------- Kaldi


def kaldi_rows(x: Array, kind: str, settings: dict[str, Any]) -> Array:
    """Features of samples in the integer range by kaldi-native-fbank, dither off."""
    o = knf.FbankOptions() if kind == "fbank" else knf.MfccOptions()
    o.frame_opts.dither = 0.0
    if kind == "fbank":
        o.mel_opts.num_bins = 80
    for path, value in settings.items():
        *parents, last = path.split(".")
        target = o
        for parent in parents:
            target = getattr(target, parent)
        setattr(target, last, value)
    online = (knf.OnlineFbank if kind == "fbank" else knf.OnlineMfcc)(o)
    online.accept_waveform(o.frame_opts.samp_freq, x.tolist())
    online.input_finished()
    return np.array([online.get_frame(i) for i in range(online.num_frames_ready)])


FRAME = "frame_opts."
BANK = "mel_opts."
FBANK: list[tuple[dict[str, Any], dict[str, Any]]] = [  # ours, theirs
    ({}, {}),
    ({"n_mels": 23}, {BANK + "num_bins": 23}),
    ({"n_mels": 40, "f_max": 7600.0}, {BANK + "num_bins": 40, BANK + "high_freq": -400.0}),
    ({"f_min": 0.0, "f_max": 4000.0}, {BANK + "low_freq": 0.0, BANK + "high_freq": 4000.0}),
    ({"window": "hamming", "periodic": False}, {FRAME + "window_type": "hamming"}),
    ({"window": "hann", "periodic": False}, {FRAME + "window_type": "hanning"}),
    ({"window": "blackman", "periodic": False}, {FRAME + "window_type": "blackman"}),
    ({"window": "rectangular"}, {FRAME + "window_type": "rectangular"}),
    ({"preemphasis": 0.0}, {FRAME + "preemph_coeff": 0.0}),
    ({"preemphasis": 0.5}, {FRAME + "preemph_coeff": 0.5}),
    ({"remove_dc": False}, {FRAME + "remove_dc_offset": False}),
    ({"power": 1.0}, {"use_power": False}),
    ({"n_fft": 400}, {FRAME + "round_to_power_of_two": False}),
    ({"center": True, "pad_mode": "symmetric"}, {FRAME + "snip_edges": False}),
    (
        {"center": True, "pad_mode": "symmetric", "hop_length": 200, "win_length": 320, "n_mels": 40},
        {
            FRAME + "snip_edges": False,
            FRAME + "frame_shift_ms": 12.5,
            FRAME + "frame_length_ms": 20.0,
            BANK + "num_bins": 40,
        },
    ),
    (
        {"hop_length": 80, "win_length": 800, "n_fft": 1024},
        {FRAME + "frame_shift_ms": 5.0, FRAME + "frame_length_ms": 50.0},
    ),
    ({"sample_rate": 8000, "n_mels": 40}, {FRAME + "samp_freq": 8000.0, BANK + "num_bins": 40}),
    ({"sample_rate": 44100}, {FRAME + "samp_freq": 44100.0}),
    ({"sample_rate": 48000, "n_mels": 128}, {FRAME + "samp_freq": 48000.0, BANK + "num_bins": 128}),
    ({"energy": "raw"}, {"use_energy": True}),
    ({"energy": "windowed"}, {"use_energy": True, "raw_energy": False}),
    (
        {"energy": "raw", "energy_floor": 1e6, "n_mels": 30},
        {"use_energy": True, "energy_floor": 1e6, BANK + "num_bins": 30},
    ),
]


@pytest.mark.parametrize(("config", "settings"), FBANK, ids=[name(ours) for ours, _ in FBANK])
def test_log_mel_agrees_with_kaldi(
    config: dict[str, Any], settings: dict[str, Any], kaldi_clips: tuple[Array, ...]
) -> None:
    mel = LogMel.kaldi(**config)
    first = int(mel.options["energy"] is not None)
    power = mel.options["power"]
    for x in kaldi_clips:
        reference = kaldi_rows(32768 * x, "fbank", settings)
        ours = mel(x)
        linear = np.exp(reference[:, first:].astype(np.float64))
        # The linear values come back through a float32 logarithm, which alone costs 2e-6.
        assert worst_linear(np.exp(ours[:, first:].astype(np.float64)), linear) <= LINEAR
        worst = worst_decibel(ours[:, first:], reference[:, first:], linear, power)
        assert worst * 20 / power / np.log(10) <= DECIBEL
        np.testing.assert_allclose(ours[:, :first], reference[:, :first], rtol=2e-5, atol=2e-5)


CEPSTRA_KALDI: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"energy": None}, {"use_energy": False}),
    ({"energy": "windowed"}, {"raw_energy": False}),
    ({"n_mfcc": 20, "n_mels": 40}, {"num_ceps": 20, BANK + "num_bins": 40}),
    ({"lifter": 0.0}, {"cepstral_lifter": 0.0}),
    (
        {"n_mfcc": 23, "window": "hamming", "periodic": False},
        {"num_ceps": 23, FRAME + "window_type": "hamming"},
    ),
]


@pytest.mark.parametrize(("config", "settings"), CEPSTRA_KALDI, ids=[name(c[0]) for c in CEPSTRA_KALDI])
def test_mfcc_agrees_with_kaldi(
    config: dict[str, Any], settings: dict[str, Any], kaldi_clips: tuple[Array, ...]
) -> None:
    mfcc = Mfcc.kaldi(**config)
    o = mfcc.options
    mel = LogMel.from_options({**o, "n_mfcc": 0, "lifter": 0.0, "energy": None})
    bound = DECIBEL / 4.34 * np.sqrt(o["n_mels"]) * (1 + o["lifter"] / 2)
    for x in kaldi_clips:
        reference = kaldi_rows(32768 * x, "mfcc", settings)
        ours = mfcc(x)
        assert ours.shape == reference.shape
        # Rows whose mel values are all above -80 dB of the peak.
        level = mel(x)
        audible = (level > level.max() - np.log(1e8)).all(axis=1)
        assert np.abs(ours - reference)[audible].max(initial=0.0) <= bound


def test_a_large_offset_costs_kaldi_features_nothing() -> None:
    x = generated()["offset"]
    without = x - np.float32(0.5)
    assert (without.astype(np.float64) == x.astype(np.float64) - 0.5).all()  # the same clip, without rounding
    for config, _ in FBANK:
        mel = LogMel.kaldi(**config)
        decibel = 20 / mel.options["power"] / np.log(10)
        reference = mel(x.astype(np.float64))
        assert worst_decibel(mel(x), reference, np.exp(reference), mel.options["power"]) * decibel <= DECIBEL
        if config.get("remove_dc") is False:  # the offset is part of the signal
            continue
        reference = mel(without.astype(np.float64))
        assert np.abs(mel(x.astype(np.float64)) - reference).max() * decibel <= 1e-9
        worst, usual = (
            worst_decibel(mel(clip), reference, np.exp(reference), mel.options["power"]) * decibel
            for clip in (x, without)
        )
        # The clip without its offset is the measure: both are off by a rounding of the float32 transform,
        # another one each. A mean in float32 would cost ten times as much as is allowed here.
        assert worst <= usual + 1e-3, config


def test_deltas_agree_with_kaldi_inside_and_repeat_the_edges(rng: np.random.Generator) -> None:
    x = 0.1 * rng.standard_normal(9000).astype(np.float32)
    static = Mfcc.kaldi()(x)
    both = Mfcc.kaldi(deltas=2, delta_width=5, delta_mode="regression")(x)
    reference = knf.compute_deltas(knf.DeltaOptions(), static)
    assert both.shape == reference.shape
    np.testing.assert_allclose(both[:, :26], reference[:, :26], rtol=1e-4, atol=1e-4)
    # At the ends Kaldi folds both orders into one filter over repeated rows; HTK repeats first differences.
    np.testing.assert_allclose(both[4:-4, 26:], reference[4:-4, 26:], rtol=1e-4, atol=1e-4)
    first = np.pad(both[:, 13:26].astype(np.float64), ((2, 2), (0, 0)), mode="edge")
    second = (first[3:-1] - first[1:-3] + 2 * (first[4:] - first[:-4])) / 10
    np.testing.assert_allclose(both[:, 26:], second, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------- Whisper


def whisper_definition(x: Array, n_mels: int) -> Array:
    """`log_mel_spectrogram` of the Whisper repository, in float64."""
    padded = np.pad(x.astype(np.float64), 200, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 400)[::160]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    power = np.abs(np.fft.rfft(frames * window))[:-1] ** 2
    mel = power @ librosa.filters.mel(sr=16000, n_fft=400, n_mels=n_mels).T
    log = np.log10(np.maximum(mel, 1e-10))
    return (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("n_mels", [80, 128])
def test_whisper_preset_is_its_definition(n_mels: int, clips: tuple[Array, ...]) -> None:
    whisper = LogMel.whisper(n_mels=n_mels)
    for x in clips:
        reference = whisper_definition(x, n_mels)
        ours = whisper(x)
        assert ours.shape == reference.shape == (x.size // 160, n_mels)
        # Everything lies within 80 dB of the peak; 40 dB per unit.
        assert np.abs(ours - reference).max() * 40 <= DECIBEL


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whisper_live_is_whisper_without_the_clip_wide_steps(rng: np.random.Generator) -> None:
    x = 0.1 * rng.standard_normal(16000).astype(np.float32)
    live = LogMel.whisper_live()(x)
    whole = LogMel.whisper()(x[200:])
    np.testing.assert_array_equal(live[2 : len(whole) - 2], whole[2:-2])


def test_a_sine_lands_in_its_filter() -> None:
    t = np.arange(RATE) / RATE
    for hz in (200.0, 1000.0, 3000.0, 7000.0):
        for scale in ("slaney", "htk", "kaldi"):
            mel = LogMel(sample_rate=RATE, n_mels=40, mel_scale=scale, mel_norm=None)
            row = mel(np.sin(2 * np.pi * hz * t)).mean(axis=0)
            edges = {
                "htk": librosa.mel_frequencies(42, fmin=0, fmax=8000, htk=True),
                "kaldi": librosa.mel_frequencies(42, fmin=0, fmax=8000, htk=True),
                "slaney": librosa.mel_frequencies(42, fmin=0, fmax=8000),
            }[scale]
            best = int(row.argmax())
            assert edges[best] < hz < edges[best + 2]


def test_silence_gives_the_floor() -> None:
    zeros = np.zeros(4000, np.float32)
    assert (LogMel(sample_rate=RATE)(zeros) == -100.0).all()
    assert (LogMel(sample_rate=RATE, power=1.0)(zeros) == -100.0).all()
    assert (LogMel(sample_rate=RATE, log=None)(zeros) == 0.0).all()
    np.testing.assert_allclose(LogMel.kaldi()(zeros), np.log(np.finfo(np.float32).eps), rtol=1e-6)
    assert (LogMel(sample_rate=RATE, ref="max", top_db=80.0)(zeros) == 0.0).all()
    assert (LogMel.whisper()(zeros) == -1.5).all()
