"""Features of a manifest on disk, computed once and never used when stale.

A store is a folder::

    features.json     what was computed: type, options, key
    manifest.csv      the manifest (with manifest.csv.json), plus the columns ``object`` and ``frames``
    failures.csv      recordings that were left out, with the reason
    objects/          one safetensors file per row: tensor ``features``, (frames, ...) float32 or uint8, and,
                      where frames are missing, ``present``, uint8 (frames,)

The name of an object is a hash over the feature type and options, the bytes of its file, the part of it
that is used and how it is read. A changed option or file therefore gives another name: `prepare` computes
what is missing and nothing else, and can be killed and repeated at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from affekt import __version__, _checks
from affekt._lazy import require
from affekt.data.audio import audio_info, read_audio
from affekt.data.manifest import Manifest, Place, read_manifest
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "FeatureStore",
    "Statistics",
    "feature_key",
    "load_statistics",
    "prepare",
    "save_statistics",
]


INITIAL = "initial"
UNNAMED = "user's manifest"
"""What a model's card names as data of a manifest without a corpus."""


def feature_key(features: Any) -> str:
    """Hash (64 hex digits) of what an extractor computes: its type, its options, the affekt version.

    Parameters
    ----------
    features : an object of `affekt.features`, or any callable with an ``options`` mapping that JSON can hold.
    """
    return _hash(_describe(features))


