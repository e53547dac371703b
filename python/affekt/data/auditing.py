"""Proof that a run did not leak: nothing shared between its partitions, statistics from training data only.

A run folder holds ``split.csv`` (see `affekt.data.splits`) and, if features were standardised,
``statistics.json`` (see `affekt.data.Statistics`) and the ``model.safetensors`` that uses them. A protocol of
several folds has one such folder per fold and seed; `audit` finds them all below the folder it is given.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from affekt import _checks, _native
from affekt._lazy import require
from affekt.data.splits import PARTITIONS, check_split_table, read_split
from affekt.data.store import INITIAL, UNNAMED, FeatureStore, Moments, Statistics, load_statistics
from affekt.errors import AffektError, DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KINDS", "AuditReport", "Finding", "audit"]

# Kind of finding -> what it means.
KINDS = {
    "subject": "a subject is in two partitions",
    "session": "a recording session is in two partitions",
    "file": "parts of one file are in two partitions",
    "window": "overlapping parts of one file are in two partitions",
    "content": "two files in two partitions have the same bytes",
    "unknown_subject": "rows have no subject, so that nothing can be proved about them",
    "partition": "the split has no training or no test part",
    "statistics": "mean and sd, as stored or in the model, are not those of the training part",
    "initial": "test recordings are of a corpus that the initial model was trained on",
    "unverified": "something could not be checked",
}


_SD_FLOOR = 1e-3  # of affekt.nn.Standardise: a smaller sd counts as this much
_FLOAT32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    kind : key of `KINDS`.
    message : what was found, in one sentence.
    partitions : the pair of partitions concerned, e.g. ``("train", "test")``, or empty.
    examples : a few of the values concerned.
    where : split that it was found in.
    accepted : the caller allowed this kind; it does not count against `AuditReport.ok`.
    notice : nothing is wrong as far as can be told, but this could not be told; it does not count either.
    """

    kind: str
    message: str
    partitions: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    where: str = ""
    accepted: bool = False
    notice: bool = False

    @property
    def counts(self) -> bool:
        """Whether it counts against `AuditReport.ok`."""
        return not (self.accepted or self.notice)


