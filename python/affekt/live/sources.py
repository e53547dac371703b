"""Where live signals come from: recordings replayed at any speed, a microphone, generated signals.

A source is an iterator of `Chunk`; each goes to `Engine.push` as it is::

    with FileSource("talk.wav", speed=1.0) as source:
        for estimate in estimates(engine, source):
            print(estimate.time, estimate["arousal"])

`affekt.live.Session` runs several at once. What all sources keep to:

- `Source.counters` says what was delivered and what was dropped, in samples. A replay drops nothing: a slow
  consumer gets what it missed at once. A live source holds at most `queue_seconds`; when that is full the
  *new* samples are dropped, and the times of later chunks show the gap.
- Times are seconds in float64, never smaller than those of the chunk before. Those of a replay are the
  recording's, at every speed, so that every replay gives the same numbers.
- What cannot go on (unplugged, damaged) raises `DataError` while iterating.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas

    from affekt.live.engine import Engine, Estimate

__all__ = [
    "Chunk",
    "EegSource",
    "End",
    "FileSource",
    "GeneratedSource",
    "MicrophoneSource",
    "RowsSource",
    "Source",
    "estimates",
]

_VOLTS = {"V": 1.0, "mV": 1e3, "uV": 1e6, "µV": 1e6, "nV": 1e9}  # what one volt is in each unit
_RATE_TOLERANCE = 0.02  # by which the stamps of a table may differ from the rate that a model expects
_FAR = 1e6  # seconds: a first stamp beyond it is of a wall clock, not of a recording


class Chunk(NamedTuple):
    """A run of consecutive samples of one modality."""

    modality: str
    """Name of the model input that it feeds, e.g. ``"audio"``."""
    samples: np.ndarray
    """As `Engine.push` takes them: (time,) in [-1, 1] for audio, (channel, time) for a signal of several
    channels, (time, feature) for rows."""
    time: float
    """Seconds of the first sample on the source's clock."""
    rate: float
    """Samples per second."""
    rows: bool = False
    """Whether `samples` are rows."""

    @property
    def frames(self) -> int:
        """How many samples of every channel there are."""
        return int(self.samples.shape[0 if self.rows or self.samples.ndim == 1 else 1])

    @property
    def end(self) -> float:
        """Seconds at which the chunk's last sample is over."""
        return self.time + self.frames / self.rate

    def cut(self, first: int, last: int | None = None) -> Chunk:
        """The samples from `first` up to `last`, with their time."""
        along_time = self.rows or self.samples.ndim == 1
        samples = self.samples[first:last] if along_time else self.samples[:, first:last]
        return self._replace(samples=samples, time=self.time + first / self.rate if first else self.time)


class End(NamedTuple):
    """No more samples of one modality will come, so nothing needs to wait for them."""

    modality: str


