"""What a model costs to run: size, arithmetic per second of audio, measured speed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from affekt import _checks
from affekt._native import Model, load
from affekt.errors import AffektError, InputError

__all__ = ["cost"]

_PUSH = 0.01  # seconds


def cost(model: Any = None, *, seconds: float = 10.0, repeats: int = 3) -> dict[str, float]:
    """Size, arithmetic and measured speed of a model.

    Parameters
    ----------
    model : an `affekt.Model`, a path, or None for the shipped model.
    seconds : length of the sound that the speed is measured on: white noise from a fixed seed at -20 dB full
        scale, its amplitude rising and falling four times a second, as syllables do. 0 measures nothing.
    repeats : the fastest of so many runs counts.

    Returns
    -------
    dict :
        ``parameters`` : numbers in the weights and statistics.
        ``bytes`` : of the model file; absent for a model that has none.
        ``macs_front_end``, ``macs_network`` : multiply-accumulates per second of audio, counted from the
        graph. Front end, per frame: window, real FFT of n points as n log2(n), power of n / 2 + 1 bins, mel
        filters as two weights per bin, cosine transform, deltas. Network: every weight of convolutions and
        linear layers once per row that it sees, pools once per estimate over their whole window, two to three
        per value for standardising, looking for speech and adapting, projections, scores and sums of
        co-attention; activation functions, averages and gates not counted. Of a model whose inputs are joined
        on a clock: per second of the clock.
        ``rtf`` : real-time factor, seconds of computing per second of audio, through the live engine in
        pushes of 10 ms on one thread; absent where `seconds` is 0.

    Raises
    ------
    InputError : `seconds` is negative, or not 0 and shorter than a push, or not 0 for a model that takes
        anything but one audio signal; `repeats` is below 1.
    AffektError : the graph has a node that this function does not know.
    """
    model = model if isinstance(model, Model) else load(model)
    seconds = _checks.number(seconds, "seconds")
    if seconds and not seconds >= _PUSH:
        raise InputError(f"seconds must be 0 or at least {_PUSH}, got {seconds:g}")
    repeats = _checks.integer(repeats, "repeats", low=1)
    if seconds and [given["kind"] for given in model.inputs] != ["audio"]:
        takes = ", ".join(f"{given['name']} ({given['kind']})" for given in model.inputs)
        raise InputError(f"seconds must be 0 for a model that takes {takes}: speed is measured on sound")
    out: dict[str, float] = {"parameters": sum(value.size for value in model.tensors().values())}
    if model.path is not None:
        out["bytes"] = model.path.stat().st_size
    front, network = _multiply_accumulates(model.card)
    out |= {"macs_front_end": round(front), "macs_network": round(network)}
    if seconds:
        count = round(seconds * model.sample_rate)
        rise = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * np.arange(count) / model.sample_rate)
        signal = (0.1 * rise * np.random.default_rng(0).normal(size=count)).astype(np.float32)
        taken = []
        for _ in range(repeats):
            begun = time.perf_counter()
            model.run(signal, mode="stream", chunk=max(1, round(_PUSH * model.sample_rate)))
            taken.append(time.perf_counter() - begun)
        out["rtf"] = min(taken) / seconds
    return out


def _multiply_accumulates(card: Mapping[str, Any]) -> tuple[float, float]:
    """Per second of audio: of all front ends, of everything else."""
    nodes = {node["name"]: node for node in card["nodes"]}
    known: dict[str, tuple[int, float]] = {  # name -> width of a row, rows per second
        given["name"]: (int(given["channels"]), float(given["rate"])) for given in card["inputs"]
    }
    totals = [0.0, 0.0]

    def visit(name: str) -> tuple[int, float]:
        if name in known:
            return known[name]
        node = nodes[name]
        if node["type"] == "front_end":
            width, rate, each = _front_end(node["options"])
            totals[0] += rate * each
        else:
            inputs = [visit(source) for source in node["inputs"]]
            if node["type"] in _JOINS:
                width, each = _JOINS[node["type"]](node["options"], [source[0] for source in inputs])
                rate = float(card["clock"]["rate"])
                totals[1] += rate * each
                known[name] = width, rate
                return known[name]
            count = _COUNTS.get(node["type"])
            if count is None:
                raise AffektError(
                    f"cost: node {name!r} is of type {node['type']!r}, which is not counted here"
                )
            weights = {
                key.removeprefix(f"{name}."): entry["shape"]
                for key, entry in card["tensors"].items()
                if key.startswith(f"{name}.")
            }
            width, rate, each = count(node["options"], inputs[0], weights)
            totals[1] += each
        known[name] = width, rate
        return known[name]

    for name in nodes:
        visit(name)
    return totals[0], totals[1]


def _front_end(options: Mapping[str, Any]) -> tuple[int, float, float]:
    """Width of a row, rows per second, multiply-accumulates per row."""
    from affekt import features

    cls = features.Mfcc if options.get("n_mfcc") else features.LogMel
    extractor = cls.from_options(options)
    full = extractor.options
    n, bins = full["n_fft"], full["n_fft"] // 2 + 1
    each = full["win_length"] + n * math.log2(n) + 2 * bins + 2 * bins + full["n_mels"] * full["n_mfcc"]
    if full["deltas"]:
        each += full["deltas"] * full["delta_width"] * extractor.num_features / (1 + full["deltas"])
    return extractor.num_features, 1 / extractor.hop, each


# Options, (width, rows per second) of the input, shapes of the weights
#   -> width and rows per second of the output, multiply-accumulates per second.
_Count = Callable[[Mapping[str, Any], tuple[int, float], Mapping[str, Any]], tuple[int, float, float]]


def _elementwise(per_value: float, width: int | None = None) -> _Count:
    def count(
        options: Mapping[str, Any], source: tuple[int, float], weights: Mapping[str, Any]
    ) -> tuple[int, float, float]:
        return width or source[0], source[1], per_value * source[0] * source[1]

    return count


def _stack(
    options: Mapping[str, Any], source: tuple[int, float], weights: Mapping[str, Any]
) -> tuple[int, float, float]:
    return source[0] * options["size"], source[1] / options["stride"], 0.0


def _tcn(
    options: Mapping[str, Any], source: tuple[int, float], weights: Mapping[str, Any]
) -> tuple[int, float, float]:
    each = sum(math.prod(shape) for name, shape in weights.items() if name.endswith("weight"))
    return options["channels"][-1], source[1], source[1] * each


def _pool(
    options: Mapping[str, Any], source: tuple[int, float], weights: Mapping[str, Any]
) -> tuple[int, float, float]:
    width, rate = source
    if options["kind"] == "count":  # how many rows counted
        rate /= options["hop"]
        return 1, rate, rate * options["window"]
    # Score and weighted sum; mean; squares.
    passes = {"attention": (2, 1), "mean": (1, 1), "statistics": (2, 2), "attention_statistics": (4, 3)}
    each, parts = passes[options["kind"]]
    rate /= options["hop"]
    return width * parts, rate, rate * each * width * options["window"]


def _linear(
    options: Mapping[str, Any], source: tuple[int, float], weights: Mapping[str, Any]
) -> tuple[int, float, float]:
    return options["units"], source[1], source[1] * source[0] * options["units"]


_COUNTS: dict[str, _Count] = {
    "standardise": _elementwise(1),
    "activity": _elementwise(1, width=1),
    "adapt": _elementwise(3),
    "activation": _elementwise(0),
    "average": _elementwise(0),
    "stack": _stack,
    "tcn": _tcn,
    "pool": _pool,
    "linear": _linear,
}


def _co_attention(options: Mapping[str, Any], widths: list[int]) -> tuple[int, float]:
    signals = widths[:-1] if options.get("masked") else widths
    dim, count = options["dim"], len(signals)
    return count * dim, 3 * dim * sum(signals) + 2 * count**2 * dim


# Nodes that run at the rate of the clock: options, widths of the inputs
#   -> width of the output, multiply-accumulates per row.
_JOINS: dict[str, Callable[[Mapping[str, Any], list[int]], tuple[int, float]]] = {
    "align": lambda options, widths: (widths[0], 0.0),
    "presence": lambda options, widths: (1, 0.0),
    "gate": lambda options, widths: (widths[0], 0.0),
    "concat": lambda options, widths: (sum(widths), 0.0),
    "co_attention": _co_attention,
}
