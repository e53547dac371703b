"""What a model knows of one speaker, as an object and as a file."""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from affekt._checks import path as as_path
from affekt._checks import show
from affekt.errors import DataError, InputError

__all__ = ["Profile", "Statistics"]

_FORMAT = 1


class Statistics(NamedTuple):
    """Moments of the rows that one `adapt` node counted."""

    count: float  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    """Rows, less what was forgotten."""
    mean: np.ndarray
    """(d,) float64."""
    variance: np.ndarray
    """(d,) float64, 1/N; means nothing where `count` is 0."""


class Profile:
    """What a model knows of one speaker; `affekt.enrol` makes one, and any run of a model that adapts.

    A model starts from it (``profile=`` of `affekt.predict`, `affekt.Model.run`, `affekt.live.Engine`) and,
    unless told otherwise, goes on learning from what it hears. It holds means and variances of what the model
    computes inside, no audio, and fits that one model file: not its int8 twin, nor a later version.

    Parameters
    ----------
    model : SHA-256 of the model file that it belongs to, `affekt.Model.hash`.
    nodes : name of each `adapt` node -> (count, mean (d,), variance (d,)).
    name : of the model, for messages.

    Raises
    ------
    InputError : an entry that is not these three, a count or variance below 0, a value that is not finite,
        shapes that do not fit.
    """

    def __init__(self, model: str, nodes: Mapping[str, Any], name: str = "") -> None:
        if not isinstance(model, str) or not model:
            raise InputError(f"model: expected the hash of a model, got {show(model)}")
        if not isinstance(nodes, Mapping) or not nodes:
            raise InputError(f"nodes: expected at least one node's statistics, got {show(nodes)}")
        self.model, self.name = model, str(name)
        self.nodes: dict[str, Statistics] = {
            str(node): _checked(str(node), entry) for node, entry in nodes.items()
        }

    @property
    def empty(self) -> bool:
        """Whether nothing was counted yet, so that it changes nothing."""
        return all(entry.count == 0 for entry in self.nodes.values())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON; the numbers come back with the same bits.

        Raises
        ------
        OSError : the file cannot be written.
        """
        target = as_path(path, "path")
        target.write_text(json.dumps(self.document(), indent=1) + "\n", encoding="utf-8")
        return target

    def document(self) -> dict[str, Any]:
        """What `save` writes, as an object for JSON."""
        nodes = {
            name: {"count": s.count, "mean": s.mean.tolist(), "variance": s.variance.tolist()}
            for name, s in self.nodes.items()
        }
        return {"affekt_profile": _FORMAT, "model": self.model, "name": self.name, "nodes": nodes}

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read what `save` wrote.

        Raises
        ------
        DataError : the file is missing or not a profile, or its numbers cannot be (see the class).
        """
        source = as_path(path, "path")
        try:
            document = json.loads(source.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: not a profile: not JSON ({error})") from error
        return cls.from_document(document, str(source))

    @classmethod
    def from_document(cls, document: Any, source: str) -> Profile:
        """The profile that `document` gave; DataError, which names `source`, where it is none."""
        if not isinstance(document, dict) or "affekt_profile" not in document:
            raise DataError(f"{source}: not a profile: it has no 'affekt_profile'")
        if document["affekt_profile"] != _FORMAT:
            raise DataError(
                f"{source}: a profile of format {show(document['affekt_profile'])}, expected {_FORMAT}"
            )
        try:
            nodes = {
                name: (entry["count"], entry["mean"], entry["variance"])
                for name, entry in document["nodes"].items()
            }
            return cls(document["model"], nodes, document.get("name", ""))
        except InputError as error:
            raise DataError(f"{source}: {error}") from error
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{source}: not a profile: {type(error).__name__} {error}") from error

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Profile):
            return NotImplemented
        return (
            self.model == other.model
            and self.nodes.keys() == other.nodes.keys()
            and all(
                a.count == b.count
                and np.array_equal(a.mean, b.mean)
                and np.array_equal(a.variance, b.variance)
                for a, b in ((entry, other.nodes[name]) for name, entry in self.nodes.items())
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        rows = ", ".join(f"{name}: {entry.count:g} rows" for name, entry in self.nodes.items())
        return f"<affekt.Profile for {self.name or 'model'} {self.model[:12]}, {rows}>"


def _checked(node: str, entry: Any) -> Statistics:
    try:
        count, *moments = entry
        mean, variance = moments
    except (TypeError, ValueError) as error:
        raise InputError(f"nodes: {node}: expected (count, mean, variance), got {show(entry)}") from error
    try:
        rows = float(count) if isinstance(count, numbers.Real) else math.nan
    except OverflowError:
        rows = math.inf
    if isinstance(count, bool | np.bool_) or not math.isfinite(rows) or rows < 0:
        raise InputError(f"nodes: {node}: count must be a finite number not below 0, got {show(count)}")
    arrays = []
    for name, value in zip(("mean", "variance"), moments, strict=True):
        try:
            array = np.array(value, np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"nodes: {node}: {name} must be numbers, got {show(value)}") from error
        if array.ndim != 1 or not array.size or not np.isfinite(array).all():
            raise InputError(f"nodes: {node}: {name} must be finite numbers (d,), got {show(value)}")
        array.flags.writeable = False
        arrays.append(array)
    mean, variance = arrays
    if mean.shape != variance.shape or (variance < 0).any():
        raise InputError(
            f"nodes: {node}: variance must be {mean.size} numbers not below 0, got {show(moments[1])}"
        )
    return Statistics(rows, mean, variance)
