"""Filters and average reference against SciPy, NumPy and MNE, the resampler against soxr; whole and live.

Filters: Butterworth of order 4 from 1 to 40 Hz at 256 Hz, four second-order sections, noise of 20 uV on an
offset of 5000 uV; causal from rest (`sosfilt`) and zero-phase (`sosfiltfilt`); MNE keeps its design
(`construct_iir_filter`), as we keep ours. Results agree within 1e-10 of the peak in float64, 1e-6 in float32.
Our mean of the average reference is taken in float64; NumPy's is in the type of the samples. Two thirds of
the time of ours are its kernel (`reference`), which reads each sample twice, to find bad ones and to sum, and
to take the mean off, and widens float32 both times; over 600 s, page faults of the result add to both sides.

Resamplers: noise at full scale 0.1; ours at its defaults (pass-band to 0.913 of half the lower rate, 100 dB),
soxr at HQ in one `ResampleStream` that is kept and cleared ("soxr HQ"), and as `soxr.resample`, which builds
its filters at every call. The bound counts the multiplications of our direct form, each with its addition,
not the additions that fold the symmetric filter; transforms of whole blocks would need fewer. soxr works
on blocks of its own, which lets it filter through an FFT, and holds results back; ours gives each as soon
as its samples are there, with the bits of the whole recording, which only direct products can. Almost all
of our time is in those of the sharp symmetric filter (`folded`), at about three quarters of the best rate
of the core, so what a ratio reaches follows from its number of products: most per result where the rate is
halved. Recordings beyond the second cache cost 5 % more per sample than short ones: samples to come and
lines of results are asked for between the products (without that, 18 %).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest

from affekt.features import Filter, Resampler, average_reference

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
GROUP_MIX = "resample {} -> {} Hz, 2 channels mixed to 1, 10 s"
GROUP_REFERENCE = "average reference, 32 ch x {} s at 256 Hz, {}"


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


def assert_same(theirs: np.ndarray, ours: np.ndarray, scale: float | None = None) -> None:
    """Compare in the precision of ours, relative to `scale` or to the peak."""
    assert theirs.shape == ours.shape
    scale = np.abs(ours).max() if scale is None else scale
    apart = np.abs(theirs - ours).max() / scale
    assert apart <= (1e-10 if ours.dtype == np.float64 else 1e-6), f"{apart:.2g} of {scale:.3g} apart"


def work(channels: int, samples: int, dtype: str, passes: int) -> dict[str, float]:
    """Return what the problem needs: 9 operations per section and sample, one reading and one writing."""
    n = channels * samples
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
        **work(channels, seconds * RATE, dtype, 1),
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_scipy(contender, peer, channels, seconds, dtype):
    signal = peer("scipy.signal")
    x, sos = eeg(channels, seconds, dtype), band().sections
    assert_same(signal.sosfilt(sos, x), band()(x, settled=False))
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
        **work(channels, seconds * RATE, dtype, 2),
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_scipy_zero_phase(contender, peer, channels, seconds, dtype):
    signal = peer("scipy.signal")
    x, sos = eeg(channels, seconds, dtype), band().sections
    assert_same(signal.sosfiltfilt(sos, x), band()(x, zero_phase=True))
    contender(GROUP_ZERO.format(channels, seconds, dtype), "scipy", lambda: signal.sosfiltfilt(sos, x))


@pytest.mark.parametrize(("channels", "seconds"), SIZES)
def bench_mne_zero_phase(contender, peer, channels, seconds):
    mne = peer("mne")
    x = eeg(channels, seconds, "float64")
    params = {"order": ORDER, "ftype": "butter", "output": "sos"}
    kept = mne.filter.construct_iir_filter(
        params, f_pass=[1, 40], sfreq=RATE, btype="bandpass", verbose="error"
    )

    def run(x):
        return mne.filter.filter_data(x, RATE, 1, 40, method="iir", iir_params=kept, verbose="error")

    # Away from the ends, which ten seconds hardly have.
    long, middle = eeg(1, 600, "float64"), slice(3000, -3000)
    assert_same(run(long)[:, middle], band()(long, zero_phase=True)[:, middle])
    contender(GROUP_ZERO.format(channels, seconds, "float64"), "mne", lambda: run(x))


def bench_affekt_live(contender):
    stream, x = band().stream(32), eeg(32, 10, "float32")[:, :64]
    contender(
        GROUP_LIVE,
        "affekt",
        lambda: stream.push(x),
        floor={"scipy": 2},
        aim={"scipy": 4},
        dtype="float64",
        **work(32, 64, "float32", 1),
    )


def bench_scipy_live(contender, peer):
    signal = peer("scipy.signal")
    sos, x = band().sections, eeg(32, 10, "float32")[:, :64]
    state = signal.sosfilt_zi(sos)[:, None, :] * x[None, :, :1]

    def run():
        nonlocal state
        y, state = signal.sosfilt(sos, x, zi=state)
        return y

    stream = band().stream(32)
    for _ in range(20):
        assert_same(run(), stream.push(x))
    contender(GROUP_LIVE, "scipy", run)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seconds", [10, 600])
def bench_affekt_reference(contender, seconds, dtype):
    x = eeg(32, seconds, dtype)
    contender(
        GROUP_REFERENCE.format(seconds, dtype),
        "affekt",
        lambda: average_reference(x),
        floor={"mne": 2} if dtype == "float64" else None,
        aim={"mne": 4} if dtype == "float64" else None,
        operations=2.0 * x.size,
        bytes_moved=2.0 * x.nbytes,
        dtype="float64",
    )


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seconds", [10, 600])
def bench_numpy_reference(contender, seconds, dtype):
    x = eeg(32, seconds, dtype)
    run = lambda: x - x.mean(axis=0)  # noqa: E731
    assert_same(run(), average_reference(x), scale=5000)  # what is taken off
    contender(
        GROUP_REFERENCE.format(seconds, dtype),
        "numpy",
        run,
        note="NumPy's mean is in the type of the samples",
    )


@pytest.mark.parametrize("seconds", [10, 600])
def bench_mne_reference(contender, peer, seconds):
    mne = peer("mne")
    x = eeg(32, seconds, "float64")
    raw = mne.io.RawArray(x.copy(), mne.create_info(32, RATE, "eeg"), verbose="error")

    def run():
        return mne.set_eeg_reference(raw, "average", copy=False, verbose="error")

    run()
    assert_same(raw.get_data(), average_reference(x), scale=5000)
    contender(
        GROUP_REFERENCE.format(seconds, "float64"), "mne", run, note="MNE works in place, on its Raw object"
    )


def resampling(plan: Resampler, before: int, after: int, seconds: float) -> dict[str, float]:
    """Return what the problem needs in our direct form, see above; samples in and results out once."""
    return {
        "operations": 2.0 * plan._core.multiplications * seconds * after,
        "bytes_moved": 4.0 * seconds * (before + after),
    }


def kept_soxr(soxr, before: int, after: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return soxr for whole signals with its filters made once."""
    stream = soxr.ResampleStream(before, after, 1, dtype="float32", quality="HQ")

    def run(x):
        stream.clear()
        return stream.resample_chunk(x, last=True)

    return run


