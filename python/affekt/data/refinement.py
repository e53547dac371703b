"""Labels per step out of a trace and a tag of the whole trial."""

from __future__ import annotations

from typing import Any

import numpy as np

from affekt import _checks
from affekt.errors import InputError

__all__ = ["refine_labels", "refinement_grid"]

_CLOSE = 1e-9  # decimals such as 0.2 - 0.15 miss a threshold of 0.05 by rounding


def refine_labels(trace: Any, tag: int, *, shift: float, threshold: float) -> np.ndarray:
    """Classes 0 (unpleasant), 1 (neutral), 2 (pleasant) per step: the trace, moved towards the tag of its
    trial, against two thresholds.

    y = trace - shift for tag 0, trace for tag 1, trace + shift for tag 2; the class is 0 where
    y < -threshold, 1 where -threshold <= y < threshold and 2 elsewhere. Within 1e-9 of a threshold y is
    on it.

    Parameters
    ----------
    trace : ``(..., time)``, NaN where nobody labelled.
    tag : 0, 1 or 2.
    shift, threshold : at least 0, in units of the trace.

    Returns
    -------
    ``(..., time)`` int64, -1 where nobody labelled.

    Source: Zhang Su, doctoral thesis on continuous emotion recognition, Nanyang Technological University
    (2023), equations 4.1 and 4.2.

    >>> refine_labels([-0.2, -0.05, 0, 0.04, 0.05, 0.2], 2, shift=0.15, threshold=0.05)
    array([1, 2, 2, 2, 2, 2])
    """
    y = _checks.array(trace, "trace", dtype=np.float64)
    if np.isinf(y).any():
        raise InputError("trace must be finite, or NaN where there is no label; got Inf")
    tag = _checks.integer(tag, "tag", low=0)
    if tag > 2:
        raise InputError(f"tag must be 0, 1 or 2, got {tag}")
    shift, threshold = _checks.number(shift, "shift", low=0), _checks.number(threshold, "threshold", low=0)
    y = y + (tag - 1) * shift
    labels = np.ones(y.shape, np.int64)
    labels[y < -threshold - _CLOSE] = 0
    labels[y >= threshold - _CLOSE] = 2
    labels[np.isnan(y)] = -1
    return labels


def refinement_grid(
    shifts: Any = (0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40), *, step: float = 0.01, share: float = 0.9
) -> dict[float, list[float]]:
    """Thresholds to try with each shift: step, 2 step, ... up to share * shift. A shift is judged by the mean
    over all its thresholds. The defaults are the published grid, 156 pairs.

    >>> {shift: len(thresholds) for shift, thresholds in refinement_grid([0.1, 0.15]).items()}
    {0.1: 9, 0.15: 13}
    """
    step, share = _checks.number(step, "step", low=0), _checks.number(share, "share", low=0)
    given = _checks.finite(_checks.array(shifts, "shifts", ndim=1, dtype=np.float64, empty=False), "shifts")
    if not step > 0 or (given <= 0).any():
        raise InputError(f"step and shifts must be above 0, got {step} and {given.tolist()}")
    counts = np.floor(share * given / step + _CLOSE).astype(int)
    return {
        float(s): [round((k + 1) * step, 12) for k in range(n)] for s, n in zip(given, counts, strict=True)
    }
