"""Welch spectra: agreement with SciPy and MNE, missing samples, layouts, threads, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal

import affekt
from affekt.errors import InputError
from affekt.features import welch
from eeg_signals import RATE, eeg_like


def reference(
    x: np.ndarray, n_per_seg: int, n_overlap: int, n_fft: int, w: np.ndarray, detrend, scaling, average
):
    """Welch's method as its definition reads, one signal, float64; segments with a NaN are left out."""
    starts = range(0, len(x) - n_per_seg + 1, n_per_seg - n_overlap)
    powers = []
    t = np.arange(n_per_seg)
    for start in starts:
        d = np.asarray(x[start : start + n_per_seg], np.float64)
        if np.isnan(d).any():
            continue
        if detrend == "constant":
            d = d - d.mean()
        elif detrend == "linear":
            d = d - np.polyval(np.polyfit(t, d, 1), t) if n_per_seg > 1 else d - d
        powers.append(np.abs(np.fft.rfft(d * w, n_fft)) ** 2)
    if not powers:
        return np.full(n_fft // 2 + 1, np.nan)
    if average == "mean":
        p = np.mean(powers, axis=0)
    else:
        odd = np.arange(2, len(powers), 2)
        p = np.median(powers, axis=0) / (1 + np.sum(1 / (odd + 1) - 1 / odd))
    p /= RATE * (w**2).sum() if scaling == "density" else w.sum() ** 2
    p[1 : (n_fft + 1) // 2] *= 2
    return p


def assert_close(ours: np.ndarray, theirs: np.ndarray, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    assert np.array_equal(np.isnan(ours), np.isnan(theirs))
    if theirs.size:
        peak = np.nanmax(theirs, axis=-1, keepdims=True, initial=0.0)
        assert np.nanmax(np.abs(ours - theirs) - tolerance * peak, initial=0.0) <= 0


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("average", ["mean", "median"])
@pytest.mark.parametrize("scaling", ["density", "spectrum"])
@pytest.mark.parametrize("detrend", [None, "constant", "linear"])
def test_agrees_with_scipy(dtype, tolerance, average, scaling, detrend):
    x = eeg_like(3, 2, 3000).astype(dtype)
    for n_per_seg, n_overlap, n_fft, window in [
        (512, 256, 512, "hann"),
        (256, 100, 400, "hamming"),
        (255, 0, 255, ("kaiser", 8.0)),
        (127, 120, 127, "boxcar"),
        (100, 30, 1009, "blackman"),
    ]:
        w = signal.get_window(window, n_per_seg)
        f, p = welch(
            x,
            RATE,
            window=w,
            n_per_seg=n_per_seg,
            n_overlap=n_overlap,
            n_fft=n_fft,
            detrend=detrend,
            scaling=scaling,
            average=average,
        )
        f_ref, p_ref = signal.welch(
            x.astype(np.float64),
            RATE,
            w,
            n_per_seg,
            n_overlap,
            n_fft,
            detrend or False,
            scaling=scaling,
            average=average,
        )
        assert p.dtype == dtype
        assert np.allclose(f, f_ref, rtol=1e-15)
        assert_close(p, p_ref, tolerance)


@pytest.mark.parametrize("name", ["hann", "hamming", "blackman"])
def test_named_windows_are_periodic(name):
    x = eeg_like(1000)
    assert_close(welch(x, RATE, window=name)[1], signal.welch(x, RATE, name, 256)[1], 1e-10)
    assert_close(welch(x, RATE, window="rectangular")[1], signal.welch(x, RATE, "boxcar", 256)[1], 1e-10)


@pytest.mark.parametrize("average", ["mean", "median"])
def test_agrees_with_mne(average):
    mne = pytest.importorskip("mne")
    x = eeg_like(4, 9000)
    theirs, f = mne.time_frequency.psd_array_welch(
        x, RATE, n_fft=512, n_per_seg=300, n_overlap=150, window="hann", average=average, verbose="error"
    )
    ours = welch(x, RATE, n_per_seg=300, n_fft=512, average=average)
    assert np.allclose(ours[0], f)
    assert_close(ours[1], theirs, 1e-10)


@given(
    st.integers(1, 70),
    st.data(),
    st.sampled_from([None, "constant", "linear"]),
    st.sampled_from(["density", "spectrum"]),
    st.sampled_from(["mean", "median"]),
    st.sampled_from([np.float32, np.float64]),
)
def test_any_configuration_follows_the_definition(n_per_seg, data, detrend, scaling, average, dtype):
    n_overlap = data.draw(st.integers(0, n_per_seg - 1))
    n_fft = data.draw(st.integers(n_per_seg, n_per_seg + 80))
    n = data.draw(st.integers(n_per_seg, n_per_seg + 300))
    rows = data.draw(st.integers(0, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = (rng.standard_normal((rows, n)) + rng.uniform(-5, 5, (rows, 1))).astype(dtype)
    for row, at, length in data.draw(
        st.lists(st.tuples(st.integers(0, 4), st.integers(0, n - 1), st.integers(1, 40)), max_size=4)
    ):
        x[row : row + 1, at : at + length] = np.nan
    w = rng.uniform(0.1, 1.0, n_per_seg)
    _, p = welch(
        x,
        RATE,
        window=w,
        n_per_seg=n_per_seg,
        n_overlap=n_overlap,
        n_fft=n_fft,
        detrend=detrend,
        scaling=scaling,
        average=average,
    )
    ref = np.array(
        [reference(row, n_per_seg, n_overlap, n_fft, w, detrend, scaling, average) for row in x]
    ).reshape(rows, n_fft // 2 + 1)
    # What detrending leaves of a signal that it explains is rounding: measured against the signal's power.
    power = np.nanmax(np.abs(x), initial=0.0) ** 2 * max(1.0, n_per_seg / RATE)
    error = np.abs(p - ref)
    tolerance = 1e-10 if dtype == np.float64 else 1e-5
    assert np.array_equal(np.isnan(p), np.isnan(ref))
    assert np.nanmax(error, initial=0.0) <= tolerance * max(np.nanmax(ref, initial=0.0), power)


def test_segments_with_a_missing_sample_are_left_out_per_signal():
    x = eeg_like(3, 5000)
    holed = x.copy()
    holed[0, 700] = np.nan
    holed[1, 1000:3000] = np.nan
    holed[2] = np.nan
    _, p = welch(holed, RATE)
    for row in (0, 1):
        assert_close(
            p[row],
            reference(
                holed[row], 256, 128, 256, signal.get_window("hann", 256), "constant", "density", "mean"
            ),
            1e-10,
        )
        assert not np.allclose(p[row], welch(x, RATE)[1][row], rtol=1e-6)
    assert np.isnan(p[2]).all()


def test_missing_spans_that_all_channels_share_agree_with_mne_where_segments_fit():
    mne = pytest.importorskip("mne")
    x = eeg_like(2, 256 * 20)
    x[:, 256 * 8 : 256 * 9] = np.nan
    theirs, _ = mne.time_frequency.psd_array_welch(
        x, RATE, n_fft=256, n_overlap=0, window="hann", verbose="error"
    )
    assert_close(welch(x, RATE, n_overlap=0)[1], theirs, 1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_has_the_same_bits_alone_and_in_any_company(dtype):
    for n in (300, 1500, 30000):  # one segment, several rows at once, several blocks of one row
        x = eeg_like(37, n).astype(dtype)
        x[3, 10] = np.nan
        for average in ("mean", "median"):
            p = welch(x, RATE, average=average)[1]
            alone = np.stack([welch(row, RATE, average=average)[1] for row in x])
            assert np.array_equal(p, alone, equal_nan=True)


def test_threads_do_not_change_the_bits():
    x = eeg_like(9, 20000).astype(np.float32)
    before = affekt.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            affekt.set_num_threads(n)
            results.append(welch(x, RATE)[1])
    finally:
        affekt.set_num_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_a_large_offset_costs_no_precision():
    # Quantised, so that float32 holds the offset and the signal exactly.
    x = np.round(eeg_like(4, 5000) * 64) / 64
    for dtype in (np.float32, np.float64):
        plain = welch(x.astype(dtype), RATE)[1]
        assert np.array_equal(welch((x + 5000).astype(dtype), RATE)[1], plain)


def test_a_constant_gives_zeros():
    for detrend in ("constant", "linear"):
        for dtype in (np.float32, np.float64):
            assert not welch(np.full((2, 3000), 0.1, dtype), RATE, detrend=detrend)[1].any()


def test_long_averages_stay_precise_in_float32():
    x = eeg_like(2, 400_000).astype(np.float32)
    _, ref = signal.welch(x.astype(np.float64), RATE, "hann", 64)
    _, p = welch(x, RATE, n_per_seg=64)
    assert np.max(np.abs(p / ref - 1)[:, 1:]) < 1e-5


def test_a_sine_has_its_power_in_its_bin():
    t = np.arange(2560) / RATE
    f, p = welch(3.0 * np.sin(2 * np.pi * 16 * t), RATE, scaling="spectrum")
    assert f[p.argmax()] == 16.0
    assert p.max() == pytest.approx(4.5, rel=1e-12)


def test_tiny_and_denormal_values():
    x = eeg_like(2, 2000)
    scaled = welch(x * 1e-6, RATE)[1]
    assert np.allclose(scaled, welch(x, RATE)[1] * 1e-12, rtol=1e-12, atol=0)
    small = (x * 1e-6).astype(np.float32)  # volts
    assert_close(welch(small, RATE)[1], scaled.astype(np.float32), 1e-5)
    assert np.isfinite(welch(np.full(600, 1e-310), RATE, detrend=None)[1]).all()
    assert np.isfinite(welch((x * 1e-42).astype(np.float32), RATE)[1]).all()


def layouts(x: np.ndarray):
    wide = np.zeros((*x.shape[:-1], x.shape[-1] * 2), x.dtype)
    wide[..., ::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    return {
        "fortran": np.asfortranarray(x),
        "strided": wide[..., ::2],
        "reversed": np.ascontiguousarray(x[..., ::-1])[..., ::-1],
        "time first": np.ascontiguousarray(np.moveaxis(x, -1, 0)).transpose(*range(1, x.ndim), 0),
        "read only": read_only,
        "unaligned": shifted,
        "channels reversed": np.ascontiguousarray(x[::-1])[::-1],
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_layouts_in_memory_do_not_matter(dtype):
    x = (eeg_like(3, 4, 900) * 20).astype(dtype)
    expected = welch(x, RATE)[1]
    assert expected.dtype == (np.float64 if dtype == np.float64 else np.float32)
    for name, other in layouts(x).items():
        assert np.array_equal(welch(other, RATE)[1], expected), name
    if dtype == np.int16:
        assert np.array_equal(welch(x.astype(np.float32), RATE)[1], expected)


def test_lists_tensors_and_empty_batches():
    x = eeg_like(2, 600)
    assert np.array_equal(welch(x.tolist(), RATE)[1], welch(x, RATE)[1])
    assert welch(np.zeros((0, 600)), RATE)[1].shape == (0, 129)
    assert welch(np.zeros((4, 0, 600), np.float32), RATE)[1].shape == (4, 0, 129)
    torch = pytest.importorskip("torch")
    p = welch(torch.from_numpy(x), RATE)[1]
    assert isinstance(p, torch.Tensor)
    assert np.array_equal(p.numpy(), welch(x, RATE)[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": 0}, "sample_rate: expected a positive"),
        ({"sample_rate": np.nan}, "sample_rate: expected a finite"),
        ({"n_per_seg": 0}, "n_per_seg: expected a number"),
        ({"n_per_seg": 2**21}, "n_per_seg: expected a number"),
        ({"n_per_seg": 2.5}, "n_per_seg: expected an integer, got 2.5"),
        ({"n_overlap": 256}, "n_overlap: expected less than n_per_seg = 256"),
        ({"n_overlap": -1}, "n_overlap: expected an integer of 0 or more"),
        ({"n_fft": 255}, "n_fft: expected a length from n_per_seg = 256"),
        ({"window": "sine"}, 'window: expected one of "hann"'),
        ({"window": np.ones(255)}, "window: expected 256 values"),
        ({"window": np.zeros(256)}, "window: expected values other than zero"),
        ({"window": np.full(256, np.nan)}, "window: expected finite values"),
        ({"window": np.ones((2, 256))}, "window: expected a name or the values"),
        ({"window": np.tile([1.0, -1.0], 128), "scaling": "spectrum"}, "window: expected a sum other than"),
        ({"detrend": "quadratic"}, 'detrend: expected one of null, "constant", "linear"'),
        ({"scaling": "power"}, "scaling: expected one of"),
        ({"average": None}, "average: expected a string, got None"),
        ({"x": np.zeros(255)}, "samples: expected at least n_per_seg = 256 of them, got 255"),
        ({"x": np.float32(1.0)}, "samples: expected shape"),
        ({"x": np.zeros(300, np.int64)}, "samples: expected dtype float32, float64 or int16, got int64"),
        ({"x": np.zeros(300, complex)}, "samples: expected dtype"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"x": np.zeros(300), "sample_rate": RATE, **change}
    with pytest.raises(InputError, match=message):
        welch(arguments.pop("x"), arguments.pop("sample_rate"), **arguments)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_infinite_and_overflowing_samples_are_errors(value):
    for n in (300, 20000):
        x = np.zeros((3, n))
        x[1, 5] = np.nan
        x[1, n - 2] = value  # in the last part, also where no segment reaches
        with pytest.raises(InputError, match=rf"got .* at sample {n - 2} of row 1"):
            welch(x, RATE)
    y = np.zeros(300, np.float32)
    y[7] = 1e30
    with pytest.raises(InputError, match="at sample 7 of row 0"):
        welch(y, RATE)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_samples_do_not_overflow(dtype):
    # The error names the limit; just below it everything is finite.
    with pytest.raises(InputError) as error:
        welch(np.full(2000, np.finfo(dtype).max), RATE)
    limit = float(str(error.value).split("+-")[1].split(",")[0])
    x = np.full(2000, limit * 0.99, dtype)
    x[::2] *= -1
    for detrend in (None, "constant", "linear"):
        for average in ("mean", "median"):
            p = welch(x, RATE, detrend=detrend, average=average)[1]
            assert np.isfinite(p).all()
            assert p[-1] > 0
