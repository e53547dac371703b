"""Welch spectra and band power: thin faces of `affekt::Welch`, `affekt::BandPower` and its stream."""

from __future__ import annotations

import json
import math
import numbers
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from affekt import _core
from affekt.errors import InputError
from affekt.features._signals import as_numpy, by_op, like

__all__ = ["BANDS", "BandPower", "BandPowerStream", "BandRows", "Welch", "welch"]

_Self = TypeVar("_Self", bound="_Planned")

#: Edges in Hz of the bands that `BandPower` knows by name.
BANDS: dict[str, tuple[float, float]] = {
    "delta": (0.3, 5.0),
    "theta": (5.0, 8.0),
    "alpha": (8.0, 12.0),
    "beta1": (12.0, 18.0),
    "beta2": (18.0, 30.0),
    "gamma": (30.0, 45.0),
}


class BandRows(NamedTuple):
    """Band power and where it can be trusted.

    power : (..., frames, channels, bands), float32 or float64; NaN where `valid` is False.
    valid : (..., frames, channels), bool.
    """

    power: Any
    valid: Any


class _Planned:
    """What plans share: the options, as text and as a dictionary, and everything that follows from them."""

    _text: str

    @classmethod
    def from_options(cls: type[_Self], options: Mapping[str, Any]) -> _Self:
        """Build from the dictionary that `options` gave, for instance out of a model card.

        Raises
        ------
        InputError : an option is unknown or out of its range.
        """
        unknown = sorted(set(options) - set(cls.__init__.__kwdefaults__ or ()) - {"sample_rate"})
        if unknown:
            raise InputError(f"options: expected those of {cls.__name__}, got {unknown[0]!r}")
        known = dict(options)
        if "bands" in known:
            known["bands"] = _Edges((name, low, high) for name, low, high in known["bands"])
        return cls(**known)

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its default filled in, as plain values that JSON can hold (a copy).

        Lengths are as they were rounded.
        """
        return dict(json.loads(self._text))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_options, (self.options,)


class Welch(_Planned):
    r"""Power spectral density by Welch's method, one-sided.

    .. math::
        P[k] = \frac{c_k}{f_s \sum_i w_i^2}\ \underset{m}{\mathrm{mean}}\
        \Big|\sum_{i=0}^{L-1} w_i\, d_m[i]\, e^{-2\pi\mathrm{i}\,ik/N}\Big|^2

    with segments :math:`d_m` of length :math:`L` = `n_per_seg`, detrended, transform length :math:`N` =
    `n_fft` and :math:`c_k = 2` except for the bins 0 and :math:`N/2`, where it is 1.

    Parameters
    ----------
    sample_rate : Hz.
    window : ``"hann"``, ``"hamming"``, ``"povey"``, ``"blackman"`` or ``"rectangular"`` (periodic), or
        `n_per_seg` values such as ``scipy.signal.get_window`` gives.
    n_per_seg : samples of a segment, 1 to 1048576.
    n_overlap : samples that neighbouring segments share, less than `n_per_seg`; None: half, rounded down.
    n_fft : transform length, `n_per_seg` to 1048576, the rest being zero; primes are fine. None:
        `n_per_seg`.
    detrend : what is taken off each segment: ``"constant"``: its mean; ``"linear"``: its line of least
        squares; None: nothing.
    scaling : ``"density"``: unit²/Hz; ``"spectrum"``: unit², with :math:`(\sum_i w_i)^2` in place of
        :math:`f_s \sum_i w_i^2`.
    average : ``"mean"``, or ``"median"``: divided by its bias for an exponential distribution, as in SciPy.

    Raises
    ------
    InputError : an option is out of its range; the message names it, the expectation and the value.

    Notes
    -----
    The numbers are those of ``scipy.signal.welch`` (to 1e-10 of the peak in float64, 1e-5 in float32), with
    two differences: a signal shorter than a segment is an error instead of a shorter segment, and NaN is
    taken segment by segment. Segments are taken relative to their first sample before they are detrended,
    so that a large offset costs no precision. Memory does not grow with the length of the signal, except
    for ``average="median"``, which holds the spectra of one signal per thread.

    References
    ----------
    Welch (1967), "The use of fast Fourier transform for the estimation of power spectra". Allen et al.
    (2012), "FINDCHIRP: An algorithm for detection of gravitational waves from inspiraling compact
    binaries", appendix B (the bias of the median).

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import Welch
    >>> t = np.arange(2560) / 256
    >>> spectra = Welch(sample_rate=256)
    >>> float(spectra.frequencies[spectra(np.sin(2 * np.pi * 10 * t)).argmax()])
    10.0
    """

    def __init__(
        self,
        *,
        sample_rate: float,
        window: str | Any = "hann",
        n_per_seg: int = 256,
        n_overlap: int | None = None,
        n_fft: int | None = None,
        detrend: str | None = "constant",
        scaling: str = "density",
        average: str = "mean",
    ) -> None:
        options = {
            "sample_rate": _number("sample_rate", sample_rate),
            "window": _window("window", window),
            "n_per_seg": _whole("n_per_seg", n_per_seg),
            "n_overlap": None if n_overlap is None else _whole("n_overlap", n_overlap),
            "n_fft": None if n_fft is None else _whole("n_fft", n_fft),
            "detrend": _name("detrend", detrend),
            "scaling": _text("scaling", scaling),
            "average": _text("average", average),
        }
        self._plan = _core.Welch(json.dumps(options))
        self._text = self._plan.options

    @property
    def frequencies(self) -> np.ndarray:
        """Frequencies of the bins in Hz, (n_fft // 2 + 1,) float64."""
        o = self.options
        return np.arange(self._plan.bins) * (o["sample_rate"] / o["n_fft"])

    def __call__(self, samples: Any) -> Any:
        """Signals -> spectra.

        Parameters
        ----------
        samples : array (..., time), NumPy array, torch tensor or nested list; float32, float64 or int16
            Signals in any unit; int16 is taken as it is. A sample that is NaN is missing: the segments of
            that signal that hold it are left out. A torch tensor that requires a gradient, lies on another
            device or is being traced goes through ``torch.ops.affekt.welch``, or plain torch where there is
            none, and passes gradients back: none to segments with a missing sample; through a median, to
            the one or two segments in the middle of each bin.

        Returns
        -------
        psd : (..., n_fft // 2 + 1), of the library that `samples` came from
            float64 for float64 input, computed in float64, and float32 otherwise. A signal without a segment
            free of NaN gives a row of NaN.

        Raises
        ------
        InputError : fewer than `n_per_seg` samples; another dtype; a sample that is infinite or so large that
            its power could overflow.
        """
        found = by_op("welch", samples, self._text, audio=False)
        return like(samples, self._plan.compute(as_numpy(samples))[0]) if found is None else found

    def __repr__(self) -> str:
        shown = [f"{k}={v!r}" for k, v in self.options.items() if not isinstance(v, list)]
        return f"Welch({', '.join(shown)})"


def welch(
    x: Any,
    sample_rate: float,
    *,
    window: str | Any = "hann",
    n_per_seg: int = 256,
    n_overlap: int | None = None,
    n_fft: int | None = None,
    detrend: str | None = "constant",
    scaling: str = "density",
    average: str = "mean",
) -> tuple[np.ndarray, Any]:
    """One call of `Welch`, as ``scipy.signal.welch`` has it.

    Parameters
    ----------
    x : array (..., time), as for `Welch`.
    sample_rate, window, n_per_seg, n_overlap, n_fft, detrend, scaling, average : as in `Welch`.

    Returns
    -------
    frequencies : (n_fft // 2 + 1,) float64, in Hz.
    psd : (..., n_fft // 2 + 1), as `Welch` gives it.

    Raises
    ------
    InputError : as in `Welch`, for the options and for `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import welch
    >>> t = np.arange(2560) / 256
    >>> frequencies, psd = welch(np.sin(2 * np.pi * 10 * t), 256)
    >>> float(frequencies[psd.argmax()])
    10.0
    """
    spectra = Welch(
        sample_rate=sample_rate,
        window=window,
        n_per_seg=n_per_seg,
        n_overlap=n_overlap,
        n_fft=n_fft,
        detrend=detrend,
        scaling=scaling,
        average=average,
    )
    return spectra.frequencies, spectra(x)


class BandPower(_Planned):
    r"""EEG band power in sliding windows, offline and live.

    The power spectrum :math:`P_f` of a window is that of Welch's method (`welch`) over the segments inside
    it, and

    .. math::
        b_f = \int_{\mathrm{low}}^{\mathrm{high}} P_f(\nu)\,d\nu \Big/ \int_{\mathrm{total}} P_f(\nu)\,d\nu

    for relative power; absolute power (unit²) leaves the denominator out. Both integrals run over the bins
    inside their edges, edges included. Windows hold whole segments only and are causal: frame f is about
    samples ``f * hop_length`` to ``f * hop_length + win_length - 1``, and its time stamp is that of the
    last one. Each segment is transformed once, however many windows hold it.

    Parameters
    ----------
    sample_rate : Hz.
    bands : names out of `BANDS`, a mapping of names to (low, high) in Hz, or a sequence of such pairs; None:
        the six of `BANDS`. At least two bins must lie inside each.
    window, hop, segment : lengths in seconds of a window, of the step between windows and of a segment, each
        rounded to whole samples; the window is then shortened to whole segments.
    overlap : of neighbouring segments, as a fraction of a segment, 0 to less than 1.
    n_fft : transform length in samples, longer than a segment for zero padding; None: a segment.
    taper : window function of a segment: a name or values, as `window` of `welch`.
    detrend, average : of the segments, as in `welch`.
    integration : ``"trapezoid"``, or ``"simpson"`` as ``scipy.integrate.simpson`` has it.
    relative : True: divided by the power in `total`; False: absolute power.
    total : (low, high) in Hz; None: the whole spectrum, 0 to half the sample rate.
    log : ``"db"``: 10 log10; ``"ln"``; ``"log10"``; None: no logarithm.
    floor : smallest value that enters the logarithm, 1.2e-38 to 1e30.

    Raises
    ------
    InputError : an option is out of its range; the message names it, the expectation and the value.

    Notes
    -----
    A sample that is NaN is missing: the segments that hold it are left out, channel by channel, and the
    mean or median runs over the others of the window. A frame of a channel is valid if a segment is left
    and, for relative power, the total is above zero (a flat electrode has none). Where it is not, the power
    is NaN.

    The defaults follow Zhang (2023): 2 s windows every 0.25 s, Hann segments of 1 s with half overlap, six
    bands, relative to the whole spectrum. Simpson's rule reads 0.444 for a line of power 0.5 that is
    narrower than a segment resolves, so that the trapezoid is the default.

    References
    ----------
    Welch (1967), "The use of fast Fourier transform for the estimation of power spectra". Zhang Su
    (2023), doctoral thesis on continuous emotion recognition, Nanyang Technological University, chapters 3
    and 6.

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import BandPower
    >>> t = np.arange(2560) / 256
    >>> x = np.sin(2 * np.pi * 10 * t) + 0.5 * np.sin(2 * np.pi * 24 * t)
    >>> bands = BandPower(sample_rate=256, bands=["alpha", "beta2"], relative=False)
    >>> power, valid = bands(x[None])
    >>> power.shape, power[0, 0].round(6).tolist()
    ((33, 1, 2), [0.5, 0.125])
    >>> stream = bands.stream(channels=1, dtype=np.float64)
    >>> rows = [stream.push(block[None]).power for block in np.split(x, 40)]
    >>> np.array_equal(np.concatenate(rows), power)
    True
    """

    def __init__(
        self,
        *,
        sample_rate: float,
        bands: Sequence[str]
        | Mapping[str, tuple[float, float]]
        | Sequence[tuple[float, float]]
        | None = None,
        window: float = 2.0,
        hop: float = 0.25,
        segment: float = 1.0,
        overlap: float = 0.5,
        n_fft: int | None = None,
        taper: str | Any = "hann",
        detrend: str | None = "constant",
        average: str = "mean",
        integration: str = "trapezoid",
        relative: bool = True,
        total: tuple[float, float] | None = None,
        log: str | None = None,
        floor: float = 1e-30,
    ) -> None:
        if not isinstance(relative, (bool, np.bool_)):
            raise InputError(f"relative: expected True or False, got {relative!r}")
        options = {
            "sample_rate": _number("sample_rate", sample_rate),
            "bands": _edges(bands),
            "window": _number("window", window),
            "hop": _number("hop", hop),
            "segment": _number("segment", segment),
            "overlap": _number("overlap", overlap),
            "n_fft": None if n_fft is None else _whole("n_fft", n_fft),
            "taper": _window("taper", taper),
            "detrend": _name("detrend", detrend),
            "average": _text("average", average),
            "integration": _text("integration", integration),
            "relative": bool(relative),
            "total": None if total is None else _pair("total", total),
            "log": _name("log", log),
            "floor": _number("floor", floor),
        }
        self._plan = _core.BandPower(json.dumps(options))
        self._text = self._plan.options
        kept = self.options
        self._bands = [name for name, _, _ in kept["bands"]]
        self._rate: float = kept["sample_rate"]

    @property
    def bands(self) -> list[str]:
        """Names of the bands, in the order of the last axis."""
        return list(self._bands)

    @property
    def sample_rate(self) -> float:
        """Sample rate of the signals, in Hz."""
        return self._rate

    @property
    def hop(self) -> float:
        """Time between frames, in seconds."""
        return float(self._plan.hop_length) / self._rate

    @property
    def latency(self) -> float:
        """Length of a window in seconds: the wait for the first live frame."""
        return float(self._plan.win_length) / self._rate

    def frames(self, n_samples: int) -> int:
        """Frames that signals of `n_samples` samples give."""
        n = _whole("n_samples", n_samples)
        return int(self._plan.frames(n))

    def times(self, frames: int) -> np.ndarray:
        """Time stamps of frames 0 ... frames - 1 in seconds: the last sample that each used.

        The first sample of the signal is at time 0.
        """
        last = np.arange(frames, dtype=np.int64) * self._plan.hop_length + (self._plan.win_length - 1)
        return last / self._rate

    def __call__(self, samples: Any) -> BandRows:
        """Whole recordings -> band power.

        Parameters
        ----------
        samples : array (..., channels, time), NumPy array, torch tensor or nested list; float32, float64
            or int16, which is taken as it is. NaN where a sample is missing. Channels are independent of
            each other. A torch tensor that requires a gradient, lies on another device or is being traced
            goes through ``torch.ops.affekt.band_power``, or plain torch where there is none, and passes
            gradients back: none from frames that are not valid, values below `floor` and to segments with
            a missing sample; through a median, to the one or two segments in the middle of each bin.

        Returns
        -------
        BandRows : `power` (..., frames, channels, bands) and `valid` (..., frames, channels), of the
            library that `samples` came from. float64 for float64 input, computed in float64; float32
            otherwise. Recordings shorter than a window give 0 frames. Memory beyond the result does not grow
            with the length.

        Raises
        ------
        InputError : another dtype, fewer than 2 dimensions, a sample that is infinite or so large that its
            power could overflow.
        """
        found = by_op("band_power", samples, self._text, audio=False)
        if found is not None:
            return BandRows(*found)
        power, valid = self._plan.compute(as_numpy(samples))
        return BandRows(like(samples, power), like(samples, valid))

    def stream(
        self, channels: int, *, dtype: Any = np.float32, capacity: int | None = None
    ) -> BandPowerStream:
        """Live form of the same features: push samples, take frames, bit-equal to the offline call.

        Parameters
        ----------
        channels : how many, from 1 to 65536.
        dtype : float32 or float64, of the computation and the result.
        capacity : samples that the stream's buffer holds beyond one window; None: one second. It bounds
            memory, not the size of a push.
        """
        return BandPowerStream(self, channels, dtype=dtype, capacity=capacity)

    def __repr__(self) -> str:
        o = self.options
        shown = [f"sample_rate={self._rate:g}", f"bands={self.bands}"]
        shown += [f"{k}={v!r}" for k, v in o.items() if k not in ("sample_rate", "bands", "taper")]
        return f"BandPower({', '.join(shown)})"


class BandPowerStream:
    """Live band power: push any number of samples, take the frames that they finish.

    Any division of a signal into pushes gives the same bits as one push, and as the offline call. One stream
    may be shared between threads; each push is atomic. Made by `BandPower.stream`.
    """

    def __init__(
        self, features: BandPower, channels: int, *, dtype: Any = np.float32, capacity: int | None = None
    ) -> None:
        kinds: dict[str, Any] = {"float32": _core.BandPowerStream32, "float64": _core.BandPowerStream64}
        try:
            kind = kinds[np.dtype(dtype).name]
        except (KeyError, TypeError):
            raise InputError(f"dtype: expected float32 or float64, got {dtype!r}") from None
        size = round(features.sample_rate) if capacity is None else _whole("capacity", capacity)
        self._features = features
        self._stream = kind(features._plan, _whole("channels", channels), max(1, size))

    @property
    def frames(self) -> int:
        """Frames handed out since the start or the last reset."""
        return int(self._stream.frames)

    @property
    def samples(self) -> int:
        """Samples of each channel taken since the start or the last reset."""
        return int(self._stream.samples)

    def push(self, samples: Any) -> BandRows:
        """Take samples (channels, time) and return the frames that they finish.

        float64 samples are rounded first where the stream computes in float32; NaN is a missing sample. On
        an error nothing is taken.

        Returns
        -------
        BandRows : `power` (k, channels, bands) and `valid` (k, channels), k >= 0.

        Raises
        ------
        InputError : another dtype or shape, a sample that is infinite or so large that its power could
            overflow.
        """
        return BandRows(*self._stream.push(as_numpy(samples)))

    def reset(self) -> None:
        """Back to the start, for the next signal."""
        self._stream.reset()

    def time(self, frame: int) -> float:
        """Time in seconds of the last sample that a frame used; the first sample of the signal is at 0."""
        return float(self._stream.last_sample(frame)) / self._features.sample_rate

    def __repr__(self) -> str:
        return f"BandPowerStream({self._features!r}, frames={self.frames}, samples={self.samples})"


class _Edges(list[tuple[str, float, float]]):
    """Bands that are complete already: (name, low, high)."""


def _whole(name: str, value: Any) -> int:
    try:
        n = operator.index(value)
    except TypeError:
        raise InputError(f"{name}: expected an integer, got {value!r}") from None
    if isinstance(value, (bool, np.bool_)) or not 0 <= n < 2**63:
        raise InputError(f"{name}: expected an integer of 0 or more, got {value!r}")
    return n


def _number(name: str, value: Any) -> float:
    plain = isinstance(value, (numbers.Real, np.number)) and not isinstance(value, (bool, np.bool_))
    if not plain or not math.isfinite(value):
        raise InputError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name}: expected a string, got {value!r}")
    return value


