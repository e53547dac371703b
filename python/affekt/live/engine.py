"""The live engine: push samples as they come, poll estimates as they become due."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from affekt import _core
from affekt._native import (
    Model,
    as_frames,
    as_model,
    as_seconds,
    as_signal,
    as_switch,
    listening,
    profile_of,
    start_from,
)
from affekt._profile import Profile
from affekt.detectors import Detector
from affekt.errors import InputError

__all__ = ["Engine", "Estimate", "Snapshot", "Switch"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the model says at one moment.

    Attributes
    ----------
    time : seconds on the pushes' clock, of the last sample that this estimate used; for a model with a clock,
        of its tick.
    sample : index of that sample, or tick, since the start.
    values : name -> value, all columns of the model in order (``valence``, ..., ``p_<emotion>``).
    probabilities : label -> probability over the categorical outputs; empty if there are none.
    valid : False where the model, or the engine's detector in its place, says that there was nothing to judge
        (no speech in its memory), when a value is not finite and when no input was there; such an estimate
        must not be used.
    present : input -> whether the estimate rests on it, for a model with a clock; else empty.
    confidence : in [0, 1], for a model whose card defines it; else None.
    latency : seconds from `time` to the newest sample that had been pushed when it was computed.
    """

    time: float
    sample: int
    values: dict[str, float]
    probabilities: dict[str, float]
    valid: bool
    present: dict[str, bool] = field(default_factory=dict)
    confidence: float | None = None
    latency: float = 0.0

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def __contains__(self, name: object) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)


class Switch(NamedTuple):
    """A call of `Engine.adapt`."""

    on: bool
    after: int
    """Estimates that had been given by then."""
    drained: bool
    """Whether all that was pushed had been computed by then."""


_OPTIONS = ("queue_s", "reanchor_s", "adapt", "wait_s", "dejitter_s")
CoreOptions = tuple[float | None, float, bool, float | None, float | None]


def core_options(queue_s: Any, reanchor_s: Any, adapt: Any, wait_s: Any, dejitter_s: Any) -> CoreOptions:
    """Options of an engine as the core takes them."""
    queue, wait, dejitter = (
        None if value is None else as_seconds(value, name)
        for name, value in (("queue_s", queue_s), ("wait_s", wait_s), ("dejitter_s", dejitter_s))
    )
    return queue, as_seconds(reanchor_s, "reanchor_s"), as_switch(adapt), wait, dejitter


class Snapshot:
    """An engine as it was at one moment, from `Engine.snapshot`."""

    def __init__(self, model: str, native: _core.Snapshot) -> None:
        self.model, self.native = model, native


