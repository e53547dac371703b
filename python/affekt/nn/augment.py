"""Augmentation of feature rows, drawn afresh for every training batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from affekt.errors import InputError

__all__ = ["FeatureAugment"]

TILT = 30.0  # dB


class FeatureAugment(nn.Module):
    """Random changes to a batch of log-mel (or similar) rows; the identity in evaluation.

    Every recording draws its own values: tempo and crop, frequency shift, gain, noise, then masks that set
    stretches of time or bands of features to `fill`.

    Parameters
    ----------
    gain : sd of a constant added to every feature of the recording, in the features' own unit (dB for log-mel
        in dB, where it is exactly a change of loudness).
    tempo : rows are resampled in time by a factor drawn from [1 - tempo, 1 + tempo] (linear interpolation).
    shift : features are shifted by up to this many bins (fractions too), edges repeated: a crude change of
        vocal-tract length and pitch. Meaningful on a mel axis only.
    crop : largest share of the recording dropped, split at random between its start and its end.
    time_masks, time_width : up to this many stretches, each of up to this many rows.
    feature_masks, feature_width : up to this many bands, each of up to this many features.
    noise : sd of independent Gaussian noise per value, in the features' own unit.
    background : probability that steady background noise is added to a recording, in the power domain: for
        log-mel rows, x' = log(exp x + exp n). Its level lies `snr` dB (uniform between the two numbers)
        under the mean power of the recording, with a random slope over the features of up to `TILT` dB from
        end to end and 2 dB of scatter from value to value, as noise has in a mel band.
    unit : dB per unit of the features, for `background`: 1 for dB, 10 for log10 of power, 10 / ln 10 for ln.
    least : rows that tempo and crop leave of a recording, or all of them where it has fewer.

    Source of the masks: Park et al., "SpecAugment", arXiv:1904.08779.
    """

    def __init__(
        self,
        *,
        gain: float = 0.0,
        tempo: float = 0.0,
        shift: float = 0.0,
        crop: float = 0.0,
        time_masks: int = 0,
        time_width: int = 0,
        feature_masks: int = 0,
        feature_width: int = 0,
        noise: float = 0.0,
        background: float = 0.0,
        snr: Sequence[float] = (5.0, 40.0),
        unit: float = 1.0,
        least: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("gain", gain), ("shift", shift), ("noise", noise), ("time_masks", time_masks),
                            ("time_width", time_width), ("feature_masks", feature_masks),
                            ("feature_width", feature_width)):  # fmt: skip
            if value < 0:
                raise InputError(f"{name} must not be negative, got {value}")
        for name, value in (("tempo", tempo), ("crop", crop)):
            if not 0 <= value < 1:
                raise InputError(f"{name} must lie in [0, 1), got {value}")
        if not 0 <= background <= 1:
            raise InputError(f"background must be a probability, got {background}")
        if len(snr) != 2 or not -100 <= snr[0] <= snr[1] <= 200:
            raise InputError(f"snr must be two rising numbers of dB, got {list(snr)}")
        if not unit > 0:
            raise InputError(f"unit must be positive, got {unit}")
        self.background, self.snr, self.unit = float(background), (float(snr[0]), float(snr[1])), float(unit)
        if least < 1:
            raise InputError(f"least must be at least 1, got {least}")
        self.least = int(least)
        self.gain, self.tempo, self.shift, self.crop, self.noise = gain, tempo, shift, crop, noise
        self.time_masks, self.time_width = int(time_masks), int(time_width)
        self.feature_masks, self.feature_width = int(feature_masks), int(feature_width)

    def forward(self, x: Tensor, mask: Tensor, fill: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """`x` (batch, time, d), `mask` (batch, time) with its valid rows first; `fill` a number or (d,)."""
        if not self.training:
            return x, mask
        batch, _, width = x.shape
        like: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        if self.tempo or self.crop:
            x, mask = self._resample(x, mask)
        if self.shift:
            offset = (torch.rand(batch, 1, **like) * 2 - 1) * self.shift
            place = (torch.arange(width, **like) + offset).clamp(0, width - 1)
            x = _interpolate(x.transpose(1, 2), place).transpose(1, 2)
        if self.gain:
            x = x + torch.randn(batch, 1, 1, **like) * self.gain
        if self.noise:
            x = x + torch.randn_like(x) * self.noise
        if self.background:
            x = self._with_background(x, mask)
        if self.time_masks and self.time_width:
            hit = _stretches(batch, mask.sum(1), self.time_masks, self.time_width, x.shape[1], x.device)
            x = torch.where(hit[:, :, None], torch.as_tensor(fill, **like), x)
        if self.feature_masks and self.feature_width:
            lengths = torch.full((batch,), width, device=x.device)
            hit = _stretches(batch, lengths, self.feature_masks, self.feature_width, width, x.device)
            x = torch.where(hit[:, None, :], torch.as_tensor(fill, **like), x)
        return x, mask

    def _with_background(self, x: Tensor, mask: Tensor) -> Tensor:
        like: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        batch, _, width = x.shape
        neper = math.log(10) / 10 * self.unit  # from the features' unit to the natural log of power
        valid = mask[..., None] & torch.ones(1, 1, width, dtype=torch.bool, device=x.device)
        power = (x * neper).masked_fill(~valid, -torch.inf).flatten(1).logsumexp(1)
        level = power - (mask.sum(1).clamp(min=1) * width).log()
        low, high = self.snr
        under = (low + torch.rand(batch, **like) * (high - low)) * math.log(10) / 10
        slope = (torch.rand(batch, 1, **like) * 2 - 1) * TILT / 2 * math.log(10) / 10
        shape = slope * torch.linspace(-1, 1, width, **like)
        shape = shape - (shape.logsumexp(1, keepdim=True) - math.log(width))  # the mean power stays
        scatter = torch.randn_like(x) * 2 * math.log(10) / 10
        noise = (level - under)[:, None, None] + shape[:, None] + scatter
        hit = (torch.rand(batch, 1, 1, **like) < self.background) & torch.isfinite(level)[:, None, None]
        return torch.where(hit, torch.logaddexp(x * neper, noise) / neper, x)

    def _resample(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        like: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        batch = x.shape[0]
        length = mask.sum(1).to(x.dtype)
        keep = 1 - torch.rand(batch, **like) * self.crop
        share = torch.rand(batch, **like)
        rate = 1 + (torch.rand(batch, **like) * 2 - 1) * self.tempo
        # A short recording is hastened and cropped less, so that `least` rows of its own are left.
        least = length.clamp(1, self.least)
        rate = torch.minimum(rate, length.clamp(min=1) / least)
        keep = torch.maximum(keep, (least * rate / length.clamp(min=1)).clamp(max=1))
        start = share * (1 - keep) * length
        new = torch.maximum((length * keep / rate).floor(), least)
        place = start[:, None] + torch.arange(int(new.max()), **like) * rate[:, None]
        place = torch.minimum(place, (length - 1).clamp(min=0)[:, None])
        return _interpolate(x, place), torch.arange(place.shape[1], device=x.device) < new[:, None]


def _interpolate(x: Tensor, place: Tensor) -> Tensor:
    """Rows of `x` (batch, n, d) at fractional positions `place` (batch, m), linear between neighbours."""
    low = place.floor()
    share = (place - low)[..., None]
    low = low.long()
    high = (low + 1).clamp(max=x.shape[1] - 1)
    before, after = (x.gather(1, row[..., None].expand(-1, -1, x.shape[-1])) for row in (low, high))
    return before + (after - before) * share


def _stretches(
    batch: int, lengths: Tensor, count: int, widest: int, size: int, device: torch.device
) -> Tensor:
    """Boolean (batch, size): `count` stretches of 0..`widest` places, each starting inside its own length."""
    width = torch.randint(0, widest + 1, (batch, count), device=device)
    start = (torch.rand(batch, count, device=device) * (lengths[:, None] - width).clamp(min=1)).long()
    place = torch.arange(size, device=device)[None, None]
    return ((place >= start[..., None]) & (place < (start + width)[..., None])).any(1)
