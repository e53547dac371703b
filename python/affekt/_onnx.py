"""Models of one audio input as ONNX graphs over a window of fixed length, from samples to estimates."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from affekt import _checks, _core
from affekt._lazy import require
from affekt._native import Model, as_model
from affekt.errors import InputError

__all__ = ["export_onnx"]

_OPSET, _IR = 13, 8  # old enough for every runtime of the last years
# Beyond framing, window, power, mel, log and DCT the front end is refused: option -> value without it.
_PLAIN = {
    "center": False,
    "deltas": 0,
    "energy": None,
    "lifter": 0.0,
    "remove_dc": False,
    "top_db": None,
    "drop_last": False,
}


def export_onnx(
    model: str | os.PathLike[str] | Model, path: str | os.PathLike[str], *, seconds: float | None = None
) -> Path:
    """Write a model as an ONNX file that takes a window of sound and gives what the model says of it.

    The graph starts afresh in each window, as ``affekt.predict(mode="window")`` does, and learns nothing of
    its speaker (``adapt=False``). It has

    - one input, named as the model's (``"audio"``): (batch, samples) float32 in [-1, 1] at the model's rate;
    - an output for each of the model's, under its name: (batch, labels) for a model that pools over time,
      (batch, steps, labels) for one that answers per step. Labels, ranges, rate and licence stand in the
      metadata, as JSON under ``"affekt"``.

    What says whether an estimate is valid is not part of it: a window without speech gives values too.

    Parameters
    ----------
    model : a model file, the name of a shipped one, or a loaded `affekt.Model`.
    path : file to write.
    seconds : length of the window; None: the model's context. Rounded to whole samples.

    Returns
    -------
    The file. Its values agree with the core's within rounding of float32 (1e-4 in the tests).

    Raises
    ------
    InputError : the model has several inputs, a clock, or a node or an option that this export does not know;
        the window is too short for an estimate.
    MissingExtraError : the package onnx is not installed.

    Examples
    --------
    >>> affekt.export_onnx("shipped", "speech.onnx", seconds=4.0)                   # doctest: +SKIP
    """
    onnx = require("onnx", purpose="ONNX files")
    native = as_model(model)
    target = _checks.path(path, "path")
    kinds = [str(entry["kind"]) for entry in native.inputs]
    if native.clocked or kinds != ["audio"]:
        raise InputError(
            f"model: expected one that takes a single audio signal, this one takes {', '.join(kinds)}"
        )
    length = native.timing["context_s"] if seconds is None else seconds
    samples = round(_checks.number(length, "seconds", positive=True) * native.sample_rate)
    for entry in native.card["outputs"]:
        if entry["name"] == native.inputs[0]["name"]:
            raise InputError(f"model: ONNX export needs two names for input and output {entry['name']!r}")
    graph = _Graph(onnx, native, samples)
    outputs = [graph.output(entry) for entry in native.card["outputs"]]
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    name = str(native.inputs[0]["name"])
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            native.name or "affekt",
            [helper.make_tensor_value_info(name, kind, ["batch", samples])],
            [helper.make_tensor_value_info(n, kind, ["batch", *shape]) for n, shape in outputs],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="affekt",
    )
    about = {
        "model": native.hash,
        "sample_rate": native.sample_rate,
        "outputs": [
            {key: entry[key] for key in ("name", "kind", "labels", "range") if entry.get(key) is not None}
            for entry in native.card["outputs"]
        ],
        "licence": native.card.get("info", {}).get("licence"),
    }
    helper.set_model_props(proto, {"affekt": json.dumps(about)})
    onnx.checker.check_model(proto)
    target.write_bytes(proto.SerializeToString())
    return target


_LOOK_BACK = ("tcn", "stack", "pool")  # whose rows rest on several of their input's


class _Graph:
    """The nodes of an ONNX graph; a value is its name, its rows and their width, (batch, rows, width)."""

    def __init__(self, onnx: Any, model: Model, samples: int) -> None:
        self._onnx, self._model, self._samples = onnx, model, samples
        self._tensors = model.tensors()
        self._cards = {node["name"]: node for node in model.card["nodes"]}
        self._done: dict[str, tuple[str, int, int]] = {}
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    # ---- building

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"/{kind.lower()}_{len(self.nodes)}"  # no name of an input or output of a model
        self.nodes.append(self._onnx.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _constant(self, value: Any, dtype: Any = np.float32) -> str:
        array = np.array(value, dtype, order="C")  # scalars stay scalars
        name = f"/constant_{len(self.constants)}"
        self.constants[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def output(self, entry: dict[str, Any]) -> tuple[str, list[int]]:
        """Name and shape, without the batch, of one of the model's outputs."""
        value, rows, width = self.value(str(entry["node"]))
        name, shape = str(entry["name"]), [rows, width]
        if self._pooled(str(entry["node"])):
            value, shape = self._add("Squeeze", value, self._constant([1], np.int64)), [width]
        self.nodes.append(self._onnx.helper.make_node("Identity", [value], [name]))
        return name, shape

    def _pooled(self, node: str) -> bool:
        if node not in self._cards:
            return False
        card = self._cards[node]
        return card["type"] == "pool" or self._pooled(str(card["inputs"][0]))

    def value(self, node: str) -> tuple[str, int, int]:
        """The rows of a node, computed once."""
        if node not in self._done:
            card = self._cards[node]
            make = getattr(self, f"_{card['type']}", None)
            if card["type"] in _LOOK_BACK and self._pooled(str(card["inputs"][0])):
                # Of a pool there is the last row alone.
                raise InputError(
                    f"model: node {node!r}: ONNX export does not know the type {card['type']!r} behind a pool"
                )
            if make is None:
                raise InputError(f"model: node {node!r}: ONNX export does not know the type {card['type']!r}")
            self._done[node] = make(card, card.get("options", {}))
            if self._done[node][1] < 1:
                raise InputError(
                    f"seconds: {self._samples / self._model.sample_rate:g} s are too short for a row of "
                    f"node {node!r}"
                )
        return self._done[node]

    def _input(self, card: dict[str, Any]) -> tuple[str, int, int]:
        return self.value(str(card["inputs"][0]))

    def _tensor(self, card: dict[str, Any], name: str) -> np.ndarray:
        return self._tensors[f"{card['name']}.{name}"]

    def _turned(self, value: str) -> str:
        return self._add("Transpose", value, perm=[0, 2, 1])

    # ---- nodes of a card

    def _front_end(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        plan = _core.FrontEnd(json.dumps(options))
        full = json.loads(plan.options)
        for option, plain in _PLAIN.items():
            if full.get(option, plain) != plain:
                raise InputError(
                    f"model: node {card['name']!r}: ONNX export does not know {option}={full[option]!r}"
                )
        if full["ref"] == "max":
            raise InputError(f"model: node {card['name']!r}: ONNX export does not know ref='max'")
        if full["preemphasis"] and full["preemphasis_mode"] != "signal":
            raise InputError(f"model: node {card['name']!r}: ONNX export does not know pre-emphasis by frame")
        window = np.asarray(plan.window, np.float64) * full["scale"]
        span = full["n_fft"] if full["span"] == "n_fft" else full["win_length"]
        if len(window) < span:  # in the middle of the frame
            before = (span - len(window)) // 2
            window = np.pad(window, (before, span - len(window) - before))
        filters = np.asarray(plan.mel_filters, np.float64)
        bins = full["n_fft"] // 2 + 1
        turn = 2 * np.pi * np.outer(np.arange(bins), np.arange(len(window))) / full["n_fft"]
        basis = np.concatenate([np.cos(turn), np.sin(turn)]) * window
        rows = (self._samples - len(window)) // full["hop_length"] + 1
        signal = self._add("Unsqueeze", str(card["inputs"][0]), self._constant([1], np.int64))
        if full["preemphasis"]:
            ahead = self._add("Pad", signal, self._constant([0, 0, 1, 0, 0, 0], np.int64))
            signal = self._add("Conv", ahead, self._constant([[[-full["preemphasis"], 1.0]]]))
        both = self._add("Conv", signal, self._constant(basis[:, None]), strides=[full["hop_length"]])
        power = self._add("Mul", both, both)
        real, imaginary = (
            self._add(
                "Slice",
                power,
                self._constant([a], np.int64),
                self._constant([b], np.int64),
                self._constant([1], np.int64),
            )
            for a, b in ((0, bins), (bins, 2 * bins))
        )
        power = self._add("Add", real, imaginary)
        if full["power"] != 2.0:
            power = self._add("Pow", power, self._constant(full["power"] / 2))
        rows_of_bins = self._turned(power)
        mel = self._add("MatMul", rows_of_bins, self._constant(filters.T))
        floor = full["floor"]
        if floor is None:
            floor = 0.0 if full["log"] in (None, "none") else 1e-5 ** full["power"]
        out = self._add("Max", mel, self._constant(floor))
        if full["log"] not in (None, "none"):
            factor = {"db": 20 / full["power"] / np.log(10), "ln": 1.0, "log10": 1 / np.log(10)}[full["log"]]
            reference = np.log(full["ref"]) * factor if full["log"] == "db" else 0.0
            out = self._add("Mul", self._add("Log", out), self._constant(factor))
            out = self._add("Sub", out, self._constant(reference))
        out = self._add("Add", out, self._constant(full["log_shift"]))
        out = self._add("Mul", out, self._constant(full["log_scale"]))
        width = len(filters)
        if full["n_mfcc"]:
            dct = np.asarray(plan.dct, np.float64)
            out, width = self._add("MatMul", out, self._constant(dct.T)), len(dct)
        return out, rows, width

    def _standardise(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        x, rows, width = self._input(card)
        x = self._add("Sub", x, self._constant(self._tensor(card, "mean")))
        return self._add("Mul", x, self._constant(self._tensor(card, "scale"))), rows, width

    def _stack(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        x, rows, width = self._input(card)
        size, stride = int(options["size"]), int(options["stride"])
        count = (rows - size) // stride + 1
        if count < 1:
            return x, 0, size * width
        which = np.arange(count)[:, None] * stride + np.arange(size)
        x = self._add("Gather", x, self._constant(which, np.int64), axis=1)
        shape = self._constant([0, count, size * width], np.int64)
        return self._add("Reshape", x, shape), count, size * width

    def _tcn(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        if options.get("arithmetic", "float32") != "float32":
            raise InputError(f"model: node {card['name']!r}: ONNX export does not know int8 arithmetic")
        x, rows, width = self._input(card)
        x = self._turned(x)
        dilations = options.get("dilations") or [2**level for level in range(len(options["channels"]))]
        for level, (out, dilation) in enumerate(zip(options["channels"], dilations, strict=True)):

            def tensor(name: str, level: int = level) -> np.ndarray | None:
                return self._tensors.get(f"{card['name']}.{level}.{name}")

            y = x
            for i in (1, 2):
                weight = tensor(f"conv{i}.weight")
                assert weight is not None
                y = self._add(
                    "Conv",
                    y,
                    self._constant(weight),
                    self._constant(tensor(f"conv{i}.bias")),
                    dilations=[dilation],
                    pads=[(weight.shape[2] - 1) * dilation, 0],
                )
                y = self._rectified(y, options, tensor(f"slope{i}"))
            residual = tensor("residual.weight")
            if residual is not None:
                x = self._add(
                    "Conv", x, self._constant(residual[:, :, None]), self._constant(tensor("residual.bias"))
                )
            x = self._rectified(self._add("Add", y, x), options, tensor("slope3"))
            width = int(out)
        return self._turned(x), rows, width

    def _rectified(self, x: str, options: dict[str, Any], slope: np.ndarray | None) -> str:
        """Channels before time."""
        if options["activation"] == "relu":
            return self._add("Relu", x)
        if slope is None:
            return self._add("LeakyRelu", x, alpha=float(options.get("slope", 0.01)))
        return self._add("PRelu", x, self._constant(slope.reshape(-1, 1)))

    def _pool(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        """The last row only: nothing after a pool looks back."""
        x, rows, width = self._input(card)
        if len(card["inputs"]) > 1:
            raise InputError(f"model: node {card['name']!r}: ONNX export does not know pools with a mask")
        kind, half_life = options["kind"], options.get("half_life")
        if kind == "count":
            raise InputError(f"model: node {card['name']!r}: ONNX export does not know pools that count")
        size = min(rows, int(options["window"]))
        x = self._add(
            "Slice",
            x,
            self._constant([rows - size], np.int64),
            self._constant([rows], np.int64),
            self._constant([1], np.int64),
        )
        age = np.arange(size - 1, -1, -1.0)
        decay = -age * np.log(2) / half_life if half_life is not None else np.zeros(size)
        parts = []
        if "attention" in kind:
            score = self._add("MatMul", x, self._constant(self._tensor(card, "score.weight").T))
            score = self._add("Add", score, self._constant(decay[:, None]))  # the bias falls out of a softmax
            weights = self._turned(self._add("Softmax", score, axis=1))
            parts.append(self._add("MatMul", weights, x))
        if kind != "attention":
            share = np.exp(decay) / np.exp(decay).sum()
            row = self._constant(share[None, None])
            mean = self._add("MatMul", row, x)
            parts.append(mean)
            if "statistics" in kind:
                off = self._add("Sub", x, mean)
                variance = self._add("MatMul", row, self._add("Mul", off, off))
                parts.append(self._add("Sqrt", self._add("Add", variance, self._constant(1e-5))))
        joined = parts[0] if len(parts) == 1 else self._add("Concat", *parts, axis=2)
        return joined, 1, width * len(parts)

    def _adapt(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        """Without a profile and without learning: by the population's statistics."""
        x, rows, width = self._input(card)
        sd = np.maximum(self._tensor(card, "sd"), np.float32(options.get("floor", 0.001)))
        x = self._add("Sub", x, self._constant(self._tensor(card, "mean")))
        return self._add("Div", x, self._constant(sd)), rows, width

    def _linear(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        x, rows, _ = self._input(card)
        weight = self._tensor(card, "weight")
        x = self._add("MatMul", x, self._constant(weight.T))
        return self._add("Add", x, self._constant(self._tensor(card, "bias"))), rows, len(weight)

    def _activation(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        x, rows, width = self._input(card)
        kind = options["kind"]
        if kind == "softmax":
            x = self._add("Div", x, self._constant(options.get("temperature", 1.0)))
            return self._add("Softmax", x, axis=2), rows, width
        if kind == "leaky_relu":
            return self._add("LeakyRelu", x, alpha=float(options.get("slope", 0.01))), rows, width
        if kind == "clip":
            low, high = self._constant(options["min"]), self._constant(options["max"])
            return self._add("Clip", x, low, high), rows, width
        plain = {"identity": "Identity", "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}
        return self._add(plain[kind], x), rows, width

    def _average(self, card: dict[str, Any], options: dict[str, Any]) -> tuple[str, int, int]:
        found = [self.value(str(name)) for name in card["inputs"]]
        return self._add("Mean", *(name for name, *_ in found)), *found[0][1:]