@functools.cache
def smooth(before: int, after: int) -> np.ndarray:
    """Return 1 s of noise that lies in the pass band of both."""
    x = sound(1, before)
    spectrum = np.fft.rfft(x)
    spectrum[int(0.85 * min(before, after) / before * len(spectrum)) :] = 0
    return np.fft.irfft(spectrum, len(x)).astype(np.float32)


def assert_same_sound(theirs: np.ndarray, ours: np.ndarray) -> None:
    """Compare away from the ends, where the noise stops within a sample: 0.001 dB of ripple on each side."""
    assert theirs.shape == ours.shape
    apart = np.abs(theirs - ours)[1000:-1000].max() / np.abs(ours).max()
    assert apart <= 2 * (10 ** (0.001 / 20) - 1), f"{apart:.2g} of the peak apart"


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
        **resampling(plan, before, after, seconds),
    )


@pytest.mark.parametrize("seconds", [1, 10, 60])
@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_soxr(contender, peer, before, after, seconds):
    run, x, example = kept_soxr(peer("soxr"), before, after), sound(seconds, before), smooth(before, after)
    assert_same_sound(run(example), Resampler(before, after)(example))
    contender(GROUP_RESAMPLE.format(before, after, seconds), "soxr HQ", lambda: run(x))


@pytest.mark.parametrize("seconds", [1, 10, 60])
@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_soxr_one_call(contender, peer, before, after, seconds):
    soxr, x, example = peer("soxr"), sound(seconds, before), smooth(before, after)
    run = lambda x: soxr.resample(x, before, after, quality="HQ")  # noqa: E731
    assert_same_sound(run(example), Resampler(before, after)(example))
    contender(GROUP_RESAMPLE.format(before, after, seconds), "soxr.resample HQ", lambda: run(x))


