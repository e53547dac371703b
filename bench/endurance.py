"""Endurance of the live engine: a simulated hour, minutes at real-time pace, memory per session.

    python -m bench.endurance                                      into bench/results; about 35 minutes
    python -m bench.endurance --minutes 0.1 --simulated-minutes 1 --out /tmp    for orientation

Each part runs in a process of its own, on one thread:

- hour: the model of three inputs (bench_engine.py) at full speed over a generated recording in which inputs
  drop out, lose pieces, arrive late and have jittered stamps. The resident memory is sampled every 5
  simulated seconds. A fresh engine then gets the same pieces cut elsewhere, in another order and polled at
  other times, and the whole-recording pass gets the first two minutes: all estimates are compared bit for
  bit, by digests of 10 s each.
- pace: `--minutes` of wall clock each for that model and, twice, for the shipped speech model, on a source
  that waits for real time. The latency is from the push that made the estimate due, the last of the three
  of a tick, to the estimate in hand, both calls from Python. For speech also the processor time, of
  everything and of the engine's calls alone.
- sessions: engines over one model made and run one after the other, all kept.

`from, to` is the 95 % interval of a slope, with the residuals taken as independent. A percentile is the least
value that so many of the values do not exceed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import hashlib
import heapq
import itertools
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import wave
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from affekt.live import Engine, Estimate
from affekt.live.sources import Chunk, FileSource, Replay

from .__main__ import HERE, ONE_THREAD, machine
from .bench_engine import TICKS, model, run, second
from .conftest import voice
from .table import VERDICTS, duration, verdict, write_csv

COLUMNS = ["part", "what", "value", "unit", "low", "high", "floor", "aim", "verdict", "note"]
INPUTS = {"audio": (16000, (1,), 0.1), "eeg": (256, (32,), 20.0), "face": (30, (512,), 1.0)}
BLOCK = 10  # seconds of estimates in one digest
RSS_EVERY = 5  # seconds
SETTLED = 600  # seconds after which the memory may not grow
WHOLE = 120  # seconds that the whole-recording pass repeats
PAGE = os.sysconf("SC_PAGE_SIZE")
LEAST = 16  # bytes: what malloc gives out at least


# ---- arithmetic --------------------------------------------------------------------------------------------
def slope(x: np.ndarray, y: np.ndarray, share: float = 0.95) -> tuple[float, float, float]:
    """Slope of the least-squares line and the interval that holds it with probability `share`, for
    independent normal residuals; at least three points."""
    dx = x - x.mean()
    k = float(dx @ y / (dx @ dx))
    residual = y - y.mean() - k * dx
    error = np.sqrt(residual @ residual / (len(x) - 2) / (dx @ dx))
    half = float(stats.t.ppf((1 + share) / 2, len(x) - 2) * error)
    return k, k - half, k + half


def flat(low: float, high: float, rise: float) -> bool:
    """Whether memory does not grow, by the interval of its slope (B/s) and the rise along the line (B).

    A rise of less than a page cannot be told from nothing. Beyond that the interval must hold zero, and leave
    out the least that could be lost with every estimate."""
    return rise < PAGE or (low <= 0 and high < LEAST * TICKS)


def percentiles(values: np.ndarray) -> dict[str, float]:
    """p50, p99, p99.9 and the largest."""
    ranked = np.sort(values)
    places = {"p50": 500, "p99": 990, "p99.9": 999, "max": 1000}
    return {name: float(ranked[-(-place * len(ranked) // 1000) - 1]) for name, place in places.items()}


def row(part: str, what: str, value: Any, unit: str = "", **more: Any) -> dict[str, Any]:
    """A row of the table, judged where it has a floor (`value` at most that) or an aim."""
    made = dict.fromkeys(COLUMNS) | {"part": part, "what": what, "value": value, "unit": unit} | more
    if "verdict" not in more:
        made["verdict"] = verdict(lambda limit: value <= limit, made["floor"], made["aim"])
    return made


def memory() -> tuple[int, int]:
    """Bytes of this process that are resident, and that it has allocated."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * PAGE, int(fields[5]) * PAGE


