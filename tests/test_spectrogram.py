"""Stft and PowerSpectrogram against NumPy in float64, batches of ragged signals, results in place."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import affekt
from affekt.errors import InputError
from affekt.features import LogMel, Mfcc, PowerSpectrogram, Stft

RATE = 16000


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def reference(x, n_fft, win, hop, window, center, pad_mode) -> np.ndarray:
    """Return the spectra (frames, bins) of the definition, in float64."""
    x = np.asarray(x, np.float64)
    if center:
        x = np.pad(x, n_fft // 2, mode=pad_mode)
    i = np.arange(win)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * i / win) if win > 1 else np.ones(1)
    h = np.zeros(n_fft)
    at = (n_fft - win) // 2
    h[at : at + win] = hann if window == "hann" else 1.0
    if len(x) < n_fft:
        return np.zeros((0, n_fft // 2 + 1), complex)
    frames = np.lib.stride_tricks.sliding_window_view(x, n_fft)[::hop]
    return np.fft.rfft(frames * h, axis=-1)


@st.composite
def cases(draw):
    n_fft = draw(
        st.sampled_from([1, 2, 3, 4, 7, 8, 16, 31, 37, 60, 64, 97, 100, 127, 128, 200, 211, 256, 405])
    )
    win = draw(st.integers(1, n_fft))
    n = draw(st.integers(n_fft, 5 * n_fft + 40))
    return {
        "n": n,
        "n_fft": n_fft,
        "win": win,
        "hop": draw(st.integers(1, 2 * n_fft)),
        "window": draw(st.sampled_from(["hann", "rectangular"])),
        "center": draw(st.booleans()),
        "pad_mode": draw(st.sampled_from(["constant", "reflect", "edge", "symmetric"])),
        "dtype": draw(st.sampled_from([np.float32, np.float64, np.int16])),
    }


@settings(max_examples=80, deadline=None)
@given(cases())
def test_agrees_with_numpy(case):
    n_fft, dtype = case["n_fft"], case["dtype"]
    x = noise(case["n"])
    if dtype == np.int16:
        x = (x * 32767).astype(np.int16)
    x = x.astype(dtype)
    options = {
        "sample_rate": RATE,
        "n_fft": n_fft,
        "win_length": case["win"],
        "hop_length": case["hop"],
        "window": case["window"],
        "center": case["center"],
        "pad_mode": case["pad_mode"],
    }
    scaled = x / 32768 if dtype == np.int16 else x
    want = reference(
        scaled, n_fft, case["win"], case["hop"], case["window"], case["center"], case["pad_mode"]
    )
    got = Stft(**options)(x)
    assert got.shape == want.shape == (Stft(**options).frames(len(x)), n_fft // 2 + 1)
    assert got.dtype == (np.complex128 if dtype == np.float64 else np.complex64)
    tolerance = (1e-12 if dtype == np.float64 else 2e-6) * max(1e-30, np.abs(want).max(initial=0))
    assert np.abs(got - want).max(initial=0) <= tolerance
    for power in (1.0, 2.0):
        powers = PowerSpectrogram(**options, power=power)(x)
        assert powers.dtype == (np.float64 if dtype == np.float64 else np.float32)
        bound = 4 * tolerance * max(1e-30, np.abs(want).max(initial=0)) ** (power - 1)
        assert np.abs(powers - np.abs(want) ** power).max(initial=0) <= bound


@pytest.mark.parametrize("n_fft", [509, 512, 1024, 1021, 2048, 400, 4099])
def test_long_transforms_agree_with_numpy(n_fft):
    x = noise(4 * n_fft + 100)
    got = Stft(sample_rate=RATE, n_fft=n_fft, hop_length=n_fft // 3)(x)
    want = reference(x, n_fft, n_fft, n_fft // 3, "hann", False, "constant")
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()


def test_agrees_with_torch():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(noise(3000))
    got = Stft(sample_rate=RATE, n_fft=256, win_length=200, hop_length=80, center=True, pad_mode="reflect")(x)
    want = torch.stft(x, 256, 80, 200, torch.hann_window(200), center=True, return_complex=True).T
    assert isinstance(got, torch.Tensor)
    assert torch.allclose(got, want, atol=1e-5)


def test_frequencies_times_and_options():
    stft = Stft(sample_rate=8000, n_fft=100, hop_length=25)
    assert stft.num_bins == 51
    np.testing.assert_allclose(stft.frequencies, np.arange(51) * 80.0)
    np.testing.assert_allclose(stft.times(2), [99 / 8000, 124 / 8000])
    assert pickle.loads(pickle.dumps(stft)) == stft
    assert Stft.from_options(stft.options) == stft
    power = PowerSpectrogram(sample_rate=8000, n_fft=100, power=1.0)
    assert PowerSpectrogram.from_options(power.options) == power != stft


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_fft": 0}, "n_fft"),
        ({"n_fft": None}, "n_fft"),
        ({"win_length": 600}, "win_length"),
        ({"hop_length": 0}, "hop_length"),
        ({"window": "kaiser"}, "window"),
        ({"pad_mode": "wrap"}, "pad_mode"),
        ({"sample_rate": -1.0}, "sample_rate"),
    ],
)
def test_bad_options(change, message):
    for kind in (Stft, PowerSpectrogram):
        with pytest.raises(InputError, match=message):
            kind(**{"sample_rate": RATE, **change})
    with pytest.raises(InputError, match="power"):
        PowerSpectrogram(sample_rate=RATE, power=9.0)
    with pytest.raises(InputError, match="n_mels"):
        Stft.from_options({"sample_rate": RATE, "n_mels": 3})


def test_bad_samples():
    stft = Stft(sample_rate=RATE)
    x = np.zeros((2, 1000), np.float32)
    x[1, 7] = np.nan
    with pytest.raises(InputError, match=r"samples: expected finite values, got nan at index \(1, 7\)"):
        stft(x)
    with pytest.raises(InputError, match="does not overflow"):
        stft(np.full(1000, 3e38, np.float32))
    with pytest.raises(InputError, match="dtype"):
        stft(np.zeros(1000, np.int32))
    with pytest.raises(InputError, match="0 dimensions"):
        stft(np.float32(1))


@pytest.mark.parametrize("make", [Stft, PowerSpectrogram, LogMel], ids=lambda c: c.__name__)
def test_strides_and_shapes(make):
    f = make(
        sample_rate=RATE,
        n_fft=64,
        win_length=64,
        hop_length=16,
        **({} if make is not LogMel else {"n_mels": 9}),
    )
    x = noise(6 * 500).reshape(2, 3, 500)
    want = f(x)
    assert np.array_equal(want, np.stack([[f(row) for row in plane] for plane in x]))
    assert np.array_equal(f(np.asfortranarray(x)), want)
    assert np.array_equal(f(np.repeat(x, 2, axis=-1)[..., ::2]), want)
    x.flags.writeable = False
    assert np.array_equal(f(x), want)
    assert f(np.zeros((0, 500), np.float32)).shape == (0, *want.shape[-2:])
    assert f(np.zeros((2, 0), np.float32)).shape == (2, 0, want.shape[-1])
    tiny = np.full(500, 1e-42, np.float32)
    assert np.isfinite(f(tiny)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_out(dtype):
    x = (noise(2000).reshape(2, 1000) * 3000).astype(dtype)
    for f in (LogMel(sample_rate=RATE, n_mels=20), Mfcc(sample_rate=RATE), Stft(sample_rate=RATE)):
        want = f(x)
        out = np.empty_like(want)
        assert f(x, out=out) is out
        assert np.array_equal(out, want)
        for bad in (
            np.empty((*want.shape[:-1], want.shape[-1] + 1), want.dtype),
            np.empty(want.shape, np.float16),
            np.asfortranarray(want),
            [1.0],
        ):
            with pytest.raises(InputError, match="out: expected a writeable"):
                f(x, out=bad)
        out.flags.writeable = False
        with pytest.raises(InputError, match="read-only"):
            f(x, out=out)


@pytest.mark.parametrize(
    "features",
    [
        LogMel(sample_rate=RATE),
        LogMel.whisper(),
        LogMel.kaldi(),
        LogMel(sample_rate=RATE, n_fft=509),
        LogMel(sample_rate=RATE, n_fft=2048, hop_length=40),  # enough work for threads
        Mfcc(sample_rate=RATE, deltas=2, delta_mode="regression", preemphasis=0.97),
    ],
    ids=["logmel", "whisper", "kaldi", "prime", "dense", "mfcc"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_a_ragged_batch_equals_the_loop_on_any_number_of_threads(features, dtype):
    lengths = np.random.default_rng(1).integers(0, 60000, 11)
    lengths[3] = 0
    lengths[4] = 100
    signals = [
        (noise(n, i) * (30000 if dtype == np.int16 else 1)).astype(dtype) for i, n in enumerate(lengths)
    ]
    want = [features(x) for x in signals]
    before = affekt.get_num_threads()
    try:
        for threads in (1, 2, 3):
            affekt.set_num_threads(threads)
            got = features.batch(signals)
            assert len(got) == len(want)
            for a, b in zip(got, want, strict=True):
                assert a.dtype == b.dtype
                assert np.array_equal(a, b)
    finally:
        affekt.set_num_threads(before)


def test_a_long_signal_has_the_same_bits_on_two_threads():
    x = noise(10 * RATE)
    before = affekt.get_num_threads()
    for f in (
        LogMel.kaldi(hop_length=10),
        LogMel.whisper(hop_length=10),
        Stft(sample_rate=RATE, hop_length=16),
    ):
        one = f(x)
        try:
            affekt.set_num_threads(2)
            assert np.array_equal(f(x), one)
        finally:
            affekt.set_num_threads(before)


def test_bad_batches():
    mel = LogMel(sample_rate=RATE)
    good = noise(1000)
    bad = good.copy()
    bad[17] = np.inf
    assert mel.batch([]) == []
    with pytest.raises(InputError, match=r"signals\[1\]: expected finite values, got inf at index 17"):
        mel.batch([good, bad])
    with pytest.raises(InputError, match=r"signals\[1\]: expected dtype float32 as the others"):
        mel.batch([good, good.astype(np.float64)])
    with pytest.raises(InputError, match=r"signals\[1\]: expected shape \(time,\)"):
        mel.batch([good, good.reshape(2, 500)])
    with pytest.raises(InputError, match="signals: expected a sequence"):
        mel.batch(good)
    assert len(mel.batch(np.stack([good, good]))) == 2


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(0, 3), st.booleans())
def test_tiles_of_any_size_have_the_bits_of_single_frames(frames, seed, kaldi):
    """Row r of the whole is the row of a signal that holds nothing else."""
    mel = LogMel.kaldi() if kaldi else LogMel(sample_rate=RATE, n_fft=400, n_mels=23)
    length, hop = mel.options[mel.options["span"]], mel.options["hop_length"]
    x = noise(length + (frames - 1) * hop, seed)
    whole = mel(x)
    assert len(whole) == frames
    for r in {0, frames // 2, frames - 1}:
        assert np.array_equal(mel(x[r * hop : r * hop + length])[0], whole[r])
