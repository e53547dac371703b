"""The table of recordings that everything else starts from.

One row per recording or part of one. Columns:

======================  =====================================================================================
``file``                path, relative to the manifest's root or absolute (required)
``start``, ``end``      part of the file in seconds; absent or NaN means from the beginning, to the end
``subject``             who; splits keep subjects apart. Unique over everything in the table
``session``             recording session, unique over everything in the table (not "1" for every subject)
``split``               partition that the corpus or the user fixed (train, dev, test), if any
``emotion``             categorical label; empty means none
``valence`` ...         continuous labels ``valence, arousal, dominance`` in [-1, 1]; NaN means none
======================  =====================================================================================

Any further column is carried along. A row of several signals (a trial) names the file of each in a column of
the signal's name, for example ``eeg``, with ``eeg_start`` and ``eeg_end`` where it is a part of that file and
``eeg_key`` where the file holds several things by name (see `Manifest.place`); ``file`` then stands for the
trial.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CONTINUOUS", "Manifest", "Place", "read_manifest"]

# Continuous labels by name, always in this order.
CONTINUOUS = ("valence", "arousal", "dominance")
_TEXT = ("file", "subject", "session", "split", "emotion")


class Place(NamedTuple):
    """Where a signal lies.

    Attributes
    ----------
    file : absolute path.
    start, end : part of the file in seconds; end None: to the end of the file.
    key : name inside the file, for files that hold several things; None: the only one.
    """

    file: Path
    start: float = 0.0
    end: float | None = None
    key: str | None = None


class Manifest:
    """A checked table of recordings and labels.

    Parameters
    ----------
    table : pandas DataFrame with the columns above; it is copied.
    root : folder that relative paths in ``file`` start from; None is the working directory.
    attrs : facts about the whole table that travel with it when it is saved (corpus, licence, label scales).

    Attributes
    ----------
    table : the DataFrame, index 0..n-1, identifiers as text.
    root, attrs : as given.

    Raises
    ------
    DataError : ``file`` is missing, there are no rows, a (file, start, end) occurs twice, a part has no
        length, or a continuous label is not a number in [-1, 1].
    """

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        root: str | PathLike[str] | None = None,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        pandas = require("pandas", purpose="manifests")
        if not isinstance(table, pandas.DataFrame):
            raise InputError(f"table must be a pandas DataFrame; got {type(table).__name__}")
        self.root = None if root is None else _checks.path(root, "root")
        self.attrs: dict[str, Any] = dict(attrs or {})
        self.table = _checked(table)

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        parts = [f"{len(self)} rows"]
        if "subject" in self.table:
            parts.append(f"{self.table['subject'].nunique()} subjects")
        parts += [f"labels {', '.join(self.labels)}" if self.labels else "no labels"]
        name = f"{self.attrs['corpus']}: " if "corpus" in self.attrs else ""
        return f"Manifest({name}{', '.join(parts)})"

    @property
    def labels(self) -> list[str]:
        """Label columns that are there, ``emotion`` first, then the continuous ones in their fixed order."""
        return [name for name in ("emotion", *CONTINUOUS) if name in self.table]

    @property
    def classes(self) -> list[str]:
        """Emotions that occur, sorted."""
        if "emotion" not in self.table:
            return []
        return sorted(self.table["emotion"].dropna().unique())

    def path(self, i: int) -> Path:
        """Absolute path of the recording of row `i`."""
        return self.resolve(self.table["file"].iloc[i])

    def resolve(self, name: str) -> Path:
        """Absolute path of a file as the table names it."""
        file = Path(name).expanduser()
        return file if file.is_absolute() else (self.root or Path.cwd()).absolute() / file

    def place(self, i: int, signal: str = "file") -> Place | None:
        """Where the signal of that name lies in row `i`; None where its cell is empty.

        A table without a column `signal` keeps it in ``file``, ``start``, ``end``; ``<signal>_key`` counts in
        any case.
        """
        row = self.table.iloc[i]
        own = signal if signal in self.table else "file"
        prefix = "" if own == "file" else f"{own}_"
        if row[own] is None or row[own] != row[own] or not str(row[own]):
            return None

        def cell(name: str) -> Any:
            value = row[name] if name in self.table else None
            return None if value is None or value != value or value == "" else value

        try:
            start, end = float(cell(f"{prefix}start") or 0.0), cell(f"{prefix}end")
            end = None if end is None else float(end)
        except (TypeError, ValueError) as error:
            raise DataError(f"row {i}: {prefix}start and {prefix}end must be seconds ({error})") from error
        if start < 0 or (end is not None and end <= start):
            raise DataError(f"row {i}: {signal} must be a part of its file; got {start:g} to {end:g} s")
        key = cell(f"{signal}_key")
        if isinstance(key, (float, np.floating)) and float(key).is_integer():
            key = int(key)  # a column of numbers with gaps
        return Place(self.resolve(str(row[own])), start, end, None if key is None else str(key))

    def absolute(self, signals: Sequence[str] = ()) -> Manifest:
        """The same with absolute paths, in ``file`` and in the columns `signals` as far as they are there."""
        table = self.table.copy()
        for name in dict.fromkeys(("file", *signals)):
            if name in table:
                known = table[name].notna() & (table[name] != "")
                table[name] = [
                    str(self.resolve(str(value))) if ok else None
                    for value, ok in zip(table[name], known, strict=True)
                ]
        return Manifest(table, attrs=self.attrs)

    def part(self, i: int) -> tuple[float, float | None]:
        """Start and end of row `i` in seconds; the end is None where the row runs to the end of the file."""
        row = self.table.iloc[i]
        start = row["start"] if "start" in self.table and not np.isnan(row["start"]) else 0.0
        end = row["end"] if "end" in self.table and not np.isnan(row["end"]) else None
        return float(start), None if end is None else float(end)

    def groups(self, column: str = "subject") -> np.ndarray:
        """Text array ``(rows,)`` of a grouping column, for example for `group_kfold`.

        Raises
        ------
        DataError : the column is absent, or a row has no value in it.
        """
        if column not in self.table:
            raise DataError(
                f"the manifest has no column {column!r}; it has {', '.join(map(str, self.table.columns))}"
            )
        values = as_text(self.table[column])
        missing = values.isna().to_numpy()
        if missing.any():
            raise DataError(
                f"{int(missing.sum())} of {len(self)} rows have no {column!r}; the first is row "
                f"{int(np.flatnonzero(missing)[0])} ({self.table['file'].iloc[np.flatnonzero(missing)[0]]})"
            )
        return values.to_numpy(dtype=object)

    def select(self, rows: Sequence[int] | Sequence[bool] | np.ndarray) -> Manifest:
        """The manifest of some rows, by number or by a boolean per row."""
        index = np.asarray(rows)
        if index.dtype == bool:
            _checks.same_length(index, self.table, ("rows", "the manifest"))
            index = np.flatnonzero(index)
        if index.dtype.kind not in "iu" or index.ndim != 1:
            raise InputError(f"rows must be row numbers or booleans; got {_checks.show(rows)}")
        return Manifest(self.table.iloc[index], root=self.root, attrs=self.attrs)

    def missing_files(self) -> list[str]:
        """Files that do not exist, as they are written in the table, without repeats."""
        absent = [not self.path(i).is_file() for i in range(len(self))]
        return list(dict.fromkeys(self.table["file"][absent]))

    @staticmethod
    def concat(manifests: Sequence[Manifest]) -> Manifest:
        """Several manifests as one, with absolute paths; labels that one of them lacks stay empty there.

        Raises
        ------
        DataError : two of them share a subject (corpora give names such as ``ravdess-01`` to prevent that).
        """
        pandas = require("pandas", purpose="manifests")
        manifests = list(manifests)
        if not manifests:
            raise InputError("manifests must hold at least one manifest; got none")
        seen: dict[str, int] = {}
        tables = []
        for number, manifest in enumerate(manifests):
            table = manifest.table.copy()
            table["file"] = [str(manifest.path(i)) for i in range(len(manifest))]
            if "subject" in table:
                names = set(table["subject"].dropna())
                shared = sorted(name for name in names if name in seen)
                if shared:
                    raise DataError(
                        f"manifests {seen[shared[0]]} and {number} share subject(s) {_checks.some(shared)}; "
                        "give each person one name of their own, or join their tables first"
                    )
                seen.update(dict.fromkeys(names, number))
            tables.append(table)
        attrs = {"parts": [manifest.attrs for manifest in manifests]}
        return Manifest(pandas.concat(tables, ignore_index=True), attrs=attrs)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the table as CSV or Parquet by the ending of `path`, and the attributes to ``<path>.json``.

        Relative paths are kept if the manifest is written to its root, and made absolute otherwise.
        """
        file = _checks.path(path, "path")
        table = self.table
        if self.root is not None and self.root.resolve() != file.parent.resolve():
            table = table.assign(file=[str(self.path(i)) for i in range(len(self))])
        if file.suffix == ".csv":
            table.to_csv(file, index=False)
        elif file.suffix == ".parquet":
            require("pyarrow", purpose="writing Parquet")
            table.to_parquet(file, index=False)
        else:
            raise InputError(f"path must end in .csv or .parquet; got {file}")
        sidecar = file.with_name(file.name + ".json")
        if self.attrs:
            sidecar.write_text(json.dumps(self.attrs, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        else:
            sidecar.unlink(missing_ok=True)
        return file

    @staticmethod
    def load(path: str | PathLike[str]) -> Manifest:
        """The manifest that `save` wrote; the same as `read_manifest` without options."""
        return read_manifest(path)


def read_manifest(
    source: str | PathLike[str] | pd.DataFrame | Manifest,
    *,
    root: str | PathLike[str] | None = None,
    columns: Mapping[str, str] | None = None,
    scales: Mapping[str, tuple[float, float]] | None = None,
    emotions: Mapping[str, str] | None = None,
    require_columns: Sequence[str] = (),
) -> Manifest:
    """A manifest from a user's own table.

    Parameters
    ----------
    source : CSV or Parquet file, DataFrame, or a manifest (returned as it is when no option is given).
    root : folder that relative paths start from; by default the folder of the file.
    columns : new name -> name in the table, for example ``{"file": "wav_path", "subject": "speaker"}``.
    scales : continuous label -> its ``(lowest, highest)`` in the table, for example ``{"valence": (1, 5)}``;
        the label is mapped linearly to [-1, 1] and the mapping recorded in ``attrs["scales"]``.
    emotions : name in the table -> name wanted, for example ``{"ang": "angry"}``; others are kept.
    require_columns : columns without which the table is of no use to the caller.

    Raises
    ------
    DataError : the file cannot be read, a column is missing, or the table is not valid (see `Manifest`).

    Examples
    --------
    >>> scales = {"valence": (1, 9), "arousal": (1, 9)}
    >>> read_manifest("mine.csv", columns={"subject": "speaker"}, scales=scales)  # doctest: +SKIP
    """
    pandas = require("pandas", purpose="manifests")
    attrs: dict[str, Any] = {}
    origin = "the table"
    if isinstance(source, Manifest):
        table, attrs = source.table.copy(), dict(source.attrs)
        root = source.root if root is None else root
    elif isinstance(source, pandas.DataFrame):
        table = source.copy()
    else:
        file = _checks.path(source, "source")
        origin = str(file)
        table = _read_table(file)
        root = file.parent if root is None else root
        sidecar = file.with_name(file.name + ".json")
        if sidecar.is_file():
            try:
                attrs = json.loads(sidecar.read_text())
            except ValueError as error:
                raise DataError(f"{sidecar}: not valid JSON ({error})") from error
    for new, old in (columns or {}).items():
        if old not in table:
            raise DataError(f"{origin}: no column {old!r} to use as {new!r}; it has {_columns(table)}")
        if new != old and new in table:
            table = table.drop(columns=new)
        table = table.rename(columns={old: new})
    missing = [name for name in ("file", *require_columns) if name not in table]
    if missing:
        raise DataError(
            f"{origin}: missing column(s) {', '.join(dict.fromkeys(missing))}; it has {_columns(table)}"
        )
    for label, scale in (scales or {}).items():
        if label not in table:
            raise DataError(f"{origin}: no column {label!r} for the scale given; it has {_columns(table)}")
        table[label] = rescale(_as_number(table[label], label), scale, label, table["file"])
        attrs.setdefault("scales", {})[label] = [float(scale[0]), float(scale[1])]
    if emotions:
        if "emotion" not in table:
            raise DataError(f"{origin}: no column 'emotion' for the names given; it has {_columns(table)}")
        table["emotion"] = as_text(table["emotion"]).map(lambda name: emotions.get(name, name))
    return Manifest(table, root=root, attrs=attrs)


def rescale(values: Any, scale: tuple[float, float], name: str, files: Any = None) -> np.ndarray:
    """Map `values` linearly from ``scale = (low, high)`` to [-1, 1]; NaN stays NaN.

    ``y = (2 x - high - low) / (high - low)``, so 1..5 becomes ``(x - 3) / 2``.
    """
    try:
        low, high = (float(bound) for bound in scale)
    except (TypeError, ValueError):
        raise InputError(f"the scale of {name!r} must be (lowest, highest); got {scale!r}") from None
    if not high > low:
        raise InputError(f"the scale of {name!r} must be (lowest, highest); got {scale!r}")
    x = np.asarray(values, dtype=np.float64)
    _in_range(x, low, high, name, files)
    # The ends may miss -1 and 1 by a rounding.
    return np.clip((2 * x - high - low) / (high - low), -1.0, 1.0)


def read_csv(file: Path, text: Sequence[str]) -> pd.DataFrame:
    """A CSV file: columns `text` as text, "NA" and the like kept, numbers exact to the last bit.

    Columns may be parted by semicolons, with decimal commas, as spreadsheets write them in many countries, or
    by tabs.
    """
    pandas = require("pandas", purpose="manifests")
    options: dict[str, Any] = {}
    if tuple(int(part) for part in pandas.__version__.split(".")[:2]) < (3, 1):
        options["float_precision"] = "round_trip"  # the default from 3.1 on
    options |= _dialect(file)
    # Identifiers such as 001 must stay text; numbers are parsed, and complained about, by the caller.
    return pandas.read_csv(
        file,
        dtype=dict.fromkeys(text, str),
        keep_default_na=False,
        na_values=[""],
        encoding="utf-8-sig",
        **options,
    )


def _dialect(file: Path) -> dict[str, Any]:
    """Options of pandas for the separator that the header line has."""
    with file.open(encoding="utf-8-sig") as stream:
        header = stream.readline()
    if "," in header:
        return {}
    return {"sep": ";", "decimal": ","} if ";" in header else {"sep": "\t"} if "\t" in header else {}


def _read_table(file: Path) -> pd.DataFrame:
    pandas = require("pandas", purpose="manifests")
    if not file.is_file():
        raise DataError(f"{file}: no such manifest")
    try:
        if file.suffix == ".parquet":
            require("pyarrow", purpose="reading Parquet")
            return pandas.read_parquet(file)
        return read_csv(file, _TEXT)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: not UTF-8 text (byte {error.start} is 0x{error.object[error.start]:02x}); save it as "
            "CSV UTF-8"
        ) from error
    except (ValueError, OSError, pandas.errors.ParserError) as error:
        raise DataError(f"{file}: cannot be read as a table ({error})") from error


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    table = table.reset_index(drop=True).copy()
    if "file" not in table:
        raise DataError(f"the manifest has no column 'file'; it has {_columns(table)}")
    if not len(table):
        raise DataError("the manifest has no rows")
    twice = [str(name) for name in table.columns[table.columns.duplicated()]]
    if twice:
        raise DataError(f"the manifest has column(s) {', '.join(twice)} more than once")
    for name in _TEXT:
        if name in table:
            table[name] = as_text(table[name])
    absent = table["file"].isna().to_numpy()
    if absent.any():
        raise DataError(
            f"{int(absent.sum())} row(s) have no file; the first is row {np.flatnonzero(absent)[0]}"
        )
    for name in ("start", "end"):
        if name in table:
            table[name] = _as_number(table[name], name)
    start = table["start"].fillna(0.0).to_numpy() if "start" in table else np.zeros(len(table))
    if (start < 0).any():
        row = int(np.flatnonzero(start < 0)[0])
        raise DataError(f"start must not be negative; row {row} ({table['file'][row]}) has {start[row]}")
    if "end" in table:
        bad = (table["end"] <= start).to_numpy()
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"end must be greater than start; {int(bad.sum())} row(s) are not, the first is row {row} "
                f"({table['file'][row]}) with end = {table['end'][row]}"
            )
    key = [name for name in ("file", "start", "end") if name in table]
    # Another spelling of the same place, and an absent limit written out, are the same part of a recording.
    part = require("pandas", purpose="manifests").DataFrame(
        {
            "file": [os.path.normpath(file) for file in table["file"]],
            "start": start,
            "end": table["end"].fillna(np.inf) if "end" in table else np.inf,
        }
    )
    repeated = part.duplicated(keep=False).to_numpy()
    if repeated.any():
        rows = np.flatnonzero(repeated).tolist()
        raise DataError(
            f"{len(rows)} rows repeat the same ({', '.join(key)}): rows {_checks.some(rows)} "
            f"({table['file'][rows[0]]} ...)"
        )
    for name in CONTINUOUS:
        if name in table:
            table[name] = _as_number(table[name], name)
            _in_range(table[name].to_numpy(), -1.0, 1.0, name, table["file"])
    return table