class Source(ABC):
    """What every source has.

    Attributes
    ----------
    modality : name of the model input that it feeds.
    rate : samples per second.
    channels : values per sample.
    live : whether samples are lost that nobody takes in time. A replay waits instead.
    speed : of a replay: how many times real time, None as fast as its chunks are taken.
    clock : what the times of its chunks count from. ``"session"``: the start of the session, as recordings
        do. ``"own"``: its own first sample, whenever that was. ``"monotonic"``: they are `time.monotonic`.
    chunk_s : seconds of its longest chunks; 0 where it does not say.
    """

    modality: str
    rate: float
    channels: int = 1
    live: bool = False
    speed: float | None = None
    clock: Literal["session", "own", "monotonic"] = "session"
    chunk_s: float = 0.0

    @abstractmethod
    def __iter__(self) -> Iterator[Chunk]:
        """The chunks, in the order of their times."""

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """At least samples ``delivered`` and ``dropped`` so far."""

    def close(self) -> None:  # noqa: B027  # most hold nothing open
        """Let go of devices and files; iterating ends or raises `DataError`."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def estimates(
    engine: Engine, chunks: Iterable[Chunk | End], pushed: Callable[[Chunk | End], object] | None = None
) -> Iterator[Estimate]:
    """Push every chunk and give each estimate as soon as there is one, those of `finish` included.

    An engine whose queue is full takes a part of a chunk; polling makes room, so nothing is lost.

    Parameters
    ----------
    engine : a fresh engine, or one that was reset.
    chunks : from one source, or from several on one clock, in the order of arrival; and their ends, where the
        others are not to wait.
    pushed : called with each part of a chunk that the engine took and with each end, before the estimates
        that follow from it.

    Raises
    ------
    InputError : what `Engine.push` raises; or the engine's queue is full and waits for another input.
    """
    for chunk in chunks:
        if isinstance(chunk, End):
            engine.finish(chunk.modality)
            if pushed is not None:
                pushed(chunk)
            yield from iter(engine.poll, None)
            continue
        done, stuck = 0, False
        while done < chunk.frames:
            rest = chunk.cut(done)
            taken = engine.push(rest.modality, rest.samples, rest.time)
            if not taken and stuck:
                raise InputError(
                    f"queue_s: the engine's queue for {chunk.modality!r} is full at {rest.time:g} s while "
                    "another input is waited for; expected a longer queue_s, or a shorter wait_s"
                )
            stuck = not taken
            if taken and pushed is not None:
                pushed(rest.cut(0, taken))
            done += taken
            yield from iter(engine.poll, None)
    engine.finish()
    yield from iter(engine.poll, None)


class Replay(Source):
    """What recordings have in common: pacing, and that nothing is dropped.

    Parameters
    ----------
    modality, rate, channels : see `Source`.
    speed : None gives chunks as fast as they are taken; 1.0 is real time, 2.0 twice as fast. A chunk is
        handed over once its last sample would have been recorded; a slow consumer gets the missed chunks at
        once.
    clock, sleep : the clock that paces the replay, and how to wait on it (seconds); for tests.
    """

    def __init__(
        self,
        modality: str,
        rate: float,
        channels: int = 1,
        *,
        speed: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if speed is not None and not 0 < speed < float("inf"):
            raise InputError(f"speed: expected a positive number or None for no pacing, got {speed}")
        self.modality = modality
        self.rate = _checks.number(rate, "rate", positive=True)
        self.channels = channels
        self.speed = speed
        self._now, self._sleep = clock, sleep
        self._delivered = 0

    @abstractmethod
    def chunks(self) -> Iterator[Chunk]:
        """The chunks, without waiting."""

    def __iter__(self) -> Iterator[Chunk]:
        self._delivered = 0
        start = self._now()
        for chunk in self.chunks():
            if self.speed is not None:
                due = start + chunk.end / self.speed
                while (wait := due - self._now()) > 0:
                    self._sleep(wait)
            self._delivered += chunk.frames
            yield chunk

    def counters(self) -> dict[str, int]:
        """Samples delivered so far and dropped (never any)."""
        return {"delivered": self._delivered, "dropped": 0}


class FileSource(Replay):
    """Replays an audio recording in chunks, in bounded memory.

    Parameters
    ----------
    path : audio file; mixed down to mono and resampled to `sample_rate` where needed.
    sample_rate : Hz that the chunks are given at; the model's rate.
    chunk : samples per chunk (the last may be shorter).
    modality : name that the chunks carry.
    speed, clock, sleep : see `Replay`.

    Raises
    ------
    InputError
        An argument is out of range.
    DataError
        The file cannot be read (while iterating).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        sample_rate: float = 16000,
        chunk: int = 1600,
        modality: str = "audio",
        **pacing: Any,
    ) -> None:
        if chunk < 1:
            raise InputError(f"chunk: expected at least 1 sample, got {chunk}")
        super().__init__(modality, sample_rate, **pacing)
        self.path = Path(path)
        self._chunk = int(chunk)
        self.chunk_s = self._chunk / self.rate

    def chunks(self) -> Iterator[Chunk]:
        from affekt.data.audio import stream_audio

        first = 0
        with stream_audio(self.path, self.rate) as stream:
            for samples in rechunk(iter(stream), self._chunk):
                yield Chunk(self.modality, samples, first / self.rate, self.rate)
                first += samples.size


