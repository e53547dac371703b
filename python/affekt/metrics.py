"""Measures of agreement between predictions and labels, each with its definition.

Conventions of every function here:

- Predictions come first: ``metric(pred, target)``. Results are fractions, never percent.
- `mask` is boolean, True where a step counts. NaN or Inf where the mask is True is an error; masked values
  may be anything. Nothing is dropped silently.
- Continuous metrics take ``(time,)`` and give a float, or ``(time, dims)`` and give an array ``(dims,)``, in
  float64.
- `reduction` says how recordings are put together. ``"concatenated"``: all steps form one long vector and the
  metric is computed once. ``"per_session"``: computed for each value of `sessions`, then averaged.
  ``"windowed"``: computed in windows of `window` steps that start every `hop` steps inside each session, the
  last one aligned to its end, then averaged. The three give very different numbers on the same data, so a
  report must name the one it used (`describe` gives the words).
- A correlation of a constant does not exist. Where prediction or target is constant, `undefined` decides:
  ``"zero"`` (default) gives 0, no evidence of agreement; ``"raise"`` an `InputError`; ``"nan"`` a NaN that
  the caller asked for. CCC is defined, and 0, if only one of the two is constant or both are at different
  values; it is undefined only for two equal constants. In the averaging reductions, sessions and windows
  whose *target* is constant are left out of the mean, because no prediction could score there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.errors import InputError

__all__ = [
    "Interval",
    "Significance",
    "bootstrap_interval",
    "brier",
    "by_group",
    "ccc",
    "confusion_matrix",
    "describe",
    "ece",
    "interval_coverage",
    "macro_f1",
    "mean_interval",
    "nll",
    "paired_t",
    "pcc",
    "recall",
    "reliability",
    "rmse",
    "shapiro_wilk",
    "stars",
    "uar",
    "war",
]

_BIAS = ("population", "sample", "mixed")
_REDUCTION = ("concatenated", "per_session", "windowed")
_BINS = 15
LEAST_PROBABILITY = 1e-12
"""A probability below this counts as this in `nll`; one wrong certainty would otherwise make it infinite."""


def ccc(
    pred: Any,
    target: Any,
    *,
    mask: Any = None,
    bias: str = "population",
    reduction: str = "concatenated",
    sessions: Sequence[Hashable] | np.ndarray | None = None,
    window: int | None = None,
    hop: int | None = None,
    undefined: str = "zero",
) -> Any:
    """Concordance correlation coefficient (Lin 1989).

    ``ccc = 2 cov(p, t) / (var(p) + var(t) + (mean(p) - mean(t))^2)``, from -1 to 1; 1 only where p equals t.

    Parameters
    ----------
    pred, target : ``(time,)`` or ``(time, dims)``.
    mask : bool ``(time,)`` or of the shape of `pred`.
    bias : moments. ``"population"``: all 1/N, Lin's coefficient. ``"sample"``: all 1/(N-1), the mean gap as
        it is; differs wherever the means do. ``"mixed"``: covariance 1/N, variances 1/(N-1), as some public
        challenge code has it; it reaches only (N-1)/N at identity and is here for comparison with such
        figures alone.
    reduction, sessions, window, hop : see the module; `sessions` has one value per step.
    undefined : ``"zero"``, ``"nan"`` or ``"raise"``, see the module.

    Returns
    -------
    float, or float64 ``(dims,)``.

    Examples
    --------
    >>> round(ccc([0, 0.1, 0.2, 0.3, 0.4], [0, 0.2, 0.1, 0.4, 0.3]), 10)
    0.8
    """
    _checks.choice(bias, _BIAS, "bias")

    def one(p: np.ndarray, t: np.ndarray) -> float:
        n = len(p)
        if n < 2 or (_constant(p) and _constant(t)):
            # One step has no spread; two constants at different values do disagree.
            return np.nan if n < 2 or p[0] == t[0] else 0.0
        if _constant(p) or _constant(t):
            return 0.0
        # Scaled so that neither tiny nor huge values leave the range of float64 when squared.
        scale = max(np.abs(p).max(), np.abs(t).max())
        p, t = p / scale, t / scale
        a, b = p - p.mean(), t - t.mean()
        cov_n = n - 1 if bias == "sample" else n
        var_n = n if bias == "population" else n - 1
        gap = p.mean() - t.mean()
        return float(2 * (a @ b) / cov_n / ((a @ a) / var_n + (b @ b) / var_n + gap * gap))

    return _continuous(one, pred, target, mask, reduction, sessions, window, hop, undefined)


def pcc(
    pred: Any,
    target: Any,
    *,
    mask: Any = None,
    reduction: str = "concatenated",
    sessions: Sequence[Hashable] | np.ndarray | None = None,
    window: int | None = None,
    hop: int | None = None,
    undefined: str = "zero",
) -> Any:
    """Pearson correlation coefficient, ``cov(p, t) / (sd(p) sd(t))``; blind to scale and offset.

    Parameters and result as for `ccc`. Undefined if either is constant.
    """

    def one(p: np.ndarray, t: np.ndarray) -> float:
        if len(p) < 2 or _constant(p) or _constant(t):
            return np.nan
        a, b = (_unit(x) for x in (p, t))
        return float(np.clip(a @ b, -1.0, 1.0))

    return _continuous(one, pred, target, mask, reduction, sessions, window, hop, undefined)


def rmse(
    pred: Any,
    target: Any,
    *,
    mask: Any = None,
    reduction: str = "concatenated",
    sessions: Sequence[Hashable] | np.ndarray | None = None,
    window: int | None = None,
    hop: int | None = None,
) -> Any:
    """Root mean square error, ``sqrt(mean((p - t)^2))``, in the unit of the labels; always defined.

    Parameters and result as for `ccc`. With an averaging reduction the root is taken before the mean, and
    constant targets count.
    """

    def one(p: np.ndarray, t: np.ndarray) -> float:
        return float(np.sqrt(np.mean((p - t) ** 2)))

    return _continuous(
        one, pred, target, mask, reduction, sessions, window, hop, "raise", skip_constant=False
    )


def uar(pred: Any, target: Any, *, mask: Any = None, labels: Sequence[Hashable] | None = None) -> float:
    """Unweighted average recall: the mean over classes of the share of their items that are found.

    The mean is over the classes that occur in `target`; a class that occurs only in `pred` costs the others
    recall but has none itself. Equals scikit-learn's balanced accuracy.

    Parameters
    ----------
    pred, target : class of each item, ``(items,)``, numbers or text.
    mask : bool ``(items,)``.
    labels : classes allowed; a value outside is an error. None allows any.
    """
    return float(np.mean(list(recall(pred, target, mask=mask, labels=labels).values())))


def recall(
    pred: Any, target: Any, *, mask: Any = None, labels: Sequence[Hashable] | None = None
) -> dict[Any, float]:
    """Recall of each class that occurs in `target`, in sorted order. Parameters as for `uar`."""
    p, t = _classes(pred, target, mask, labels)
    score = require("sklearn.metrics", purpose="classification metrics").recall_score
    present = sorted(set(t.tolist()), key=_order)
    values = score(t, p, labels=present, average=None, zero_division=0)
    return {name: float(value) for name, value in zip(present, values, strict=True)}


def war(pred: Any, target: Any, *, mask: Any = None, labels: Sequence[Hashable] | None = None) -> float:
    """Weighted average recall: recall weighted by class size, which is accuracy, ``mean(p == t)``.

    Parameters as for `uar`.
    """
    p, t = _classes(pred, target, mask, labels)
    return float(require("sklearn.metrics", purpose="classification metrics").accuracy_score(t, p))


def macro_f1(pred: Any, target: Any, *, mask: Any = None, labels: Sequence[Hashable] | None = None) -> float:
    """Unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    The mean is over `labels` if given, otherwise over the classes that occur in `target` or `pred`. A class
    without a hit has F1 = 0, one that occurs in neither (possible with `labels`) too. Parameters as for
    `uar`.
    """
    p, t = _classes(pred, target, mask, labels)
    score = require("sklearn.metrics", purpose="classification metrics").f1_score
    names = list(labels) if labels is not None else sorted({*p.tolist(), *t.tolist()}, key=_order)
    return float(score(t, p, labels=names, average="macro", zero_division=0))


def confusion_matrix(
    pred: Any,
    target: Any,
    *,
    mask: Any = None,
    labels: Sequence[Hashable] | None = None,
    normalize: bool = False,
) -> np.ndarray:
    """Counts ``(classes, classes)``: row = class in `target`, column = class in `pred`.

    Parameters
    ----------
    labels : order of rows and columns; None is the sorted classes that occur in either.
    normalize : divide each row by its sum, so that the diagonal is recall; rows without items stay 0.
    pred, target, mask : as for `uar`.

    Returns
    -------
    int64 array, or float64 if `normalize`.
    """
    p, t = _classes(pred, target, mask, labels)
    compute = require("sklearn.metrics", purpose="classification metrics").confusion_matrix
    names = list(labels) if labels is not None else sorted({*p.tolist(), *t.tolist()}, key=_order)
    counts = compute(t, p, labels=names).astype(np.int64)
    if not normalize:
        return counts
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def nll(prob: Any, target: Any, *, mask: Any = None) -> float:
    """Negative log likelihood of the true classes, ``-mean(log p_y)``, in nats; also called log loss.

    0 where every true class has probability 1, ``log(classes)`` for a model that knows nothing. A probability
    below 1e-12 counts as 1e-12.

    Parameters
    ----------
    prob : ``(items, classes)``, every row non-negative with sum 1 (to 1e-3).
    target : ``(items,)`` class numbers, 0 to classes - 1.
    mask : bool ``(items,)``.
    """
    p, t = _probabilities(prob, target, mask)
    return float(-_log_true(p, t).mean())


def brier(prob: Any, target: Any, *, mask: Any = None) -> float:
    """Brier score, ``mean(sum_k (p_k - [y = k])^2)``, from 0 (certain and right) to 2 (certain and wrong).

    The original score over all classes (Brier, "Verification of forecasts expressed in terms of probability",
    Monthly Weather Review 78, 1950); with two classes it is twice the one that looks at a single class.
    Parameters as for `nll`.
    """
    p, t = _probabilities(prob, target, mask)
    return float(_squared_misses(p, t).mean())


def ece(prob: Any, target: Any, *, bins: int = _BINS, scheme: str = "width", mask: Any = None) -> float:
    """Expected calibration error, ``sum_b n_b / n |share of hits in bin b - mean confidence in bin b|``.

    Items are binned by the probability of the likeliest class, their confidence (Guo et al., "On calibration
    of modern neural networks", arXiv:1706.04599, who take 15 bins of equal width). 0 where confidence is the
    share of hits; a finite sample of a perfectly calibrated model gives more, the fewer items the more.

    Parameters
    ----------
    prob, target, mask : as for `nll`.
    bins : at least 1.
    scheme : ``"width"``, bins of equal width on [0, 1], open below and closed above; or ``"mass"``, the
        sorted items in parts of equal size (to one item).
    """
    _, confidence, hits, counts = reliability(prob, target, bins=bins, scheme=scheme, mask=mask)
    full = counts > 0
    return float((counts[full] * np.abs(hits[full] - confidence[full])).sum() / counts.sum())


def reliability(
    prob: Any, target: Any, *, bins: int = _BINS, scheme: str = "width", mask: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The bins of a reliability diagram; parameters as for `ece`.

    Returns
    -------
    edges : ``(bins + 1,)`` confidence at the ends of the bins; for ``"mass"`` the lowest of each bin and the
        highest of all.
    confidence, hits : ``(bins,)`` mean confidence and share of right classes, NaN in an empty bin.
    counts : ``(bins,)`` items.
    """
    bins = _checks.integer(bins, "bins", low=1)
    _checks.choice(scheme, ("width", "mass"), "scheme")
    p, t = _probabilities(prob, target, mask)
    best, right = p.max(1), p.argmax(1) == t
    if scheme == "width":
        edges = np.linspace(0.0, 1.0, bins + 1)
        place = _equal_width(best, bins)
    else:
        order = np.argsort(best, kind="stable")
        parts = np.array_split(order, bins)
        place = np.empty(len(best), dtype=np.int64)
        for number, part in enumerate(parts):
            place[part] = number
        lowest = [best[part[0]] if len(part) else best[order[-1]] for part in parts]
        edges = np.array([*lowest, best[order[-1]]])
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence, hits = (np.bincount(place, w, minlength=bins) / counts for w in (best, right))
    return edges, confidence, hits, counts


def interval_coverage(pred: Any, target: Any, sd: Any, *, width: float = 1.0, mask: Any = None) -> float:
    """Share of targets inside ``pred -+ width sd``, the ends included.

    Where errors are normal with standard deviation `sd` it is 0.683 for width 1 and 0.95 for width 1.96.

    Parameters
    ----------
    pred, target : ``(items,)``.
    sd : predictive standard deviation, positive: a number or ``(items,)``.
    width : in standard deviations, positive.
    mask : bool ``(items,)``.
    """
    p = _checks.array(pred, "pred", ndim=1, dtype=np.float64, empty=False)
    t = _checks.array(target, "target", ndim=1, dtype=np.float64, empty=False)
    _checks.same_length(p, t, ("pred", "target"))
    s = np.asarray(sd, dtype=np.float64)
    if s.shape not in ((), p.shape):
        raise InputError(f"sd must be a number or {p.shape}; got {s.shape}")
    valid = _mask(mask, p.shape)
    if not valid.any():
        raise InputError("mask must leave at least one valid item")
    p, t, s = p[valid], t[valid], np.broadcast_to(s, valid.shape)[valid]
    for name, values in (("pred", p), ("target", t), ("sd", s)):
        _checks.finite(values, name)
    if not (s > 0).all():
        raise InputError(f"sd must be positive; got {s.min():g}")
    width = _checks.number(width, "width")
    if not width > 0:
        raise InputError(f"width must be positive; got {width}")
    return float(np.mean(np.abs(t - p) <= width * s))


def by_group(
    metric: Callable[..., Any],
    pred: Any,
    target: Any,
    groups: Sequence[Hashable] | np.ndarray,
    *,
    mask: Any = None,
    **options: Any,
) -> dict[Any, Any]:
    """`metric` of each group's items alone, for example per speaker, in sorted order.

    Parameters
    ----------
    metric : function of this module.
    groups : one value per item.
    mask : as for the metric; groups without a valid item are left out.
    options : passed on to the metric.
    """
    p, t, g = np.asarray(pred), np.asarray(target), _one_per(groups, len(np.asarray(target)), "groups")
    m = None if mask is None else np.asarray(mask)
    out = {}
    for name in sorted(set(g.tolist()), key=_order):
        here = np.array([value == name for value in g], dtype=bool)
        if m is not None and not m[here].any():
            continue
        out[name] = metric(p[here], t[here], mask=None if m is None else m[here], **options)
    return out


def describe(metric: str, *, bias: str = "population", reduction: str = "concatenated", **where: Any) -> str:
    """The definition of a metric as used, in words for a report.

    Parameters
    ----------
    metric : ``"ccc"``, ``"pcc"``, ``"rmse"``, ``"uar"``, ``"war"``, ``"macro_f1"``, ``"nll"``, ``"brier"``,
        ``"ece"`` or ``"interval_coverage"``.
    bias, reduction : as passed to the metric; `where` takes ``window`` and ``hop``, and for
        ``"interval_coverage"`` ``width``.
    """
    _checks.choice(bias, _BIAS, "bias")
    _checks.choice(reduction, _REDUCTION, "reduction")
    moments = {
        "population": "1/N moments",
        "sample": "1/(N-1) moments",
        "mixed": "covariance 1/N, variances 1/(N-1)",
    }
    words = {
        "ccc": f"concordance correlation coefficient (Lin), {moments[bias]}",
        "pcc": "Pearson correlation coefficient",
        "rmse": "root mean square error",
        "uar": "unweighted average recall (mean recall over the classes present)",
        "war": "weighted average recall (accuracy)",
        "macro_f1": "macro F1 (unweighted mean over classes)",
        "nll": "negative log likelihood of the true class, nats",
        "brier": "Brier score summed over classes, 0 to 2",
        "ece": f"expected calibration error (Guo et al. 2017), {_BINS} bins of equal width",
        "interval_coverage": f"share of labels within {where.get('width', 1):g} predictive sd of estimates",
    }
    _checks.choice(metric, words, "metric")
    if metric not in ("ccc", "pcc", "rmse"):
        return words[metric]
    how = {
        "concatenated": "all recordings concatenated",
        "per_session": "mean over sessions",
        "windowed": f"mean over windows of {where.get('window')} steps, hop {where.get('hop')}",
    }
    return f"{words[metric]}, {how[reduction]}"


class Interval(NamedTuple):
    """An estimate with its spread.

    Attributes
    ----------
    mean : the estimate.
    low, high : confidence limits.
    sd : standard deviation of the values (ddof 1), or of the resampled estimates; 0 for a single value.
    n : number of values or groups.
    level : coverage, e.g. 0.95.
    """

    mean: float
    low: float
    high: float
    sd: float
    n: int
    level: float


def mean_interval(values: Any, *, level: float = 0.95) -> Interval:
    """Student t interval for the mean of independent values, one per fold, seed or speaker.

    ``mean -+ t(level, n - 1) sd / sqrt(n)`` with the sample sd (ddof 1). One value has no spread: the limits
    are infinite.

    Parameters
    ----------
    values : ``(n,)`` finite.
    level : between 0 and 1.
    """
    x = _checks.finite(_checks.array(values, "values", ndim=1, dtype=np.float64, empty=False), "values")
    level = _level(level)
    n, mean = len(x), float(x.mean())
    if n == 1:
        return Interval(mean, -np.inf, np.inf, 0.0, 1, level)
    sd = 0.0 if _constant(x) else float(x.std(ddof=1))
    t = float(require("scipy.stats", purpose="confidence intervals").t.ppf(0.5 + level / 2, n - 1))
    half = t * sd / np.sqrt(n)
    return Interval(mean, mean - half, mean + half, sd, n, level)


class Significance(NamedTuple):
    """What a test of significance found.

    Attributes
    ----------
    statistic : t or W.
    p : probability of a statistic at least as far out, if there is nothing to be found.
    n : number of values or pairs.
    """

    statistic: float
    p: float
    n: int


_ALTERNATIVES = ("two-sided", "greater", "less")


def paired_t(a: Any, b: Any, *, alternative: str = "two-sided") -> Significance:
    """Student's t-test of paired values, one pair per fold, seed or speaker.

    ``t = mean(d) / (sd(d) / sqrt(n))`` with d = a - b, the sample sd (ddof 1) and n - 1 degrees of freedom.

    Pairs that are all equal show nothing (t 0, p 1); differences that are all the same but not 0 have an
    infinite t.

    Parameters
    ----------
    a, b : ``(n,)`` finite, at least two pairs.
    alternative : ``"two-sided"``: the mean of d is not 0; ``"greater"``: it is above, `a` is larger;
        ``"less"``: it is below.

    Source: Student (W. S. Gosset), "The probable error of a mean", Biometrika 6 (1908).

    >>> round(paired_t([3, 4, 5, 6], [1, 3, 3, 5], alternative="greater").p, 4)
    0.0069
    """
    _checks.choice(alternative, _ALTERNATIVES, "alternative")
    x, y = (
        _checks.finite(_checks.array(given, name, ndim=1, dtype=np.float64, empty=False), name)
        for given, name in ((a, "a"), (b, "b"))
    )
    _checks.same_length(x, y, ("a", "b"))
    d, n = x - y, len(x)
    if n < 2:
        raise InputError(f"a and b must have at least 2 pairs, got {n}")
    mean, sd = float(d.mean()), 0.0 if _constant(d) else float(d.std(ddof=1))
    far = np.copysign(np.inf, mean) if mean else 0.0
    t = mean / (sd / np.sqrt(n)) if sd > 0 else far
    above, below = (
        float(require("scipy.stats", purpose="tests of significance").t.sf(s * t, n - 1)) for s in (1, -1)
    )
    p = {"two-sided": min(1.0, 2 * min(above, below)), "greater": above, "less": below}[alternative]
    return Significance(float(t), 1.0 if sd == 0 and mean == 0 else p, n)


def shapiro_wilk(values: Any) -> Significance:
    """Test of values, such as the differences of a paired t-test, for a normal distribution: W is near 1
    where they are, p small where they are not.

    Parameters
    ----------
    values : ``(n,)`` finite, 3 to 5000 and not all equal.

    Source: S. Shapiro, M. Wilk, "An analysis of variance test for normality", Biometrika 52 (1965). W and p
    are those of ``scipy.stats.shapiro``.
    """
    x = _checks.finite(_checks.array(values, "values", ndim=1, dtype=np.float64, empty=False), "values")
    if not 3 <= len(x) <= 5000 or _constant(x):
        raise InputError(
            f"values must be 3 to 5000, not all equal; got {len(x)}, from {x.min()} to {x.max()}"
        )
    found = require("scipy.stats", purpose="tests of significance").shapiro(x)
    return Significance(float(found.statistic), float(found.pvalue), len(x))


def stars(p: float) -> str:
    """The customary marks of a p: ``"***"`` up to 0.001, ``"**"`` up to 0.01, ``"*"`` up to 0.05, else none.

    >>> [stars(p) for p in (0.0005, 0.01, 0.04, 0.05001)]
    ['***', '**', '*', '']
    """
    p = _checks.number(p, "p", low=0)
    if p > 1:
        raise InputError(f"p must lie in [0, 1], got {p}")
    return "***" if p <= 0.001 else "**" if p <= 0.01 else "*" if p <= 0.05 else ""


def bootstrap_interval(
    metric: Callable[..., float],
    pred: Any,
    target: Any,
    groups: Sequence[Hashable] | np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    **options: Any,
) -> Interval:
    """Percentile bootstrap over groups: whole speakers (or sessions) are drawn with replacement.

    Items of one speaker are not independent, so resampling items would promise too much.

    Parameters
    ----------
    metric : function of this module that gives a float; called on the drawn groups' items together.
    pred, target : as the metric takes them; first axis is items.
    groups : one value per item; at least two different.
    level, resamples, seed : coverage, number of draws, seed.
    options : passed on to the metric, without per-item arrays (drop masked items before).

    Returns
    -------
    Interval : `mean` is the metric on the data as they are, `sd` that of the resampled values.
    """
    level = _level(level)
    resamples = _checks.integer(resamples, "resamples", low=2)
    p, t = np.asarray(pred), np.asarray(target)
    g = _one_per(groups, len(t), "groups")
    _checks.same_length(p, t, ("pred", "target"))
    names = sorted(set(g.tolist()), key=_order)
    if len(names) < 2:
        raise InputError(f"groups must have at least 2 different values; got {len(names)}")
    number = {name: i for i, name in enumerate(names)}
    code = np.array([number[name] for name in g.tolist()])
    draws = _draws(len(names), resamples, _checks.integer(seed, "seed", low=0))
    name = getattr(metric, "__name__", "")
    if not options and name in FROM_SUMS and metric is globals().get(name):
        if name in ("nll", "brier", "ece"):
            sums = probability_sums(*_probabilities(p, t, None), code, len(names))
        elif name in ("uar", "war", "macro_f1"):
            kinds = sorted({*p.tolist(), *t.tolist()}, key=_order)
            index = {kind: i for i, kind in enumerate(kinds)}
            p_code, t_code = (np.array([index[value] for value in x.tolist()]) for x in (p, t))
            sums = group_sums(p_code, t_code, code, len(names), len(kinds))
        else:
            sums = group_sums(p, t, code, len(names), 0, float(np.mean(t)))
        drawn = FROM_SUMS[name](_totals(sums, draws))
    else:
        rows = [np.flatnonzero(code == i) for i in range(len(names))]
        chosen = (np.concatenate([rows[j] for j in picked]) for picked in draws)
        drawn = np.array([metric(p[index], t[index], **options) for index in chosen])
    low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(
        float(metric(p, t, **options)), float(low), float(high), float(drawn.std(ddof=1)), len(names), level
    )


def resampled(
    sums: np.ndarray, figures: Sequence[str], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, tuple[float, float, float]]:
    """``low, high, sd`` of figures over draws of whole groups, as `bootstrap_interval` draws them.

    Parameters
    ----------
    sums : (groups, repetitions, k), as `group_sums` and its like give them for each repetition (seed); a draw
        averages the repetitions that have anything in it.
    figures : names in `FROM_SUMS`.
    """
    totals = _totals(sums, _draws(len(sums), resamples, seed))  # (draws, repetitions, k)
    there = totals.any(axis=-1)
    out = {}
    for name in figures:
        values = np.where(there, FROM_SUMS[name](totals), 0.0)
        drawn = values.sum(1) / np.maximum(there.sum(1), 1)
        low, high = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
        out[name] = float(low), float(high), float(drawn.std(ddof=1))
    return out


def _draws(groups: int, resamples: int, seed: int) -> np.ndarray:
    """Numbers of the groups in every resample, (resamples, groups)."""
    return np.random.default_rng(seed).integers(groups, size=(resamples, groups))


def _totals(sums: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The sums of the groups drawn, added up: (resamples, ...)."""
    counts = np.stack([np.bincount(picked, minlength=len(sums)) for picked in draws]).astype(np.float64)
    return (counts @ sums.reshape(len(sums), -1)).reshape(len(draws), *sums.shape[1:])


def group_sums(
    pred: np.ndarray,
    target: np.ndarray,
    place: np.ndarray,
    groups: int,
    classes: int = 0,
    centre: float = 0.0,
) -> np.ndarray:
    """Sums per group (groups, k) that every figure is a function of, so that a resample only adds them up.

    With `classes` the flat confusion counts of class numbers; else sums of 1, p, y, pp, yy, py about
    `centre`. `place` is the number of each item's group.
    """
    if classes:
        each = np.eye(classes * classes)[np.asarray(target) * classes + np.asarray(pred)]
    else:
        p, y = np.asarray(pred) - centre, np.asarray(target) - centre
        each = np.stack([np.ones_like(p), p, y, p * p, y * y, p * y], axis=1)
    return _added(each, place, groups)


def _counts(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits, items and guesses per class from flat confusion matrices (..., classes^2)."""
    size = round(sums.shape[-1] ** 0.5)
    matrix = sums.reshape(*sums.shape[:-1], size, size)
    return np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1), matrix.sum(-2)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, 0 where whole is not positive."""
    return np.where(whole > 0, part, 0.0) / np.where(whole > 0, whole, 1.0)


def _uar_of(sums: np.ndarray) -> np.ndarray:
    hits, items, _ = _counts(sums)
    return _share(_share(hits, items).sum(-1), (items > 0).sum(-1))


def _war_of(sums: np.ndarray) -> np.ndarray:
    return _share(_counts(sums)[0].sum(-1), sums.sum(-1))


def _macro_f1_of(sums: np.ndarray) -> np.ndarray:
    hits, items, guesses = _counts(sums)
    there = items + guesses
    return _share(_share(2 * hits, there).sum(-1), (there > 0).sum(-1))


def _moments(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Variances, covariance and difference of means from sums of 1, p, y, pp, yy, py."""
    n, p, y, pp, yy, py = np.moveaxis(sums, -1, 0)
    n = np.maximum(n, 1)
    return (
        np.maximum(pp / n - (p / n) ** 2, 0.0),
        np.maximum(yy / n - (y / n) ** 2, 0.0),
        py / n - p * y / n**2,
        (p - y) / n,
    )


def _ccc_of(sums: np.ndarray) -> np.ndarray:
    var_p, var_y, cov, gap = _moments(sums)
    return _share(2 * cov, var_p + var_y + gap**2)


def _pcc_of(sums: np.ndarray) -> np.ndarray:
    var_p, var_y, cov, _ = _moments(sums)
    return _share(cov, (var_p * var_y) ** 0.5)


def _rmse_of(sums: np.ndarray) -> np.ndarray:
    n, _, _, pp, yy, py = np.moveaxis(sums, -1, 0)
    return np.maximum(_share(pp + yy - 2 * py, n), 0.0) ** 0.5


def probability_sums(prob: np.ndarray, target: np.ndarray, place: np.ndarray, groups: int) -> np.ndarray:
    """As `group_sums`, for `nll`, `brier` and `ece`: count, log likelihood, squared misses, and confidence
    less hits per bin of equal width."""
    best = prob.max(1)
    each = np.zeros((len(prob), 3 + _BINS))
    each[:, 0], each[:, 1], each[:, 2] = 1, _log_true(prob, target), _squared_misses(prob, target)
    each[np.arange(len(prob)), 3 + _equal_width(best, _BINS)] = best - (prob.argmax(1) == target)
    return _added(each, place, groups)


def interval_sums(
    pred: np.ndarray, target: np.ndarray, sd: np.ndarray, place: np.ndarray, groups: int
) -> np.ndarray:
    """As `group_sums`, for `interval_coverage` at widths 1 and 1.96."""
    miss = np.abs(target - pred) / sd
    return _added(np.stack([np.ones_like(miss), miss <= 1, miss <= 1.96], axis=1), place, groups)


def _added(each: np.ndarray, place: np.ndarray, groups: int) -> np.ndarray:
    total = np.zeros((groups, each.shape[1]))
    np.add.at(total, place, each)
    return total


# Figure -> its values (...) from the sums (..., k) of `group_sums` and its like, added up over groups.
FROM_SUMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "uar": _uar_of,
    "war": _war_of,
    "macro_f1": _macro_f1_of,
    "ccc": _ccc_of,
    "pcc": _pcc_of,
    "rmse": _rmse_of,
    "nll": lambda sums: -_share(sums[..., 1], sums[..., 0]),
    "brier": lambda sums: _share(sums[..., 2], sums[..., 0]),
    "ece": lambda sums: _share(np.abs(sums[..., 3:]).sum(-1), sums[..., 0]),
    "coverage68": lambda sums: _share(sums[..., 1], sums[..., 0]),
    "coverage95": lambda sums: _share(sums[..., 2], sums[..., 0]),
}


