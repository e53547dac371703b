"""Live inference: the engine and the sources that feed it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from affekt.live.engine import Engine, Estimate, Snapshot

if TYPE_CHECKING:
    from affekt.live.sources import FileSource, MicrophoneSource

_SOURCES = {"FileSource", "MicrophoneSource"}

__all__ = ["Engine", "Estimate", "FileSource", "MicrophoneSource", "Snapshot"]


def __getattr__(name: str) -> Any:
    if name in _SOURCES:
        return getattr(importlib.import_module("affekt.live.sources"), name)
    raise AttributeError(f"module 'affekt.live' has no attribute {name!r}")
