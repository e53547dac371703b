"""Writer of model files, schemas 1 and 2.

A model file is one ``.safetensors`` file. Its ``__metadata__`` has exactly two keys:

- ``affekt.card``: the model card, canonical JSON (UTF-8, sorted keys, separators ``,`` and ``:``, no NaN). It
  holds the node graph, the inputs and outputs, latency, provenance, and a table of the tensors that repeats
  the safetensors header, so that one hash covers everything that matters.
- ``affekt.sha256``: lower-case hex SHA-256 of the stored card text followed by the whole data buffer.

Weights may be stored as int8 with one float32 scale per output channel (`affekt.quantise`).

The same card and tensors give the same bytes. Reading is the core's work: `affekt.load`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from affekt.errors import InputError

__all__ = ["SCHEMA", "canonical_json", "members_of", "model_bytes", "names_of", "provenance", "write_model"]

SCHEMA = 1
"""Version of the card's layout that this writer produces unless the card names one."""
NEWEST_SCHEMA = 2
"""The newest version of the card's layout: several inputs on one clock, nodes for signals and fusion."""

_TENSOR_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*\Z")
_MAX_HEADER = 16 << 20
_MAX_FILE = 1 << 30
_MAX_DIMENSIONS = 8


def canonical_json(value: Any) -> str:
    """JSON text with sorted keys and no spaces; numpy scalars and arrays are written as numbers and lists.

    Raises
    ------
    InputError : the value holds NaN or infinity, or something that JSON cannot carry.
    """

    def default(item: Any) -> Any:
        if isinstance(item, np.generic | np.ndarray):
            return item.tolist()
        if isinstance(item, os.PathLike):
            return os.fspath(item)
        raise InputError(f"the card holds a {type(item).__name__}, which JSON cannot carry: {item!r}")

    try:
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=default
        )
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"the card cannot be written as JSON: {error}") from error


def _stored(name: Any, value: Any, scale: Any) -> np.ndarray:
    """The array as the file holds it: float32, or int8 where it comes so and has a `scale` beside it."""
    if not isinstance(name, str) or not _TENSOR_NAME.match(name) or name == "__metadata__":
        raise InputError(
            f"tensor name {name!r}: expected letters, digits, '_', '-', '.', as in 'tcn.0.conv1.bias', and "
            "not '__metadata__'"
        )
    array = np.asarray(value)
    if array.dtype.kind != "f" and array.dtype != np.int8:
        raise InputError(f"tensor {name!r}: expected floating point values, got dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise InputError(
            f"tensor {name!r}: expected at least one dimension and one value, got shape {array.shape}"
        )
    if array.ndim > _MAX_DIMENSIONS:
        raise InputError(
            f"tensor {name!r}: expected at most {_MAX_DIMENSIONS} dimensions, got shape {array.shape}"
        )
    if array.dtype == np.int8:
        if array.ndim < 2:
            raise InputError(f"tensor {name!r}: int8 needs 2 or more dimensions, got shape {array.shape}")
        if array.min() < -127:
            raise InputError(f"tensor {name!r}: expected int8 values in [-127, 127], got -128")
        factors = np.asarray(scale)
        if factors.dtype.kind != "f" or factors.shape != array.shape[:1] or not (factors > 0).all():
            raise InputError(
                f"tensor {name!r}: int8 needs '{name}.scale' beside it, {len(array)} positive floats, got "
                + ("none" if scale is None else f"dtype {factors.dtype}, shape {factors.shape}")
            )
        return np.ascontiguousarray(array)
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype="<f4")
    if not np.isfinite(array).all():
        raise InputError(f"tensor {name!r}: expected finite float32 values, got NaN or infinity")
    return array


