"""Figures of merit of predictions by head, and their spread over folds, seeds and groups.

Figures by kind. Classes: ``uar``, ``war``, ``macro_f1``; their probabilities: ``nll``, ``brier``, ``ece``
(all with ``_<head>`` where several heads have classes). Values: ``ccc_<label>``, ``pcc_<label>``,
``rmse_<label>``; with a predictive sd: ``coverage68_<label>``, ``coverage95_<label>``, the share of labels
within 1 and 1.96 sd of the estimate, 0.683 and 0.95 for normal errors of that sd. ``ccc`` is the mean over
labels, ``score`` the mean of the UARs and ``ccc``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from affekt import metrics
from affekt._lazy import require
from affekt.systems.base import Head

__all__ = [
    "classes_table",
    "condition_tables",
    "definitions",
    "figures",
    "group_table",
    "outputs",
    "spread",
    "summary_table",
]

Labels = Callable[[Any], Any]
Spread = Mapping[str, np.ndarray]


def _covered(width: float) -> Callable[[np.ndarray, np.ndarray], float]:
    def share(given: np.ndarray, target: np.ndarray) -> float:
        return metrics.interval_coverage(given[:, 0], target, given[:, 1], width=width)

    return share


_WIDTHS = {"coverage68": 1.0, "coverage95": 1.96}
_FIGURES: dict[str, dict[str, Callable[..., float]]] = {
    "classes": {"uar": metrics.uar, "war": metrics.war, "macro_f1": metrics.macro_f1},
    "probabilities": {"nll": metrics.nll, "brier": metrics.brier, "ece": metrics.ece},
    "values": {"ccc": metrics.ccc, "pcc": metrics.pcc, "rmse": metrics.rmse},
    "intervals": {name: _covered(width) for name, width in _WIDTHS.items()},
}


def _series(
    given: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    heads: Mapping[str, Head],
    sd: Spread | None,
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
            suffix = f"_{name}" if several else ""
            yield suffix, "classes", values.argmax(1), target, target >= 0
            if sd is not None:
                yield suffix, "probabilities", values.astype(np.float64), target, target >= 0
        else:
            for column, label in enumerate(head.labels):
                y, own = target[:, column].astype(np.float64), values[:, column].astype(np.float64)
                yield f"_{label}", "values", own, y, np.isfinite(y)
                if sd is not None and name in sd:
                    width = sd[name][:, column]
                    keep = np.isfinite(y) & np.isfinite(width)
                    yield f"_{label}", "intervals", np.stack([own, width], 1), y, keep


def figures(
    given: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    heads: Mapping[str, Head],
    sd: Spread | None = None,
) -> dict[str, float]:
    """All figures of one set of predictions, over all recordings concatenated.

    Rows without a label take no part; a head without any label has no figures.

    Parameters
    ----------
    given : head -> (n, labels), values or class probabilities; lists of per-step arrays are concatenated.
    labels : head -> (n,) class index, -1 unknown, or (n, labels), NaN unknown.
    sd : head -> (n, labels), the predictive sd of each value, NaN unknown. None leaves out all figures of
        probabilities and intervals.
    """
    out: dict[str, float] = {}
    for suffix, kind, values, target, known in _series(given, labels, heads, sd):
        if known.any():
            for metric, function in _FIGURES[kind].items():
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
    known = [metric for functions in _FIGURES.values() for metric in functions]
    out = {}
    for name in names:
        metric = next((m for m in known if name == m or name.startswith(f"{m}_")), None)
        if name == "ccc":
            out[name] = "mean over labels of the " + metrics.describe("ccc")
        elif name == "score":
            out[name] = "mean of UAR and mean CCC, as far as there are"
        elif metric in _WIDTHS:
            out[name] = metrics.describe("interval_coverage", width=_WIDTHS[metric])
        elif metric is not None:
            out[name] = metrics.describe(metric)
    return out


def _scored(table: Any, heads: Mapping[str, Head], labels: Labels, calibrated: bool) -> dict[str, float]:
    """The figures of a table of predictions."""
    return figures(outputs(table, heads), labels(table), heads, spread(table, heads) if calibrated else None)


def group_table(
    predictions: Any, heads: Mapping[str, Head], labels: Labels, *, calibrated: bool = False
) -> Any:
    """Figures per group and seed: DataFrame ``fold, seed, group, n, <figures>``.

    `predictions` is a table with ``fold, seed, group`` and the heads' columns; `labels` gives the label
    arrays of a part of it. A figure that a group has no labels for is NaN; correlations of constants are 0.
    With `calibrated` the figures of probabilities and intervals too, but no ``ece``: over the few recordings
    of one group it would show its own bias.
    """
    pandas = require("pandas", purpose="result tables")
    rows = []
    for (fold, seed, group), part in predictions.groupby(["fold", "seed", "group"], sort=True):
        found = _scored(part, heads, labels, calibrated)
        rows.append(
            {"fold": fold, "seed": seed, "group": group, "n": len(part)}
            | {name: value for name, value in found.items() if not name.startswith("ece")}
        )
    return pandas.DataFrame(rows)


def classes_table(
    predictions: Any,
    columns: Iterable[str],
    heads: Mapping[str, Head],
    labels: Labels,
    *,
    calibrated: bool = False,
) -> Any:
    """Pooled figures for each value of a column such as gender or language, with intervals over groups.

    DataFrame ``by, group, n, speakers, <figure>, <figure>_low, <figure>_high``: `by` is the column, `group`
    its value (``unknown`` where empty), `n` its recordings and `speakers` the groups among them; figures and
    bootstrap intervals as ``over = "pooled"`` of `summary_table`. Columns that `predictions` lacks are left
    out.
    """
    pandas = require("pandas", purpose="result tables")
    rows = []
    for column in columns:
        if column not in predictions:
            continue
        names = predictions[column].astype(object).where(predictions[column].notna(), "unknown")
        for value, part in predictions.groupby(names.astype(str), sort=True):
            seeds = part["seed"].nunique()
            row = {"by": column, "group": value, "n": len(part) // seeds}
            row["speakers"] = part["group"].nunique()
            for entry in _pooled(part, heads, labels, calibrated):
                name = entry["metric"]
                row[name] = entry["mean"]
                if "low" in entry:
                    row |= {f"{name}_low": entry["low"], f"{name}_high": entry["high"]}
            rows.append(row)
    return pandas.DataFrame(rows)


def _pooled(
    predictions: Any, heads: Mapping[str, Head], labels: Labels, calibrated: bool
) -> list[dict[str, Any]]:
    """Every figure over all predictions, averaged over seeds: ``metric, mean, seeds, n``, and ``sd, low,
    high`` where there are groups to draw; n is the groups with a label that the figure looks at."""
    per_seed = [_scored(part, heads, labels, calibrated) for _, part in predictions.groupby("seed")]
    labelled = _labelled_groups(predictions, heads, labels, calibrated)
    bootstrap = _bootstrap(predictions, heads, labels, calibrated)
    rows = []
    for name in dict.fromkeys(name for row in per_seed for name in row):
        seeds = [row[name] for row in per_seed if name in row]
        row = {"metric": name, "mean": np.mean(seeds), "seeds": seeds, "n": len(labelled[name])}
        drawn = bootstrap.get(name)
        if drawn is not None:
            row |= {"sd": drawn.sd, "low": drawn.low, "high": drawn.high}
        rows.append(row)
    return rows


def _labelled_groups(
    predictions: Any, heads: Mapping[str, Head], labels: Labels, calibrated: bool
) -> dict[str, set[Any]]:
    """Figure -> the groups that have a part in it, which are those that its bootstrap draws from."""
    out: dict[str, set[Any]] = {}
    group = predictions["group"].to_numpy()
    sd = spread(predictions, heads) if calibrated else None
    for suffix, kind, _, _, known in _series(outputs(predictions, heads), labels(predictions), heads, sd):
        who = set(group[known])
        out |= {metric + suffix: who for metric in _FIGURES[kind]}
    concordance = [who for name, who in out.items() if name.startswith("ccc_")]
    recalls = [who for name, who in out.items() if name.startswith("uar")]
    return out | {"ccc": set().union(*concordance), "score": set().union(*concordance, *recalls)}


def summary_table(
    predictions: Any,
    groups: Any,
    heads: Mapping[str, Head],
    labels: Labels,
    *,
    calibrated: bool = False,
    choices: Iterable[str] = (),
) -> Any:
    """Mean, sd and 95 % interval of every figure, in several ways.

    DataFrame ``metric, over, mean, sd, low, high, n, min, max, definition``:

    - ``over = "pooled"``: predictions of all folds concatenated, the figure taken once per seed and averaged
      over seeds; interval by bootstrap over groups (2000 draws), n groups with that label (``ccc`` and
      ``score``: with any that they look at); sd that of the draws.
    - ``over = "untouched"``: the same without the groups in `choices`, those that the recipe was chosen on;
      absent where there are no choices.
    - ``over = "folds"``: the figure per fold, averaged over seeds; mean, sd (ddof 1), t interval over folds.
    - ``over = "seeds"``: the pooled figure per seed; mean, sd and t interval over the n seeds.
    - ``over = "groups"``: the figure per group (speaker), averaged over seeds; mean, sd, t interval, min and
      max over the n groups.

    An interval that one value cannot have is NaN.
    """
    pandas = require("pandas", purpose="result tables")
    per_fold = [
        {"fold": fold, **_scored(part, heads, labels, calibrated)}
        for (fold, _), part in predictions.groupby(["fold", "seed"])
    ]
    folds = pandas.DataFrame(per_fold).groupby("fold").mean()
    people = groups.drop(columns=["fold", "seed", "n"]).groupby("group").mean()
    whole = _pooled(predictions, heads, labels, calibrated)
    touched = {str(name) for name in choices}
    rest = predictions[~predictions["group"].astype(str).isin(touched)]
    untouched = _pooled(rest, heads, labels, calibrated) if touched and len(rest) else []
    others = {row["metric"]: row for row in untouched}
    words = definitions(row["metric"] for row in whole)
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

    for row in whole:
        name = row["metric"]
        for over, entry in (("pooled", row), ("untouched", others.get(name))):
            if entry is not None:
                rows.append({**entry, "over": over, "definition": words[name]})
        add(name, "folds", folds[name])
        add(name, "seeds", row["seeds"])
        if name in people:
            add(name, "groups", people[name])
    columns = ["metric", "over", "mean", "sd", "low", "high", "n", "min", "max", "definition"]
    return pandas.DataFrame(rows).reindex(columns=columns)


def condition_tables(
    predictions: Any,
    heads: Mapping[str, Head],
    labels: Labels,
    *,
    group: str,
    by: Iterable[str] = (),
    choices: Iterable[str] = (),
    calibrated: bool = False,
) -> tuple[Any, Any]:
    """`summary_table`, and `group_table` above `classes_table`, of every value of the columns ``condition``
    and ``mode`` (``full`` throughout where there is none).

    Returns
    -------
    summary : with the columns ``condition`` and ``mode`` beside those of `summary_table`.
    groups : with ``condition``, and ``by`` that says what a row's `group` is: a value of the column `group`
        or of one of the columns `by`.
    """
    pandas = require("pandas", purpose="result tables")
    summaries: list[Any] = []
    groups: list[Any] = []
    modes = predictions if "mode" in predictions else predictions.assign(mode="full")
    for (condition, mode), part in modes.groupby(["condition", "mode"], sort=False):
        people = group_table(part, heads, labels, calibrated=calibrated)
        summary = summary_table(part, people, heads, labels, calibrated=calibrated, choices=choices)
        summary.insert(2, "mode", mode)
        people.insert(0, "by", group)
        others = [name for name in by if name != group]
        classes = classes_table(part, others, heads, labels, calibrated=calibrated)
        for tables, one in (
            (summaries, summary),
            (groups, pandas.concat([people, classes], ignore_index=True) if len(classes) else people),
        ):
            one.insert(0, "condition", condition)
            if one is not summary and "mode" in predictions:
                one.insert(1, "mode", mode)
            tables.append(one)
    return pandas.concat(summaries, ignore_index=True), pandas.concat(groups, ignore_index=True)


def outputs(table: Any, heads: Mapping[str, Head]) -> dict[str, np.ndarray]:
    """The columns of each head in a table of predictions, (n, labels)."""
    return {name: table[head.columns].to_numpy(dtype=np.float64) for name, head in heads.items()}


def spread(table: Any, heads: Mapping[str, Head]) -> dict[str, np.ndarray]:
    """The predictive sd of each continuous head in a table of predictions (``sd_<label>``), (n, labels)."""
    out = {}
    for name, head in heads.items():
        columns = [f"sd_{label}" for label in head.labels]
        if head.kind == "continuous" and set(columns) <= set(table):
            out[name] = table[columns].to_numpy(dtype=np.float64)
    return out


def _bootstrap(
    predictions: Any, heads: Mapping[str, Head], labels: Labels, calibrated: bool = False
) -> dict[str, metrics.Interval]:
    """Interval of every pooled figure over groups; each draw averages the seeds.

    Every figure is a function of sums over recordings (confusion counts, moments), so that a draw of groups
    only adds up the sums of the groups drawn.
    """
    intervals: dict[str, metrics.Interval] = {}
    seeds = [part for _, part in predictions.groupby("seed")]
    people = sorted(set(predictions["group"]))
    size = max(len(head.labels) for head in heads.values())
    sums: dict[tuple[str, str], list[np.ndarray]] = {}  # (suffix, kind) -> per seed (groups, sums)
    centre: dict[str, float] = {}
    for part in seeds:
        place = part["group"].map({name: i for i, name in enumerate(people)}).to_numpy()
        sd = spread(part, heads) if calibrated else None
        for suffix, kind, values, target, known in _series(outputs(part, heads), labels(part), heads, sd):
            own = values[known], target[known]
            where = place[known], len(people)
            if kind == "classes":
                total = metrics.group_sums(*own, *where, size)
            elif kind == "values":
                # About a common centre, so that squares do not eat the digits of small spreads.
                zero = centre.setdefault(suffix, float(own[1].mean()) if known.any() else 0.0)
                total = metrics.group_sums(*own, *where, 0, zero)
            elif kind == "probabilities":
                total = metrics.probability_sums(*own, *where)
            else:
                total = metrics.interval_sums(own[0][:, 0], own[1], own[0][:, 1], *where)
            sums.setdefault((suffix, kind), []).append(total)
    for (suffix, kind), per_seed in sums.items():
        stacked = np.stack(per_seed, axis=1)  # (groups, seeds, sums)
        stacked = stacked[stacked.any(axis=(1, 2))]
        if len(stacked) < 2 or any(len(p) != len(per_seed[0]) for p in per_seed):
            continue
        mean = {name: metrics.FROM_SUMS[name](stacked.sum(0)) for name in _FIGURES[kind]}
        there = stacked.sum(0).any(axis=-1)
        for name, (low, high, spreads) in metrics.resampled(stacked, list(_FIGURES[kind])).items():
            centred = float(mean[name][there].mean())
            intervals[name + suffix] = metrics.Interval(centred, low, high, spreads, len(stacked), 0.95)
    return intervals
