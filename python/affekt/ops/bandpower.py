"""Ops of Welch spectra and band power, and the same in plain torch: readable, differentiable, on any device.

The plain form is the oracle of the native ops, their gradient's gradient, and what runs where there is no
binary or no native kernel. Window and band weights come from the native plan, so that both hold the same.
"""

from __future__ import annotations

import json
import math
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from affekt import _core
from affekt.errors import InputError
from affekt.ops import _signals
from affekt.ops._signals import Reference, exact

__all__ = ["REFERENCES", "register"]


@lru_cache(maxsize=32)
def _welch_plan(options: str) -> tuple[Any, dict[str, Any]]:
    """The native plan of an options text, and its options with every default filled in."""
    made = _core.Welch(options)
    return made, json.loads(made.options)


@lru_cache(maxsize=32)
def _band_plan(options: str) -> tuple[Any, dict[str, Any]]:
    made = _core.BandPower(options)
    return made, json.loads(made.options)


@lru_cache(maxsize=32)
def _array(made: Any, name: str) -> Any:
    return getattr(made, name)


def _table(made: Any, name: str, like: Tensor) -> Tensor:
    """One of a plan's tables: "window" or "weights"."""
    return torch.from_numpy(_array(made, name)).to(like.device, like.dtype)


def welch(signal: Tensor, options: str) -> Tensor:
    """Spectra (..., bins) of signals (..., time), float32 or float64; NaN: a sample is missing.

    `options` is the JSON text of `Welch.options`.
    """
    made, o = _welch_plan(options)
    length = o["n_per_seg"]
    if signal.dim() < 1:
        raise InputError("samples: expected an array of shape (..., time), got 0 dimensions")
    if signal.shape[-1] < length:
        raise InputError(f"samples: expected at least n_per_seg = {length} of them, got {signal.shape[-1]}")
    if signal.numel() == 0:
        return signal.new_zeros((*signal.shape[:-1], made.bins)) + 0 * signal.sum()
    power, whole = _powers(signal.unfold(-1, length, length - o["n_overlap"]), made, o)
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
    made, o = _band_plan(options)
    if signal.dim() < 2:
        raise InputError(f"samples: expected shape (..., channels, time), got {tuple(signal.shape)}")
    frames, bands = _frames(signal.shape[-1], made), len(o["bands"])
    if frames == 0 or signal.numel() == 0:
        shape = (*signal.shape[:-2], frames, signal.shape[-2])
        empty = signal.new_zeros((*shape, bands)) + 0 * signal.nan_to_num(0, 0, 0).sum()
        return empty, signal.new_zeros(shape, dtype=torch.bool)
    start, of = _segments(frames, made, signal.device)
    inside = start[:, None] + torch.arange(len(_array(made, "window")), device=signal.device)
    power, whole = _powers(signal[..., inside], made, o)
    weights = _table(made, "weights", signal).mT  # (bins, bands and the total)
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


def _frames(time: Any, made: Any) -> Any:
    """Windows of a signal, in arithmetic that a symbolic length survives."""
    return (time - made.win_length) // made.hop_length + 1 if time >= made.win_length else 0


def _segments(frames: Any, made: Any, device: Any) -> tuple[Tensor, Tensor]:
    """Starts of all segments (n,), and which of them each window holds (frames, segments of a window).

    Segment j of window f starts at f hop + j step, as does segment j + b of window f - a where a hop =
    b step: window f brings the last b, and earlier windows, perhaps before the first, brought the others.
    """
    o = _band_plan(made.options)[1]
    length = len(_array(made, "window"))
    step, hop = length - round(o["overlap"] * length), made.hop_length
    common = math.gcd(hop, step)
    a, b = step // common, hop // common
    of_window = (made.win_length - length) // step + 1
    new = min(of_window, b)
    before = a * ((of_window - 1) // b)
    j = torch.arange(of_window, device=device)
    times = (of_window - 1 - j) // b
    window = torch.arange(frames, device=device)[:, None] + before - a * times
    of = window * new + j + b * times - (of_window - new)
    v = torch.arange(frames + before, device=device)[:, None] - before
    start = v * hop + (of_window - new + torch.arange(new, device=device)) * step
    return start.clamp(min=0).reshape(-1), of  # what starts before the signal no window holds


def _powers(segments: Tensor, made: Any, o: dict[str, Any]) -> tuple[Tensor, Tensor]:
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
    spectrum = torch.fft.rfft(x * _table(made, "window", x), size)
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
    return signal.new_empty((*signal.shape[:-1], _welch_plan(options)[0].bins))


def _fake_band_power(signal: Tensor, options: str) -> tuple[Tensor, Tensor]:
    made, o = _band_plan(options)
    shape = (*signal.shape[:-2], _frames(signal.shape[-1], made), signal.shape[-2])
    return signal.new_empty((*shape, len(o["bands"]))), signal.new_empty(shape, dtype=torch.bool)


REFERENCES: dict[str, Reference] = {"welch": exact(welch), "band_power": exact(band_power)}


@cache
def register() -> None:
    """Give the ops of `REFERENCES` their shapes, gradients, and rules of vmap and autocast."""
    _signals.register("welch", REFERENCES["welch"], _fake_welch)
    _signals.register("band_power", REFERENCES["band_power"], _fake_band_power)