@dataclass(frozen=True, eq=False)
class Statistics:
    """Mean and standard deviation per feature, with the evidence of where they come from.

    On disk (``statistics.json`` of a run)::

        {"mean": [...], "sd": [...], "count": 123456, "fitted_on": "train",
         "features": {"store": "path of the store", "key": "feature key of the store"}}

    Attributes
    ----------
    mean, sd : float64 ``(features,)``; population (1/N) moments over all frames of all rows together.
    count : frames.
    fitted_on : partition that the rows were, or ``"initial"`` where they came with the model that a training
        started from; `count` is then 0.
    store, key : folder and feature key of the store, or empty.
    mode : ``"feature"``, or ``"scalar"``: the same mean and sd for all features.
    """

    mean: np.ndarray
    sd: np.ndarray
    count: int
    fitted_on: str = "train"
    store: str = ""
    key: str = ""
    mode: str = "feature"

    def scalar(self) -> Statistics:
        """One mean and one sd for all features together, by the moments of their union (`mode` "scalar")."""
        mean = float(self.mean.mean())
        sd = float(np.sqrt(np.mean(self.sd**2 + (self.mean - mean) ** 2)))
        return replace(self, mean=np.full_like(self.mean, mean), sd=np.full_like(self.sd, sd), mode="scalar")

    def record(self) -> dict[str, Any]:
        """As it stands in ``statistics.json``."""
        return {
            "mean": [float(value) for value in self.mean],
            "sd": [float(value) for value in self.sd],
            "count": int(self.count),
            "fitted_on": self.fitted_on,
            "features": {"store": self.store, "key": self.key},
        } | ({"mode": self.mode} if self.mode != "feature" else {})

    def save(self, path: str | PathLike[str]) -> Path:
        """Write ``statistics.json`` (into `path` if that is a folder)."""
        file = _checks.path(path, "path")
        file = file / "statistics.json" if file.is_dir() else file
        file.write_text(json.dumps(self.record(), indent=1) + "\n")
        return file

    @staticmethod
    def load(path: str | PathLike[str]) -> Statistics:
        """Read what `save` wrote.

        Raises
        ------
        DataError : no such file, not JSON, or a field is missing or wrong.
        """
        file = _checks.path(path, "path")
        file = file / "statistics.json" if file.is_dir() else file
        return Statistics._read(_read_json(file), file)

    @staticmethod
    def _read(record: Any, file: Path) -> Statistics:
        """From its record in `file`."""
        try:
            mean = np.asarray(record["mean"], dtype=np.float64)
            sd = np.asarray(record["sd"], dtype=np.float64)
            features = record.get("features") or {}
            out = Statistics(
                mean,
                sd,
                int(record["count"]),
                str(record.get("fitted_on", "")),
                str(features.get("store", "")),
                str(features.get("key", "")),
                str(record.get("mode", "feature")),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{file}: not statistics of a run ({error!r})") from error
        if (
            mean.ndim != 1
            or mean.shape != sd.shape
            or not (np.isfinite(mean).all() and np.isfinite(sd).all())
        ):
            raise DataError(f"{file}: mean and sd must be finite lists of one length")
        return out


def save_statistics(statistics: Mapping[str, Statistics], path: str | PathLike[str]) -> Path:
    """Write ``statistics.json`` of a run on several modalities: modality -> statistics, none for those that
    are not standardised (into `path` if that is a folder)."""
    file = _checks.path(path, "path")
    file = file / "statistics.json" if file.is_dir() else file
    records = {name: each.record() for name, each in statistics.items()}
    file.write_text(json.dumps({"modalities": records}, indent=1) + "\n")
    return file


def load_statistics(path: str | PathLike[str]) -> dict[str, Statistics]:
    """Statistics of every modality of a run, by name; those of a run on one signal alone by the empty name.

    Raises
    ------
    DataError : as for `Statistics.load`.
    """
    file = _checks.path(path, "path")
    file = file / "statistics.json" if file.is_dir() else file
    record = _read_json(file)
    if not (isinstance(record, dict) and isinstance(record.get("modalities"), dict)):
        return {"": Statistics._read(record, file)}
    return {str(name): Statistics._read(each, file) for name, each in record["modalities"].items()}


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{file}: not statistics of a run ({error!r})") from error


class FeatureStore:
    """Prepared features of a manifest; made by `prepare`, opened again with ``FeatureStore(folder)``.

    Attributes
    ----------
    folder : where it lies.
    manifest : rows that have features, in order; `load` takes their numbers. Columns ``object`` and
        ``frames`` are added to those of the manifest given.
    features : dict with ``type`` and ``options`` of the extractor.
    key : feature key (see `feature_key`).
    column : of the manifest, with the file of each row (see `affekt.data.Manifest.place`).
    failures : DataFrame ``file, start, end, reason`` of the rows that were left out.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        pandas = require("pandas", purpose="feature stores")
        self.folder = _checks.path(folder, "folder")
        card = self.folder / "features.json"
        if not card.is_file():
            raise DataError(f"{self.folder}: not a feature store (it has no features.json)")
        try:
            record = json.loads(card.read_text())
            self.key: str = record["key"]
            self.column: str = record.get("column", "file")
            self.features: dict[str, Any] = {"type": record["type"], "options": record["options"]}
            self.manifest = read_manifest(self.folder / "manifest.csv", require_columns=("object", "frames"))
            self.failures: pd.DataFrame = pandas.read_csv(self.folder / "failures.csv")
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(f"{self.folder}: not a usable feature store ({error})") from error
        self.lengths = self.manifest.table["frames"].to_numpy(dtype=np.int64)

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        return (
            f"FeatureStore({self.folder}: {len(self)} rows, {int(self.lengths.sum())} frames of "
            f"{self.features['type']}, {len(self.failures)} failure(s))"
        )

    def load(self, i: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Features of row `i`, ``(frames, ...)``, or frames `start` to `stop` of them; no more is read.

        Raises
        ------
        DataError : the object is gone, damaged, or not what the store says it is.
        """
        return self._read(i, "features", start, stop)

    def present(self, i: int) -> np.ndarray:
        """Which frames of row `i` hold something, bool ``(frames,)``; the others are zeros."""
        return self._read(i, "present", 0, None).astype(bool)

    def _read(self, i: int, tensor: str, start: int, stop: int | None) -> np.ndarray:
        i = _checks.integer(i, "i", low=0, high=len(self) - 1)
        name = self.manifest.table["object"].iloc[i]
        file = _object(self.folder, name)
        frames, values = _read_object(file, name, tensor, start, stop)
        if frames != self.lengths[i]:
            raise DataError(
                f"{file}: holds {frames} frames, the store says {self.lengths[i]}; run prepare again"
            )
        return values

    def counted(self, i: int) -> np.ndarray:
        """The frames of row `i` that are there, ``(frames, features)``: those that statistics count."""
        values = self.load(i)
        if values.ndim != 2:
            raise InputError(f"{self.folder}: rows of shape {values.shape[1:]} have no statistics")
        present = self.present(i)
        return values if present.all() else values[present]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.load(i) for i in range(len(self)))

    def statistics(self, rows: Sequence[int] | np.ndarray, *, fitted_on: str = "train") -> Statistics:
        """Mean and sd per feature over all frames of `rows`, one recording in memory at a time.

        Moments are joined in float64 (Chan et al. 1979), so that the order and number of recordings matter
        only in the last bits. Pass the training rows only.
        """
        rows = np.asarray(rows)
        if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
            raise InputError(f"rows must be a non-empty list of row numbers; got {_checks.show(rows)}")
        moments = Moments()
        for i in rows:
            moments.add(self.counted(int(i)))
        return Statistics(
            moments.mean, moments.sd, moments.count, fitted_on, str(self.folder.resolve()), self.key
        )

    def stale(self) -> list[str]:
        """Files that changed or vanished since they were prepared; every audio file is read for this."""
        out = []
        for i in range(len(self)):
            try:
                place = self.manifest.place(i, self.column)
                name = "" if place is None else _object_name(self.key, place, self._mono)
            except DataError:
                name = ""
            if name != self.manifest.table["object"].iloc[i]:
                out.append(self.manifest.table["file"].iloc[i])
        return out

    @property
    def _mono(self) -> str | int | None:
        return self.manifest.attrs.get("mono", "mean")

    def prune(self) -> int:
        """Delete objects that the manifest does not use (of earlier options or files); returns how many."""
        used = set(self.manifest.table["object"])
        extra = [file for file in (self.folder / "objects").glob("*.safetensors") if file.stem not in used]
        for file in extra:
            file.unlink()
        return len(extra)