# ---- the hour ----------------------------------------------------------------------------------------------
def pieces(seconds: float, seed: int = 0) -> Iterator[list[Chunk]]:
    """Pieces of a thirtieth of a second as they arrive, tick by tick, the same ones for a seed.

    About every minute an input drops out: seven times in ten for 0.3 to 0.9 s, else for 2 to 20 s. One piece
    in 500 is lost. One in 20 arrives up to 5 ticks late, and what follows of that input waits behind it; but
    the first one after a drop-out is on time, because nobody waits for an input that has fallen silent, and
    what it gives late then is left out as it comes. Stamps are off by up to 4 ms.
    """
    chance = np.random.default_rng([seed, 0])
    noise = np.random.default_rng([seed, 1])
    gone = dict.fromkeys(INPUTS, 0.0)  # until when
    leaves = {name: chance.exponential(60.0) for name in INPUTS}
    ready = dict.fromkeys(INPUTS, 0)
    away = dict.fromkeys(INPUTS, False)
    arriving: list[tuple[int, int, Chunk]] = []
    count = itertools.count()
    last = round(seconds * TICKS)
    for k in range(last):
        now = k / TICKS
        for name, (rate, shape, scale) in INPUTS.items():
            frames = rate * (k + 1) // TICKS - rate * k // TICKS
            size = (*shape, frames) if name == "eeg" else (frames, *shape) if name == "face" else (frames,)
            samples = noise.standard_normal(size, np.float32) * np.float32(scale)
            lost, late, off = chance.random() < 0.002, chance.random() < 0.05, chance.uniform(-0.004, 0.004)
            if now >= leaves[name]:
                short = chance.random() < 0.7
                gone[name] = now + (chance.uniform(0.3, 0.9) if short else chance.uniform(2.0, 20.0))
                leaves[name] = gone[name] + chance.exponential(60.0)
            if now < gone[name] or lost:
                away[name] |= now < gone[name]
                continue
            delay = int(chance.integers(1, 6)) if late else 0
            ready[name] = max(ready[name], k + (0 if away[name] else delay))
            away[name] = False
            stamp = rate * k // TICKS / rate + 0.01 + off
            heapq.heappush(
                arriving, (ready[name], next(count), Chunk(name, samples, stamp, rate, name == "face"))
            )
        came = []
        while arriving and (arriving[0][0] <= k or k == last - 1):
            came.append(heapq.heappop(arriving)[2])
        yield came