class RowsSource(Replay):
    """Replays a table, a row per sample: face embeddings, landmarks, EEG exported as CSV.

    Parameters
    ----------
    path : ``.csv`` or ``.parquet``. A column called as `time_column` has the seconds of each row; without it
        row i lies at i / `rate`. All other columns are values, in their order, unless `columns` names them.
    rate : rows per second, as the model expects them. The stamps' median step must agree within 2 %.
    modality : name that the chunks carry.
    columns : names of the columns to use, in that order; None: all but the time.
    rows : True gives (time, feature), for an input of kind rows; False (channel, time), for a signal.
    chunk : most rows per chunk. One begins also wherever the stamps leave the count by more than half a
        step, so that the engine sees gaps as they are. Rows without any value (no face was found) are left
        out and counted as ``missing``.
    origin : seconds in the table's time that are 0 in the session; ``"first"`` for the first row's.
    time_column : its name.
    speed, clock, sleep : see `Replay`.

    Raises
    ------
    InputError : an argument is out of range.
    DataError : the table cannot be read, lacks a column, or has one without numbers; times that are not
        finite or go back; another rate; values that are not finite (the message names row and column).
    MissingExtraError : pandas, or pyarrow for Parquet, is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        rate: float,
        *,
        modality: str,
        columns: Sequence[str] | None = None,
        rows: bool = True,
        chunk: int = 1,
        origin: float | Literal["first"] = 0.0,
        time_column: str = "time",
        **pacing: Any,
    ) -> None:
        self.path = Path(path)
        if origin != "first":
            origin = _checks.number(origin, "origin")
        self._chunk = _checks.integer(chunk, "chunk", low=1)
        table = _read_table(self.path)
        times = None
        if time_column in table:
            times = self._numbers(table, [time_column], gaps=False)[:, 0]
            table = table.drop(columns=time_column)
        names = list(table.columns) if columns is None else list(columns)
        missing = [name for name in names if name not in table]
        if missing or not names:
            raise DataError(
                f"{self.path}: expected columns {_checks.some(missing or ['of values'])}, "
                f"got {_checks.some(list(table.columns))}"
            )
        super().__init__(modality, rate, len(names), **pacing)
        self.chunk_s = self._chunk / self.rate
        if times is None:
            times = np.arange(len(table)) / self.rate
        values = self._numbers(table, names, gaps=True)
        empty = np.isnan(values).all(axis=1)
        self._missing = int(empty.sum())
        self._values = values[~empty].astype(np.float32)
        self._times = self._checked(times, origin)[~empty]
        self._rows = rows

    def _numbers(self, table: pandas.DataFrame, names: list[str], *, gaps: bool) -> np.ndarray:
        """The columns in float64, all finite except, with `gaps`, rows without any value."""
        try:
            values = table[names].to_numpy(np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.path}: expected numbers in {_checks.some(names)}: {error}") from error
        wrong = ~(np.abs(values) <= np.finfo(np.float32).max)
        bad = np.argwhere(wrong & ~(gaps & np.isnan(values).all(axis=1, keepdims=True)))
        if len(bad):
            row, column = bad[0]
            raise DataError(
                f"{self.path}: row {row}, column {names[column]!r}: expected a finite number, "
                f"got {values[row, column]}"
            )
        return values

    def _checked(self, times: np.ndarray, origin: float | str) -> np.ndarray:
        if not len(times):
            raise DataError(f"{self.path}: expected at least one row, got none")
        steps = np.diff(times)
        if (steps < 0).any():
            row = int(np.argmax(steps < 0)) + 1
            raise DataError(
                f"{self.path}: row {row}: expected times that do not go back, got {times[row]:g} s after "
                f"{times[row - 1]:g} s"
            )
        if len(steps) and abs(np.median(steps) * self.rate - 1) > _RATE_TOLERANCE:
            found = "a time that stands still" if not np.median(steps) else f"{1 / np.median(steps):.4g} Hz"
            raise DataError(f"{self.path}: expected rows at {self.rate:g} Hz, got {found}")
        times = times - (times[0] if origin == "first" else origin)
        if abs(times[0]) > _FAR:
            raise DataError(
                f"{self.path}: the first row is at {times[0]:g} s of the session; give origin='first', or "
                "the table's time at which the session began"
            )
        return times

    def chunks(self) -> Iterator[Chunk]:
        for first, last in runs(self._times, self.rate, self._chunk):
            values = self._values[first:last]
            samples = values[:, 0] if self.channels == 1 else values if self._rows else values.T
            yield Chunk(self.modality, samples, float(self._times[first]), self.rate, self._rows)

    def counters(self) -> dict[str, int]:
        """As of every replay, and rows without values."""
        return {**super().counters(), "missing": self._missing}


class EegSource(Replay):
    """Replays an EEG recording of any format that MNE reads (EDF, BDF, BrainVision, FIF, ...), in bounded
    memory.

    Parameters
    ----------
    path : the recording.
    rate : Hz that the model expects. The recording must have it: resampling EEG is for the model's graph
        (node ``resample``), where live and recorded signals take the same filter.
    modality : name that the chunks carry.
    channels : names of the channels in the model's order; None: all EEG channels.
    unit : that the model expects: V, mV, uV or nV.
    chunk : samples per chunk.
    speed, clock, sleep : see `Replay`.

    Raises
    ------
    InputError : an argument is out of range.
    DataError : the file cannot be read, has another rate, or lacks a channel.
    MissingExtraError : MNE is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        rate: float,
        *,
        modality: str = "eeg",
        channels: Sequence[str] | None = None,
        unit: str = "uV",
        chunk: int = 32,
        **pacing: Any,
    ) -> None:
        mne = require("mne", purpose="reading EEG recordings")
        self.path = Path(path)
        self._chunk = _checks.integer(chunk, "chunk", low=1)
        if unit not in _VOLTS:
            raise InputError(f"unit: expected one of {', '.join(_VOLTS)}, got {unit!r}")
        if not self.path.exists():
            raise DataError(f"{self.path}: no such file")
        try:
            self._raw = mne.io.read_raw(self.path, preload=False, verbose="error")
        except Exception as error:  # MNE's readers raise whatever their formats make them
            raise DataError(f"{self.path}: not an EEG recording that MNE can read: {error}") from error
        found = float(self._raw.info["sfreq"])
        if abs(found / rate - 1) > 1e-6:
            raise DataError(f"{self.path}: expected EEG at {rate:g} Hz, got {found:g} Hz")
        names = self._raw.ch_names
        if channels is None:
            channels = [names[i] for i in mne.pick_types(self._raw.info, eeg=True, exclude=())]
        lacking = [name for name in channels if name not in names]
        if lacking or not channels:
            raise DataError(
                f"{self.path}: expected channels {_checks.some(lacking or ['of EEG'])}, "
                f"got {_checks.some(names)}"
            )
        self.names = list(channels)
        self._picks = [names.index(name) for name in self.names]
        self._scale = _VOLTS[unit]
        super().__init__(modality, rate, len(self.names), **pacing)
        self.chunk_s = self._chunk / self.rate

    def chunks(self) -> Iterator[Chunk]:
        for first in range(0, self._raw.n_times, self._chunk):
            last = min(first + self._chunk, self._raw.n_times)
            try:
                volts = self._raw.get_data(self._picks, first, last)
            except Exception as error:  # see above
                raise DataError(f"{self.path}: cannot be read at {first / self.rate:g} s: {error}") from error
            samples = (volts * self._scale).astype(np.float32)
            yield Chunk(
                self.modality, samples[0] if self.channels == 1 else samples, first / self.rate, self.rate
            )

    def close(self) -> None:
        self._raw.close()


