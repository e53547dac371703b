"""What a graph learns while it runs: where speech is, and how the one who speaks sounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from affekt.errors import InputError

__all__ = ["Activity", "Adapt", "SpeakerState", "speaker_normalise"]


class Activity(nn.Module):
    """Speech (1) or silence (0) per row, causal, from the level of log-mel rows.

    With L_t = scale * mean over the features, averaged over the last `smoothing` rows, in dB:

    - noise floor N_t = min(L_t, N_(t-1) + rise), N_0 = min(L_0, start);
    - peak P_t = max(L_t, P_(t-1) - fall), P_0 = L_0;
    - speech where L_t > N_t + margin, L_t > P_t - range and L_t > least, and in the `hangover` rows after.

    The floor falls at once and rises slowly, so that a steady noise is taken for silence after
    (its level - start) / rise rows at most. The same as node `activity` of a model file; no gradient passes.

    Parameters
    ----------
    scale : dB per unit of the rows: 1 for dB, 10 / ln 10 for the natural log of power, 10 for log10.
    margin, range, start, least : dB.
    rise, fall : dB per row.
    smoothing, hangover : rows.
    """

    def __init__(
        self,
        *,
        scale: float = 1.0,
        margin: float = 9.0,
        range: float = 30.0,
        rise: float = 0.03,
        fall: float = 0.01,
        start: float = -70.0,
        least: float = -75.0,
        smoothing: int = 1,
        hangover: int = 15,
    ) -> None:
        super().__init__()
        levels = {
            "scale": (scale, 1e-6),
            "margin": (margin, 0.0),
            "range": (range, 0.0),
            "rise": (rise, 0.0),
            "fall": (fall, 0.0),
            "start": (start, -1e6),
            "least": (least, -1e6),
        }
        for name, (value, low) in levels.items():
            if not low <= value <= 1e6:
                raise InputError(f"{name} must be a number from {low:g} to 1e6, got {value}")
        for name, rows, least_rows in (("smoothing", smoothing, 1), ("hangover", hangover, 0)):
            if rows != int(rows) or not least_rows <= rows <= 4096:
                raise InputError(f"{name} must be {least_rows} to 4096 rows, got {rows}")
        self.levels = {name: float(value) for name, (value, _) in levels.items()}
        self.smoothing, self.hangover = int(smoothing), int(hangover)

    def options(self) -> dict[str, Any]:
        """Options of the node in a model file."""
        return {**self.levels, "smoothing": self.smoothing, "hangover": self.hangover}

    @torch.no_grad()
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(batch, time, d)` -> `(batch, time, 1)` of 0 and 1; 0 where `mask` `(batch, time)` is False.

        Masked rows may only come last, as in padded batches.
        """
        if x.dim() != 3:
            raise InputError(f"x must be (batch, time, d), got {tuple(x.shape)}")
        o = self.levels
        time = x.shape[1]
        level = x.double().mean(-1) * o["scale"]
        if self.smoothing > 1 and time:
            padded = nn.functional.pad(level, (self.smoothing - 1, 0))
            rows = torch.arange(1, time + 1, device=x.device).clamp(max=self.smoothing)
            level = padded.unfold(1, self.smoothing, 1).sum(-1) / rows
        at = torch.arange(time, device=x.device, dtype=torch.float64)
        # Both recursions in closed form: N_t = rise t + min over s <= t of (L_s - rise s), and so on.
        floor = (level - o["rise"] * at).cummin(1).values.clamp(max=o["start"]) + o["rise"] * at
        peak = (level + o["fall"] * at).cummax(1).values - o["fall"] * at
        speech = (level > floor + o["margin"]) & (level > peak - o["range"]) & (level > o["least"])
        if self.hangover and time:
            speech = nn.functional.max_pool1d(
                nn.functional.pad(speech.to(x.dtype), (self.hangover, 0))[:, None], self.hangover + 1, 1
            )[:, 0].bool()
        if mask is not None:
            speech = speech & mask
        return speech.to(x.dtype)[..., None]

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in self.options().items())


