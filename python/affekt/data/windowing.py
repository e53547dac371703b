"""Overlapping windows over a sequence, and the way back.

Window lengths are in steps (rows). The tail rule and the mean over overlaps follow the continuous emotion
recognition literature: if the regular windows miss the end, one more window is aligned to the last step; a
sequence shorter than a window is padded; on the way back overlapped steps take the mean and padded steps are
never added.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from affekt import _checks
from affekt.errors import InputError

__all__ = ["Windows", "cut_windows", "overlap_mean", "windows"]


class Windows(NamedTuple):
    """Where windows lie in a sequence.

    Attributes
    ----------
    starts : int64 ``(windows,)``, first step of each window, increasing.
    mask : bool ``(windows, size)``, True where the window covers a step of the sequence, False on padding.
    """

    starts: np.ndarray
    mask: np.ndarray


def windows(n: int, size: int, hop: int, *, tail: str = "align") -> Windows:
    """Start and validity of the windows over `n` steps.

    Parameters
    ----------
    n : steps in the sequence, at least 1.
    size, hop : window length and distance between starts, in steps; ``hop > size`` leaves gaps.
    tail : what happens where the regular windows ``0, hop, 2 hop, ...`` that fit do not reach the last step.
        ``"align"`` adds one window that ends at the last step; ``"pad"`` adds a window at the next
        regular start and pads it (with ``hop > size`` the end may still lie in a gap); ``"drop"`` leaves the
        tail out. A sequence shorter than `size` gives one padded window, or none with ``"drop"``.

    Returns
    -------
    Windows : ``(starts, mask)``.

    Examples
    --------
    >>> starts, mask = windows(10, 4, 3)
    >>> starts.tolist()
    [0, 3, 6]
    >>> windows(11, 4, 3).starts.tolist()
    [0, 3, 6, 7]
    >>> windows(11, 4, 3, tail="pad").starts.tolist()
    [0, 3, 6, 9]
    """
    n = _checks.integer(n, "n", low=1)
    size = _checks.integer(size, "size", low=1)
    hop = _checks.integer(hop, "hop", low=1)
    _checks.choice(tail, ("align", "pad", "drop"), "tail")
    starts = np.arange(0, max(n - size, -1) + 1, hop, dtype=np.int64)
    reached = int(starts[-1]) + size if len(starts) else 0
    if reached < n and tail == "align":
        starts = np.append(starts, np.int64(max(n - size, 0)))
    elif reached < n and tail == "pad":
        # One more regular start always suffices: were there room for another, this one would be a full
        # window.
        following = int(starts[-1]) + hop if len(starts) else 0
        if following < n:
            starts = np.append(starts, np.int64(following))
    return Windows(starts, starts[:, None] + np.arange(size) < n)


def cut_windows(x: np.ndarray, starts: np.ndarray, size: int, *, fill: float = 0.0) -> np.ndarray:
    """Copies of the windows of a sequence.

    Parameters
    ----------
    x : ``(time, ...)``.
    starts : first step of each window, as `windows` gives it.
    size : window length in steps.
    fill : value of steps beyond the end of `x`.

    Returns
    -------
    array ``(windows, size, ...)`` of the dtype of `x`.
    """
    x = np.asarray(x)
    if x.ndim < 1:
        raise InputError("x must have a time dimension; got a scalar")
    size = _checks.integer(size, "size", low=1)
    starts = _starts(starts, len(x))
    out = np.full((len(starts), size, *x.shape[1:]), fill, dtype=x.dtype)
    for window, start in zip(out, starts, strict=True):
        part = x[start : start + size]
        window[: len(part)] = part
    return out


def overlap_mean(
    windows: np.ndarray,
    starts: np.ndarray,
    n: int,
    mask: np.ndarray | None = None,
    *,
    fill: float | None = None,
    return_counts: bool = False,
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """One value per step from overlapping windows: the mean of all windows that cover it.

    ``out[t] = sum_w windows[w, t - starts[w]] / count[t]`` over the windows w whose step ``t - starts[w]`` is
    valid; sums are in float64.

    Parameters
    ----------
    windows : ``(windows, size, ...)`` values, for example predictions.
    starts : ``(windows,)`` first step of each.
    n : steps of the sequence.
    mask : bool ``(windows, size)``; False steps (padding, missing) are not added. Steps beyond `n` never are.
    fill : value of steps that no window covers; without it such a step is an error.
    return_counts : also return how many windows cover each step.

    Returns
    -------
    array ``(n, ...)`` of the floating dtype of `windows` (float64 for integers), and int64 counts ``(n,)`` if
    asked.

    Raises
    ------
    InputError : shapes do not match, a valid value is NaN or Inf, or a step is uncovered and `fill` is None.
    """
    values = _checks.array(windows, "windows")
    if values.ndim < 2:
        raise InputError(f"windows must be (windows, size, ...); got shape {values.shape}")
    n = _checks.integer(n, "n", low=1)
    starts = _starts(starts, n)
    _checks.same_length(values, starts, ("windows", "starts"))
    if mask is None:
        valid = np.ones(values.shape[:2], dtype=bool)
    else:
        valid = np.asarray(mask)
        if valid.dtype != bool or valid.shape != values.shape[:2]:
            raise InputError(
                f"mask must be boolean of shape {values.shape[:2]}; got {valid.dtype} of shape {valid.shape}"
            )
    total = np.zeros((n, *values.shape[2:]), dtype=np.float64)
    counts = np.zeros(n, dtype=np.int64)
    for value, ok, start in zip(values, valid, starts, strict=True):
        length = min(len(value), n - start)
        steps = start + np.flatnonzero(ok[:length])
        total[steps] += value[steps - start]
        counts[steps] += 1
    if not np.isfinite(total).all():
        raise InputError("windows must be finite where they are valid; got NaN or Inf")
    uncovered = counts == 0
    if uncovered.any() and fill is None:
        raise InputError(
            f"every step must lie in a window; {int(uncovered.sum())} of {n} do not, the first is step "
            f"{int(np.flatnonzero(uncovered)[0])} (pass fill= to give them a value)"
        )
    divisor = np.maximum(counts, 1).reshape(-1, *[1] * (total.ndim - 1))
    out = (total / divisor).astype(values.dtype if values.dtype.kind == "f" else np.float64)
    if fill is not None:
        out[uncovered] = fill
    return (out, counts) if return_counts else out


def _starts(starts: np.ndarray, n: int) -> np.ndarray:
    out = np.asarray(starts)
    if out.ndim != 1 or (out.dtype.kind not in "iu" and out.size):
        raise InputError(f"starts must be a list of integers; got {_checks.show(out)}")
    out = out.astype(np.int64)
    if out.size and (out.min() < 0 or out.max() >= n):
        raise InputError(f"starts must lie from 0 to {n - 1}; got {int(out.min())} to {int(out.max())}")
    return out
