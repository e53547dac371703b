"""Live inference: the engine, the sources that feed it, sessions of several sources, recordings, sinks."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from affekt.live.engine import Engine, Estimate, Snapshot
from affekt.live.pool import EnginePool, PoolEstimates

if TYPE_CHECKING:
    from affekt.live.camera import CameraSource
    from affekt.live.lsl import LslSink, LslSource, XdfSource
    from affekt.live.recording import Recorder, Recording, RecordingWarning
    from affekt.live.session import Health, Session
    from affekt.live.sinks import CsvSink, JsonLinesSink, Sink
    from affekt.live.sources import (
        Chunk,
        EegSource,
        End,
        FileSource,
        GeneratedSource,
        MicrophoneSource,
        RowsSource,
        Source,
    )

_HOME = {
    "CameraSource": "camera",
    "Chunk": "sources",
    "CsvSink": "sinks",
    "EegSource": "sources",
    "End": "sources",
    "FileSource": "sources",
    "GeneratedSource": "sources",
    "Health": "session",
    "JsonLinesSink": "sinks",
    "LslSink": "lsl",
    "LslSource": "lsl",
    "MicrophoneSource": "sources",
    "Recorder": "recording",
    "Recording": "recording",
    "RecordingWarning": "recording",
    "RowsSource": "sources",
    "Session": "session",
    "Sink": "sinks",
    "Source": "sources",
    "XdfSource": "lsl",
}

__all__ = [
    "CameraSource",
    "Chunk",
    "CsvSink",
    "EegSource",
    "End",
    "Engine",
    "EnginePool",
    "Estimate",
    "FileSource",
    "GeneratedSource",
    "Health",
    "JsonLinesSink",
    "LslSink",
    "LslSource",
    "MicrophoneSource",
    "PoolEstimates",
    "Recorder",
    "Recording",
    "RecordingWarning",
    "RowsSource",
    "Session",
    "Sink",
    "Snapshot",
    "Source",
    "XdfSource",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"affekt.live.{_HOME[name]}"), name)
    raise AttributeError(f"module 'affekt.live' has no attribute {name!r}")