def _level(level: float) -> float:
    level = _checks.number(level, "level")
    if not 0 < level < 1:
        raise InputError(f"level must lie between 0 and 1; got {level}")
    return level


def _constant(x: np.ndarray) -> bool:
    # Compared, not computed: the variance of a constant is not exactly 0 in floating point.
    return bool((x == x[0]).all())


def _unit(x: np.ndarray) -> np.ndarray:
    """Centred and of length 1, without overflow or underflow on the way."""
    x = x / np.abs(x).max()
    centred = x - x.mean()
    peak = np.abs(centred).max()
    if peak == 0:
        return centred
    centred = centred / peak
    return centred / np.linalg.norm(centred)


def _continuous(
    one: Callable[[np.ndarray, np.ndarray], float],
    pred: Any,
    target: Any,
    mask: Any,
    reduction: str,
    sessions: Any,
    window: int | None,
    hop: int | None,
    undefined: str,
    *,
    skip_constant: bool = True,
) -> Any:
    """Check the inputs, split them by dimension and by `reduction`, and apply `one` to the valid steps."""
    p = _checks.array(pred, "pred", ndim=(1, 2), dtype=np.float64, empty=False)
    t = _checks.array(target, "target", ndim=(1, 2), dtype=np.float64, empty=False)
    if p.shape != t.shape:
        raise InputError(f"pred and target must have the same shape; got {p.shape} and {t.shape}")
    _checks.choice(reduction, _REDUCTION, "reduction")
    _checks.choice(undefined, ("zero", "nan", "raise"), "undefined")
    valid = _mask(mask, p.shape)
    for name, values in (("pred", p), ("target", t)):
        _checks.finite(np.where(valid, values, 0.0), name)
    if reduction == "per_session" and sessions is None:
        raise InputError("sessions must be given with reduction='per_session'")
    if reduction != "windowed" and (window is not None or hop is not None):
        raise InputError(f"window and hop are for reduction='windowed'; got reduction={reduction!r}")
    if sessions is None or reduction == "concatenated":
        pieces = [np.arange(len(p))]
    else:
        names = _one_per(sessions, len(p), "sessions").tolist()
        order: dict[Any, list[int]] = {}
        for i, name in enumerate(names):
            order.setdefault(name, []).append(i)
        pieces = [np.array(rows) for rows in order.values()]
    if reduction == "windowed":
        if window is None:
            raise InputError("window must be given with reduction='windowed'")
        size = _checks.integer(window, "window", low=2)
        step = _checks.integer(size if hop is None else hop, "hop", low=1)
        pieces = [rows[start : start + size] for rows in pieces for start in _starts(len(rows), size, step)]
    columns = [slice(None)] if p.ndim == 1 else range(p.shape[1])
    results = []
    for column in columns:
        pc, tc, vc = (p, t, valid) if p.ndim == 1 else (a[:, column] for a in (p, t, valid))
        if not vc.any():
            raise InputError(
                "mask must leave at least one valid step" + (f" in dim {column}" if p.ndim == 2 else "")
            )
        scores = []
        for rows in pieces:
            rows = rows[vc[rows]]
            if not len(rows):
                continue
            if reduction != "concatenated" and skip_constant and _constant(tc[rows]):
                continue
            scores.append(one(pc[rows], tc[rows]))
        score = float(np.mean(scores)) if scores else np.nan
        if reduction != "concatenated" and scores and np.isnan(score):
            # A constant prediction: each such session or window counts as `undefined` says.
            score = float(np.mean(np.nan_to_num(scores, nan=0.0))) if undefined == "zero" else np.nan
        if np.isnan(score):
            if undefined == "raise":
                raise InputError("the metric is undefined: pred or target does not vary over the valid steps")
            score = 0.0 if undefined == "zero" else np.nan
        results.append(score)
    return results[0] if p.ndim == 1 else np.array(results)


