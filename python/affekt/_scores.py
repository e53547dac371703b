"""Figures of merit of a table of estimates beside the labels of the same recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from affekt import metrics
from affekt._checks import some
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas

__all__ = ["Figure", "Scores", "comparable", "score"]

_VALUES = (("CCC", metrics.ccc), ("PCC", metrics.pcc), ("RMSE", metrics.rmse))
_CLASSES = (("UAR", metrics.uar), ("WAR", metrics.war), ("macro-F1", metrics.macro_f1))


class Figure(NamedTuple):
    """One figure of merit."""

    label: str
    """``emotion`` or the name of a dimension."""
    metric: str
    value: float
    low: float
    """Limits of the 95 % interval over speakers; NaN where there are fewer than two."""
    high: float
    recordings: int
    speakers: int
    """0 where the table does not name them."""
    aggregation: str


class Scores(NamedTuple):
    """What `score` found."""

    figures: list[Figure]
    notes: list[str]
    """What was left out, renamed or restricted, and why."""
    estimated: np.ndarray | None
    """Emotion chosen for each row; None without emotions to compare."""
    confusion: np.ndarray | None
    classes: list[str]
    """Rows and columns of `confusion`."""
    mapping: dict[str, str | None]
    """Emotion in the labels -> emotion of the model; None: the model has none for it."""


def comparable(columns: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Dimensions that both sides have, and the model's emotions if the labels hold emotions.

    Raises
    ------
    DataError : nothing is common.
    """
    emotions = [name.removeprefix("p_") for name in columns if name.startswith("p_")]
    dimensions = [name for name in labels if name in columns]
    if "emotion" not in labels:
        emotions = []
    if not dimensions and not emotions:
        raise DataError(
            f"the manifest has the labels {', '.join(labels) or '(none)'}, "
            f"the model gives {', '.join(columns)}: nothing to compare"
        )
    return dimensions, emotions


def score(
    table: pandas.DataFrame,
    truth: pandas.DataFrame,
    *,
    columns: Sequence[str],
    labels: Sequence[str],
    reduction: str = "concatenated",
    restrict: bool = False,
    merge: Mapping[str, str] | None = None,
    resamples: int = 2000,
) -> Scores:
    """Compare estimates with labels, row by row; parameters and figures are those of `affekt.evaluate`.

    Parameters
    ----------
    table : the estimates, a row per recording, with `columns`.
    truth : the manifest's rows of the same recordings, with `labels`.
    resamples : draws of the bootstrap over speakers; 0 for no intervals.
    """
    dimensions, emotions = comparable(columns, labels)
    sessions = truth["session"].to_numpy() if "session" in truth else None
    if reduction == "per_session" and sessions is None:
        raise DataError("reduction='per_session' needs a column 'session' in the manifest")
    speakers = _speakers(truth)
    notes: list[str] = []
    figures: list[Figure] = []

    def add(label: str, which: Sequence[tuple[str, Callable[..., float]]], pred: Any, true: Any,
            rows: np.ndarray, how: str, **options: Any) -> None:  # fmt: skip
        people = [] if speakers is None else speakers[rows].tolist()
        count = len(set(people))
        for name, function in which:
            whole = how if function is not metrics.rmse else "concatenated"
            given = options if whole == how else {}
            value = float(function(pred, true, **given))
            low = high = np.nan
            if count > 1 and resamples and whole == "concatenated":
                drawn = metrics.bootstrap_interval(function, pred, true, people, resamples=resamples)
                low, high = drawn.low, drawn.high
            figures.append(Figure(label, name, value, low, high, len(true), count, whole))

    for name in dimensions:
        true = truth[name].to_numpy(dtype=float)
        known = np.isfinite(true)
        if not known.any():
            notes.append(f"no recording has a {name} label: left out")
            continue
        if not known.all():
            notes.append(f"{int((~known).sum())} recordings have no {name} label")
        if known.sum() > 20 and true[known].min() >= 0 < true[known].max():
            notes.append(
                f"no {name} label is negative: if their scale is not -1 to 1 it must be stated, or CCC "
                "and RMSE are wrong"
            )
        by: dict[str, Any] = {}
        if reduction == "per_session" and sessions is not None:
            by = {"reduction": "per_session", "sessions": sessions[known]}
        add(name, _VALUES, table[name].to_numpy(dtype=float)[known], true[known], known, reduction, **by)

    estimated, confusion, classes, mapping = None, None, [], {}
    if emotions:
        given = truth["emotion"]
        mapping = _mapping(given, emotions, merge or {}, notes)
        true = np.array([mapping.get(name) for name in given], dtype=object)
        kept = np.array([name is not None for name in true], dtype=bool)
        pooled = _pooled(table, emotions, merge or {})
        present = [name for name in pooled if name in set(true[kept])]
        if not mapping:
            notes.append("no recording has an emotion label: left out")
        elif len(present) < 2:
            shared = ", ".join(present) or "no emotion"
            notes.append(f"labels and model share {shared}, at least two are needed: emotion left out")
        else:
            choice = present if restrict else list(pooled)
            notes += _choosable(list(pooled), present, restrict)
            best = np.array(choice, dtype=object)[np.stack([pooled[name] for name in choice]).argmax(axis=0)]
            estimated = best
            classes = [name for name in pooled if name in present or name in best[kept]]
            confusion = metrics.confusion_matrix(best[kept], true[kept], labels=classes)
            add("emotion", _CLASSES, best[kept], true[kept], kept, "concatenated")
    if not figures:
        raise DataError(f"nothing to compare: {'; '.join(notes)}")
    return Scores(figures, notes, estimated, confusion, classes, mapping)


