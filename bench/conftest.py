"""What the suites share: how a contender is timed, and the test signal."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def contender(benchmark) -> Callable[..., Any]:
    """Time one contender of a group: `contender(group, name, function)` returns what the function returned.

    Rows of one group are compared with each other in the table; the name "affekt" is ours.
    """

    def run(group: str, name: str, function: Callable[[], Any]) -> Any:
        benchmark.group = group
        benchmark.extra_info["contender"] = name
        return benchmark(function)

    return run


@pytest.fixture
def peer() -> Callable[[str], Any]:
    """Import a peer library, or skip the row with the reason."""

    def load(name: str) -> Any:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} is not installed here: {error}")

    return load


def voice(seconds: float, rate: int = 16000) -> np.ndarray:
    """Return a voice-like test signal, (time,) float32 in [-1, 1]; the same for every contender."""
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(130 + 30 * np.sin(2 * np.pi * 0.6 * t)) / rate
    harmonics = sum(np.sin(k * phase) / k for k in range(1, 15))
    noise = np.random.default_rng(0).standard_normal(t.size)
    return (0.1 * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * t)) * harmonics + 0.003 * noise).astype(np.float32)
