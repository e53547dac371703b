"""A small model of three inputs on one clock, and what it must give, in float64 and by whole recordings.

Audio (log-mel), EEG (filter, reference, band power) and face rows meet at 10 Hz. The face leads: its causal
network's output, gated, stands beside the co-attention of all three.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import integrate
from scipy import signal as scipy_signal

import reference_model
from reference_model import MEL, Card, Numbers, Tensors, node, tcn_tensors

RATES = {"audio": 8000.0, "eeg": 128.0, "face": 25.0}
CHANNELS = {"audio": 1, "eeg": 4, "face": 6}
CLOCK = 10.0
SILENCE = 0.4
BANDS = [["theta", 4.0, 8.0], ["alpha", 8.0, 12.0], ["beta", 12.0, 30.0]]
SOS = scipy_signal.butter(2, [1.0, 40.0], "bandpass", fs=128.0, output="sos")
TCN = {"channels": [5, 5], "kernel_size": 2, "activation": "leaky_relu", "slope": 0.01}
DIM, HEADS = 4, 2

Pieces = dict[str, list[tuple[float, np.ndarray]]]  # per input: time of the first sample, (time, channels)


def fused(**changes: Any) -> tuple[Card, Tensors]:
    """Card and tensors; `changes` replace keys of the card."""
    numbers = Numbers(21)
    nodes = [
        node("mel", "front_end", "audio", **MEL),
        node("norm", "standardise", "mel"),
        node("clean", "filter", "eeg", sections=np.delete(SOS, 3, axis=1).tolist()),
        node("referenced", "reference", "clean"),
        node("bands", "band_power", "referenced", segment=0.5, window=1.0, hop=0.125, bands=BANDS),
        *(
            node(f"{name}_now", "align", rows)
            for name, rows in (("audio", "norm"), ("eeg", "bands"), ("face", "face"))
        ),
        *(node(f"{name}_there", "presence", f"{name}_now") for name in RATES),
        node("there", "concat", [f"{name}_there" for name in RATES]),
        node("tcn", "tcn", "face_now", **TCN),
        node("leader", "gate", ["tcn", "face_there"]),
        node(
            "attention",
            "co_attention",
            ["audio_now", "eeg_now", "leader", "there"],
            dim=DIM,
            heads=HEADS,
            masked=True,
        ),
        node("joint", "concat", ["leader", "attention"]),
        node("head", "linear", "joint", units=2),
        node("affect", "activation", "head", kind="tanh"),
        node("calm", "smooth", "affect", kind="one_euro", min_cutoff=1.0, beta=0.5),
        node("doubt", "linear", "joint", units=1),
        node("sure", "activation", "doubt", kind="sigmoid"),
    ]
    widths = {"0": MEL["n_mels"], "1": CHANNELS["eeg"] * len(BANDS), "2": TCN["channels"][-1]}
    tensors = {
        "norm.mean": numbers.tensor(MEL["n_mels"], scale=10.0, offset=-30.0),
        "norm.scale": numbers.tensor(MEL["n_mels"], scale=0.02, offset=0.06),
        **tcn_tensors("tcn", CHANNELS["face"], TCN, numbers),
    }
    for i, width in widths.items():
        for part in ("query", "key", "value"):
            tensors[f"attention.{i}.{part}.weight"] = numbers.tensor(DIM, width)
            tensors[f"attention.{i}.{part}.bias"] = numbers.tensor(DIM)
    joint = TCN["channels"][-1] + 3 * DIM
    for name, units in (("head", 2), ("doubt", 1)):
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = (
            numbers.tensor(units, joint),
            numbers.tensor(units),
        )
    card = {
        "schema": 2,
        "name": "fused",
        "version": "1",
        "inputs": [
            {"name": "audio", "kind": "audio", "rate": 8000.0, "channels": 1, "unit": "full scale"},
            {"name": "eeg", "kind": "signal", "rate": 128.0, "channels": 4, "unit": "uV"},
            {"name": "face", "kind": "rows", "rate": 25.0, "channels": 6, "unit": "landmarks"},
        ],
        "clock": {"rate": CLOCK, "silence": SILENCE},
        "nodes": nodes,
        "outputs": [
            {"name": "affect", "node": "calm", "kind": "continuous", "labels": ["valence", "arousal"]}
        ],
        "confidence": {"node": "sure"},
        "info": {"licence": "CC0-1.0", "intended_use": "tests"},
    }
    return {**card, **changes}, tensors


def signals(seconds: float, seed: int = 3) -> dict[str, np.ndarray]:
    """Generated inputs as (time, channels) float32, from 0 s on; the same numbers everywhere."""
    made = {}
    for i, name in enumerate(RATES):
        n = round(seconds * RATES[name])
        values = np.empty((n, CHANNELS[name]))
        for c in range(CHANNELS[name]):
            numbers = Numbers(seed + 10 * i + c)  # audio with silences, the others without
            values[:, c] = numbers.signal(n) / 32768.0 if name == "audio" else numbers.tensor(n, scale=1.0)
        made[name] = (values * {"audio": 1.0, "eeg": 40.0, "face": 3.0}[name]).astype(np.float32)
    return made


def as_input(name: str, frames: np.ndarray) -> np.ndarray:
    """(time, channels) as the public interface takes it."""
    return frames if name == "face" else frames.T if name == "eeg" else frames[:, 0]


# What it must give ----------------------------------------------------------------------------------------


def band_power(x: np.ndarray) -> np.ndarray:
    rows = []
    for start in range(0, len(x) - 128 + 1, 16):
        f, p = scipy_signal.welch(x[start : start + 128].T, 128.0, nperseg=64)
        whole = integrate.trapezoid(p, f)
        row = []
        for _, low, high in BANDS:
            inside = (f >= low) & (f <= high)
            row.append(integrate.trapezoid(p[:, inside], f[inside]) / whole)
        rows.append(np.stack(row, axis=1).reshape(-1))
    return np.array(rows).reshape(-1, x.shape[1] * len(BANDS))


def rows_of(name: str, x: np.ndarray, tensors: Tensors) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one input before the clock, and the last sample behind each."""
    x = x.astype(np.float64)
    if name == "face":
        return x, np.arange(len(x))
    if name == "audio":
        rows = reference_model.front_end(x[:, 0], MEL)
        length = MEL["n_fft"] if MEL["span"] == "n_fft" else MEL["win_length"]
        rows = (rows - tensors["norm.mean"]) * tensors["norm.scale"].astype(np.float64)
        return rows, np.arange(len(rows)) * MEL["hop_length"] + length - 1
    if len(x):
        state = scipy_signal.sosfilt_zi(SOS)[:, :, None] * x[0]
        x = scipy_signal.sosfilt(SOS, x, axis=0, zi=state)[0]
    x = x - x.mean(axis=1, keepdims=True)
    rows = band_power(x)
    return rows, np.arange(len(rows)) * 16 + 127


