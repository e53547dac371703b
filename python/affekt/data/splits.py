"""Partitions of a manifest that keep groups (speakers, subjects, sessions) apart, and their form on disk.

On disk a split is ``split.csv`` in the folder of a run, one row per used row of the manifest, with the
columns ``file, start, end, subject, session, partition`` and, where known, ``row`` (its number in the
manifest or store); `partition` is ``train``, ``dev`` or ``test``. Beside it lies ``statistics.json`` (see
`affekt.data.Statistics`). `audit` reads both.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.data.manifest import Manifest, read_csv
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "PARTITIONS",
    "Split",
    "group_kfold",
    "leave_one_group_out",
    "listed_folds",
    "published_folds",
    "random_split",
    "read_split",
    "row_kfold",
    "split_halves",
    "split_kfold",
]

PARTITIONS = ("train", "dev", "test")

Dev: TypeAlias = "int | float | Sequence[str] | None"


@dataclass(frozen=True, eq=False)
class Split:
    """Row numbers of one fold.

    Attributes
    ----------
    train, dev, test : sorted int64 arrays of row numbers, disjoint; `dev` may be empty.
    name : for folders and tables, e.g. ``"fold_1"``.
    grouped_by : column whose values the partitions do not share, or None for a split that does not keep
        groups apart.
    missing : clips that the source of the split names and the manifest lacks (`published_folds`).
    """

    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray
    name: str = "split"
    grouped_by: str | None = field(default=None)
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for part in PARTITIONS:
            rows = np.asarray(getattr(self, part))
            if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
                raise InputError(f"{part} must be a list of row numbers; got {_checks.show(rows)}")
            object.__setattr__(self, part, np.sort(rows.astype(np.int64)))
        rows = np.concatenate([self.train, self.dev, self.test])
        values, counts = np.unique(rows, return_counts=True)
        if (counts > 1).any():
            raise DataError(
                f"split {self.name!r}: {int((counts > 1).sum())} row(s) are in more than one partition, the "
                f"first is row {int(values[counts > 1][0])}"
            )
        if rows.size and rows.min() < 0:
            raise InputError(f"split {self.name!r}: row numbers must not be negative; got {int(rows.min())}")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{part} {len(getattr(self, part))}" for part in PARTITIONS)
        return f"Split({self.name}: {sizes})"

    def __str__(self) -> str:
        train, dev, test = (len(getattr(self, part)) for part in PARTITIONS)
        return f"{train} recordings to train, {dev} for development, {test} to test"

    def table(self, manifest: Manifest) -> pd.DataFrame:
        """The split as it is stored: a DataFrame of the used rows in the order of the manifest."""
        rows = np.concatenate([self.train, self.dev, self.test])
        if rows.size and rows.max() >= len(manifest):
            raise InputError(
                f"split {self.name!r} names row {int(rows.max())} of a manifest of {len(manifest)} rows"
            )
        parts = np.repeat(PARTITIONS, [len(self.train), len(self.dev), len(self.test)])
        order = np.argsort(rows)
        used = manifest.table.iloc[rows[order]]
        table = used.reindex(columns=["file", "start", "end", "subject", "session"]).reset_index(drop=True)
        table["partition"] = parts[order]
        table["row"] = rows[order]
        return table

    def save(self, path: str | PathLike[str], manifest: Manifest) -> Path:
        """Write ``split.csv`` (into `path` if that is a folder)."""
        file = _checks.path(path, "path")
        file = file / "split.csv" if file.is_dir() else file
        self.table(manifest).to_csv(file, index=False)
        return file


def read_split(path: str | PathLike[str]) -> pd.DataFrame:
    """The table of a ``split.csv`` (or of the one in the folder `path`), identifiers as text.

    Raises
    ------
    DataError : no such file, not a table, a column is missing, or a partition has an unknown name.
    """
    file = _checks.path(path, "path")
    file = file / "split.csv" if file.is_dir() else file
    if not file.is_file():
        raise DataError(f"{file}: no such split")
    try:
        table = read_csv(file, ("file", "subject", "session", "partition"))
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: cannot be read as a table ({error})") from error
    return check_split_table(table, str(file))


def check_split_table(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """`table` with every column of a stored split, or a `DataError` that names `origin`."""
    pandas = require("pandas", purpose="reading splits")
    missing = [name for name in ("file", "partition") if name not in table]
    if missing:
        raise DataError(
            f"{origin}: missing column(s) {', '.join(missing)}; it has {', '.join(map(str, table))}"
        )
    if not len(table):
        raise DataError(f"{origin}: the split has no rows")
    unknown = sorted({str(name) for name in table["partition"]} - set(PARTITIONS))
    if unknown:
        raise DataError(f"{origin}: partition must be one of train, dev, test; got {', '.join(unknown)}")
    table = table.reset_index(drop=True).copy()
    for name in ("subject", "session"):
        if name not in table:
            table[name] = None
    for name in ("start", "end"):
        column = table[name] if name in table else pandas.Series(np.nan, index=table.index)
        try:
            table[name] = pandas.to_numeric(column).astype(np.float64)
        except (ValueError, TypeError) as error:
            raise DataError(f"{origin}: {name} must be numbers ({error})") from error
    return table


def group_kfold(
    groups: Manifest | Sequence[Hashable] | np.ndarray,
    k: int,
    *,
    seed: int = 0,
    dev: Dev = None,
    column: str = "subject",
) -> list[Split]:
    """K folds without shared groups, balanced by number of rows.

    Groups are taken from the largest to the smallest, each to the fold with the fewest rows so far, as
    scikit-learn's ``GroupKFold`` does; groups of one size (all of them, in most corpora) are dealt in an
    order drawn from `seed`. The same arguments give the same folds on every machine and with every version.

    Parameters
    ----------
    groups : group of each row, or a manifest, whose `column` is used.
    k : number of folds, from 2 to the number of groups.
    seed : of the draw among equal groups and of the development groups.
    dev : development groups carved out of each fold's training groups, never out of its test groups: a number
        of groups, a fraction of the training groups (0 < f < 1, at least one group), a list of group names
        (fixed development groups; those in the test part of a fold stay there), or None for none.
    column : grouping column of a manifest.

    Returns
    -------
    list of `Split` named ``fold_1 ... fold_k``; each row is in exactly one test part.

    Raises
    ------
    DataError : fewer than two groups, or no training group would be left.
    InputError : `k` or `dev` out of range.
    """
    names = _groups(groups, column)
    unique, code = _encode(names)
    k = _checks.integer(k, "k", low=2)
    if k > len(unique):
        raise InputError(f"k must not exceed the number of groups, {len(unique)}; got {k}")
    seed = _checks.integer(seed, "seed", low=0)
    sizes = np.bincount(code)
    drawn = _drawn(unique, "folds", seed)
    order = sorted(drawn, key=lambda group: -int(sizes[group]))
    load = np.zeros(k, dtype=np.int64)
    fold_of = np.empty(len(unique), dtype=np.int64)
    for group in order:
        fold = int(np.argmin(load))
        fold_of[group] = fold
        load[fold] += sizes[group]
    held = [np.flatnonzero(fold_of == fold) for fold in range(k)]
    return [
        _grouped(code, unique, test, f"fold_{i + 1}", dev, (seed, i), column) for i, test in enumerate(held)
    ]


def leave_one_group_out(
    groups: Manifest | Sequence[Hashable] | np.ndarray,
    *,
    seed: int = 0,
    dev: Dev = None,
    column: str = "subject",
    dev_by: str = "group",
) -> list[Split]:
    """One fold per group, in sorted order, named after the group that is tested.

    Parameters and errors are those of `group_kfold`; beside them

    dev_by : ``"group"``, or ``"row"``: `dev` is a share of the training *rows*, drawn one by one, whose
        groups train too (as published protocols have it; the development figures then know their speakers).
    """
    names = _groups(groups, column)
    unique, code = _encode(names)
    seed = _checks.integer(seed, "seed", low=0)
    _checks.choice(dev_by, ("group", "row"), "dev_by")
    by_row = dev_by == "row" and dev is not None
    splits = [
        _grouped(code, unique, np.array([i]), _safe(name), None if by_row else dev, (seed, i), column)
        for i, name in enumerate(unique)
    ]
    if not by_row:
        return splits
    return [_carve_rows(split, dev, (seed, i)) for i, split in enumerate(splits)]


def row_kfold(rows: Manifest | int, k: int, *, seed: int = 0, dev: float | int = 0.4) -> list[Split]:
    """`k` folds of single rows that look at no group: the same subjects train and are tested.

    Rows are shuffled once; the k test parts tile them, the first ones larger by one where n is no multiple
    of k. The other rows of each fold are shuffled anew and cut into training and development. The figures are
    those of people whom the model knows ("trial-wise random shuffling", TRS).

    Parameters
    ----------
    rows : manifest, or number of rows.
    k : number of folds, from 2 to the number of rows.
    seed : of all draws. The same arguments give the same folds on every machine and with every version.
    dev : share of the rows that are not tested, or their number.

    Returns
    -------
    list of `Split` named ``fold_1 ... fold_k``; `grouped_by` is None.

    >>> [(len(s.train), len(s.dev), len(s.test)) for s in row_kfold(239, 10)][::9]
    [(129, 86, 24), (130, 86, 23)]
    """
    count = len(rows) if isinstance(rows, Manifest) else _checks.integer(rows, "rows", low=2)
    k = _checks.integer(k, "k", low=2)
    seed = _checks.integer(seed, "seed", low=0)
    if k > count:
        raise InputError(f"k must not exceed the number of rows, {count}; got {k}")
    order = np.array(_drawn([str(i) for i in range(count)], "rows", seed), dtype=np.int64)
    out = []
    for i, test in enumerate(np.array_split(order, k)):
        rest = np.setdiff1d(order, test)
        split = Split(rest, np.array([], np.int64), test, f"fold_{i + 1}")
        out.append(_carve_rows(split, dev, (seed, i)))
    return out


def split_kfold(manifest: Manifest, k: int = 5) -> list[Split]:
    """k + 1 folds around a published partition (the column ``split``): fold_1 is the published one; in fold
    i + 1 the i-th of k consecutive stretches of its training rows is the development part, and all other
    training and development rows train.

    The stretches follow the order of the table; row j of n is in stretch floor(j k / n), so that 341 rows
    make 68, 68, 68, 68, 69. The test part is the published one in every fold, and may be empty.

    Raises
    ------
    DataError : the column lacks train or dev, or holds something else.
    """
    train_rows, dev_rows, test_rows = _published(manifest)
    k = _checks.integer(k, "k", low=2, high=len(train_rows))
    splits = [Split(train_rows, dev_rows, test_rows, "fold_1", _kept_apart(manifest, train_rows, dev_rows))]
    edges = [len(train_rows) * i // k for i in range(k + 1)]
    for i, (begin, end) in enumerate(itertools.pairwise(edges)):
        held = train_rows[begin:end]
        rest = np.concatenate([np.setdiff1d(train_rows, held), dev_rows])
        splits.append(Split(rest, held, test_rows, f"fold_{i + 2}", _kept_apart(manifest, rest, held)))
    return splits


def split_halves(
    manifest: Manifest, *, seed: int = 0, column: str = "subject", strata: str | None = None
) -> Split:
    """A published development part cut at random into a new development and a new test part, for corpora
    whose own test labels are not published. Groups stay together; training rows stay; rows of the published
    test part take no part.

    Parameters
    ----------
    seed : of the draw. column : of the groups.
    strata : column of which each half gets the same number of groups per value (the larger half tests, where
        a value has an odd number).

    Raises
    ------
    DataError : the column ``split`` lacks train or dev; a value of `strata` has a single group, or a group
        several values.
    """
    train_rows, dev_rows, _ = _published(manifest)
    seed = _checks.integer(seed, "seed", low=0)
    groups = manifest.groups(column)[dev_rows]
    kinds = np.full(len(dev_rows), "") if strata is None else manifest.groups(strata)[dev_rows]
    chosen: set[str] = set()
    for kind in sorted(set(kinds)):
        names = sorted(set(groups[kinds == kind]))
        if len(names) < 2:
            raise DataError(
                f"the development part has {len(names)} {column}(s) of {strata or 'any kind'} {kind!r}; both "
                "halves need one"
            )
        drawn = _drawn(names, "halves", kind, seed)
        chosen |= {names[i] for i in drawn[: len(names) // 2]}
    for name in sorted(set(groups)):
        if len(set(kinds[groups == name])) > 1:
            raise DataError(f"{column} {name!r} has several values of {strata!r}")
    moved = np.isin(groups.astype(str), sorted(chosen))
    return Split(train_rows, dev_rows[moved], dev_rows[~moved], "halves", column)


def _published(manifest: Manifest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the published partition, which must have a training and a development part."""
    parts = manifest.groups("split")
    strangers = sorted(set(parts) - set(PARTITIONS))
    lacking = [name for name in ("train", "dev") if name not in set(parts)]
    if strangers or lacking:
        raise DataError(
            "the column 'split' must hold train, dev and perhaps test; it "
            + (f"also has {_checks.some(strangers)}" if strangers else f"lacks {' and '.join(lacking)}")
        )
    train_rows, dev_rows, test_rows = (np.flatnonzero(parts == name) for name in PARTITIONS)
    return train_rows, dev_rows, test_rows


