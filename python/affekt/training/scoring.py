"""Figures of merit of predictions by head, and their spread over folds, seeds and groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from affekt import metrics
from affekt._lazy import require
from affekt.systems.base import Head

__all__ = ["definitions", "figures", "group_table", "outputs", "summary_table"]

_CLASSES: dict[str, Callable[..., float]] = {
    "uar": metrics.uar,
    "war": metrics.war,
    "macro_f1": metrics.macro_f1,
}
_VALUES: dict[str, Callable[..., float]] = {"ccc": metrics.ccc, "pcc": metrics.pcc, "rmse": metrics.rmse}
_METRICS = {**_CLASSES, **_VALUES}


def _series(
    given: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], heads: Mapping[str, Head]
) -> Iterable[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """(figure's suffix, kind, predictions, targets, which rows are labelled) of every scored quantity."""
    several = sum(head.kind == "categorical" for head in heads.values()) > 1
    for name, head in heads.items():
        if name not in given or name not in labels:
            continue
        values, target = (
            np.concatenate(v) if isinstance(v, list) else np.asarray(v) for v in (given[name], labels[name])
        )
        if head.kind == "categorical":
            yield (f"_{name}" if several else ""), "classes", values.argmax(1), target, target >= 0
        else:
            for column, label in enumerate(head.labels):
                y = target[:, column].astype(np.float64)
                yield f"_{label}", "values", values[:, column].astype(np.float64), y, np.isfinite(y)


def figures(
    given: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray], heads: Mapping[str, Head]
) -> dict[str, float]:
    """All figures of one set of predictions.

    Classes: ``uar``, ``war``, ``macro_f1`` (with ``_<head>`` where several heads have classes). Values:
    ``ccc_<label>``, ``pcc_<label>``, ``rmse_<label>`` over all recordings concatenated, and ``ccc``, the mean
    over labels.
    ``score`` is the mean of the UARs and the mean CCC. Rows without a label take no part; a head without any
    label has no figures.

    Parameters
    ----------
    given : head -> (n, labels), values or class probabilities; lists of per-step arrays are concatenated.
    labels : head -> (n,) class index, -1 unknown, or (n, labels), NaN unknown.
    """
    out: dict[str, float] = {}
    for suffix, kind, values, target, known in _series(given, labels, heads):
        if known.any():
            for metric, function in (_CLASSES if kind == "classes" else _VALUES).items():
                out[metric + suffix] = float(function(values[known], target[known]))
    concordance = [value for name, value in out.items() if name.startswith("ccc_")]
    recalls = [value for name, value in out.items() if name.startswith("uar")]
    if concordance:
        out["ccc"] = float(np.mean(concordance))
    parts = recalls + ([out["ccc"]] if concordance else [])
    if parts:
        out["score"] = float(np.mean(parts))
    return out


def definitions(names: Iterable[str]) -> dict[str, str]:
    """In words, what each figure is."""
    out = {}
    for name in names:
        metric = next((m for m in ("macro_f1", *_METRICS) if name == m or name.startswith(f"{m}_")), None)
        if name == "ccc":
            out[name] = "mean over labels of the " + metrics.describe("ccc")
        elif name == "score":
            out[name] = "mean of UAR and mean CCC, as far as there are"
        elif metric is not None:
            out[name] = metrics.describe(metric)
    return out


def group_table(predictions: Any, heads: Mapping[str, Head], labels: Callable[[Any], Any]) -> Any:
    """Figures per group and seed: DataFrame ``fold, seed, group, n, <figures>``.

    `predictions` is a table with ``fold, seed, group`` and the heads' columns; `labels` gives the label
    arrays of a part of it. A figure that a group has no labels for is NaN; correlations of constants are 0.
    """
    pandas = require("pandas", purpose="result tables")
    rows = []
    for (fold, seed, group), part in predictions.groupby(["fold", "seed", "group"], sort=True):
        row = {"fold": fold, "seed": seed, "group": group, "n": len(part)}
        rows.append(row | figures(outputs(part, heads), labels(part), heads))
    return pandas.DataFrame(rows)


