"""Recursive filters against SciPy and MNE; a stream gives the bits of the offline call; awkward input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import affekt
from affekt.errors import InputError
from affekt.features import Filter, average_reference

signal = pytest.importorskip("scipy.signal")

RATE = 256.0
BAND = Filter.bandpass(1, 40, sample_rate=RATE)


def eeg(channels: int, samples: int, offset: float = 5000.0, seed: int = 0) -> NDArray[np.float64]:
    """Noise of 20 uV on an offset."""
    return offset + 20 * np.random.default_rng(seed).standard_normal((channels, samples))


def close(ours: NDArray[Any], reference: NDArray[Any], tolerance: float) -> None:
    """Within `tolerance` of the largest value of the reference."""
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() <= tolerance * np.abs(reference).max()


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> None:
    assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def streamed_is_offline(filter: Filter, x: NDArray[Any], cuts: list[int], settled: bool) -> None:
    stream = filter.stream(None if x.ndim == 1 else len(x), settled=settled)
    for _ in range(2):
        parts = [stream.push(part) for part in np.split(x, sorted(cuts), axis=-1)]
        same_bits(np.concatenate(parts, axis=-1), filter(x, settled=settled))
        assert stream.samples == x.shape[-1]
        stream.reset()


@st.composite
def filters(draw: st.DrawFn) -> Filter:
    kind = draw(st.sampled_from(["bandpass", "bandstop", "lowpass", "highpass", "notch"]))
    low = draw(st.floats(0.5, 60))
    if kind == "notch":
        return Filter.notch(low, sample_rate=RATE, quality=draw(st.floats(2, 50)))
    order = draw(st.integers(1, 9))
    if kind in ("lowpass", "highpass"):
        return getattr(Filter, kind)(low, sample_rate=RATE, order=order)
    high = low + draw(st.floats(4, 60))
    return getattr(Filter, kind)(low, high, sample_rate=RATE, order=order)


# ---- design


@pytest.mark.parametrize("kind", ["bandpass", "bandstop", "lowpass", "highpass"])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("edges", [(1.0, 40.0), (0.1, 100.0), (8.0, 13.0), (5.0, 110.0)])
def test_butterworth_sections_are_those_of_scipy(kind: str, order: int, edges: tuple[float, float]) -> None:
    two = kind.startswith("band")
    wanted = list(edges) if two else edges[kind == "lowpass"]
    args = edges if two else (wanted,)
    ours = getattr(Filter, kind)(*args, sample_rate=RATE, order=order).sections
    theirs = signal.butter(order, wanted, kind, fs=RATE, output="sos")
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("order", [12, 21, 32])
def test_high_orders_keep_their_response(order: int) -> None:
    ours = Filter.lowpass(30, sample_rate=RATE, order=order)
    f, h = signal.sosfreqz(ours.sections, fs=RATE, worN=np.linspace(1, 100, 200))
    wanted = 1 / np.sqrt(1 + (np.tan(np.pi * f / RATE) / np.tan(np.pi * 30 / RATE)) ** (2 * order))
    np.testing.assert_allclose(np.abs(h), wanted, rtol=1e-9, atol=1e-300)


@pytest.mark.parametrize("frequency", [50.0, 60.0, 0.3, 120.0])
def test_notch_is_scipys(frequency: float) -> None:
    ours = Filter.notch(frequency, sample_rate=RATE, quality=25).sections
    np.testing.assert_allclose(ours, [np.concatenate(signal.iirnotch(frequency, 25, RATE))], rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: Filter.bandpass(40, 1, sample_rate=RATE), "low.*40"),
        (lambda: Filter.bandpass(0, 1, sample_rate=RATE), "low.*0"),
        (lambda: Filter.bandpass(1, 128, sample_rate=RATE), "high.*128"),
        (lambda: Filter.bandpass(1, float("nan"), sample_rate=RATE), "high.*nan"),
        (lambda: Filter.lowpass(-3, sample_rate=RATE), "frequency.*-3"),
        (lambda: Filter.highpass(3, sample_rate=0), "sample_rate.*0"),
        (lambda: Filter.highpass(3, sample_rate=RATE, order=0), "order.*0"),
        (lambda: Filter.highpass(3, sample_rate=RATE, order=33), "order.*33"),
        (lambda: Filter.highpass(3, sample_rate=RATE, order=2.5), "order.*2.5"),
        (lambda: Filter.bandpass(1, 1 + 1e-14, sample_rate=RATE), "order.*narrow|order.*wider"),
        (lambda: Filter.notch(50, sample_rate=RATE, quality=0), "quality.*0"),
        (lambda: Filter.notch(50, sample_rate=80), "frequency.*50"),
        (lambda: Filter(np.zeros((0, 6)), sample_rate=RATE), "sections.*0"),
        (lambda: Filter(np.zeros((2, 5)), sample_rate=RATE), "sections.*5"),
        (lambda: Filter([[1, 0, 0, 2, 0, 0]], sample_rate=RATE), "sections.*a0"),
        (lambda: Filter([[1, 0, 0, 1, -2, 1]], sample_rate=RATE), "sections.*unit circle"),
        (lambda: Filter([[np.inf, 0, 0, 1, 0, 0]], sample_rate=RATE), "sections.*inf"),
        (lambda: Filter(np.tile([1, 0, 0, 1, 0, 0], (65, 1)), sample_rate=RATE), "sections.*65"),
        (lambda: Filter("abc", sample_rate=RATE), "sections.*abc"),
    ],
)
def test_bad_designs_are_named(make: Any, names: str) -> None:
    with pytest.raises(InputError, match=names):
        make()


# ---- agreement


def as_exact_as_scipy(ours: NDArray[Any], run: Any, sos: NDArray[Any], *values: NDArray[Any]) -> None:
    """Narrow bands low in the spectrum amplify rounding: there, not much further off than SciPy is itself."""
    exact = run(*(v.astype(np.longdouble) for v in (sos, *values)))
    scipys = np.abs(run(sos, *values) - exact).max()
    assert np.abs(ours - exact).max() <= max(1e-10 * np.abs(values[0]).max(), 4 * scipys)


@given(filter=filters(), channels=st.integers(1, 19), samples=st.integers(1, 700))
def test_causal_agrees_with_scipy(filter: Filter, channels: int, samples: int) -> None:
    x, sos = eeg(channels, samples), filter.sections

    def run(sos: NDArray[Any], x: NDArray[Any], zi: NDArray[Any]) -> NDArray[Any]:
        return signal.sosfilt(sos, x, zi=zi)[0]

    zi = signal.sosfilt_zi(sos)[:, None, :] * x[None, :, :1]
    as_exact_as_scipy(filter(x, settled=False), run, sos, x, 0 * zi)
    as_exact_as_scipy(filter(x), run, sos, x, zi)


def zero_phase(sos: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Return `scipy.signal.sosfiltfilt` of any precision; SciPy's own solves its start in float64 only."""
    if sos.dtype == np.float64:
        return signal.sosfiltfilt(sos, x)
    zeros = min((sos[:, 2] == 0).sum(), (sos[:, 5] == 0).sum())
    edge = 3 * (2 * len(sos) + 1 - zeros)
    left, right = 2 * x[:, :1] - x[:, edge:0:-1], 2 * x[:, -1:] - x[:, -2 : -2 - edge : -1]
    gain, start = sos.dtype.type(1), []
    for b0, b1, b2, _, a1, a2 in sos:  # each section settled at the level that the one before lets through
        level = gain * (b0 + b1 + b2) / (1 + a1 + a2)
        start.append([gain * b1 - a1 * level + gain * b2 - a2 * level, gain * b2 - a2 * level])
        gain = level
    zi = np.array(start)[:, None, :]
    y = np.concatenate([left, x, right], axis=1)
    for _ in range(2):
        y = signal.sosfilt(sos, y, zi=zi * y[None, :, :1])[0][:, ::-1]
    return y[:, edge : edge + x.shape[1]]


