"""Torch building blocks that the native core runs too.

Everything is time-major: `(batch, time, feature)`, with a boolean `(batch, time)` mask beside it where
lengths differ. `TCN`, `Stack`, `Standardise`, `Pool`, `Activity`, `Adapt` and `CoAttention` have a node of
the same name in the model file.
"""

# ruff: noqa: E402
from affekt._lazy import require

require("torch", purpose="affekt.nn")

from affekt.nn.acoustic import Acoustic
from affekt.nn.attention import CoAttention, TemporalAttention
from affekt.nn.augment import FeatureAugment
from affekt.nn.pool import Pool
from affekt.nn.recurrent import LSTM
from affekt.nn.rows import Stack, Standardise, lengths_to_mask
from affekt.nn.speaker import Activity, Adapt, SpeakerState, speaker_normalise
from affekt.nn.tcn import TCN

__all__ = [
    "LSTM",
    "TCN",
    "Acoustic",
    "Activity",
    "Adapt",
    "CoAttention",
    "FeatureAugment",
    "Pool",
    "SpeakerState",
    "Stack",
    "Standardise",
    "TemporalAttention",
    "lengths_to_mask",
    "speaker_normalise",
]
