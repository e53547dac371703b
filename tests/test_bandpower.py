"""Band power: agreement with a loop over SciPy, stream equals offline bit for bit, missing samples."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, signal

import affekt
from affekt.errors import InputError
from affekt.features import BANDS, BandPower, welch
from eeg_signals import RATE, eeg_like


def reference(
    x,
    *,
    rate=RATE,
    window=512,
    hop=64,
    segment=256,
    overlap=128,
    average="mean",
    edges=tuple(BANDS.values()),  # noqa: B008
    rule=integrate.trapezoid,
    relative=True,
    total=None,
    log=None,
):
    """A loop over windows, each through SciPy: (frames, channels, bands), float64."""
    frames = []
    for start in range(0, x.shape[-1] - window + 1, hop):
        piece = np.asarray(x[:, start : start + window], np.float64)
        f, p = signal.welch(piece, rate, "hann", segment, overlap, average=average)
        total_edges = total or (0.0, rate / 2)
        power = []
        for low, high in (*edges, total_edges):
            inside = (f >= low - 1e-9) & (f <= high + 1e-9)
            power.append(rule(p[:, inside], x=f[inside], axis=-1))
        values = np.stack(power[:-1], axis=-1)
        if relative:
            values = values / power[-1][:, None]
        scale = {None: lambda v: v, "db": lambda v: 10 * np.log10(v), "ln": np.log, "log10": np.log10}[log]
        frames.append(scale(values))
    return np.array(frames).reshape(len(frames), x.shape[0], len(edges))


def streamed(bands: BandPower, x: np.ndarray, cuts, **options):
    stream = bands.stream(x.shape[0], dtype=x.dtype, **options)
    parts = [stream.push(block) for block in np.split(x, cuts, axis=-1)]
    assert stream.samples == x.shape[-1]
    assert stream.frames == sum(len(p.power) for p in parts)
    return np.concatenate([p.power for p in parts]), np.concatenate([p.valid for p in parts])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-5)])
@pytest.mark.parametrize("average", ["mean", "median"])
@pytest.mark.parametrize("relative", [True, False])
def test_agrees_with_a_loop_over_scipy(dtype, tolerance, average, relative):
    x = eeg_like(3, 4000).astype(dtype)
    power, valid = BandPower(sample_rate=RATE, average=average, relative=relative)(x)
    expected = reference(x, average=average, relative=relative)
    assert power.dtype == dtype
    assert valid.all()
    assert np.allclose(power, expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("log", ["db", "ln", "log10"])
@pytest.mark.parametrize("rule", ["trapezoid", "simpson"])
@pytest.mark.parametrize("relative", [True, False])
def test_integration_and_logarithms_agree_with_scipy(log, rule, relative):
    x = eeg_like(2, 2500)
    edges = ((0.3, 5.0), (5.0, 6.0), (6.0, 8.0), (8.0, 11.0), (8.0, 12.0), (90.0, 128.0))
    bands = BandPower(
        sample_rate=RATE, bands=edges, integration=rule, log=log, relative=relative, total=(1, 47)
    )
    expected = reference(
        x, edges=edges, rule=getattr(integrate, rule), log=log, relative=relative, total=(1, 47)
    )
    assert np.allclose(bands(x).power, expected, rtol=1e-10, atol=1e-10)


def test_golden_values_of_two_sines():
    # 0.5 sin^2 of amplitude 1 and 0.5, in trapezoids; Simpson's rule is off on a line of one bin.
    t = np.arange(512) / RATE
    x = (np.sin(2 * np.pi * 10 * t) + 0.5 * np.sin(2 * np.pi * 24 * t))[None]
    edges = [(8, 12), (18, 30)]
    for segment in (1.0, 2.0):
        absolute = BandPower(sample_rate=RATE, bands=edges, segment=segment, relative=False)(x).power
        assert np.allclose(absolute, [[[0.5, 0.125]]], rtol=1e-12)
        relative = BandPower(sample_rate=RATE, bands=edges, segment=segment)(x).power
        assert np.allclose(relative, [[[0.8, 0.2]]], rtol=1e-12)
    simpson = BandPower(sample_rate=RATE, bands=edges, relative=False, integration="simpson")(x).power
    assert np.allclose(simpson, [[[4 / 9, 1 / 9]]], rtol=1e-12)


@st.composite
def configurations(draw):
    """Options in samples, and the signal: (BandPower, x)."""
    rate = draw(st.sampled_from([64, 100, 256]))
    segment = draw(st.integers(16, 80))
    step = draw(st.integers(1, segment))
    options = {
        "sample_rate": rate,
        "segment": segment / rate,
        "overlap": (segment - step) / segment,
        "window": draw(st.integers(segment, segment + 5 * step)) / rate,
        "hop": draw(st.integers(1, 200)) / rate,
        "n_fft": draw(st.sampled_from([None, segment + 1, 97, 128])),
        "average": draw(st.sampled_from(["mean", "median"])),
        "detrend": draw(st.sampled_from([None, "constant", "linear"])),
        "relative": draw(st.booleans()),
        "log": draw(st.sampled_from([None, "db"])),
        "bands": [(0, rate / 4), (rate / 8, rate / 2)],
    }
    if options["n_fft"] is not None:
        options["n_fft"] = max(options["n_fft"], segment)
    # Whole vectors of channels take a way of their own.
    channels = draw(st.one_of(st.integers(1, 19), st.sampled_from([8, 16, 32])))
    x = eeg_like(channels, draw(st.integers(0, 900)), seed=draw(st.integers(0, 9)))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, 900))
        x[draw(st.integers(0, channels - 1)), at : at + draw(st.integers(1, 60))] = np.nan
    return BandPower(**options), x.astype(draw(st.sampled_from([np.float32, np.float64])))


@given(configurations(), st.data())
def test_any_chunking_gives_the_bits_of_offline(case, data):
    bands, x = case
    power, valid = bands(x)
    cuts = sorted(data.draw(st.lists(st.integers(0, x.shape[-1]), max_size=12)))
    for capacity in (None, 1):
        live, live_valid = streamed(bands, x, cuts, capacity=capacity)
        assert np.array_equal(live, power, equal_nan=True)
        assert np.array_equal(live_valid, valid)


@given(configurations())
def test_a_window_is_welch_over_its_segments(case):
    """Each frame against `welch` of its window alone, integrated here; missing samples included."""
    bands, x = case
    o = bands.options
    power, valid = bands(x)
    rate = o["sample_rate"]
    window, hop, segment = (round(o[k] * rate) for k in ("window", "hop", "segment"))
    assert power.shape[0] == bands.frames(x.shape[-1]) == len(range(0, x.shape[-1] - window + 1, hop))
    if not len(power):
        return
    pieces = np.stack([x[:, f * hop : f * hop + window] for f in range(len(power))]).astype(np.float64)
    f, p = welch(
        pieces, rate, n_per_seg=segment, n_overlap=round(o["overlap"] * segment), n_fft=o["n_fft"],
        detrend=o["detrend"], average=o["average"],
    )  # fmt: skip
    edges = [*(tuple(b[1:]) for b in o["bands"]), (0, rate / 2)]
    inside = [(f >= low - 1e-6) & (f <= high + 1e-6) for low, high in edges]
    values = np.stack([integrate.trapezoid(p[..., i], x=f[i], axis=-1) for i in inside], axis=-1)
    expected = values[..., :-1] / values[..., -1:] if o["relative"] else values[..., :-1]
    if o["log"]:
        expected = 10 * np.log10(expected)
    assert np.array_equal(valid, ~np.isnan(values[..., 0]))
    tight = x.dtype == np.float64
    # Float sees what detrending leaves of strong components as rounding of those.
    assert np.allclose(
        power, expected, rtol=1e-9 if tight else 2e-4, atol=1e-9 if tight else 2e-4, equal_nan=True
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("average", ["mean", "median"])
def test_a_channel_has_the_same_bits_alone_and_in_any_company(dtype, average):
    x = eeg_like(2, 35, 3000).astype(dtype)
    x[1, 4, 900:1000] = np.nan
    bands = BandPower(sample_rate=RATE, average=average)
    power, valid = bands(x)
    assert power.shape == (2, bands.frames(3000), 35, 6)
    for r in range(2):
        for c in range(35):
            one = bands(x[r, c : c + 1])
            assert np.array_equal(one.power[:, 0], power[r, :, c], equal_nan=True)
            assert np.array_equal(one.valid[:, 0], valid[r, :, c])
    live, _ = streamed(bands, x[1], range(50, 3000, 50))
    assert np.array_equal(live, power[1], equal_nan=True)


def test_threads_do_not_change_the_bits():
    x = eeg_like(3, 20, 4000).astype(np.float32)
    bands = BandPower(sample_rate=RATE)
    before = affekt.get_num_threads()
    try:
        results = []
        for n in (1, 2, 5):
            affekt.set_num_threads(n)
            results.append(bands(x).power)
    finally:
        affekt.set_num_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_missing_samples_leave_their_segments_out():
    x = eeg_like(3, 3000)
    bands = BandPower(sample_rate=RATE)
    clean = bands(x)
    x[0, 1500] = np.nan
    x[1] = np.nan
    power, valid = bands(x)
    assert not valid[:, 1].any()
    assert np.isnan(power[:, 1]).all()
    assert np.array_equal(power[:, 2], clean.power[:, 2])
    assert valid[:, 0].all()  # one of three segments is always whole beside a single hole, or two
    starts = np.arange(len(power)) * 64
    touched = (starts <= 1500) & (starts + 512 > 1500)
    assert np.array_equal(power[~touched, 0], clean.power[~touched, 0])
    assert not np.isclose(power[touched, 0], clean.power[touched, 0], rtol=1e-9).all(axis=-1).any()
    x[0, 1400:1800] = np.nan
    valid = bands(x).valid
    whole = np.array(
        [any(not np.isnan(x[0, s + j : s + j + 256]).any() for j in (0, 128, 256)) for s in starts]
    )
    assert np.array_equal(valid[:, 0], whole)
    assert not whole.all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_flat_channel_has_no_relative_power(dtype):
    x = eeg_like(2, 1000).astype(dtype)
    x[1] = 0.1
    power, valid = BandPower(sample_rate=RATE)(x)
    assert valid[:, 0].all()
    assert not valid[:, 1].any()
    assert np.isnan(power[:, 1]).all()
    absolute = BandPower(sample_rate=RATE, relative=False)(x)
    assert absolute.valid.all()
    assert not absolute.power[:, 1].any()
    logs = BandPower(sample_rate=RATE, relative=False, log="db", floor=1e-20)(x)
    assert np.allclose(logs.power[:, 1], -200)


def test_time_stamps_are_causal():
    x = eeg_like(1, 4000)
    bands = BandPower(sample_rate=RATE)
    stream = bands.stream(1)
    frames = bands.frames(4000)
    times = bands.times(frames)
    for i in range(4000):
        for _ in stream.push(x[:, i : i + 1]).power:
            # The frame comes with the sample that its stamp names, neither before nor after.
            assert stream.time(stream.frames - 1) == times[stream.frames - 1] == i / RATE
    assert stream.frames == frames
    assert bands.latency == 2.0
    assert bands.hop == 0.25
    # What comes later has no say.
    changed = x.copy()
    changed[:, 2000:] = 0
    early = times < 2000 / RATE
    assert np.array_equal(bands(changed).power[early], bands(x).power[early])


def test_lengths_are_rounded_to_whole_samples_and_segments():
    bands = BandPower(sample_rate=250, hop=0.25, window=2.1)
    assert bands.hop == 62 / 250
    assert bands.latency == 2.0  # the fourth segment would end at 2.5 s
    assert bands.options["window"] == 2.0
    assert bands.frames(499) == 0
    assert bands.frames(500) == 1
    assert bands.frames(561) == 1
    assert bands.frames(562) == 2


def test_short_empty_and_one_dimensional_input():
    bands = BandPower(sample_rate=RATE)
    for shape, expected in [
        ((4, 511), (0, 4, 6)),
        ((0, 1000), (8, 0, 6)),
        ((3, 0, 600), (3, 2, 0, 6)),
        ((0, 2, 600), (0, 2, 2, 6)),
        ((2, 0), (0, 2, 6)),
    ]:
        power, valid = bands(np.zeros(shape, np.float32))
        assert power.shape == expected
        assert valid.shape == expected[:-1]
    with pytest.raises(InputError, match=r"samples: expected shape \(..., channels, time\), got \(600,\)"):
        bands(np.zeros(600))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_layouts_in_memory_do_not_matter(dtype):
    x = (eeg_like(3, 1500) * 20).astype(dtype)
    bands = BandPower(sample_rate=RATE)
    expected = bands(x).power
    wide = np.zeros((3, 3000), dtype)
    wide[:, ::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    for other in (np.asfortranarray(x), wide[:, ::2], np.ascontiguousarray(x[::-1])[::-1], read_only):
        assert np.array_equal(bands(other).power, expected)
        stream = bands.stream(3, dtype=expected.dtype)
        assert np.array_equal(stream.push(other).power, expected)


def test_tensors_and_lists():
    x = eeg_like(2, 800)
    bands = BandPower(sample_rate=RATE)
    assert np.array_equal(bands(x.tolist()).power, bands(x).power)
    torch = pytest.importorskip("torch")
    power, valid = bands(torch.from_numpy(x))
    assert isinstance(power, torch.Tensor)
    assert isinstance(valid, torch.Tensor)
    assert np.array_equal(power.numpy(), bands(x).power)


def test_reset_and_errors_leave_the_stream_usable():
    x = eeg_like(2, 2000).astype(np.float32)
    bands = BandPower(sample_rate=RATE)
    stream = bands.stream(2)
    stream.push(x[:, :777])
    bad = x[:, 777:1000].copy()
    bad[1, 5] = np.inf
    with pytest.raises(InputError, match=r"got inf at index \(1, 5\)"):
        stream.push(bad)
    assert stream.samples == 777
    stream.reset()
    assert (stream.samples, stream.frames) == (0, 0)
    x[0, 100] = np.nan
    assert np.array_equal(stream.push(x).power, bands(x).power)
    for wrong in (x[:1], x[0], x[None]):
        with pytest.raises(InputError, match=r"samples: expected shape \(2, time\)"):
            stream.push(wrong)
    with pytest.raises(InputError, match="samples: expected dtype"):
        stream.push(np.zeros((2, 9), np.int32))
    with pytest.raises(InputError, match="power does not overflow"):
        stream.push(np.full((2, 3), 1e200))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("at", [0, 700, 1999])
@pytest.mark.parametrize("channels", [9, 32])
def test_infinite_and_overflowing_samples_are_errors(value, at, channels):
    x = eeg_like(channels, 2000)
    last = channels - 1
    x[last, at] = value
    x[last, at - 1] = np.nan
    with pytest.raises(InputError, match=rf"at sample {at} of row {last}"):
        BandPower(sample_rate=RATE)(x)
    with pytest.raises(InputError, match=rf"at sample {at} of row {last + channels}"):
        BandPower(sample_rate=RATE)(np.stack([eeg_like(channels, 2000), x]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample_rate": -1}, "sample_rate: expected a positive"),
        ({"sample_rate": None}, "sample_rate: expected a finite number"),
        ({"window": 0.5}, "window: expected no less than a segment"),
        ({"window": 1.6e7}, "win_length: expected a window of at most 4194304 segments"),
        ({"hop": 0}, "hop: expected seconds"),
        ({"segment": 1e9}, "segment: expected seconds"),
        ({"overlap": 1.0}, "overlap: expected a fraction"),
        ({"n_fft": 100}, "n_fft: expected a length from n_per_seg = 256"),
        ({"bands": []}, "bands: expected one or more"),
        ({"bands": ["omega"]}, "bands: expected one of delta, theta"),
        ({"bands": [(5, 1)]}, 'bands: "5-1 Hz": expected edges'),
        ({"bands": {"high": (100, 129)}}, 'bands: "high": expected edges .* got 100 to 129 Hz'),
        ({"bands": {"thin": (10.2, 10.8)}}, 'bands: "thin": expected two bins or more .* 1 Hz apart'),
        ({"bands": {"odd": (1, 2, 3)}}, r"bands: 'odd': expected \(low, high\)"),
        ({"bands": {"odd": (1, np.nan)}}, "bands: 'odd': expected a finite number"),
        ({"total": (10, 10)}, 'bands: "total": expected edges'),
        ({"relative": 1}, "relative: expected True or False"),
        ({"log": "log2"}, 'log: expected one of null, "db", "ln", "log10"'),
        ({"floor": 0}, "floor: expected a number from 1.2e-38"),
        ({"integration": "mean"}, "integration: expected one of"),
        ({"taper": np.ones(5)}, "window: expected 256 values"),
        ({"detrend": False}, "detrend: expected a string"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(InputError, match=message):
        BandPower(**{"sample_rate": RATE, **change})


def test_bad_streams_are_named():
    bands = BandPower(sample_rate=RATE)
    for options, message in [
        ({"channels": 0}, "channels: expected a number from 1"),
        ({"channels": 2, "dtype": "int16"}, "dtype: expected float32 or float64"),
        ({"channels": 2, "capacity": -1}, "capacity: expected an integer"),
    ]:
        with pytest.raises(InputError, match=message):
            bands.stream(**options)


def test_a_window_of_days_is_planned_at_once_and_refused_where_it_takes_too_much():
    bands = BandPower(sample_rate=RATE, window=5e5, average="median")
    power, valid = bands(eeg_like(2, 1000))
    assert power.shape == (0, 2, 6)
    assert valid.shape == (0, 2)
    with pytest.raises(InputError, match="segments take at most 1 GiB for 2 channels"):
        bands.stream(channels=2)


def test_options_make_the_same_object_again():
    bands = BandPower(
        sample_rate=250, bands={"low": (1, 8), "high": (8, 40)}, taper=np.hanning(250), n_fft=300, log="db"
    )
    again = BandPower.from_options(bands.options)
    assert again == bands
    assert hash(again) == hash(bands)
    assert again.bands == ["low", "high"]
    assert pickle.loads(pickle.dumps(bands)) == bands
    assert bands != BandPower(sample_rate=250)
    assert "sample_rate=250" in repr(bands)
    x = eeg_like(2, 1000)
    assert np.array_equal(again(x).power, bands(x).power)
    with pytest.raises(InputError, match="options: expected those of BandPower, got 'gain'"):
        BandPower.from_options({**bands.options, "gain": 1})


def test_memory_does_not_grow_with_the_spectra():
    """Two hours of 32 channels; all spectra of their segments would take 475 MB."""
    code = """