@dataclass(frozen=True)
class AuditReport:
    """What `audit` found.

    Attributes
    ----------
    findings : everything found, in the order of the splits.
    checked : per split: its place, rows and subjects per partition, and which checks were made.
    """

    findings: tuple[Finding, ...]
    checked: tuple[dict[str, Any], ...]

    @property
    def ok(self) -> bool:
        """No finding but accepted ones and notices."""
        return not any(finding.counts for finding in self.findings)

    @property
    def notices(self) -> tuple[Finding, ...]:
        """What could not be checked and is no reason to stop."""
        return tuple(finding for finding in self.findings if finding.notice)

    def to_json(self, *, indent: int | None = 2) -> str:
        """The report as JSON text: ``ok``, ``findings``, ``checked``."""
        record = {
            "ok": self.ok,
            "findings": [asdict(finding) for finding in self.findings],
            "checked": list(self.checked),
        }
        return json.dumps(record, indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        lines = []
        for split in self.checked:
            sizes = ", ".join(f"{part} {n}" for part, n in split["rows"].items())
            lines.append(f"{split['where']}: {sizes}; checked {', '.join(split['checks'])}")
        for finding in self.findings:
            mark = "LEAK" if finding.partitions else "PROBLEM"
            if not finding.counts:
                mark = "accepted" if finding.accepted else "not checked"
            place = f"{finding.where}: " if finding.where else ""
            lines.append(f"[{mark}] {place}{finding.kind}: {finding.message}")
        count = sum(finding.counts for finding in self.findings)
        splits = len(self.checked)
        said = "no leak found" if self.ok else f"{count} finding(s)"
        if self.notices:
            said += f", {len(self.notices)} thing(s) could not be checked"
        lines.append(f"{splits} split(s) checked: {said}")
        return "\n".join(lines)


def audit(
    target: str | PathLike[str] | pd.DataFrame,
    *,
    store: FeatureStore | str | PathLike[str] | None = None,
    statistics: Statistics | str | PathLike[str] | None = None,
    allow: Sequence[str] = (),
    seen: Sequence[str] = (),
    tolerance: float = 1e-4,
) -> AuditReport:
    """Check one split, or every split of a run, for leaks.

    Checked between each pair of train, dev and test: shared subjects, sessions and files, overlapping parts
    of a file, and, given a store, different files with the same bytes (a copy with one sample changed, or in
    another format, is not found). If statistics are stored, mean and sd are computed anew from the training
    rows and must agree; if they do not, they are compared with those of the other partitions and their
    unions, to say what they were fitted on. If ``model.safetensors`` lies beside the split, mean and scale of
    its standardise nodes must agree with the training rows too.

    A model that started from another one (fine-tuning) may have kept the statistics of that one: they then
    say ``fitted_on: initial``, must be those in the model, and must not be those of other rows than the
    training part. Where test rows are of a corpus (column ``corpus`` of the store) that the card of the first
    model names as its data, their speakers may be known to it, and that is a finding. Where test rows name no
    corpus, or the first model was trained on data without a name, nobody can tell: a notice says so.

    Parameters
    ----------
    target : ``split.csv``, a run folder (every ``split.csv`` in it and below is audited), or a table with the
        columns of one; a column ``split`` stands in for ``partition``.
    store : features that the statistics belong to; by default the store named in ``statistics.json``.
    statistics : file or object; by default the ``statistics.json`` beside the split, if there is one.
    allow : kinds of finding that are accepted, for protocols that share, say, subjects on purpose.
    seen : corpora that the initial model was trained on; by default those on the card of the
        ``model.safetensors`` beside the split.
    tolerance : largest difference of a mean or sd, in units of the training sd of that feature.

    Returns
    -------
    AuditReport : with ``ok``, ``findings`` and ``to_json()``; its text is made for people.

    Raises
    ------
    DataError : there is nothing to audit, or a file cannot be read.

    Examples
    --------
    >>> report = audit("runs/ravdess")  # doctest: +SKIP
    >>> assert report.ok, str(report)  # doctest: +SKIP
    """
    for kind in allow:
        _checks.choice(kind, KINDS, "allow")
    _checks.number(tolerance, "tolerance", positive=True)
    pandas = require("pandas", purpose="auditing")
    splits: list[tuple[str, pd.DataFrame, Any, Path | None]] = []
    if isinstance(target, pandas.DataFrame):
        table = target.copy()
        if "partition" not in table and "split" in table:
            table = table.rename(columns={"split": "partition"})
        splits.append(("table", check_split_table(table, "the table"), statistics, None))
    else:
        place = _checks.path(target, "target")
        if not place.exists():
            raise DataError(f"{place}: no such file or folder to audit")
        files = sorted(place.rglob("split.csv")) if place.is_dir() else [place]
        if not files:
            raise DataError(f"{place}: nothing to audit, there is no split.csv in it or below")
        if statistics is not None and len(files) > 1:
            raise InputError(f"statistics can be given for one split only; {place} has {len(files)}")
        for file in files:
            beside = file.with_name("statistics.json")
            found = statistics if statistics is not None else beside if beside.is_file() else None
            model = file.with_name("model.safetensors")
            where = str(file.parent.relative_to(place)) if place.is_dir() else file.name
            name = where if where != "." else place.name
            splits.append((name, read_split(file), found, model if model.is_file() else None))
    findings: list[Finding] = []
    checked: list[dict[str, Any]] = []
    cache = _Moments()
    for where, table, found, model_file in splits:
        audit_one = _Audit(where, table, frozenset(allow))
        audit_one.shared()
        audit_one.features(store, found, model_file, tolerance, cache, seen)
        findings += audit_one.findings
        checked.append(audit_one.summary())
    return AuditReport(tuple(findings), tuple(checked))


class _Moments:
    """Moments per row of the stores in use, so that the folds of one protocol read each recording once."""

    def __init__(self) -> None:
        self._stores: dict[str, FeatureStore] = {}
        self._rows: dict[tuple[str, int], Moments] = {}

    def store(self, source: FeatureStore | str | PathLike[str]) -> FeatureStore:
        if isinstance(source, FeatureStore):
            return self._stores.setdefault(str(source.folder.resolve()), source)
        name = str(_checks.path(source, "store").resolve())
        if name not in self._stores:
            self._stores[name] = FeatureStore(name)
        return self._stores[name]

    def of(self, store: FeatureStore, rows: np.ndarray) -> Moments:
        total = Moments()
        for i in rows:
            key = (str(store.folder.resolve()), int(i))
            if key not in self._rows:
                self._rows[key] = Moments()
                self._rows[key].add(store.counted(int(i)))
            total = total.joined(self._rows[key])
        return total


class _Audit:
    """The checks of one split."""

    def __init__(self, where: str, table: pd.DataFrame, allow: frozenset[str]) -> None:
        self.where, self.table, self.allow = where, table, allow
        self.findings: list[Finding] = []
        self.checks: list[str] = []
        self.parts = {part: table[(table["partition"] == part).to_numpy()] for part in PARTITIONS}

    def summary(self) -> dict[str, Any]:
        return {
            "where": self.where,
            "rows": {part: len(rows) for part, rows in self.parts.items()},
            "subjects": {part: int(rows["subject"].nunique()) for part, rows in self.parts.items()},
            "checks": self.checks,
        }

    def add(
        self,
        kind: str,
        message: str,
        partitions: tuple[str, ...] = (),
        examples: Sequence[Any] = (),
        *,
        notice: bool = False,
    ) -> None:
        shown = tuple(str(example) for example in examples[:5])
        accepted = kind in self.allow
        self.findings.append(Finding(kind, message, partitions, shown, self.where, accepted, notice))

    def pairs(self) -> list[tuple[str, str]]:
        return [
            pair for pair in itertools.combinations(PARTITIONS, 2) if all(len(self.parts[p]) for p in pair)
        ]

    def shared(self) -> None:
        """Subjects, sessions, files and overlapping parts."""
        for part in ("train", "test"):
            if not len(self.parts[part]):
                self.add("partition", f"the split has no {part} rows")
        unknown = self.table["subject"].isna()
        if unknown.any():
            self.add(
                "unknown_subject",
                f"{int(unknown.sum())} of {len(self.table)} rows have no subject",
                examples=self.table["file"][unknown].tolist(),
            )
        for column in ("subject", "session"):
            self.checks.append(column)
            self._common(column, column, self.table[column])
        self.checks += ["file", "window"]
        spans = self._spans()
        for a, b in self.pairs():
            both = sorted(set(spans[a]) & set(spans[b]))
            overlapping = {file: _overlaps(spans[a][file], spans[b][file]) for file in both}
            shared = [f"{file} {text}" for file in both for text in overlapping[file]]
            apart = [file for file in both if not overlapping[file]]
            if shared:
                self.add(
                    "window",
                    f"{len(shared)} pair(s) of overlapping parts are in {a} and {b}: "
                    f"{_checks.some(shared, 3)}",
                    (a, b),
                    shared,
                )
            if apart:
                self.add(
                    "file",
                    f"{len(apart)} file(s) have parts in {a} and {b}: {_checks.some(apart, 3)}",
                    (a, b),
                    apart,
                )

    def _spans(self) -> dict[str, dict[str, list[tuple[float, float]]]]:
        """Partition -> file -> its parts, in seconds."""
        out: dict[str, dict[str, list[tuple[float, float]]]] = {part: {} for part in PARTITIONS}
        rows = self.table[["partition", "file", "start", "end"]].itertuples(index=False)
        for part, file, start, end in rows:
            span = (0.0 if np.isnan(start) else float(start), np.inf if np.isnan(end) else float(end))
            out[part].setdefault(os.path.normpath(file), []).append(span)
        return out

    def _common(self, kind: str, what: str, values: pd.Series) -> None:
        for a, b in self.pairs():
            ours, theirs = (set(values[self.table["partition"] == part].dropna()) for part in (a, b))
            both = sorted(ours & theirs)
            if both:
                self.add(
                    kind, f"{len(both)} {what}(s) are in {a} and {b}: {_checks.some(both)}", (a, b), both
                )

    def features(
        self,
        store: Any,
        statistics: Any,
        model: Path | None,
        tolerance: float,
        cache: _Moments,
        seen: Sequence[str],
    ) -> None:
        """Same content under two names, and where the statistics come from."""
        if model is not None and statistics is None:
            self.add(
                "unverified", f"{model.name} lies here without the statistics.json that it was made with"
            )
        found: dict[str, Statistics] = {}
        if statistics is not None:
            found = {"": statistics} if isinstance(statistics, Statistics) else load_statistics(statistics)
        single = found.get("")
        source = store if store is not None else next((s.store for s in found.values() if s.store), None)
        if not source:
            if found:
                self.add("unverified", "the statistics name no feature store, so they cannot be recomputed")
            return
        try:
            opened = cache.store(source)
            rows = self._store_rows(opened)
        except DataError as error:
            self.add("unverified", f"the feature store cannot be used: {error}")
            return
        self.checks.append("content")
        self._same_content(opened.manifest.table["object"].to_numpy()[rows])
        self._initial(opened.manifest.table.iloc[rows], seen or _seen(model))
        if single is None and statistics is not None:
            self._modalities(found, model, tolerance, cache)
            return
        if single is not None:
            self.checks.append("statistics")
            if single.key and single.key != opened.key:
                self.add(
                    "unverified", "the statistics belong to other feature options than the store holds now"
                )
                return
            self._statistics(single, opened, rows, tolerance, cache)
        if model is not None:
            self.checks.append("model")
            train = rows[(self.table["partition"] == "train").to_numpy()]
            if single is not None and single.fitted_on == INITIAL:
                self._model(model, single, tolerance)
            elif len(train):
                self._model(model, cache.of(opened, train), tolerance)

    def _modalities(
        self, found: Mapping[str, Statistics], model: Path | None, tolerance: float, cache: _Moments
    ) -> None:
        """Statistics of the signals of a run on trials, each against its own store and node."""
        if not found:
            return  # nothing is standardised
        self.checks.append("statistics")
        if model is not None:
            self.checks.append("model")
        for name, stored in found.items():
            if not stored.store:
                self.add("unverified", f"the statistics of {name} name no feature store")
                continue
            try:
                opened = cache.store(stored.store)
                rows = self._store_rows(opened, partial=True)
            except DataError as error:
                self.add("unverified", f"the feature store of {name} cannot be used: {error}")
                continue
            if stored.key != opened.key:
                self.add("unverified", f"the statistics of {name} belong to other options than its store has")
                continue
            self._statistics(stored, opened, rows, tolerance, cache)
            train = rows[(self.table["partition"] == "train").to_numpy()]
            if model is not None and (train >= 0).any():
                fitted = _fitted(cache.of(opened, train[train >= 0]), stored.mode)
                self._model(model, fitted, tolerance, f"{name}_norm")

    def _initial(self, rows: pd.DataFrame, seen: Sequence[str]) -> None:
        """Test rows of a corpus that an initial model was trained on, or perhaps was."""
        tested = rows.reindex(columns=["corpus"])["corpus"][(self.table["partition"] == "test").to_numpy()]
        if not seen or not len(tested):
            return
        if tested.notna().any():
            self.checks.append("initial")
        nameless = UNNAMED in seen
        if nameless or tested.isna().any():
            self.add(
                "unverified",
                f"nothing tells whether the initial model (data: {', '.join(seen)}) was trained on speakers "
                f"of the test part, for {'its data have' if nameless else 'test rows have'} no corpus name; "
                "if it was, the test figures are too good",
                notice=True,
            )
        both = sorted(set(tested.dropna()) & set(seen))
        if both:
            self.add(
                "initial",
                f"{int(tested.isin(both).sum())} test rows are of {', '.join(both)}, which the initial model "
                "was trained on: their speakers may be known to it",
                ("train", "test"),
                both,
            )

    def _model(
        self, file: Path, train: Moments | Statistics, tolerance: float, node: str | None = None
    ) -> None:
        """Mean and scale that the model uses, in `node` or all that standardise, against those of the
        training rows or of the initial model."""
        try:
            model = _native.load(file)
        except AffektError as error:
            self.add("unverified", f"the model cannot be read: {error}")
            return
        tensors = model.tensors()
        names = [
            n["name"]
            for n in model.card["nodes"]
            if n["type"] == "standardise" and (node is None or n["name"] == node)
        ]
        if node is not None and not names:
            self.add("unverified", f"the model has no node {node} to compare with its statistics")
        unit = np.maximum(train.sd, _SD_FLOOR)
        for name in names:
            mean, scale = (tensors[f"{name}.{part}"].astype(np.float64) for part in ("mean", "scale"))
            if mean.shape != train.mean.shape:
                self.add(
                    "unverified",
                    f"node {name} of the model has {len(mean)} means, the features of the store have "
                    f"{len(train.mean)}",
                )
                continue
            # What float32 cannot hold is no difference.
            off_mean = np.maximum(np.abs(mean - train.mean) - 2 * _FLOAT32 * np.abs(train.mean), 0) / unit
            gap = float(max(np.max(off_mean), np.max(np.abs(scale * unit - 1))))
            if not gap <= tolerance:
                self.add(
                    "statistics",
                    f"the mean and scale in the model (node {name}) are not those of the "
                    f"{'initial model' if _is_initial(train) else 'training part'} "
                    f"(largest difference {gap:.3g} sd)",
                    ("train", "test"),
                    [name],
                )

    def _same_content(self, objects: np.ndarray) -> None:
        # Rows of one file are the business of `shared`; here the names differ and the bytes do not.
        names = self.table["file"].map(os.path.normpath).to_numpy()
        part = self.table["partition"].to_numpy()
        for a, b in self.pairs():
            ours, theirs = (dict(zip(objects[part == p], names[part == p], strict=True)) for p in (a, b))
            same = [
                f"{ours[key]} = {theirs[key]}" for key in ours if key in theirs and ours[key] != theirs[key]
            ]
            if same:
                self.add(
                    "content",
                    f"{len(same)} recording(s) of {a} are in {b} under another name: {_checks.some(same, 3)}",
                    (a, b),
                    sorted(same),
                )

    def _store_rows(self, store: FeatureStore, *, partial: bool = False) -> np.ndarray:
        """Row of the store for each row of the split, by file (absolute, or by its ending) and part; with
        `partial`, -1 where the store lacks it."""
        table = store.manifest.table.reindex(columns=["file", "start", "end"])
        index: dict[Any, int] = {}
        by_name: dict[Any, list[int]] = {}
        for i, (file, start, end) in enumerate(table.itertuples(index=False)):
            path, span = os.path.normpath(file), _span(start, end)
            index[path, span] = i
            by_name.setdefault((os.path.basename(path), span), []).append(i)
        rows, lost = [], []
        for file, start, end in self.table[["file", "start", "end"]].itertuples(index=False):
            path, span = os.path.normpath(file), _span(start, end)
            row = index.get((path, span))
            if row is None:
                tail = os.sep + path.lstrip("." + os.sep)
                same = [
                    i
                    for i in by_name.get((os.path.basename(path), span), [])
                    if os.path.normpath(table["file"].iloc[i]).endswith(tail)
                ]
                row = same[0] if len(same) == 1 else None
            if row is None:
                lost.append(file)
            rows.append(-1 if row is None else row)
        if lost and not partial:
            raise DataError(f"{store.folder}: lacks {len(lost)} row(s) of the split: {_checks.some(lost, 3)}")
        return np.array(rows, dtype=np.int64)

    def _statistics(
        self, stored: Statistics, store: FeatureStore, rows: np.ndarray, tolerance: float, cache: _Moments
    ) -> None:
        which = self.table["partition"].to_numpy(dtype=object)
        present = [part for part in PARTITIONS if (which == part).any()]
        moments = {part: cache.of(store, rows[(which == part) & (rows >= 0)]) for part in present}
        moments = {part: found for part, found in moments.items() if found.count}
        present = list(moments)
        if "train" not in moments:
            return
        train = _fitted(moments["train"], stored.mode)
        if train.mean.shape != stored.mean.shape:
            self.add(
                "statistics",
                f"the stored mean has {len(stored.mean)} values, the features of the store have "
                f"{len(train.mean)}",
            )
            return
        joint: dict[str, Moments] = {}
        for size in range(1, len(present) + 1):
            for parts in itertools.combinations(present, size):
                total = Moments()
                for part in parts:
                    total = total.joined(moments[part])
                joint["+".join(parts)] = total
        if len(store) > len(rows):
            joint["the whole store"] = cache.of(store, np.arange(len(store)))
        candidates = {name: _fitted(total, stored.mode) for name, total in joint.items()}
        # A feature that does not vary in the training part has no unit to measure in; its mean then sets one.
        unit = np.where(train.sd > 0, train.sd, np.maximum(np.abs(train.mean), 1.0))
        gap = {
            name: float(
                max(
                    np.max(np.abs(stored.mean - other.mean) / unit),
                    np.max(np.abs(stored.sd - other.sd) / unit),
                )
            )
            for name, other in candidates.items()
        }
        if stored.fitted_on == INITIAL:
            leaking = [name for name in candidates if name != "train" and gap[name] <= tolerance]
            if leaking:
                self.add(
                    "statistics",
                    f"the stored mean and sd are said to be the initial model's, but are of {leaking[0]}",
                    ("train", "test"),
                    leaking,
                )
            return
        nearest = min(gap, key=lambda name: (gap[name], name != "train"))
        same_count = stored.count == train.count
        if gap["train"] <= tolerance and same_count and stored.fitted_on == "train":
            return
        if gap[nearest] <= tolerance and nearest != "train":
            guess = f"they match {nearest}"
        elif gap["train"] <= tolerance and same_count:
            guess = f"their values match, but they say that they were fitted on {stored.fitted_on!r}"
        elif gap["train"] <= tolerance:
            guess = (
                f"their values match train but their count is {stored.count}, train has {train.count} frames"
            )
        else:
            guess = f"the nearest candidate, {nearest}, differs by {gap[nearest]:.3g} sd"
        self.add(
            "statistics",
            "the stored mean and sd are not those of the training part (largest difference "
            f"{gap['train']:.3g} sd; {stored.count} frames stored, {train.count} in train): {guess}",
            ("train", "test"),
            [nearest],
        )


def _seen(model: Path | None) -> list[str]:
    """Data of the initial model on the card of `model`; a file that cannot be read is reported elsewhere."""
    try:
        card = _native.load(model).card if model is not None else {}
    except AffektError:
        return []
    return list((card.get("info", {}).get("initial_model") or {}).get("data", ()))


def _fitted(moments: Moments, mode: str) -> Statistics:
    """What statistics of these rows would be."""
    found = Statistics(moments.mean, moments.sd, moments.count)
    return found.scalar() if mode == "scalar" else found


def _is_initial(statistics: Moments | Statistics) -> bool:
    return isinstance(statistics, Statistics) and statistics.fitted_on == INITIAL


def _overlaps(ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> list[str]:
    """Pairs of parts that share samples; parts that only touch do not."""
    return [
        f"[{start:g}, {end:g}) s and [{other_start:g}, {other_end:g}) s"
        for start, end in ours
        for other_start, other_end in theirs
        if start < other_end and other_start < end
    ]


def _span(start: float, end: float) -> tuple[float, float]:
    """Part of a file as a key that survives CSV."""
    return (
        0.0 if np.isnan(start) else round(float(start), 6),
        -1.0 if np.isnan(end) else round(float(end), 6),
    )
