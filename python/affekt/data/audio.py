"""Audio files to float32 samples at a wanted rate, whole or in blocks of bounded memory.

Any format of libsndfile is read (WAV, FLAC, OGG, MP3, AIFF ...), with 8, 16, 24 or 32 bits or floating point.
Integers are scaled to full scale 1. Resampling is soxr's HQ quality, run as a stream, so that the blocks of
`stream_audio` joined together have the same bits as `read_audio`, whatever the block length.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.errors import DataError, InputError

__all__ = ["AudioInfo", "AudioStream", "AudioWarning", "audio_info", "read_audio", "stream_audio"]

# Samples decoded at once: small enough to bound memory, large enough that the calls cost nothing.
_DECODE_FRAMES = 65536


class AudioWarning(UserWarning):
    """A recording can be used but is suspicious: all its samples are zero, or its end is missing."""


@dataclass(frozen=True)
class AudioInfo:
    """What the header of an audio file says.

    Attributes
    ----------
    path : the file.
    sample_rate : in Hz, as stored.
    channels : number of channels.
    frames : samples per channel, as stored.
    format, subtype : container and encoding by libsndfile's names, e.g. ``"WAV"`` and ``"PCM_24"``.
    """

    path: Path
    sample_rate: int
    channels: int
    frames: int
    format: str
    subtype: str

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.frames / self.sample_rate


def audio_info(path: str | PathLike[str]) -> AudioInfo:
    """The header of an audio file.

    Raises
    ------
    DataError : the file is absent, unreadable, empty, not audio, or holds no samples.
    """
    file = _checks.path(path, "path")
    with _open(file) as sound:
        return _info(file, sound)


def read_audio(
    path: str | PathLike[str],
    sample_rate: float | None = 16000,
    *,
    mono: str | int = "mean",
    start: float = 0.0,
    end: float | None = None,
) -> np.ndarray:
    """Samples of one recording, one channel, at the wanted rate.

    Parameters
    ----------
    path : audio file.
    sample_rate : rate of the result in Hz; None keeps the file's own (see `audio_info`).
    mono : ``"mean"`` averages the channels; a number takes that channel, counted from 0.
    start, end : part to read, in seconds from the start of the file; None reads to the end. The part is cut
        before resampling, at the nearest stored sample.

    Returns
    -------
    float32 array ``(time,)``; full scale is 1, floating-point files may exceed it.

    Raises
    ------
    DataError : the file is absent, unreadable, empty, not audio, damaged, holds no samples, or has NaN or
        Inf.
    InputError : an argument is out of its range, or the channel does not exist.

    Warns
    -----
    AudioWarning : every sample is zero, or the file ends before its header says.

    Examples
    --------
    >>> samples = read_audio("interview.flac", 16000, start=12.5, end=20.0)  # doctest: +SKIP
    """
    with stream_audio(path, sample_rate, mono=mono, start=start, end=end) as stream:
        blocks = list(stream)
        if not blocks:
            raise DataError(
                f"{stream.info.path}: {stream.info.frames} sample(s) at {stream.info.sample_rate} Hz are too "
                f"few for one sample at {stream.sample_rate:g} Hz"
            )
    return np.concatenate(blocks)


def stream_audio(
    path: str | PathLike[str],
    sample_rate: float | None = 16000,
    block_seconds: float = 1.0,
    *,
    mono: str | int = "mean",
    start: float = 0.0,
    end: float | None = None,
) -> AudioStream:
    """Open a recording as an iterator of blocks; memory does not grow with its length.

    The file is opened and its header checked at once; samples are decoded, checked and resampled as the
    blocks are taken. Joined, the blocks equal `read_audio` bit for bit.

    Parameters
    ----------
    block_seconds : length of each block but the last, rounded to whole samples (at least one).
    path, sample_rate, mono, start, end : as for `read_audio`.

    Returns
    -------
    AudioStream : yields float32 arrays ``(time,)``; also a context manager that closes the file.

    Raises
    ------
    DataError, InputError : as `read_audio`; content errors come with the block that meets them.
    """
    return AudioStream(path, sample_rate, block_seconds, mono=mono, start=start, end=end)


class AudioStream:
    """Blocks of one recording; made by `stream_audio`.

    Attributes
    ----------
    info : `AudioInfo` of the file.
    sample_rate : rate of the blocks in Hz.
    block : samples in each block but the last.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        sample_rate: float | None = 16000,
        block_seconds: float = 1.0,
        *,
        mono: str | int = "mean",
        start: float = 0.0,
        end: float | None = None,
    ) -> None:
        file = _checks.path(path, "path")
        if sample_rate is not None:
            _checks.number(sample_rate, "sample_rate", positive=True)
        _checks.number(block_seconds, "block_seconds", positive=True)
        _checks.number(start, "start", low=0.0)
        if end is not None and _checks.number(end, "end", low=0.0) <= start:
            raise InputError(f"end must be greater than start = {start} s; got {end}")
        channel: int | None = None
        if mono != "mean":
            if isinstance(mono, bool) or not isinstance(mono, (int, np.integer)):
                raise InputError(f"mono must be 'mean' or a channel number; got {mono!r}")
            channel = int(mono)
        self._sound = _open(file)
        try:
            self.info = _info(file, self._sound)
            if channel is not None and not 0 <= channel < self.info.channels:
                raise InputError(
                    f"mono must be 'mean' or a channel from 0 to {self.info.channels - 1} of {file}; "
                    f"got {mono}"
                )
            rate = self.info.sample_rate
            first = round(start * rate)
            last = self.info.frames if end is None else min(round(end * rate), self.info.frames)
            if last <= first:
                raise DataError(
                    f"{file}: nothing to read from {start} s on; the recording lasts "
                    f"{self.info.seconds:.3f} s"
                )
            if end is not None and round(end * rate) > self.info.frames + 1:
                raise DataError(
                    f"{file}: end = {end} s lies beyond the recording, which lasts {self.info.seconds:.3f} s"
                )
            if first:
                self._sound.seek(first)
        except BaseException:
            self._sound.close()
            raise
        self._resampler = None
        if sample_rate is not None and sample_rate != rate:
            soxr = require("soxr", purpose="resampling audio")
            self._resampler = soxr.ResampleStream(rate, float(sample_rate), 1, dtype="float32", quality="HQ")
        self.sample_rate = float(rate if sample_rate is None else sample_rate)
        self.block = max(1, round(block_seconds * self.sample_rate))
        self._channel = channel
        self._first, self._last = first, last
        self._blocks = self._generate()

    @property
    def seconds(self) -> float:
        """Duration of the part that is read, in seconds."""
        return (self._last - self._first) / self.info.sample_rate

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._blocks

    def __next__(self) -> np.ndarray:
        return next(self._blocks)

    def __enter__(self) -> AudioStream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; further blocks are not given."""
        self._blocks.close()
        self._sound.close()

    def _generate(self) -> Generator[np.ndarray, None, None]:
        pending: list[np.ndarray] = []
        held = 0
        for piece in self._resampled():
            pending.append(piece)
            held += len(piece)
            if held < self.block:
                continue
            joined = np.concatenate(pending)
            whole = held - held % self.block
            for at in range(0, whole, self.block):
                # A copy, so that a caller that keeps one block does not keep all its neighbours.
                yield joined[at : at + self.block].copy()
            pending = [joined[whole:].copy()]
            held -= whole
        if held:
            yield np.concatenate(pending)

    def _resampled(self) -> Iterator[np.ndarray]:
        if self._resampler is None:
            yield from self._decoded()
            return
        for piece in self._decoded():
            out = self._resampler.resample_chunk(piece)
            if len(out):
                yield out
        out = self._resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if len(out):
            yield out

    def _decoded(self) -> Iterator[np.ndarray]:
        soundfile = require("soundfile", purpose="reading audio files")
        at, loudest = self._first, np.float32(0)
        while at < self._last:
            wanted = min(_DECODE_FRAMES, self._last - at)
            try:
                frames = self._sound.read(wanted, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, RuntimeError) as error:
                raise DataError(
                    f"{self.info.path}: damaged, decoding stops at {at / self.info.sample_rate:.3f} s of "
                    f"{self.info.seconds:.3f} s ({error})"
                ) from error
            if not len(frames):
                if self.info.format == "MP3":
                    break  # the length of an MP3 without an index is an estimate
                raise DataError(
                    f"{self.info.path}: ends at {at / self.info.sample_rate:.3f} s, before the "
                    f"{self.info.seconds:.3f} s of its header"
                )
            if not np.isfinite(frames).all():
                row, channel = np.argwhere(~np.isfinite(frames))[0]
                raise DataError(
                    f"{self.info.path}: sample {at + row} ({(at + row) / self.info.sample_rate:.3f} s) of "
                    f"channel {channel} is {frames[row, channel]}; expected finite samples"
                )
            at += len(frames)
            samples = self._to_mono(frames)
            loudest = max(loudest, np.abs(samples).max())
            yield samples
        if loudest == 0:
            warnings.warn(f"{self.info.path}: every sample is zero", AudioWarning, stacklevel=2)

    def _to_mono(self, frames: np.ndarray) -> np.ndarray:
        if frames.shape[1] == 1:
            return np.ascontiguousarray(frames[:, 0])
        if self._channel is None:
            return frames.mean(axis=1, dtype=np.float64).astype(np.float32)
        return np.ascontiguousarray(frames[:, self._channel])


def _open(file: Path) -> Any:
    """The file as a `soundfile.SoundFile`, or a `DataError` that says what is wrong with it."""
    soundfile = require("soundfile", purpose="reading audio files")
    if not file.exists():
        raise DataError(f"{file}: no such file")
    if not file.is_file():
        raise DataError(f"{file}: not a regular file; expected an audio file")
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    if not head:
        raise DataError(f"{file}: the file is empty (0 bytes)")
    try:
        sound = soundfile.SoundFile(file)
    except (soundfile.SoundFileError, RuntimeError, TypeError) as error:
        raise DataError(f"{file}: not an audio file that can be decoded; it starts with {head!r}") from error
    if sound.frames <= 0 or sound.samplerate <= 0:
        sound.close()
        raise DataError(f"{file}: the recording holds no samples")
    if sound.frames > 1 << 62:
        sound.close()
        raise DataError(
            f"{file}: its header does not state its length, as when it was written into a pipe; convert it"
        )
    return sound


def _info(file: Path, sound: Any) -> AudioInfo:
    # libsndfile clips the length of a cut-off WAV to what is there, and only its log tells.
    cut = re.search(r"^data : (\d+) \(should be (\d+)\)", sound.extra_info or "", re.MULTILINE)
    # A writer into a pipe leaves 0 or the largest number as the length; that is no damage.
    if cut and int(cut[2]) < int(cut[1]) < 0x7FFFFFFF:
        warnings.warn(
            f"{file}: cut off, it holds {int(cut[2])} of {int(cut[1])} bytes of sound",
            AudioWarning,
            stacklevel=4,
        )
    return AudioInfo(file, sound.samplerate, sound.channels, sound.frames, sound.format, sound.subtype)
