"""What the front end takes; otherwise an error that names the argument, the expectation and the value."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from affekt.errors import InputError
from affekt.features import LogMel, Mfcc, PowerSpectrogram, Stft

RATE = 16000
MEL = LogMel(sample_rate=RATE)
X = (0.1 * np.random.default_rng(5).standard_normal(4000)).astype(np.float32)


# ------------------------------------------------------------------------------------- what it takes


@pytest.mark.parametrize("lead", [(), (1,), (3,), (2, 3), (0,), (2, 0, 3)])
def test_leading_dimensions_are_a_loop(lead: tuple[int, ...], rng: np.random.Generator) -> None:
    x = 0.1 * rng.standard_normal((*lead, 2000)).astype(np.float32)
    y = MEL(x)
    assert y.shape == (*lead, 10, 80)
    for index in np.ndindex(*lead):
        assert MEL(x[index]).tobytes() == y[index].tobytes()


def test_clip_wide_steps_look_at_each_signal_by_itself(rng: np.random.Generator) -> None:
    x = np.array([[1.0], [1e-3]]) * rng.standard_normal((2, 3000))
    for mel in (LogMel(sample_rate=RATE, ref="max", top_db=30.0), LogMel.whisper()):
        np.testing.assert_array_equal(mel(x), np.stack([mel(x[0]), mel(x[1])]))


@given(
    data=st.data(),
    dtype=st.sampled_from([np.float32, np.float64, np.int16]),
    shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=9),
)
def test_any_strides_equal_a_contiguous_copy(data: st.DataObject, dtype: Any, shape: tuple[int, ...]) -> None:
    mel = LogMel(sample_rate=RATE, n_fft=8, win_length=8, hop_length=3, n_mels=2)
    size = int(np.prod([4 * side for side in shape]))
    base = (np.arange(size) * 37 % 101 - 50).astype(dtype)
    if dtype is not np.int16:
        base /= 50
    base = base.reshape([4 * side for side in shape])
    steps = [data.draw(st.sampled_from([1, 2, 3, -1, -2])) for _ in shape]
    x = base[tuple(slice(None, None, step) for step in steps)]
    x = x.transpose(data.draw(st.permutations(range(x.ndim))))
    np.testing.assert_array_equal(mel(x), mel(np.ascontiguousarray(x)))


def test_broadcast_read_only_and_unaligned_arrays() -> None:
    np.testing.assert_array_equal(MEL(np.broadcast_to(X, (3, X.size))), np.stack([MEL(X)] * 3))
    frozen = X.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(MEL(frozen), MEL(X))
    raw = np.zeros(X.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(X.tobytes(), np.uint8)
    unaligned = raw[1:].view(np.float32)
    assert not unaligned.flags.aligned
    np.testing.assert_array_equal(MEL(unaligned), MEL(X))
    records = np.zeros(X.size, [("flag", "i1"), ("value", "f4")])
    records["value"] = X
    np.testing.assert_array_equal(MEL(records["value"]), MEL(X))


def test_input_is_left_alone() -> None:
    x = X.copy()
    LogMel(sample_rate=RATE, preemphasis=0.97, remove_dc=True)(x)
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("make", [LogMel, Mfcc, Stft, PowerSpectrogram])
def test_out_must_lie_apart_from_the_samples(make: type) -> None:
    plan = make(sample_rate=RATE)
    buffer = np.zeros(1 << 22, np.uint8)
    x = buffer[: X.nbytes].view(np.float32)
    x[:] = X
    expected = plan(x)
    for offset in (0, X.nbytes // 16 * 8, X.nbytes - 64):
        out = buffer[offset : offset + expected.nbytes].view(expected.dtype).reshape(expected.shape)
        with pytest.raises(InputError, match="out: expected an array apart from samples"):
            plan(x, out=out)
    np.testing.assert_array_equal(x, X)
    apart = buffer[-expected.nbytes // 64 * 64 :][: expected.nbytes].view(expected.dtype)
    np.testing.assert_array_equal(plan(x, out=apart.reshape(expected.shape)), expected)


def test_dtype_of_the_result() -> None:
    assert MEL(X).dtype == np.float32
    assert MEL(X.astype(np.float64)).dtype == np.float64
    assert MEL((X * 1000).astype(np.int16)).dtype == np.float32
    assert MEL(X.tolist()).dtype == np.float64
    np.testing.assert_allclose(MEL(X), MEL(X.astype(np.float64)), atol=1e-3)


def test_torch_in_torch_out() -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X.reshape(2, 2000))
    y = MEL(x)
    assert isinstance(y, torch.Tensor)
    assert y.dtype == torch.float32
    np.testing.assert_array_equal(y.numpy(), MEL(X.reshape(2, 2000)))
    assert MEL(x.double()).dtype == torch.float64
    np.testing.assert_array_equal(MEL(x.T).numpy(), MEL(X.reshape(2, 2000).T))
    np.testing.assert_array_equal(MEL.stream().push(x[0]), MEL(X[:2000]))
    assert MEL(torch.zeros(4000, device="meta")).shape == MEL(X).shape  # no CPU, no NumPy
    for bad in (x.half(), x.bfloat16(), x.int()):
        with pytest.raises(InputError, match="samples: expected dtype"):
            MEL(bad)
        if bad.is_floating_point():
            with pytest.raises(InputError, match="samples: expected dtype"):
                MEL(bad.requires_grad_())
    bad = torch.zeros(2, 1000)
    bad[1, 7] = np.nan
    with pytest.raises(InputError, match=r"finite.*at index 7"):
        MEL(bad.requires_grad_())


def test_lengths_and_rows() -> None:
    """Row counts are those of the formulas, and `frames` knows them beforehand."""
    kaldi, nosnip = LogMel.kaldi(), LogMel.kaldi(center=True, pad_mode="symmetric")
    centred, odd = LogMel(sample_rate=RATE, center=True), LogMel(sample_rate=RATE, center=True, n_fft=405)
    for n in [*range(0, 3), 79, 80, 81, 159, 160, 161, 399, 400, 401, 511, 512, 513, 671, 672, 1600]:
        x = np.zeros(n, np.float32)
        expected = {
            MEL: max(0, 1 + (n - 512) // 160) if n >= 512 else 0,
            kaldi: 1 + (n - 400) // 160 if n >= 400 else 0,
            nosnip: (n + 80) // 160,
            centred: 1 + n // 160 if n else 0,
            odd: 1 + (n - 1) // 160 if n else 0,
        }
        for mel, rows in expected.items():
            assert mel.frames(n) == rows
            assert mel(x).shape == (rows, mel.num_features)
    assert MEL.frames(2**62) == 1 + (2**62 - 512) // 160
    with pytest.raises(InputError, match="n_samples"):
        MEL.frames(-1)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "symmetric"])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 40])
def test_a_signal_shorter_than_its_padding(mode: str, n: int) -> None:
    """Padding goes on reflecting as numpy.pad does."""
    mel = LogMel(
        sample_rate=RATE, n_fft=64, win_length=64, hop_length=16, n_mels=4, center=True, pad_mode=mode
    )
    causal = LogMel(sample_rate=RATE, n_fft=64, win_length=64, hop_length=16, n_mels=4)
    x = X[:n].astype(np.float64)
    np.testing.assert_allclose(mel(x), causal(np.pad(x, 32, mode=mode)), rtol=1e-12)


def test_preemphasis_starts_from_silence() -> None:
    x = X.astype(np.float64)
    emphasised = x - 0.97 * np.concatenate([[0.0], x[:-1]])
    np.testing.assert_allclose(LogMel(sample_rate=RATE, preemphasis=0.97)(x), MEL(emphasised), rtol=1e-10)


# ------------------------------------------------------------------------------------- bad samples


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("bad", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
@pytest.mark.parametrize("at", [0, 1, 1023, 1024, 3999])
def test_non_finite_samples_are_named_with_their_index(dtype: Any, bad: float, shown: str, at: int) -> None:
    x = X.astype(dtype)
    x[at] = bad
    with pytest.raises(InputError, match=rf"^samples: expected finite values, got {shown} at index {at}$"):
        MEL(x)
    batch = np.zeros((2, 3, x.size), dtype)
    batch[1, 2] = x
    with pytest.raises(InputError, match=rf"at index \(1, 2, {at}\)"):
        MEL(batch)


def test_samples_beyond_the_last_frame_are_checked_too() -> None:
    x = X[:700].copy()
    x[-1] = np.nan  # 512 + 160 samples make two rows
    with pytest.raises(InputError, match="index 699"):
        MEL(x)


@pytest.mark.parametrize(
    "mel", [MEL, LogMel.kaldi(), LogMel(sample_rate=RATE, power=4.0), Mfcc(sample_rate=RATE)]
)
def test_no_finite_sample_gives_a_value_that_is_not(mel: LogMel | Mfcc) -> None:
    for dtype, magnitudes in ((np.float32, np.logspace(0, 38, 39)), (np.float64, np.logspace(0, 308, 78))):
        accepted = 0
        for magnitude in magnitudes:
            x = (np.sign(X[:1200]) * magnitude).astype(dtype)
            try:
                assert np.isfinite(mel(x)).all()
                accepted += 1
            except InputError as error:
                assert "does not overflow" in str(error)  # noqa: PT017
        assert 3 <= accepted < len(magnitudes)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(1000, np.int32),
        np.zeros(1000, np.int64),
        np.zeros(1000, np.uint8),
        np.zeros(1000, np.float16),
        np.zeros(1000, np.complex64),
        np.zeros(1000, bool),
        np.zeros(1000, ">f4"),
        np.array(["a", "b"]),
        np.array([None, 1.0]),
        "text",
        None,
        {"a": 1},
        [1, 2, 3],
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_wrong_dtypes_are_named(samples: Any) -> None:
    with pytest.raises(InputError, match="samples: expected dtype float32, float64 or int16"):
        MEL(samples)


@pytest.mark.parametrize("samples", [np.float32(1), np.array(1.0), 3.5])
def test_a_scalar_is_refused(samples: Any) -> None:
    with pytest.raises(InputError, match=r"samples: expected shape \(..., time\), got a scalar"):
        MEL(samples)


def test_a_ragged_list_is_refused() -> None:
    with pytest.raises(InputError, match="samples: expected"):
        MEL([[1.0, 2.0], [1.0]])


def test_too_few_rows_for_a_polynomial() -> None:
    mel = LogMel(sample_rate=RATE, deltas=1)
    with pytest.raises(InputError, match="delta_width = 9"):
        mel(X[:1000])
    assert LogMel(sample_rate=RATE, deltas=1, delta_mode="regression")(X[:600]).shape == (1, 160)
    assert mel(X[:100]).shape == (0, 160)  # no rows, no differences


@pytest.mark.parametrize("power", [0.001, 4.0])
@pytest.mark.parametrize("floor", [None, 1.2e-38, 1e30])
@pytest.mark.parametrize("log", ["db", "ln", "log10", None])
def test_the_extremes_of_power_and_floor_give_numbers(power: float, floor: float | None, log: str) -> None:
    mel = LogMel(sample_rate=RATE, power=power, floor=floor, log=log)
    for x in (np.zeros(1000, np.float32), X[:1000].astype(np.float32), X[:1000]):
        assert np.isfinite(mel(x)).all()


# ------------------------------------------------------------------------------------- bad options

BAD: list[tuple[dict[str, Any], str]] = [
    ({"hop_length": 0}, r"hop_length: expected an integer from 1 to \d+, got 0"),
    ({"hop_length": -160}, "hop_length.*got -160"),
    ({"win_length": 513}, "win_length: expected an integer from 1 to n_fft = 512, got 513"),
    ({"win_length": 0}, "win_length.*got 0"),
    ({"n_fft": 0}, "n_fft.*got 0"),
    ({"n_fft": 2**20 + 1}, "n_fft"),
    ({"n_fft": 2**31}, "n_fft"),
    ({"n_fft": 2**70}, "n_fft"),
    ({"n_fft": -(2**70)}, "n_fft"),
    ({"n_fft": 512.0}, "n_fft: expected an integer, got 512.0"),
    ({"n_fft": True}, "n_fft"),
    ({"n_fft": None}, "n_fft"),
    ({"hop_length": 2**31}, "hop_length"),
    (
        {"f_max": 8000.5},
        "f_max: expected a frequency above f_min = 0, at most sample_rate / 2 = 8000, got 8000.5",
    ),
    ({"f_max": 0.0}, "f_max"),
    ({"f_min": 5000.0, "f_max": 4000.0}, "f_max.*f_min = 5000"),
    ({"f_min": -1.0}, "f_min.*got -1"),
    ({"f_min": 8000.0}, "f_max"),
    ({"n_mels": 0}, "n_mels: expected an integer from 1 to 65536, got 0"),
    ({"n_mels": -3}, "n_mels"),
    ({"n_mels": 2**20}, "n_mels"),
    ({"floor": -1e-10}, "floor: expected a positive number.*got -1e-10"),
    ({"floor": 0.0}, "floor"),
    ({"floor": 1e-50}, "floor: expected a positive number from 1.17549e-38 to 1e30.*got 1e-50"),
    ({"floor": 1e-40, "log": "ln"}, "floor"),
    ({"floor": 1e300}, "floor.*got 1e.300"),
    ({"floor": 1e300, "log": None}, "floor: expected a number from 0 to 1e30, got 1e.300"),
    ({"floor": -1.0, "log": None}, "floor"),
    ({"sample_rate": 0}, "sample_rate: expected a positive number of Hz, got 0"),
    ({"sample_rate": -16000}, "sample_rate.*got -16000"),
    ({"sample_rate": float("nan")}, "sample_rate: expected a finite number, got nan"),
    ({"sample_rate": float("inf")}, "sample_rate"),
    ({"sample_rate": "16k"}, "sample_rate"),
    ({"sample_rate": None}, "sample_rate"),
    ({"sample_rate": 1e300}, "sample_rate"),
    ({"window": "hanning"}, 'window: expected one of "hann", "hamming".*got "hanning"'),
    ({"window": None}, "window"),
    ({"mel_scale": "bark"}, 'mel_scale.*"kaldi", got "bark"'),
    ({"mel_norm": "area"}, "mel_norm"),
    ({"log": "log2"}, "log: expected one of"),
    ({"pad_mode": "wrap"}, "pad_mode"),
    ({"span": "frame"}, "span"),
    ({"preemphasis_mode": "both"}, "preemphasis_mode"),
    ({"energy": "log"}, "energy"),
    ({"delta_mode": "nearest"}, "delta_mode"),
    ({"delta_width": 4}, "delta_width: expected an odd integer.*got 4"),
    ({"delta_width": 1}, "delta_width"),
    ({"deltas": 3}, "deltas"),
    ({"power": 0.0}, "power: expected a number from 0.001 to 4, got 0"),
    ({"power": 1e-39}, "power.*got 1e-39"),
    ({"power": -2.0}, "power"),
    ({"power": 5.0}, "power"),
    ({"ref": 0.0}, "ref"),
    ({"ref": "min"}, "ref"),
    ({"ref": 2.0, "log": "ln"}, "ref"),
    ({"ref": "max", "log": None}, "ref"),
    ({"top_db": -1.0}, "top_db"),
    ({"top_db": 80.0, "log": None}, "top_db"),
    ({"preemphasis": -0.1}, "preemphasis"),
    ({"preemphasis": 1.5}, "preemphasis"),
    ({"scale": 0.0}, "scale"),
    ({"scale": 1e12, "power": 4.0}, "scale"),
    ({"log_scale": 0.0}, "log_scale"),
    ({"energy_floor": -1.0}, "energy_floor"),
    ({"center": 1}, "center: expected True or False, got 1"),
    ({"center": "yes"}, "center"),
    ({"periodic": 0}, "periodic"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=[json.dumps(o, default=str) for o, _ in BAD])
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LogMel(**{"sample_rate": RATE, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_mfcc": 0}, "n_mfcc"),
        ({"n_mfcc": -1}, "n_mfcc"),
        ({"n_mfcc": 41}, "n_mfcc: expected an integer from 0 to n_mels = 40, got 41"),
        ({"lifter": -1.0}, "lifter"),
        ({"lifter_mode": "x"}, "lifter_mode"),
        ({"dct_norm": "unitary"}, "dct_norm"),
        ({"log": None}, "log"),
        ({"n_mels": 65536, "n_mfcc": 65536}, "n_mfcc"),
    ],
)
def test_bad_mfcc_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Mfcc(**{"sample_rate": RATE, **options})


@pytest.mark.parametrize("rate", [0, -1, float("nan"), 1e12, None, "16000"])
def test_bad_rates_of_the_presets(rate: Any) -> None:
    with pytest.raises(InputError, match="sample_rate"):
        LogMel.kaldi(sample_rate=rate)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="hop"):
        LogMel(sample_rate=RATE, hop=160)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        LogMel(RATE)  # type: ignore[misc]
    with pytest.raises(InputError, match='unknown option "hop"'):
        LogMel.from_options({"hop": 160})


def test_filters_without_bins_are_announced() -> None:
    with pytest.warns(UserWarning, match="n_mels=128.*mel filters contain no bin"):
        LogMel(sample_rate=RATE, n_fft=256, win_length=256, n_mels=128)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_large_sizes_work() -> None:
    big = LogMel(sample_rate=RATE, n_fft=2**17, win_length=2**17, hop_length=2**30, n_mels=2)
    assert big(np.zeros(2**17, np.float32)).shape == (1, 2)
    prime = LogMel(sample_rate=RATE, n_fft=65537, win_length=65537, hop_length=70000, n_mels=2)
    assert prime(np.zeros(70000, np.float32)).shape == (1, 2)
    many = LogMel(sample_rate=RATE, n_mels=65536, n_fft=16, win_length=16)
    assert many(np.zeros(100, np.float32)).shape == (1, 65536)


def test_a_transform_of_one_sample() -> None:
    with pytest.warns(UserWarning, match="contain no bin"):  # its only bin is 0 Hz
        mel = LogMel(sample_rate=RATE, n_fft=1, win_length=1, hop_length=1, n_mels=1)
    assert (mel(X[:5]) == -100.0).all()


# ------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "features",
    [
        MEL,
        LogMel.whisper(),
        LogMel.kaldi(),
        LogMel.librosa(),
        Mfcc.kaldi(),
        Mfcc.librosa(),
        Mfcc(sample_rate=8000),
    ],
    ids=repr,
)
def test_options_describe_the_features(features: LogMel | Mfcc) -> None:
    options = json.loads(json.dumps(features.options))
    again = type(features).from_options(options)
    assert again == features
    assert hash(again) == hash(features)
    assert again.options == options
    assert pickle.loads(pickle.dumps(features)) == features
    assert copy.deepcopy(features) == features
    np.testing.assert_array_equal(again(X), features(X))
    assert "sample_rate=" in repr(features)
    assert features != MEL or features is MEL
    features.options["n_fft"] = 3  # a copy
    assert features.options == options


def test_options_of_the_other_class_are_refused() -> None:
    with pytest.raises(InputError, match="belong to Mfcc"):
        LogMel.from_options(Mfcc(sample_rate=RATE).options)
    with pytest.raises(InputError, match="belong to LogMel"):
        Mfcc.from_options(MEL.options)


def test_numpy_scalars_are_fine_as_options() -> None:
    mel = LogMel(
        sample_rate=np.float32(RATE), n_fft=np.int64(512), center=np.bool_(False), f_max=np.float64(8000)
    )
    assert mel == MEL


def test_defaults_that_follow_other_options() -> None:
    o = LogMel(sample_rate=RATE, win_length=None, hop_length=None).options
    assert (o["win_length"], o["hop_length"], o["f_max"], o["floor"]) == (512, 128, 8000.0, 1e-10)
    assert LogMel(sample_rate=RATE, power=1.0).options["floor"] == pytest.approx(1e-5)
    assert LogMel(sample_rate=RATE, window="povey").options["periodic"] is False


def test_the_window_and_filters_are_seen_through_an_impulse() -> None:
    """The power of a unit impulse is the squared window at its place, in every bin."""
    mel = LogMel(sample_rate=RATE, n_fft=400, log=None, mel_norm=None, n_mels=20)
    impulses = np.eye(400)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    rows = mel(impulses)[:, 0]
    np.testing.assert_allclose(rows, np.outer(window**2, rows[200]), rtol=1e-9, atol=1e-25)