def _starts(n: int, size: int, hop: int) -> list[int]:
    """Regular windows and one aligned to the end; one short window if the session is shorter."""
    if n <= size:
        return [0]
    starts = list(range(0, n - size + 1, hop))
    return starts if starts[-1] + size == n else [*starts, n - size]


def _mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.ones(shape, dtype=bool)
    valid = np.asarray(mask)
    if valid.dtype != bool:
        raise InputError(f"mask must be boolean; got dtype {valid.dtype}")
    if valid.shape == shape[:1] and len(shape) == 2:
        valid = np.broadcast_to(valid[:, None], shape)
    if valid.shape != shape:
        raise InputError(f"mask must have shape {shape}; got {valid.shape}")
    return valid


def _one_per(values: Any, n: int, name: str) -> np.ndarray:
    out = np.asarray(values)
    if out.ndim != 1 or len(out) != n:
        raise InputError(f"{name} must have one value per item, {n}; got {_checks.show(out)}")
    return out


def _order(value: Any) -> tuple[str, Any]:
    return (type(value).__name__, value)


def _probabilities(prob: Any, target: Any, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """Checked ``(items, classes)`` and class numbers of the valid items."""
    p = _checks.array(prob, "prob", ndim=2, dtype=np.float64, empty=False)
    t = np.asarray(target)
    if t.ndim != 1 or len(t) != len(p):
        raise InputError(f"target must have one class number per item, {len(p)}; got {_checks.show(t)}")
    valid = _mask(mask, t.shape)
    if not valid.any():
        raise InputError("mask must leave at least one valid item")
    p, t = p[valid], t[valid]
    _checks.finite(p, "prob")
    if p.shape[1] < 2 or (p < 0).any() or (np.abs(p.sum(1) - 1) > 1e-3).any():
        raise InputError(
            "prob must hold at least two classes, non-negative with sum 1 in every row; got "
            f"{p.shape[1]} classes, values from {p.min():g}, sums {p.sum(1).min():g} to {p.sum(1).max():g}"
        )
    if t.dtype.kind not in "iu" or t.min() < 0 or t.max() >= p.shape[1]:
        raise InputError(f"target must hold class numbers from 0 to {p.shape[1] - 1}; got {_checks.show(t)}")
    return p, t


def _log_true(prob: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(prob[np.arange(len(prob)), target], LEAST_PROBABILITY))


def _squared_misses(prob: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.square(prob - np.eye(prob.shape[1])[target]).sum(1)


def _equal_width(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Number of the bin, each open below and closed above."""
    inner = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    return np.searchsorted(inner, confidence, side="left")


def _classes(
    pred: Any, target: Any, mask: Any, labels: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    p, t = np.asarray(pred), np.asarray(target)
    if p.ndim != 1 or p.shape != t.shape or not p.size:
        raise InputError(
            f"pred and target must be non-empty lists of one length; got {p.shape} and {t.shape}"
        )
    valid = _mask(mask, p.shape)
    if not valid.any():
        raise InputError("mask must leave at least one valid item")
    p, t = p[valid], t[valid]
    for name, values in (("pred", p), ("target", t)):
        if values.dtype.kind == "f" and not (
            np.isfinite(values).all() and (values == np.round(values)).all()
        ):
            raise InputError(f"{name} must hold classes, not continuous values; got dtype {values.dtype}")
        if values.dtype.kind == "O" and any(value is None or value != value for value in values):
            raise InputError(f"{name} must have a class for every item; some are missing (use mask)")
    if (p.dtype.kind in "US") != (t.dtype.kind in "US") and "O" not in (p.dtype.kind, t.dtype.kind):
        raise InputError(f"pred and target must hold the same kind of class; got {p.dtype} and {t.dtype}")
    if labels is not None:
        names = list(labels)
        if len(set(names)) != len(names) or not names:
            raise InputError(f"labels must be different classes; got {_checks.show(names)}")
        unknown = sorted({*p.tolist(), *t.tolist()} - set(names), key=_order)
        if unknown:
            raise InputError(f"labels lacks class(es) that occur: {_checks.some(unknown)}")
    return p, t
