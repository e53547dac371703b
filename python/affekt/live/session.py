"""Several sources, one engine: what runs them together, records them and knows how they are."""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from affekt import _checks
from affekt.errors import AffektError, DataError, InputError
from affekt.live.recording import Recorder
from affekt.live.sources import Chunk, End, Source, estimates

if TYPE_CHECKING:
    from affekt.live.engine import Engine, Estimate
    from affekt.live.sinks import Sink

__all__ = ["Health", "Session"]

_KEPT = 4096  # delays that the percentiles rest on
_JOIN_S = 2.0  # for the sources' threads to end; one that hangs in its driver is left behind


@dataclass(frozen=True, slots=True)
class Health:
    """How one source is doing.

    Attributes
    ----------
    modality : the input that it feeds.
    state : ``"waiting"`` (nothing came yet), ``"running"``, ``"ended"`` or ``"failed"``.
    problem : what failed, or what the engine refused last; else empty.
    time : seconds in the session up to which it has delivered; NaN before anything came.
    rate : samples per second that came in over the last seconds; NaN before that is known.
    queued : seconds of signal that wait.
    counters : the source's own (``delivered``, ``dropped``, ...), with what this session dropped added, and
        ``rejected``: chunks that the engine refused (not finite, a time that goes back); ``early``, where
        there were any: samples of a device from before the session, which are left out.
    """

    modality: str
    state: str
    problem: str
    time: float
    rate: float
    queued: float
    counters: dict[str, int]


class _Lane:
    """One source in a session: its chunks that wait, and what is known of it."""

    def __init__(self, source: Source, limit: float) -> None:
        self.source, self.limit = source, limit * source.rate
        self.waiting: deque[tuple[float, Chunk | End]] = deque()  # time.monotonic of arrival, chunk
        self.queued = 0  # samples
        self.dropped = self.rejected = self.early = 0
        self.passed = False  # the session's `seconds`
        self.thread: threading.Thread | None = None
        self.refused = False  # a replay that ended with a chunk that the engine does not take
        self.state, self.problem = "waiting", ""
        self.error: AffektError | None = None
        self.reached = math.nan
        self.offset: float | None = None
        self.seen: deque[tuple[float, int]] = deque(maxlen=64)  # arrival, samples

    @property
    def over(self) -> bool:
        return self.state in ("ended", "failed")

    def placed(self, chunk: Chunk, arrived: float, start: float, alone: bool) -> Chunk:
        """The chunk with its time in the session; of a clock that ran before, what lies in the session."""
        if self.offset is None:
            if self.source.clock == "monotonic":
                self.offset = -start
            elif self.source.clock == "own" and not alone:
                self.offset = arrived - start - chunk.end
            else:
                self.offset = 0.0
        if self.offset:
            chunk = chunk._replace(time=chunk.time + self.offset)
        if self.source.clock == "monotonic" and chunk.time < 0:
            before = min(math.ceil(-chunk.time * chunk.rate - 1e-6), chunk.frames)
            self.early += before
            chunk = chunk.cut(before)
            chunk = chunk._replace(time=max(chunk.time, 0.0))
        return chunk

    def arrived(self, chunk: Chunk, now: float) -> None:
        if self.error is None:  # the engine may have refused an earlier one by now
            self.state = "running"
        self.reached = chunk.end
        self.seen.append((now, chunk.frames))

    def failed(self, error: Exception) -> None:
        self.state, self.problem = "failed", str(error)
        self.error = (
            error if isinstance(error, AffektError) else DataError(f"{self.source.modality}: {error}")
        )
        self.error.__cause__ = error if self.error is not error else None

    def health(self) -> Health:
        rate = math.nan
        if len(self.seen) > 1 and (span := self.seen[-1][0] - self.seen[0][0]) > 0:
            rate = sum(count for _, count in list(self.seen)[1:]) / span
        counters = dict(self.source.counters())
        counters["dropped"] = counters.get("dropped", 0) + self.dropped
        counters["rejected"] = self.rejected
        if self.early:
            counters["early"] = self.early
        return Health(
            self.source.modality,
            self.state,
            self.problem,
            self.reached,
            rate,
            self.queued / self.source.rate,
            counters,
        )


