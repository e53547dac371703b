"""Windows of trials as the loop takes them, and back: overlapping estimates become one trace per trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from affekt.data.trials import Trials
from affekt.data.windowing import overlap_mean, windows
from affekt.errors import InputError
from affekt.systems.base import Head, System
from affekt.training.examples import Part

__all__ = ["TrialWindows", "sub_sample", "trace_targets"]

Targets = Callable[[int], Mapping[str, np.ndarray]]


def sub_sample(seed: int, epoch: int, trial: int, ratio: float) -> int:
    """Which of the `ratio` rows of a step a trial gives in an epoch: floor(u * ratio), u uniform in [0, 1).

    One u per (seed, epoch, trial), so that all signals of a trial move together and a repeated run draws the
    same.
    """
    u = np.random.default_rng([seed, 0x0FF5, epoch, trial]).random()
    return int(u * ratio)


def trace_targets(trials: Trials, heads: Mapping[str, Head]) -> Targets:
    """The labels of a trial by head, out of its traces: float32 (steps, labels).

    Raises
    ------
    InputError : a head is categorical, or asks for a trace that the trials do not have.
    """
    columns = {}
    for name, head in heads.items():
        unknown = [label for label in head.labels if label not in trials.labels]
        if head.kind != "continuous" or unknown:
            raise InputError(
                f"head {name!r} must follow traces of the data ({', '.join(trials.labels)}), got "
                f"{head.kind} {', '.join(head.labels)}"
            )
        columns[name] = [trials.labels.index(label) for label in head.labels]

    def targets(trial: int) -> dict[str, np.ndarray]:
        trace = trials.trace(trial)
        return {name: trace[:, own] for name, own in columns.items()}

    return targets


class TrialWindows(Part):
    """Windows of some trials.

    The items are windows of `size` steps every `hop`, one more aligned to the end where they miss it; a trial
    shorter than a window is padded with zeros, and masked. What a system gives for them becomes one trace per
    trial again, the mean over the windows that cover a step, so that figures are those of trials
    concatenated.

    Parameters
    ----------
    trials : all trials. rows : which of them.
    modalities : signals that the system takes.
    targets : trial -> labels by head, (steps, labels) float with NaN where unknown or (steps,) class index
        with -1; see `trace_targets`.
    size, hop : of the windows, in steps; `size` None: whole trials.
    seed : of the sub-sampling offset, which is drawn anew for every trial in every epoch (`sub_sample`) where
        `moving`, and is 0 otherwise and outside training.
    extra : name -> function of a trial and of what gives the offset for a ratio, to further rows (steps, ...)
        for the loss, such as what a teacher knows; they come as ``batch["extra"]``.
    """

    def __init__(
        self,
        trials: Trials,
        rows: Sequence[int] | np.ndarray,
        modalities: Sequence[str],
        targets: Targets,
        *,
        size: int | None,
        hop: int,
        seed: int = 0,
        moving: bool = True,
        extra: Mapping[str, Callable[[int, Callable[[float], int]], np.ndarray]] | None = None,
    ) -> None:
        self.trials, self.rows = trials, np.asarray(rows, dtype=np.int64)
        self.modalities, self.seed, self.moving = list(modalities), int(seed), moving
        self.extra = dict(extra or {})
        self.window, self.items = size, []
        self._masks: list[np.ndarray] = []
        for place, row in enumerate(self.rows):
            steps = int(trials.steps[row])
            starts, mask = windows(steps, steps if size is None else size, hop)
            self.items += [(place, int(start)) for start in starts]
            self._masks += list(mask)
        self._targets = [dict(targets(int(row))) for row in self.rows]
        for row, own in zip(self.rows, self._targets, strict=True):
            for name, value in own.items():
                if len(value) != trials.steps[row]:
                    raise InputError(
                        f"targets of {name!r} must be {trials.steps[row]} steps, got {len(value)}"
                    )
        names = list(self._targets[0]) if len(self._targets) else []
        self.labels = {name: [own[name] for own in self._targets] for name in names}

    def __len__(self) -> int:
        return len(self.items)

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(mask) for mask in self._masks], dtype=np.int64)

    def steps(self, system: System, i: int) -> int:
        return len(self._masks[i])

    def given(self, batch: Mapping[str, Any]) -> tuple[Any, ...]:
        return batch["features"], batch["mask"], batch["present"]

    def batch(self, index: Sequence[int], epoch: int | None = None) -> dict[str, Any]:
        size = max(len(self._masks[i]) for i in index)
        mask = np.zeros((len(index), size), bool)
        features: dict[str, list[np.ndarray]] = {name: [] for name in self.modalities}
        present = {name: np.zeros((len(index), size), bool) for name in self.modalities}
        extra: dict[str, list[np.ndarray]] = {name: [] for name in self.extra}
        labels: dict[str, list[np.ndarray]] = {name: [] for name in self.labels}
        for place, i in enumerate(index):
            which, start = self.items[i]
            row, there = int(self.rows[which]), int(self._masks[i].sum())
            mask[place, :there] = True

            def offset(ratio: float, row: int = row) -> int:
                still = epoch is None or not self.moving or ratio <= 1
                return 0 if still else sub_sample(self.seed, int(epoch or 0), row, ratio)

            for name in self.modalities:
                ratio = 1.0 if name in self.trials.nearest else self.trials.ratios[name]
                values, known = self.trials.load(
                    row, name, offset=offset(ratio), start=start, stop=start + there
                )
                features[name].append(_padded(values, size))
                present[name][place, :there] = known
            for name, give in self.extra.items():
                extra[name].append(_padded(give(row, offset)[start : start + there], size))
            for name in labels:
                labels[name].append(self.labels[name][which][start : start + there])
        out: dict[str, Any] = {
            "features": {n: torch.from_numpy(np.stack(v)) for n, v in features.items()},
            "present": {n: torch.from_numpy(v) for n, v in present.items()},
            "mask": torch.from_numpy(mask),
            "labels": {},
            "label_mask": {},
            "index": torch.as_tensor(list(index)),
        }
        if extra:
            out["extra"] = {n: torch.from_numpy(np.stack(v)) for n, v in extra.items()}
        for name, parts in labels.items():
            real = parts[0].dtype.kind == "f"
            labelled = [np.isfinite(part) if real else part >= 0 for part in parts]
            filled = [np.where(ok, part, 0) for ok, part in zip(labelled, parts, strict=True)]
            dtype = np.float32 if real else np.int64
            out["labels"][name] = torch.from_numpy(np.stack([_padded(v.astype(dtype), size) for v in filled]))
            out["label_mask"][name] = torch.from_numpy(np.stack([_padded(v, size) for v in labelled]))
        return out

    def joined(self, outputs: dict[str, Any]) -> dict[str, Any]:
        """Head -> per trial (steps, labels): the mean of the windows that cover each step."""
        places = np.array([place for place, _ in self.items])
        starts = np.array([start for _, start in self.items])
        out: dict[str, Any] = {}
        for name, values in outputs.items():
            out[name] = []
            for place, row in enumerate(self.rows):
                own = np.flatnonzero(places == place)
                stacked = np.stack([values[i] for i in own])
                mask = np.stack([self._masks[i] for i in own])
                out[name].append(overlap_mean(stacked, starts[own], int(self.trials.steps[row]), mask))
        return out

    def fingerprint(self) -> Iterator[bytes]:
        yield repr(
            (self.modalities, self.window, self.items, self.seed, self.moving, sorted(self.extra))
        ).encode()
        for store in (*self.trials.stores.values(), self.trials.traces):
            objects = store.manifest.table["object"].tolist()
            yield repr((store.key, objects)).encode()
        yield self.rows.tobytes()
        for own in self._targets:
            for name in sorted(own):
                yield np.ascontiguousarray(own[name]).tobytes()


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """Zeros behind the last row."""
    if len(values) == size:
        return values
    out = np.zeros((size, *values.shape[1:]), values.dtype)
    out[: len(values)] = values
    return out