class SpeakerState(NamedTuple):
    """Moments of the rows counted so far, of each item of a batch (or of one speaker, without that axis)."""

    count: Tensor
    """(batch,) float64."""
    mean: Tensor
    """(batch, d) float64."""
    variance: Tensor
    """(batch, d) float64, 1/N; means nothing where `count` is 0."""


class Adapt(nn.Module):
    """Rows normalised by running statistics of their speaker, pooled with those of the training population.

    The speaker's n rows so far have mean m_s and variance v_s; the prior has `mean`, `sd` and the weight of
    `prior` rows. With W = prior + n and d = m_s - mean,

        m = mean + n / W d,   v = (prior sd^2 + n v_s) / W + prior n / W^2 d^2,
        y_t = (x_t - m) / max(sqrt(v), floor),

    the moments of prior and rows as one population. A row is counted, if it is active, and then normalised.
    Where the input says who is speaking, a row counts only once the speaker pauses, and the last row of a
    recording counts when it ends, after it was normalised: pooled embeddings then stand for utterances, not
    for what happened to be heard half-way.
    The same as node `adapt` of a model file. Statistics are float64 and get no gradient: it passes through
    x_t alone, as if m and v were constants.

    Parameters
    ----------
    features : row width d.
    prior : weight of the population, in rows, positive.
    half_life : counted rows after which a row's weight has halved; None forgets nothing. Forward then loops
        over time.
    variance : whether v adapts, or only m and v = sd^2.
    least : a row counts when the mean of its activity reaches this.
    floor : least divisor, positive.
    reference : whether there is a buffer `reference`, the population's mean over neutral speech, for
        `affekt.enrol(neutral=True)`.
    """

    mean: Tensor
    sd: Tensor
    reference: Tensor | None

    def __init__(
        self,
        features: int,
        *,
        prior: float = 10.0,
        half_life: float | None = None,
        variance: bool = True,
        least: float = 0.5,
        floor: float = 1e-3,
        reference: bool = False,
    ) -> None:
        super().__init__()
        for name, value, low, high in (
            ("prior", prior, 1e-6, 1e12),
            ("half_life", half_life, 1e-6, 1e12),
            ("least", least, 0.0, 1e6),
            ("floor", floor, 1e-12, 1e12),
        ):
            if value is not None and not low <= value <= high:
                raise InputError(f"{name} must be a number from {low:g} to {high:g}, got {value}")
        self.features, self.prior, self.variance = int(features), float(prior), bool(variance)
        self.half_life = None if half_life is None else float(half_life)
        self.least, self.floor = float(least), float(floor)
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("sd", torch.ones(features))
        self.register_buffer("reference", torch.zeros(features) if reference else None)

    def options(self) -> dict[str, Any]:
        """Options of the node in a model file; its tensors are `mean`, `sd` and, if there, `reference`."""
        names = ("prior", "half_life", "variance", "least", "floor")
        return {name: getattr(self, name) for name in names}

    def set(self, mean: Any, sd: Any, reference: Any = None) -> None:
        """Take the population's mean, sd and, where the module has one, neutral mean, (d,) each."""
        if (reference is None) != (self.reference is None):
            raise InputError(
                f"reference: expected {'None' if self.reference is None else 'values'}, as the module says"
            )
        for name, value in (("mean", mean), ("sd", sd), ("reference", reference)):
            if value is None:
                continue
            value = torch.as_tensor(value, dtype=torch.float64)
            if value.shape != self.mean.shape or not bool(torch.isfinite(value).all()):
                raise InputError(f"{name} must be {self.features} finite numbers, got {tuple(value.shape)}")
            if name == "sd" and bool((value < 0).any()):
                raise InputError(f"sd must not be negative, got {float(value.min())}")
            getattr(self, name).copy_(value)

    def forward(
        self,
        x: Tensor,
        activity: Tensor | None = None,
        mask: Tensor | None = None,
        state: SpeakerState | None = None,
        adapting: bool = True,
        speaking: Tensor | None = None,
    ) -> Tensor:
        """Normalised rows.

        Parameters
        ----------
        x : (batch, time, d).
        activity : (batch, time, k), k >= 1; a row counts when its mean reaches `least`. None counts all.
        mask : boolean (batch, time); where False a row does not count (it is normalised all the same).
        state : what is known of each item's speaker before; None: nothing.
        adapting : whether rows count; else all are normalised by `state`.
        speaking : (batch, time, k): rows with a mean of at least 0.5 do not count, but for `statistics` the
            last valid one. None: nobody ever is.

        Returns
        -------
        Tensor : (batch, time, d), dtype of x.
        """
        counted = self._counted(x, activity, mask) & ~self._speaking(x, speaking)
        with torch.no_grad():
            start = self._start(x, state)
            if not adapting:
                running = SpeakerState(*(value[:, None] for value in start))
            elif self.half_life is None:
                running = self._cumulated(x.detach().double(), counted, start)
            else:
                running = self._forgetting(x.detach().double(), counted, start)
            centre, spread = self._pooled_with_prior(running)
        return ((x - centre) / spread).to(x.dtype)

    @torch.no_grad()
    def statistics(
        self,
        x: Tensor,
        activity: Tensor | None = None,
        mask: Tensor | None = None,
        state: SpeakerState | None = None,
        speaking: Tensor | None = None,
    ) -> SpeakerState:
        """What is known of each item's speaker after these rows.

        Parameters as for `forward`. `pooled` puts those of several recordings together (exact without
        half_life).
        """
        counted = self._counted(x, activity, mask)
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask
        later = valid.int().flip(1).cumsum(1).flip(1)  # valid rows from each one on
        counted = counted & (~self._speaking(x, speaking) | (valid & (later == 1)))
        start = self._start(x, state)
        rows = x.double()
        if self.half_life is not None:
            return SpeakerState(*(value[:, -1] for value in self._forgetting(rows, counted, start)))
        weight = counted.double()
        n = weight.sum(1)
        safe = n.clamp(min=1)[:, None]
        rows = rows.masked_fill(~counted[..., None], 0.0)
        mean = rows.sum(1) / safe
        spread = (rows - mean[:, None]).square().masked_fill(~counted[..., None], 0.0)
        heard = SpeakerState(n, mean, spread.sum(1) / safe)
        return heard if state is None else self.pooled([start, heard])

    @staticmethod
    def pooled(states: Sequence[SpeakerState]) -> SpeakerState:
        """The moments of all rows behind several states, as if they had been counted into one.

        Parameters
        ----------
        states : at least one; all of one batch size or all without that axis.
        """
        if not states:
            raise InputError("states must hold at least one state, got none")
        count = torch.stack([state.count for state in states])
        share = (count / count.sum(0).clamp(min=torch.finfo(torch.float64).tiny))[..., None]
        means = torch.stack([state.mean for state in states])
        mean = (share * means).sum(0)
        spread = torch.stack([state.variance for state in states]) + (means - mean).square()
        return SpeakerState(count.sum(0), mean, (share * spread).sum(0))

    def _counted(self, x: Tensor, activity: Tensor | None, mask: Tensor | None) -> Tensor:
        if x.dim() != 3 or x.shape[-1] != self.features:
            raise InputError(f"x must be (batch, time, {self.features}), got {tuple(x.shape)}")
        counted = torch.isfinite(x.detach()).all(-1)
        if activity is not None:
            if activity.dim() != 3 or activity.shape[:2] != x.shape[:2] or not activity.shape[2]:
                raise InputError(f"activity must be {(*x.shape[:2], 'k >= 1')}, got {tuple(activity.shape)}")
            counted = counted & (activity.detach().double().mean(-1) >= self.least)
        if mask is not None:
            if mask.shape != x.shape[:2] or mask.dtype != torch.bool:
                raise InputError(
                    f"mask must be boolean {tuple(x.shape[:2])}, got {mask.dtype} {tuple(mask.shape)}"
                )
            counted = counted & mask
        return counted

    def _speaking(self, x: Tensor, speaking: Tensor | None) -> Tensor:
        if speaking is None:
            return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if speaking.dim() != 3 or speaking.shape[:2] != x.shape[:2] or not speaking.shape[2]:
            raise InputError(f"speaking must be {(*x.shape[:2], 'k >= 1')}, got {tuple(speaking.shape)}")
        return speaking.detach().double().mean(-1) >= 0.5

    def _start(self, x: Tensor, state: SpeakerState | None) -> SpeakerState:
        batch, device = x.shape[0], x.device
        if state is None:
            zeros = torch.zeros(batch, self.features, dtype=torch.float64, device=device)
            return SpeakerState(zeros.new_zeros(batch), zeros, zeros)
        state = SpeakerState(*(torch.as_tensor(v, dtype=torch.float64, device=device) for v in state))
        wanted = ((batch,), (batch, self.features), (batch, self.features))
        for name, value, shape in zip(state._fields, state, wanted, strict=True):
            good = torch.isfinite(value).all() and (name == "mean" or (value >= 0).all())
            if value.shape != shape or not good:
                raise InputError(
                    f"state.{name} must be {shape} finite numbers{'' if name == 'mean' else ' >= 0'}, got "
                    f"{tuple(value.shape)}"
                )
        return state

    def _cumulated(self, x: Tensor, counted: Tensor, start: SpeakerState) -> SpeakerState:
        """Moments after each row by cumulative sums, around an origin near the data: little cancels."""
        weight = counted.double()[..., None]
        n = weight.sum(1)
        rows = x.masked_fill(~counted[..., None], 0.0)
        origin = torch.where(n > 0, rows.sum(1) / n.clamp(min=1), start.mean)
        rows = (rows - origin[:, None]) * weight
        first, count = (start.mean - origin) * (start.count[:, None] > 0), start.count[:, None]
        total = weight.cumsum(1)[..., 0] + count
        safe = total.clamp(min=torch.finfo(torch.float64).tiny)[..., None]
        mean = (rows.cumsum(1) + (count * first)[:, None]) / safe
        square = (rows.square().cumsum(1) + (count * (start.variance + first.square()))[:, None]) / safe
        return SpeakerState(total, mean + origin[:, None], (square - mean.square()).clamp(min=0.0))

    def _forgetting(self, x: Tensor, counted: Tensor, start: SpeakerState) -> SpeakerState:
        """Moments after each row, one row at a time."""
        keep = 0.5 ** (1.0 / (self.half_life or math.inf))
        count, mean, variance = start.count[:, None], start.mean, start.variance
        seen: list[tuple[Tensor, Tensor, Tensor]] = []
        for t in range(x.shape[1]):
            use = counted[:, t, None]
            more = keep * count + 1.0
            d = x[:, t] - mean
            moved = mean + d / more
            spread = (variance + (d * (x[:, t] - moved) - variance) / more).clamp(min=0.0)
            count = torch.where(use, more, count)
            mean, variance = torch.where(use, moved, mean), torch.where(use, spread, variance)
            seen.append((count[:, 0], mean, variance))
        if not seen:
            return SpeakerState(*(value[:, None] for value in start))
        return SpeakerState(*(torch.stack(values, 1) for values in zip(*seen, strict=True)))

    def _pooled_with_prior(self, known: SpeakerState) -> tuple[Tensor, Tensor]:
        """Centre and divisor of rows, from (batch, time) counts and (batch, time, d) moments."""
        mean, sd = self.mean.double(), self.sd.double()
        n = known.count[..., None]
        total = self.prior + n
        d = torch.where(n > 0, known.mean - mean, 0.0)
        spread = sd
        if self.variance:
            pooled = (self.prior * sd.square() + n * known.variance) / total
            pooled = pooled + self.prior * n / total.square() * d.square()
            spread = torch.where(n > 0, pooled.sqrt(), sd)
        return mean + n / total * d, spread.clamp(min=self.floor)

    def extra_repr(self) -> str:
        return f"{self.features}, " + ", ".join(f"{k}={v}" for k, v in self.options().items())