def _kept_apart(manifest: Manifest, train_rows: np.ndarray, dev_rows: np.ndarray) -> str | None:
    """ "subject" where the two parts share none, else None."""
    if "subject" not in manifest.table:
        return None
    names = manifest.groups()
    return None if set(names[train_rows]) & set(names[dev_rows]) else "subject"


def _carve_rows(split: Split, dev: Any, key: tuple[int, int]) -> Split:
    """Move single rows out of the training part."""
    if isinstance(dev, (list, tuple, set, frozenset, np.ndarray)):
        raise InputError(
            f"dev must be a share or a number of rows where they are drawn one by one; got {dev!r}"
        )
    count = _count(dev, len(split.train), "dev", where=f" of split {split.name!r}", what="row")
    order = _drawn([str(row) for row in split.train], "dev rows", *key)
    moved = np.zeros(len(split.train), dtype=bool)
    moved[order[:count]] = True
    return replace(split, train=split.train[~moved], dev=split.train[moved])


def listed_folds(
    groups: Manifest | Sequence[Hashable] | np.ndarray,
    tests: Sequence[Sequence[str]],
    *,
    seed: int = 0,
    dev: Dev = None,
    column: str = "subject",
) -> list[Split]:
    """One fold per list of test groups, named ``fold_1, fold_2, ...``: published speaker folds, for one.

    Parameters
    ----------
    tests : names of the groups that each fold tests; all other groups train.
    groups, dev, seed, column : as for `group_kfold`.

    Raises
    ------
    DataError : a list names a group that is not there.
    InputError : no list, an empty one, or a group in two of them.
    """
    unique, code = _encode(_groups(groups, column))
    seed = _checks.integer(seed, "seed", low=0)
    place = {str(name): i for i, name in enumerate(unique)}
    named = [str(name) for test in tests for name in test]
    if not named or not all(len(test) for test in tests):
        raise InputError(f"tests must hold at least one group per fold; got {_checks.show(tests)}")
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise InputError(f"tests must name each group once; got {_checks.some(twice)} more than once")
    absent = [name for name in named if name not in place]
    if absent:
        raise DataError(
            f"the folds test {column} {_checks.some(absent)}, of whom there is no recording; "
            f"there are {_checks.some(sorted(place))}"
        )
    return [
        _grouped(
            code,
            unique,
            np.array(sorted(place[str(n)] for n in test)),
            f"fold_{i + 1}",
            dev,
            (seed, i),
            column,
        )
        for i, test in enumerate(tests)
    ]


