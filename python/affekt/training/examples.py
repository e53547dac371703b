"""Training examples in memory, and batches whose order depends on nothing but (seed, epoch)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from affekt.data.manifest import as_text
from affekt.errors import DataError, InputError
from affekt.systems.base import Head, System

__all__ = ["Examples", "Part", "batch_order", "labels_from_table", "speaker_batches"]


class Part:
    """What the loop trains or scores on: items that batches are made of.

    Attributes
    ----------
    labels : head -> labels, as `affekt.training.scoring.figures` takes them.
    speakers : (items,) integers, equal for items of one speaker, or None. neutral : places of neutral speech.
    features : rows per item, for `affekt.systems.System.settle`; empty where there is nothing to settle.
    """

    labels: dict[str, Any]
    speakers: np.ndarray | None = None
    neutral: np.ndarray = np.zeros(0, np.int64)
    features: Sequence[np.ndarray] = ()

    def __len__(self) -> int:
        raise NotImplementedError

    @property
    def lengths(self) -> np.ndarray:
        """Rows per item: those of like length go into one batch."""
        raise NotImplementedError

    def strata(self) -> np.ndarray:
        """Number of each item's kind (n,): batches hold their share of each."""
        return np.zeros(len(self), dtype=np.int64)

    def batch(self, index: Sequence[int], epoch: int | None = None) -> dict[str, Any]:
        """Some items, as `System.loss` takes them; `epoch` is that of the training, None otherwise."""
        raise NotImplementedError

    def given(self, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        """The arguments that a system is called with."""
        return batch["features"], batch["mask"]

    def steps(self, system: System, i: int) -> int:
        """Output steps of item `i`, of a system that answers per step."""
        raise NotImplementedError

    def joined(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Outputs of all items beside the labels that they are scored against; by default as they are."""
        return outputs

    def fingerprint(self) -> Iterator[bytes]:
        """Bytes that tell this part from any other."""
        raise NotImplementedError


class Examples(Part):
    """Recordings as feature rows with their labels.

    Parameters
    ----------
    features : per recording float32 (time, features).
    labels : head -> (n, labels) float for a continuous head (NaN where unknown) or (n,) class index (-1 where
        unknown). For a system that answers per step, a list of n arrays instead: (steps, labels) or (steps,),
        one row per output step of the recording.
    speakers : (n,) integers, equal for recordings of one speaker, where that is known.
    neutral : places of the recordings of neutral speech, where that is known.
    """

    def __init__(
        self,
        features: Sequence[np.ndarray],
        labels: Mapping[str, np.ndarray | Sequence[np.ndarray]],
        speakers: Sequence[int] | np.ndarray | None = None,
        neutral: Sequence[int] | np.ndarray = (),
    ) -> None:
        self.features = [np.ascontiguousarray(f, dtype=np.float32) for f in features]
        self.labels: dict[str, Any] = {
            name: [np.asarray(v) for v in value] if isinstance(value, list | tuple) else np.asarray(value)
            for name, value in labels.items()
        }
        for name, value in self.labels.items():
            if len(value) != len(self.features):
                raise InputError(f"labels of {name!r} must be {len(self.features)} rows, got {len(value)}")
        self.speakers = None if speakers is None else np.asarray(speakers, dtype=np.int64)
        if self.speakers is not None and self.speakers.shape != (len(self.features),):
            raise InputError(f"speakers must be {len(self.features)} integers, got {self.speakers.shape}")
        self.neutral = np.asarray(neutral, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> np.ndarray:
        """Rows per recording."""
        return np.array([len(f) for f in self.features], dtype=np.int64)

    def strata(self) -> np.ndarray:
        """Number of each recording's kind (n,): equal where labels of the same heads are known."""
        known = np.zeros((len(self), len(self.labels)), dtype=bool)
        for column, value in enumerate(self.labels.values()):
            for row, label in enumerate(value):
                known[row, column] = bool(_known(np.asarray(label)).any())
        return np.unique(known, axis=0, return_inverse=True)[1].reshape(-1)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Per-feature mean and standard deviation (population) over all rows of all recordings, float64."""
        count = int(self.lengths.sum())
        if not count:
            raise DataError("there are no feature rows to take statistics from")
        mean = sum(f.sum(0, dtype=np.float64) for f in self.features) / count
        variance = sum(np.square(f - mean).sum(0) for f in self.features) / count
        return mean, np.sqrt(variance)

    def steps(self, system: System, i: int) -> int:
        return system.out_rows(len(self.features[i]))

    def fingerprint(self) -> Iterator[bytes]:
        yield self.lengths.tobytes()
        for rows in self.features:
            yield repr((rows.shape, rows.dtype.str)).encode()
            yield np.ascontiguousarray(rows).tobytes()
        for name in sorted(self.labels):
            for value in self.labels[name]:
                yield np.ascontiguousarray(value).tobytes()
        # The speakers make the batches, the neutral recordings the reference.
        for known in (self.speakers, self.neutral):
            yield repr(None if known is None else known.shape).encode()
            yield b"" if known is None else known.tobytes()

    def batch(self, index: Sequence[int], epoch: int | None = None) -> dict[str, Any]:
        """Zero-padded batch of the given recordings, as `System.loss` takes it."""
        lengths = [len(self.features[i]) for i in index]
        features = np.zeros((len(lengths), max(lengths), self.features[0].shape[1]), np.float32)
        mask = np.zeros(features.shape[:2], bool)
        for row, i in enumerate(index):
            features[row, : lengths[row]] = self.features[i]
            mask[row, : lengths[row]] = True
        labels, label_mask = {}, {}
        for name, value in self.labels.items():
            value = _padded([value[i] for i in index]) if isinstance(value, list) else value[list(index)]
            valid = _known(value)
            labels[name] = torch.from_numpy(np.where(valid, value, 0).astype(value.dtype))
            label_mask[name] = torch.from_numpy(valid)
        batch = {
            "features": torch.from_numpy(features),
            "mask": torch.from_numpy(mask),
            "labels": labels,
            "label_mask": label_mask,
            "index": torch.as_tensor(list(index)),
        }
        if self.speakers is not None:
            batch["speaker"] = torch.from_numpy(self.speakers[list(index)])
        return batch


def _known(value: np.ndarray) -> np.ndarray:
    return np.isfinite(value) if value.dtype.kind == "f" else value >= 0


def _padded(parts: list[np.ndarray]) -> np.ndarray:
    """Label arrays of different lengths as one, filled up with "unknown"."""
    unknown = np.nan if parts[0].dtype.kind == "f" else -1
    out = np.full((len(parts), max(map(len, parts)), *parts[0].shape[1:]), unknown, parts[0].dtype)
    for row, part in enumerate(parts):
        out[row, : len(part)] = part
    return out


def batch_order(
    lengths: np.ndarray,
    size: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    pool: int = 8,
    strata: np.ndarray | None = None,
) -> Iterator[list[int]]:
    """Batches of recordings of similar length, reshuffled each epoch.

    Recordings are shuffled, sorted by length within stretches of `pool` batches, cut into batches, and the
    batches shuffled: little padding, and an order that depends on (seed, epoch) alone, so that a resumed run
    sees what the uninterrupted one saw. Without `shuffle`: sorted by length.

    With `strata`, the kind of each recording, every batch holds its share of each kind, to about one: the
    kinds are spread evenly over the epoch and, within a stretch, each by itself sorted by length.
    """
    if not shuffle:
        order = np.argsort(lengths, kind="stable")
        yield from (order[i : i + size].tolist() for i in range(0, len(order), size))
        return
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(lengths))
    kinds = np.zeros(len(lengths), dtype=np.int64) if strata is None else strata
    order = order[_spread(kinds[order])]
    batches = []
    for begin in range(0, len(order), size * pool):
        stretch = order[begin : begin + size * pool]
        stretch = stretch[np.argsort(lengths[stretch], kind="stable")]
        stretch = stretch[_spread(kinds[stretch])]
        batches += [stretch[i : i + size] for i in range(0, len(stretch), size)]
    for i in rng.permutation(len(batches)):
        yield batches[i].tolist()


def _spread(kinds: np.ndarray) -> np.ndarray:
    """An order in which every stretch holds its share of each kind, and each kind keeps its own order."""
    place = np.empty(len(kinds))
    for kind in np.unique(kinds):
        own = np.flatnonzero(kinds == kind)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    return np.argsort(place, kind="stable")


def speaker_batches(
    speakers: np.ndarray,
    size: int,
    per_speaker: int,
    *,
    seed: int,
    epoch: int,
    strata: np.ndarray | None = None,
) -> Iterator[list[int]]:
    """Batches that hold `per_speaker` recordings of each of their speakers, reshuffled each epoch.

    Every recording comes once an epoch. A speaker's recordings are shuffled and dealt into portions of
    `per_speaker` or up to one and a half times as many, and the portions of all speakers are shuffled and
    joined into ceil(n / size) batches (or as many as there are portions, if these are fewer). The order
    depends on (seed, epoch) alone.

    Parameters
    ----------
    strata : (n,) integers, constant within a speaker or nearly: portions of each stratum are spread evenly
        over the epoch, so that every batch holds its share of each.
    """
    rng = np.random.default_rng([seed, epoch])
    portions: list[np.ndarray] = []
    for speaker in np.unique(speakers):
        own = rng.permutation(np.flatnonzero(speakers == speaker))
        portions += np.array_split(own, max(1, round(len(own) / per_speaker)))
    portions = [portions[i] for i in rng.permutation(len(portions))]
    order = _spread(np.array([0 if strata is None else strata[portion[0]] for portion in portions]))
    for part in np.array_split(order, math.ceil(len(speakers) / size)):
        if len(part):
            yield np.concatenate([portions[i] for i in part]).tolist()


def labels_from_table(
    table: Any, heads: Mapping[str, Head], *, partial: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Label arrays for `Examples` from a manifest's table, and how many rows had none, by head.

    A class that is not among the head's labels, an empty cell and a missing column all count as unknown.

    Raises
    ------
    DataError : a head finds no label in the whole table (unless `partial`).
    """
    labels, unknown = {}, {}
    for name, head in heads.items():
        if head.kind == "categorical":
            column = name if name in table else "emotion"
            place = {label: i for i, label in enumerate(head.labels)}
            values: Any = as_text(table[column]) if column in table else [None] * len(table)
            labels[name] = np.array([place.get(v, -1) for v in values], dtype=np.int64)
            unknown[name] = int((labels[name] < 0).sum())
        else:
            columns = [
                np.asarray(table[label], dtype=np.float32)
                if label in table
                else np.full(len(table), np.nan, np.float32)
                for label in head.labels
            ]
            labels[name] = np.stack(columns, axis=1)
            unknown[name] = int(np.isnan(labels[name]).all(axis=1).sum())
        if unknown[name] == len(table) and not partial:
            raise DataError(
                f"no recording has a label for head {name!r} ({', '.join(head.labels)}); "
                f"the table has columns {', '.join(map(str, table.columns))}; leave the head out with "
                f"system.heads.{name}=null"
            )
    return labels, unknown
