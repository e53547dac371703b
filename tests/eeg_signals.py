"""Generated EEG for tests."""

from __future__ import annotations

import numpy as np
from scipy import signal

RATE = 256


def eeg_like(*shape: int, seed: int = 0) -> np.ndarray:
    """Noise of the 1/f kind with a 10 Hz rhythm at 256 Hz, (..., time) float64."""
    white = np.random.default_rng(seed).standard_normal(shape)
    red = signal.lfilter([1.0], [1.0, -0.97], white, axis=-1)
    return red + 3.0 * np.sin(2 * np.pi * 10 * np.arange(shape[-1]) / RATE)