def random_split(
    groups: Manifest | Sequence[Hashable] | np.ndarray,
    *,
    test: float | int = 0.2,
    dev: Dev = None,
    seed: int = 0,
    column: str = "subject",
) -> Split:
    """One split with randomly drawn test groups; rows of one group stay together.

    Parameters
    ----------
    test : fraction of the groups (at least one) or number of groups.
    groups, dev, seed, column : as for `group_kfold`.
    """
    unique, code = _encode(_groups(groups, column))
    seed = _checks.integer(seed, "seed", low=0)
    count = _count(test, len(unique), "test")
    drawn = np.array(_drawn(unique, "test", seed)[:count])
    return _grouped(code, unique, drawn, "random", dev, (seed, 0), column)


def published_folds(
    source: str | PathLike[str] | Sequence[tuple[str | PathLike[str], str | PathLike[str]]],
    manifest: Manifest,
    *,
    seed: int = 0,
    dev: Dev = None,
    column: str = "subject",
    on_missing: str = "raise",
) -> list[Split]:
    """Folds that others published as files, so that figures can be compared.

    The files are JSON lines with a ``key`` per clip, ``<corpus>-<clip name>``, in pairs named
    ``<corpus>_train_fold_<k>.jsonl`` and ``<corpus>_test_fold_<k>.jsonl``. A clip is found in the manifest by
    the stem of its file.

    Parameters
    ----------
    source : folder with such pairs, or a list of (train file, test file).
    manifest : the recordings; rows that no fold names take no part.
    seed, dev, column : development groups carved out of the training part, as for `group_kfold`; the
        published test part is never touched.
    on_missing : what to do about clips of the files that the manifest lacks: ``"raise"``, or ``"skip"`` and
        list them in the split's `missing`.

    Returns
    -------
    list of `Split` named ``fold_<k>`` in the order of k. `grouped_by` is set where the published parts share
        no group; where they do share one that is kept, as published, and `audit` will say so.
    """
    _checks.choice(on_missing, ("raise", "skip"), "on_missing")
    seed = _checks.integer(seed, "seed", low=0)
    pairs = _fold_files(source)
    by_stem: dict[str, int] = {}
    for i, file in enumerate(manifest.table["file"]):
        stem = Path(file).stem
        if stem in by_stem:
            raise DataError(
                f"the manifest has {stem!r} in rows {by_stem[stem]} and {i}; published folds need one row "
                "per clip"
            )
        by_stem[stem] = i
    has_groups = column in manifest.table
    if dev is not None and not has_groups:
        raise DataError(f"the manifest has no column {column!r} to carve development groups by")
    out = []
    for number, (name, train_file, test_file) in enumerate(pairs):
        parts, missing = [], []
        for file in (train_file, test_file):
            keys = _fold_keys(file)
            missing += [key for key in keys if key not in by_stem]
            parts.append(np.array([by_stem[key] for key in keys if key in by_stem], dtype=np.int64))
        if missing and on_missing == "raise":
            raise DataError(
                f"{name}: the manifest lacks {len(missing)} clip(s) of the published fold: "
                f"{_checks.some(missing)} (on_missing='skip' leaves them out)"
            )
        if not len(parts[0]) or not len(parts[1]):
            raise DataError(
                f"{name}: no clip of {train_file if not len(parts[0]) else test_file} is in the manifest"
            )
        split = Split(parts[0], np.array([], np.int64), parts[1], name, missing=tuple(missing))
        if has_groups:
            groups = manifest.groups(column)
            if not set(groups[split.train]) & set(groups[split.test]):
                split = replace(split, grouped_by=column)
            split = _carve(split, groups, dev, (seed, number))
        out.append(split)
    return out


