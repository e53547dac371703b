"""Log-mel, MFCC and spectrograms: thin faces of `affekt::FrontEnd` and `affekt::Spectrogram`."""

from __future__ import annotations

import json
import math
import numbers
import operator
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from affekt import _core
from affekt.errors import InputError, NotStreamableError
from affekt.features._signals import as_numpy, by_op, like

__all__ = ["FeatureStream", "LogMel", "Mfcc", "PowerSpectrogram", "Stft"]

_Self = TypeVar("_Self", bound="_Acoustic")
_SelfSpectral = TypeVar("_SelfSpectral", bound="_Spectral")
_INTEGERS = {"n_fft", "win_length", "hop_length", "n_mels", "n_mfcc", "deltas", "delta_width"}
_SWITCHES = {"periodic", "remove_dc", "center", "drop_last"}


def _plain(name: str, value: Any) -> Any:
    """One option as JSON can hold it; NumPy scalars become Python's."""
    if value is None or isinstance(value, str):
        return value
    if name in _SWITCHES:
        if not isinstance(value, (bool, np.bool_)):
            raise InputError(f"{name}: expected True or False, got {value!r}")
        return bool(value)
    if isinstance(value, (bool, np.bool_)):
        raise InputError(f"{name}: expected a number, got {value!r}")
    if name in _INTEGERS:
        try:
            return operator.index(value)
        except TypeError:
            raise InputError(f"{name}: expected an integer, got {value!r}") from None
    if not isinstance(value, (numbers.Real, np.number)) or not math.isfinite(value):
        raise InputError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


