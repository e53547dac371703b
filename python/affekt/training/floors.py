"""Classical floors: what openSMILE functionals with an SVM or a ridge reach on the folds of a run.

A floor is one vector of functionals per recording, an RBF-SVM for every categorical head and a ridge
regression per label of every continuous head. It is trained on the training and the development speakers of
each fold together, because it needs no early stopping, and tested on the recordings that test the system.

Two conditions:

- ``raw``: features standardised with the mean and sd of the training recordings. The estimate of a test
  recording depends on no other test recording.
- ``whole``: features z-scored per speaker, with the mean and sd over all recordings of that speaker on that
  side of the split. This is transductive: the estimate of one test recording uses the other recordings of
  its speaker (never their labels), so it says what knowing the whole speaker is worth. Recordings without a
  speaker count as one speaker's.

C of the SVM and alpha of the ridge are chosen by a group-wise cross-validation inside the training part, by
UAR and by CCC over the held-out speakers; ties go to the smaller C and the larger alpha, the simpler model.
Values are limited to [-1, 1], where the labels lie: a ridge extrapolates wildly where one feature is odd.
The class probabilities are ``softmax(s / T)`` of the one-against-rest scores ``s``, with the temperature
``T`` from the same inner cross-validation.

Files in the folder of the run, in the layout of its own tables with the columns ``model`` and ``condition``::

    floor_results.csv   floor_summary.csv   floor_groups.csv   floor_predictions.csv   floor_skipped.csv
    floor_audit.json
    floors/fold_1/      partitions.csv, statistics.json (of ``raw``), predictions.csv, done.json

openSMILE is licensed for research and personal use, not for products (see the licence in its package), which
is why floors are an extra, ``pip install 'affekt[floors]'``. Its sets here: eGeMAPS v02 (88 values; Eyben et
al. 2016, "The Geneva Minimalistic Acoustic Parameter Set", IEEE Trans. Affective Computing 7) and ComParE
2016 (6373 values; Schuller et al. 2016, "The INTERSPEECH 2016 Computational Paralinguistics Challenge").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from affekt import data, metrics
from affekt._lazy import require
from affekt.data.manifest import read_csv
from affekt.errors import DataError, InputError
from affekt.systems.base import Head
from affekt.systems.schema import as_dict
from affekt.training import scoring
from affekt.training.calibration import fit_temperature, with_temperature
from affekt.training.config import FloorConfig, RunConfig
from affekt.training.processes import in_processes

__all__ = ["CONDITIONS", "FloorResult", "Functionals", "run_floors"]

CONDITIONS = {
    "raw": "standardised on the training recordings",
    "whole": "z-scored per speaker over all recordings of that speaker (transductive)",
}
_SETS = {"egemaps": "eGeMAPSv02", "compare": "ComParE_2016"}
_PURPOSE = "classical floors (floor.features)"


class Functionals:
    """openSMILE functionals of a recording, as `affekt.data.prepare` takes them.

    Parameters
    ----------
    name : ``"egemaps"`` (88 values) or ``"compare"`` (6373 values).
    sample_rate : of the samples in Hz.

    Raises
    ------
    InputError : another name.
    MissingExtraError : openSMILE is not installed.
    """

    def __init__(self, name: str, sample_rate: float) -> None:
        if name not in _SETS:
            raise InputError(f"floor.features must be one of {', '.join(_SETS)}, got {name!r}")
        opensmile = require("opensmile", purpose=_PURPOSE)
        self._rate = int(sample_rate)
        self._smile = opensmile.Smile(opensmile.FeatureSet[_SETS[name]], opensmile.FeatureLevel.Functionals)
        self.options = {
            "sample_rate": self._rate,
            "set": _SETS[name],
            "level": "functionals",
            "opensmile": metadata.version("opensmile"),
        }

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Float32 ``(1, features)`` of float32 ``(time,)`` in [-1, 1].

        Raises
        ------
        DataError : the recording is too short for the functionals.
        """
        # openSMILE casts to 16 bit without clipping: a sample of 1.0 would become -1.0.
        limited = np.clip(samples, -1.0, 1.0 - 2.0**-15)
        values = self._smile.process_signal(limited, self._rate).to_numpy(np.float32)
        if not np.isfinite(values).all():
            seconds = len(samples) / self._rate
            raise DataError(f"{seconds:.3f} s are too short for the functionals of {self.options['set']}")
        return values


