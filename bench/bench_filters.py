"""Band-pass filters against SciPy and MNE, the resampler against soxr: whole recordings and live.

Filters: Butterworth of order 4 from 1 to 40 Hz at 256 Hz, four second-order sections, noise of 20 uV on an
offset of 5000 uV; causal from rest (`sosfilt`) and zero-phase (`sosfiltfilt`). Resamplers: noise at full
scale 0.1; ours at its defaults (pass-band to 0.913 of half the lower rate, 100 dB), soxr at HQ. soxr works
on blocks of its own, which lets it filter through an FFT, and holds results back; ours gives each as soon
as its samples are there, with the bits of the whole recording, which only direct products can. Almost all
of our time is in those of the sharp symmetric filter (`folded`), at about three quarters of the best rate
of the core, so what a ratio reaches follows from its number of products: most per result where the rate is
halved. Recordings beyond the second cache cost 5 % more per sample than short ones: samples to come and
lines of results are asked for between the products (without that, 18 %).
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

from affekt.features import Filter, Resampler

RATE = 256
ORDER = 4
SIZES = [(1, 10), (1, 600), (32, 10), (32, 600)]
TYPES = ["float32", "float64"]
GROUP = "band-pass 1-40 Hz, {} ch x {} s at 256 Hz, {}"
GROUP_ZERO = "zero-phase band-pass 1-40 Hz, {} ch x {} s at 256 Hz, {}"
GROUP_LIVE = "band-pass 1-40 Hz live, 32 channels, 64 samples a push, float32"
RATIOS = [
    (48000, 16000),
    (44100, 16000),
    (32000, 16000),
    (22050, 16000),
    (8000, 16000),
    (16000, 48000),
    (44100, 44101),
]
GROUP_RESAMPLE = "resample {} -> {} Hz, {} s"
GROUP_PUSH = "resample {} -> {} Hz live, 10 ms a push"


@functools.cache
def eeg(channels: int, seconds: int, dtype: str) -> np.ndarray:
    """Return (channels, time) of noise on an offset."""
    noise = np.random.default_rng(0).standard_normal((channels, seconds * RATE))
    return (5000 + 20 * noise).astype(dtype)


@functools.cache
def sound(seconds: int, rate: int) -> np.ndarray:
    """Return (time,) of noise."""
    return (0.1 * np.random.default_rng(0).standard_normal(seconds * rate)).astype(np.float32)


def band() -> Filter:
    """Return our filter."""
    return Filter.bandpass(1, 40, sample_rate=RATE, order=ORDER)


def work(channels: int, seconds: int, dtype: str, passes: int) -> dict[str, float]:
    """Return what the problem needs: 9 operations per section and sample, one reading and one writing."""
    n = channels * seconds * RATE
    return {"operations": 9.0 * ORDER * n * passes, "bytes_moved": 2.0 * n * np.dtype(dtype).itemsize}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_affekt(contender, channels, seconds, dtype):
    x, plan = eeg(channels, seconds, dtype), band()
    contender(
        GROUP.format(channels, seconds, dtype),
        "affekt",
        lambda: plan(x, settled=False),
        floor={"scipy": 2},
        aim={"scipy": 4},
        dtype="float64",
        **work(channels, seconds, dtype, 1),
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_scipy(contender, peer, channels, seconds, dtype):
    signal = peer("scipy.signal")
    x, sos = eeg(channels, seconds, dtype), band().sections
    wanted = band()(x, settled=False)
    np.testing.assert_allclose(signal.sosfilt(sos, x), wanted, rtol=0, atol=2e-3)
    contender(GROUP.format(channels, seconds, dtype), "scipy", lambda: signal.sosfilt(sos, x))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_affekt_zero_phase(contender, channels, seconds, dtype):
    x, plan = eeg(channels, seconds, dtype), band()
    contender(
        GROUP_ZERO.format(channels, seconds, dtype),
        "affekt",
        lambda: plan(x, zero_phase=True),
        floor={"scipy": 2},
        aim={"scipy": 4},
        dtype="float64",
        note="MNE continues the ends in another way and takes float64 alone.",
        **work(channels, seconds, dtype, 2),
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_scipy_zero_phase(contender, peer, channels, seconds, dtype):
    signal = peer("scipy.signal")
    x, sos = eeg(channels, seconds, dtype), band().sections
    np.testing.assert_allclose(signal.sosfiltfilt(sos, x), band()(x, zero_phase=True), rtol=0, atol=0.05)
    contender(GROUP_ZERO.format(channels, seconds, dtype), "scipy", lambda: signal.sosfiltfilt(sos, x))


@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_mne_zero_phase(contender, peer, channels, seconds):
    mne = peer("mne")
    x = eeg(channels, seconds, "float64")
    params = {"order": ORDER, "ftype": "butter", "output": "sos"}

    def run():
        return mne.filter.filter_data(x, RATE, 1, 40, method="iir", iir_params=params, verbose="error")

    middle = slice(1000, -1000)
    np.testing.assert_allclose(run()[:, middle], band()(x, zero_phase=True)[:, middle], rtol=0, atol=0.05)
    contender(GROUP_ZERO.format(channels, seconds, "float64"), "mne", run)


def bench_affekt_live(contender):
    stream, x = band().stream(32), eeg(32, 10, "float32")[:, :64]
    contender(GROUP_LIVE, "affekt", lambda: stream.push(x), floor={"scipy": 2}, aim={"scipy": 4})


def bench_scipy_live(contender, peer):
    signal = peer("scipy.signal")
    sos, x = band().sections, eeg(32, 10, "float32")[:, :64]
    state = signal.sosfilt_zi(sos)[:, None, :] * x[None, :, :1]

    def run():
        nonlocal state
        y, state = signal.sosfilt(sos, x, zi=state)
        return y

    contender(GROUP_LIVE, "scipy", run)


@pytest.mark.parametrize("seconds", [1, 10, 60])
@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_affekt_resample(contender, before, after, seconds):
    x, plan = sound(seconds, before), Resampler(before, after)
    contender(
        GROUP_RESAMPLE.format(before, after, seconds),
        "affekt",
        lambda: plan(x),
        floor={"soxr HQ": 1},
        aim={"soxr HQ": 2},
        operations=2.0 * plan._core.multiplications * seconds * after,
        bytes_moved=4.0 * seconds * (before + after),
    )


@pytest.mark.parametrize("seconds", [1, 10, 60])
@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_soxr(contender, peer, before, after, seconds):
    soxr = peer("soxr")
    x = sound(seconds, before)
    spectrum = np.fft.rfft(x)
    spectrum[int(0.85 * min(before, after) / before * len(spectrum)) :] = 0
    smooth = np.fft.irfft(spectrum, len(x)).astype(np.float32)
    ours, theirs = Resampler(before, after)(smooth), soxr.resample(smooth, before, after, quality="HQ")
    np.testing.assert_allclose(ours[1000:-1000], theirs[1000:-1000], rtol=0, atol=5e-4)
    contender(
        GROUP_RESAMPLE.format(before, after, seconds),
        "soxr HQ",
        lambda: soxr.resample(x, before, after, quality="HQ"),
    )


@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_affekt_push(contender, before, after):
    stream, x = Resampler(before, after).stream(), sound(1, before)[: before // 100]
    contender(
        GROUP_PUSH.format(before, after),
        "affekt",
        lambda: stream.push(x),
        floor={"soxr HQ": 1},
        aim={"soxr HQ": 2},
    )


@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_soxr_push(contender, peer, before, after):
    soxr = peer("soxr")
    stream, x = (
        soxr.ResampleStream(before, after, 1, dtype="float32", quality="HQ"),
        sound(1, before)[: before // 100],
    )
    contender(GROUP_PUSH.format(before, after), "soxr HQ", lambda: stream.resample_chunk(x))