def speaker_normalise(
    z: Tensor,
    speaker: Tensor,
    counted: tuple[Tensor, Tensor] | None = None,
    *,
    unknown: float = 0.25,
    known: float = 0.25,
    floor: float = 0.1,
    least: int = 4,
) -> Tensor:
    """Normalise embeddings by their speaker's statistics, by the batch's, or by something in between.

    What `Adapt` does live with running statistics, for training on a batch with several recordings of each
    speaker. For recording i of speaker s, a share a_i is drawn: 0 with probability `unknown`, 1 with
    probability `known`, else uniform from [0, 1]. With m_s, v_s the mean and variance of the speaker's
    counted embeddings in the batch and m, v those of all,

        y_i = (z_i - c_i) / max(sqrt(w_i), floor),
        c_i = m + a_i (m_s - m),   w_i = a_i v_s + (1 - a_i) v + a_i (1 - a_i) (m_s - m)^2,

    the moments of a mixture, as `Adapt` pools a prior with what it has heard. A network trained so serves
    speakers it knows nothing of, something of, and everything of. Gradients pass through the statistics, as
    in batch normalisation (Ioffe and Szegedy, arXiv:1502.03167).

    Parameters
    ----------
    z : (batch, d).
    speaker : (batch,) integers, equal for recordings of one speaker; negative: not known, share 0.
    counted : the embeddings that count, (n, d), and the place of each one's recording in the batch, (n,)
        integers: live, those are all that come while a recording runs. None: z. Without any, z again.
    unknown, known : probabilities, at most 1 together.
    floor : least standard deviation.
    least : a speaker with fewer recordings in the batch counts as not known: of one recording, nothing would
        be left.

    Raises
    ------
    InputError : shapes that do not fit, or probabilities out of range.
    """
    if z.dim() != 2 or speaker.shape != z.shape[:1]:
        raise InputError(
            f"z must be (batch, d) and speaker (batch,), got {tuple(z.shape)} and {tuple(speaker.shape)}"
        )
    if unknown < 0 or known < 0 or unknown + known > 1:
        raise InputError(
            f"unknown and known must be probabilities, at most 1 together, got {unknown} and {known}"
        )
    rows, of = (
        (z, torch.arange(len(z), device=z.device)) if counted is None or not len(counted[0]) else counted
    )
    if rows.dim() != 2 or rows.shape[1] != z.shape[1] or of.shape != rows.shape[:1]:
        raise InputError(
            f"counted must be (n, {z.shape[1]}) and (n,), got {tuple(rows.shape)} and {tuple(of.shape)}"
        )
    who, place = speaker.unique(return_inverse=True)
    member = torch.nn.functional.one_hot(place[of], len(who)).to(z.dtype)  # (n, speakers)
    count = member.sum(0)
    own_mean = member.T @ rows / count.clamp(min=1)[:, None]
    own_variance = member.T @ (rows - own_mean[place[of]]).square() / count.clamp(min=1)[:, None]
    mean, variance = rows.mean(0), rows.var(0, unbiased=False)
    draw = torch.rand(len(z), 2, dtype=z.dtype, device=z.device)
    share = torch.where(draw[:, 0] < unknown, 0.0, torch.where(draw[:, 0] < unknown + known, 1.0, draw[:, 1]))
    few = torch.bincount(place, minlength=len(who)) < least
    share = share.masked_fill((speaker < 0) | few[place] | (count[place] == 0), 0.0)[:, None]
    away = own_mean[place] - mean
    spread = share * own_variance[place] + (1 - share) * variance + share * (1 - share) * away.square()
    # clamped before the root, whose gradient at 0 is infinite
    return (z - mean - share * away) / spread.clamp(min=floor * floor).sqrt()
