"""Where live audio comes from: a recording replayed at any speed, or a microphone.

A source is an iterator of `Chunk`; each chunk goes to `Engine.push` as it is::

    with FileSource("talk.wav", speed=1.0) as source:
        for estimate in estimates(engine, source):
            print(estimate.time, estimate["arousal"])

Times are seconds (float64) on the source's own clock, 0 at the first sample, counted in samples and never
read from a wall clock, so that a replay gives the same numbers at every speed.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from affekt._lazy import require
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    from affekt.live.engine import Engine, Estimate

__all__ = ["Chunk", "FileSource", "MicrophoneSource", "estimates"]


class Chunk(NamedTuple):
    """A run of consecutive samples of one modality."""

    modality: str
    """Name of the model input that it feeds, e.g. ``"audio"``."""
    samples: np.ndarray
    """(time,) float32 in [-1, 1]."""
    time: float
    """Seconds of the first sample on the source's clock."""
    rate: float
    """Samples per second."""


def estimates(engine: Engine, chunks: Iterable[Chunk]) -> Iterator[Estimate]:
    """Push every chunk and give each estimate as soon as there is one, those of `finish` included.

    An engine whose queue is full takes a part of a chunk; polling makes room, so nothing is lost.
    """
    for chunk in chunks:
        taken = 0
        while taken < chunk.samples.size:
            taken += engine.push(chunk.modality, chunk.samples[taken:], chunk.time + taken / chunk.rate)
            while (estimate := engine.poll()) is not None:
                yield estimate
    engine.finish()
    while (estimate := engine.poll()) is not None:
        yield estimate


class FileSource:
    """Replays a recording in chunks, in bounded memory.

    Parameters
    ----------
    path : audio file; mixed down to mono and resampled to `sample_rate` where needed.
    sample_rate : Hz that the chunks are given at; the model's rate.
    chunk : samples per chunk (the last may be shorter).
    speed : None gives chunks as fast as they are taken; 1.0 is real time, 2.0 twice as fast. A chunk is
        handed over once its last sample would have been recorded; a slow consumer gets the missed chunks at
        once and nothing is dropped.
    modality : name that the chunks carry.
    clock, sleep : the clock that paces the replay, and how to wait on it (seconds); for tests.

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
        speed: float | None = None,
        modality: str = "audio",
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if chunk < 1:
            raise InputError(f"chunk: expected at least 1 sample, got {chunk}")
        if speed is not None and not 0 < speed < float("inf"):
            raise InputError(f"speed: expected a positive number or None for no pacing, got {speed}")
        self.path = Path(path)
        self.sample_rate = sample_rate
        self._chunk, self._speed, self._modality = int(chunk), speed, modality
        self._clock, self._sleep = clock, sleep
        self._delivered = 0

    def __iter__(self) -> Iterator[Chunk]:
        from affekt.data.audio import stream_audio

        self._delivered = 0
        start = self._clock()
        for samples in rechunk(stream_audio(self.path, self.sample_rate), self._chunk):
            first = self._delivered
            if self._speed is not None:
                due = start + (first + samples.size) / (self.sample_rate * self._speed)
                while (wait := due - self._clock()) > 0:
                    self._sleep(wait)
            self._delivered += samples.size
            yield Chunk(self._modality, samples, first / self.sample_rate, self.sample_rate)

    def counters(self) -> dict[str, int]:
        """Samples delivered so far and dropped (never any)."""
        return {"delivered": self._delivered, "dropped": 0}

    def close(self) -> None:
        """Nothing is held open between iterations."""

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class MicrophoneSource:
    """Chunks from a microphone, through a queue of bounded size.

    PortAudio's thread puts blocks into the queue; iterating takes them out on the caller's thread. When the
    consumer falls so far behind that the queue is full, the *new* block is dropped and counted, and the times
    of later chunks keep counting the lost samples, so that the engine sees the gap for what it is.

    Parameters
    ----------
    sample_rate : Hz; PortAudio converts where the device runs at another rate.
    chunk : samples per block.
    queue_seconds : how much sound the queue can hold, seconds.
    device : PortAudio's device number or part of its name; None for the default.
    patience : seconds without a block after which the microphone counts as gone.
    modality : name that the chunks carry.

    Raises
    ------
    MissingExtraError
        The package sounddevice is absent.
    DataError
        PortAudio is absent, there is no such device, or it stopped delivering.
    InputError
        An argument is out of range.
    """

    def __init__(
        self,
        *,
        sample_rate: float = 16000,
        chunk: int = 1600,
        queue_seconds: float = 5.0,
        device: int | str | None = None,
        patience: float = 5.0,
        modality: str = "audio",
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
        self.sample_rate = sample_rate
        self._modality, self._patience = modality, patience
        self._queue: queue.Queue[tuple[np.ndarray, int]] = queue.Queue(
            int(queue_seconds * sample_rate) // chunk
        )
        self._heard = self._dropped = self._delivered = self._overflows = 0
        try:
            self._stream = sounddevice.InputStream(
                samplerate=sample_rate,
                blocksize=chunk,
                device=device,
                channels=1,
                dtype="float32",
                callback=self._take,
            )
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError) as error:
            raise DataError(
                f"the microphone {device if device is not None else '(default)'}: {error}"
            ) from error

    def _take(self, block: Any, frames: int, when: Any, status: Any) -> None:
        # On PortAudio's thread: never blocks, never raises.
        first = self._heard
        self._heard += frames
        self._overflows += bool(status)
        try:
            self._queue.put_nowait((block[:, 0].copy(), first))
        except queue.Full:
            self._dropped += frames

    def __iter__(self) -> Iterator[Chunk]:
        while True:
            try:
                samples, first = self._queue.get(timeout=self._patience)
            except queue.Empty:
                raise DataError(
                    f"the microphone gave no sound for {self._patience:g} s; is it unplugged?"
                ) from None
            self._delivered += samples.size
            yield Chunk(self._modality, samples, first / self.sample_rate, self.sample_rate)

    def counters(self) -> dict[str, int]:
        """Samples delivered and dropped so far, and how often PortAudio itself reported lost input."""
        return {"delivered": self._delivered, "dropped": self._dropped, "overflows": self._overflows}

    def close(self) -> None:
        """Stop listening."""
        self._stream.stop()
        self._stream.close()

    def __enter__(self) -> MicrophoneSource:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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