@given(filter=filters(), channels=st.integers(1, 19), samples=st.integers(70, 700))
def test_zero_phase_agrees_with_scipy(filter: Filter, channels: int, samples: int) -> None:
    x = eeg(channels, samples)
    as_exact_as_scipy(filter(x, zero_phase=True), zero_phase, filter.sections, x)


@pytest.mark.parametrize("offset", [0.0, 5000.0, -1e6])
def test_an_offset_gives_no_transient(offset: float) -> None:
    noise = eeg(3, 2000, offset=0)
    noise[:, 0] = 0
    clean = BAND(noise)
    np.testing.assert_allclose(BAND(noise + offset), clean, atol=1e-9 * max(1, abs(offset)))
    single = BAND((noise + offset).astype(np.float32))
    rounding = abs(offset) * 2.0**-23 + 1e-4  # of the samples themselves
    np.testing.assert_allclose(single, clean, atol=2 * rounding)


def test_agrees_with_mne() -> None:
    mne = pytest.importorskip("mne")
    x = eeg(4, 4096, offset=0)
    params = {"order": 4, "ftype": "butter", "output": "sos"}
    for phase, zero_phase in (("forward", False), ("zero", True)):
        theirs = mne.filter.filter_data(
            x, RATE, 4, 40, method="iir", iir_params=params, phase=phase, verbose="error"
        )
        ours = Filter.bandpass(4, 40, sample_rate=RATE)(x, zero_phase=zero_phase)
        # MNE continues the ends differently; away from them nothing of that is left.
        middle = slice(1600, -1600) if zero_phase else slice(1600, None)
        close(ours[:, middle], theirs[:, middle], 1e-10)


