"""Sources and sinks by a line of text, as the command line takes them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affekt import _checks
from affekt.errors import InputError

if TYPE_CHECKING:
    from affekt._native import Model
    from affekt.live.sinks import Sink
    from affekt.live.sources import Source

__all__ = ["open_sink", "open_source"]

_VIDEO = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpg", ".webm"}
_TABLES = {".csv", ".parquet"}


def open_source(words: str, model: Model, *, speed: float | None = None, chunk_s: float = 0.1) -> Source:
    """The source that ``[INPUT=]WHAT[?OPTION=VALUE&...]`` names.

    =====================  ====================================================================
    WHAT                   is
    =====================  ====================================================================
    ``mic[:DEVICE]``       `MicrophoneSource`
    ``camera[:NUMBER]``    `CameraSource`; options ``detector`` (a file), ``embedding`` (a file)
    ``lsl:NAME``           `LslSource`, the stream of that name or type; option ``channels``
    ``generated[:S]``      `GeneratedSource` of so many seconds; option ``seed``
    ``FILE.xdf``           `XdfSource`; options ``stream``, ``channels``
    a table                `RowsSource` of .csv or .parquet; options ``columns``, ``origin``, ``time``
    a video, for rows      `CameraSource`, as of a camera
    another file           `FileSource` for audio, `EegSource` for a signal; option ``channels``
    =====================  ====================================================================

    Parameters
    ----------
    words : INPUT may be left out where the model has one input.
    model : whose input it is to feed, at its rate.
    speed : of replays, see `affekt.live.sources.Replay`.
    chunk_s : seconds per chunk of audio, EEG and generated signals.

    Raises
    ------
    InputError : an input that the model does not have, or an option that the source does not take; and what
        the sources raise.
    """
    name, what, options = _parts(words, model)
    spec = next(entry for entry in model.inputs if entry["name"] == name)
    rate, kind = float(spec["rate"]), str(spec["kind"])
    chunk = max(1, round(chunk_s * rate))
    head, _, tail = what.partition(":")
    given = _Options(words, options)
    found: Source
    if head == "mic":
        from affekt.live.sources import MicrophoneSource

        device = int(tail) if tail.isdigit() else tail or None
        given.end()
        found = MicrophoneSource(sample_rate=rate, chunk=chunk, device=device, modality=name)
    elif head == "camera" or (kind == "rows" and Path(what).suffix.lower() in _VIDEO):
        found = _camera(int(tail or 0) if head == "camera" else what, spec, speed, given)
    elif head == "lsl":
        from affekt.live.lsl import LslSource

        channels = given.get("channels", _listed)
        given.end()
        found = LslSource(tail, spec, channels=channels)
    elif head == "generated":
        from affekt.live.sources import GeneratedSource

        seed = given.get("seed", int) or 0
        given.end()
        seconds = None if not tail else _number(tail, words)
        found = GeneratedSource(spec, seconds=seconds, seed=seed, chunk_seconds=chunk_s, speed=speed)
    elif Path(what).suffix.lower() == ".xdf":
        from affekt.live.lsl import XdfSource

        stream, channels = given.get("stream", str), given.get("channels", _listed)
        given.end()
        found = XdfSource(what, spec, stream=stream, channels=channels, speed=speed)
    elif kind == "audio":
        from affekt.live.sources import FileSource

        given.end()
        found = FileSource(what, sample_rate=rate, chunk=chunk, modality=name, speed=speed)
    elif kind == "rows" or Path(what).suffix.lower() in _TABLES:
        from affekt.live.sources import RowsSource

        origin = given.get("origin", str)
        columns, stamps = given.get("columns", _listed), given.get("time", str) or "time"
        given.end()
        found = RowsSource(
            what,
            rate,
            modality=name,
            columns=columns,
            rows=kind == "rows",
            chunk=1 if kind == "rows" else chunk,
            origin="first" if origin == "first" else 0.0 if origin is None else _number(origin, words),
            time_column=stamps,
            speed=speed,
        )
    else:
        from affekt.live.sources import EegSource

        channels = given.get("channels", _listed)
        given.end()
        found = EegSource(
            what, rate, modality=name, channels=channels, unit=str(spec["unit"]), chunk=chunk, speed=speed
        )
    return found


def _camera(device: int | str, spec: Mapping[str, Any], speed: float | None, given: _Options) -> Source:
    from affekt.live.camera import CameraSource, Embedding

    detector, network = given.get("detector", str), given.get("embedding", str)
    given.end()
    return CameraSource(
        device,
        float(spec["rate"]),
        modality=str(spec["name"]),
        features="landmarks" if network is None else Embedding(network),
        detector=detector,
        speed=None if isinstance(device, int) else speed,
    )


def open_sink(words: str, model: Model) -> Sink:
    """The sink that `words` name: a file that ends in ``.csv`` or ``.jsonl``, ``-`` (JSON lines on standard
    output), or ``lsl:NAME`` (an outlet).

    Raises
    ------
    InputError : another name. DataError : it cannot be written. MissingExtraError : no Lab Streaming Layer.
    """
    from affekt.live.sinks import CsvSink, JsonLinesSink

    if words == "-":
        return JsonLinesSink(sys.stdout)
    if words.startswith("lsl:"):
        from affekt.live.lsl import LslSink

        return LslSink(words.removeprefix("lsl:"), model)
    kind = Path(words).suffix.lower()
    if kind == ".csv":
        return CsvSink(words, model)
    if kind == ".jsonl":
        return JsonLinesSink(words)
    raise InputError(f"sink: expected a name that ends in .csv or .jsonl, lsl:NAME or -, got {words!r}")


class _Options:
    """What stood behind the question mark."""

    def __init__(self, words: str, options: dict[str, str]) -> None:
        self._words, self._left = words, options
        self._known: list[str] = []

    def get(self, name: str, kind: Callable[[str], Any]) -> Any:
        self._known.append(name)
        value = self._left.pop(name, None)
        try:
            return None if value is None else kind(value)
        except ValueError as error:
            raise InputError(f"source {self._words!r}: {name}: {error}") from error

    def end(self) -> None:
        """Refuse what is left."""
        for name in self._left:
            raise InputError(
                f"source {self._words!r}: it takes no option {name!r}; {_checks.nearest(name, self._known)}"
            )


def _parts(words: str, model: Model) -> tuple[str, str, dict[str, str]]:
    names = [str(entry["name"]) for entry in model.inputs]
    given = next((name for name in names if words.startswith(f"{name}=")), None)
    named = re.match(r"(\w+)=", words)
    if given is not None:
        name, rest = given, words[len(given) + 1 :]
    elif named:
        raise InputError(
            f"source {words!r}: the model has no input {named[1]!r}; {_checks.nearest(named[1], names)}"
        )
    elif len(names) == 1:
        name, rest = names[0], words
    else:
        raise InputError(
            f"source {words!r}: expected INPUT=..., because the model takes several: {', '.join(names)}"
        )
    # A file may have a question mark in its name; options need KEY= behind it.
    what, options = rest, {}
    cut = re.match(r"(.*?)\?(\w+=.*)", rest, re.S)
    if cut and not Path(rest).exists():
        what = cut[1]
        for option in cut[2].split("&"):
            key, equals, value = option.partition("=")
            if not equals:
                raise InputError(f"source {words!r}: expected OPTION=VALUE, got {option!r}")
            options[key] = value
    if not what:
        raise InputError(f"source {words!r}: expected a file or a device")
    return name, what, options


def _listed(value: str) -> list[str]:
    return value.split(",")


def _number(value: str, words: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InputError(f"source {words!r}: expected a number of seconds, got {value!r}") from None