class Engine:
    """A live session over a model, run by the C++ core.

    Parameters
    ----------
    model : path of a model file, the name of a shipped one, or a `Model` (shared, so that many sessions hold
        the weights once).
    queue_s : seconds of signal that may wait between `push` and `poll`, in (0, 3600]; None: 10, or for a
        model with a clock and a finite `wait_s`, that and 1 s or 2 samples of the slowest input.
    reanchor_s : seconds by which a push's time may differ from the sample count before the clock moves.
    profile : what is known of the speaker (`affekt.enrol`), for a model that adapts; `reset` returns to it.
        None starts from the average speaker of the training data.
    adapt : whether to go on learning how the speaker sounds; a model that does not adapt takes either.
    wait_s : for a model with a clock: how far the other inputs may be ahead before an estimate is given
        without an input that has not come to its time; None: the silence of the model's clock. Infinity waits
        for every input until `finish`. Otherwise `queue_s` must be at least that and 2 samples of every
        input.
    detector : what decides which estimates are valid: None for the model's own voice activity, a name of
        `affekt.detectors.list_detectors`, or an `affekt.detectors.Detector`. It runs inside `push`, in
        Python; `push` and `poll` then wait for each other.
    dejitter_s : half-life, in seconds of signal in [1, 1e6], of the regression that takes the jitter out of
        time stamps and follows the drift of an input's clock; see Notes. None: off.

    Notes
    -----
    Time: the first push sets the clock (0 if it names no time). From there sample counting rules; a push
    whose time differs from the count by more than `reanchor_s` moves the clock for its samples and all later
    ones, and is counted in `counters()`. The signal itself is taken as contiguous. Times that pushes name
    may not decrease; those of estimates step back where the clock moves back (an overlap). At most 64 moves
    wait for the estimates that pass them; one beyond those is made by a later push that still differs.

    For any chunking of the pushes the values equal those of `Model.run` on the same samples, bit for bit.
    One thread may push while another polls.

    With `dejitter_s` the samples are timed by a line fitted to the stamps, recursively and by least squares,
    a stamp's weight halving every `dejitter_s` seconds; with it off, by the first stamp and the nominal rate.
    Switch it on (90 s is a good value) where stamps are taken when data arrive and so jitter, or where the
    device's clock drifts against the common one; `reanchor_s` must then be above the jitter. It is off by
    default because stamps that a device or a file counts out itself are exact, and would only be blurred.
    Only stamps, not when they came or in which pieces, decide. Rows keep the times of their stamps.

    A model with a clock gives its estimates at multiples of the clock's period, each from the newest rows of
    its inputs at or before that time. An estimate is due when every input has come to its time, or is more
    than `wait_s` behind the one that is furthest. An input without samples for longer than the clock's
    silence is masked, and back with its first row. Every input may be pushed from a thread of its own; as
    long as nothing comes late (`counters`), results do not depend on the order of the pushes.

    Attributes
    ----------
    model : the `affekt.Model`.
    options : what it was made with, by name; a `Detector` as its name, ``adapt`` as `adapt` set it last.
    start : the profile that it starts from, or None.
    switches : calls of `adapt` so far, for a recording.

    Raises
    ------
    ModelFileError : see `affekt.load`. InputError : an option is out of range, or the profile belongs to
        another model, or the detector cannot be used: see `Model.run`. MissingExtraError : the detector's
        package is not installed.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Model,
        *,
        queue_s: float | None = None,
        reanchor_s: float = 0.1,
        profile: Profile | None = None,
        adapt: bool = True,
        detector: Detector | str | None = None,
        wait_s: float | None = None,
        dejitter_s: float | None = None,
    ) -> None:
        model = as_model(model)
        options = core_options(queue_s, reanchor_s, adapt, wait_s, dejitter_s)
        self._open(model, _core.Engine(model.native, *options), options, profile, detector)

    @classmethod
    def _session(
        cls, model: Model, native: _core.Engine, options: CoreOptions, profile: Profile | None
    ) -> Engine:
        """A session of a pool."""
        engine = cls.__new__(cls)
        engine._open(model, native, options, profile)
        return engine

    def _open(
        self,
        model: Model,
        native: _core.Engine,
        options: CoreOptions,
        profile: Profile | None = None,
        detector: Detector | str | None = None,
    ) -> None:
        self.model = model
        self._native = native
        self.start = profile
        start_from(self._native, self.model, profile)
        self._listener = listening(self.model, detector)
        self.options: dict[str, Any] = dict(zip(_OPTIONS, options, strict=True))
        if detector is not None:
            self.options["detector"] = detector if isinstance(detector, str) else detector.name
        self._invalid = 0  # by the listener
        self.switches: list[Switch] = []
        self._drained = False  # the last poll since the last push gave nothing
        self._columns = self.model.columns
        self._modalities = {str(spec["name"]): spec for spec in self.model.inputs}
        self._probabilities = [
            (label, output["offset"] + i)
            for output in self.model.outputs
            if output["kind"] == "categorical"
            for i, label in enumerate(output["labels"])
        ]

    def push(self, modality: str, samples: Any, time: float | None = None) -> int:
        """Queue samples of one modality.

        Parameters
        ----------
        modality : name of one of the model's inputs, customarily ``"audio"``.
        samples : (time,) float32 or float64 in [-1, 1], or int16; for an input of several channels
            (channel, time), for rows (time, feature).
        time : seconds of the first sample; None continues where the last push ended.

        Returns
        -------
        int : how many samples were taken; fewer than given when the queue is full: `poll`, then push the
            rest.

        Raises
        ------
        InputError : unknown modality; wrong shape or type; a sample or time that is not finite; a sample
            beyond +-1e6; a time smaller than the previous push's; push after `finish`. Nothing is taken then.
        Exception : what the detector raises. From then on `push` and `poll` raise AffektError until `reset`.
        """
        modality = self._input(modality)
        if time is not None:
            try:
                time = float(time)
            except (TypeError, ValueError) as error:
                raise InputError(f"time: expected seconds or None, got {time!r}") from error
        spec = self._modalities.get(modality)
        signal = as_signal(samples) if spec is None else as_frames(samples, spec)  # the core refuses the name
        self._drained = False
        if self._listener is None:
            return int(self._native.push(modality, signal, time))
        with self._listener.lock:  # no estimate may come out before the detector has heard its samples
            taken = int(self._native.push(modality, signal, time))
            self._listener.hear(signal[:taken])
        return taken

    def _input(self, modality: Any) -> str:
        """`modality` as a name that the core takes; it says itself whether the model has such an input."""
        if not isinstance(modality, str):
            raise InputError(f"modality: expected a name, got {type(modality).__name__}")
        if not modality.isascii() and modality not in self._modalities:  # the core takes no lone surrogate
            listens = ", ".join(sorted(self._modalities))
            raise InputError(f"the model has no input {modality!r}; it listens to: {listens}")
        return modality

    def poll(self) -> Estimate | None:
        """Compute until the next estimate is due or the queue is empty; the estimate, or None."""
        if self._listener is None:
            result = self._native.poll()
        else:
            with self._listener.lock:
                result = self._native.poll()
                if result is not None:
                    _, sample, row, valid, *_ = result
                    valid = self._listener.valid(sample, valid) and all(map(math.isfinite, row.tolist()))
                    self._invalid += not valid
                    result = (*result[:3], valid, *result[4:])
        self._drained = result is None
        if result is None:
            return None
        time, sample, row, valid, present, confidence, latency = result
        row = row.tolist()
        return Estimate(
            time=time,
            sample=sample,
            values=dict(zip(self._columns, row, strict=True)),
            probabilities={label: row[at] for label, at in self._probabilities},
            valid=valid,
            present=dict(zip(self._modalities, present, strict=True)) if present else {},
            confidence=confidence,
            latency=latency,
        )

    def finish(self, modality: str | None = None) -> None:
        """No more samples will come: `poll` gives the rest, the last estimate perhaps over a partial hop.

        With `modality`, none of that input: estimates do not wait for it any more, and it falls silent as any
        input does.

        Raises
        ------
        InputError : the model has no such input.
        """
        self._native.finish(None if modality is None else self._input(modality))

    def reset(self) -> None:
        """Back to the start of a recording and to the profile; the clock and the counters too."""
        self.switches.clear()
        self._drained = False
        if self._listener is None:
            self._native.reset()
            return
        with self._listener.lock:
            self._listener.reset()
            self._native.reset()
            self._invalid = 0

    def snapshot(self) -> Snapshot:
        """The engine as it is now: states, queues, clocks, counters, options; estimates not polled yet stay
        in it.

        Raises
        ------
        InputError : the engine has a detector, whose state is its own.
        """
        self._without_detector()
        return Snapshot(self.model.hash, self._native.snapshot())

    def restore(self, snapshot: Snapshot) -> None:
        """Back to a snapshot, of this engine or another over the same model.

        Raises
        ------
        InputError : not a snapshot, one of another model, or the engine has a detector.
        """
        self._without_detector()
        if not isinstance(snapshot, Snapshot):
            raise InputError(f"snapshot: expected a Snapshot, got {type(snapshot).__name__}")
        self._native.restore(snapshot.native)

    def _without_detector(self) -> None:
        if self._listener is not None:
            raise InputError(
                "snapshot: an engine with a detector has none, because the detector keeps a state"
            )

    def profile(self) -> Profile:
        """What the model knows of the speaker by now.

        Samples are computed in blocks, so this may be ahead of the estimate polled last; once `poll` has
        given None it rests on all that was pushed.

        Raises
        ------
        InputError : the model does not adapt.
        """
        return profile_of(self._native, self.model)

    def adapt(self, on: bool) -> None:
        """Go on learning how the speaker sounds, or stop, from the next block that is computed.

        What is known stays in use either way.
        """
        self._native.set_adapting(as_switch(on))
        self.options["adapt"] = on
        self.switches.append(Switch(on, int(self._native.counters()["estimates"]), self._drained))

    def latency(self) -> float:
        """Longest wait in seconds of signal from a sample to the next estimate, the first included.

        The look-ahead, plus the signal before the first estimate or the hop between estimates, whichever is
        longer. Computing time comes on top.
        """
        return float(self._native.latency())

    def counters(self, modality: str | None = None) -> dict[str, int]:
        """Since the start: samples taken and refused, pushes rejected, moves of the clock, stamps that went
        into the regression (`dejitter_s`), estimates, and how many of these were not valid.

        For a model with a clock also rows left out as duplicates, samples that came too late for their
        estimates, times that an input fell silent, and ticks that were not waited for (overdue). With
        `modality` those of one input, `estimates` being the ones that rest on it.

        Raises
        ------
        InputError : the model has no such input.
        """
        if modality is not None:
            if modality not in self._modalities:
                raise InputError(f"modality: expected one of {', '.join(self._modalities)}, got {modality!r}")
            return dict(self._native.counters(modality))
        counted = dict(self._native.counters())
        return counted if self._listener is None else {**counted, "invalid": self._invalid}

    def __repr__(self) -> str:
        return f"<affekt.live.Engine over {self.model.name!r}, {self.counters()}>"
