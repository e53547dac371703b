"""Lab Streaming Layer: samples from the network, estimates to it, and its recordings (XDF)."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.errors import DataError
from affekt.live.sinks import Sink
from affekt.live.sources import Chunk, Replay, Source, runs

if TYPE_CHECKING:
    from affekt._native import Model
    from affekt.live.engine import Estimate

__all__ = ["LslSink", "LslSource", "XdfSource"]

_LINGER_S = 0.5
_BACK_S = 0.1  # stamps that go back by less are clock correction


def _lsl() -> Any:
    """mne_lsl.lsl, whose wheels carry liblsl."""
    try:
        return require("mne_lsl.lsl", purpose="the Lab Streaming Layer")
    except (OSError, RuntimeError) as error:
        raise DataError(f"the Lab Streaming Layer needs the library liblsl: {error}") from error


class LslSource(Source):
    """Samples of one stream of the Lab Streaming Layer.

    Stamps are brought to this machine's clock by LSL's clock synchronisation and passed on; `Engine` counts
    from them. A step back of less than 0.1 s, which the correction makes, is taken as standing still and
    counted as ``backward``. liblsl holds up to `queue_seconds`; beyond that it drops the oldest, a gap
    in the times. A stream that comes back under its source id is taken up again.

    Parameters
    ----------
    stream : name of the stream; where none has that name, its type (``"EEG"``).
    spec : an entry of `affekt.Model.inputs`, which it is to feed: name, kind, rate, channels.
    channels : names of the stream's channels to use, in the model's order; None: all.
    search : seconds to look for the stream.
    patience : seconds without a sample after which it counts as gone.
    queue_seconds : see above.

    Raises
    ------
    DataError : there is no such stream or several; another rate than the model's (a stream of irregular rate
        is taken for rows) or other channels; text instead of numbers. While iterating: it is gone, or its
        stamps go back.
    MissingExtraError : mne-lsl is not installed.
    """

    live = True
    clock = "monotonic"

    def __init__(
        self,
        stream: str,
        spec: Mapping[str, Any],
        *,
        channels: Sequence[str] | None = None,
        search: float = 10.0,
        patience: float = 30.0,
        queue_seconds: float = 60.0,
    ) -> None:
        lsl = _lsl()
        self.modality, self.rate = str(spec["name"]), float(spec["rate"])
        self.channels, self._rows = int(spec["channels"]), spec["kind"] == "rows"
        self._patience = _checks.number(patience, "patience", positive=True)
        found = self._found(lsl, stream, _checks.number(search, "search", positive=True))
        where = f"stream {found.name!r}"
        if found.dtype is str or found.dtype == "string":
            raise DataError(f"{where}: expected numbers, got text")
        rate = float(found.sfreq)
        if not (rate == 0 and self._rows) and abs(rate / self.rate - 1) > 0.001:
            raise DataError(f"{where}: expected {self.rate:g} Hz for {self.modality!r}, got {rate:g} Hz")
        seconds = _checks.number(queue_seconds, "queue_seconds", positive=True)
        self._inlet = lsl.StreamInlet(found, max_buffered=math.ceil(seconds), processing_flags=["clocksync"])
        try:
            self._inlet.open_stream(timeout=search)
            info = self._inlet.get_sinfo(timeout=search)
        except (TimeoutError, RuntimeError) as error:
            raise DataError(f"{where}: cannot be opened: {error}") from error
        names = info.get_channel_names() or [None] * info.n_channels
        self._picks = _picks(where, names, channels, self.channels)
        self._to_monotonic = time.monotonic() - lsl.local_clock()
        self._where = where
        self._delivered = self._backward = 0
        self._closed = threading.Event()

    @staticmethod
    def _found(lsl: Any, stream: str, search: float) -> Any:
        # Both at once would need an XPath query; the name is what people give.
        for key in ("name", "stype"):
            streams = lsl.resolve_streams(timeout=search if key == "name" else 1.0, **{key: stream})
            if len(streams) > 1:
                raise DataError(f"stream {stream!r}: expected one of that {key}, found {len(streams)}")
            if streams:
                return streams[0]
        there = sorted({info.name for info in lsl.resolve_streams(timeout=1.0)})
        raise DataError(f"stream {stream!r}: not found; there: {', '.join(there) or 'none'}")

    def __iter__(self) -> Iterator[Chunk]:
        last, heard = -np.inf, time.monotonic()
        while not self._closed.is_set():
            block, stamps = self._inlet.pull_chunk(timeout=0.0)
            if not len(stamps):
                if time.monotonic() - heard > self._patience:
                    raise DataError(f"{self._where} gave nothing for {self._patience:g} s; is it unplugged?")
                self._closed.wait(0.005)  # pull_chunk waits for a full block otherwise
                continue
            heard = time.monotonic()
            times = np.asarray(stamps, np.float64) + self._to_monotonic
            floor = np.maximum.accumulate(np.concatenate([[last], times]))[:-1]
            if (worst := float(np.max(floor - times))) > _BACK_S:
                raise DataError(f"{self._where}: stamps go back by {worst:g} s")
            self._backward += int((times < floor).sum())
            times = np.maximum(times, floor)
            last = float(times[-1])
            values = np.asarray(block, np.float32)[:, self._picks]
            for first, end in runs(times, self.rate, len(times)):
                yield _chunk(self.modality, values[first:end], float(times[first]), self.rate, self._rows)
                self._delivered += end - first

    def counters(self) -> dict[str, int]:
        """Samples delivered, dropped (what LSL drops it does not tell: see the gaps), and steps back."""
        return {"delivered": self._delivered, "dropped": 0, "backward": self._backward}

    def close(self) -> None:
        """Take no more samples; the connection ends with this object, because closing it first is what
        liblsl may crash on."""
        self._closed.set()


class LslSink(Sink):
    """Estimates as a stream of irregular rate.

    Channels, float32: the model's columns, ``valid`` (1 or 0), ``confidence`` (NaN where the model gives
    none) and ``age``, which is `Estimate.latency`. The stamp is the moment of sending. `close` waits 0.5 s
    for what is on its way, where somebody listens: liblsl drops it with the outlet and cannot say.

    Parameters
    ----------
    name : of the stream; its type is ``"Affect"``.
    model : whose estimates will come.

    Raises
    ------
    MissingExtraError : mne-lsl is not installed. DataError : no liblsl.
    """

    def __init__(self, name: str, model: Model) -> None:
        lsl = _lsl()
        self._name, self._columns = name, list(model.columns)
        names = [*self._columns, "valid", "confidence", "age"]
        info = lsl.StreamInfo(name, "Affect", len(names), 0.0, "float32", f"affekt-{model.hash[:16]}-{name}")
        info.set_channel_names(names)
        self._outlet = lsl.StreamOutlet(info)

    def write(self, estimate: Estimate) -> None:
        confidence = np.nan if estimate.confidence is None else estimate.confidence
        values = [estimate[name] for name in self._columns]
        self._outlet.push_sample(
            np.array([*values, estimate.valid, confidence, estimate.latency], np.float32)
        )

    def close(self) -> None:
        if self._outlet is not None and self._outlet.has_consumers:
            time.sleep(_LINGER_S)
        self._outlet = None  # which takes the stream off the network

    def __str__(self) -> str:
        return f"lsl:{self._name}"


class XdfSource(Replay):
    """Replays one stream of an XDF recording (LabRecorder's), with its clocks synchronised.

    Times count from the first sample of any stream with numbers in the file, so that sources of several
    streams of one file agree. The file is read whole.

    Parameters
    ----------
    path : the recording.
    spec : an entry of `affekt.Model.inputs`, which it is to feed.
    stream : name or type of the stream; None: the only one that has the model's rate and enough channels.
    channels : names of the channels to use, in the model's order; None: all.
    chunk_s : most seconds per chunk; a gap begins another.
    speed, clock, sleep : see `affekt.live.sources.Replay`.

    Raises
    ------
    DataError : the file cannot be read, has no such stream, or it has another rate or other channels; stamps
        go back by more than 0.1 s. Smaller steps are taken as standing still and counted as ``backward``.
    MissingExtraError : pyxdf is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        spec: Mapping[str, Any],
        *,
        stream: str | None = None,
        channels: Sequence[str] | None = None,
        chunk_s: float = 0.1,
        **pacing: Any,
    ) -> None:
        super().__init__(str(spec["name"]), float(spec["rate"]), int(spec["channels"]), **pacing)
        self.path = Path(path)
        xdf = require("pyxdf", purpose="reading XDF recordings")
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file")
        log = logging.getLogger("pyxdf.pyxdf")
        log.addFilter(_dejittered)
        try:
            streams, _ = xdf.load_xdf(str(self.path), dejitter_timestamps=False)
        except Exception as error:  # pyxdf raises whatever parsing makes it
            raise DataError(f"{self.path}: not an XDF recording: {error}") from error
        finally:
            log.removeFilter(_dejittered)
        streams = [s for s in streams if isinstance(s["time_series"], np.ndarray) and len(s["time_stamps"])]
        known = {str(s["info"]["name"][0]): s for s in streams}
        fits = [s for s in streams if stream in (None, s["info"]["name"][0], s["info"]["type"][0])]
        if stream is None:
            fits = [s for s in fits if abs(_nominal(s) / self.rate - 1) <= 0.001]
        if len(fits) != 1:
            wanted = f"one stream {stream!r}" if stream else f"one stream at {self.rate:g} Hz; name it"
            raise DataError(
                f"{self.path}: expected {wanted}, got {len(fits)} of {', '.join(known) or 'none'}"
            )
        chosen = fits[0]
        where = f"{self.path}: stream {chosen['info']['name'][0]!r}"
        rate, self._rows = _nominal(chosen), spec["kind"] == "rows"
        if not (rate == 0 and self._rows) and abs(rate / self.rate - 1) > 0.001:
            raise DataError(f"{where}: expected {self.rate:g} Hz, got {rate:g} Hz")
        picks = _picks(where, _channel_names(chosen), channels, self.channels)
        self._values = np.asarray(chosen["time_series"], np.float32)[:, picks]
        stamps = np.asarray(chosen["time_stamps"], np.float64)
        reached = np.maximum.accumulate(stamps)
        if (worst := float(np.max(reached - stamps))) > _BACK_S:
            raise DataError(
                f"{where}: stamps go back by {worst:g} s at sample {int(np.argmax(reached - stamps))}"
            )
        self._backward = int((stamps < reached).sum())
        self._times = reached - min(s["time_stamps"][0] for s in streams)
        self._most = max(1, round(chunk_s * self.rate))

    def chunks(self) -> Iterator[Chunk]:
        for first, last in runs(self._times, self.rate, self._most):
            yield _chunk(
                self.modality, self._values[first:last], float(self._times[first]), self.rate, self._rows
            )

    def counters(self) -> dict[str, int]:
        """As of every replay, and steps back."""
        return {**super().counters(), "backward": self._backward}


