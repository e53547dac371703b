"""Where the rows of a trial's signals come from: files to rows, one kind of source per kind of file.

A source reads the file of one signal of one trial and gives its rows at a steady rate; `affekt.data.prepare`
caches them. Kinds are registered by name, so that a configuration can ask for one: `make_source`.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from affekt import _checks
from affekt._checks import nearest
from affekt._lazy import require
from affekt.data.manifest import Place, read_csv
from affekt.errors import DataError, InputError

__all__ = ["Matrix", "Rows", "Source", "Trace", "list_sources", "make_source", "source"]


class Rows(NamedTuple):
    """What a source gives.

    Attributes
    ----------
    values : ``(rows, ...)``, float32 or uint8.
    present : bool ``(rows,)``, False where there was nothing to see or hear; None: everywhere. The values of
        absent rows do not matter.
    gaps : whether NaN in `values` means "unknown" (labels); otherwise it is an error.
    """

    values: np.ndarray
    present: np.ndarray | None = None
    gaps: bool = False


class Source:
    """Base of all sources.

    A subclass sets `kind` by `source`, and defines `rate`, `shape`, `options` and `rows`.

    Attributes
    ----------
    kind : name in configurations.
    rate : rows per second.
    shape : of one row, e.g. ``(192,)``.
    options : everything that the rows depend on, as plain JSON values.
    lookahead : seconds after its time that a row looks ahead; 0 for a source that can run live.
    """

    kind: ClassVar[str] = ""
    rate: float
    shape: tuple[int, ...]
    options: dict[str, Any]
    lookahead: float = 0.0

    def rows(self, place: Place) -> Rows:
        """The rows of one signal.

        Raises
        ------
        DataError : the file is missing, broken, or not what the options say.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


_KINDS: dict[str, type[Source]] = {}
# Kind -> module of those that are loaded when asked for.
_LAZY: dict[str, str] = {}
_Class = TypeVar("_Class", bound=type[Source])


def source(kind: str) -> Callable[[_Class], _Class]:
    """Class decorator: make a source available as ``make_source(kind)``."""

    def add(cls: _Class) -> _Class:
        if kind in _KINDS and _KINDS[kind] is not cls:
            raise InputError(f"a source of kind {kind!r} is registered already: {_KINDS[kind].__name__}")
        cls.kind = kind
        _KINDS[kind] = cls
        return cls

    return add


def list_sources() -> list[str]:
    """The kinds that `make_source` knows."""
    return sorted({*_KINDS, *_LAZY})


def make_source(kind: str, **options: Any) -> Source:
    """A source by its kind.

    Raises
    ------
    InputError : unknown kind or option (the nearest known one is named), or a value out of range.

    >>> make_source("matrix", rate=4, features=192).shape
    (192,)
    """
    if kind not in _KINDS and kind in _LAZY:
        importlib.import_module(_LAZY[kind])
    if kind not in _KINDS:
        raise InputError(f"unknown kind of source {kind!r}: {nearest(str(kind), list_sources())}")
    cls = _KINDS[kind]
    known = inspect.signature(cls).parameters
    for name in options:
        if name not in known:
            raise InputError(f"unknown option {name!r} of the source {kind!r}: {nearest(name, known)}")
    missing = [n for n, p in known.items() if p.default is inspect.Parameter.empty and n not in options]
    if missing:
        raise InputError(f"the source {kind!r} needs {', '.join(missing)}")
    return cls(**options)