def _name(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, value)


def _window(name: str, window: Any) -> str | list[float]:
    """Return the name of a window function, or its values."""
    if isinstance(window, str):
        return window
    try:
        values = np.asarray(window, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty((0, 0))
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"{name}: expected a name or the values of a segment's window, got {window!r}")
    if not np.isfinite(values).all():
        raise InputError(f"{name}: expected finite values, got {values[~np.isfinite(values)][0]}")
    return list(values.tolist())


def _pair(name: str, value: Any) -> tuple[float, float]:
    try:
        low, high = value
    except (TypeError, ValueError):
        raise InputError(f"{name}: expected (low, high) in Hz, got {value!r}") from None
    return _number(name, low), _number(name, high)


def _edges(bands: Any) -> list[tuple[str, float, float]]:
    """Return (name, low, high) of each band."""
    if isinstance(bands, _Edges):
        return [(_text("bands", name), *_pair(f"bands: {name!r}", (low, high))) for name, low, high in bands]
    if bands is None:
        bands = BANDS
    if isinstance(bands, str):
        bands = [bands]
    if isinstance(bands, Mapping):
        items = [(_text("bands", name), edges) for name, edges in bands.items()]
    else:
        try:
            listed = list(bands)
        except TypeError:
            raise InputError(f"bands: expected names, a mapping or pairs, got {bands!r}") from None
        items = []
        for band in listed:
            if not isinstance(band, str):
                low, high = _pair("bands", band)
                items.append((f"{low:g}-{high:g} Hz", (low, high)))
            elif band in BANDS:
                items.append((band, BANDS[band]))
            else:
                raise InputError(f"bands: expected one of {', '.join(BANDS)}, got {band!r}")
    if not items:
        raise InputError("bands: expected one or more, got none")
    return [(name, *_pair(f"bands: {name!r}", edges)) for name, edges in items]
