"""Sounds that the tests make for themselves."""

from __future__ import annotations

import numpy as np


def tone(
    seconds: float, sample_rate: int = 16000, frequency: float = 220.0, level: float = 0.3
) -> np.ndarray:
    """A voice-like test sound: five harmonics with a slow swell, float64 ``(time,)``."""
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    sound = sum(np.sin(2 * np.pi * k * frequency * t) / k for k in range(1, 6))
    return level * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t)) / 2
