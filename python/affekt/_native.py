"""The native model: load a model file, run it over a recording. numpy and the C++ core only."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from affekt import _core
from affekt._profile import Profile
from affekt.detectors import Detector, Listener, as_detector
from affekt.errors import AffektError, InputError

__all__ = [
    "Estimates",
    "FullPass",
    "Model",
    "get_cmake_dir",
    "get_include",
    "get_num_threads",
    "isa",
    "load",
    "set_num_threads",
]

MAX_INPUTS = _core.MAX_INPUTS  # of a node


def _installed(folder: str, file: str, what: str) -> str:
    """Folder beside the core of this installation, which must hold `file`."""
    found = Path(_core.__file__).parent / folder
    if not (found / file).is_file():
        raise AffektError(f"{what} should be in {found}, which this installation does not have")
    return str(found)


def get_include() -> str:
    """Folder of the C++ and C headers (`affekt/engine.hpp`, `affekt/affekt.h`) of this installation.

    Raises `AffektError` where there are none.
    """
    return _installed("include", "affekt/engine.hpp", "the C++ headers")


def get_cmake_dir() -> str:
    """Folder of the CMake package of this installation: `cmake -Daffekt_DIR=...` for `find_package(affekt)`.

    The target is `affekt::affekt`. `affekt.pc` for pkg-config lies in the folder `pkgconfig` beside it.
    Raises `AffektError` where there is none.
    """
    return _installed("cmake", "affektConfig.cmake", "the CMake package")


def isa() -> str:
    """Instruction set of the native kernels: `"baseline"` (SSE2 or NEON), `"avx2"` or `"avx512"`.

    The widest that the CPU has, or a narrower one named by the environment variable `AFFEKT_ISA` when affekt
    is imported. Results are bit-equal within one instruction set and differ between two by rounding.
    """
    return _core.isa()


def get_num_threads() -> int:
    """Most threads that one native call may use; see `set_num_threads`."""
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Let one native call use up to `n` threads, its caller's included.

    The number is 1 at first, or what the environment variable `AFFEKT_NUM_THREADS` says at import. Offline
    features and other batch work use the threads; live engines run on their caller alone. Results do not
    depend on `n`, which is apart from torch's own number.

    Raises
    ------
    InputError : `n` is not a whole number in [1, 1024].
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise InputError(f"n: expected a whole number of threads in [1, 1024], got {n!r}")
    if not 1 <= n <= 1024:
        raise InputError(f"n: expected a number of threads in [1, 1024], got {n}")
    _core.set_num_threads(int(n))


def load(path: str | os.PathLike[str] | None = None) -> Model:
    """Read a model file with the C++ core; nothing in the file is executed, and torch is not needed.

    Parameters
    ----------
    path : the file; the name of a model that ships with affekt (`affekt.weights.list_models`), "shipped" for
        the default one of these, where no file is called so; or None, for the default one, too. Where to read
        the licence of a shipped model is said once per process, in a line on standard error.

    Raises
    ------
    ModelFileError : the file is absent, truncated, corrupt, foreign, of another schema version or
        inconsistent; or none was named and this build carries none.
    """
    from affekt import weights

    if path is not None and not isinstance(path, str | os.PathLike):
        return Model(path)  # which says what it expects
    file, shipped = weights.locate(path)
    model = Model(file)
    if shipped is not None:
        weights.announce_licence(shipped, model.card.get("info", {}).get("licence", "not stated"))
    return model


def as_model(model: Model | str | os.PathLike[str], name: str = "model") -> Model:
    """`model` if it is one, else what `load` finds under that path or name; None is refused."""
    if isinstance(model, Model):
        return model
    if not isinstance(model, str | os.PathLike):
        raise InputError(
            f"{name}: expected a model, its file or the name of a shipped one, got {type(model).__name__}"
        )
    return load(model)


def as_signal(samples: Any, name: str = "samples") -> np.ndarray:
    """`samples` as a contiguous, aligned 1-D float32 or int16 array, or `InputError`.

    float64 becomes float32; int16 stays, for the core to take as x / 32768. Other types are refused because
    their scale would be a guess. Values are checked by the core.
    """
    try:
        array = np.asarray(samples)
    except Exception as error:
        raise InputError(f"{name}: expected an array of samples, got {type(samples).__name__}") from error
    if array.ndim != 1:
        raise InputError(f"{name}: expected one dimension (time,), got shape {array.shape}")
    kind = array.dtype.newbyteorder("=")
    if kind in (np.float32, np.int16):
        return np.require(array, kind, ["C", "A"])
    if kind == np.float64:
        with np.errstate(over="ignore"):  # becomes infinity, which the core reports with its place
            return np.require(array, np.float32, ["C", "A"])
    raise InputError(f"{name}: expected float32 or float64 in [-1, 1], or int16, got dtype {array.dtype}")


def as_frames(samples: Any, spec: Mapping[str, Any], name: str = "samples") -> np.ndarray:
    """`samples` of one input as the core takes them: (time,) or, of several values, (time, values).

    An input with one channel takes (time,); a signal of several (channel, time); rows (time, feature).
    float64 becomes float32; int16 is for audio alone. Raises `InputError`.
    """
    channels, rows = int(spec["channels"]), spec["kind"] == "rows"
    try:
        array = np.asarray(samples)
    except Exception as error:
        raise InputError(f"{name}: expected an array of samples, got {type(samples).__name__}") from error
    if channels == 1:
        if rows and array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        signal = as_signal(array, name)
    else:
        shape = f"(time, {channels})" if rows else f"({channels}, time)"
        if array.ndim != 2 or array.shape[1 if rows else 0] != channels:
            raise InputError(f"{name}: the input {spec['name']!r} takes shape {shape}, got {array.shape}")
        frames = array if rows else array.T
        signal = as_signal(np.ascontiguousarray(frames).reshape(-1), name).reshape(-1, channels)
    if signal.dtype == np.int16 and spec["kind"] != "audio":
        raise InputError(
            f"{name}: int16 samples are for audio; the input {spec['name']!r} takes floats in {spec['unit']}"
        )
    return signal


def _pieces(samples: Any, spec: Mapping[str, Any]) -> Iterator[tuple[float | None, np.ndarray]]:
    """What `Model.run` was given for one input, as (time or None, frames)."""
    name = f"samples[{spec['name']!r}]"
    if not isinstance(samples, list):
        yield from _with_values(None, as_frames(samples, spec, name), spec)
        return
    for i, piece in enumerate(samples):
        if not (isinstance(piece, tuple) and len(piece) == 2):
            raise InputError(f"{name}[{i}]: expected a pair (time, samples), got {type(piece).__name__}")
        try:
            time = float(piece[0])
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}[{i}]: expected a time in seconds, got {piece[0]!r}") from error
        yield from _with_values(time, as_frames(piece[1], spec, f"{name}[{i}]"), spec)


def _with_values(
    time: float | None, frames: np.ndarray, spec: Mapping[str, Any]
) -> Iterator[tuple[float | None, np.ndarray]]:
    """The frames; of rows the stretches between those that are NaN throughout, which are no rows."""
    if spec["kind"] != "rows":
        yield time, frames
        return
    known = ~np.isnan(frames).reshape(len(frames), int(spec["channels"])).all(axis=1)
    if known.all():
        yield time, frames
        return
    edges = np.flatnonzero(np.diff(known.astype(np.int8), prepend=0, append=0))
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        yield (time or 0.0) + begin / float(spec["rate"]), frames[begin:end]


class Estimates(tuple[np.ndarray, np.ndarray]):
    """Estimates along a recording: the pair ``times, values``, with more beside it.

    Attributes
    ----------
    times : (T,) float64, seconds from the first sample to the last sample that each estimate used.
    values : (T, columns) float32.
    valid : (T,) bool; False where the model, or the detector in its place, says that there was nothing to
        judge (no speech). The values are then what the graph gives all the same. True throughout for a model
        that does not say.
    profile : what the model knows of the speaker at the end, from `Model.run` of a model that adapts; else
        None.
    present : (T, inputs) bool, which inputs each estimate rests on, for a model with a clock; else None.
    confidence : (T,) float32 in [0, 1], for a model whose card defines it; else None.
    """

    valid: np.ndarray
    profile: Profile | None
    present: np.ndarray | None
    confidence: np.ndarray | None

    def __new__(
        cls,
        times: np.ndarray,
        values: np.ndarray,
        valid: np.ndarray,
        profile: Profile | None = None,
        present: np.ndarray | None = None,
        confidence: np.ndarray | None = None,
    ) -> Estimates:
        self = super().__new__(cls, (times, values))
        self.valid, self.profile = valid, profile
        self.present, self.confidence = present, confidence
        return self

    def __getnewargs__(self) -> tuple[Any, ...]:  # for copy and pickle
        return (*self, self.valid, self.profile, self.present, self.confidence)

    @property
    def times(self) -> np.ndarray:
        return self[0]

    @property
    def values(self) -> np.ndarray:
        return self[1]

    @classmethod
    def joined(cls, parts: Sequence[Estimates], profile: Profile | None = None) -> Estimates:
        """One after the other."""
        times, values, valid = (
            np.concatenate([part.__getnewargs__()[i] for part in parts]) for i in range(3)
        )
        return cls(times, values, valid, profile)


class Model:
    """A trained model, immutable and shareable between threads.

    Parameters
    ----------
    path : model file (schema 1 or 2).

    Attributes
    ----------
    card : dict, the model card: graph, inputs, outputs, latency, provenance.
    path : where it came from; None for `from_bytes`.
    sample_rate : of the audio input, Hz.
    inputs, outputs : lists of dicts with names, kinds, rates, labels.
    hash : SHA-256 of card and weights, hex: names this very model.
    adapts : names of the nodes that learn how the speaker sounds; empty for a model that does not adapt.
    columns : names of the values of an estimate: the labels of continuous outputs, ``p_<label>`` of
        categorical ones.
    timing : dict of seconds: ``first_estimate_s`` (signal before the first regular estimate), ``hop_s``
        (between estimates), ``context_s`` (older signal has no influence, but for what a model that adapts
        or looks for speech has learnt of speaker and noise), ``lookahead_s`` (0: causal). With a clock also
        ``clock_hz``, ``silence_s`` (an input without samples for longer is masked) and ``reach_s`` (signal
        from a sample to the row that shows it, of the slowest input).
    clocked : whether estimates come on a clock on which the inputs are joined.
    """

    _content: bytes  # of a model from bytes

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"path: expected a path, got {type(path).__name__}")
        if "\0" in os.fspath(path):
            raise InputError(f"path: expected no null character, got {path!r}")
        self._init(_core.Model.load(os.fsencode(path)), Path(path))
        self._file = os.path.abspath(path)  # where it is after a change of directory, too

    @classmethod
    def from_bytes(cls, content: bytes) -> Model:
        """The model in `content`, the bytes of a model file. Raises `ModelFileError`."""
        self = cls.__new__(cls)
        self._content = bytes(content)
        self._init(_core.Model.from_bytes(self._content), None)
        return self

    def _init(self, native: Any, path: Path | None) -> None:
        self.native = native
        self.path = path
        self.card: dict[str, Any] = json.loads(native.card)
        self.inputs: list[dict[str, Any]] = native.inputs
        self.outputs: list[dict[str, Any]] = native.outputs
        self.columns: list[str] = native.columns
        self.timing: dict[str, float] = native.timing
        self.clocked: bool = "clock_hz" in self.timing
        self.hash: str = native.hash
        self.adapts: list[str] = [str(n["name"]) for n in self.card["nodes"] if n["type"] == "adapt"]

    @property
    def name(self) -> str:
        return str(self.card["name"])

    @property
    def sample_rate(self) -> float:
        return float(self.inputs[0]["rate"])

    def tensors(self) -> dict[str, np.ndarray]:
        """The weights, float32 (int8 ones dequantised), by name.

        Read again from the file, because a model keeps them only in the form that it computes with.

        Raises
        ------
        ModelFileError : the file is gone or holds another model by now.
        """
        if self.path is None:
            return self.native.tensors_from_bytes(self._content)
        return self.native.tensors(os.fsencode(self._file))

    def full_pass(
        self, profile: Profile | None = None, adapt: bool = True, detector: Detector | str | None = None
    ) -> FullPass:
        """A pass over one recording that arrives in pieces, in memory that does not grow with its length.

        `profile`, `adapt`, `detector` : as for `run`.
        """
        if self.clocked:
            raise InputError(f"the model {self.name!r} has a clock: use run, or a live engine")
        return FullPass(self, profile, adapt, detector)

    def run(
        self,
        samples: Any,
        mode: Literal["full", "stream"] = "full",
        chunk: int | None = None,
        sample_rate: float | None = None,
        *,
        profile: Profile | None = None,
        adapt: bool = True,
        detector: Detector | str | None = None,
        dejitter_s: float | None = None,
    ) -> Estimates:
        """Estimates over one recording.

        Parameters
        ----------
        samples : (time,) float32 or float64 in [-1, 1], or int16, at the model's sample rate. For a model
            with a clock: input -> samples, a signal of several channels as (channel, time), rows as
            (time, feature), from 0 s on; or a list of pairs (time, samples) where there are gaps, or rows
            with times of their own. An input that is left out is masked. A row that is NaN throughout (no
            face was found) is a gap, as in `affekt.live.RowsSource`.
        mode : ``"full"`` runs blocks; ``"stream"`` goes through the live engine. Both give the same bits.
        chunk : samples per push in stream mode; default 20 ms.
        sample_rate : rate of `samples` in Hz, if known: checked, never converted.
        profile : what is known of the speaker, for a model that adapts; None starts from the average speaker
            of the training data.
        adapt : whether to learn from this recording while it runs. False uses the profile as it is; a model
            that does not adapt takes either.
        detector : what decides which estimates are valid: None for the model's own voice activity, a name
            of `affekt.detectors.list_detectors`, or an `affekt.detectors.Detector`, which says what else it
            does and does not do.
        dejitter_s : for a model with a clock, as for `affekt.live.Engine`: half-life, in seconds, of the
            regression through the times of an input's pieces; None: off.

        Returns
        -------
        Estimates : the pair ``times, values``, and ``.valid``, ``.profile`` beside it. There are none when
            the recording is shorter than one frame.

        Raises
        ------
        InputError : wrong shape, type or rate; a sample that is not finite (but for the rows above) or
            beyond +-1e6; unknown mode; a profile of another model; an unknown detector or one for another
            rate; a detector for a model whose card does not say how much speech an estimate needs.
        MissingExtraError : the detector's package is not installed.
        AffektError : the model produced a value that is not finite. Of a model with a band power, which says
            by NaN what cannot be told (a flat channel), such an estimate is invalid instead, as of
            `affekt.live.Engine`, which raises at none.
        """
        if self.clocked:
            if sample_rate is not None or detector is not None:
                raise InputError("sample_rate, detector: a model with a clock takes neither")
            half_life = None if dejitter_s is None else as_seconds(dejitter_s, "dejitter_s")
            return self._joined(samples, mode, chunk, profile, adapt, half_life)
        if dejitter_s is not None:
            raise InputError("dejitter_s: only a model with a clock takes times")
        signal = as_frames(samples, self.inputs[0])
        if sample_rate is not None and float(sample_rate) != self.sample_rate:
            raise InputError(
                f"sample_rate: the model {self.name!r} listens at {self.sample_rate:g} Hz, got "
                f"{sample_rate:g} Hz; resample first"
            )
        if mode == "full":
            if chunk is not None:
                raise InputError("chunk: belongs to mode='stream'; full mode chooses its own blocks")
            single = self.full_pass(profile, adapt, detector)
            parts = [single.feed(samples), single.finish()]
            return Estimates.joined(parts, single.profile() if self.adapts else None)
        if mode == "stream":
            return self._stream(signal, chunk, profile, adapt, detector)
        raise InputError(f"mode: expected 'full' or 'stream', got {mode!r}")

    def _joined(
        self,
        samples: Any,
        mode: str,
        chunk: int | None,
        profile: Profile | None,
        adapt: bool,
        dejitter_s: float | None,
    ) -> Estimates:
        """`run` of a model with a clock."""
        specs = {str(spec["name"]): spec for spec in self.inputs}
        if not isinstance(samples, Mapping):
            raise InputError(
                f"samples: the model {self.name!r} takes a mapping from its inputs, {', '.join(specs)}, to "
                f"samples, got {type(samples).__name__}"
            )
        for name in samples:
            if name not in specs:
                raise InputError(
                    f"samples: the model has no input {name!r}; it listens to: {', '.join(specs)}"
                )
        pieces = {name: list(_pieces(value, specs[name])) for name, value in samples.items()}
        if mode == "full":
            if chunk is not None:
                raise InputError("chunk: belongs to mode='stream'; full mode chooses its own blocks")
            single = _core.FullPass(self.native, as_switch(adapt), dejitter_s)
            start_from(single, self, profile)
            for name, parts in pieces.items():
                for time, frames in parts:
                    single.push(name, frames, time)
            times, values, valid, present, confidence = single.drain(True)
            known = profile_of(single, self) if self.adapts else None
        elif mode == "stream":
            engine, due = self._replay(pieces, chunk, adapt, profile, dejitter_s)
            times = np.array([e[0] for e in due], np.float64)
            values = np.array([e[2] for e in due], np.float32).reshape(-1, len(self.columns))
            valid = np.array([e[3] for e in due], bool)
            present = np.array([e[4] for e in due], bool).reshape(-1, len(specs))
            confidence = np.array([e[5] for e in due if e[5] is not None], np.float32)
            known = profile_of(engine, self) if self.adapts else None
        else:
            raise InputError(f"mode: expected 'full' or 'stream', got {mode!r}")
        judged = present.any(axis=1)
        must_be_finite(self, times[judged], values[judged])
        sure = confidence if "confidence" in self.card else None
        return Estimates(times, values, valid, known, present, sure)

    def _replay(
        self,
        pieces: Mapping[str, list[tuple[float | None, np.ndarray]]],
        chunk: int | None,
        adapt: bool,
        profile: Profile | None,
        dejitter_s: float | None,
    ) -> tuple[_core.Engine, list[Any]]:
        """An engine to which all pieces were pushed in the order of their times, and what it gave."""
        if chunk is not None and (
            isinstance(chunk, bool) or not isinstance(chunk, int | np.integer) or chunk < 1
        ):
            raise InputError(f"chunk: expected a number of samples >= 1, got {chunk!r}")
        pushes: list[tuple[float, int, str, float | None, np.ndarray]] = []
        for spec in self.inputs:
            name, rate = str(spec["name"]), float(spec["rate"])
            step = max(1, round(0.02 * rate)) if chunk is None else int(chunk)
            clock, due_at = 0.0, -math.inf
            for time, frames in pieces.get(name, []):
                # Not before what this input gave already: a stamp may lie before the end of the count.
                clock = clock if time is None else max(time, clock)
                for start in range(0, len(frames), step):
                    piece = frames[start : start + step]
                    due_at = max(due_at, clock)  # the pieces of an input stay in their order
                    pushes.append((due_at, len(pushes), name, time if start == 0 else None, piece))
                    clock += len(piece) / rate
        # An input that pauses must be waited for: the others' queues hold all that they have.
        pushes.sort(key=lambda push: push[:2])
        ends = {name: i for i, (_, _, name, _, _) in enumerate(pushes)}
        begins = [push[0] for push in pushes]
        span = max(begins) - min(begins) if begins else 0.0
        engine = _core.Engine(
            self.native,
            min(3600.0, 10.0 + span),
            adapting=as_switch(adapt),
            wait_s=math.inf,
            dejitter_s=dejitter_s,
        )
        start_from(engine, self, profile)
        due: list[Any] = []
        for spec in self.inputs:
            if str(spec["name"]) not in ends:
                engine.finish(str(spec["name"]))
        for i, (_, _, name, time, piece) in enumerate(pushes):
            while len(piece):
                taken = engine.push(name, piece, time)
                piece, time = piece[taken:], None if taken else time
                before = len(due)
                due.extend(iter(engine.poll, None))
                if taken == 0 and len(due) == before:
                    raise InputError(
                        f"samples: {name!r} waits for another input for more than an hour or 64 gaps"
                    )
            if ends[name] == i:
                engine.finish(name)
        engine.finish()
        due.extend(iter(engine.poll, None))
        return engine, due

    def _stream(
        self,
        signal: np.ndarray,
        chunk: int | None,
        profile: Profile | None,
        adapt: bool,
        detector: Detector | str | None,
    ) -> Estimates:
        step = max(1, round(0.02 * self.sample_rate)) if chunk is None else chunk
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 1:
            raise InputError(f"chunk: expected a number of samples >= 1, got {chunk!r}")
        engine = _core.Engine(self.native, adapting=as_switch(adapt))
        start_from(engine, self, profile)
        listener = listening(self, detector)
        modality = self.inputs[0]["name"]
        times: list[float] = []
        rows: list[np.ndarray] = []
        valid: list[bool] = []

        def drain() -> None:
            while (estimate := engine.poll()) is not None:
                times.append(estimate[0])
                rows.append(estimate[2])
                finite = bool(must_be_finite(self, times[-1:], rows[-1][None])[0])
                said = estimate[3] if listener is None else listener.valid(estimate[1], estimate[3])
                valid.append(said and finite)

        for start in range(0, len(signal), int(step)):
            piece = signal[start : start + int(step)]
            while len(piece):
                taken = engine.push(modality, piece)
                if listener is not None:
                    listener.hear(piece[:taken])
                piece = piece[taken:]
                drain()
        engine.finish()
        drain()
        values = np.stack(rows) if rows else np.empty((0, len(self.columns)), np.float32)
        known = profile_of(engine, self) if self.adapts else None
        return Estimates(np.asarray(times, np.float64), values, np.asarray(valid, bool), known)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{i['name']} ({i['kind']}, {i['rate']:g} Hz)" for i in self.inputs)
        outputs = "; ".join(f"{o['name']} ({o['kind']}): {', '.join(o['labels'])}" for o in self.outputs)
        licence = self.card.get("info", {}).get("licence", "not stated")
        t = self.timing
        return (
            f"<affekt.Model {self.name!r} version {self.card['version']}\n"
            f"  inputs:  {inputs}\n"
            f"  outputs: {outputs}\n"
            f"  timing:  an estimate every {t['hop_s']:.3g} s from {t['first_estimate_s']:.3g} s on, "
            f"over the last {t['context_s']:.3g} s\n"
            f"  licence: {licence}>"
        )


class FullPass:
    """One recording through a model, piece by piece, in bounded memory; the same bits as any other way.

    Examples
    --------
    >>> single = model.full_pass()                              # doctest: +SKIP
    >>> for block in blocks: times, values = single.feed(block)  # doctest: +SKIP
    >>> times, values = single.finish()                         # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        profile: Profile | None = None,
        adapt: bool = True,
        detector: Detector | str | None = None,
    ) -> None:
        self.model = model
        self._native = _core.FullPass(model.native, as_switch(adapt))
        start_from(self._native, model, profile)
        self._listener = listening(model, detector)

    def feed(self, samples: Any) -> Estimates:
        """Run further samples, see `Model.run`; the estimates that became due."""
        signal = as_frames(samples, self.model.inputs[0])
        result = self._native.feed(signal)  # checks the samples, too
        if self._listener is not None:
            self._listener.hear(signal)
        return self._checked(result)

    def finish(self) -> Estimates:
        """End the recording: the estimate over what came since the last regular one, if anything did."""
        return self._checked(self._native.finish())

    def reset(self) -> None:
        """Start another recording, from the same profile."""
        self._native.reset()
        if self._listener is not None:
            self._listener.reset()

    def profile(self) -> Profile:
        """What the model knows of the speaker by now. Raises `InputError` for a model that does not adapt."""
        return profile_of(self._native, self.model)

    def _checked(self, result: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Estimates:
        times, values, valid = result
        finite = must_be_finite(self.model, times, values)
        if self._listener is not None:
            last = np.rint(times * self.model.sample_rate).astype(np.int64)
            pairs = zip(last.tolist(), valid.tolist(), strict=True)
            valid = np.array([self._listener.valid(*pair) for pair in pairs], dtype=bool)
        return Estimates(times, values, valid & finite)


def must_be_finite(model: Model, times: Sequence[float] | np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which estimates (n, columns) are; `AffektError` where not, but for a model that says so what it cannot
    tell: a band power is then NaN, unless its node names another value."""
    finite = np.asarray(np.isfinite(values).all(axis=1))
    if not finite.all() and not any(
        node["type"] == "band_power" and "missing" not in node["options"] for node in model.card["nodes"]
    ):
        raise AffektError(
            f"the model produced a value that is not finite at {times[int(np.argmin(finite))]:.3f} s; it "
            "cannot be trusted"
        )
    return finite


def as_switch(adapt: Any) -> bool:
    """`adapt` if it is a bool, else `InputError`."""
    if not isinstance(adapt, bool | np.bool_):
        raise InputError(f"adapt: expected True or False, got {adapt!r}")
    return bool(adapt)


def as_seconds(value: Any, name: str) -> float:
    """`value` as a float, whose range the core checks, else `InputError`."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected a number of seconds, got {value!r}") from error


def start_from(run: _core.Engine | _core.FullPass, model: Model, profile: Profile | None) -> None:
    """Let `run`, of `model`, start from `profile`; `InputError` where that is not a profile of this model."""
    if profile is None:
        return
    if not isinstance(profile, Profile):
        raise InputError(f"profile: expected an affekt.Profile or None, got {type(profile).__name__}")
    must_adapt(model)
    if profile.model != model.hash:
        raise InputError(
            f"profile: it belongs to the model {profile.name!r} ({profile.model[:12]}), not to this one, "
            f"{model.name!r} ({model.hash[:12]}); enrol again"
        )
    run.adapt([(name, *entry) for name, entry in profile.nodes.items()])


def listening(model: Model, detector: Detector | str | None) -> Listener | None:
    """What decides on the estimates of `model` by that detector; None where there is none."""
    if detector is None:
        return None
    if model.clocked:
        raise InputError("detector: a model with a clock takes none")
    if model.inputs[0]["kind"] != "audio":
        raise InputError("detector: only a model of audio takes one")
    found = as_detector(detector, model.sample_rate)
    validity = model.card.get("validity", {})
    nodes = {node["name"]: node for node in model.card["nodes"]}
    node = nodes.get(validity.get("node"), {"type": None})
    options = node.get("options", {})
    hop = round(model.timing["hop_s"] * model.sample_rate)  # as a count: the bounds below are exact
    pools = [node for node in nodes.values() if node["type"] == "pool"]
    masked = any(len(pool["inputs"]) > 1 for pool in pools if pool["options"]["kind"] != "count")
    if node["type"] == "activity":
        return Listener(found, hop, validity["least"] * hop, masked)
    rows = options.get("window")
    if node["type"] != "pool" or options["kind"] != "count" or not rows or options.get("half_life"):
        raise InputError(
            f"detector: the model {model.name!r} does not say how much speech an estimate needs (its card "
            "has no 'validity' by an activity or by the count of one over a window)"
        )
    row = hop // options["hop"]
    return Listener(found, rows * row, validity["least"] * row, masked)


def profile_of(run: _core.Engine | _core.FullPass, model: Model) -> Profile:
    """What `run`, of `model`, knows of its speaker. Raises `InputError` for a model that does not adapt."""
    must_adapt(model)
    return Profile(model.hash, {name: entry for name, *entry in run.adaptation()}, model.name)


def must_adapt(model: Model) -> None:
    """Refuse a model without an `adapt` node."""
    if not model.adapts:
        raise InputError(f"the model {model.name!r} does not adapt to its speaker, so it has no profiles")
