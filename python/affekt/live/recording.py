"""What a live session heard, written down push by push, and run again with the same estimates."""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from affekt import _core
from affekt._checks import path as as_path
from affekt._checks import show
from affekt._lazy import require
from affekt._native import Model, as_frames
from affekt._profile import Profile
from affekt.errors import DataError, InputError
from affekt.live.engine import Engine, Switch
from affekt.live.sources import Chunk, End

if TYPE_CHECKING:
    from affekt.detectors import Detector
    from affekt.live.engine import Estimate

__all__ = ["Recorder", "Recording", "RecordingWarning"]

_FORMAT = 1
_COLUMNS = ("modality", "time", "rate", "frames", "values")
_PART_S = 10.0  # a crash costs at most this much of a Parquet recording


class RecordingWarning(UserWarning):
    """A recording can be replayed, but not all of it, or perhaps not with the same bits."""


class Recorder:
    """Writes down every push that an engine took, samples and stamps, in order.

    Two forms, by the name: ``.csv`` is one text file, a line per push, and loses nothing but a half-written
    line when the process dies; ``.parquet`` is a folder of parts of 10 s, a fifth of the size, which loses
    the part that was being written. The first line, or the schema's metadata, names the model (by its
    SHA-256), the engine's options and the speaker's profile: all that a replay needs besides the model file.

    Columns: ``modality``, ``time`` (seconds of the first sample), ``rate`` (Hz), ``frames`` (samples), and
    ``values``: float32, all values of a sample side by side, with nine digits in CSV, which bring back the
    same bits. A row of 0 frames says that its input was finished; one without modality, that all were, or,
    with a value, that `Engine.adapt` was called: the value is 1 for on, `frames` the estimates given before,
    and `rate` 1 where all that was pushed had been computed.

    Parameters
    ----------
    path : file or folder to write; it must not exist.
    engine : a fresh engine, whose pushes are to be written.

    Raises
    ------
    InputError : another ending, or an engine that has heard something already.
    DataError : the place exists already or cannot be written.
    MissingExtraError : pyarrow is not installed (Parquet).
    """

    def __init__(self, path: str | os.PathLike[str], engine: Engine) -> None:
        target = as_path(path, "path")
        if engine.counters()["taken"]:
            raise InputError("engine: expected a fresh one; this one has heard samples that are not recorded")
        self._specs = {str(spec["name"]): spec for spec in engine.model.inputs}
        header = {
            "affekt_recording": _FORMAT,
            "model": engine.model.hash,
            "name": engine.model.name,
            "file": None if engine.model.path is None else os.path.abspath(engine.model.path),
            "isa": _core.isa(),
            "options": engine.options,
            "profile": None if engine.start is None else engine.start.document(),
        }
        kinds: dict[str, Callable[[Path, str], _CsvWriter | _ParquetWriter]] = {
            ".csv": _CsvWriter,
            ".parquet": _ParquetWriter,
        }
        if target.suffix.lower() not in kinds:
            raise InputError(f"path: expected a name that ends in .csv or .parquet, got {str(target)!r}")
        if target.exists():
            raise DataError(f"{target}: exists already; a recording is not written over")
        try:
            self._writer = kinds[target.suffix.lower()](target, json.dumps(header, allow_nan=True))
        except OSError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
        self.path = target
        self._broken, self._last = False, 0.0
        self._engine, self._switched = engine, len(engine.switches)  # the header has those until now

    def write(self, chunk: Chunk | End) -> None:
        """Write one push, all of which the engine took, or that an input was finished.

        Raises
        ------
        DataError : it cannot be written, e.g. because the disk is full. What was written before can be
            replayed.
        """
        while self._switched < len(self._engine.switches):
            on, after, drained = self._engine.switches[self._switched]
            self._switched += 1
            self._guarded("", self._last, float(drained), after, np.array([on], np.float32))
        if isinstance(chunk, Chunk) and not chunk.frames:
            return  # nothing was pushed; a row without samples says that the input was finished
        if isinstance(chunk, End):
            self._guarded(chunk.modality, self._last, 0.0, 0, np.empty(0, np.float32))
            return
        self._last = chunk.time
        frames = as_frames(chunk.samples, self._specs[chunk.modality])
        if frames.dtype == np.int16:
            frames = frames.astype(np.float32) / np.float32(32768)  # as the core takes it, without rounding
        self._guarded(chunk.modality, chunk.time, chunk.rate, len(frames), frames.reshape(-1))

    def finish(self) -> None:
        """Write that the session came to its end. DataError as `write`."""
        self.write(End(""))

    def _guarded(self, *row: Any) -> None:
        try:
            self._writer.write(*row)
        except OSError as error:
            self._broken = True
            raise DataError(
                f"{self.path}: recording stopped at {row[1]:g} s of {row[0] or 'the session'}: "
                f"{error.strerror or error}; what was written before can be replayed"
            ) from error

    def close(self) -> None:
        """Write what is still held, and let go of the file. DataError as `write`, unless that said so."""
        try:
            self._writer.close()
        except OSError as error:
            if self._broken:
                return
            raise DataError(f"{self.path}: its end was not written: {error.strerror or error}") from error

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _CsvWriter:
    def __init__(self, path: Path, header: str) -> None:
        self._file = open(path, "x", encoding="utf-8", newline="", buffering=1)  # noqa: SIM115
        self._file.write(f"# {header}\n")
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(_COLUMNS)

    def write(self, modality: str, time: float, rate: float, frames: int, values: np.ndarray) -> None:
        # Nine digits are within 5e-9 of the number, and the midpoints between float32 at least 3e-8 away.
        self._rows.writerow(
            (
                modality,
                repr(time),
                repr(rate),
                frames,
                " ".join([f"{value:.9g}" for value in values.tolist()]),
            )
        )

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    def __init__(self, path: Path, header: str) -> None:
        self._arrow = require("pyarrow", purpose="writing Parquet files")
        self._parquet = require("pyarrow.parquet", purpose="writing Parquet files")
        arrow = self._arrow
        types = (
            arrow.string(),
            arrow.float64(),
            arrow.float64(),
            arrow.int64(),
            arrow.list_(arrow.float32()),
        )
        self._schema = arrow.schema(
            list(zip(_COLUMNS, types, strict=True)), metadata={"affekt": header.encode()}
        )
        self._folder = path
        path.mkdir()
        self._rows: list[tuple[Any, ...]] = []
        self._parts = 0
        self._flush()  # a recording without a push is one all the same

    def write(self, modality: str, time: float, rate: float, frames: int, values: np.ndarray) -> None:
        if self._rows and abs(time - self._rows[0][1]) >= _PART_S:
            self._flush()
        self._rows.append((modality, time, rate, frames, values))

    def _flush(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else ([] for _ in _COLUMNS)
        arrays = [
            self._arrow.array(list(column), field.type)
            for column, field in zip(columns, self._schema, strict=True)
        ]
        name = self._folder / f"part-{self._parts:06}.parquet"
        half = name.with_suffix(".half")  # what a full disk leaves must not look like a part
        self._parquet.write_table(self._arrow.table(arrays, schema=self._schema), half)
        half.replace(name)
        self._parts += 1
        self._rows = []

    def close(self) -> None:
        if self._rows:
            self._flush()


class Recording:
    """What a `Recorder` wrote.

    Parameters
    ----------
    path : the ``.csv`` file or the ``.parquet`` folder.

    Attributes
    ----------
    model : SHA-256 of the model file that the session ran.
    name, file : the model's name, and where its file was; None for one from memory.
    options : of the engine, by name.
    profile : that the session started from, or None.
    isa : instruction set that it ran on. Replays on the same one have the same bits.

    Raises
    ------
    DataError : the recording is missing, damaged, or of another format.

    Examples
    --------
    >>> for estimate in Recording("talk.csv").replay("model.safetensors"):         # doctest: +SKIP
    ...     print(estimate.time, estimate["arousal"])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = as_path(path, "path")
        if not self.path.exists():
            raise DataError(f"{self.path}: no such recording")
        self._rows = _read_parquet if self.path.is_dir() else _read_csv
        rows = self._rows(self.path)
        header = next(rows)
        try:
            document = json.loads(header)
            form = document["affekt_recording"]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.path}: not a recording of affekt") from error
        if form != _FORMAT:
            raise DataError(f"{self.path}: a recording of format {show(form)}, expected {_FORMAT}")
        try:
            self.model, self.name, self.file = (document[key] for key in ("model", "name", "file"))
            self.options: dict[str, Any] = dict(document["options"])
            self.isa = str(document["isa"])
            given = document["profile"]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: not a recording: its header lacks {error}") from error
        self.profile = None if given is None else Profile.from_document(given, str(self.path))

    def pushes(self, inputs: Sequence[dict[str, Any]]) -> Iterator[Chunk | End | Switch | None]:
        """The pushes, ends of inputs and calls of `Engine.adapt` in order; None at the end of a session that
        was finished.

        Parameters
        ----------
        inputs : `affekt.Model.inputs` of the model that was recorded.

        Raises
        ------
        DataError : a push is damaged or of an input that the model does not have.
        """
        specs = {str(spec["name"]): spec for spec in inputs}
        rows = self._rows(self.path)
        next(rows)
        for number, (modality, time, rate, frames, values) in enumerate(rows):
            if not modality and values.size:
                yield Switch(bool(values[0]), frames, bool(rate))
                continue
            if not modality:
                yield None
                return
            if modality not in specs:
                raise DataError(f"{self.path}: push {number}: the model has no input {modality!r}")
            if not frames:
                yield End(modality)
                continue
            channels, kind = int(specs[modality]["channels"]), specs[modality]["kind"]
            if values.size != frames * channels:
                raise DataError(
                    f"{self.path}: push {number}: expected {frames} x {channels} values, got {values.size}"
                )
            samples = values
            if channels > 1:
                samples = values.reshape(frames, channels)
                samples = samples if kind == "rows" else samples.T
            yield Chunk(modality, samples, time, rate, kind == "rows")

    def replay(
        self, model: str | os.PathLike[str] | Model | None = None, *, detector: Detector | None = None
    ) -> Iterator[Estimate]:
        """The estimates of the session again, bit for bit on the same instruction set.

        Parameters
        ----------
        model : the model that was recorded; None: its file, where it was then.
        detector : the session's detector where that was one of your own; those of affekt are known by name.

        Raises
        ------
        InputError : another model, or a detector that is not the session's.
        DataError : a push is damaged. ModelFileError : the model cannot be read.

        Warns
        -----
        RecordingWarning : this process runs another instruction set; or the recording ends in the middle of a
            push, which is then left out.
        """
        native = self._same_model(model)
        options = dict(self.options)
        if options.get("detector") is not None and detector is not None:
            options["detector"] = detector
        elif detector is not None:
            raise InputError("detector: the session that was recorded had none")
        if self.isa != _core.isa():
            warnings.warn(
                f"recorded on {self.isa}, replayed on {_core.isa()}: estimates agree within rounding only",
                RecordingWarning,
                stacklevel=2,
            )
        return self._replayed(Engine(native, profile=self.profile, **options))

    def _replayed(self, engine: Engine) -> Iterator[Estimate]:
        switches: deque[Switch] = deque()  # those that are due when the estimates before them have been given

        def polled() -> Iterator[Estimate]:
            while True:
                # Between the same two blocks as then, which the count alone does not tell where one was
                # computed without an estimate.
                while switches and engine.counters()["estimates"] >= switches[0].after:
                    if switches[0].drained:
                        break
                    engine.adapt(switches.popleft().on)
                estimate = engine.poll()
                if estimate is None:
                    break
                yield estimate
            while switches and engine.counters()["estimates"] >= switches[0].after:
                engine.adapt(switches.popleft().on)

        waiting: Chunk | End | None = None
        begun = False
        for item in self.pushes(engine.model.inputs):
            if isinstance(item, Switch):
                switches.append(item)
                continue
            if begun:
                self._push(engine, waiting)
            yield from polled()
            waiting, begun = item, True
        if begun:
            self._push(engine, waiting)
        yield from polled()

    def _push(self, engine: Engine, item: Chunk | End | None) -> None:
        """One push again, or that an input was finished, or all."""
        if not isinstance(item, Chunk):
            engine.finish(None if item is None else item.modality)
        elif (taken := engine.push(item.modality, item.samples, item.time)) != item.frames:
            raise DataError(
                f"{self.path}: {item.modality} at {item.time:g} s: the engine took {taken} of "
                f"{item.frames} samples, so this is not what a session took"
            )

    def _same_model(self, model: str | os.PathLike[str] | Model | None) -> Model:
        from affekt._native import load

        if model is None:
            if self.file is None:
                raise InputError(f"model: expected one; {self.path} was recorded with a model from memory")
            model = self.file
        native = model if isinstance(model, Model) else load(model)
        if native.hash != self.model:
            raise InputError(
                f"model: expected the one that was recorded, {self.name!r} ({self.model[:12]}), "
                f"got {native.name!r} ({native.hash[:12]})"
            )
        return native


def _read_csv(path: Path) -> Iterator[Any]:
    """The header, then (modality, time, rate, frames, values) of each push."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            first = file.readline()
            if not first.startswith("# "):
                raise DataError(f"{path}: not a recording of affekt")
            yield first[2:]
            file.readline()  # the names of the columns
            for number, line in enumerate(file):
                if not line.endswith("\n"):
                    _warn_half(path)
                    return
                try:
                    head, time, rate, frames, values = line.rsplit(",", 4)
                    modality = next(csv.reader([head]), None) or [""]  # an empty line has no fields
                    numbers = np.array(values.split(), np.float64).astype(np.float32)
                    yield modality[0], float(time), float(rate), int(frames), numbers
                except ValueError as error:
                    raise DataError(f"{path}: push {number} is damaged: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read_parquet(path: Path) -> Iterator[Any]:
    """As `_read_csv`, of a folder."""
    parquet = require("pyarrow.parquet", purpose="reading Parquet files")
    parts = sorted(path.glob("part-*.parquet"))
    if not parts or parts[0].name != "part-000000.parquet":
        raise DataError(f"{path}: not a recording of affekt")
    for number, part in enumerate(parts):
        if part.name != f"part-{number:06}.parquet":
            raise DataError(f"{path}: part {number} is missing")
        try:
            table = parquet.read_table(part)
        except (OSError, ValueError) as error:  # pyarrow's errors of content are ValueErrors
            raise DataError(f"{part}: cannot be read: {error}") from error
        if not number:
            yield (table.schema.metadata or {}).get(b"affekt", b"")
        if table.column_names != list(_COLUMNS):
            raise DataError(f"{part}: expected columns {', '.join(_COLUMNS)}")
        *columns, values = table.columns
        flat = values.combine_chunks()
        for i, row in enumerate(zip(*(column.to_pylist() for column in columns), strict=True)):
            yield (*row, np.array(flat[i].values, np.float32))
    if any(path.glob("*.half")):
        _warn_half(path)


def _warn_half(path: Path) -> None:
    warnings.warn(f"{path}: its end was not written; replayed up to there", RecordingWarning, stacklevel=3)
