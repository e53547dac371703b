"""Windows cover what they promise, and the overlap mean is the naive loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affekt.data import cut_windows, overlap_mean, windows
from affekt.errors import InputError

shapes = st.tuples(st.integers(1, 60), st.integers(1, 25), st.integers(1, 30))


@pytest.mark.parametrize(
    ("n", "size", "hop", "tail", "starts"),
    [
        # The published setting: 24 s windows every 8 s at 4 Hz, here on 300 and 301 labels.
        (300, 96, 32, "align", [0, 32, 64, 96, 128, 160, 192, 204]),
        (288, 96, 32, "align", [0, 32, 64, 96, 128, 160, 192]),
        (300, 96, 32, "pad", [0, 32, 64, 96, 128, 160, 192, 224]),
        (300, 96, 32, "drop", [0, 32, 64, 96, 128, 160, 192]),
        (50, 96, 32, "align", [0]),
        (50, 96, 32, "pad", [0]),
        (50, 96, 32, "drop", []),
        (10, 2, 4, "drop", [0, 4, 8]),
        (12, 2, 4, "pad", [0, 4, 8]),
        (12, 2, 4, "align", [0, 4, 8, 10]),
        (1, 1, 1, "align", [0]),
    ],
)
def test_starts_by_hand(n: int, size: int, hop: int, tail: str, starts: list[int]) -> None:
    got = windows(n, size, hop, tail=tail)
    assert got.starts.tolist() == starts
    assert got.mask.shape == (len(starts), size)


@given(shape=shapes, tail=st.sampled_from(["align", "pad", "drop"]))
def test_mask_marks_exactly_the_steps_that_exist(shape: tuple[int, int, int], tail: str) -> None:
    n, size, hop = shape
    starts, mask = windows(n, size, hop, tail=tail)
    for start, row in zip(starts, mask, strict=True):
        assert row.tolist() == [start + i < n for i in range(size)]
    assert (np.diff(starts) > 0).all()
    assert (np.diff(starts) <= hop).all()
    covered = {int(s) + i for s, row in zip(starts, mask, strict=True) for i in np.flatnonzero(row)}
    if hop <= size and tail != "drop":
        assert covered == set(range(n))
    if tail == "drop" or (tail == "align" and n >= size):
        assert mask.all()
    if tail == "align":
        assert n - 1 in covered


@given(
    shape=shapes,
    tail=st.sampled_from(["align", "pad", "drop"]),
    width=st.integers(0, 2),
    seed=st.integers(0, 9),
)
def test_overlap_mean_is_the_naive_loop(
    shape: tuple[int, int, int], tail: str, width: int, seed: int
) -> None:
    n, size, hop = shape
    rng = np.random.default_rng(seed)
    starts, mask = windows(n, size, hop, tail=tail)
    mask = mask & (rng.random(mask.shape) < 0.9)
    values = rng.standard_normal((len(starts), size, *[3] * width))
    values[~mask] = np.nan  # what is masked must not matter
    sums = np.zeros((n, *[3] * width))
    count = np.zeros(n, dtype=int)
    for w, start in enumerate(starts):
        for i in range(size):
            if mask[w, i]:
                sums[start + i] += values[w, i]
                count[start + i] += 1
    got, counts = overlap_mean(values, starts, n, mask, fill=-7.0, return_counts=True)
    assert counts.tolist() == count.tolist()
    assert counts.sum() == mask.sum()
    expected = np.where(
        (count > 0).reshape(-1, *[1] * width), sums / np.maximum(count, 1).reshape(-1, *[1] * width), -7.0
    )
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    if (count == 0).any():
        with pytest.raises(InputError, match="every step must lie in a window"):
            overlap_mean(values, starts, n, mask)


@given(shape=shapes, seed=st.integers(0, 9))
def test_cutting_and_averaging_gives_the_sequence_back(shape: tuple[int, int, int], seed: int) -> None:
    n, size, hop = shape
    hop = min(hop, size)
    x = np.random.default_rng(seed).standard_normal((n, 2)).astype(np.float32)
    starts, mask = windows(n, size, hop)
    back = overlap_mean(cut_windows(x, starts, size), starts, n, mask)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, x, rtol=1e-6, atol=1e-7)


def test_padding_is_filled() -> None:
    got = cut_windows(np.arange(5), np.array([0, 3]), 4, fill=-1)
    assert got.tolist() == [[0, 1, 2, 3], [3, 4, -1, -1]]


def test_bad_arguments_are_named() -> None:
    for arguments, name in (((0, 1, 1), "n"), ((5, 0, 1), "size"), ((5, 1, 0), "hop"), ((5, 2.5, 1), "size")):
        with pytest.raises(InputError, match=f"^{name} must be"):
            windows(*arguments)
    with pytest.raises(InputError, match="tail must be one of"):
        windows(5, 2, 1, tail="mirror")
    values = np.zeros((2, 3))
    with pytest.raises(InputError, match="starts must lie from 0 to 3"):
        overlap_mean(values, [0, 4], 4)
    with pytest.raises(InputError, match="same length"):
        overlap_mean(values, [0], 4)
    with pytest.raises(InputError, match="mask must be boolean of shape"):
        overlap_mean(values, [0, 1], 4, np.ones((2, 2), bool))
    values[0, 1] = np.nan
    with pytest.raises(InputError, match="finite where they are valid"):
        overlap_mean(values, [0, 1], 4)
