"""Model files with int8 weights: about a quarter of the size, dequantised once at load.

By default only how the file holds the weights changes: the core runs float32 weights that are multiples of a
scale. With ``arithmetic="int8"`` the card asks the TCN for integer products too. Either way full, stream and
any chunking give the same bits as each other, as with any model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from affekt._native import Model, as_model
from affekt.errors import InputError
from affekt.modelfile import write_model

__all__ = ["quantise", "quantise_weight"]

_TYPES = ("tcn", "linear", "conv2d")
_LARGEST = 127
_SHRINK = np.linspace(1.0, 0.5, 101)


def quantise_weight(weight: Any, clip: Literal["max", "mse"] = "max") -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 with one scale per output channel.

    q = round(w / s) clipped to [-127, 127], to stand for s q, with s = max |w| / 127 of the channel
    (``clip="max"``: no weight is off by more than s / 2), or the s in 101 even steps from that down to half
    of it that makes sum (w - s q)^2 least (``clip="mse"``: large weights are clipped where that pays).
    Round half to even. A channel of zeros has s = 1. (Jacob et al. 2018, arXiv:1712.05877, without the
    zero point.)

    Parameters
    ----------
    weight : (out, ...) finite floats, 2 or more dimensions.
    clip : ``"max"`` or ``"mse"``.

    Returns
    -------
    values : int8, as `weight`.
    scale : (out,) float32.

    Raises
    ------
    InputError : another shape, type or `clip`, or values that are not finite.
    """
    array = np.asarray(weight)
    if array.dtype.kind != "f" or array.ndim < 2 or not array.size or not np.isfinite(array).all():
        raise InputError(
            "weight: expected finite floats of shape (out, ...), 2 or more dimensions, got "
            f"dtype {array.dtype}, shape {array.shape}"
        )
    if clip not in ("max", "mse"):
        raise InputError(f"clip: expected 'max' or 'mse', got {clip!r}")
    rows = array.astype(np.float64).reshape(len(array), -1)
    largest = np.abs(rows).max(axis=1)
    # Below that a float32 scale would be 0 or lose digits; such a channel is silent either way.
    scale = np.where(largest > 1e-30, largest / _LARGEST, 1.0).astype(np.float32)

    def integers(factor: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(rows / factor.astype(np.float64)[:, None]), -_LARGEST, _LARGEST)

    if clip == "mse":
        tried = [(scale * share).astype(np.float32) for share in _SHRINK]
        errors = [np.square(rows - integers(s) * s.astype(np.float64)[:, None]).sum(axis=1) for s in tried]
        scale = np.stack(tried)[np.argmin(errors, axis=0), np.arange(len(rows))]
    return integers(scale).astype(np.int8).reshape(array.shape), scale


def quantise(
    model: Model | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    bits: int = 8,
    clip: Literal["max", "mse"] = "max",
    arithmetic: Literal["float32", "int8"] = "float32",
    name: str | None = None,
) -> Path:
    """Write the int8 twin of a model file.

    The weights of ``tcn``, ``linear`` and ``conv2d`` nodes become int8, see `quantise_weight`; everything
    else stays float32. The card gains ``info.quantised``: name, version and ``affekt.sha256`` of the model
    that it comes from, bits, clip and, where it is int8, arithmetic. A profile of a speaker belongs to one
    file: enrol anew for the twin.

    Parameters
    ----------
    model : a model with float32 weights, its file, or the name of a shipped one.
    out : target, customarily ``*.safetensors``.
    bits : 8.
    clip : ``"max"`` or ``"mse"``.
    arithmetic : ``"int8"`` also makes ``tcn`` nodes multiply in integers, several times faster: each row that
        enters a convolution becomes round(127 x / max |x|), see ``affekt::Arithmetic``. Estimates then change
        by the rounding of the rows too; compare with ``affekt evaluate``.
    name : on the new card; by default the model's with ``-int8``.

    Returns
    -------
    Path : the file written.

    Raises
    ------
    InputError : `bits`, `clip` or `arithmetic` is unknown, the model has int8 weights already or no weights
        of these nodes, or no ``tcn`` node to run in int8.
    ModelFileError : the model cannot be read.
    OSError : the file cannot be written.

    Examples
    --------
    >>> affekt.quantise("my-model.safetensors", "my-model-int8.safetensors")  # doctest: +SKIP
    """
    if bits != 8 or isinstance(bits, bool):
        raise InputError(f"bits: expected 8, got {bits!r}")
    if arithmetic not in ("float32", "int8"):
        raise InputError(f"arithmetic: expected 'float32' or 'int8', got {arithmetic!r}")
    model = as_model(model)
    card = {key: value for key, value in model.card.items() if key != "tensors"}
    if any(entry["dtype"] == "I8" for entry in model.card["tensors"].values()):
        raise InputError(f"model: {model.name!r} has int8 weights already; start from its float32 twin")
    types = {node["name"]: node["type"] for node in card["nodes"]}
    tensors: dict[str, np.ndarray] = {}
    for key, value in model.tensors().items():
        node, _, parameter = key.partition(".")
        if types[node] in _TYPES and parameter.split(".")[-1] == "weight" and value.ndim >= 2:
            tensors[key], tensors[f"{key}.scale"] = quantise_weight(value, clip)
        else:
            tensors[key] = value
    if all(value.dtype != np.int8 for value in tensors.values()):
        raise InputError(f"model: {model.name!r} has no {', '.join(_TYPES)} node, so nothing to quantise")
    if arithmetic == "int8":
        if "tcn" not in types.values():
            raise InputError(f"arithmetic: model {model.name!r} has no tcn node to run in int8")
        card["nodes"] = [
            {**node, "options": {**node["options"], "arithmetic": "int8"}} if node["type"] == "tcn" else node
            for node in card["nodes"]
        ]
    origin = {"name": card["name"], "version": card["version"], "sha256": model.hash}
    card["info"] = {**card.get("info", {}), "quantised": {"from": origin, "bits": bits, "clip": clip}}
    if arithmetic == "int8":
        card["info"]["quantised"]["arithmetic"] = arithmetic
    card["name"] = name or f"{card['name']}-int8"
    return write_model(out, card, tensors)