class _Frames:
    """What everything that cuts a signal into frames shares: the options and the times."""

    _plan: Any
    _options: dict[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """Every option with its default filled in, as plain values that JSON can hold (a copy)."""
        return dict(self._options)

    @property
    def sample_rate(self) -> float:
        """Sample rate of the signals, in Hz."""
        return float(self._options["sample_rate"])

    @property
    def hop(self) -> float:
        """Time between rows, in seconds."""
        return float(self._options["hop_length"]) / self.sample_rate

    def frames(self, n_samples: int) -> int:
        """Rows that a signal of `n_samples` samples gives; none for an empty signal."""
        n = operator.index(n_samples)
        if n < 0:
            raise InputError(f"n_samples: expected 0 or more, got {n}")
        return int(self._plan.frames(n))

    @property
    def latency(self) -> float:
        """Length of a frame in seconds: the wait for the first row."""
        return self._span / self.sample_rate

    @property
    def _span(self) -> int:
        return int(self._options[self._options["span"]])

    def times(self, frames: int) -> np.ndarray:
        """Time stamps of rows 0 ... frames - 1 in seconds: the last sample that each row used.

        The first sample of the signal is at time 0. A centred row reaches past its centre, and its stamp
        says so. The frame's last sample counts, also where a shorter window leaves it out or it lies in the
        padding.
        """
        o = self._options
        if not o["center"]:
            origin = 0
        elif o["span"] == "n_fft":
            origin = -(o["n_fft"] // 2)
        else:
            origin = o["hop_length"] // 2 - o["win_length"] // 2
        last = np.arange(frames, dtype=np.int64) * o["hop_length"] + (origin + self._span - 1)
        return last / self.sample_rate

    def __repr__(self) -> str:
        shown = {
            k: v for k, v in self._options.items() if k == "sample_rate" or v != _DEFAULTS.get(k, object())
        }
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._options == other._options

    def __hash__(self) -> int:
        return hash((type(self), json.dumps(self._options, sort_keys=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._options)


class _Acoustic(_Frames):
    """What LogMel and Mfcc share: the plan, the call, the stream."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        text = json.dumps({name: _plain(name, value) for name, value in options.items()})
        self._plan = _core.FrontEnd(text)
        self._text: str = self._plan.options
        self._options: dict[str, Any] = json.loads(self._text)
        if self._plan.empty_filters:
            warnings.warn(
                f"n_mels={self._options['n_mels']}: {self._plan.empty_filters} of the mel filters contain no "
                f"bin of a transform of n_fft={self._options['n_fft']} and only give the floor; use fewer "
                "filters or a longer transform",
                UserWarning,
                stacklevel=3,
            )

    @classmethod
    def from_options(cls: type[_Self], options: Mapping[str, Any]) -> _Self:
        """Build from the dictionary that `options` gave, for instance out of a model card.

        Raises
        ------
        InputError : an option is unknown or out of its range.
        """
        self = cls.__new__(cls)
        _Acoustic.__init__(self, options)
        is_mfcc = self._options["n_mfcc"] > 0
        if is_mfcc != issubclass(cls, Mfcc):
            other = "Mfcc" if is_mfcc else "LogMel"
            raise InputError(f"n_mfcc: these options belong to {other}, got n_mfcc={self._options['n_mfcc']}")
        return self

    @property
    def num_features(self) -> int:
        """Columns of a row."""
        return int(self._plan.features)

    @property
    def streamable(self) -> bool:
        """Whether `.stream()` works, that is, whether every step is causal."""
        return not self._plan.not_streamable

    def __call__(self, samples: Any, *, out: np.ndarray | None = None) -> Any:
        """Whole signals -> features.

        Parameters
        ----------
        samples : array (..., time), NumPy array, torch tensor or nested list; float32, float64 or int16
            Audio at full scale 1; int16 is taken as ``x / 32768``. Any strides are accepted, and nothing is
            copied while neighbouring samples lie together. Each signal is independent of the others in the
            batch. A tensor with ``requires_grad`` passes gradients back to the samples.
        out : where the result goes, an array as `Returns` says, C-contiguous and apart from `samples`;
            None: a new one

        Returns
        -------
        array (..., frames, features), of the library that `samples` came from; `out` if it was given
            float64 for float64 input, computed in float64; float32 otherwise. A signal shorter than one
            frame gives 0 rows if frames are not centred; an empty one always does.

        Raises
        ------
        InputError : another dtype, a 0-dimensional input, a sample that is NaN or infinite (with its
            index), values so large that their power overflows, fewer rows than ``delta_width`` with
            ``delta_mode="interp"``; an `out` that does not fit.
        """
        if out is not None:
            return self._plan.compute(as_numpy(samples), out)
        found = by_op("acoustic", samples, self._text)
        return like(samples, self._plan.compute(as_numpy(samples))) if found is None else found

    def batch(self, signals: Sequence[Any]) -> list[Any]:
        """Signals of any lengths -> the features of each, with the bits that each gives alone.

        The work is shared between up to `affekt.set_num_threads` threads, also within a signal; what takes
        less than about 2 ms stays on the caller.

        Parameters
        ----------
        signals : sequence of signals (time,), each as for a call, all of one dtype

        Returns
        -------
        list of arrays (frames, features), each of the library that its signal came from
            An empty sequence gives an empty list.

        Raises
        ------
        InputError : as for a call; the message names the signal, as in ``signals[3]``.
        """
        if isinstance(signals, (str, bytes)) or not isinstance(signals, Sequence):
            if getattr(signals, "ndim", 0) < 2:
                raise InputError(
                    f"signals: expected a sequence of signals (time,), got {type(signals).__name__}"
                )
            signals = list(signals)
        rows = self._plan.compute_batch([as_numpy(signal) for signal in signals])
        return [like(signal, result) for signal, result in zip(signals, rows, strict=True)]

    def stream(self, capacity: int | None = None) -> FeatureStream:
        """Live form of the same features: push samples, take rows, bit-equal to the offline call.

        Parameters
        ----------
        capacity : samples that the stream's buffer holds beyond one frame; None: one second. It bounds
            memory, not the size of a push.

        Raises
        ------
        NotStreamableError : an option needs samples of the future or the whole clip; the message says
            which.
        """
        return FeatureStream(self, capacity)


def _restore(cls: Any, options: dict[str, Any]) -> Any:
    with warnings.catch_warnings():  # said once already, where the object was made
        warnings.simplefilter("ignore", UserWarning)
        return cls.from_options(options)


class LogMel(_Acoustic):
    r"""Log-mel spectrogram in the conventions of librosa, Kaldi or Whisper, offline and live.

    Row :math:`r` of the result is

    .. math::
        y_{r,m} = \log\Big(\max\big(\textstyle\sum_k W_{m,k}\,|X_r[k]|^{p},\ \text{floor}\big)\Big), \qquad
        X_r[k] = \sum_{i=0}^{w-1} h_i\, x_{rH+o+i}\, e^{-2\pi\mathrm{i}\,ik/N}

    with transform length :math:`N` = `n_fft` (any integer), window :math:`h` of `win_length` samples, hop
    :math:`H`, exponent :math:`p` = `power` and triangular mel filters :math:`W`. By default a frame spans
    `n_fft` samples with the window in its middle, frames start at sample 0 and only whole frames count,
    which makes every row causal.

    Parameters
    ----------
    sample_rate : Hz.
    n_fft : transform length in samples, 1 to 1048576; primes are fine.
    win_length : samples under the window, at most `n_fft`; None: `n_fft`.
    hop_length : samples between rows; None: ``win_length // 4``.
    n_mels : number of mel filters.
    mel_scale : ``"slaney"`` (librosa's default: linear to 1 kHz, then logarithmic), ``"htk"``
        (2595 log10(1 + f/700)) or ``"kaldi"`` (1127 ln(1 + f/700), triangles drawn over mel instead of
        frequency, without the Nyquist bin).
    mel_norm : ``"slaney"``: every filter has unit area over frequency; None: unit height.
    f_min, f_max : Hz; None: half the sample rate.
    power : exponent of the magnitude, 0.001 to 4; 2: power, 1: magnitude.
    window : ``"hann"``, ``"hamming"``, ``"povey"`` (hann to the power 0.85), ``"blackman"`` or
        ``"rectangular"``.
    periodic : periodic instead of symmetric window; None: symmetric for ``"povey"``, else periodic.
    center : False: whole frames only, row r from sample ``r * hop_length`` on. True: the signal is padded
        so that row r is centred on that sample (``span="n_fft"``, as in librosa) or on ``(r + 1/2) *
        hop_length`` (``span="win_length"``, Kaldi's ``snip_edges=false``).
    pad_mode : what a centred frame finds outside the signal: ``"constant"`` (zeros), ``"reflect"``,
        ``"edge"`` or ``"symmetric"`` (Kaldi's).
    span : ``"n_fft"`` or ``"win_length"``: the length of a frame. The latter is Kaldi's framing and the
        lowest latency.
    drop_last : leave out the last row, as Whisper does.
    log : ``"db"``: (20 / power) log10(v / ref), so that magnitudes and powers give the same decibels;
        ``"ln"``; ``"log10"``; None: no logarithm.
    floor : smallest value that enters the logarithm, 1.2e-38 to 1e30; None: ``1e-5 ** power`` (librosa's
        amin). Without a logarithm 0 to 1e30; None: 0.
    ref : value at 0 dB, or ``"max"`` for the clip's maximum. With ``log="db"`` only.
    top_db : values further than this below the clip's maximum are raised to it; None: not. It is in
        decibels for every `log`; Whisper's "maximum - 8" of a log10 power is ``top_db=80``.
    log_shift, log_scale : ``y = (log + log_shift) * log_scale``; Whisper: 4 and 0.25.
    scale : factor on the samples; 32768 gives Kaldi's integer range.
    preemphasis : c in ``y[t] = x[t] - c x[t-1]``; 0: none.
    preemphasis_mode : ``"signal"``: over the signal, with x[-1] = 0 (librosa with ``zi=[0]``); ``"frame"``:
        inside each frame, with x[-1] = x[0] (Kaldi).
    remove_dc : subtract each frame's mean first (Kaldi).
    energy : ``"raw"`` (after the mean, before pre-emphasis and window) or ``"windowed"``: the natural
        logarithm of the frame's energy becomes the first column; None: not there.
    energy_floor : smallest energy.
    deltas : 0, 1 or 2: append first (and second) differences, so that a row holds 2 (3) times the columns.
    delta_width : rows that a difference looks at, odd.
    delta_mode : ``"interp"``: Savitzky-Golay fit with polynomial ends (``librosa.feature.delta``);
        ``"regression"``: HTK's formula with the edge rows repeated, second order from the first.

    Raises
    ------
    InputError : an option is unknown or out of its range; the message names it, the expectation and the
        value.

    Notes
    -----
    `center`, `drop_last`, ``ref="max"``, `top_db` and `deltas` need samples of the future or the whole
    clip. They work offline and make `.stream()` raise `NotStreamableError`; `whisper_live` is the causal
    sibling of `whisper`.

    Options differ from librosa's in two places on purpose: decibels of magnitudes (``power=1``) are those
    of ``amplitude_to_db``, and `top_db` and ``ref="max"`` look at each signal of a batch by itself.

    The results for float32 samples lie within 1e-6 of the clip's peak of a float64 computation, and on
    speech within 0.0025 dB wherever that is above -80 dB of the peak. Transforms run in float32, except for
    float64 samples, magnitudes under Kaldi's filters and lengths with a prime factor above 31.

    References
    ----------
    Stevens, Volkmann, Newman (1937), "A scale for the measurement of the psychological magnitude pitch".
    Slaney (1998), "Auditory Toolbox", Technical Report 1998-010. Young et al. (2006), "The HTK Book".
    Povey et al. (2011), "The Kaldi speech recognition toolkit". Radford et al. (2022), "Robust speech
    recognition via large-scale weak supervision" (Whisper).

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import LogMel
    >>> mel = LogMel(sample_rate=16000, n_mels=40)
    >>> x = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> y = mel(x)
    >>> y.shape, y.dtype
    ((97, 40), dtype('float64'))
    >>> stream = mel.stream()
    >>> rows = [stream.push(block) for block in np.split(x.astype(np.float32), 100)]
    >>> np.array_equal(np.concatenate(rows), mel(x.astype(np.float32)))
    True
    """

    def __init__(
        self,
        *,
        sample_rate: float,
        n_fft: int = 512,
        win_length: int | None = 400,
        hop_length: int | None = 160,
        n_mels: int = 80,
        mel_scale: str = "slaney",
        mel_norm: str | None = "slaney",
        f_min: float = 0.0,
        f_max: float | None = None,
        power: float = 2.0,
        window: str = "hann",
        periodic: bool | None = None,
        center: bool = False,
        pad_mode: str = "constant",
        span: str = "n_fft",
        drop_last: bool = False,
        log: str | None = "db",
        floor: float | None = None,
        ref: float | str = 1.0,
        top_db: float | None = None,
        log_shift: float = 0.0,
        log_scale: float = 1.0,
        scale: float = 1.0,
        preemphasis: float = 0.0,
        preemphasis_mode: str = "signal",
        remove_dc: bool = False,
        energy: str | None = None,
        energy_floor: float = 0.0,
        deltas: int = 0,
        delta_width: int = 9,
        delta_mode: str = "interp",
    ) -> None:
        arguments = dict(locals())
        super().__init__(_options(arguments))

    @classmethod
    def librosa(cls, *, sample_rate: float = 22050, n_mels: int = 128, **changes: Any) -> LogMel:
        """``librosa.power_to_db(librosa.feature.melspectrogram(...))`` with librosa's defaults.

        2048-point transform, hop 512, centred, decibels with ``top_db=80``. `changes` are options of the
        class.
        """
        return cls(**{**_LIBROSA, "sample_rate": sample_rate, "n_mels": n_mels, **changes})

    @classmethod
    def kaldi(cls, *, sample_rate: float = 16000, n_mels: int = 80, **changes: Any) -> LogMel:
        """Kaldi's ``compute-fbank-feats`` without dither.

        25 ms povey windows every 10 ms, natural logarithm.         Samples at full scale 1 are taken to
        Kaldi's integer range (``scale=32768``); pass ``scale=1`` where they are in that range already.
        Streamable. `changes` are options of the class; ``center=True, pad_mode="symmetric"`` gives
        ``snip_edges=false``.
        """
        return cls(**{**_kaldi(sample_rate), "n_mels": n_mels, **changes})

    @classmethod
    def whisper(cls, *, n_mels: int = 80, **changes: Any) -> LogMel:
        """Whisper's input.

        400-point transform every 160 samples at 16 kHz, log10, clamped 8 below the maximum, ``(y + 4) /
        4``. Whisper pads or trims its audio to 30 s first; do so before the call where the model expects
        it. The clamp looks at the whole clip, so this preset does not stream; see `whisper_live`.
        """
        return cls(**{**_WHISPER, **_WHISPER_CLIP, "n_mels": n_mels, **changes})

    @classmethod
    def whisper_live(cls, *, n_mels: int = 80, **changes: Any) -> LogMel:
        """The causal sibling of `whisper`: same filters, logarithm and scale; no centring, clamp or cut.

        Row r >= 2 equals row r of `whisper` on the signal without its first 200 samples, except where the
        clamp acts.
        """
        return cls(**{**_WHISPER, "n_mels": n_mels, **changes})


class Mfcc(_Acoustic):
    r"""Mel-frequency cepstral coefficients: the type-II DCT of `LogMel`, liftered.

    .. math::
        c_n = \big(1 + \tfrac{L}{2}\sin\tfrac{\pi (n + o)}{L}\big)\, s_n
        \sum_{m=0}^{M-1} y_m \cos\frac{\pi n (2m+1)}{2M}

    with :math:`s_0 = \sqrt{1/M}`, :math:`s_n = \sqrt{2/M}` for ``dct_norm="ortho"`` and :math:`s_n = 2` for
    None.

    Parameters
    ----------
    n_mfcc : coefficients to keep, 1 to `n_mels`.
    n_mels : mel filters below them.
    dct_norm : ``"ortho"`` (librosa, Kaldi) or None.
    lifter : L, 0: none.
    lifter_mode : ``"librosa"``: o = 1; ``"htk"``: o = 0, as in HTK and Kaldi.
    energy : ``"raw"`` or ``"windowed"``: the log energy takes the place of :math:`c_0` (Kaldi's
        ``use_energy``).
    others : as in `LogMel`.

    Raises
    ------
    InputError : an option is unknown or out of its range; the message names it, the expectation and the
        value.

    References
    ----------
    Davis, Mermelstein (1980), "Comparison of parametric representations for monosyllabic word recognition
    in continuously spoken sentences". Young et al. (2006), "The HTK Book".

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import Mfcc
    >>> Mfcc(sample_rate=16000, deltas=2)(np.zeros(16000)).shape
    (97, 39)
    """

    def __init__(
        self,
        *,
        sample_rate: float,
        n_mfcc: int = 13,
        n_fft: int = 512,
        win_length: int | None = 400,
        hop_length: int | None = 160,
        n_mels: int = 40,
        mel_scale: str = "slaney",
        mel_norm: str | None = "slaney",
        f_min: float = 0.0,
        f_max: float | None = None,
        power: float = 2.0,
        window: str = "hann",
        periodic: bool | None = None,
        center: bool = False,
        pad_mode: str = "constant",
        span: str = "n_fft",
        drop_last: bool = False,
        log: str | None = "db",
        floor: float | None = None,
        ref: float | str = 1.0,
        top_db: float | None = None,
        log_shift: float = 0.0,
        log_scale: float = 1.0,
        dct_norm: str | None = "ortho",
        lifter: float = 0.0,
        lifter_mode: str = "librosa",
        scale: float = 1.0,
        preemphasis: float = 0.0,
        preemphasis_mode: str = "signal",
        remove_dc: bool = False,
        energy: str | None = None,
        energy_floor: float = 0.0,
        deltas: int = 0,
        delta_width: int = 9,
        delta_mode: str = "interp",
    ) -> None:
        arguments = dict(locals())
        if n_mfcc == 0:
            raise InputError("n_mfcc: expected an integer from 1 to n_mels, got 0")
        super().__init__(_options(arguments))

    @classmethod
    def librosa(cls, *, sample_rate: float = 22050, n_mfcc: int = 20, **changes: Any) -> Mfcc:
        """``librosa.feature.mfcc`` with librosa's defaults: 20 of 128 centred mel bands, ``top_db=80``."""
        return cls(**{**_LIBROSA, "sample_rate": sample_rate, "n_mels": 128, "n_mfcc": n_mfcc, **changes})

    @classmethod
    def kaldi(cls, *, sample_rate: float = 16000, n_mfcc: int = 13, n_mels: int = 23, **changes: Any) -> Mfcc:
        """Kaldi's ``compute-mfcc-feats`` without dither: c0 is the raw log energy, lifter 22. Streamable.

        See `LogMel.kaldi` for the range of the samples. ``energy=None`` is Kaldi's ``use_energy=false``.
        """
        own = {"n_mels": n_mels, "n_mfcc": n_mfcc, "lifter": 22.0, "lifter_mode": "htk", "energy": "raw"}
        return cls(**{**_kaldi(sample_rate), **own, **changes})


class _Spectral(_Frames):
    """What Stft and PowerSpectrogram share."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        plain = {name: _plain(name, value) for name, value in options.items()}
        rate = plain["sample_rate"]
        if not isinstance(rate, float) or not 0 < rate <= 1e12:
            raise InputError(f"sample_rate: expected a positive number of Hz, got {rate!r}")
        self._plan = _core.Spectrogram(json.dumps(plain))
        self._options = {**plain, "span": "n_fft"}
        self._text = json.dumps(self._options)

    @classmethod
    def from_options(cls: type[_SelfSpectral], options: Mapping[str, Any]) -> _SelfSpectral:
        """Build from the dictionary that `options` gave.

        Raises
        ------
        InputError : an option is unknown or out of its range.
        """
        known = {k: v for k, v in options.items() if k != "span"}
        try:
            return cls(**known)
        except TypeError as error:
            raise InputError(f"options: {error}") from None

    @property
    def num_bins(self) -> int:
        """Columns of a row: ``n_fft // 2 + 1``."""
        return int(self._plan.bins)

    @property
    def frequencies(self) -> np.ndarray:
        """Frequency of each bin in Hz."""
        return np.arange(self.num_bins) * (self.sample_rate / self._options["n_fft"])


class Stft(_Spectral):
    r"""Short-time Fourier transform, complex, one-sided, for any transform length.

    .. math::
        X_r[k] = \sum_{i=0}^{N-1} h_i\, x_{rH+i-o}\, e^{-2\pi\mathrm{i}\,ik/N}, \qquad k = 0 \ldots N/2

    with transform length :math:`N` = `n_fft`, hop :math:`H`, the window :math:`h` of `win_length` samples in
    the middle of the frame, zeros around it, and :math:`o = N/2` (rounded down) if frames are centred, else
    0: ``librosa.stft`` and ``torch.stft``, with time before frequency.

    Parameters
    ----------
    sample_rate : Hz; for the times and frequencies alone.
    n_fft : transform length in samples, 1 to 1048576; primes are fine.
    win_length : samples under the window, at most `n_fft`; None: `n_fft`.
    hop_length : samples between rows; None: ``win_length // 4``.
    window, periodic, center, pad_mode : as in `LogMel`.

    Raises
    ------
    InputError : an option is out of its range; the message names it, the expectation and the value.

    Notes
    -----
    float32 and int16 samples are transformed in float32, where `n_fft` (half of it, if even) has no prime
    factor above 31; else in float64, as float64 samples always are. Errors of float32 lie near 1e-7 of the
    largest bin.

    References
    ----------
    Allen, Rabiner (1977), "A unified approach to short-time Fourier analysis and synthesis".

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import Stft
    >>> stft = Stft(sample_rate=16000, n_fft=512, hop_length=160)
    >>> X = stft(np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000))
    >>> X.shape, X.dtype, float(stft.frequencies[np.abs(X[0]).argmax()])
    ((97, 257), dtype('complex128'), 1000.0)
    """

    def __init__(
        self,
        *,
        sample_rate: float,
        n_fft: int = 512,
        win_length: int | None = None,
        hop_length: int | None = None,
        window: str = "hann",
        periodic: bool | None = None,
        center: bool = False,
        pad_mode: str = "constant",
    ) -> None:
        super().__init__(_options(dict(locals())))

    def __call__(self, samples: Any, *, out: np.ndarray | None = None) -> Any:
        """Whole signals -> spectra.

        Parameters
        ----------
        samples : array (..., time), as in `LogMel`
        out : where the result goes, an array as `Returns` says, C-contiguous and apart from `samples`;
            None: a new one

        Returns
        -------
        array (..., frames, bins), of the library that `samples` came from; `out` if it was given
            complex128 for float64 input, complex64 otherwise.

        Raises
        ------
        InputError : another dtype, a 0-dimensional input, a sample that is NaN, infinite or so large that a
            power overflows (with its index), an `out` that does not fit.
        """
        if out is not None:
            return self._plan.spectra(as_numpy(samples), out)
        found = by_op("stft", samples, self._text)
        return like(samples, self._plan.spectra(as_numpy(samples))) if found is None else found


class PowerSpectrogram(_Spectral):
    r"""Power of a short-time Fourier transform, :math:`|X_r[k]|^p` of `Stft`.

    Parameters
    ----------
    power : exponent p of the magnitude, 0.001 to 4; 2: power, 1: magnitude.
    others : as in `Stft`.

    Raises
    ------
    InputError : an option is out of its range; the message names it, the expectation and the value.

    Examples
    --------
    >>> import numpy as np
    >>> from affekt.features import PowerSpectrogram
    >>> PowerSpectrogram(sample_rate=16000, n_fft=101)(np.zeros((2, 1000), np.float32)).shape
    (2, 36, 51)
    """

    def __init__(
        self,
        *,
        sample_rate: float,
        n_fft: int = 512,
        win_length: int | None = None,
        hop_length: int | None = None,
        window: str = "hann",
        periodic: bool | None = None,
        center: bool = False,
        pad_mode: str = "constant",
        power: float = 2.0,
    ) -> None:
        super().__init__(_options(dict(locals())))

    def __call__(self, samples: Any, *, out: np.ndarray | None = None) -> Any:
        """Whole signals -> powers.

        Parameters
        ----------
        samples : array (..., time), as in `LogMel`
        out : where the result goes, an array as `Returns` says, C-contiguous and apart from `samples`;
            None: a new one

        Returns
        -------
        array (..., frames, bins), of the library that `samples` came from; `out` if it was given
            float64 for float64 input, float32 otherwise.

        Raises
        ------
        InputError : as in `Stft`.
        """
        if out is not None:
            return self._plan.powers(as_numpy(samples), out)
        found = by_op("spectrogram", samples, self._text)
        return like(samples, self._plan.powers(as_numpy(samples))) if found is None else found


class FeatureStream:
    """Live features: push any number of samples, take the rows that they finish.

    Any division of a signal into pushes gives the same bits as one push, and as the offline call. One
    stream may be shared between threads; each push is atomic. Made by `LogMel.stream` and `Mfcc.stream`.
    """

    def __init__(self, features: LogMel | Mfcc | _Acoustic, capacity: int | None = None) -> None:
        reason = features._plan.not_streamable
        if reason:
            raise NotStreamableError(f"this front end cannot stream: {reason}")
        size = int(features.sample_rate) if capacity is None else operator.index(capacity)
        if not 0 <= size <= 2**32:
            raise InputError(f"capacity: expected a number of samples from 0 to 4294967296, got {capacity}")
        self._features = features
        self._stream = _core.FrontEndStream(features._plan, size)
        self._finished = False

    @property
    def rows(self) -> int:
        """Rows handed out since the start or the last reset."""
        return int(self._stream.rows)

    @property
    def samples(self) -> int:
        """Samples taken since the start or the last reset."""
        return int(self._stream.samples)

    def push(self, samples: Any) -> np.ndarray:
        """Take samples (time,) and return the rows (k, features) that they finish, k >= 0, as float32.

        float32 and int16 (taken as ``x / 32768``) are used as they are; float64 is rounded to float32
        first. On an error nothing is taken.

        Raises
        ------
        InputError : another dtype or shape, a sample that is NaN or infinite, a push after `finish`.
        """
        if self._finished:
            raise InputError("samples: the stream is finished; call reset() before the next signal")
        return self._stream.push(as_numpy(samples))

    def finish(self) -> np.ndarray:
        """End the signal and return the rows that are left, always (0, features).

        A row goes out as soon as its frame is whole, and a frame that never fills gives none, as in the
        offline call.
        """
        self._finished = True
        return np.empty((0, self._features.num_features), np.float32)

    def reset(self) -> None:
        """Back to the start, for the next signal."""
        self._stream.reset()
        self._finished = False

    def time(self, row: int) -> float:
        """Time in seconds of the last sample that row `row` used; the first sample of the signal is at 0."""
        return float(self._stream.last_sample(row)) / self._features.sample_rate

    def __repr__(self) -> str:
        return f"FeatureStream({self._features!r}, rows={self.rows}, samples={self.samples})"


_DEFAULTS: dict[str, Any] = json.loads(_core.FrontEnd("{}").options)

_LIBROSA: dict[str, Any] = {
    "n_fft": 2048,
    "win_length": 2048,
    "hop_length": 512,
    "center": True,
    "top_db": 80.0,
}
_WHISPER: dict[str, Any] = {
    "sample_rate": 16000,
    "n_fft": 400,
    "win_length": 400,
    "hop_length": 160,
    "log": "log10",
    "floor": 1e-10,
    "log_shift": 4.0,
    "log_scale": 0.25,
}
_WHISPER_CLIP: dict[str, Any] = {"center": True, "pad_mode": "reflect", "drop_last": True, "top_db": 80.0}


def _kaldi(sample_rate: float) -> dict[str, Any]:
    rate = _plain("sample_rate", sample_rate)
    if not isinstance(rate, float) or not 0 < rate <= 1e8:
        raise InputError(f"sample_rate: expected a positive number of Hz, at most 1e8, got {sample_rate!r}")
    width = max(1, int(rate * 0.025))
    return {
        "sample_rate": rate,
        "n_fft": 1 << (width - 1).bit_length(),
        "win_length": width,
        "hop_length": max(1, int(rate * 0.010)),
        "window": "povey",
        "span": "win_length",
        "scale": 32768.0,
        "preemphasis": 0.97,
        "preemphasis_mode": "frame",
        "remove_dc": True,
        "mel_scale": "kaldi",
        "mel_norm": None,
        "f_min": 20.0,
        "log": "ln",
        "floor": float(np.finfo(np.float32).eps),
    }


def _options(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of a constructor -> options of the core."""
    options = {k: v for k, v in arguments.items() if k not in ("self", "__class__")}
    for name in ("sample_rate", "n_fft", "n_mels"):
        if options.get(name, 0) is None:
            raise InputError(f"{name}: expected a number, got None")
    if options["win_length"] is None:
        options["win_length"] = options["n_fft"]
    if options["hop_length"] is None:
        options["hop_length"] = max(1, _plain("win_length", options["win_length"]) // 4)
    if options["periodic"] is None:
        options["periodic"] = options["window"] != "povey"
    return options
