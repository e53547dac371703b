"""Change of the sample rate and channel mix: thin faces of `affekt::Resampler` and its stream."""

from __future__ import annotations

from typing import Any

import numpy as np

from affekt import _checks, _core
from affekt.errors import InputError
from affekt.features._signals import as_numpy, like

__all__ = ["Resampler", "ResamplerStream", "resample"]


class Resampler:
    r"""Change of the sample rate by any ratio, over the last axis, for whole recordings and live.

    .. math:: y[m] = \sum_i x[i]\, h\Big(m \frac{f_\mathrm{in}}{f_\mathrm{out}} - i\Big)

    with :math:`h` a sinc under Kaiser's window. Ratios of one or two phases (such as 48 to 16 kHz) take
    it as it is. Every other ratio takes two filters: :math:`h` once per sample, at the rate of the signal
    where that is 1.2 times the wanted one, else at twice that rate; and a short one from there, whose
    images are 15 dB further down, in as many phases as the ratio has; beyond 1024 phases (rates such as
    44100 and 44101 Hz) neighbours of 2048 phases are interpolated. Where the input has 2.5 times the rate
    that is wanted, or more, half-band filters halve it first. The phase is linear and compensated: sample
    0 lies at sample 0. Before and after the signal lies silence.

    With the defaults, below 0.913 of half the lower rate the magnitude is 1 within 0.001 dB, and what
    lies beyond half the lower rate is at least 100 dB down; the pass band of soxr's HQ.
    The worst measured over common rates of audio is 0.0002 dB and 101 dB.

    Parameters
    ----------
    input_rate : Hz.
    output_rate : Hz, within a factor of 256 of the input.
    passband : edge of what passes unchanged, as a part of half the lower rate, 0.5 to 0.98. From there on the
        filter falls, until half the lower rate. The work grows with ``1 / (1 - passband)``.
    rejection : dB by which images and aliases are down, 40 to 140; float32 arithmetic reaches about 130.

    Raises
    ------
    InputError : an argument is out of its range.

    References
    ----------
    Kaiser (1974), "Nonrecursive digital filter design using the I0-sinh window function". Crochiere and
    Rabiner (1975), "Optimum FIR digital filter implementations for decimation, interpolation, and narrow-band
    filtering". Smith, "Digital Audio Resampling Home Page" (2002).

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import Resampler
    >>> down = Resampler(44100, 16000)
    >>> stereo = np.random.default_rng(0).standard_normal((2, 44100)).astype(np.float32)
    >>> down(stereo, mix="mean").shape
    (16000,)
    >>> live = down.stream(channels=2, mix="mean")
    >>> parts = [live.push(stereo[:, :999]), live.push(stereo[:, 999:]), live.finish()]
    >>> bool(np.array_equal(np.concatenate(parts), down(stereo, mix="mean")))
    True
    """

    def __init__(
        self, input_rate: float, output_rate: float, *, passband: float = 0.913, rejection: float = 100.0
    ) -> None:
        self._rates = tuple(
            _checks.number(rate, name, positive=True)
            for rate, name in ((input_rate, "input_rate"), (output_rate, "output_rate"))
        )
        shape = _checks.number(passband, "passband"), _checks.number(rejection, "rejection")
        self._core = _core.Resampler(self._rates[0], self._rates[1], *shape)

    @property
    def ratio(self) -> tuple[int, int]:
        """Output over input rate in lowest terms: (up, down)."""
        return self._core.ratio

    @property
    def latency(self) -> float:
        """Time in seconds that a live sample waits for samples after it."""
        return self._core.latency_samples / self._rates[0]

    def output_length(self, n_samples: int) -> int:
        """Samples that `n_samples` samples give: those before the end, ``ceil(n_samples * up / down)``."""
        return self._core.output_length(_checks.integer(n_samples, "n_samples", low=0, high=2**62 // 256))

    def __call__(self, samples: Any, *, mix: Any = None) -> Any:
        """Resample whole signals along their last axis, mixing their channels in the same pass.

        Parameters
        ----------
        samples : array (..., time), or (..., channel, time) with `mix`; NumPy, torch CPU tensor or nested
            list; float32, float64 (rounded to float32 first) or int16 (taken as ``x / 32768``)
        mix : None: every signal by itself; ``"mean"``: the mean of the channels; an integer: that channel; an
            array (channel,): their weights, whose magnitudes add up to at most 1e6.

        Returns
        -------
        float32 array (..., output_length(time)), of the library that `samples` came from.

        Raises
        ------
        InputError : another dtype or shape, a sample that is NaN, infinite or beyond 1e30, with its index; a
            mix that does not fit the channels.
        """
        array = as_numpy(samples)
        weights = np.zeros(0, np.float32)
        if mix is not None:
            if array.ndim < 2:
                raise InputError(f"samples: expected shape (..., channel, time) for a mix, got {array.shape}")
            weights = _weights(mix, array.shape[-2])
        return like(samples, self._core.compute(array, weights))

    def stream(self, channels: int | None = None, *, mix: Any = None) -> ResamplerStream:
        """Live form, bit-equal to the offline call for any chunking.

        Parameters
        ----------
        channels : of the chunks (channels, time); None: chunks are (time,).
        mix : as in the call; without one, every channel gives a row of its own.
        """
        return ResamplerStream(self, channels, mix=mix)

    def __repr__(self) -> str:
        return f"Resampler({self._rates[0]:g}, {self._rates[1]:g})"


class ResamplerStream:
    """Live resampler; made by `Resampler.stream`.

    One stream may be shared between threads; each push is atomic.
    """

    def __init__(self, resampler: Resampler, channels: int | None = None, *, mix: Any = None) -> None:
        count = 1 if channels is None else _checks.integer(channels, "channels", low=1, high=1024)
        if channels is None and mix is not None:
            raise InputError("mix: expected None for chunks of shape (time,); give the number of channels")
        weights = np.eye(count, dtype=np.float32) if mix is None else _weights(mix, count)[None]
        flat = channels is None
        self._stream = _core.ResamplerStream(resampler._core, weights, flat, flat or mix is not None)
        self._finished = False

    def push(self, samples: Any) -> np.ndarray:
        """Take the next samples, (channels, time) or (time,), and return what they finish, as float32.

        With a mix, or without channels, (k,); else (channels, k); k >= 0. On an error nothing is taken.

        Raises
        ------
        InputError : another dtype or shape, a sample that is NaN, infinite or beyond 1e30, a push after
            `finish`.
        """
        if self._finished:
            raise InputError("samples: the stream is finished; call reset() before the next signal")
        return self._stream.push(as_numpy(samples))

    def finish(self) -> np.ndarray:
        """End the signal and return the samples that are left, as if silence followed."""
        self._finished = True
        return self._stream.finish()

    def reset(self) -> None:
        """Back to the start, for the next signal."""
        self._stream.reset()
        self._finished = False

    @property
    def samples(self) -> int:
        """Samples taken of each channel since the start or the last reset."""
        return self._stream.samples


def resample(
    samples: Any,
    input_rate: float,
    output_rate: float,
    *,
    mix: Any = None,
    passband: float = 0.913,
    rejection: float = 100.0,
) -> Any:
    """Resample whole signals along their last axis: `Resampler` made and called in one step.

    Parameters, results and errors are those of `Resampler` and its call; make the object once where several
    signals have the same rates.
    """
    return Resampler(input_rate, output_rate, passband=passband, rejection=rejection)(samples, mix=mix)


def _weights(mix: Any, channels: int) -> np.ndarray:
    """What `mix` says, as (channels,) float32."""
    if isinstance(mix, str) and mix == "mean":
        return np.full(channels, 1 / max(channels, 1), np.float32)
    if isinstance(mix, (int, np.integer)) and not isinstance(mix, bool):
        if not 0 <= mix < channels:
            raise InputError(f"mix: expected a channel from 0 to {channels - 1}, got {mix}")
        return np.eye(channels, dtype=np.float32)[mix]
    if isinstance(mix, (str, bool)) or np.ndim(mix) != 1 or len(mix) != channels:
        raise InputError(
            f"mix: expected 'mean', a channel number or {channels} weights, got {_checks.show(mix)}"
        )
    return _checks.finite(_checks.array(mix, "mix", ndim=1, dtype=np.float32), "mix")
