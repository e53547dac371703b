"""Ops of Welch spectra and band power, and the same in plain torch: readable, differentiable, on any device.

The plain form is the oracle of the native ops, their gradient's gradient, and what runs where there is no
binary or no native kernel. Window and band weights come from the native plan, so that both hold the same.
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


def welch(signal: Tensor, options: str) -> Tensor:
    """Spectra (..., bins) of signals (..., time), float32 or float64; NaN: a sample is missing.

    `options` is the JSON text of `Welch.options`.
    """
    o = filled("Welch", options)
    length = o["n_per_seg"]
    if signal.dim() < 1:
        raise InputError("samples: expected an array of shape (..., time), got 0 dimensions")
    if signal.shape[-1] < length:
        raise InputError(f"samples: expected at least n_per_seg = {length} of them, got {signal.shape[-1]}")
    if signal.numel() == 0:
        return signal.new_zeros((*signal.shape[:-1], number("Welch", options, "bins"))) + 0 * signal.sum()
    window = table("Welch", options, "window", signal)
    power, whole = _powers(signal.unfold(-1, length, length - o["n_overlap"]), window, o)
    count = whole.sum(-1, keepdim=True)
    if o["average"] == "median":
        spectrum = _median(power, whole)
    else:
        spectrum = (power * whole[..., None]).sum(-2) / count.clamp(min=1)
    return spectrum.masked_fill(count == 0, math.nan)


def band_power(signal: Tensor, options: str) -> tuple[Tensor, Tensor]:
    """Band power (..., frames, channels, bands) and whether it is valid (..., frames, channels).

    Signals (..., channels, time), float32 or float64; NaN: a sample is missing. `options` is the JSON text of
    `BandPower.options`.
    """
    o = filled("BandPower", options)
    if signal.dim() < 2:
        raise InputError(f"samples: expected shape (..., channels, time), got {tuple(signal.shape)}")
    frames, bands = _frames(signal.shape[-1], options), len(o["bands"])
    if frames == 0 or signal.numel() == 0:
        shape = (*signal.shape[:-2], frames, signal.shape[-2])
        empty = signal.new_zeros((*shape, bands)) + 0 * signal.nan_to_num(0, 0, 0).sum()
        return empty, signal.new_zeros(shape, dtype=torch.bool)
    window = table("BandPower", options, "window", signal)
    start, of = _segments(frames, len(window), options, signal.device)
    inside = start[:, None] + torch.arange(len(window), device=signal.device)
    power, whole = _powers(signal[..., inside], window, o)
    weights = table("BandPower", options, "weights", signal).mT  # (bins, bands and the total)
    whole = whole[..., of]  # (..., frames, segments of a window)
    count = whole.sum(-1)
    if o["average"] == "median":
        sums = _median(power[..., of, :], whole) @ weights
        by = torch.ones_like(count)
    else:
        sums = ((power @ weights)[..., of, :] * whole[..., None]).sum(-2)
        by = count
    valid = count > 0
    if o["relative"]:
        sums, by = sums[..., :-1], sums[..., -1]
        valid = valid & (by > 0)
    out = _log(sums / torch.where(valid, by, 1)[..., None], o).masked_fill(~valid[..., None], math.nan)
    return out.transpose(-2, -3).contiguous(), valid.transpose(-1, -2).contiguous()


def _frames(time: Any, options: str) -> Any:
    """Windows of a signal, in arithmetic that a symbolic length survives."""
    length, hop = (number("BandPower", options, name) for name in ("win_length", "hop_length"))
    return (time - length) // hop + 1 if time >= length else 0


def _segments(frames: Any, length: int, options: str, device: Any) -> tuple[Tensor, Tensor]:
    """Starts of all segments (n,), and which of them each window holds (frames, segments of a window).

    Segment j of window f starts at f hop + j step, as does segment j + b of window f - a where a hop =
    b step: window f brings the last b, and earlier windows, perhaps before the first, brought the others.
    """
    step = length - round(filled("BandPower", options)["overlap"] * length)
    hop, win = (number("BandPower", options, name) for name in ("hop_length", "win_length"))
    common = math.gcd(hop, step)
    a, b = step // common, hop // common
    of_window = (win - length) // step + 1
    new = min(of_window, b)
    before = a * ((of_window - 1) // b)
    j = torch.arange(of_window, device=device)
    times = (of_window - 1 - j) // b
    window = torch.arange(frames, device=device)[:, None] + before - a * times
    of = window * new + j + b * times - (of_window - new)
    v = torch.arange(frames + before, device=device)[:, None] - before
    start = v * hop + (of_window - new + torch.arange(new, device=device)) * step
    return start.clamp(min=0).reshape(-1), of  # what starts before the signal no window holds


def _powers(segments: Tensor, window: Tensor, o: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """One-sided power spectra (..., bins) of segments (..., n), and whether each has all its samples."""
    whole = ~segments.isnan().any(-1)
    x = torch.where(whole[..., None], segments, 0)
    if o["detrend"] is not None:
        x = x - x[..., :1]  # a large offset costs no precision
        x = x - x.mean(-1, keepdim=True)
    if o["detrend"] == "linear" and x.shape[-1] > 1:
        i = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype) - (x.shape[-1] - 1) / 2
        x = x - (x @ i)[..., None] * (i / i.square().sum())
    size = o["n_fft"]
    spectrum = torch.fft.rfft(x * window, size)
    twice = torch.full((size // 2 + 1,), 2.0, device=x.device, dtype=x.dtype)
    twice[0] = 1
    if size % 2 == 0:
        twice[-1] = 1
    return twice * (spectrum.real.square() + spectrum.imag.square()), whole


def _median(power: Tensor, whole: Tensor) -> Tensor:
    """Median over the whole segments, (..., segments, bins) -> (..., bins), divided by its bias.

    The bias is the expectation for an exponential distribution of mean 1: 1 - 1/2 + 1/3 ... + 1/n, n odd.
    """
    ranked = power.masked_fill(~whole[..., None], math.inf).sort(-2).values
    count = whole.sum(-1)
    n = torch.arange(whole.shape[-1] + 1, device=power.device, dtype=torch.float64)
    steps = torch.where((n % 2 == 1) & (n > 1), 1 / n.clamp(min=1) - 1 / (n - 1).clamp(min=1), 0)
    bias = (1 + steps.cumsum(0)).to(power.dtype)[count]

    def at(rank: Tensor) -> Tensor:
        index = rank.clamp(min=0)[..., None, None].expand(*rank.shape, 1, ranked.shape[-1])
        found = ranked.gather(-2, index).squeeze(-2)
        return torch.where((count > 0)[..., None], found, 1)

    return (at((count - 1) // 2) + at(count // 2)) / (2 * bias[..., None])


def _log(x: Tensor, o: dict[str, Any]) -> Tensor:
    if o["log"] is None:
        return x
    unit = {"ln": 1.0, "log10": 1 / math.log(10), "db": 10 / math.log(10)}[o["log"]]
    return unit * x.clamp(min=o["floor"]).log()


def _fake_welch(signal: Tensor, options: str) -> Tensor:
    return signal.new_empty((*signal.shape[:-1], number("Welch", options, "bins")))


def _fake_band_power(signal: Tensor, options: str) -> tuple[Tensor, Tensor]:
    shape = (*signal.shape[:-2], _frames(signal.shape[-1], options), signal.shape[-2])
    bands = len(filled("BandPower", options)["bands"])
    return signal.new_empty((*shape, bands)), signal.new_empty(shape, dtype=torch.bool)


REFERENCES: dict[str, Reference] = {"welch": exact(welch), "band_power": exact(band_power)}


@cache
def register() -> None:
    """Give the ops of `REFERENCES` their shapes, gradients, and rules of vmap and autocast."""
    _signals.register("welch", REFERENCES["welch"], _fake_welch)
    _signals.register("band_power", REFERENCES["band_power"], _fake_band_power)
