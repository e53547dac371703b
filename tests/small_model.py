"""A small speech model with random weights, for tests that need some model and not a good one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from affekt.modelfile import write_model

EMOTIONS = ["neutral", "happy", "sad", "angry"]
COLUMNS = ["valence", "arousal", "dominance", *(f"p_{name}" for name in EMOTIONS)]


def small_model(
    path: Path,
    *,
    pool: bool = True,
    seed: int = 0,
    mels: int = 20,
    window: int = 40,
    data: list[str] | None = None,
) -> Path:
    """Write a model file: log-mel, a causal TCN, pooling over the last rows (or none), two heads.

    One estimate per 0.2 s with pooling, per 0.04 s without.
    """
    draw = np.random.default_rng(seed)
    width = 8
    front_end = {
        "sample_rate": 16000,
        "n_fft": 512,
        "win_length": 400,
        "hop_length": 160,
        "span": "win_length",
        "n_mels": mels,
        "log": "ln",
        "center": False,
    }
    tensors = {
        "norm.mean": np.full(mels, -5.0, np.float32),
        "norm.scale": np.full(mels, 0.3, np.float32),
    }
    fan_in = 4 * mels
    for layer in range(2):
        for conv, inputs in (("conv1", fan_in), ("conv2", width)):
            tensors[f"tcn.{layer}.{conv}.weight"] = draw.normal(0, (3 * inputs) ** -0.5, (width, inputs, 3))
            tensors[f"tcn.{layer}.{conv}.bias"] = draw.normal(0, 0.1, width)
        if fan_in != width:
            tensors[f"tcn.{layer}.residual.weight"] = draw.normal(0, fan_in**-0.5, (width, fan_in))
            tensors[f"tcn.{layer}.residual.bias"] = draw.normal(0, 0.1, width)
        fan_in = width
    rows = "tcn"
    pooling = []
    if pool:
        options = {"kind": "attention_statistics", "window": window, "half_life": 25.0, "hop": 5}
        pooling = [{"name": "pool", "type": "pool", "inputs": ["tcn"], "options": options}]
        tensors["pool.score.weight"] = draw.normal(0, 1, (1, width))
        tensors["pool.score.bias"] = draw.normal(0, 1, 1)
        rows = "pool"
    deep = 3 * width if pool else width
    heads = []
    for name, units, end in (
        ("affect", 3, {"kind": "tanh"}),
        ("emotion", len(EMOTIONS), {"kind": "softmax", "temperature": 1.0}),
    ):
        tensors[f"{name}.weight"] = draw.normal(0, deep**-0.5, (units, deep))
        tensors[f"{name}.bias"] = draw.normal(0, 0.1, units)
        heads.append({"name": name, "type": "linear", "inputs": [rows], "options": {"units": units}})
        heads.append({"name": f"{name}_out", "type": "activation", "inputs": [name], "options": end})
    tcn = {"channels": [width, width], "kernel_size": 3, "dilations": [1, 2], "activation": "leaky_relu"}
    every = 5 if pool else 1
    memory = 13 + (
        window - 1 if pool else 0
    )  # rows of four frames: two blocks of kernel 3, dilations 1 and 2
    card = {
        "name": "small",
        "version": "1",
        "inputs": [{"name": "audio", "kind": "audio", "rate": 16000.0, "channels": 1, "unit": "full scale"}],
        "nodes": [
            {"name": "mel", "type": "front_end", "inputs": ["audio"], "options": front_end},
            {"name": "norm", "type": "standardise", "inputs": ["mel"], "options": {}},
            {"name": "stack", "type": "stack", "inputs": ["norm"], "options": {"size": 4, "stride": 4}},
            {"name": "tcn", "type": "tcn", "inputs": ["stack"], "options": {**tcn, "slope": 0.01}},
            *pooling,
            *heads,
        ],
        "outputs": [
            {
                "name": "affect",
                "node": "affect_out",
                "kind": "continuous",
                "labels": ["valence", "arousal", "dominance"],
                "range": [-1, 1],
            },
            {"name": "emotion", "node": "emotion_out", "kind": "categorical", "labels": EMOTIONS},
        ],
        "latency": {
            "first_estimate_s": 0.025 + 0.01 * (4 * every - 1),
            "lookahead_s": 0.0,
            "hop_s": 0.04 * every,
            "context_s": 0.025 + 0.01 * (4 * memory - 1),
        },
        "info": {"licence": "none, random weights", "data": data or []},
    }
    return write_model(path, card, tensors)
