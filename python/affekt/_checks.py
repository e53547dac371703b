"""Input checkers shared by the whole package, so that every error reads the same way.

Each checker returns the value in the form that the caller needs, or raises `InputError` with the argument's
name, what was expected and what came.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from affekt.errors import InputError

__all__ = ["array", "choice", "closest", "finite", "integer", "nearest", "number", "path", "same_length"]


def show(value: Any, limit: int = 80) -> str:
    """A short printable form of `value` for an error message."""
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def some(items: Sequence[Any], limit: int = 5) -> str:
    """The first few of `items`, with a count of those left out."""
    head = ", ".join(str(item) for item in items[:limit])
    return head if len(items) <= limit else f"{head} and {len(items) - limit} more"


def closest(word: Any, known: Iterable[str]) -> str | None:
    """The known word that `word` is most like, or None where it is like none of them."""
    return next(iter(difflib.get_close_matches(str(word), sorted(known), n=1, cutoff=0.5)), None)


def nearest(word: Any, known: Iterable[str], where: str = "") -> str:
    """`did you mean 'x'?` for the closest known word, or the list of them.

    `where` is what they belong to: the closest is then spelt `where.x`.
    """
    known = sorted(known)
    meant = closest(word, known)
    if meant is None:
        return f"known: {', '.join(known) or 'none'}"
    full = f"{where}.{meant}" if where else meant
    return f"did you mean {full!r}?"


def choice(value: Any, options: Iterable[Any], name: str) -> Any:
    """`value` if it is one of `options`."""
    options = list(options)
    plain = isinstance(value, (str, numbers.Real)) or value is None
    # True must not pass for 1.
    if not plain or not any(
        value == option and isinstance(value, bool) == isinstance(option, bool) for option in options
    ):
        raise InputError(f"{name} must be one of {', '.join(map(repr, options))}; got {show(value)}")
    return value


def integer(value: Any, name: str, *, low: int | None = None, high: int | None = None) -> int:
    """`value` as an int within [low, high]; a bool is refused."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_))
    if not whole or (low is not None and value < low) or (high is not None and value > high):
        raise InputError(f"{name} must be an integer{_span(low, high)}; got {show(value)}")
    return int(value)


def number(
    value: Any, name: str, *, low: float | None = None, high: float | None = None, positive: bool = False
) -> float:
    """`value` as a finite float within [low, high], above zero if `positive`."""
    real = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    ok = real and math.isfinite(value)
    ok = ok and (low is None or value >= low) and (high is None or value <= high)
    if not ok or (positive and value <= 0):
        wanted = "a positive number" if positive else "a finite number"
        raise InputError(f"{name} must be {wanted}{_span(low, high)}; got {show(value)}")
    return float(value)


def array(
    value: Any, name: str, *, ndim: int | tuple[int, ...] | None = None, dtype: Any = None, empty: bool = True
) -> np.ndarray:
    """`value` as a numeric or boolean array with `ndim` dimensions; without samples only if `empty`."""
    try:
        out = np.asarray(value, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array of numbers; got {show(value)}") from error
    if out.dtype.kind not in "biuf":
        raise InputError(f"{name} must be an array of numbers; got dtype {out.dtype}")
    if ndim is not None:
        allowed = (ndim,) if isinstance(ndim, int) else ndim
        if out.ndim not in allowed:
            wanted = " or ".join(str(n) for n in allowed)
            raise InputError(f"{name} must have {wanted} dimension(s); got shape {out.shape}")
    if not empty and out.size == 0:
        raise InputError(f"{name} must not be empty; got shape {out.shape}")
    return out


def finite(value: np.ndarray, name: str) -> np.ndarray:
    """`value` if it holds neither NaN nor Inf."""
    bad = ~np.isfinite(value)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        index = where[0] if len(where) == 1 else where
        raise InputError(
            f"{name} must be finite; got {int(bad.sum())} NaN or Inf value(s), the first at index {index}"
        )
    return value


def same_length(first: Any, second: Any, names: tuple[str, str]) -> None:
    """Both have the same length."""
    if len(first) != len(second):
        raise InputError(
            f"{names[0]} and {names[1]} must have the same length; got {len(first)} and {len(second)}"
        )


def path(value: Any, name: str) -> Path:
    """`value` as a `Path` with the home directory expanded."""
    if not isinstance(value, (str, os.PathLike)) or not str(value):
        raise InputError(f"{name} must be a path; got {show(value)}")
    return Path(value).expanduser()


def _span(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" not below {low}"
    return f" not above {high}" if high is not None else ""
