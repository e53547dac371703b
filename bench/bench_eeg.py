"""EEG spectra against SciPy, MNE and BrainFlow: Welch's method, band power in sliding windows, and live.

The recording has 32 channels at 256 Hz. Welch: 2 s Hann segments, half overlap, the mean taken off. Band
power: 2 s windows every 0.25 s of Hann segments of 1 s with half overlap, six bands, trapezoids, relative to
the whole spectrum. Forward + backward: the gradient of the sum of these features in the samples; plain torch
transforms each segment once, too, and its autograd goes back; the bound counts the transform of each segment
and the one that takes its gradient back. Agreement is checked before anything is timed, except with
BrainFlow, which takes no mean off, scales otherwise and takes one channel at a time.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from affekt import ops
from affekt.features import BANDS, BandPower, welch

RATE = 256
SECONDS = [10, 60, 600]
DTYPES = ["float32", "float64"]
GROUP_WELCH = "Welch, 32 channels x {} s at 256 Hz, 2 s segments, half overlap, {}"
GROUP_SLIDING = "band power, 32 channels x {} s, 2 s windows every 0.25 s, {}"
GROUP_TRAINING = "band power, forward + backward, 32 channels x {} s, {}, {}"
GROUP_HOP = "live band power, 32 channels, one hop of 0.25 s, float32"


@cache
def eeg(seconds: int, dtype: str) -> np.ndarray:
    """Return 32 channels of red noise with an alpha rhythm, (32, time), in microvolts."""
    rng = np.random.default_rng(0)
    t = np.arange(seconds * RATE) / RATE
    noise = np.cumsum(rng.standard_normal((32, t.size)), axis=1)
    noise -= np.linspace(0, 1, t.size) * noise[:, -1:]
    return (0.3 * noise + 10 * np.sin(2 * np.pi * 10 * t) + rng.uniform(-50, 50, (32, 1))).astype(dtype)


def psd(x: np.ndarray) -> np.ndarray:
    """Return our spectra, (32, 257)."""
    return welch(x, RATE, n_per_seg=512)[1]


def assert_same_psd(theirs: np.ndarray, x: np.ndarray) -> None:
    tolerance = 1e-10 if x.dtype == np.float64 else 1e-5
    assert np.abs(theirs - psd(x)).max() <= tolerance * theirs.max()


def work(seconds: float, step: int, n: int) -> float:
    """Operations of the transforms and powers of 32 channels: 2.5 n log2 n for a real transform of n, then
    detrending and the window (3 n) and the power (1.5 n)."""
    segments = (seconds * RATE - n) // step + 1
    return 32 * segments * (2.5 * n * np.log2(n) + 4.5 * n)


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("dtype", DTYPES)
def bench_affekt_welch(contender, seconds, dtype):
    x = eeg(seconds, dtype)
    double = dtype == "float64"
    contender(
        GROUP_WELCH.format(seconds, dtype),
        "affekt",
        lambda: psd(x),
        floor=({"MNE": 3.5, "SciPy": 6} if double else {"MNE": 7}) if seconds == 600 else None,
        aim={"MNE": 5 if double else 12} if seconds == 600 else None,
        operations=work(seconds, 256, 512),
        bytes_moved=x.nbytes,
        dtype=dtype,
    )


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("dtype", DTYPES)
def bench_scipy_welch(contender, peer, seconds, dtype):
    signal = peer("scipy.signal")
    x = eeg(seconds, dtype)

    def run():
        return signal.welch(x, RATE, "hann", 512, 256)[1]

    assert_same_psd(run(), x)
    contender(GROUP_WELCH.format(seconds, dtype), "SciPy", run)


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("dtype", DTYPES)
def bench_mne_welch(contender, peer, seconds, dtype):
    estimate = peer("mne.time_frequency").psd_array_welch
    x = eeg(seconds, dtype)

    def run():
        return estimate(x, RATE, n_fft=512, n_overlap=256, window="hann", verbose="error")[0]

    assert_same_psd(run(), x)
    contender(GROUP_WELCH.format(seconds, dtype), "MNE", run)


@pytest.mark.parametrize("seconds", SECONDS)
def bench_brainflow_welch(contender, peer, seconds):
    peer("pkg_resources")  # BrainFlow asks for it at its first call
    flow = peer("brainflow.data_filter")
    x = eeg(seconds, "float64")
    window = flow.WindowOperations.HANNING.value

    def run():
        return [flow.DataFilter.get_psd_welch(row, 512, 256, RATE, window)[0] for row in x]

    # Another definition: no detrending and a symmetric window; the rhythm's bin tells the same spectrum.
    assert np.argmax(np.array(run())[:, 4:], axis=1).tolist() == np.argmax(psd(x)[:, 4:], axis=1).tolist()
    contender(
        GROUP_WELCH.format(seconds, "float64"),
        "BrainFlow",
        run,
        note="BrainFlow takes no mean off its segments and works one channel at a time, in float64 alone",
    )


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("dtype", DTYPES)
def bench_affekt_sliding(contender, seconds, dtype):
    x = eeg(seconds, dtype)
    bands = BandPower(sample_rate=RATE)
    contender(
        GROUP_SLIDING.format(seconds, dtype),
        "affekt",
        lambda: bands(x).power,
        floor={"SciPy, window by window": 100} if seconds == 60 else None,
        aim={"SciPy, window by window": 200} if seconds == 60 else None,
        operations=work(seconds, 64, 256),
        bytes_moved=x.nbytes,
        dtype=dtype,
        note="profile in float64: the first pass of the transform takes 26 % of the time, its last pass 21, "
        "the one between 11, mean and bands 19, moving samples into their lanes, which overlapping segments "
        "share, 10",
    )


def training(torch, seconds: int, dtype: str, average: str, power):
    """Return a function that gives the gradient in the samples of the sum of power(signal, options)."""
    x = torch.from_numpy(eeg(seconds, dtype)).requires_grad_()
    options = json.dumps(BandPower(sample_rate=RATE, average=average).options)

    def run():
        x.grad = None
        power(x, options)[0].sum().backward()
        return x.grad

    return run


@pytest.fixture
def torch(peer):
    """Torch on one thread, with our ops."""
    library = peer("torch")
    if not ops.available():
        pytest.skip("this build has no torch ops (AFFEKT_TORCH=ON builds them)")
    before = library.get_num_threads()
    library.set_num_threads(1)
    yield library
    library.set_num_threads(before)


@pytest.mark.parametrize("seconds", [10, 60])
@pytest.mark.parametrize("average", ["mean", "median"])
@pytest.mark.parametrize("dtype", DTYPES)
def bench_affekt_training(contender, torch, seconds, average, dtype):
    run = training(torch, seconds, dtype, average, torch.ops.affekt.band_power)
    contender(
        GROUP_TRAINING.format(seconds, dtype, average),
        "affekt",
        run,
        operations=2 * work(seconds, 64, 256),
        bytes_moved=2 * eeg(seconds, dtype).nbytes,
        dtype=dtype,
    )


@pytest.mark.parametrize("seconds", [10, 60])
@pytest.mark.parametrize("average", ["mean", "median"])
@pytest.mark.parametrize("dtype", DTYPES)
def bench_torch_training(contender, torch, seconds, average, dtype):
    from affekt.ops import bandpower

    run = training(torch, seconds, dtype, average, bandpower.REFERENCES["band_power"])
    ours = training(torch, seconds, dtype, average, torch.ops.affekt.band_power)()
    tolerance = 1e-9 if dtype == "float64" else 1e-3
    assert (run() - ours).abs().max() <= tolerance * ours.abs().max()
    contender(GROUP_TRAINING.format(seconds, dtype, average), "plain torch", run)


@pytest.mark.parametrize("seconds", [10, 60])
@pytest.mark.parametrize("dtype", DTYPES)
def bench_scipy_sliding(contender, peer, seconds, dtype):
    signal, integrate = peer("scipy.signal"), peer("scipy.integrate")
    x = eeg(seconds, dtype)

    def run():
        rows = []
        for start in range(0, x.shape[1] - 511, 64):
            f, p = signal.welch(x[:, start : start + 512], RATE, "hann", 256)
            total = integrate.trapezoid(p, f, axis=-1)
            inside = [(f >= low) & (f <= high) for low, high in BANDS.values()]
            power = [integrate.trapezoid(p[:, i], f[i], axis=-1) / total for i in inside]
            rows.append(np.stack(power, axis=-1))
        return np.stack(rows)

    tolerance = 1e-10 if dtype == "float64" else 1e-5
    assert np.allclose(run(), BandPower(sample_rate=RATE)(x).power, rtol=tolerance, atol=tolerance)
    contender(GROUP_SLIDING.format(seconds, dtype), "SciPy, window by window", run)


@pytest.mark.parametrize("seconds", [10, 60])
def bench_scipy_view(contender, peer, seconds):
    signal, integrate = peer("scipy.signal"), peer("scipy.integrate")
    x = eeg(seconds, "float32")

    def run():
        windows = np.lib.stride_tricks.sliding_window_view(x, 512, axis=1)[:, ::64]
        f, p = signal.welch(windows, RATE, "hann", 256)
        total = integrate.trapezoid(p, f, axis=-1)
        inside = [(f >= low) & (f <= high) for low, high in BANDS.values()]
        power = [integrate.trapezoid(p[..., i], f[i], axis=-1) / total for i in inside]
        return np.stack(power, axis=-1).swapaxes(0, 1)

    assert np.allclose(run(), BandPower(sample_rate=RATE)(x).power, rtol=1e-5, atol=1e-5)
    contender(GROUP_SLIDING.format(seconds, "float32"), "SciPy on a view of all windows", run)


@pytest.mark.parametrize("seconds", [10, 60])
def bench_mne_sliding(contender, peer, seconds):
    estimate, integrate = peer("mne.time_frequency").psd_array_welch, peer("scipy.integrate")
    x = eeg(seconds, "float64")

    def run():
        windows = np.lib.stride_tricks.sliding_window_view(x, 512, axis=1)[:, ::64].swapaxes(0, 1)
        p, f = estimate(windows, RATE, n_fft=256, n_overlap=128, window="hann", verbose="error")
        total = integrate.trapezoid(p, f, axis=-1)
        inside = [(f >= low) & (f <= high) for low, high in BANDS.values()]
        return np.stack([integrate.trapezoid(p[..., i], f[i], axis=-1) / total for i in inside], axis=-1)

    assert np.allclose(run(), BandPower(sample_rate=RATE)(x).power, rtol=1e-10, atol=1e-10)
    contender(GROUP_SLIDING.format(seconds, "float64"), "MNE on epochs", run)


def bench_affekt_hop(contender):
    stream = BandPower(sample_rate=RATE).stream(32)
    x = eeg(10, "float32")
    stream.push(x[:, :512])
    hop = np.ascontiguousarray(x[:, 512:576])
    rows = contender(
        GROUP_HOP,
        "affekt",
        lambda: stream.push(hop).power,
        floor_us=50,
        aim_us=20,
        operations=work(1, 64, 256),
        bytes_moved=hop.nbytes,
    )
    assert rows.shape == (1, 32, 6)


def bench_scipy_hop(contender, peer):
    signal, integrate = peer("scipy.signal"), peer("scipy.integrate")
    window = eeg(10, "float32")[:, 64:576].copy()
    hop = window[:, -64:].copy()
    stream = BandPower(sample_rate=RATE).stream(32)
    stream.push(window)

    def run():
        window[:, :-64] = window[:, 64:]
        window[:, -64:] = hop
        f, p = signal.welch(window, RATE, "hann", 256)
        total = integrate.trapezoid(p, f, axis=-1)
        inside = [(f >= low) & (f <= high) for low, high in BANDS.values()]
        return np.stack([integrate.trapezoid(p[:, i], f[i], axis=-1) / total for i in inside], axis=-1)

    for _ in range(10):
        np.testing.assert_allclose(run(), stream.push(hop).power[0], rtol=1e-5, atol=1e-5)
    contender(GROUP_HOP, "SciPy, the window again", run)


def bench_brainflow_hop(contender, peer):
    peer("pkg_resources")  # BrainFlow asks for it at its first call
    flow = peer("brainflow.data_filter")
    window = eeg(10, "float64")[:, 64:576].copy()
    hop = window[:, -64:].copy()
    kind = flow.WindowOperations.HANNING.value
    edges = list(BANDS.values())

    def run():
        window[:, :-64] = window[:, 64:]
        window[:, -64:] = hop
        rows = []
        for row in window:
            spectrum = flow.DataFilter.get_psd_welch(row, 256, 128, RATE, kind)
            rows.append([flow.DataFilter.get_band_power(spectrum, low, high) for low, high in edges])
        return rows

    assert np.shape(run()) == (32, 6)
    contender(
        GROUP_HOP, "BrainFlow, the window again", run, note="BrainFlow: absolute power, no mean taken off"
    )