def _dejittered(record: logging.LogRecord) -> bool:
    """False for what pyxdf says of every stream that it does not dejitter."""
    return "Segments and clock-segments differ" not in record.getMessage()


def _chunk(modality: str, values: np.ndarray, when: float, rate: float, rows: bool) -> Chunk:
    """A chunk of (time, values), in the layout of the engine's inputs."""
    samples = values[:, 0] if values.shape[1] == 1 else values if rows else values.T
    return Chunk(modality, samples, when, rate, rows)


def _picks(where: str, names: Sequence[Any], wanted: Sequence[str] | None, count: int) -> list[int]:
    """Places of the wanted channels; as many as the model takes."""
    lacking = [name for name in wanted or () if name not in names]
    if lacking:
        raise DataError(
            f"{where}: expected channels {_checks.some(lacking)}, got {_checks.some(list(names))}"
        )
    picks = list(range(len(names))) if wanted is None else [list(names).index(name) for name in wanted]
    if len(picks) != count:
        raise DataError(
            f"{where}: expected {count} channels, got {len(picks)}; choose with channels= among "
            f"{_checks.some(list(names))}"
        )
    return picks


def _nominal(stream: Mapping[str, Any]) -> float:
    return float(stream["info"]["nominal_srate"][0])


def _channel_names(stream: Mapping[str, Any]) -> list[Any]:
    """Labels of a stream in XDF; numbers where it has none."""
    count = int(stream["info"]["channel_count"][0])
    try:
        entries = stream["info"]["desc"][0]["channels"][0]["channel"]
        names = [entry["label"][0] for entry in entries]
    except (KeyError, TypeError, IndexError):
        names = []
    return names if len(names) == count else [str(i) for i in range(count)]
