"""Recordings, labels and partitions: from files on disk to leak-free training sets.

`read_audio` and `stream_audio` turn a file into samples; `corpus` and `read_manifest` give a `Manifest`,
`prepare` makes a `FeatureStore` of it (`prepare_trials`, of several signals and a label trace: `Trials`),
`group_kfold`, `leave_one_group_out` and their like give `Split` objects, and `audit` checks afterwards that
nothing leaked. Everything here loads at first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from affekt.data.audio import AudioInfo, AudioStream, AudioWarning, audio_info, read_audio, stream_audio
    from affekt.data.auditing import AuditReport, Finding, audit
    from affekt.data.corpora import corpus, list_corpora
    from affekt.data.emotions import match_emotions
    from affekt.data.fusion import FusedTrace, advance_traces, fuse_traces, reaction_delays
    from affekt.data.generated import generate
    from affekt.data.manifest import Manifest, Place, read_manifest
    from affekt.data.refinement import refine_labels, refinement_grid
    from affekt.data.sources import Matrix, Rows, Source, Trace, list_sources, make_source, source
    from affekt.data.splits import (
        Split,
        group_kfold,
        leave_one_group_out,
        listed_folds,
        published_folds,
        random_split,
        read_split,
        row_kfold,
        split_halves,
        split_kfold,
    )
    from affekt.data.store import (
        FeatureStore,
        Statistics,
        feature_key,
        load_statistics,
        prepare,
        save_statistics,
    )
    from affekt.data.trials import Trials, prepare_trials
    from affekt.data.windowing import Windows, cut_windows, overlap_mean, windows

# Public name -> module. The modules are named so that none shadows a public function.
_NAMES = {
    "AudioInfo": "audio",
    "AudioStream": "audio",
    "AudioWarning": "audio",
    "audio_info": "audio",
    "read_audio": "audio",
    "stream_audio": "audio",
    "AuditReport": "auditing",
    "Finding": "auditing",
    "audit": "auditing",
    "corpus": "corpora",
    "list_corpora": "corpora",
    "match_emotions": "emotions",
    "FusedTrace": "fusion",
    "advance_traces": "fusion",
    "fuse_traces": "fusion",
    "reaction_delays": "fusion",
    "generate": "generated",
    "Manifest": "manifest",
    "Place": "manifest",
    "read_manifest": "manifest",
    "refine_labels": "refinement",
    "refinement_grid": "refinement",
    "Matrix": "sources",
    "Rows": "sources",
    "Source": "sources",
    "Trace": "sources",
    "list_sources": "sources",
    "make_source": "sources",
    "source": "sources",
    "Split": "splits",
    "group_kfold": "splits",
    "leave_one_group_out": "splits",
    "listed_folds": "splits",
    "published_folds": "splits",
    "random_split": "splits",
    "read_split": "splits",
    "row_kfold": "splits",
    "split_halves": "splits",
    "split_kfold": "splits",
    "FeatureStore": "store",
    "Statistics": "store",
    "feature_key": "store",
    "load_statistics": "store",
    "prepare": "store",
    "save_statistics": "store",
    "Trials": "trials",
    "prepare_trials": "trials",
    "Windows": "windowing",
    "cut_windows": "windowing",
    "overlap_mean": "windowing",
    "windows": "windowing",
}

__all__ = [
    "AudioInfo",
    "AudioStream",
    "AudioWarning",
    "AuditReport",
    "FeatureStore",
    "Finding",
    "FusedTrace",
    "Manifest",
    "Matrix",
    "Place",
    "Rows",
    "Source",
    "Split",
    "Statistics",
    "Trace",
    "Trials",
    "Windows",
    "advance_traces",
    "audio_info",
    "audit",
    "corpus",
    "cut_windows",
    "feature_key",
    "fuse_traces",
    "generate",
    "group_kfold",
    "leave_one_group_out",
    "list_corpora",
    "list_sources",
    "listed_folds",
    "load_statistics",
    "make_source",
    "match_emotions",
    "overlap_mean",
    "prepare",
    "prepare_trials",
    "published_folds",
    "random_split",
    "reaction_delays",
    "read_audio",
    "read_manifest",
    "read_split",
    "refine_labels",
    "refinement_grid",
    "row_kfold",
    "save_statistics",
    "source",
    "split_halves",
    "split_kfold",
    "stream_audio",
    "windows",
]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f"affekt.data.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'affekt.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