def _speakers(truth: pandas.DataFrame) -> np.ndarray | None:
    """Who speaks in each row; None where that is not known for all."""
    if "subject" not in truth or truth["subject"].isna().any():
        return None
    return truth["subject"].to_numpy(dtype=object)


def _mapping(
    given: pandas.Series, emotions: Sequence[str], merge: Mapping[str, str], notes: list[str]
) -> dict[str, str | None]:
    """Emotion in the labels -> the model's, after merging; says what was matched, and what fell out."""
    from affekt.data import match_emotions

    counts = given.value_counts()
    for source, target in merge.items():
        if target not in emotions:
            raise InputError(
                f"merge: expected emotions of the model ({', '.join(emotions)}) to merge into, got {target!r}"
            )
        if source not in emotions and source not in counts:
            raise InputError(f"merge: neither the model nor the labels have {source!r}")
        if target in merge:
            raise InputError(f"merge: {target!r} is itself merged into {merge[target]!r}")
    found = match_emotions(counts.index, [*emotions, *(name for name in merge if name not in emotions)])
    mapping = {name: merge.get(known, known) if known else None for name, known in found.items()}
    renamed = [f"{name} = {known}" for name, known in mapping.items() if known not in (None, name)]
    if renamed:
        notes.append(f"names in the labels = names of the model: {', '.join(renamed)}")
    strangers = sorted(name for name, known in mapping.items() if known is None)
    if strangers:
        lost = int(counts[strangers].sum())
        notes.append(
            f"the model does not know {', '.join(strangers)}: {lost} recordings left out, "
            f"{int(counts.sum()) - lost} remain"
        )
    return mapping


def _pooled(
    table: pandas.DataFrame, emotions: Sequence[str], merge: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Probability of each emotion that is left after merging, per row."""
    pooled = {name: table[f"p_{name}"].to_numpy(dtype=float) for name in emotions if name not in merge}
    for source, target in merge.items():
        if source in emotions:
            pooled[target] = pooled[target] + table[f"p_{source}"].to_numpy(dtype=float)
    return pooled


def _choosable(emotions: Sequence[str], present: Sequence[str], restrict: bool) -> list[str]:
    """What the model could choose from, and what that does to the figures."""
    absent = [name for name in emotions if name not in present]
    if not absent:
        return []
    if restrict:
        return [
            f"the model could choose only among the {len(present)} emotions in the labels, which raises the "
            f"figures; ruled out: {', '.join(absent)}"
        ]
    return [
        f"the model could choose any of its {len(emotions)} emotions, UAR is over the {len(present)} in the "
        f"labels; not in the labels, so an error wherever chosen: {some(absent, 20)}"
    ]