# ---- same bits


@settings(max_examples=40)
@given(
    filter=filters(),
    channels=st.sampled_from([None, 1, 2, 3, 4, 5, 8, 9, 16, 17]),
    cuts=st.lists(st.integers(0, 400), max_size=12),
    dtype=st.sampled_from([np.float32, np.float64, np.int16]),
    settled=st.booleans(),
)
def test_any_pushes_give_the_bits_of_the_offline_call(
    filter: Filter, channels: int | None, cuts: list[int], dtype: Any, settled: bool
) -> None:
    x = eeg(channels or 1, 400).astype(dtype)
    if channels is None:
        x = x[0]
    streamed_is_offline(filter, x, cuts, settled)


@settings(deadline=None, max_examples=30)
@given(
    sections=st.integers(1, 6),
    channels=st.sampled_from([None, 1, 2, 3, 5, 8, 17]),
    cuts=st.lists(st.integers(0, 60), max_size=60),
    level=st.sampled_from([0.0, 1e-45, 1e-42, 1.2e-38, 5e-324, 1e-310, 2.3e-308]),
    dtype=st.sampled_from([np.float32, np.float64]),
    settled=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_pushes_give_the_same_zeros(
    sections: int,
    channels: int | None,
    cuts: list[int],
    level: float,
    dtype: Any,
    settled: bool,
    seed: int,
) -> None:
    """Denormals and zeros of both signs, gains of both signs: what rounds to zero has one sign."""
    random = np.random.default_rng(seed)
    sos = np.ones((sections, 6))
    sos[:, :3] = random.uniform(-2, 2 * (seed % 2), (sections, 3))
    sos[:, 5] = random.uniform(-0.9, 0.9, sections)
    sos[:, 4] = (1 + sos[:, 5]) * random.uniform(-0.9, 0.9, sections)
    filter = Filter(sos, sample_rate=RATE)
    x = (level * random.choice([-1.0, -0.0, 0.0, 1.0], (channels or 1, 60))).astype(dtype)
    if channels is None:
        x = x[0]
    streamed_is_offline(filter, x, cuts, settled)


@pytest.mark.parametrize("channels", [1, 2, 9])
def test_a_denormal_and_a_negative_gain_give_the_zero_of_the_stream(channels: int) -> None:
    filter = Filter(np.array([[-1.0, -0.5, -0.5, 1.0, 0.25, 0.25]]), sample_rate=RATE)
    x = np.full((channels, 40), 8.0e-43, np.float32)
    streamed_is_offline(filter, x, list(range(1, 40)), settled=False)


def test_one_sample_at_a_time() -> None:
    x = eeg(33, 300).astype(np.float32)
    stream = BAND.stream(33)
    same_bits(np.hstack([stream.push(x[:, t : t + 1]) for t in range(300)]), BAND(x))


@pytest.mark.parametrize("zero_phase", [False, True])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 9])
def test_a_batch_is_its_rows_for_any_number_of_threads(order: int, zero_phase: bool) -> None:
    band = Filter.bandpass(1, 40, sample_rate=RATE, order=order)
    x = eeg(38, 300).reshape(2, 19, 300)
    one = band(x, zero_phase=zero_phase)
    for index in np.ndindex(2, 19):
        same_bits(band(x[index], zero_phase=zero_phase), one[index])
    before = affekt.get_num_threads()
    affekt.set_num_threads(2)
    try:
        same_bits(band(x, zero_phase=zero_phase), one)
    finally:
        affekt.set_num_threads(before)