def model_bytes(card: Mapping[str, Any], tensors: Mapping[str, Any]) -> bytes:
    """The bytes of a model file.

    Parameters
    ----------
    card : everything of the card except ``"tensors"``, which is filled in here; ``"schema"`` is 1 unless it
        says 2.
    tensors : name -> array of floats (numpy, or anything `numpy.asarray` takes), stored as float32; or int8
        in [-127, 127] of shape (out, ...) with floats ``"<name>.scale"`` (out) > 0 beside it, standing for
        their product. In the order of the sorted names, int8 behind float32.

    Returns
    -------
    bytes : the same for the same card and tensors.

    Raises
    ------
    InputError : there are no tensors; a tensor has a name that the file cannot hold, more than 8 dimensions,
        or is empty, not floating point or not finite; an int8 tensor holds -128, has one dimension or no
        fitting scales; the card is not JSON or already holds ``"tensors"`` or
        another schema version; the result exceeds the reader's limits.
    """
    if "tensors" in card:
        raise InputError("card: 'tensors' is filled in by the writer, leave it out")
    schema = card.get("schema", SCHEMA)
    if isinstance(schema, bool) or schema not in range(SCHEMA, NEWEST_SCHEMA + 1):
        raise InputError(f"card: 'schema' must be {SCHEMA} or {NEWEST_SCHEMA}, got {schema!r}")
    if not tensors:
        raise InputError("tensors: expected at least one, got none")
    arrays = {name: _stored(name, tensors[name], tensors.get(f"{name}.scale")) for name in sorted(tensors)}
    # Whole words first, so that they stay aligned.
    arrays = dict(sorted(arrays.items(), key=lambda item: item[1].dtype == np.int8))
    table: dict[str, Any] = {}
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype, shape = ("I8" if array.dtype == np.int8 else "F32"), list(array.shape)
        table[name] = {"dtype": dtype, "shape": shape, "offsets": [begin, end]}
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = canonical_json({**card, "schema": schema, "tensors": table})
    data = b"".join(array.tobytes() for array in arrays.values())
    try:
        digest = hashlib.sha256(text.encode("utf-8") + data).hexdigest()
    except UnicodeEncodeError as error:
        raise InputError(f"the card holds text that is not valid Unicode: {error}") from error
    header["__metadata__"] = {"affekt.card": text, "affekt.sha256": digest}
    head = canonical_json(header).encode("utf-8")
    head += b" " * (-len(head) % 8)  # the data buffer starts on a multiple of 8 bytes
    if len(head) > _MAX_HEADER:
        raise InputError(
            f"the card and tensor table take {len(head)} bytes, more than the limit of {_MAX_HEADER}"
        )
    if 8 + len(head) + len(data) > _MAX_FILE:
        raise InputError(
            f"the model takes {8 + len(head) + len(data)} bytes, more than the limit of {_MAX_FILE}"
        )
    return len(head).to_bytes(8, "little") + head + data


def write_model(path: str | os.PathLike[str], card: Mapping[str, Any], tensors: Mapping[str, Any]) -> Path:
    """Write a model file; an existing file is replaced only when the new one is complete.

    Parameters
    ----------
    path : target, customarily ``*.safetensors``; its folder must exist.
    card, tensors : see `model_bytes`.

    Returns
    -------
    Path : the file written.

    Raises
    ------
    InputError : see `model_bytes`.
    OSError : the file cannot be written.
    """
    path = Path(path)
    content = model_bytes(card, tensors)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def provenance(card: Mapping[str, Any], sha256: str) -> dict[str, Any]:
    """What a card made from another model says of that one: name, version, hash, data, licence, and the model
    that it started from in turn.

    Parameters
    ----------
    card : of the other model.
    sha256 : of its card and weights (`affekt.Model.hash`), not of its file.
    """
    info = card.get("info", {})
    return {
        "name": str(card["name"]),
        "version": str(card["version"]),
        "sha256": sha256,
        "data": names_of(info.get("data")),
        "licence": str(info.get("licence") or "not stated"),
        **({"initial_model": info["initial_model"]} if info.get("initial_model") else {}),
    }


def members_of(card: Mapping[str, Any]) -> list[str]:
    """Names of the models that the model of this card is the mean of (`affekt.ensemble`); none for others."""
    types = {node["name"]: node["type"] for node in card["nodes"]}
    if any(types[output["node"]] != "average" for output in card["outputs"]):
        return []
    said = card.get("info", {}).get("members")
    known = [entry for entry in said if isinstance(entry, dict)] if isinstance(said, list) else []
    return [f"{e.get('name')} ({str(e.get('sha256'))[:12]})" for e in known] or ["not named on the card"]


def names_of(value: Any) -> list[str]:
    """One name, several or none, as a card may have them, as a list."""
    return [value] if isinstance(value, str) else [str(name) for name in value or ()]
