"""Recursive filters and the average reference: thin faces of `affekt::Filter` and its stream."""

from __future__ import annotations

from typing import Any

import numpy as np

from affekt import _checks, _core
from affekt.errors import InputError
from affekt.features._signals import as_numpy, like

__all__ = ["Filter", "FilterStream", "average_reference"]


class Filter:
    r"""Cascade of second-order sections over the last axis, for whole recordings and live, on many channels.

    Section :math:`s` computes

    .. math::
        y_s[t] = b_0 y_{s-1}[t] + b_1 y_{s-1}[t-1] + b_2 y_{s-1}[t-2] - a_1 y_s[t-1] - a_2 y_s[t-2],
        \qquad y_{-1} = x

    in float64 whatever the samples are, so that a slow high-pass keeps its accuracy over any offset. Make
    one with `bandpass`, `lowpass`, `highpass`, `bandstop` or `notch`, or from sections of your own; two
    filters in a row are one: ``Filter(np.vstack([a.sections, b.sections]), sample_rate=...)``.

    Parameters
    ----------
    sections : array (n, 6), n from 1 to 64
        Rows ``b0, b1, b2, 1, a1, a2``, SciPy's ``sos``; poles inside the unit circle.
    sample_rate : Hz, of the signals.

    Raises
    ------
    InputError : a coefficient that is not finite or beyond 1e6, a section that is not stable, another shape.

    References
    ----------
    Butterworth (1930), "On the theory of filter amplifiers". Gustafsson (1996), "Determining the initial
    states in forward-backward filtering"; the padding is that of SciPy's ``sosfiltfilt``.

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import Filter
    >>> band = Filter.bandpass(1, 40, sample_rate=256)
    >>> eeg = 5000 + np.random.default_rng(0).standard_normal((32, 2560))
    >>> band(eeg).shape
    (32, 2560)
    >>> live = band.stream(channels=32)
    >>> bool(np.array_equal(np.hstack([live.push(eeg[:, :7]), live.push(eeg[:, 7:])]), band(eeg)))
    True
    """

    def __init__(self, sections: Any, *, sample_rate: float) -> None:
        self._sample_rate = _checks.number(sample_rate, "sample_rate", positive=True)
        self._core = _core.Filter(_checks.array(sections, "sections", ndim=2, dtype=np.float64))

    @classmethod
    def bandpass(cls, low: float, high: float, *, sample_rate: float, order: int = 4) -> Filter:
        """Butterworth band-pass, -3 dB at `low` and `high`.

        Parameters
        ----------
        low, high : Hz, 0 < low < high < sample_rate / 2.
        sample_rate : Hz.
        order : of the low-pass prototype, 1 to 32; the slopes fall by 6 dB per octave and order on each side,
            and the filter has `order` sections.

        Raises
        ------
        InputError : an edge or the order is out of its range, or the band is too narrow for the order in
            float64.
        """
        return cls._butterworth("bandpass", low, high, sample_rate, order)

    @classmethod
    def bandstop(cls, low: float, high: float, *, sample_rate: float, order: int = 4) -> Filter:
        """Butterworth band-stop, -3 dB at `low` and `high`; arguments as in `bandpass`."""
        return cls._butterworth("bandstop", low, high, sample_rate, order)

    @classmethod
    def lowpass(cls, frequency: float, *, sample_rate: float, order: int = 4) -> Filter:
        """Butterworth low-pass, -3 dB at `frequency` in Hz; (order + 1) // 2 sections."""
        return cls._butterworth("lowpass", 0.0, frequency, sample_rate, order)

    @classmethod
    def highpass(cls, frequency: float, *, sample_rate: float, order: int = 4) -> Filter:
        """Butterworth high-pass, -3 dB at `frequency` in Hz; (order + 1) // 2 sections."""
        return cls._butterworth("highpass", frequency, 0.0, sample_rate, order)

    @classmethod
    def notch(cls, frequency: float, *, sample_rate: float, quality: float = 30.0) -> Filter:
        """Zero at `frequency` in Hz (mains hum), ``frequency / quality`` wide at -3 dB; one section.

        Raises
        ------
        InputError : `frequency` is not between 0 and half the sample rate, or `quality` is not positive.
        """
        frequency, quality = _checks.number(frequency, "frequency"), _checks.number(quality, "quality")
        rate = _checks.number(sample_rate, "sample_rate", positive=True)
        return cls(_core.notch(frequency, quality, rate), sample_rate=rate)

    @classmethod
    def _butterworth(cls, band: str, low: float, high: float, sample_rate: float, order: int) -> Filter:
        names = ("low", "high") if band.startswith("band") else ("frequency", "frequency")
        low, high = _checks.number(low, names[0]), _checks.number(high, names[1])
        rate = _checks.number(sample_rate, "sample_rate", positive=True)
        order = _checks.integer(order, "order", low=1, high=32)
        return cls(_core.butterworth(band, order, low, high, rate), sample_rate=rate)

    @property
    def sections(self) -> np.ndarray:
        """The sections, (n, 6) float64, as SciPy's ``sos`` (a copy)."""
        return self._core.sections

    @property
    def sample_rate(self) -> float:
        """Sample rate of the signals, in Hz."""
        return self._sample_rate

    def __call__(self, samples: Any, *, zero_phase: bool = False, settled: bool = True) -> Any:
        """Filter whole signals along their last axis.

        Parameters
        ----------
        samples : array (..., time), NumPy array, torch CPU tensor or nested list; float32, float64 or int16
            Any unit; int16 is taken as ``x / 32768``. Any strides are accepted.
        zero_phase : filter forward, then backward: no delay, twice the attenuation in dB (-6 dB at the
            edges), and not causal. Both ends are continued by mirroring through the end point.
        settled : start as if the first sample had always been there, so that an offset gives no transient;
            False starts from silence. Zero-phase filtering is always settled.

        Returns
        -------
        array of the same shape, of the library that `samples` came from
            float64 for float64 input, else float32. Values below the smallest normal number count as zero.

        Raises
        ------
        InputError : another dtype, a 0-dimensional input, a sample that is NaN, infinite or beyond 1e30
            (float64: 1e250), with its index; for `zero_phase` a signal of ``3 (2 n + 1)`` samples or fewer
            (3 n + 3 at the least, where sections are of first order).
        """
        flags = _flag(zero_phase, "zero_phase"), _flag(settled, "settled")
        return like(samples, self._core.apply(as_numpy(samples), *flags))

    def stream(self, channels: int | None = None, *, settled: bool = True) -> FilterStream:
        """Live form of the causal filter, bit-equal to the offline call for any chunking.

        Parameters
        ----------
        channels : of the chunks (channels, time); None: chunks are (time,).
        settled : as in the call.
        """
        return FilterStream(self, channels, settled=settled)

    def __repr__(self) -> str:
        return f"Filter({len(self.sections)} sections, sample_rate={self._sample_rate:g})"