def _in_range(values: np.ndarray, low: float, high: float, name: str, files: Any) -> None:
    # An infinite value fails this test too; NaN means "no label" and passes.
    bad = (values < low) | (values > high)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        where = f" ({files.iloc[row]})" if files is not None else ""
        hint = (
            f"; pass scales={{'{name}': (LOW, HIGH)}} if the table uses another scale"
            if (low, high) == (-1.0, 1.0)
            else ""
        )
        raise DataError(
            f"{name} must lie in [{low:g}, {high:g}]; {int(bad.sum())} of {len(values)} row(s) do not, the "
            f"first is row {row}{where} with {values[row]}{hint}"
        )


def as_text(column: pd.Series) -> pd.Series:
    """Text, with None for missing or blank; a whole float (an integer column with gaps) loses its '.0'."""

    def text(value: Any) -> str | None:
        if value is None or value != value:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).strip() or None

    pandas = require("pandas", purpose="manifests")
    values = [None if value is pandas.NA else text(value) for value in column]
    return pandas.Series(values, index=column.index, name=column.name, dtype=object)


def _as_number(column: pd.Series, name: str) -> pd.Series:
    pandas = require("pandas", purpose="manifests")
    numbers = pandas.to_numeric(column, errors="coerce").astype(np.float64)
    bad = (numbers.isna() & as_text(column).notna()).to_numpy()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise DataError(
            f"{name} must be numbers; {int(bad.sum())} row(s) are not, the first is row {row} with "
            f"{column.iloc[row]!r}"
        )
    return numbers


def _columns(table: pd.DataFrame) -> str:
    return _checks.some([repr(str(name)) for name in table.columns], 20) or "no columns"