# ---- awkward input


def test_strides_types_and_read_only() -> None:
    x = eeg(6, 500)
    wanted = BAND(x)
    frozen = x.copy()
    frozen.setflags(write=False)
    same_bits(BAND(frozen), wanted)
    same_bits(BAND(np.asfortranarray(x)), wanted)
    same_bits(BAND(np.repeat(x, 2, axis=1)[:, ::2]), wanted)
    same_bits(BAND(x[:, ::-1][:, ::-1]), wanted)
    same_bits(BAND(x[::2]), wanted[::2])
    same_bits(BAND(x.tolist()), wanted)
    pcm = np.round(x).astype(np.int16)
    close(BAND(pcm), BAND(pcm / 32768), 1e-6)
    assert BAND(pcm).dtype == BAND(x.astype(np.float32)).dtype == np.float32
    same_bits(x, eeg(6, 500))  # untouched


def test_torch_gives_torch() -> None:
    torch = pytest.importorskip("torch")
    x = eeg(2, 100)
    assert torch.equal(BAND(torch.from_numpy(x)), torch.from_numpy(BAND(x)))
    with pytest.raises(InputError, match="requires_grad"):
        BAND(torch.zeros(3, 100, requires_grad=True))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 100), (2, 0, 50)])
@pytest.mark.parametrize("zero_phase", [False, True])
def test_empty(shape: tuple[int, ...], zero_phase: bool) -> None:
    assert BAND(np.zeros(shape, np.float32), zero_phase=zero_phase).shape == shape


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("at", [(0, 0), (4, 257), (8, 999)])
def test_unusable_samples_are_named(value: float, dtype: Any, at: tuple[int, int]) -> None:
    x = eeg(9, 1000).astype(dtype)
    x[at] = value if dtype == np.float32 or not np.isfinite(value) else 1e251
    for call in (lambda: BAND(x), lambda: BAND(x, zero_phase=True), lambda: BAND(x[at[0]])):
        with pytest.raises(InputError, match=rf"samples: expected finite.*{at[1]}\)?$"):
            call()
    stream = BAND.stream(9)
    with pytest.raises(InputError, match=rf"got .* at index \({at[0]}, {at[1]}\)"):
        stream.push(x)
    assert stream.samples == 0
    same_bits(stream.push(eeg(9, 50)), BAND(eeg(9, 50)))  # nothing was taken