class FilterStream:
    """Live filter; made by `Filter.stream`. It delays nothing: each push returns as many samples as it took.

    One stream may be shared between threads; each push is atomic.
    """

    def __init__(self, filter: Filter, channels: int | None = None, *, settled: bool = True) -> None:
        count = 0 if channels is None else _checks.integer(channels, "channels", low=1, high=2**20)
        self._stream = _core.FilterStream(filter._core, count, _flag(settled, "settled"))

    def push(self, samples: Any) -> np.ndarray:
        """Filter the next samples (channels, time), or (time,), and return the same shape.

        float32 and int16 (taken as ``x / 32768``) give float32, float64 gives float64; the state is float64
        in any case. On an error nothing is taken.

        Raises
        ------
        InputError : another dtype or shape, a sample that is NaN, infinite or beyond the range of
            `Filter.__call__`.
        """
        return self._stream.push(as_numpy(samples))

    @property
    def samples(self) -> int:
        """Samples taken of each channel since the start or the last reset."""
        return self._stream.samples

    def reset(self) -> None:
        """Back to the start, for the next signal."""
        self._stream.reset()


def average_reference(samples: Any, *, bad: Any = None) -> Any:
    r"""Subtract the mean over the channels from every channel, sample by sample.

    .. math:: y_c[t] = x_c[t] - \frac{1}{|G|} \sum_{g \in G} x_g[t]

    with :math:`G` the channels that are not bad; the mean is taken in float64.

    Parameters
    ----------
    samples : array (..., channel, time), float32 or float64, NumPy, torch (CPU) or nested list.
    bad : boolean array (channel,), True: left out of the mean. A bad channel is referenced all the same and
        may hold anything, NaN too. None: every channel is good.

    Returns
    -------
    array of the same shape and dtype, of the library that `samples` came from.

    Raises
    ------
    InputError : another dtype or shape, a sample of a good channel that is NaN, infinite or beyond 1e30
        (float64: 1e250), every channel bad.
    """
    if bad is not None:
        bad = np.asarray(bad)
        if bad.dtype != np.bool_:
            raise InputError(f"bad must be a boolean array, one per channel; got dtype {bad.dtype}")
    return like(samples, _core.average_reference(as_numpy(samples), bad))


def _flag(value: Any, name: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name} must be True or False; got {_checks.show(value)}")
    return bool(value)