class Moments:
    """Running mean and variance of rows, joined block by block in float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = np.zeros(0)
        self._m2 = np.zeros(0)

    def add(self, rows: np.ndarray) -> None:
        """Take in `rows` ``(frames, features)``."""
        block = np.asarray(rows, dtype=np.float64)
        n = len(block)
        if not n:
            return
        mean = block.mean(axis=0)
        m2 = ((block - mean) ** 2).sum(axis=0)
        if not self.count:
            self.count, self.mean, self._m2 = n, mean, m2
            return
        if mean.shape != self.mean.shape:
            raise DataError(f"features must have one width; got {len(self.mean)} and {len(mean)}")
        total = self.count + n
        gap = mean - self.mean
        self._m2 = self._m2 + m2 + gap**2 * (self.count * n / total)
        self.mean = self.mean + gap * (n / total)
        self.count = total

    @property
    def sd(self) -> np.ndarray:
        """Population standard deviation per feature."""
        return np.sqrt(self._m2 / max(self.count, 1))

    def joined(self, other: Moments) -> Moments:
        """The moments of both together."""
        out = Moments()
        if not self.count or not other.count:
            source = self if self.count else other
            out.count, out.mean, out._m2 = source.count, source.mean, source._m2
            return out
        out.count = self.count + other.count
        gap = other.mean - self.mean
        out.mean = self.mean + gap * (other.count / out.count)
        out._m2 = self._m2 + other._m2 + gap**2 * (self.count * other.count / out.count)
        return out


def prepare(
    manifest: Manifest,
    features: Any,
    out_dir: str | PathLike[str],
    *,
    column: str = "file",
    on_error: str = "raise",
    workers: int = 1,
    mono: str | int = "mean",
    longest: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FeatureStore:
    """Compute the features of every row of a manifest into a store.

    Makes the folder hold exactly this manifest with these features: what is there already is kept if it is
    still right, everything else is computed. Objects of earlier options stay until `FeatureStore.prune`.

    Parameters
    ----------
    manifest : recordings.
    features : callable on float32 ``(time,)`` that gives ``(frames, features)``, with an ``options`` mapping
        whose ``sample_rate`` says at which rate it wants its samples; the objects of `affekt.features` do.
        Or an object that reads its files itself: `affekt.data.Source`.
    column : of the manifest, with the file of each row (see `affekt.data.Manifest.place`).
    out_dir : folder of the store; made if needed.
    on_error : recordings that are missing, broken, silent throughout or too short for one frame: ``"raise"``
        goes through all and then raises one error that names them; ``"skip"`` leaves them out, warns, and
        lists them in ``failures``.
    workers : threads; decoding, resampling and the native front end run outside the interpreter lock.
    mono : channel policy of `read_audio`.
    longest : seconds; a longer row counts as one that cannot be used, and is not read. None: any length. A
        row is held in memory as a whole, about 4 MB of samples per minute at 16 kHz.
    progress : called with (rows done, rows in all) from the calling thread.

    Returns
    -------
    FeatureStore : its manifest has the rows that succeeded, in order.

    Raises
    ------
    DataError : recordings failed (with ``"raise"``), or all of them did.
    InputError : an argument is wrong.
    """
    if not isinstance(manifest, Manifest):
        raise InputError(f"manifest must be a Manifest; got {type(manifest).__name__}")
    _checks.choice(on_error, ("raise", "skip"), "on_error")
    workers = _checks.integer(workers, "workers", low=1)
    if longest is not None:
        longest = _checks.number(longest, "longest", positive=True)
    require("safetensors", purpose="feature stores")
    description = _describe(features)
    key = _hash(description)
    reads = _reads(features)
    rate = description["options"].get("sample_rate")
    if rate is None and not reads:
        raise InputError("features must have 'sample_rate' among its options")
    folder = _checks.path(out_dir, "out_dir")
    (folder / "objects").mkdir(parents=True, exist_ok=True)

    def one(i: int) -> tuple[str, int] | str:
        try:
            place = manifest.place(i, column)
            if place is None:
                return f"{manifest.path(i)}: no file in the column {column!r}"
            if reads:
                return _prepare_row(folder, _object_name(key, place, None), place, features.rows)
            _check_length(place.file, (place.start, place.end), longest)
            compute = partial(_computed, features, rate, mono)
            return _prepare_row(folder, _object_name(key, place, mono), place, compute, audio=True)
        except (DataError, InputError) as error:
            return str(error)

    results: list[tuple[str, int] | str] = []
    with ThreadPoolExecutor(workers) as pool:
        for result in pool.map(one, range(len(manifest))):
            results.append(result)
            if progress:
                progress(len(results), len(manifest))
    table = manifest.table.drop(columns=["object", "frames"], errors="ignore")
    failed = np.array([isinstance(result, str) for result in results])
    names = table["file"][failed].tolist()
    if failed.any() and (on_error == "raise" or failed.all()):
        reasons = [result for result in results if isinstance(result, str)]
        raise DataError(
            f"{len(reasons)} of {len(table)} recordings cannot be used: "
            + "; ".join(reasons[:5])
            + (f"; and {len(reasons) - 5} more" if len(reasons) > 5 else "")
            + " (on_error='skip' leaves them out)"
        )
    if failed.any():
        warnings.warn(
            f"left out {len(names)} of {len(table)} recordings: {_checks.some(names)}", stacklevel=2
        )
    kept = [result for result in results if not isinstance(result, str)]
    good = (
        manifest.absolute([column])
        .table[table.columns][~failed]
        .assign(
            object=[name for name, _ in kept],
            frames=[frames for _, frames in kept],
        )
    )
    failures = table[failed].reindex(columns=["file", "start", "end"])
    failures["reason"] = [result for result in results if isinstance(result, str)]
    attrs = {
        **manifest.attrs,
        "mono": None if reads else mono,
        "rows_given": len(table),
        "rows_failed": len(names),
    }
    # The card goes last and each file is replaced in one step: a killed run leaves the old store or the new.
    _replace(folder / "failures.csv", failures.to_csv(index=False))
    _replace(folder / "manifest.csv", good.to_csv(index=False))
    _replace(
        folder / "manifest.csv.json", json.dumps(attrs, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    )
    _replace(
        folder / "features.json",
        json.dumps({**description, "key": key, "column": column}, indent=2, sort_keys=True) + "\n",
    )
    return FeatureStore(folder)


def _check_length(path: Path, part: tuple[float, float | None], longest: float | None) -> None:
    """Refuse a row that lasts longer than `longest` seconds, from the header alone."""
    if longest is None or not path.is_file() or not path.stat().st_size:
        return  # those are refused with their own words
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading it will warn
        seconds = audio_info(path).seconds
    lasting = (seconds if part[1] is None else min(part[1], seconds)) - part[0]
    if lasting > longest:
        raise DataError(
            f"{path}: {lasting:.0f} s in one row, at most {longest:g} s are taken; name its parts with the "
            "columns start and end (longest=SECONDS allows more)"
        )


def _prepare_row(
    folder: Path, name: str, place: Place, compute: Callable[[Place], Any], *, audio: bool = False
) -> tuple[str, int]:
    """Make sure that the object of one row exists; returns its name and number of frames."""
    file = _object(folder, name)
    if file.is_file():
        try:
            frames = _read_object(file, name)[0]
        except DataError:
            pass  # damaged, for example by a full disk: computed again
        else:
            if audio:
                audio_info(place.file)  # warns of a recording that is cut off, as reading it would
            return name, frames
    values, present, gaps = compute(place)
    values = np.asarray(values)
    values = np.ascontiguousarray(values, dtype=np.uint8 if values.dtype == np.uint8 else np.float32)
    if values.ndim < 2:
        raise InputError(f"features must give (frames, features); got shape {values.shape} for {place.file}")
    tensors = {"features": values}
    if present is not None:
        present = np.asarray(present)
        if present.shape != (len(values),) or present.dtype != bool:
            raise InputError(
                f"present must be {len(values)} booleans; got {present.dtype} {present.shape} for "
                f"{place.file}"
            )
        values[~present] = 0
        if not present.any():
            raise DataError(f"{place.file}: nothing of it is there")
        if not present.all():
            tensors["present"] = present.astype(np.uint8)
    finite = ~np.isinf(values) if gaps else np.isfinite(values)
    if not finite.all():
        raise DataError(f"{place.file}: the features hold {'Inf' if gaps else 'NaN or Inf'}")
    save = require("safetensors.numpy", purpose="feature stores").save
    _replace(file, save(tensors, metadata={"object": name}))
    return name, len(values)


def _computed(features: Any, rate: float, mono: str | int, place: Place) -> tuple[np.ndarray, None, bool]:
    """Rows of an extractor that takes samples."""
    samples = read_audio(place.file, rate, mono=mono, start=place.start, end=place.end)
    if not samples.any():
        raise DataError(f"{place.file}: every sample is zero, so there is nothing to learn from")
    values = np.asarray(features(samples))
    if values.ndim == 2 and not len(values):
        raise DataError(f"{place.file}: {len(samples) / rate:.3f} s are too short for one frame of features")
    return values, None, False


def _object_name(key: str, place: Place, mono: str | int | None) -> str:
    path = place.file
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    record = {"features": key, "sha256": digest.hexdigest(), "part": [place.start, place.end], "mono": mono}
    if place.key is not None:
        record["key"] = place.key
    return _hash(record)[:32]


def _object(folder: Path, name: str) -> Path:
    return folder / "objects" / f"{name}.safetensors"


def _read_object(
    file: Path, name: str, tensor: str = "features", start: int = 0, stop: int | None = None
) -> tuple[int, np.ndarray]:
    """Number of frames, and those from `start` to `stop` of a tensor; without ``present``, ones."""
    safetensors = require("safetensors", purpose="feature stores")
    try:
        with safetensors.safe_open(file, "numpy") as stream:
            stored = (stream.metadata() or {}).get("object")
            shape = stream.get_slice("features").get_shape()
            frames = int(shape[0])
            begin, end, _ = slice(start, stop).indices(frames)
            if tensor in stream.keys():  # noqa: SIM118  it is no mapping
                values = stream.get_slice(tensor)[begin:end] if (begin, end) != (0, frames) else None
                values = stream.get_tensor(tensor) if values is None else values
            else:
                values = np.ones(max(0, end - begin), np.uint8)
    except (OSError, safetensors.SafetensorError) as error:
        raise DataError(f"{file}: cannot be read ({error}); run prepare again") from error
    if stored != name or len(shape) < 2:
        raise DataError(f"{file}: holds other features ({stored}) than the store says; run prepare again")
    return frames, values


def _reads(features: Any) -> bool:
    """Whether an extractor reads its files itself."""
    return callable(getattr(features, "rows", None))


def _describe(features: Any) -> dict[str, Any]:
    options = getattr(features, "options", None)
    if not (callable(features) or _reads(features)) or not isinstance(options, Mapping):
        raise InputError(
            f"features must be callable and have an 'options' mapping; got {type(features).__name__}"
        )
    try:
        plain = json.loads(json.dumps(dict(options), sort_keys=True, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"features.options must hold plain JSON values ({error})") from error
    # The version is part of the key: another version may compute other numbers from the same options.
    return {"affekt": __version__, "type": type(features).__name__, "options": plain}


def _hash(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _replace(file: Path, content: str | bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, file)