def test_largest_samples_give_finite_values() -> None:
    for dtype, most in ((np.float32, 1e30), (np.float64, 1e250)):
        x = (eeg(3, 500, offset=0) > 0).astype(dtype) * dtype(most) - dtype(most / 2)
        assert np.isfinite(BAND(x)).all()
        assert np.isfinite(BAND(x, zero_phase=True)).all()


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_denormals_count_as_zero(channels: int) -> None:
    x = np.zeros((channels, 3000))
    x[:, 0] = 1e-300
    y = BAND(x, settled=False)
    tiny = np.abs(y[y != 0]).min()
    assert tiny >= np.finfo(np.float64).tiny
    assert not y[:, -1].any()
    np.testing.assert_allclose(y, signal.sosfilt(BAND.sections, x), atol=1e-303)
    assert np.float64(5e-324) * np.float64(1) > 0  # the caller's mode is back


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: BAND(np.zeros((3, 100), np.int32)), "samples: expected dtype .*int32"),
        (lambda: BAND(np.zeros((3, 100), complex)), "samples: expected dtype .*complex128"),
        (lambda: BAND(np.float32(1)), r"samples: expected shape \(\.\.\., time\)"),
        (lambda: BAND(np.zeros((3, 27)), zero_phase=True), "samples: expected more than 27.*got 27"),
        (lambda: BAND(np.zeros((3, 100)), zero_phase=1), "zero_phase must be True or False; got 1"),
        (lambda: BAND(np.zeros((3, 100)), settled="no"), "settled must be True or False; got 'no'"),
        (lambda: BAND.stream(0), "channels must be an integer from 1"),
        (lambda: BAND.stream(3).push(np.zeros((4, 100))), r"samples: expected shape \(3, time\).*\(4, 100\)"),
        (lambda: BAND.stream(3).push(np.zeros(100)), r"samples: expected shape \(3, time\).*\(100,\)"),
        (lambda: BAND.stream().push(np.zeros((1, 100))), r"samples: expected shape \(time,\).*\(1, 100\)"),
    ],
)
def test_bad_calls_are_named(call: Any, names: str) -> None:
    with pytest.raises(InputError, match=names):
        call()


# ---- average reference


@given(
    channels=st.integers(1, 12),
    samples=st.integers(0, 1300),
    bad=st.lists(st.booleans(), min_size=12, max_size=12),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_average_reference(channels: int, samples: int, bad: list[bool], dtype: Any) -> None:
    x = eeg(channels, samples).astype(dtype)
    mask = np.array(bad[:channels])
    mask[0] = False
    x[mask] = np.nan
    y = average_reference(x, bad=mask)
    assert y.dtype == dtype
    wanted = x - x[~mask].astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(y[~mask], wanted[~mask], atol=1e-9 if dtype == np.float64 else 1e-3)
    assert np.isnan(y[mask]).all()
    same_bits(average_reference(np.stack([x, x]), bad=mask)[1], y)
    if samples > 1:
        same_bits(average_reference(x[:, 1:], bad=mask), y[:, 1:].copy())


def test_average_reference_agrees_with_mne() -> None:
    mne = pytest.importorskip("mne")
    x = eeg(5, 300)
    info = mne.create_info(5, RATE, "eeg")
    info["bads"] = ["3"]
    raw, _ = mne.set_eeg_reference(mne.io.RawArray(x, info, verbose="error"), verbose="error")
    good = np.arange(5) != 3  # MNE leaves bad channels as they are
    ours, theirs = average_reference(x, bad=~good), raw.get_data()
    np.testing.assert_allclose(ours[good], theirs[good], rtol=0, atol=1e-9)


def test_average_reference_names_what_is_wrong() -> None:
    x = eeg(3, 700)
    x[1, 650] = np.nan
    with pytest.raises(InputError, match=r"samples: expected finite.*nan at index \(1, 650\)"):
        average_reference(x)
    assert np.isfinite(average_reference(x, bad=[False, True, False])[0]).all()
    with pytest.raises(InputError, match="bad: expected at least one channel"):
        average_reference(x, bad=[True] * 3)
    with pytest.raises(InputError, match=r"bad: expected shape \(3,\).*\(2,\)"):
        average_reference(x, bad=[True, False])
    with pytest.raises(InputError, match=r"bad must be a boolean.*int64"):
        average_reference(x, bad=[1, 0, 0])
    with pytest.raises(InputError, match=r"samples: expected shape \(\.\.\., channel, time\)"):
        average_reference(x[0])
    with pytest.raises(InputError, match="samples: expected dtype"):
        average_reference(np.zeros((3, 10), np.int16))