@dataclass
class FloorResult:
    """Tables of a floor (pandas), as they are on disk, and the audit of its folds.

    `results` has one row per fold and condition; `summary` and `groups` are those of
    `affekt.training.scoring` per condition.
    """

    name: str
    results: Any
    summary: Any
    groups: Any
    predictions: Any
    skipped: Any
    audit: data.AuditReport

    def __str__(self) -> str:
        folds = self.results["fold"].nunique()
        lines = [f"{self.name}: {folds} fold(s), {len(self.skipped)} recording(s) left out"]
        pooled = self.summary[self.summary["over"] == "pooled"]
        for condition in pooled["condition"].unique():
            lines.append(f"  {condition}: {CONDITIONS[condition]}")
            for row in pooled[pooled["condition"] == condition].itertuples():
                if row.metric.startswith(("uar", "war", "ccc_")):
                    line = f"    {row.metric:<14} {row.mean:.3f}"
                    if np.isfinite(row.low):
                        line += f"  (95 % interval over {row.n} groups {row.low:.3f} to {row.high:.3f})"
                    lines.append(line)
        lines.append("  " + ("audit: no leak found" if self.audit.ok else f"AUDIT: {self.audit}"))
        return "\n".join(lines)


def run_floors(
    config: RunConfig,
    store: data.FeatureStore,
    splits: Mapping[int, data.Split],
    table: Any,
    heads: Mapping[str, Head],
    truth: Callable[[Any], Mapping[str, np.ndarray]],
    *,
    left_out: Any = None,
    allow: list[str] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> FloorResult:
    """Train and test the floor on the folds of a run and write its tables into ``config.out``.

    The functionals are cached like the features of the run, in the folder of those with ``_egemaps`` or
    ``_compare`` behind its name. A fold that is there already is not computed again while its recordings,
    labels, partitions and options are the same. Folds are spread over ``protocol.jobs`` processes.

    Parameters
    ----------
    config : of the run; `config.floor` says what to do. With ``protocol.select`` only those folds are
        computed; the tables hold the others too where they are there.
    store : features of the run: its recordings and the rate of their samples.
    splits : number -> fold, as rows of `store`.
    table : one row per row of `store`: identity, ``group``, and the labels as ``true_<label>``.
    heads : outputs by name.
    truth : label arrays of a part of `table`, as `affekt.training.scoring.figures` takes them.
    left_out : recordings that the run has left out already, ``file, start, end, reason`` (DataFrame).
    allow : kinds of leak that are accepted, see `affekt.data.audit`.
    say : called with one line per step.

    Raises
    ------
    DataError : no fold has a test part, a recording cannot be used (``data.on_error=raise``), or a training
        part has too few speakers or labels.
    MissingExtraError : openSMILE or scikit-learn is not installed.
    """
    pandas = require("pandas", purpose="result tables")
    require("sklearn", purpose=_PURPOSE)
    features = Functionals(config.floor.features, store.features["options"]["sample_rate"])
    folder = Path(config.out)
    values, rows, own = _values(config, features, store, say)
    skipped = pandas.concat([left_out, own.failures], ignore_index=True)
    names = {c: table[c].astype(str).to_numpy() for c in ("subject", "group") if c in table}
    speakers = names.get("subject", names["group"])
    work = _Work(config.floor, heads, values, truth(table), names["group"], speakers, {}, {})
    asked = config.protocol.select or list(splits)
    prints: dict[int, str] = {}
    there: dict[int, dict[str, Any]] = {}
    findings, checked = [], []
    for number, given in splits.items():
        split = _usable(given, rows)
        place = _place(folder, number)
        fingerprint = _fingerprint(work, own.key, split, table)
        record = json.loads((place / "done.json").read_text()) if (place / "done.json").is_file() else {}
        if record.get("fingerprint") == fingerprint:
            there[number] = record
        elif number not in asked:
            continue
        if not len(split.test):
            say(f"floor, fold {number}: no test recording, nothing to do")
            continue
        place.mkdir(parents=True, exist_ok=True)
        if number not in there:
            (place / "done.json").unlink(missing_ok=True)
        work.splits[number] = split
        work.statistics[number] = own.statistics(rows[split.train])
        split.save(place / "partitions.csv", store.manifest)
        work.statistics[number].save(place)
        prints[number] = fingerprint
        report = data.audit(place / "partitions.csv", store=own, allow=allow or ())
        where = f"floors/{place.name}"
        findings += [replace(finding, where=where) for finding in report.findings]
        checked += [{**entry, "where": where} for entry in report.checked]
    if not work.splits:
        raise DataError(f"no fold has a test part for a floor (protocol.kind={config.protocol.kind})")
    for number in there:
        _tell(say, number, there[number]["rows"], " (there already)")
    missing = [number for number in work.splits if number not in there]
    for number, found in in_processes(_task, work, missing, config.protocol.jobs, say):
        split, place = work.splits[number], _place(folder, number)
        part = _predictions(work, number, found, table)
        part.to_csv(place / "predictions.csv", index=False)
        lines = []
        for condition, (estimates, chosen) in found.items():
            test = {name: value[split.test] for name, value in work.labels.items()}
            lines.append({
                "model": _name(config.floor), "condition": condition, "fold": number, "seed": 0,
                "split": split.name, "mode": "full", "n_train": len(split.train), "n_dev": 0,
                "n_test": len(split.test), "n_test_failed": len(splits[number].test) - len(split.test),
                "test_groups": " ".join(sorted(set(work.groups[split.test]))), "chosen": chosen,
                **scoring.figures(estimates, test, heads),
            })  # fmt: skip
        there[number] = {"fingerprint": prints[number], "rows": lines}
        (place / "done.json").write_text(json.dumps(there[number], indent=2) + "\n")
        _tell(say, number, lines)
    results = pandas.DataFrame([row for number in sorted(there) for row in there[number]["rows"]])
    results.insert(8, "n_skipped", len(skipped))
    numeric = pandas.api.types.is_numeric_dtype
    text = [c for c in table if c in ("file", "subject", "session", "group") or not numeric(table[c])]
    predictions = pandas.concat(
        [
            read_csv(_place(folder, number) / "predictions.csv", ("condition", *text))
            for number in sorted(there)
        ],
        ignore_index=True,
    )
    summary, groups = scoring.condition_tables(
        predictions, heads, truth, group=config.protocol.group, by=config.protocol.by,
        choices=config.protocol.choices,
    )  # fmt: skip
    for one in (groups, summary):
        one.insert(0, "model", _name(config.floor))
    result = FloorResult(
        _name(config.floor), results, summary, groups, predictions, skipped,
        data.AuditReport(tuple(findings), tuple(checked)),
    )  # fmt: skip
    written = {
        "predictions": predictions if config.protocol.group == "group" else predictions.drop(columns="group"),
        "results": results,
        "summary": result.summary,
        "groups": result.groups,
        "skipped": skipped,
    }
    for name, one in written.items():
        one.to_csv(folder / f"floor_{name}.csv", index=False, float_format="%.6g")
    (folder / "floor_audit.json").write_text(result.audit.to_json() + "\n")
    return result


# ---- features and partitions


def _values(
    config: RunConfig, features: Functionals, store: data.FeatureStore, say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, data.FeatureStore]:
    """Functionals per row of `store` (NaN where there are none), the row of the floor's own store of each
    (-1: none), and that store."""
    cache = Path(config.data.cache) if config.data.cache else Path(config.out) / "features"
    cache = cache.with_name(f"{cache.name}_{config.floor.features}")
    say(f"functionals {features.options['set']} of {len(store)} recordings in {cache}")
    own = data.prepare(
        store.manifest, features, cache, on_error=config.data.on_error, workers=config.data.workers
    )
    place = {(str(own.manifest.path(i)), *own.manifest.part(i)): i for i in range(len(own))}
    rows = np.array(
        [place.get((str(store.manifest.path(i)), *store.manifest.part(i)), -1) for i in range(len(store))]
    )
    loaded = np.concatenate([np.asarray(one, np.float64) for one in own])
    values = np.full((len(store), loaded.shape[1]), np.nan)
    values[rows >= 0] = loaded[rows[rows >= 0]]
    return values, rows, own


def _usable(split: data.Split, rows: np.ndarray) -> data.Split:
    """The fold of a floor: development rows train, rows without functionals are out."""
    train = np.concatenate([split.train, split.dev])
    none = np.empty(0, np.int64)
    test = split.test[rows[split.test] >= 0]
    return data.Split(train[rows[train] >= 0], none, test, split.name, split.grouped_by)


def _place(folder: Path, number: int) -> Path:
    return folder / "floors" / f"fold_{number}"


def _name(floor: FloorConfig) -> str:
    return f"floor {floor.features}"


# ---- one fold


@dataclass
class _Work:
    """What the folds are computed from, per row of the run's store; goes to other processes."""

    floor: FloorConfig
    heads: Mapping[str, Head]
    values: np.ndarray
    labels: Mapping[str, np.ndarray]
    groups: np.ndarray
    speakers: np.ndarray
    splits: dict[int, data.Split]
    statistics: dict[int, data.Statistics]


def _task(
    work: _Work, number: int, say: Callable[[str], None]
) -> dict[str, tuple[dict[str, np.ndarray], str]]:
    """Estimates of the test recordings of one fold by condition and head, and what was chosen."""
    split = work.splits[number]
    labels = {name: value[split.train] for name, value in work.labels.items()}
    out = {}
    for condition in CONDITIONS:
        train, test = _scaled(condition, work, number)
        try:
            out[condition] = _estimates(work.floor, work.heads, train, labels, work.groups[split.train], test)
        except DataError as error:
            raise DataError(f"floor, fold {number}, {condition}: {error}") from error
    return out


def _predictions(
    work: _Work, number: int, found: Mapping[str, tuple[dict[str, np.ndarray], str]], table: Any
) -> Any:
    """The estimates of one fold beside identity and labels."""
    pandas = require("pandas", purpose="result tables")
    parts = []
    for condition, (estimates, _) in found.items():
        part = table.iloc[work.splits[number].test].reset_index(drop=True)
        for name, head in work.heads.items():
            part[head.columns] = estimates[name]
        part.insert(0, "fold", number)
        part.insert(1, "seed", 0)
        part.insert(2, "model", _name(work.floor))
        part.insert(3, "condition", condition)
        if "start" not in part:
            part["start"] = 0.0
        parts.append(part)
    return pandas.concat(parts, ignore_index=True)


def _fingerprint(work: _Work, key: str, split: data.Split, table: Any) -> str:
    """Hash over everything that the estimates of a fold depend on."""
    digest = hashlib.sha256()
    options = {name: value for name, value in as_dict(work.floor).items() if name != "only"}
    known = {name: [head.kind, head.labels] for name, head in work.heads.items()}
    versions = {name: metadata.version(name) for name in ("numpy", "scikit-learn")}
    digest.update(json.dumps([options, key, known, versions], sort_keys=True).encode())
    for rows in (split.train, split.test):
        digest.update(work.values[rows].tobytes())
        digest.update(table.iloc[rows].to_csv(index=False).encode())
    return digest.hexdigest()


def _scaled(condition: str, work: _Work, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Training and test features of one condition."""
    split, statistics = work.splits[number], work.statistics[number]
    train, test = work.values[split.train], work.values[split.test]
    if condition == "raw":
        sd = _unit(statistics.sd)
        return (train - statistics.mean) / sd, (test - statistics.mean) / sd
    return _by_speaker(train, work.speakers[split.train]), _by_speaker(test, work.speakers[split.test])


def _by_speaker(values: np.ndarray, speakers: np.ndarray) -> np.ndarray:
    """``(x - mean) / sd`` (population) with the moments of each speaker's own rows."""
    out = np.empty_like(values)
    for name in np.unique(speakers):
        rows = speakers == name
        own = values[rows]
        out[rows] = (own - own.mean(0)) / _unit(own.std(0))
    return out


def _unit(sd: np.ndarray) -> np.ndarray:
    """A feature that does not vary stays at 0 instead of dividing by its rounding."""
    return np.where(sd > 1e-9, sd, 1.0)


# ---- models


def _estimates(
    floor: FloorConfig,
    heads: Mapping[str, Head],
    train: np.ndarray,
    labels: Mapping[str, np.ndarray],
    groups: np.ndarray,
    test: np.ndarray,
) -> tuple[dict[str, np.ndarray], str]:
    """Estimates of the test rows by head, and which C and alpha were chosen, in words."""
    out, chosen = {}, []
    for name, head in heads.items():
        target = labels[name]
        if head.kind == "categorical":
            known = target >= 0
            if len(set(target[known])) < 2:
                raise DataError(f"head {name!r} needs training recordings of two classes at least")
            inner = _inner(floor, groups[known])
            out[name], c = _classes(floor, train[known], target[known], inner, test, len(head.labels))
            chosen.append(f"C {c:g}")
            continue
        columns = []
        for label, y in zip(head.labels, target.T.astype(np.float64), strict=True):
            known = np.isfinite(y)
            if not known.any():
                raise DataError(f"no training recording has a label {label!r}")
            inner = _inner(floor, groups[known])
            column, alpha = _values_of(floor, train[known], y[known], inner, test)
            columns.append(column)
            chosen.append(f"alpha {label} {alpha:g}")
        out[name] = np.stack(columns, axis=1)
    return out, ", ".join(chosen)


def _inner(floor: FloorConfig, groups: np.ndarray) -> list[data.Split]:
    """Folds inside the training part, groups apart."""
    count = len(set(groups))
    if count < 2:
        raise DataError(f"C and alpha are chosen over training groups; two are needed, there is {count}")
    return data.group_kfold(groups, min(floor.inner_folds, count))


def _classes(
    floor: FloorConfig,
    x: np.ndarray,
    y: np.ndarray,
    inner: list[data.Split],
    test: np.ndarray,
    size: int,
) -> tuple[np.ndarray, float]:
    """Class probabilities (n, size) of `test` by an RBF-SVM, and its C."""
    # Distances once, for all C and folds: with thousands of features they are the cost.
    distances = require("sklearn.metrics.pairwise", purpose=_PURPOSE).euclidean_distances
    near, far = distances(x, squared=True), distances(test, x, squared=True)
    held = {c: np.empty((len(y), size)) for c in sorted(floor.c)}
    for fold in inner:
        own, other = _kernel(x, near, near[fold.test], fold.train)
        for c, scores in held.items():
            scores[fold.test] = _svm(c, own, y[fold.train], other, size)
    best = max(held, key=lambda c: metrics.uar(held[c].argmax(1), y))
    own, other = _kernel(x, near, far, np.arange(len(y)))
    temperature = fit_temperature(_softmax(held[best]), y)
    return with_temperature(_softmax(_svm(best, own, y, other, size)), temperature), best


def _kernel(
    x: np.ndarray, near: np.ndarray, far: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``exp(-|a - b|^2 / (features variance))`` of the training `rows` with themselves and with others."""
    gamma = 1.0 / (x.shape[1] * (x[rows].var() or 1.0))
    return np.exp(-gamma * near[np.ix_(rows, rows)]), np.exp(-gamma * far[:, rows])


def _svm(c: float, own: np.ndarray, y: np.ndarray, other: np.ndarray, size: int) -> np.ndarray:
    """One-against-rest scores (n, size) of a balanced SVM, from the kernels ``(training, training)`` and
    ``(n, training)``."""
    present = np.unique(y)
    scores = np.full((len(other), size), -np.inf)
    if len(present) == 1:
        scores[:, present[0]] = 0.0
    else:
        svm = require("sklearn.svm", purpose=_PURPOSE)
        model = svm.SVC(C=c, kernel="precomputed", class_weight="balanced").fit(own, y)
        found = model.decision_function(other)
        scores[:, present] = found if found.ndim == 2 else np.stack([-found, found], axis=1)
    # A class that the training part lacks comes last, at a finite distance.
    return np.where(np.isfinite(scores), scores, scores[:, present].min(1, keepdims=True) - 1.0)


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _values_of(
    floor: FloorConfig, x: np.ndarray, y: np.ndarray, inner: list[data.Split], test: np.ndarray
) -> tuple[np.ndarray, float]:
    """Values (n,) in [-1, 1] of `test` by a ridge regression, and its alpha."""
    linear = require("sklearn.linear_model", purpose=_PURPOSE)

    def ridge(alpha: float, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        return np.clip(linear.Ridge(alpha=alpha).fit(x[rows], y[rows]).predict(at), -1.0, 1.0)

    best = (-np.inf, 0.0)
    for alpha in sorted(floor.alpha, reverse=True):
        held = np.empty(len(y))
        for fold in inner:
            held[fold.test] = ridge(alpha, fold.train, x[fold.test])
        score = metrics.ccc(held, y)
        if score > best[0]:
            best = (score, alpha)
    return ridge(best[1], np.arange(len(y)), test), best[1]


def _tell(say: Callable[[str], None], number: int, lines: list[dict[str, Any]], note: str = "") -> None:
    for row in lines:
        names = [n for n in row if n == "uar" or n.startswith(("uar_", "ccc_"))]
        figures = ", ".join([*(f"{n} {row[n]:.3f}" for n in names), str(row["chosen"])])
        say(f"floor, fold {number} ({row['split']}), {row['condition']}: {figures}{note}")
