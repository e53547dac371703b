"""Signal -> features: one noun per modality, an offline call, and `.stream()` where the features are causal.

Everything here runs in the C++ core and needs NumPy only.
"""

from __future__ import annotations

from affekt.features._acoustic import FeatureStream, LogMel, Mfcc, PowerSpectrogram, Stft
from affekt.features._bandpower import BANDS, BandPower, BandPowerStream, BandRows, Welch, welch
from affekt.features._filter import Filter, FilterStream, average_reference
from affekt.features._resampler import Resampler, ResamplerStream, resample

__all__ = [
    "BANDS",
    "BandPower",
    "BandPowerStream",
    "BandRows",
    "FeatureStream",
    "Filter",
    "FilterStream",
    "LogMel",
    "Mfcc",
    "PowerSpectrogram",
    "Resampler",
    "ResamplerStream",
    "Stft",
    "Welch",
    "average_reference",
    "resample",
    "welch",
]