@source("matrix")
class Matrix(Source):
    """Ready rows: a matrix (time, features) per trial, as people share them.

    Files: ``.npy``; ``.npz`` and MATLAB ``.mat`` (before 7.3) with the matrix under the place's key, `key`,
    or as their only one; ``.csv``, ``.tsv``, ``.txt`` and ``.parquet`` with a column per feature. A vector is
    one feature. A row with NaN in it is absent.

    Parameters
    ----------
    rate : rows per second.
    features : how many there must be; None takes what comes.
    key : name in the file where the manifest has none.
    columns : of a table, in this order; None: all.
    """

    def __init__(
        self,
        *,
        rate: float,
        features: int | None = None,
        key: str | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self.rate = _checks.number(rate, "rate", positive=True)
        self.features = None if features is None else _checks.integer(features, "features", low=1)
        self.key = key
        self.columns = None if columns is None else [str(name) for name in columns]
        self.shape = () if self.features is None else (self.features,)
        self.options = {
            "rate": self.rate,
            "features": self.features,
            "key": self.key,
            "columns": self.columns,
        }

    def rows(self, place: Place) -> Rows:
        values = self.matrix(place)
        present = ~np.isnan(values).any(axis=1)
        return Rows(values, None if present.all() else present)

    def matrix(self, place: Place) -> np.ndarray:
        """float32 (rows, features) as they stand in the file, the part that `place` names."""
        key = self.key if place.key is None else place.key
        values = _read_matrix(place.file, key, self.columns)
        if values.ndim == 1:
            values = values[:, None]
        if values.ndim != 2:
            raise DataError(f"{place.file}: expected a matrix (time, features), got shape {values.shape}")
        if self.features is not None and values.shape[1] != self.features:
            hint = " (time and features exchanged?)" if values.shape[0] == self.features else ""
            raise DataError(
                f"{place.file}: expected {self.features} features, got shape {values.shape}{hint}"
            )
        begin = round(place.start * self.rate)
        end = len(values) if place.end is None else round(place.end * self.rate)
        if place.end is not None and end > len(values) + max(1, self.rate):
            raise DataError(
                f"{place.file}: the part to {place.end:g} s lies beyond its {len(values) / self.rate:g} s"
            )
        values = values[begin:end]
        if not len(values):
            raise DataError(f"{place.file}: no rows in it from {place.start:g} s on")
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        if np.isinf(values).any():
            raise DataError(f"{place.file}: holds infinite values")
        return values


@source("trace")
class Trace(Matrix):
    """Label traces: one column per label, NaN where nobody labelled, in [-1, 1].

    Parameters
    ----------
    rate : labels per second.
    labels : names of the columns; those of a table, and the order of those of a matrix.
    key : as for `Matrix`.
    invalid : value that marks a step without a label (-5 in Aff-Wild2), beside NaN.
    scale : (lowest, highest) in the file, mapped to [-1, 1]; None: the labels are in [-1, 1] already.
    shift : seconds that the labels lag behind what they label: the label of step i is the one that the file
        has `shift` later, its last one repeated at the end.
    """

    def __init__(
        self,
        *,
        rate: float,
        labels: Sequence[str],
        key: str | None = None,
        invalid: float | None = None,
        scale: Sequence[float] | None = None,
        shift: float = 0.0,
    ) -> None:
        self.labels = [str(name) for name in labels]
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise InputError(f"labels must be distinct names, at least one; got {labels!r}")
        super().__init__(rate=rate, features=len(self.labels), key=key, columns=self.labels)
        self.invalid = None if invalid is None else _checks.number(invalid, "invalid")
        self.scale = (-1.0, 1.0)
        if scale is not None:
            if len(scale) != 2 or not scale[1] > scale[0]:
                raise InputError(f"scale must be (lowest, highest); got {scale!r}")
            self.scale = (float(scale[0]), float(scale[1]))
        self.shift = _checks.number(shift, "shift", low=0)
        self.options = {
            "rate": self.rate,
            "labels": self.labels,
            "key": self.key,
            "invalid": self.invalid,
            "scale": list(self.scale),
            "shift": self.shift,
        }

    def rows(self, place: Place) -> Rows:
        values = self.matrix(place).astype(np.float64)
        if self.invalid is not None:
            values[values == np.float32(self.invalid)] = np.nan
        low, high = self.scale
        outside = (values < low - 1e-6) | (values > high + 1e-6)
        if outside.any():
            step, column = (int(i) for i in np.argwhere(outside)[0])
            raise DataError(
                f"{place.file}: {self.labels[column]} must lie from {low:g} to {high:g}; step {step} is "
                f"{values[step, column]:g} (trace.scale tells the scale, trace.invalid what is no label)"
            )
        values = np.clip((2 * values - high - low) / (high - low), -1.0, 1.0)
        values = advanced(values, round(self.shift * self.rate))
        present = np.asarray(~np.isnan(values).all(axis=1))
        return Rows(values.astype(np.float32), None if present.all() else present, gaps=True)


def advanced(values: np.ndarray, steps: int) -> np.ndarray:
    """Values (time, ...) `steps` earlier, the last one repeated at the end."""
    late = min(steps, len(values) - 1)
    return np.concatenate([values[late:], np.repeat(values[-1:], late, axis=0)]) if late > 0 else values


def _read_matrix(file: Path, key: str | None, columns: list[str] | None) -> np.ndarray:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    ending = file.suffix.lower()
    try:
        if ending == ".npy":
            return _numbers(np.load(file, allow_pickle=False), file)
        if ending == ".npz":
            with np.load(file, allow_pickle=False) as found:
                return _numbers(found[_pick(file, list(found.files), key)], file)
        if ending == ".mat":
            return _numbers(_read_mat(file, key), file)
        if ending in (".csv", ".tsv", ".txt", ".parquet"):
            return _read_columns(file, columns)
    except DataError:
        raise
    except Exception as error:  # NumPy, SciPy and pandas raise a zoo of types on foreign bytes
        raise DataError(f"{file}: cannot be read as a matrix ({error})") from error
    raise DataError(f"{file}: expected .npy, .npz, .mat, .csv, .tsv, .txt or .parquet")


def _read_mat(file: Path, key: str | None) -> Any:
    loadmat = require("scipy.io", purpose="MATLAB files").loadmat
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = loadmat(file)
    except NotImplementedError as error:
        raise DataError(f"{file}: MATLAB 7.3 files are not read; save it with -v7 there") from error
    return found[_pick(file, [name for name in found if not name.startswith("__")], key)]


def _pick(file: Path, names: Sequence[str], key: str | None) -> str:
    """The name of the matrix in a file of several."""
    if key is None and len(names) == 1:
        return names[0]
    if key is None or key not in names:
        wanted = "the name of one" if key is None else f"{key!r} among them"
        raise DataError(f"{file}: holds {', '.join(names) or 'nothing'}; expected {wanted} (SIGNAL_key)")
    return key


def _read_columns(file: Path, columns: list[str] | None) -> np.ndarray:
    pandas = require("pandas", purpose="tables")
    table = pandas.read_parquet(file) if file.suffix.lower() == ".parquet" else read_csv(file, ())
    if columns is not None:
        missing = [name for name in columns if name not in table]
        if missing:
            raise DataError(
                f"{file}: no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
            )
        table = table[columns]
    return _numbers(table.to_numpy(), file)


def _numbers(values: Any, file: Path) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype == object:
        array = np.asarray(array.tolist(), dtype=np.float64)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{file}: expected numbers, got {array.dtype}")
    return array
