"""Ops of the acoustic front end, and the same in plain torch: readable, differentiable, on any device.

The plain form is the oracle of the native ops, their gradient, and what runs where there is no binary or no
native kernel. Tables come from the native plan, so that both hold the same window, filters and DCT.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor

from affekt.errors import InputError
from affekt.ops import _signals
from affekt.ops._signals import Reference, exact, filled, number, table

__all__ = ["REFERENCES", "register"]


def _rows(time: Any, o: dict[str, Any]) -> Any:
    """Rows of a signal, in arithmetic that a symbolic length survives."""
    span, hop = o["n_fft"] if o["span"] == "n_fft" else o["win_length"], o["hop_length"]
    if o["center"]:
        rows = 1 + (time - span % 2) // hop if o["span"] == "n_fft" else (time + hop // 2) // hop
        rows = rows if time > 0 else 0
    else:
        rows = (time - span) // hop + 1 if time >= span else 0
    return rows - 1 if o["drop_last"] and rows > 0 else rows


def acoustic(signal: Tensor, options: str) -> Tensor:
    """Features (..., frames, features) of signals (..., time), float32 or float64.

    `options` is the JSON text of `LogMel.options` or `Mfcc.options`.
    """
    o = filled("FrontEnd", options)
    rows = _rows(signal.shape[-1], o)
    if rows == 0 or signal.numel() == 0:
        return (
            signal.new_zeros((*signal.shape[:-1], rows, number("FrontEnd", options, "features")))
            + 0 * signal.sum()
        )
    kind = signal.dtype
    # Kaldi's filters take fractions of a bin, where float32 spends the last of its digits.
    x = signal.to(torch.float64 if o["mel_scale"] == "kaldi" else kind)
    in_signal = o["preemphasis"] if o["preemphasis_mode"] == "signal" else 0.0
    if in_signal:
        x = torch.cat([x[..., :1], x[..., 1:] - in_signal * x[..., :-1]], -1)
    frames = _cut(x, rows, o) * o["scale"]
    if o["remove_dc"]:
        frames = frames - frames.mean(-1, keepdim=True)
    energy = frames.square().sum(-1) if o["energy"] == "raw" else None
    if o["preemphasis_mode"] == "frame" and o["preemphasis"]:
        before = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        frames = frames - o["preemphasis"] * before
    frames = frames * table("FrontEnd", options, "window", x)
    if o["energy"] == "windowed":
        energy = frames.square().sum(-1)

    power = _power(torch.fft.rfft(frames, o["n_fft"]), o["power"])
    mel = (power @ table("FrontEnd", options, "mel_filters", x).mT).clamp(min=o["floor"])
    out = _log(mel, o)
    out = (out + o["log_shift"]) * o["log_scale"]
    if o["n_mfcc"]:
        out = out @ table("FrontEnd", options, "dct", x).mT
    if energy is not None:
        least = max(torch.finfo(torch.float32).eps, o["energy_floor"])  # Kaldi's
        column = energy.clamp(min=least).log()[..., None]
        out = torch.cat([column, out[..., 1:] if o["n_mfcc"] else out], -1)
    return _with_deltas(out, o).to(kind)


def stft(signal: Tensor, options: str) -> Tensor:
    """Spectra (..., frames, bins), complex, of signals (..., time)."""
    o = filled("Spectrogram", options)
    rows = _rows(signal.shape[-1], o)
    if rows == 0 or signal.numel() == 0:
        empty = signal.new_zeros(
            (*signal.shape[:-1], rows, o["n_fft"] // 2 + 1), dtype=signal.dtype.to_complex()
        )
        return empty + 0 * signal.sum()
    before = (o["n_fft"] - o["win_length"]) // 2
    after = o["n_fft"] - o["win_length"] - before
    frames = _cut(signal, rows, o) * o["scale"] * table("Spectrogram", options, "window", signal)
    return torch.fft.rfft(torch.nn.functional.pad(frames, (before, after)))


def spectrogram(signal: Tensor, options: str) -> Tensor:
    """|X|^power of `stft`."""
    return _power(stft(signal, options), filled("Spectrogram", options)["power"])


def _power(spectrum: Tensor, exponent: float) -> Tensor:
    power = spectrum.real.square() + spectrum.imag.square()
    if exponent == 2:
        return power
    # A root has no slope at zero, where a power stays zero.
    some = power > 0
    return torch.where(some, power, 1).pow(exponent / 2) * some


def _cut(x: Tensor, rows: int, o: dict[str, Any]) -> Tensor:
    """The samples under the window of every row, (..., rows, win_length), padded as the options say."""
    win, hop, time = o["win_length"], o["hop_length"], x.shape[-1]
    span = o["n_fft"] if o["span"] == "n_fft" else win
    start = (span - win) // 2
    if o["center"]:
        start += -(o["n_fft"] // 2) if o["span"] == "n_fft" else hop // 2 - win // 2
    end = start + (rows - 1) * hop + win
    at = torch.arange(start, end, device=x.device)
    outside = (at < 0) | (at >= time)
    mode = o["pad_mode"]
    if mode == "reflect" and time > 1:
        at = at % (2 * (time - 1))
        at = torch.where(at < time, at, 2 * (time - 1) - at)
    elif mode == "symmetric":
        at = at % (2 * time)
        at = torch.where(at < time, at, 2 * time - 1 - at)
    padded = x[..., at.clamp(0, time - 1)]
    if mode == "constant":
        padded = padded.masked_fill(outside, 0)
    return padded.unfold(-1, win, hop)


def _log(mel: Tensor, o: dict[str, Any]) -> Tensor:
    kind = o["log"]
    if kind is None:
        return mel
    if kind == "db":
        unit, decibel = 20 / o["power"] / math.log(10), 1.0
    elif kind == "log10":
        unit, decibel = 1 / math.log(10), o["power"] / 20
    else:
        unit, decibel = 1.0, o["power"] / 20 * math.log(10)
    out = unit * mel.log()
    to_peak = o["ref"] == "max"
    if kind == "db" and not to_peak:
        out = out - 20 / o["power"] * math.log10(o["ref"])
    if to_peak or o["top_db"] is not None:
        top = out.amax((-2, -1), keepdim=True)
        if o["top_db"] is not None:
            out = torch.maximum(out, top - o["top_db"] * decibel)
        if to_peak:
            out = out - top
    return out


def _with_deltas(x: Tensor, o: dict[str, Any]) -> Tensor:
    if not o["deltas"]:
        return x
    rows, half = x.shape[-2], o["delta_width"] // 2
    if o["delta_mode"] == "interp" and rows < o["delta_width"]:
        raise InputError(
            f'samples: expected enough for delta_width = {o["delta_width"]} rows with delta_mode "interp", '
            f"got {rows} rows"
        )
    at = torch.arange(rows, device=x.device)
    step = torch.arange(-half, half + 1, device=x.device)
    interp = o["delta_mode"] == "interp"
    if interp:  # near the ends: the polynomial of the outermost whole window
        at = at.clamp(half, rows - 1 - half)
    near = (at[:, None] + step).clamp(0, rows - 1)
    i = step.to(x.dtype)
    slope = i / i.square().sum()
    n, s2, s4 = len(step), i.square().sum(), i.pow(4).sum()
    bend = 2 * (n * i.square() - s2) / (n * s4 - s2 * s2)
    parts = [x]
    for order in range(1, o["deltas"] + 1):
        source = x if interp else parts[-1]
        weights = bend if interp and order == 2 else slope
        parts.append(torch.einsum("...rkc,k->...rc", source[..., near, :], weights))
    return torch.cat(parts, -1)


REFERENCES: dict[str, Reference] = {
    "acoustic": exact(acoustic),
    "spectrogram": exact(spectrogram),
    "stft": exact(stft),
}


@cache
def register() -> None:
    """Give the ops of `REFERENCES` their shapes, gradients, and rules of vmap and autocast."""
    for name, reference in REFERENCES.items():
        _signals.register(name, reference, _fake(name))


def _fake(name: str) -> Reference:
    def fake(signal: Tensor, options: str) -> Tensor:
        o = filled("FrontEnd" if name == "acoustic" else "Spectrogram", options)
        columns = number("FrontEnd", options, "features") if name == "acoustic" else o["n_fft"] // 2 + 1
        dtype = signal.dtype.to_complex() if name == "stft" else signal.dtype
        return signal.new_empty((*signal.shape[:-1], _rows(signal.shape[-1], o), columns), dtype=dtype)

    return fake
