"""Where estimates go: a CSV file, JSON lines, a Lab Streaming Layer outlet (`affekt.live.lsl`)."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from affekt import _checks
from affekt.errors import DataError

if TYPE_CHECKING:
    from affekt._native import Model
    from affekt.live.engine import Estimate

__all__ = ["CsvSink", "JsonLinesSink", "Sink"]


class Sink(ABC):
    """Takes estimates one by one, as they come."""

    @abstractmethod
    def write(self, estimate: Estimate) -> None:
        """Take one estimate; an `OSError` or `AffektError` ends this sink's part in a `Session`."""

    def close(self) -> None:  # noqa: B027  # most hold nothing open
        """Write what is held and let go of it."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class CsvSink(Sink):
    """A row per estimate, written at once: ``time``, the model's columns, ``valid``, ``confidence`` (empty
    where the model gives none), ``latency`` and ``has_<input>`` for a model with a clock.

    Parameters
    ----------
    path : file to write; one that exists is replaced.
    model : whose estimates will come.

    Raises
    ------
    DataError : it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], model: Model) -> None:
        self.path = _checks.path(path, "path")
        self._columns = list(model.columns)
        self._inputs = [str(spec["name"]) for spec in model.inputs] if model.clocked else []
        self._file = _opened(self.path)
        self._rows = csv.writer(self._file, lineterminator="\n")
        present = [f"has_{name}" for name in self._inputs]
        try:
            self._row(["time", *self._columns, "valid", "confidence", "latency", *present])
        except DataError:
            with contextlib.suppress(OSError):  # has been said
                self._file.close()
            raise

    def _row(self, values: list[Any]) -> None:
        with _writing(self.path):
            self._rows.writerow(values)

    def write(self, estimate: Estimate) -> None:
        self._row(
            [
                repr(estimate.time),
                *(repr(estimate[name]) for name in self._columns),
                estimate.valid,
                "" if estimate.confidence is None else repr(estimate.confidence),
                repr(estimate.latency),
                *(estimate.present[name] for name in self._inputs),
            ]
        )

    def close(self) -> None:
        with _writing(self.path):
            self._file.close()

    def __str__(self) -> str:
        return str(self.path)


class JsonLinesSink(Sink):
    """An object per line: ``time``, ``values``, ``valid``, and where the model gives them ``confidence`` and
    ``present``. A value that is not finite is null.

    Parameters
    ----------
    target : file to write (one that exists is replaced), or an open text stream, which stays open.

    Raises
    ------
    DataError : it cannot be written.
    """

    def __init__(self, target: str | os.PathLike[str] | IO[str]) -> None:
        self._own = isinstance(target, str | os.PathLike)
        if isinstance(target, str | os.PathLike):
            path = _checks.path(target, "target")
            self._name, self._file = str(path), _opened(path)
        else:
            self._name, self._file = getattr(target, "name", "stream"), target

    def write(self, estimate: Estimate) -> None:
        line: dict[str, Any] = {
            "time": estimate.time,
            "values": {
                name: value if math.isfinite(value) else None for name, value in estimate.values.items()
            },
            "valid": estimate.valid,
        }
        if estimate.confidence is not None:
            line["confidence"] = estimate.confidence if math.isfinite(estimate.confidence) else None
        if estimate.present:
            line["present"] = estimate.present
        with _writing(self._name):
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._own:
            with _writing(self._name):
                self._file.close()

    def __str__(self) -> str:
        return self._name


def _opened(path: Path) -> IO[str]:
    with _writing(path):
        return open(path, "w", encoding="utf-8", newline="", buffering=1)


@contextlib.contextmanager
def _writing(name: object) -> Iterator[None]:
    """What the system says of a file, with its name; that the reader of a pipe went away, as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise DataError(f"{name}: cannot be written: {error.strerror or error}") from error
