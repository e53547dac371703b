"""The resampler against its definition, its stated ripple and rejection; same bits for any chunking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import affekt
from affekt.errors import InputError
from affekt.features import Resampler, resample

RATES = [
    (48000, 16000),
    (44100, 16000),
    (16000, 48000),
    (32000, 16000),
    (8000, 16000),
    (44100, 48000),
    (22050, 16000),
    (192000, 16000),
    (250, 256),
    (16000, 16000),
]
ODD = [(44100, 44101), (16000, 15999.7), (1000, 999.9371), (48000, 16000.1), (100, 314.1592653589793)]
DOWN = Resampler(44100, 16000)


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return (0.1 * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> None:
    assert a.dtype == b.dtype == np.float32
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def tone(rate: float, frequency: float, seconds: float) -> NDArray[np.float64]:
    return np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def middle(y: NDArray[Any], rate: float, wait: float) -> NDArray[Any]:
    """`y` without the part at each end that silence outside the signal reaches."""
    edge = int(2 * wait * rate) + 1
    return y[edge:-edge]


# ---- what it computes


@pytest.mark.parametrize(("before", "after"), RATES + ODD)
def test_pass_band_keeps_tones_in_place(before: float, after: float) -> None:
    convert = Resampler(before, after)
    seconds = 8 * convert.latency + 200 / min(before, after)
    for part in (0.01, 0.3, 0.7, 0.9, 0.912):
        frequency = part * min(before, after) / 2
        y = convert(tone(before, frequency, seconds))
        wanted = np.sin(2 * np.pi * frequency * np.arange(len(y)) / after)
        error = middle(y - wanted, after, convert.latency)
        assert len(error) > 50
        assert np.abs(error).max() < 2e-5  # -94 dB: ripple of either side and float32


@pytest.mark.parametrize(("before", "after"), [r for r in RATES + ODD if r[0] > r[1]])
def test_aliases_are_100_db_down(before: float, after: float) -> None:
    convert = Resampler(before, after)
    seconds = 8 * convert.latency + 200 / after
    for frequency in np.linspace(after / 2, before / 2, 23)[:-1]:
        y = convert(tone(before, frequency, seconds))
        assert np.abs(middle(y, after, convert.latency)).max() < 1e-5


@pytest.mark.parametrize(("before", "after"), [(16000, 48000), (8000, 16000), (44100, 48000), (250, 256)])
def test_images_are_100_db_down(before: float, after: float) -> None:
    convert = Resampler(before, after)
    n = 1 << 15
    frequency = 0.8 * before / 2
    y = convert(tone(before, frequency, (n / after) + 4 * convert.latency))
    y = y[int(2 * convert.latency * after) :][:n] * np.kaiser(n, 20)
    power = np.abs(np.fft.rfft(y)) ** 2
    bins = np.abs(np.fft.rfftfreq(n, 1 / after) - frequency) > 40 * after / n
    assert power[bins].max() < 1e-10 * power.max()


@pytest.mark.parametrize("rejection", [60, 80, 120])
def test_rejection_is_what_was_asked(rejection: float) -> None:
    convert = Resampler(48000, 16000, rejection=rejection, passband=0.8)
    worst = max(
        np.abs(middle(convert(tone(48000, f, 0.2)), 16000, convert.latency)).max()
        for f in np.linspace(8000, 23000, 40)
    )
    assert 20 * np.log10(worst) < -rejection + 2  # Kaiser's rule is an estimate
    assert 20 * np.log10(worst) > -rejection - 30


def definition(x: NDArray[Any], up: int, down: int) -> NDArray[np.float64]:
    """The equation in float64: a windowed sinc per output sample. A second stage hardly adds to it."""
    passband, rejection = 0.913, 100.0
    low = min(1.0, up / down)
    width = (1 - passband) * low / 2
    taps = int(np.ceil((rejection - 7.95) / (2.285 * 2 * np.pi * width) + 1))
    half = -(-taps // 8) * 8 / 2
    beta = 0.1102 * (rejection - 8.7)
    y = np.zeros(-(-len(x) * up // down))
    for m in range(len(y)):
        t = m * down / up - np.arange(len(x))
        inside = np.abs(t) < half
        t = t[inside]
        window = np.i0(beta * np.sqrt(1 - (t / half) ** 2)) / np.i0(beta)
        cutoff = (1 + passband) / 2 * low
        y[m] = x[inside] @ (cutoff * np.sinc(cutoff * t) * window)
    return y


@pytest.mark.parametrize(
    ("up", "down"), [(1, 2), (2, 1), (160, 147), (3, 4), (7, 5), (1, 1), (3, 1), (320, 441), (10007, 9973)]
)
def test_follows_the_definition(up: int, down: int) -> None:
    x = noise(700)
    y = resample(x, down, up)
    wanted = definition(x.astype(np.float64), up, down)
    assert Resampler(down, up).ratio == (up, down)
    np.testing.assert_allclose(y, wanted, rtol=0, atol=5e-6)


def test_like_soxr() -> None:
    soxr = pytest.importorskip("soxr")
    # Whole ratios only: at 44100 -> 16000 Hz soxr is itself up to 7e-4 off a tone near the edge.
    for before, after in [(48000, 16000), (32000, 16000), (8000, 16000), (16000, 48000)]:
        x = noise(before // 2)
        spectrum = np.fft.rfft(x)
        spectrum[int(0.9 * min(before, after) / before * len(spectrum)) :] = 0  # what both pass
        x = np.fft.irfft(spectrum, len(x)).astype(np.float32)
        ours, theirs = resample(x, before, after), soxr.resample(x, before, after, quality="VHQ")
        inner = slice(2000, min(len(ours), len(theirs)) - 2000)
        np.testing.assert_allclose(ours[inner], theirs[inner], rtol=0, atol=2e-5)


@pytest.mark.parametrize(("before", "after"), RATES + ODD)
@pytest.mark.parametrize("samples", [0, 1, 2, 7, 1000, 5001])
def test_length_is_what_lies_before_the_end(before: float, after: float, samples: int) -> None:
    convert = Resampler(before, after)
    up, down = convert.ratio
    assert abs(up / down - after / before) <= 4e-16 * after / before
    assert convert.output_length(samples) == -(-samples * up // down)
    assert convert(noise(samples)).shape == (convert.output_length(samples),)


# ---- same bits


@settings(max_examples=60)
@given(
    rates=st.sampled_from(RATES + ODD),
    cuts=st.lists(st.integers(0, 30000), max_size=20),
    length=st.one_of(st.integers(0, 6000), st.integers(0, 30000)),
    channels=st.sampled_from([None, 1, 2, 3]),
    mix=st.sampled_from([None, "mean", 0, [0.5, -1.0, 2.0]]),
    pcm=st.booleans(),
)
def test_any_pushes_give_the_bits_of_the_offline_call(
    rates: tuple[float, float],
    cuts: list[int],
    length: int,
    channels: int | None,
    mix: Any,
    pcm: bool,
) -> None:
    if channels is None:
        mix = None
    elif isinstance(mix, list):
        mix = mix[:channels]
    convert = Resampler(*rates)
    x = noise(*(() if channels is None else (channels,)), length)
    if pcm:
        x = (x * 32768).astype(np.int16)
    whole = convert(x, mix=mix)
    stream = convert.stream(channels, mix=mix)
    for _ in range(2):
        parts = [stream.push(part) for part in np.split(x, sorted(cuts), axis=-1)]
        assert stream.samples == length
        same_bits(np.concatenate([*parts, stream.finish()], axis=-1), whole)
        stream.reset()


@pytest.mark.parametrize(("before", "after"), [(1000, 32768), (250, 8192), (50000, 32768), (1000, 16384)])
def test_as_many_phases_as_an_interpolated_table_has_rows(before: int, after: int) -> None:
    x = noise(3000 if before <= 1000 else 60000)
    convert = Resampler(before, after)
    stream, whole = convert.stream(), convert(x)
    parts = [stream.push(part) for part in np.array_split(x, len(x) // 100)]
    same_bits(np.concatenate([*parts, stream.finish()]), whole)
    t = np.arange(len(whole)) / after
    slow = np.sin(2 * np.pi * before / 50 * np.arange(len(x)) / before)
    inside = slice(len(t) // 8, -len(t) // 8)
    assert np.abs(convert(slow) - np.sin(2 * np.pi * before / 50 * t))[inside].max() < 1e-4


def test_one_sample_at_a_time_with_the_declared_latency() -> None:
    for before, after in RATES:
        convert = Resampler(before, after)
        x, stream = noise(1500), convert.stream()
        given = 0
        parts = []
        for t, value in enumerate(x):
            parts.append(stream.push(value[None]))
            given += len(parts[-1])
            # All are out whose own time lies `latency` back.
            assert given >= np.floor(max(0, t - convert.latency * before) * after / before)
        same_bits(np.concatenate([*parts, stream.finish()]), convert(x))


def test_a_batch_is_its_rows_for_any_number_of_threads() -> None:
    x = noise(3, 5, 3001)
    one = DOWN(x)
    for index in np.ndindex(3, 5):
        same_bits(DOWN(x[index]), one[index])
    mixed = DOWN(x, mix="mean")
    for i in range(3):
        same_bits(DOWN(x[i], mix="mean"), mixed[i])
    before = affekt.get_num_threads()
    affekt.set_num_threads(2)
    try:
        same_bits(DOWN(x), one)
        same_bits(DOWN(x, mix="mean"), mixed)
    finally:
        affekt.set_num_threads(before)


# ---- channel mix and awkward input


def test_mix_is_linear() -> None:
    x = noise(3, 4000)
    rows = DOWN(x)
    same_bits(DOWN(x, mix=1), rows[1])
    same_bits(DOWN(x, mix=[0, 1, 0]), rows[1])
    np.testing.assert_allclose(DOWN(x, mix="mean"), rows.mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        DOWN(x, mix=[0.25, -2, 1]), 0.25 * rows[0] - 2 * rows[1] + rows[2], rtol=0, atol=2e-6
    )
    assert not DOWN(x, mix=[0, 0, 0]).any()


def test_strides_types_and_read_only() -> None:
    x = noise(2, 3000)
    wanted = DOWN(x)
    frozen = x.copy()
    frozen.setflags(write=False)
    same_bits(DOWN(frozen), wanted)
    same_bits(DOWN(np.asfortranarray(x)), wanted)
    same_bits(DOWN(np.ascontiguousarray(x.T).T, mix="mean"), DOWN(x, mix="mean"))
    same_bits(DOWN(x[:, ::-1][:, ::-1]), wanted)
    same_bits(DOWN(x.astype(np.float64)), wanted)
    pcm = np.round(x * 32768).astype(np.int16)
    same_bits(DOWN(pcm), DOWN((pcm / 32768).astype(np.float32)))
    torch = pytest.importorskip("torch")
    assert torch.equal(DOWN(torch.from_numpy(x)), torch.from_numpy(wanted))


def test_largest_values_stay_finite() -> None:
    x = np.full((2, 3000), 1e30)
    for rates in RATES:
        assert np.isfinite(resample(x, *rates, mix=[5e5, -5e5])).all()
        assert np.isfinite(resample(x, *rates, mix=[1e6, 0])).all()


def test_silence_and_offset() -> None:
    assert not DOWN(np.zeros(5000, np.float32)).any()
    y = DOWN(np.full(9000, 0.5))
    np.testing.assert_allclose(middle(y, 16000, DOWN.latency), 0.5, rtol=0, atol=1e-5)
    tiny = DOWN(np.full(9000, 1e-42, np.float32))
    assert np.isfinite(tiny).all()
    assert np.isfinite(DOWN(np.full(9000, 1e30, np.float32))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e31, 1e300])
def test_unusable_samples_are_named(value: float) -> None:
    x = noise(2, 3000).astype(np.float64)
    x[1, 2999] = value
    for mix in (None, "mean", 0):
        with pytest.raises(InputError, match=r"samples: expected finite.*at index \(1, 2999\)"):
            DOWN(x, mix=mix)
    stream = DOWN.stream(2)
    with pytest.raises(InputError, match=r"samples: expected finite"):
        stream.push(x)
    assert stream.samples == 0


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: Resampler(0, 16000), "input_rate .*0"),
        (lambda: Resampler(16000, -1), "output_rate .*-1"),
        (lambda: Resampler(16000, float("nan")), "output_rate .*nan"),
        (lambda: Resampler(16000, 16000 * 257), "output_rate.*4112000|output_rate.*4.112e"),
        (lambda: Resampler(16000, 8000, passband=0.99), "passband.*0.99"),
        (lambda: Resampler(16000, 8000, rejection=20), "rejection.*20"),
        (lambda: Resampler("16k", 8000), "input_rate .*16k"),
        (lambda: DOWN(np.zeros(100, np.int32)), "samples: expected dtype .*int32"),
        (lambda: DOWN(np.float32(1)), r"samples: expected shape \(\.\.\., time\)"),
        (lambda: DOWN(np.zeros(100), mix="mean"), r"samples: expected shape \(\.\.\., channel, time\)"),
        (lambda: DOWN(np.zeros((2, 100)), mix="max"), "mix: expected 'mean'.*max"),
        (lambda: DOWN(np.zeros((2, 100)), mix=2), "mix: expected a channel from 0 to 1, got 2"),
        (lambda: DOWN(np.zeros((2, 100)), mix=[1, 2, 3]), "mix: expected .*2 weights"),
        (lambda: DOWN(np.zeros((2, 100)), mix=[1, np.nan]), "mix"),
        (lambda: DOWN(np.zeros((2, 100)), mix=[1, 1e9]), "mix: expected finite weights"),
        (lambda: DOWN(np.zeros((2, 100)), mix=[6e5, -6e5]), "mix: expected finite weights.* at index 1"),
        (lambda: DOWN.stream(mix="mean"), "mix: expected None"),
        (lambda: DOWN.stream(0), "channels must be an integer from 1"),
        (lambda: DOWN.stream(2).push(np.zeros(100)), r"samples: expected shape \(2, time\).*\(100,\)"),
        (lambda: DOWN.stream().push(np.zeros((1, 100))), r"samples: expected shape \(time,\)"),
        (lambda: DOWN.output_length(-1), "n_samples must be an integer"),
    ],
)
def test_bad_calls_are_named(call: Any, names: str) -> None:
    with pytest.raises(InputError, match=names):
        call()


@pytest.mark.parametrize(
    ("mix", "flat_in", "flat_out", "expected"),
    [
        (np.zeros((0, 2)), False, False, r"\(results, channels\), got \(0, 2\)"),
        (np.ones((2, 2)), False, True, r"\(1, channels\), got \(2, 2\)"),
        (np.ones((1, 2)), True, True, r"\(1, 1\), got \(1, 2\)"),
        (np.ones(2), False, False, r"\(results, channels\), got \(2,\)"),
        (np.zeros((1, 0)), False, False, "1 to 1024 weights, got 0"),
        (np.full((1, 1), np.nan), False, False, "finite weights"),
    ],
)
def test_the_core_refuses_a_mix_that_does_not_fit(
    mix: NDArray[Any], flat_in: bool, flat_out: bool, expected: str
) -> None:
    plan = Resampler(48000, 16000)._core
    with pytest.raises(InputError, match=f"mix: expected.*{expected}"):
        affekt._core.ResamplerStream(plan, mix.astype(np.float32), flat_in, flat_out)


@pytest.mark.parametrize("shape", [(3, 100), (2,), (0,), (2, 3, 100)])
def test_the_core_refuses_weights_for_other_channels(shape: tuple[int, ...]) -> None:
    plan, weights = Resampler(48000, 16000)._core, np.ones(2, np.float32)
    with pytest.raises(InputError, match="mix: expected one weight for each channel of samples"):
        plan.compute(np.zeros(shape, np.float32), weights)


def test_a_finished_stream_takes_no_more() -> None:
    stream = DOWN.stream()
    stream.finish()
    with pytest.raises(InputError, match="finished"):
        stream.push(noise(10))
    stream.reset()
    same_bits(np.concatenate([stream.push(noise(900)), stream.finish()]), DOWN(noise(900)))


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 100), (2, 0, 5)])
def test_empty(shape: tuple[int, ...]) -> None:
    y = DOWN(np.zeros(shape, np.float32))
    assert y.shape == (*shape[:-1], DOWN.output_length(shape[-1]))
