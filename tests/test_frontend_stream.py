"""A stream gives the bits of the offline call for any division into pushes, or refuses with the reason."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from affekt.errors import InputError, NotStreamableError
from affekt.features import LogMel, Mfcc

RATE = 16000
X = (0.1 * np.random.default_rng(3).standard_normal(9000)).astype(np.float32)
PCM = np.round(X * 32768).clip(-32768, 32767).astype(np.int16)

STREAMABLE = {
    "default": LogMel(sample_rate=RATE),
    "400 points": LogMel(sample_rate=RATE, n_fft=400, power=1.0),
    "odd": LogMel(sample_rate=RATE, n_fft=405, win_length=301, hop_length=77, n_mels=30),
    "prime": LogMel(sample_rate=RATE, n_fft=509, log="ln"),
    "no logarithm": LogMel(sample_rate=RATE, log=None, span="win_length"),
    "pre-emphasis": LogMel(sample_rate=RATE, preemphasis=0.97, n_fft=401, win_length=400),
    "pre-emphasis, skips samples": LogMel(
        sample_rate=RATE, preemphasis=0.97, n_fft=256, win_length=200, n_mels=20, hop_length=977
    ),
    "hop of one": LogMel(sample_rate=RATE, n_fft=32, win_length=32, hop_length=1, n_mels=4),
    "one sample": LogMel(sample_rate=RATE, n_fft=4, win_length=1, hop_length=1, n_mels=1, log=None),
    "whisper live": LogMel.whisper_live(),
    "kaldi": LogMel.kaldi(),
    "mfcc": Mfcc(sample_rate=RATE),
    "kaldi mfcc": Mfcc.kaldi(),
}


def same_bits(a: NDArray[Any], b: NDArray[Any]) -> None:
    assert a.dtype == b.dtype == np.float32
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def pushes(stream: Any, x: NDArray[Any], cuts: list[int]) -> NDArray[Any]:
    return np.concatenate([stream.push(part) for part in np.split(x, sorted(cuts))])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", STREAMABLE)
@given(
    cuts=st.lists(st.integers(0, X.size), max_size=60),
    length=st.integers(0, X.size),
    pcm=st.booleans(),
    capacity=st.sampled_from([None, 0, 1, 100, 5000]),
)
def test_any_pushes_give_the_bits_of_the_offline_call(
    name: str, cuts: list[int], length: int, pcm: bool, capacity: int | None
) -> None:
    features = STREAMABLE[name]
    x = (PCM if pcm else X)[:length]
    stream = features.stream(capacity=capacity)
    rows = pushes(stream, x, [min(cut, length) for cut in cuts])
    same_bits(rows, features(x))
    assert stream.rows == len(rows) == features.frames(length)
    assert stream.samples == length
    assert stream.finish().shape == (0, features.num_features)


@pytest.mark.parametrize("name", ["default", "pre-emphasis, skips samples", "kaldi mfcc"])
def test_sample_by_sample(name: str) -> None:
    features = STREAMABLE[name]
    stream = features.stream(capacity=0)
    rows = np.concatenate([stream.push(X[i : i + 1]) for i in range(3000)])
    same_bits(rows, features(X[:3000]))


def test_int16_is_the_sample_over_32768() -> None:
    for features in (LogMel(sample_rate=RATE), Mfcc.kaldi(), LogMel(sample_rate=RATE, n_fft=509)):
        same_bits(features(PCM), features((PCM / 32768).astype(np.float32)))
    extremes = np.tile(np.array([-32768, 32767], np.int16), 400)
    same_bits(STREAMABLE["default"](extremes), STREAMABLE["default"]((extremes / 32768).astype(np.float32)))


def test_float64_pushes_are_rounded_to_float32() -> None:
    x = X.astype(np.float64) * (1 + 1e-9)
    features = LogMel(sample_rate=RATE)
    same_bits(features.stream().push(x), features(x.astype(np.float32)))


def test_mixed_dtypes_in_one_signal() -> None:
    features = LogMel(sample_rate=RATE)
    stream = features.stream()
    rows = [
        stream.push(PCM[:1000]),
        stream.push((PCM[1000:5000] / 32768).astype(np.float32)),
        stream.push(PCM[5000:]),
    ]
    same_bits(np.concatenate(rows), features(PCM))


def test_a_row_depends_on_its_frame_only() -> None:
    """Rows of an excerpt that starts on a hop are the rows of the whole, whatever came before."""
    for name in ("default", "400 points", "kaldi", "mfcc", "prime"):
        features = STREAMABLE[name]
        same_bits(features(X[160 * 7 :]), features(X)[7:])


def test_reset_starts_over() -> None:
    features = LogMel(sample_rate=RATE, preemphasis=0.97)
    stream = features.stream()
    first = stream.push(X)
    stream.finish()
    with pytest.raises(InputError, match="finished"):
        stream.push(X)
    stream.reset()
    assert stream.rows == stream.samples == 0
    same_bits(stream.push(X), first)


def test_streams_of_one_plan_are_independent() -> None:
    features = LogMel(sample_rate=RATE)
    a, b = features.stream(), features.stream()
    rows_a, rows_b = [], []
    for i in range(0, X.size, 500):
        rows_a.append(a.push(X[i : i + 500]))
        rows_b.append(b.push(-0.5 * X[i : i + 500]))
    same_bits(np.concatenate(rows_a), features(X))
    same_bits(np.concatenate(rows_b), features(-0.5 * X))


def test_time_stamps_are_those_of_the_last_sample() -> None:
    for name in ("default", "kaldi"):
        features = STREAMABLE[name]
        stream = features.stream()
        for i in range(2000):
            for _ in stream.push(X[i : i + 1]):
                assert stream.time(stream.rows - 1) == i / RATE == features.times(stream.rows)[-1]
    assert LogMel.kaldi().latency == 0.025
    assert LogMel(sample_rate=RATE).latency == 0.032
    # A centred row looks ahead, and its stamp says so.
    assert LogMel(sample_rate=RATE, center=True).times(1)[0] == 255 / RATE


def test_threads_share_a_plan() -> None:
    features = LogMel(sample_rate=RATE)
    expected = features(X)
    results: dict[int, NDArray[Any]] = {}

    def work(i: int) -> None:
        stream = features.stream()
        for _ in range(5):
            stream.reset()
            results[i] = pushes(stream, X, list(range(0, X.size, 100 + i)))
            assert features(X).tobytes() == expected.tobytes()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rows in results.values():
        same_bits(rows, expected)


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (LogMel(sample_rate=RATE, center=True), "center"),
        (LogMel(sample_rate=RATE, top_db=80.0), "top_db"),
        (LogMel(sample_rate=RATE, ref="max"), 'ref = "max"'),
        (LogMel(sample_rate=RATE, deltas=1), "deltas"),
        (LogMel(sample_rate=RATE, drop_last=True), "drop_last"),
        (LogMel.whisper(), "top_db"),
        (LogMel.kaldi(center=True, pad_mode="symmetric"), "center"),
        (LogMel.librosa(sample_rate=RATE), "center"),
        (Mfcc(sample_rate=RATE, top_db=80.0), "top_db"),
        (Mfcc.kaldi(deltas=2, delta_width=5), "deltas"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_stream_says_why(features: LogMel | Mfcc, reason: str) -> None:
    assert not features.streamable
    with pytest.raises(NotStreamableError, match=reason):
        features.stream()
    assert features(X).shape[-1] == features.num_features  # offline it works


def test_streamable_says_so() -> None:
    assert all(features.streamable for features in STREAMABLE.values())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_a_refused_push_takes_nothing(bad: float) -> None:
    features = LogMel(sample_rate=RATE)
    stream = features.stream()
    rows = [stream.push(X[:700])]
    broken = X[700:2000].copy()
    broken[123] = bad
    with pytest.raises(InputError, match=r"samples.*at index 123"):
        stream.push(broken)
    assert stream.samples == 700
    rows.append(stream.push(X[700:]))
    same_bits(np.concatenate(rows), features(X))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((2, 100), np.float32), "2 dimensions"),
        (np.float32(0), "0 dimensions"),
        (np.zeros(4, np.int32), "int32"),
        (np.zeros(4, np.uint8), "uint8"),
        (np.array(["a"]), "samples: expected dtype"),
        (np.full(4, 1e39), "index 0"),
    ],
)
def test_bad_pushes_are_named(samples: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LogMel(sample_rate=RATE).stream().push(samples)


def test_counters_may_be_read_while_another_thread_pushes() -> None:
    stream = LogMel(sample_rate=RATE).stream()
    seen: list[tuple[int, int]] = []
    busy = threading.Event()

    def watch() -> None:
        while not busy.is_set():
            seen.append((stream.rows, stream.samples))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(50):
        stream.push(X)
    busy.set()
    watcher.join()
    assert seen == sorted(seen)
    assert all(samples % len(X) == 0 for _, samples in seen)  # a push is atomic
    assert stream.samples == 50 * len(X)


def test_strided_pushes() -> None:
    features = LogMel(sample_rate=RATE)
    same_bits(features.stream().push(X[::2]), features(X[::2].copy()))
    same_bits(features.stream().push(X[::-1]), features(X[::-1].copy()))


@pytest.mark.parametrize("capacity", [-1, 2**33])
def test_bad_capacity(capacity: int) -> None:
    with pytest.raises(InputError, match="capacity"):
        LogMel(sample_rate=RATE).stream(capacity=capacity)