class GeneratedSource(Replay):
    """A signal made of nothing, the same for the same seed: to try a model or a set-up without devices.

    Audio is bursts of harmonics like syllables, with pauses; signals are noise over a 10 Hz rhythm that comes
    and goes; rows wander slowly.

    Parameters
    ----------
    spec : an entry of `affekt.Model.inputs`: name, kind, rate, channels.
    seconds : how long; None without end.
    seed : of the generator.
    chunk_seconds : length of a chunk.
    speed, clock, sleep : see `Replay`.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        *,
        seconds: float | None = None,
        seed: int = 0,
        chunk_seconds: float = 0.1,
        **pacing: Any,
    ) -> None:
        super().__init__(str(spec["name"]), float(spec["rate"]), int(spec["channels"]), **pacing)
        self._kind = str(spec["kind"])
        self._total = math.inf if seconds is None else _checks.number(seconds, "seconds", low=0) * self.rate
        self._seed = _checks.integer(seed, "seed", low=0)
        self._chunk = max(1, round(_checks.number(chunk_seconds, "chunk_seconds", positive=True) * self.rate))
        self.chunk_s = self._chunk / self.rate

    def chunks(self) -> Iterator[Chunk]:
        draw = np.random.default_rng([self._seed, *self.modality.encode()])
        phase = draw.uniform(0, 2 * np.pi, (self.channels, 1))
        level = np.zeros((self.channels, 1))
        first = 0
        while first < self._total:
            count = math.ceil(min(self._chunk, self._total - first))
            at = (first + np.arange(count)) / self.rate
            noise = draw.normal(size=(self.channels, count))
            if self._kind == "audio":
                # Four syllables in a second, two seconds of every three.
                envelope = np.maximum(np.sin(8 * np.pi * at), 0) * (at % 3 < 2)
                pitch = 2 * np.pi * (140 * at + 3 * np.sin(2 * np.pi * 0.7 * at))
                voice = sum(np.sin(k * pitch) / k for k in range(1, 12) if 160 * k < self.rate / 2)
                values = 0.1 * envelope * voice + 0.001 * noise
            elif self._kind == "signal":
                rhythm = np.sin(2 * np.pi * 10 * at + phase) * (1 + np.sin(2 * np.pi * 0.1 * at))
                values = 10 * rhythm + 5 * noise
            else:
                walk = level + np.cumsum(noise, axis=1) * (0.5 / self.rate) ** 0.5
                level = walk[:, -1:] * 0.99
                values = walk
            values = values.astype(np.float32)
            rows = self._kind == "rows"
            samples = values[0] if self.channels == 1 else np.ascontiguousarray(values.T) if rows else values
            yield Chunk(self.modality, samples, first / self.rate, self.rate, rows)
            first += count


class MicrophoneSource(Source):
    """Chunks from a microphone, through a queue of bounded size.

    It listens from the first `next` on. PortAudio's thread puts blocks into the queue, each with the moment
    at which its first sample was taken, on `time.monotonic`; iterating takes them out on the caller's thread.
    When the consumer falls so far behind that the queue is full, the *new* block is dropped and counted. What
    was lost there or in PortAudio shows as a gap in the times, and so does a device's clock that drifts: an
    engine follows both where it takes the jitter out of the stamps (`dejitter_s`).

    Parameters
    ----------
    sample_rate : Hz; PortAudio converts where the device runs at another rate.
    chunk : samples per block.
    queue_seconds : how much sound the queue can hold, seconds.
    device : PortAudio's device number or part of its name; None for the default.
    patience : seconds without a block after which the microphone counts as gone.
    modality : name that the chunks carry.
    clock : seconds that stamp the blocks; for tests.

    Raises
    ------
    MissingExtraError
        The package sounddevice is absent.
    DataError
        PortAudio is absent, there is no such device, or it stopped delivering.
    InputError
        An argument is out of range.
    """

    live = True
    clock = "monotonic"

    def __init__(
        self,
        *,
        sample_rate: float = 16000,
        chunk: int = 1600,
        queue_seconds: float = 5.0,
        device: int | str | None = None,
        patience: float = 5.0,
        modality: str = "audio",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if chunk < 1:
            raise InputError(f"chunk: expected at least 1 sample, got {chunk}")
        if not queue_seconds * sample_rate >= chunk:
            raise InputError(
                f"queue_seconds: expected room for one chunk of {chunk} samples, got {queue_seconds} s"
            )
        try:
            sounddevice = require("sounddevice", purpose="the microphone")
        except OSError as error:
            raise DataError(
                f"the microphone needs the PortAudio library, which did not load ({error}); on Debian: "
                "apt-get install libportaudio2"
            ) from error
        self.rate, self.chunk_s = sample_rate, chunk / sample_rate
        self.modality, self._patience, self._now = modality, patience, clock
        self._queue: queue.Queue[tuple[np.ndarray, float] | None] = queue.Queue(
            int(queue_seconds * sample_rate) // chunk
        )
        self._dropped = self._delivered = self._overflows = 0
        self._last = -math.inf
        self._closed = False
        self._problems = (sounddevice.PortAudioError, ValueError)
        self._name = device if device is not None else "(default)"
        try:
            self._stream = sounddevice.InputStream(
                samplerate=sample_rate,
                blocksize=chunk,
                device=device,
                channels=1,
                dtype="float32",
                callback=self._take,
            )
        except self._problems as error:
            raise DataError(f"the microphone {self._name}: {error}") from error

    def _take(self, block: Any, frames: int, when: Any, status: Any) -> None:
        # On PortAudio's thread: never blocks, never raises.
        # Some systems tell how long ago the first sample was taken; it cannot be less than the block is long.
        ago = frames / self.rate
        if when is not None and ago < (told := when.currentTime - when.inputBufferAdcTime) < 1 + ago:
            ago = told
        self._last = max(self._last, self._now() - ago)
        self._overflows += bool(status)
        try:
            self._queue.put_nowait((block[:, 0].copy(), self._last))
        except queue.Full:
            self._dropped += frames

    def __iter__(self) -> Iterator[Chunk]:
        if not self._closed and not self._stream.active:
            # Not before: what is heard while other devices are opened would be old by the time it is taken.
            try:
                self._stream.start()
            except self._problems as error:
                raise DataError(f"the microphone {self._name}: {error}") from error
        while not self._closed:
            try:
                taken = self._queue.get(timeout=self._patience)
            except queue.Empty:
                raise DataError(
                    f"the microphone gave no sound for {self._patience:g} s; is it unplugged?"
                ) from None
            if taken is None:
                return
            samples, when = taken
            self._delivered += samples.size
            yield Chunk(self.modality, samples, when, self.rate)

    def counters(self) -> dict[str, int]:
        """Samples delivered and dropped so far, and how often PortAudio itself reported lost input."""
        return {"delivered": self._delivered, "dropped": self._dropped, "overflows": self._overflows}

    def close(self) -> None:
        """Stop listening."""
        if not self._closed:  # PortAudio refuses to stop what is closed
            self._closed = True
            with contextlib.suppress(queue.Full):  # then nobody waits for it
                self._queue.put_nowait(None)
            self._stream.stop()
            self._stream.close()


def runs(times: np.ndarray, rate: float, most: int) -> Iterator[tuple[int, int]]:
    """First and last (beyond) of at most `most` samples whose stamps stay within half a step of counting."""
    first = 0
    while first < len(times):
        ahead = times[first : first + most]
        off = np.abs(ahead - (ahead[0] + np.arange(len(ahead)) / rate)) > 0.5 / rate
        last = first + (int(np.argmax(off)) if off.any() else len(ahead))
        yield first, last
        first = last


def rechunk(blocks: Iterator[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Cut consecutive blocks of samples into chunks of `size` (the last may be shorter)."""
    held: list[np.ndarray] = []
    count = 0
    for block in blocks:
        held.append(block)
        count += block.size
        if count < size:
            continue
        joined = np.concatenate(held) if len(held) > 1 else held[0]
        whole = joined.size - joined.size % size
        for start in range(0, whole, size):
            yield joined[start : start + size]
        held, count = [joined[whole:]], joined.size - whole
    if count:
        yield np.concatenate(held)


def _read_table(path: Path) -> pandas.DataFrame:
    """A CSV or Parquet file."""
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".csv", ".parquet"):
        raise DataError(f"{path}: expected a table that ends in .csv or .parquet")
    if not path.exists():
        raise DataError(f"{path}: no such file")
    pandas = require("pandas", purpose="reading tables")
    if kind == ".parquet":
        require("pyarrow", purpose="reading Parquet files")
    from affekt.data.manifest import read_csv

    try:
        return read_csv(path, ()) if kind == ".csv" else pandas.read_parquet(path)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parser errors are ValueErrors
        raise DataError(f"{path}: not a {kind[1:]} table: {error}") from error