class Digests:
    """What was estimated, as one digest for every `BLOCK` seconds."""

    def __init__(self, seconds: float) -> None:
        self.blocks = np.zeros((int(seconds) // BLOCK + 2, 16), np.uint8)
        self.count = 0
        self._block, self._hash = -1, hashlib.blake2b(digest_size=16)

    def add(self, time: float, values: Any, valid: bool, present: Any) -> None:
        if int(time // BLOCK) != self._block:
            self.close()
            self._block, self._hash = int(time // BLOCK), hashlib.blake2b(digest_size=16)
        self._hash.update(np.float64(time).tobytes() + np.asarray(values, np.float32).tobytes())
        self._hash.update(bytes([bool(valid), *map(bool, present)]))
        self.count += 1

    def estimate(self, e: Estimate) -> None:
        self.add(e.time, list(e.values.values()), e.valid, e.present.values())

    def close(self) -> None:
        if self._block >= 0:
            self.blocks[self._block] = np.frombuffer(self._hash.digest(), np.uint8)

    def same(self, other: Digests, blocks: int | None = None) -> tuple[int, int]:
        """How many blocks hold estimates, and how many of these are the same in the other."""
        mine, theirs = self.blocks[:blocks], other.blocks[:blocks]
        held = mine.any(1) | theirs.any(1)
        return int(held.sum()), int((held & (mine == theirs).all(1)).sum())


def drain(engine: Engine, into: Digests) -> None:
    while (estimate := engine.poll()) is not None:
        into.estimate(estimate)


def give(engine: Engine, chunk: Chunk) -> None:
    taken = engine.push(chunk.modality, chunk.samples, chunk.time)
    if taken != chunk.frames:
        raise RuntimeError(f"{chunk.modality}: the queue took {taken} of {chunk.frames} samples")


def as_it_comes(seconds: float, seed: int) -> tuple[Engine, Digests, np.ndarray]:
    """The engine, what it estimated, and the memory: seconds and bytes, every `RSS_EVERY` seconds."""
    engine, found = Engine(model()[0]), Digests(seconds)
    resident = np.zeros((int(seconds // RSS_EVERY) + 1, 2))
    resident += 1  # its own pages are there from the start
    every = TICKS * RSS_EVERY
    for k, came in enumerate(pieces(seconds, seed)):
        for chunk in came:
            give(engine, chunk)
        drain(engine, found)
        if k % every == 0:
            resident[k // every] = k / TICKS, memory()[0]
    engine.finish()
    drain(engine, found)
    found.close()
    return engine, found, resident[: len(range(0, round(seconds * TICKS), every))]


def cut_elsewhere(seconds: float, seed: int) -> tuple[Engine, Digests]:
    """The same pieces cut in two and polled twelve ticks at a time, input by input in any order."""
    engine, found = Engine(model()[0]), Digests(seconds)
    chance = np.random.default_rng([seed, 2])
    ticks = pieces(seconds, seed)
    while group := list(itertools.islice(ticks, 12)):
        for name in chance.permutation(list(INPUTS)):
            for chunk in (chunk for came in group for chunk in came if chunk.modality == name):
                at = int(chance.integers(0, chunk.frames + 1))
                stamp: float | None = chunk.time
                for piece in (chunk.cut(0, at), chunk.cut(at)):
                    if piece.frames:
                        give(engine, piece._replace(time=stamp))
                        stamp = None
        drain(engine, found)
    engine.finish()
    drain(engine, found)
    found.close()
    return engine, found


def in_one_pass(seconds: float, seed: int, whole: float) -> Digests:
    """The whole-recording pass over the pieces of the first `whole` seconds."""
    given: dict[str, list[tuple[float, np.ndarray]]] = {name: [] for name in INPUTS}
    ticks = itertools.islice(pieces(seconds, seed), int(whole + 3 * BLOCK) * TICKS)
    for chunk in itertools.chain(*ticks):
        if chunk.time < whole + 2 * BLOCK:
            given[chunk.modality].append((chunk.time, chunk.samples))
    result, found = model()[0].run(given), Digests(whole + 3 * BLOCK)
    for estimate in zip(result.times, result.values, result.valid, result.present, strict=True):
        found.add(*estimate)
    found.close()
    return found


def hour(minutes: float, seed: int = 0) -> list[dict[str, Any]]:
    """Run the recording of so many minutes and compare."""
    part, seconds = "hour", 60 * minutes
    began = time.perf_counter()
    engine, found, resident = as_it_comes(seconds, seed)
    took = time.perf_counter() - began
    rows = [
        row(part, "simulated", minutes, "min", note=f"{seconds / took:.0f} times real time, pieces included")
    ]
    times, sizes = resident[resident[:, 0] >= min(SETTLED, seconds / 6)].T
    if len(times) > 2:
        k, low, high = slope(times, sizes)
        rise = k * (times[-1] - times[0])
        met = flat(low, high, rise)
        rows.append(
            row(
                part, f"slope of the resident memory after {times[0]:g} s", k * 3600, "B/h",
                low=low * 3600, high=high * 3600, floor=0, verdict="floor" if met else "MISS",
                note=f"{rise:.0f} B over that stretch along the line; a page has {PAGE} B",
            )
        )  # fmt: skip
        rows.append(row(part, f"resident memory after {times[0]:g} s", sizes[0], "B"))
        rows.append(row(part, "highest resident memory from then on", sizes.max(), "B"))
        rows.append(row(part, "resident memory at the end", sizes[-1], "B"))
    other, again = cut_elsewhere(seconds, seed)
    blocks, same = found.same(again)
    rows.append(
        row(
            part,
            f"blocks of {BLOCK} s that a fresh engine gave otherwise",
            blocks - same,
            f"of {blocks}",
            floor=0,
        )
    )
    whole = min(WHOLE, int(seconds) // BLOCK * BLOCK)
    blocks, same = found.same(in_one_pass(seconds, seed, whole), whole // BLOCK)
    rows.append(
        row(
            part,
            f"blocks of {BLOCK} s that the whole pass gave otherwise",
            blocks - same,
            f"of {blocks}",
            floor=0,
        )
    )
    by_input = {name: engine.counters(name) for name in INPUTS}
    for counter, count in engine.counters().items():
        told = ", ".join(f"{name} {counted[counter]:,}" for name, counted in by_input.items())
        floor = 0 if counter in ("late", "refused", "rejected") else None
        rows.append(row(part, f"counted: {counter}", count, floor=floor, note=told))
    if other.counters()["late"]:
        raise RuntimeError("the second engine got samples too late, so its estimates compare with nothing")
    return rows


# ---- real-time pace ----------------------------------------------------------------------------------------
class Steady(Replay):
    """All inputs of the model of three, a thirtieth of a second each, without trouble."""

    def __init__(self, seconds: float, **pacing: Any) -> None:
        super().__init__("face", TICKS, **pacing)
        self.seconds = seconds

    def chunks(self) -> Iterator[Chunk]:
        for k in range(round(self.seconds * TICKS)):
            for name, samples in second()[k % TICKS]:
                rate = INPUTS[name][0]
                yield Chunk(name, samples, rate * k // TICKS / rate, rate, name == "face")


def paced(engine: Engine, source: Iterable[Chunk]) -> dict[str, Any]:
    """Push every chunk, poll, and say how long it took.

    Returns:
        latency: seconds from the push to each estimate; behind: seconds from when a chunk was due to its
        push; wall, cpu, engine_cpu: seconds in all, of this process, and of its calls of the engine.
    """
    latency: deque[float] = deque()
    behind: deque[float] = deque()
    engine_cpu = 0.0
    start, cpu = time.perf_counter(), time.process_time()
    for chunk in source:
        before = time.thread_time()
        pushed = time.perf_counter()
        engine.push(chunk.modality, chunk.samples, chunk.time)
        while engine.poll() is not None:
            latency.append(time.perf_counter() - pushed)
        engine_cpu += time.thread_time() - before
        behind.append(pushed - start - chunk.end)
    return {
        "latency": np.array(latency),
        "behind": np.array(behind),
        "wall": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "engine_cpu": engine_cpu,
    }


def latency_rows(part: str, who: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of percentiles; the p99 is judged by the p50."""
    at = percentiles(found["latency"])
    rows = [row(part, f"{who}: latency, {name}", value, "s") for name, value in at.items()]
    rows[0]["note"] = f"{len(found['latency'])} estimates"
    rows.append(row(part, f"{who}: p99 / p50", at["p99"] / at["p50"], floor=2, aim=1.3))
    woken = percentiles(found["behind"])
    note = "how late the machine woke the process; not in the latency"
    late = f"{who}: the source handed over late by"
    rows += [row(part, f"{late}, {name}", woken[name], "s", note=note) for name in ("p99", "max")]
    return rows


def pace_fused(minutes: float) -> list[dict[str, Any]]:
    """The model of three inputs at real-time pace."""
    engine = Engine(model()[0])
    run(engine)
    engine.reset()
    found = paced(engine, Steady(60 * minutes, speed=1.0))
    return latency_rows("pace", "audio, EEG and face", found)


def pace_speech(minutes: float) -> list[dict[str, Any]]:
    """The shipped speech model at real-time pace, from a file, in pieces as `affekt stream` takes them and in
    small ones."""
    part, rows = "pace", []
    engine = Engine("speech-small")
    rate = int(engine.model.sample_rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "voice.wav"
        spoken = np.resize(voice(60.0, rate), round(60 * minutes * rate))
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, rate, 0, "NONE", ""))
            file.writeframes(np.round(spoken * 32767).astype("<i2").tobytes())
        warm = paced(engine, FileSource(path, sample_rate=rate, chunk=rate // 10))
        for ms in (100, 20):
            who = f"speech in pieces of {ms} ms"
            engine.reset()
            found = paced(engine, FileSource(path, sample_rate=rate, chunk=rate * ms // 1000, speed=1.0))
            rows += latency_rows(part, who, found)
            for key, what in (("cpu", "source included"), ("engine_cpu", "push and poll")):
                share = 100 * found[key] / found["wall"]
                rows.append(row(part, f"{who}: share of one core, {what}", share, "%", floor=1, aim=0.2))
    share = 100 * warm["engine_cpu"] / (60 * minutes)
    note = "pieces of 100 ms; at real-time pace the caches are cold after every wait"
    rows.append(row(part, "speech back to back: push and poll per time of speech", share, "%", note=note))
    return rows


# ---- memory per session ------------------------------------------------------------------------------------
def sessions(count: int) -> list[dict[str, Any]]:
    """Make and run so many engines over one model, three seconds each."""
    kept = []
    sizes = np.zeros((count, 2))
    spare = Engine(model()[0])  # what the first one loads is not counted
    for _ in range(3):
        run(spare)
    for i in range(count):
        kept.append(Engine(model()[0]))
        for _ in range(3):
            run(kept[-1])
        sizes[i] = memory()
    rows = [row("sessions", "sessions", count)]
    for name, column in zip(("resident", "allocated"), sizes.T, strict=True):
        k, low, high = slope(np.arange(count, dtype=float), column)
        rows.append(row("sessions", f"{name} per session", k, "B", low=low, high=high, floor=2e6))
    state = model()[0].native.state_bytes
    rows.append(row("sessions", "of it states", state, "B", note="the rest are queues, clocks and Python"))
    return rows


# ---- the table ---------------------------------------------------------------------------------------------
def shown(value: Any, unit: str) -> str:
    """A value with its unit, as it reads best."""
    if value is None:
        return ""
    if unit == "s":
        return duration(value * 1e6)
    figure = f"{value:,.0f}" if unit in ("B", "B/h") or float(value).is_integer() else f"{value:.3g}"
    return f"{figure} {unit}".rstrip()


def markdown(rows: list[dict[str, Any]], about: list[str]) -> str:
    """The table as Markdown."""
    judged = [r["verdict"] for r in rows if r["verdict"]]
    counts = ", ".join(f"{judged.count(v)} {v}" for v in VERDICTS)
    lines = [f"# Endurance of the live engine, {datetime.date.today().isoformat()}", ""]
    lines += [*(f"- {line}" for line in about), f"- Of {len(judged)} rows with a floor or an aim: {counts}."]
    lines += (__doc__ or "").rstrip().splitlines()[1:]
    for part in dict.fromkeys(r["part"] for r in rows):
        lines += ["", f"## {part}", "", "| what | value | from, to | floor | aim | met | note |"]
        lines.append("|---|--:|--:|--:|--:|:-:|---|")
        for r in (r for r in rows if r["part"] == part):
            ends = ", ".join(shown(r[key], r["unit"]) for key in ("low", "high") if r[key] is not None)
            floor, aim = (f"<= {shown(r[k], '')}" if r[k] is not None else "" for k in ("floor", "aim"))
            cells = [r["what"], shown(r["value"], r["unit"]), ends, floor, aim, r["verdict"], r["note"]]
            lines.append(f"| {' | '.join(cell or '' for cell in cells)} |")
    return "\n".join(lines) + "\n"


def alone(part: Callable[[Any], list[dict[str, Any]]], argument: Any) -> list[dict[str, Any]]:
    """Run a part in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(part, argument).result()


def main(arguments: list[str] | None = None) -> int:
    """Run and write; 1 where a row is below its floor."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.endurance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="wall clock at real-time pace (default: 10)"
    )
    parser.add_argument("--simulated-minutes", type=float, default=60.0, help="at full speed (default: 60)")
    parser.add_argument(
        "--sessions", type=int, default=64, help="engines whose memory is measured (default: 64)"
    )
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder (default: bench/results)")
    options = parser.parse_args(arguments)
    for name, least in (("minutes", 1 / 60), ("simulated_minutes", 1 / 6), ("sessions", 3)):
        if not least <= getattr(options, name) < float("inf"):
            parser.error(
                f"--{name.replace('_', '-')}: expected at least {least:.3g}, got {getattr(options, name)}"
            )
    if not Path("/proc/self/statm").is_file():
        parser.error("needs /proc/self/statm, which this system has not")

    os.environ.update(ONE_THREAD)
    rows = []
    parts = (
        (hour, options.simulated_minutes),
        (pace_fused, options.minutes),
        (pace_speech, options.minutes),
        (sessions, options.sessions),
    )
    for part, argument in parts:
        print(f"{part.__name__}, {argument:g} ...", file=sys.stderr, flush=True)
        rows += alone(part, argument)
    whole = (options.minutes, options.simulated_minutes, options.sessions) == (10.0, 60.0, 64)
    name = f"{datetime.date.today().isoformat()}-{platform.machine()}-endurance{'' if whole else '-some'}"
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{name}.md"
    text = markdown(rows, machine())
    path.write_text(text)
    write_csv(rows, path.with_suffix(".csv"), COLUMNS)
    print(text)
    print(f"written: {path}, {path.with_suffix('.csv')}")
    return int(any(r["verdict"] == "MISS" for r in rows))


if __name__ == "__main__":
    sys.exit(main())