def _groups(groups: Any, column: str) -> np.ndarray:
    if isinstance(groups, Manifest):
        return groups.groups(column)
    if isinstance(groups, str) or not isinstance(groups, Iterable):
        raise InputError(f"groups must be a manifest or one value per row; got {_checks.show(groups)}")
    values = list(groups)
    if any(value is None or value != value for value in values):
        raise DataError("groups must have a value in every row; some are missing")
    return np.array([str(value) for value in values], dtype=object)


def _encode(names: np.ndarray) -> tuple[list[str], np.ndarray]:
    unique = sorted(set(names))
    if len(unique) < 2:
        raise DataError(
            f"a split that keeps groups apart needs at least 2 groups; got {len(unique)}"
            + (f" ({unique[0]!r})" if unique else "")
        )
    number = {name: i for i, name in enumerate(unique)}
    return unique, np.array([number[name] for name in names], dtype=np.int64)


def _grouped(
    code: np.ndarray,
    unique: list[str],
    test: np.ndarray,
    name: str,
    dev: Dev,
    key: tuple[int, int],
    column: str,
) -> Split:
    tested = np.isin(code, test)
    split = Split(np.flatnonzero(~tested), np.array([], np.int64), np.flatnonzero(tested), name, column)
    return _carve(split, np.array(unique, dtype=object)[code], dev, key)


