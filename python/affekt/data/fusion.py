"""One label trace out of those of several annotators, and how far each lags behind."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from affekt import _checks
from affekt.data.sources import advanced
from affekt.errors import InputError
from affekt.metrics import ccc, pcc

__all__ = ["FusedTrace", "advance_traces", "fuse_traces", "reaction_delays"]


class FusedTrace(NamedTuple):
    """The trace of several annotators together.

    Attributes
    ----------
    values : ``(time,)`` float64, NaN where nobody labelled.
    weights : ``(annotators,)``, sum 1: each one's share.
    offsets : ``(annotators,)``: what was added to each one's values.
    """

    values: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray


def fuse_traces(traces: Any, how: str = "mean", *, median: int | None = None) -> FusedTrace:
    """The weighted mean of annotators' traces, step by step over those who labelled it.

    Parameters
    ----------
    traces : ``(annotators, time)``, NaN where one did not label.
    how : ``"mean"``, all alike. ``"ewe"``: evaluator weighted estimator, weights r_k / sum r_k with r_k the
        Pearson correlation of annotator k with the mean of the others, at least 0. ``"ccc"``: CCC centring,
        each trace is moved so that its mean becomes sum a_k m_k / sum a_k, m_k its own and a_k its mean CCC
        with each of the others, at least 0; then all alike. Correlations are over steps that both labelled.
    median : first each trace is replaced by its moving median over so many steps, odd; at the ends over those
        there are. With ``"mean"`` that is how Aff-Wild2 was labelled.

    Raises
    ------
    InputError : fewer than two annotators for ``"ewe"`` and ``"ccc"``, no agreement among them, one without
        labels, an unknown `how`, a `median` that is even.

    Source (EWE): M. Grimm, K. Kroschel, "Evaluation of natural emotions using self assessment manikins", ASRU
    (2005).

    >>> import numpy as np
    >>> fuse_traces([[0.0, 1.0, 2.0], [0.0, np.nan, 1.0]]).values
    array([0. , 1. , 1.5])
    """
    y = _traces(traces)
    _checks.choice(how, ("mean", "ewe", "ccc"), "how")
    if median is not None:
        width = _checks.integer(median, "median", low=1)
        if width % 2 == 0:
            raise InputError(f"median must be odd, got {width}")
        y = _moving_median(y, width)
    count = len(y)
    weights, offsets = np.full(count, 1 / count), np.zeros(count)
    if how != "mean":
        if count < 2:
            raise InputError(f"traces must be of at least 2 annotators for {how}, got {count}")
        agreement = np.array([_agreement(y, k, how) for k in range(count)])
        if not agreement.sum() > 0:
            raise InputError(f"traces must agree for {how}: no annotator goes along with the others")
        agreement /= agreement.sum()
        if how == "ewe":
            weights = agreement
        else:
            means = np.nanmean(y, axis=1)
            offsets = agreement @ means - means
    known = ~np.isnan(y)
    share = np.where(known, weights[:, None], 0.0)
    total = share.sum(0)
    summed = (np.where(known, y + offsets[:, None], 0.0) * share).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return FusedTrace(np.where(total > 0, summed / total, np.nan), weights, offsets)


def reaction_delays(traces: Any, reference: Any, rate: float, *, most: float = 4.0) -> np.ndarray:
    """Seconds by which each annotator lags behind a reference: the lag, in whole steps from 0 to `most`
    seconds, at which the trace correlates best with it.

    Parameters
    ----------
    traces : ``(annotators, time)``, NaN where one did not label.
    reference : ``(time,)`` what they follow, say the mean of the traces or a feature; NaN where unknown.
    rate : steps per second.
    most : longest lag; less than half of the time.

    Returns
    -------
    ``(annotators,)`` float64.

    Raises
    ------
    InputError : shapes or `most` do not fit, or a trace correlates with the reference at no lag.
    """
    y = _traces(traces)
    rate, most = _checks.number(rate, "rate", low=0), _checks.number(most, "most", low=0)
    x = _checks.array(reference, "reference", ndim=1, dtype=np.float64, empty=False)
    time = y.shape[1]
    if len(x) != time:
        raise InputError(f"reference must have the {time} steps of the traces, got {len(x)}")
    longest = round(most * rate)
    if not rate > 0 or 2 * longest >= time:
        raise InputError(
            f"rate must be above 0 and most less than half of the {time} steps, got {rate:g} Hz and "
            f"{most:g} s"
        )
    out = np.empty(len(y))
    for k, trace in enumerate(y):
        found = [_over_both(pcc, trace[lag:], x[: time - lag]) for lag in range(longest + 1)]
        best = int(np.argmax(found))
        if not found[best] > 0:
            raise InputError(f"traces: annotator {k} goes along with the reference at no lag")
        out[k] = best / rate
    return out


def advance_traces(traces: Any, delays: Any, rate: float) -> np.ndarray:
    """Traces moved earlier by a delay each, in whole steps, the last value repeated at the end.

    Parameters
    ----------
    traces : ``(annotators, time)``. delays : seconds, at least 0; one, or one per annotator. rate : steps per
        second.
    """
    y, rate = _traces(traces), _checks.number(rate, "rate", low=0)
    late = _checks.finite(np.atleast_1d(np.asarray(delays, dtype=np.float64)), "delays")
    if late.shape not in ((1,), (len(y),)) or (late < 0).any():
        raise InputError(f"delays must be one or {len(y)} numbers, none below 0, got {delays!r}")
    steps = np.broadcast_to(np.round(late * rate).astype(np.int64), len(y))
    return np.stack([advanced(trace, int(n)) for trace, n in zip(y, steps, strict=True)])


def _traces(traces: Any) -> np.ndarray:
    y = _checks.array(traces, "traces", ndim=2, dtype=np.float64, empty=False)
    if np.isinf(y).any():
        raise InputError("traces must be finite, or NaN where there is no label; got Inf")
    silent = np.flatnonzero(np.isnan(y).all(axis=1))
    if len(silent):
        raise InputError(f"traces: annotator {int(silent[0])} labelled nothing")
    return y


def _over_both(measure: Any, a: np.ndarray, b: np.ndarray) -> float:
    """A measure over the steps that both have, at least two; 0 where it does not exist."""
    both = ~(np.isnan(a) | np.isnan(b))
    return float(measure(a[both], b[both])) if both.sum() > 1 else 0.0


def _agreement(y: np.ndarray, k: int, how: str) -> float:
    """How well annotator k goes along with the others, at least 0."""
    others = np.delete(y, k, axis=0)
    if how == "ccc":
        return max(0.0, float(np.mean([_over_both(ccc, y[k], other) for other in others])))
    known = ~np.isnan(others)
    with np.errstate(invalid="ignore"):
        mean = np.where(known, others, 0.0).sum(0) / known.sum(0)
    return max(0.0, _over_both(pcc, y[k], mean))


def _moving_median(y: np.ndarray, width: int) -> np.ndarray:
    """Median over `width` steps around each; what is NaN stays so and is left out of its neighbours'."""
    padded = np.pad(y, ((0, 0), (width // 2, width // 2)), constant_values=np.nan)
    views = np.lib.stride_tricks.sliding_window_view(padded, width, axis=1)
    out = np.full_like(y, np.nan)
    known = ~np.isnan(y)
    out[known] = np.nanmedian(views[known], axis=-1)
    return out