def expected(
    card: Card, tensors: Tensors, pieces: Pieces
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times, values, presence and confidence; every gap in `pieces` must be longer than 0.1 s or none."""
    times, rows, due = {}, {}, {}
    for name, parts in pieces.items():
        parts = [(t, x) for t, x in parts if len(x)]
        if not parts:
            continue
        times[name] = np.concatenate([t + np.arange(len(x)) / RATES[name] for t, x in parts])
        rows[name], due[name] = rows_of(name, np.concatenate([x for _, x in parts]), tensors)
    if not times:
        return np.empty(0), np.empty((0, 2)), np.empty((0, 3), bool), np.empty(0)
    near = 1e-6
    first = int(np.ceil((min(t[0] for t in times.values()) - near) * CLOCK))
    last = int(np.floor((max(t[-1] for t in times.values()) + near) * CLOCK))
    widths = {"audio": MEL["n_mels"], "eeg": CHANNELS["eeg"] * len(BANDS), "face": CHANNELS["face"]}
    ticks, now, there = [], {name: [] for name in RATES}, []
    for k in range(first, last + 1):
        t = k / CLOCK
        newest = {}
        alive = False
        for name in RATES:
            if name not in times:
                continue
            heard = np.flatnonzero(times[name] <= t + near)
            if not len(heard) or t - times[name][heard[-1]] > SILENCE + near:
                continue
            alive = True
            gaps = np.flatnonzero(np.diff(times[name][: heard[-1] + 1]) > SILENCE + near)
            since = gaps[-1] + 1 if len(gaps) else 0  # first sample after it fell silent
            fit = np.flatnonzero((due[name] <= heard[-1]) & (due[name] >= since))
            if len(fit):
                newest[name] = rows[name][fit[-1]]
        if not alive:
            continue
        ticks.append(t)
        there.append([name in newest for name in RATES])
        for name in RATES:
            now[name].append(newest.get(name, np.zeros(widths[name])))
    present = np.array(there, bool).reshape(-1, 3)
    x = {name: np.array(now[name]).reshape(-1, widths[name]) for name in RATES}
    weights = {name: value.astype(np.float64) for name, value in tensors.items()}
    deep = reference_model.tcn(
        x["face"], TCN, {k.split(".", 1)[1]: v for k, v in weights.items() if k.startswith("tcn.")}
    )
    leader = deep * present[:, 2:]
    joint = np.concatenate([leader, co_attention([x["audio"], x["eeg"], leader], present, weights)], axis=1)
    affect = np.tanh(joint @ weights["head.weight"].T + weights["head.bias"])
    sure = 1 / (1 + np.exp(-(joint @ weights["doubt.weight"].T + weights["doubt.bias"])))[:, 0]
    return np.array(ticks), one_euro(affect), present, sure


def co_attention(x: list[np.ndarray], present: np.ndarray, weights: Tensors) -> np.ndarray:
    """The modalities of every row attend to one another (leader-follower attention), per head."""

    def part(i: int, name: str) -> np.ndarray:
        w, b = weights[f"attention.{i}.{name}.weight"], weights[f"attention.{i}.{name}.bias"]
        return (x[i] @ w.T + b).reshape(len(x[i]), HEADS, DIM // HEADS)

    q, k, v = (np.stack([part(i, name) for i in range(len(x))], 1) for name in ("query", "key", "value"))
    score = np.einsum("tihd,tjhd->thij", q, k) / np.sqrt(DIM // HEADS)
    score = np.where(present[:, None, None, :], score, -np.inf)
    with np.errstate(invalid="ignore"):
        share = np.exp(score - score.max(axis=-1, keepdims=True))
        share = np.nan_to_num(share / share.sum(axis=-1, keepdims=True))
    out = np.einsum("thij,tjhd->tihd", share, v) * present[:, :, None, None]
    return out.reshape(len(out), len(x) * DIM)


def one_euro(x: np.ndarray, min_cutoff: float = 1.0, beta: float = 0.5) -> np.ndarray:
    def share(cutoff: np.ndarray | float) -> Any:
        return 1 / (1 + CLOCK / (2 * np.pi * cutoff))

    out = x.copy()
    speed = np.zeros(x.shape[1])
    for t in range(1, len(x)):
        speed = speed + share(1.0) * ((x[t] - out[t - 1]) * CLOCK - speed)
        out[t] = out[t - 1] + share(min_cutoff + beta * np.abs(speed)) * (x[t] - out[t - 1])
    return out