def _carve(split: Split, groups: np.ndarray, dev: Dev, key: tuple[int, int]) -> Split:
    """Move development groups out of the training part."""
    if dev is None:
        return split
    available = sorted(set(groups[split.train]))
    if isinstance(dev, (int, float, np.integer, np.floating)) and not isinstance(dev, bool):
        count = _count(dev, len(available), "dev", where=f" of split {split.name!r}")
        chosen = {available[i] for i in _drawn(available, "dev", *key)[:count]}
    elif isinstance(dev, (list, tuple, set, frozenset, np.ndarray)):
        chosen = {str(name) for name in dev}
        unknown = sorted(chosen - set(groups))
        if unknown:
            raise InputError(f"dev names group(s) that do not exist: {_checks.some(unknown)}")
        chosen &= set(available)
        if not chosen or len(chosen) == len(available):
            raise DataError(
                f"split {split.name!r}: the fixed development groups leave it {len(chosen)} development and "
                f"{len(available) - len(chosen)} training groups; both need at least 1"
            )
    else:
        raise InputError(f"dev must be None, a number or fraction of groups, or a list of names; got {dev!r}")
    moved = np.isin(groups[split.train].astype(str), sorted(chosen))
    return replace(split, train=split.train[~moved], dev=split.train[moved])