import resource
import numpy as np
from affekt.features import BandPower, welch
x = np.random.default_rng(0).standard_normal((32, 7200 * 256), dtype=np.float32)
bands = BandPower(sample_rate=256)
bands(x[:, :5120]), welch(x[:, :5120], 256)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
power, valid = bands(x)
welch(x, 256)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(grown - power.nbytes - valid.nbytes)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 << 20


def test_real_eeg(data_dir):
    """Rest of a real recording: the bits of a stream, SciPy's numbers, and a drop-out as missing samples."""
    mne = pytest.importorskip("mne")
    files = sorted((data_dir / "eegmat").glob("Subject0?_1.edf"))
    if not files:
        pytest.skip("no EEGMAT recordings")
    raw = mne.io.read_raw_edf(files[0], verbose="error")
    x = raw.get_data(picks=raw.ch_names[:20], stop=int(60 * raw.info["sfreq"])) * 1e6
    rate = raw.info["sfreq"]
    bands = BandPower(sample_rate=rate)
    power, valid = bands(x)
    assert valid.all()
    sizes = {"rate": rate, "window": 1000, "hop": 125, "segment": 500, "overlap": 250}
    assert np.allclose(power, reference(x, **sizes), rtol=1e-10, atol=0)
    live, _ = streamed(bands, x, range(0, x.shape[-1], 73))
    assert np.array_equal(live, power)
    single = bands(x.astype(np.float32)).power
    assert np.allclose(single, power, rtol=1e-4, atol=1e-6)
    x[3, 5000:6000] = np.nan
    holed = bands(x)
    assert not holed.valid[:, 3].all()
    assert np.array_equal(np.delete(holed.power, 3, axis=1), np.delete(power, 3, axis=1))


def test_real_headset(data_dir):
    """A consumer headset: four channels, gaps and all, pushed as they came."""
    files = sorted((data_dir / "muse").glob("subject*-relaxed-1.csv"))
    if not files:
        pytest.skip("no Muse recordings")
    table = np.genfromtxt(files[0], delimiter=",", skip_header=1)
    x = np.ascontiguousarray(table[:, 1:5].T.astype(np.float32))
    bands = BandPower(sample_rate=256, relative=False, log="db")
    power, valid = bands(x)
    live, live_valid = streamed(bands, x, np.sort(np.random.default_rng(0).integers(0, x.shape[1], 500)))
    assert np.array_equal(live, power, equal_nan=True)
    assert np.array_equal(live_valid, valid)
    assert np.allclose(power, reference(x, relative=False, log="db"), atol=1e-3)