@functools.cache
def stereo(before: int) -> np.ndarray:
    """Return 10 s of noise on two channels."""
    x = sound(10, before)
    return np.stack([x, x[::-1]])


@pytest.mark.parametrize(("before", "after"), RATIOS[:2])
def bench_affekt_mix(contender, before, after):
    x, plan = stereo(before), Resampler(before, after)
    needs = resampling(plan, before, after, 10)
    contender(
        GROUP_MIX.format(before, after),
        "affekt",
        lambda: plan(x, mix="mean"),
        floor={"NumPy, then soxr HQ": 1},
        aim={"NumPy, then soxr HQ": 2},
        operations=needs["operations"] + x.size,
        bytes_moved=needs["bytes_moved"] + x.nbytes / 2,
    )


@pytest.mark.parametrize(("before", "after"), RATIOS[:2])
def bench_soxr_mix(contender, peer, before, after):
    one, x, example = kept_soxr(peer("soxr"), before, after), stereo(before), smooth(before, after)
    half = np.float32(0.5)

    def run(x):
        return one(half * (x[0] + x[1]))  # five times as fast as x.mean(axis=0)

    both = np.stack([example, example[::-1]])
    assert_same_sound(run(both), Resampler(before, after)(both, mix="mean"))
    contender(GROUP_MIX.format(before, after), "NumPy, then soxr HQ", lambda: run(x))


@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_affekt_push(contender, before, after):
    plan, x = Resampler(before, after), sound(1, before)[: before // 100]
    stream = plan.stream()
    contender(
        GROUP_PUSH.format(before, after),
        "affekt",
        lambda: stream.push(x),
        floor={"soxr HQ": 1},
        aim={"soxr HQ": 2},
        **resampling(plan, before, after, 0.01),
    )


@pytest.mark.parametrize(("before", "after"), RATIOS)
def bench_soxr_push(contender, peer, before, after):
    soxr = peer("soxr")
    stream, x = (
        soxr.ResampleStream(before, after, 1, dtype="float32", quality="HQ"),
        sound(1, before)[: before // 100],
    )
    ours, example = Resampler(before, after).stream(), smooth(before, after)
    pushes = [example[at : at + len(x)] for at in range(0, len(example), len(x))]
    # soxr holds results back, so the pushes are compared as one signal.
    theirs = [stream.resample_chunk(part, last=part is pushes[-1]) for part in pushes]
    assert_same_sound(
        np.concatenate(theirs), np.concatenate([*(ours.push(part) for part in pushes), ours.finish()])
    )
    stream.clear()
    contender(GROUP_PUSH.format(before, after), "soxr HQ", lambda: stream.resample_chunk(x))