def _count(value: float | int, available: int, name: str, where: str = "", what: str = "group") -> int:
    """A number or fraction of groups as a number that leaves at least one."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        count = _checks.integer(value, name, low=1)
    else:
        fraction = _checks.number(value, name)
        if not 0 < fraction < 1:
            raise InputError(
                f"{name} must be a number of {what}s or a fraction between 0 and 1; got {value!r}"
            )
        count = max(1, round(fraction * available))
    if count >= available:
        raise DataError(
            f"{name} = {value} takes all {available} {what}(s){where}; at least 1 must be left to train on"
        )
    return count


def _drawn(names: list[str], *key: object) -> list[int]:
    """Numbers of `names` in a random order that depends on `key` and the names only.

    Sorted by a hash, not drawn from a generator: generators may change between versions of a library, folds
    that results were published on may not.
    """
    salt = "/".join(map(str, key))
    return sorted(range(len(names)), key=lambda i: hashlib.sha256(f"{salt}/{names[i]}".encode()).digest())


def _safe(name: str) -> str:
    """`name` as a folder name."""
    return re.sub(r"[^\w.+-]", "_", name).lstrip(".") or "_"


def _fold_files(source: Any) -> list[tuple[str, Path, Path]]:
    if isinstance(source, (str, PathLike)):
        folder = _checks.path(source, "source")
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of published folds")
        shape = re.compile(r"(.*?)_?(train|test)_fold_(\d+)\.jsonl")
        found: dict[tuple[str, int], dict[str, Path]] = {}
        for file in sorted(folder.iterdir()):
            if match := shape.fullmatch(file.name):
                found.setdefault((match[1], int(match[3])), {})[match[2]] = file
        if len({corpus for corpus, _ in found}) > 1:
            corpora = ", ".join(sorted({corpus for corpus, _ in found}))
            raise DataError(f"{folder}: folds of several corpora ({corpora}); pass the pairs of files")
        broken = [
            f"fold {k} has no {part} file"
            for (_, k), pair in found.items()
            for part in {"train", "test"} - set(pair)
        ]
        if broken or not found:
            raise DataError(f"{folder}: {', '.join(broken) or 'no file like ravdess_train_fold_1.jsonl'}")
        return [(f"fold_{k}", pair["train"], pair["test"]) for (_, k), pair in sorted(found.items())]
    try:
        pairs = [tuple(_checks.path(file, "source") for file in pair) for pair in source]
    except TypeError:
        raise InputError(f"source must be a folder or (train, test) pairs of files; got {source!r}") from None
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise InputError(
            f"source must be a folder or (train, test) pairs of files; got {_checks.show(source)}"
        )
    return [(f"fold_{i + 1}", train, test) for i, (train, test) in enumerate(pairs)]


def _fold_keys(file: Path) -> list[str]:
    """Clip names of one fold file, without the corpus prefix."""
    if not file.is_file():
        raise DataError(f"{file}: no such fold file")
    keys = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            key, dataset = (entry := json.loads(line))["key"], entry.get("dataset")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file}, line {number}: expected a JSON object with a 'key' ({error!r})"
            ) from error
        prefix = f"{dataset}-" if dataset else key.partition("-")[0] + "-"
        keys.append(key[len(prefix) :] if key.startswith(prefix) else key)
    if not keys:
        raise DataError(f"{file}: the fold file is empty")
    if len(set(keys)) != len(keys):
        raise DataError(f"{file}: {len(keys) - len(set(keys))} clip(s) are listed more than once")
    return keys