def summary_table(
    predictions: Any, groups: Any, heads: Mapping[str, Head], labels: Callable[[Any], Any]
) -> Any:
    """Mean, sd and 95 % interval of every figure, in three ways.

    DataFrame ``metric, over, mean, sd, low, high, n, min, max, definition``:

    - ``over = "pooled"``: predictions of all folds concatenated, the figure taken once per seed and averaged
      over seeds; interval by bootstrap over groups (2000 draws), n groups with that label; sd
      that of the draws.
    - ``over = "folds"``: the figure per fold, averaged over seeds; mean, sd (ddof 1), t interval over folds.
    - ``over = "seeds"``: the pooled figure per seed; mean, sd and t interval over the n seeds.
    - ``over = "groups"``: the figure per group (speaker), averaged over seeds; mean, sd, t interval, min and
      max over the n groups.

    An interval that one value cannot have is NaN.
    """
    pandas = require("pandas", purpose="result tables")
    per_seed = {
        seed: figures(outputs(part, heads), labels(part), heads) for seed, part in predictions.groupby("seed")
    }
    per_fold = [
        {"fold": fold, **figures(outputs(part, heads), labels(part), heads)}
        for (fold, _), part in predictions.groupby(["fold", "seed"])
    ]
    folds = pandas.DataFrame(per_fold).groupby("fold").mean()
    people = groups.drop(columns=["fold", "seed", "n"]).groupby("group").mean()
    names = list(dict.fromkeys(name for row in per_seed.values() for name in row))
    bootstrap = _bootstrap(predictions, heads, labels)
    words = definitions(names)
    rows = []

    def add(name: str, over: str, values: Any) -> None:
        values = np.asarray(values, dtype=np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return
        interval = metrics.mean_interval(values)
        row = {"metric": name, "over": over, "mean": interval.mean, "n": interval.n}
        if interval.n > 1:
            row |= {"sd": interval.sd, "low": interval.low, "high": interval.high}
        rows.append(row | {"min": values.min(), "max": values.max(), "definition": words[name]})

    for name in names:
        drawn = bootstrap.get(name)
        seeds = [row[name] for row in per_seed.values() if name in row]
        row = {"metric": name, "over": "pooled", "mean": np.mean(seeds)}
        if drawn is not None:
            row |= {"sd": drawn.sd, "low": drawn.low, "high": drawn.high}
        # A group without that label has no part in the figure.
        count = int(people[name].notna().sum()) if name in people else 0
        rows.append(row | {"n": count, "definition": words[name]})
        add(name, "folds", folds[name])
        add(name, "seeds", seeds)
        if name in people:
            add(name, "groups", people[name])
    columns = ["metric", "over", "mean", "sd", "low", "high", "n", "min", "max", "definition"]
    return pandas.DataFrame(rows).reindex(columns=columns)


def outputs(table: Any, heads: Mapping[str, Head]) -> dict[str, np.ndarray]:
    """The columns of each head in a table of predictions, (n, labels)."""
    return {name: table[head.columns].to_numpy(dtype=np.float64) for name, head in heads.items()}


def _bootstrap(
    predictions: Any, heads: Mapping[str, Head], labels: Callable[[Any], Any]
) -> dict[str, metrics.Interval]:
    """Interval of every pooled figure over groups; each draw averages the seeds.

    Every figure is a function of sums over recordings (confusion counts, moments), so that a draw of groups
    only adds up the sums of the groups drawn.
    """
    intervals: dict[str, metrics.Interval] = {}
    seeds = [part for _, part in predictions.groupby("seed")]
    people = sorted(set(predictions["group"]))
    sums: dict[str, tuple[str, list[np.ndarray]]] = {}  # suffix -> kind, per seed (groups, sums)
    centre: dict[str, float] = {}
    for part in seeds:
        place = part["group"].map({name: i for i, name in enumerate(people)}).to_numpy()
        for suffix, kind, values, target, known in _series(outputs(part, heads), labels(part), heads):
            size = max(len(head.labels) for head in heads.values()) if kind == "classes" else 0
            # About a common centre, so that squares do not eat the digits of small spreads.
            if not size:
                centre.setdefault(suffix, float(target[known].mean()) if known.any() else 0.0)
            total = metrics.group_sums(
                values[known], target[known], place[known], len(people), size, centre.get(suffix, 0.0)
            )
            sums.setdefault(suffix, (kind, []))[1].append(total)
    for suffix, (kind, per_seed) in sums.items():
        stacked = np.stack(per_seed, axis=1)  # (groups, seeds, sums)
        stacked = stacked[stacked.any(axis=(1, 2))]
        if len(stacked) < 2 or any(len(p) != len(per_seed[0]) for p in per_seed):
            continue
        for metric in _CLASSES if kind == "classes" else _VALUES:

            def drawn(rows: np.ndarray, _: np.ndarray, metric: str = metric) -> float:
                return float(
                    np.mean([metrics.FROM_SUMS[metric](total) for total in rows.sum(0) if total.any()])
                )

            intervals[metric + suffix] = metrics.bootstrap_interval(
                drawn, stacked, np.zeros(len(stacked)), np.arange(len(stacked))
            )
    return intervals