class Session:
    """Sources, an engine and sinks, run together; iterate over it for the estimates.

    Live sources and those with a speed each have a thread of their own and a queue of `queue_s` seconds, so
    that a slow or dead one never holds up the others: its input is masked by the engine's clock after the
    model's silence, and is back with its first samples. One that ended or failed is not waited for at all.
    Where a queue is full, a live source loses the new chunk, which is counted and shows as a gap in the
    times; a replay waits. Replays without a speed are merged in the order of their times on the caller's
    thread, so their estimates are those of `affekt.Model.run`, as long as the engine counts nothing as
    ``late`` (never with `wait_s` infinite).

    Parameters
    ----------
    engine : a fresh engine, or one that was reset.
    sources : one for each input that is to be fed; a model with a clock does without the others.
    sinks : get every estimate before the caller does.
    recorder : writes down what the engine takes; a path makes one, once the sources are known to fit. When it
        fails (disk full), the session goes on without it.
    queue_s : seconds of signal that may wait per source.
    seconds : every input ends with its first chunk that begins there or later. In real time an input that has
        not come so far is waited for no longer than the engine would.
    clock : where arrival is read from, seconds; for tests.

    Raises
    ------
    InputError : a source feeds an input that the model does not have, at another rate or with other channels;
        two feed one input; a replay without a speed, or of another one, beside sources in real time; chunks
        in real time that are as long as the engine waits for an input; no source.
    InputError, DataError : what `Recorder` raises.

    Notes
    -----
    A chunk that the engine refuses (NaN, a time that goes back) ends a replay's part in the session, because
    a recording does not get better; of a live source it is left out and counted as ``rejected``.

    When all sources are over the rest of the estimates is given. Then the first error of a source, a sink or
    the recorder is raised, if there was any: everything that could be computed has been given by then, and
    `failures` lists them all.
    """

    def __init__(
        self,
        engine: Engine,
        sources: Source | Sequence[Source],
        *,
        sinks: Sequence[Sink] = (),
        recorder: Recorder | str | os.PathLike[str] | None = None,
        queue_s: float = 5.0,
        seconds: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        sources = [sources] if isinstance(sources, Source) else list(sources)
        self.engine, self._sinks, self._now = engine, list(sinks), clock
        self._until = seconds
        limit = _checks.number(queue_s, "queue_s", positive=True)
        _fit(sources, {str(spec["name"]): spec for spec in engine.model.inputs})
        self._lanes = {source.modality: _Lane(source, limit) for source in sources}
        paced = [source for source in sources if source.live or source.speed is not None]
        if paced and len(paced) < len(sources):
            free = next(source for source in sources if source not in paced)
            raise InputError(
                f"speed: the replay for {free.modality!r} would run ahead of the sources in real time; "
                "give it a speed, e.g. 1.0"
            )
        speeds = {1.0 if source.live else source.speed: source for source in paced}
        if len(speeds) > 1:
            (one, first), (other, second) = list(speeds.items())[:2]
            raise InputError(
                f"speed: expected one for all sources, got {one:g} for {first.modality!r} and {other:g} for "
                f"{second.modality!r}"
            )
        # An input whose chunks come no sooner than it is waited for is left out of every estimate.
        wait = math.inf
        if engine.model.clocked and len(sources) > 1:
            given = engine.options["wait_s"]
            wait = engine.model.timing["silence_s"] if given is None else given
        for source in paced:
            if 0 < wait <= source.chunk_s:
                raise InputError(
                    f"chunk: those of {source.modality!r} are {source.chunk_s:g} s long; expected less than "
                    f"the {wait:g} s that the engine waits for an input (wait_s)"
                )
        self._piece = wait / 2 if wait > 0 else math.inf
        self._grace = wait if paced else math.inf
        self._threaded = bool(paced) and (len(sources) > 1 or paced[0].live)
        self._wake = threading.Condition()
        self._closed = self._shut = False
        self._failures: list[tuple[str, AffektError]] = []
        self._delays: deque[float] = deque(maxlen=_KEPT)
        self._pushed: dict[str, float] = {}  # time of each input's last push
        self._newest = math.nan  # arrival of the chunk that is being pushed
        self._recorder = (
            recorder if recorder is None or isinstance(recorder, Recorder) else Recorder(recorder, engine)
        )

    # ---- running

    def __iter__(self) -> Iterator[Estimate]:
        """The estimates; see the notes of the class."""
        try:
            chunks = self._received() if self._threaded else self._merged()
            for estimate in estimates(self.engine, self._admitted(chunks), self._taken):
                self._delays.append(self._now() - self._newest)
                for sink in list(self._sinks):
                    try:
                        sink.write(estimate)
                    except BrokenPipeError:
                        raise  # the reader of standard output went away, which ends a command
                    except (AffektError, OSError) as error:
                        self._sinks.remove(sink)
                        self._failed(str(sink), error)
                        with contextlib.suppress(AffektError, OSError):  # has been said
                            sink.close()
                yield estimate
            if self._recorder is not None:
                self._guarded(self._recorder.finish)
        finally:
            self.close()
        for lane in self._lanes.values():
            if lane.error is not None:
                self._failures.append((lane.source.modality, lane.error))
        if self._failures:
            raise self._failures[0][1]

    def _admitted(self, chunks: Iterator[Chunk | End]) -> Iterator[Chunk | End]:
        """Chunks that the engine will take: it refuses a push whole and stays as it was."""
        # The engine would raise inside `estimates`, which cannot go on after that: what it would say of the
        # samples is asked for here.
        specs = {str(spec["name"]): spec for spec in self.engine.model.inputs}
        for chunk in chunks:
            if isinstance(chunk, End):
                # Without a clock nobody waits for anybody.
                if self.engine.model.clocked and not self._lanes[chunk.modality].passed:
                    yield chunk
                continue
            lane = self._lanes[chunk.modality]
            if chunk.time >= self._until:
                if not lane.passed and self.engine.model.clocked:
                    yield End(chunk.modality)
                lane.passed = True
                if chunk.time >= self._until + self._grace or all(
                    other.passed or (other.over and not other.waiting) for other in self._lanes.values()
                ):
                    return
                continue
            if lane.refused:
                continue  # what was still queued behind the chunk that ended it
            try:
                _check_chunk(chunk, specs[chunk.modality], self._pushed.get(chunk.modality, -math.inf))
            except InputError as error:
                lane.rejected += 1
                lane.problem = str(error)
                if not lane.source.live:
                    lane.refused = True
                    lane.failed(DataError(str(error)))
                continue
            yield chunk

    def _merged(self) -> Iterator[Chunk | End]:
        """The chunks of replays in the order in which they would have been recorded."""

        def read(lane: _Lane) -> Iterator[tuple[float, int, Chunk | End]]:
            order, reached = list(self._lanes.values()).index(lane), -math.inf
            try:
                for chunk in lane.source:
                    # A long one in pieces, or the others would run ahead by more than the engine waits.
                    most = max(1, chunk.frames)
                    if math.isfinite(self._piece):
                        most = max(1, int(self._piece * chunk.rate))
                    for first in range(0, chunk.frames, most) or (0,):
                        if self._closed or lane.error is not None:
                            break
                        piece = chunk if most >= chunk.frames else chunk.cut(first, first + most)
                        reached = piece.end
                        yield reached, order, piece
                    if self._closed or lane.error is not None:
                        break
                if lane.error is None:
                    lane.state = "ended"
            except Exception as error:  # the others go on; it is raised in the end
                lane.failed(error)
            yield reached, order, End(lane.source.modality)

        def key(item: tuple[float, int, Chunk | End]) -> tuple[float, int]:
            return item[:2]

        for _, _, chunk in heapq.merge(*(read(lane) for lane in self._lanes.values()), key=key):
            self._newest = self._now()
            if isinstance(chunk, Chunk):
                self._lanes[chunk.modality].arrived(chunk, self._newest)
            yield chunk

    def _received(self) -> Iterator[Chunk | End]:
        """The chunks of all sources as they arrive."""
        start = self._now()
        for lane in self._lanes.values():
            lane.thread = threading.Thread(
                target=self._listen, args=(lane, start), name=f"affekt {lane.source.modality}", daemon=True
            )
            lane.thread.start()
        while True:
            with self._wake:
                while not (ready := [lane for lane in self._lanes.values() if lane.waiting]):
                    if self._closed or all(lane.over for lane in self._lanes.values()):
                        return
                    self._wake.wait()
                lane = min(ready, key=lambda lane: lane.waiting[0][0])
                self._newest, chunk = lane.waiting.popleft()
                if isinstance(chunk, Chunk):
                    lane.queued -= chunk.frames
                self._wake.notify_all()
            yield chunk

    def _listen(self, lane: _Lane, start: float) -> None:
        """On the source's thread."""
        problem: Exception | None = None
        try:
            for chunk in lane.source:
                now = self._now()
                chunk = lane.placed(chunk, now, start, len(self._lanes) == 1)
                if not chunk.frames:
                    continue
                with self._wake:
                    lane.arrived(chunk, now)
                    # A chunk longer than the queue goes into an empty one, or it would never go anywhere.
                    while lane.queued and lane.queued + chunk.frames > lane.limit and not self._closed:
                        if lane.source.live:
                            lane.dropped += chunk.frames
                            break
                        self._wake.wait()
                    else:
                        lane.waiting.append((now, chunk))
                        lane.queued += chunk.frames
                        self._wake.notify_all()
                    if self._closed or lane.error is not None:
                        return
        except Exception as error:  # the others go on; it is raised in the end
            problem = error
        finally:
            with self._wake:
                if problem is not None and not self._closed:
                    lane.failed(problem)
                elif lane.error is None:
                    lane.state = "ended"
                lane.waiting.append((self._now(), End(lane.source.modality)))
                self._wake.notify_all()

    def _taken(self, taken: Chunk | End) -> None:
        if isinstance(taken, Chunk):
            self._pushed[taken.modality] = taken.time
        if self._recorder is not None:
            recorder = self._recorder
            self._guarded(lambda: recorder.write(taken))

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except (AffektError, OSError) as error:
            self._failed("recording", error)
            recorder, self._recorder = self._recorder, None
            if recorder is not None:
                with contextlib.suppress(AffektError, OSError):  # has been said
                    recorder.close()

    def _failed(self, what: str, error: Exception) -> None:
        known = error if isinstance(error, AffektError) else DataError(f"{what}: {error}")
        known.__cause__ = error if known is not error else error.__cause__
        self._failures.append((what, known))

    def close(self) -> None:
        """End it: no more chunks are taken; sources, sinks and recorder are closed.

        What fails in that is in `failures`."""
        self.stop()
        if self._shut:
            return
        self._shut = True
        # Whatever one of them raises, the others are closed: what they hold would be lost.
        for lane in self._lanes.values():
            try:
                lane.source.close()
            except Exception as error:
                self._failed(f"closing {lane.source.modality}", error)
        late = time.monotonic() + _JOIN_S
        for lane in self._lanes.values():
            if lane.thread is not None and lane.thread is not threading.current_thread():
                lane.thread.join(max(0.0, late - time.monotonic()))
        for sink in self._sinks:
            try:
                sink.close()
            except Exception as error:
                self._failed(str(sink), error)
        self._sinks = []
        if self._recorder is not None:
            self._guarded(self._recorder.close)
            self._recorder = None

    def stop(self) -> None:
        """Take no more chunks; iterating goes on to the end of what was taken. Any thread may call it."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- looking

    @property
    def failures(self) -> dict[str, str]:
        """What has failed so far (a modality, a sink, ``"recording"``) and why."""
        found = {what: str(error) for what, error in self._failures}
        lanes = {
            lane.source.modality: lane.problem for lane in self._lanes.values() if lane.state == "failed"
        }
        return {**lanes, **found}

    def health(self) -> dict[str, Health]:
        """How every source is doing, by modality."""
        with self._wake:
            return {name: lane.health() for name, lane in self._lanes.items()}

    def delays(self) -> dict[str, float]:
        """Seconds from a chunk's arrival to the estimate that it made due, waiting in the queue included:
        ``p50``, ``p99``, ``p99.9`` of the last 4096; NaN before there are any."""
        taken = np.array(list(self._delays))  # a list first: another thread may be adding
        if not taken.size:
            return {"p50": math.nan, "p99": math.nan, "p99.9": math.nan}
        return {f"p{q:g}": float(np.percentile(taken, q)) for q in (50, 99, 99.9)}


def _fit(sources: Sequence[Source], specs: dict[str, dict[str, Any]]) -> None:
    """Refuse sources that do not fit the model."""
    if not sources:
        raise InputError("sources: expected at least one, got none")
    seen: set[str] = set()
    for source in sources:
        if not isinstance(source, Source):
            raise InputError(f"sources: expected affekt.live sources, got {type(source).__name__}")
        name = source.modality
        if name not in specs:
            raise InputError(f"sources: the model has no input {name!r}; {_checks.nearest(name, specs)}")
        if name in seen:
            raise InputError(f"sources: two feed the input {name!r}; expected one for each")
        seen.add(name)
        rate, channels = float(specs[name]["rate"]), int(specs[name]["channels"])
        if abs(source.rate / rate - 1) > 1e-6:
            raise InputError(f"rate: the model's input {name!r} takes {rate:g} Hz, got {source.rate:g} Hz")
        if source.channels != channels:
            raise InputError(
                f"channels: the model's input {name!r} takes {channels} values per sample, "
                f"got {source.channels}"
            )


def _check_chunk(chunk: Chunk, spec: dict[str, Any], last: float) -> None:
    """Refuse what `Engine.push` would refuse."""
    from affekt._native import as_frames

    frames = as_frames(chunk.samples, spec)
    if frames.dtype != np.int16 and not (np.abs(frames) <= 1e6).all():
        _checks.finite(frames, f"{chunk.modality}: samples")
        raise InputError(f"{chunk.modality}: samples: expected values within +-1e6")
    if not math.isfinite(chunk.time) or chunk.time < last:
        raise InputError(
            f"{chunk.modality}: time: expected seconds that do not go back, got {chunk.time:g} after {last:g}"
        )
