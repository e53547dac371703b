"""Trials: rows of several signals at their own rates, and a label trace, on one clock.

`prepare_trials` makes a feature store per signal, and one of the traces, in sub-folders of one folder; a
`Trials` joins them. Step i of a trial is its i-th label, at i / rate seconds. A signal of `ratio` rows per
label gives row ``i * ratio + offset`` for step i (``"phase"``), or the one nearest in time (``"nearest"``).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from affekt import _checks
from affekt._lazy import require
from affekt.data.manifest import Manifest
from affekt.data.sources import Source, Trace
from affekt.data.store import FeatureStore, Statistics, prepare
from affekt.errors import DataError, InputError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TRACE", "Trials", "prepare_trials"]

TRACE = "trace"
"""Name of the store of label traces."""

_CACHE = 512 << 20  # bytes of rows that a `Trials` keeps in memory


class Trials:
    """Trials that can be used, joined from the stores of their signals; made by `prepare_trials`.

    Attributes
    ----------
    manifest : the usable trials, with the columns of the manifest given and ``steps``.
    stores : modality -> `FeatureStore`; `traces` is that of the labels.
    rate : labels per second. labels : their names.
    ratios : modality -> rows per label. nearest : modalities that are sampled by nearest time.
    steps : int64 (trials,), labels of each trial.
    failures : DataFrame ``file, start, end, reason`` of the trials that are left out.
    adjusted : DataFrame ``file, signal, rows, wanted`` of the signals that were cut, or whose last row is
        repeated, because their length is not that of the trace.
    """

    def __init__(
        self,
        manifest: Manifest,
        stores: Mapping[str, FeatureStore],
        traces: FeatureStore,
        *,
        nearest: Sequence[str] = (),
        slack: float = 2.0,
        missing: str = "drop",
    ) -> None:
        pandas = require("pandas", purpose="trials")
        _checks.choice(missing, ("drop", "mask"), "missing")
        self.stores, self.traces = dict(stores), traces
        if not self.stores:
            raise InputError("stores must hold at least one signal; got none")
        options = traces.features["options"]
        self.rate, self.labels = float(options["rate"]), list(options["labels"])
        self.nearest = frozenset(nearest)
        unknown = sorted(self.nearest - set(self.stores))
        if unknown:
            raise InputError(f"nearest names {', '.join(unknown)}; the signals are {', '.join(self.stores)}")
        self.ratios: dict[str, float] = {}
        for name, store in self.stores.items():
            ratio = float(store.features["options"]["rate"]) / self.rate
            whole = round(ratio)
            if name not in self.nearest and (whole < 1 or abs(ratio - whole) > 1e-9 * ratio):
                raise InputError(
                    f"{name}: {ratio * self.rate:g} rows per second are no whole multiple of {self.rate:g} "
                    f"labels per second; resample it, or let it be sampled by nearest time (nearest=[{name}])"
                )
            self.ratios[name] = ratio if name in self.nearest else float(whole)
        identity = _identities(manifest)
        places = {name: _places(store) for name, store in {**self.stores, TRACE: traces}.items()}
        reasons = _reasons({**self.stores, TRACE: traces}, manifest)
        kept, rows, adjusted, failed = [], [], [], []
        for i, key in enumerate(identity):
            own = {name: found.get(key, -1) for name, found in places.items()}
            lost = [name for name in own if own[name] < 0]
            if TRACE in lost or (lost and missing == "drop") or len(lost) == len(self.stores):
                failed.append((i, "; ".join(f"{n}: {reasons[n].get(key, 'not there')}" for n in lost)))
                continue
            steps = int(traces.lengths[own[TRACE]])
            short = []
            for name, store in self.stores.items():
                if own[name] < 0:
                    continue
                there, wanted = int(store.lengths[own[name]]), self._wanted(name, steps)
                if (wanted - there) / (self.ratios[name] * self.rate) > slack:
                    short.append(f"{name}: {there} rows for {steps} labels, expected {wanted}")
                elif there != wanted:
                    adjusted.append({"file": key[0], "signal": name, "rows": there, "wanted": wanted})
            if short:
                failed.append((i, "; ".join(short) + f" (more than {slack:g} s short)"))
                continue
            kept.append(i)
            rows.append(own)
        table = manifest.absolute().table.drop(columns="steps", errors="ignore")
        self.failures: pd.DataFrame = table.iloc[[i for i, _ in failed]].reindex(
            columns=["file", "start", "end"]
        )
        self.failures["reason"] = [why for _, why in failed]
        self.adjusted: pd.DataFrame = pandas.DataFrame(adjusted, columns=["file", "signal", "rows", "wanted"])
        if not kept:
            raise DataError(
                f"none of {len(manifest)} trials can be used: "
                + _checks.some([f"{identity[i][0]}: {why}" for i, why in failed])
            )
        self._rows = {name: np.array([own[name] for own in rows]) for name in places}
        self.steps = traces.lengths[self._rows[TRACE]]
        self.manifest = Manifest(table.iloc[kept].assign(steps=self.steps), attrs=manifest.attrs)
        self._cache: OrderedDict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        signals = ", ".join(f"{name} x{ratio:g}" for name, ratio in self.ratios.items())
        return (
            f"Trials({len(self)} trials, {int(self.steps.sum())} steps at {self.rate:g} Hz of "
            f"{', '.join(self.labels)}; {signals}; {len(self.failures)} failure(s))"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict()}

    @property
    def modalities(self) -> list[str]:
        return list(self.stores)

    @property
    def folder(self) -> Path:
        """The folder of the stores."""
        return self.traces.folder.parent

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each trial: its rows, as a `FeatureStore` counts them."""
        return self.steps

    @property
    def first(self) -> FeatureStore:
        """The store of the first signal."""
        return next(iter(self.stores.values()))

    def shape(self, modality: str) -> tuple[int, ...]:
        """Shape of one row."""
        rows = self._rows[self._known(modality)]
        return self.stores[modality].load(int(rows[rows >= 0][0]), 0, 1).shape[1:]

    def trace(self, i: int) -> np.ndarray:
        """Labels of trial `i`, float32 (steps, labels); NaN where there is none."""
        return self._whole(TRACE, i)[0]

    def load(
        self, i: int, modality: str, *, offset: int = 0, start: int = 0, stop: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of one signal at steps `start` to `stop` of trial `i`, and which of them are present.

        Parameters
        ----------
        offset : which of the `ratio` rows of a step is taken, 0 to ratio - 1; without effect on signals that
            are sampled by nearest time.

        Returns
        -------
        values : (steps, ...); zeros where absent. present : bool (steps,).
        """
        row = int(self._rows[self._known(modality)][i])
        steps = np.arange(*slice(start, stop).indices(int(self.steps[i])))
        if row < 0:
            shape = self.shape(modality)
            return np.zeros((len(steps), *shape), np.float32), np.zeros(len(steps), bool)
        store, ratio = self.stores[modality], self.ratios[modality]
        if modality in self.nearest:
            index = np.floor(steps * ratio + 0.5).astype(np.int64)
        else:
            if not 0 <= offset < ratio:
                raise InputError(f"offset must lie from 0 to {int(ratio) - 1} for {modality!r}; got {offset}")
            index = steps * int(ratio) + offset
        index = np.minimum(index, int(store.lengths[row]) - 1)  # the last row is repeated
        if not len(index):
            return np.zeros((0, *self.shape(modality)), np.float32), np.zeros(0, bool)
        if len(self.shape(modality)) == 1:
            values, present = self._whole(modality, i)
            return values[index], present[index]
        first = int(index[0])  # pictures: no more is read than asked for
        values = store.load(row, first, int(index[-1]) + 1)
        return values[index - first], store.present(row)[index]

    def stretch(self, i: int, modality: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows of one signal at its own rate, from the start of trial `i` to its last label, and which of
        them are present: what a model hears live. The last row is repeated where the signal is too short."""
        row = int(self._rows[self._known(modality)][i])
        count = self._wanted(modality, int(self.steps[i]))
        if row < 0:
            return np.zeros((count, *self.shape(modality)), np.float32), np.zeros(count, bool)
        index = np.minimum(np.arange(count), int(self.stores[modality].lengths[row]) - 1)
        values, present = self.stores[modality].load(row), self.stores[modality].present(row)
        return values[index], present[index]

    def statistics(self, rows: Sequence[int] | np.ndarray, modality: str) -> Statistics:
        """Mean and sd of a signal over all rows of some trials, see `FeatureStore.statistics`."""
        own = self._rows[self._known(modality)][np.asarray(rows, dtype=np.int64)]
        return self.stores[modality].statistics(own[own >= 0])

    def _known(self, modality: str) -> str:
        return str(_checks.choice(modality, self.stores, "modality"))

    def _wanted(self, modality: str, steps: int) -> int:
        """Rows that a trial of so many steps asks for."""
        ratio = self.ratios[modality]
        return (
            int(np.floor((steps - 1) * ratio + 0.5)) + 1 if modality in self.nearest else steps * int(ratio)
        )

    def _whole(self, name: str, i: int) -> tuple[np.ndarray, np.ndarray]:
        """All rows of a signal or trace, kept in memory as long as there is room."""
        key = name, i
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        store, row = self.traces if name == TRACE else self.stores[name], int(self._rows[name][i])
        found = store.load(row), store.present(row)
        if name == TRACE:
            found[0][~found[1]] = np.nan
        self._cache[key] = found
        held = sum(values.nbytes for values, _ in self._cache.values())
        while held > _CACHE and len(self._cache) > 1:
            held -= self._cache.popitem(last=False)[1][0].nbytes
        return found


def prepare_trials(
    manifest: Manifest,
    sources: Mapping[str, Source],
    trace: Trace,
    out_dir: str | PathLike[str],
    *,
    nearest: Sequence[str] = (),
    slack: float = 2.0,
    missing: str = "drop",
    on_error: str = "raise",
    workers: int = 1,
    progress: Callable[[str, int, int], None] | None = None,
) -> Trials:
    """Compute the rows of every signal of every trial into stores below one folder, and join them.

    Parameters
    ----------
    manifest : trials, see `affekt.data.Manifest.place` for where the files of a signal stand.
    sources : modality -> source of its rows.
    trace : source of the label traces, from the column ``trace``.
    out_dir : gets a folder per modality, and ``trace``.
    nearest : modalities that are sampled by nearest time instead of by phase.
    slack : seconds by which a signal may be shorter than the trace; its last row is then repeated. What is
        longer is cut. Both are counted (`Trials.adjusted`); a shorter one makes the trial a failure.
    missing : a trial without one of the signals is left out (``"drop"``), or used without it (``"mask"``).
    on_error : ``"raise"`` where a file is missing or broken or a trial fails, or ``"skip"``: the trial is
        left out, or used without that signal (`missing`), and listed in `Trials.failures`.
    workers, progress : as for `affekt.data.prepare`; `progress` gets the signal first.

    Raises
    ------
    DataError : see `on_error`; or no trial can be used.
    InputError : rates that do not fit, an unknown name, a signal named ``trace``.
    """
    _checks.choice(on_error, ("raise", "skip"), "on_error")
    if not sources or TRACE in sources:
        raise InputError(f"sources must name at least one signal, none of them 'trace'; got {list(sources)}")
    folder = _checks.path(out_dir, "out_dir")
    stores = {}
    for name, source in {TRACE: trace, **sources}.items():
        stores[name] = prepare(
            manifest,
            source,
            folder / name,
            column=name,
            on_error="skip" if on_error == "raise" and missing == "mask" and name != TRACE else on_error,
            workers=workers,
            progress=None if progress is None else (lambda k, n, name=name: progress(name, k, n)),  # type: ignore[misc]
        )
    traces = stores.pop(TRACE)
    trials = Trials(manifest, stores, traces, nearest=nearest, slack=slack, missing=missing)
    if on_error == "raise" and len(trials.failures):
        raise DataError(
            f"{len(trials.failures)} of {len(manifest)} trials cannot be used: "
            + _checks.some([f"{r.file}: {r.reason}" for r in trials.failures.itertuples()])
            + " (on_error='skip' leaves them out)"
        )
    return trials


def _identities(manifest: Manifest) -> list[tuple[str, float, float | None]]:
    return [(str(manifest.path(i)), *manifest.part(i)) for i in range(len(manifest))]


def _places(store: FeatureStore) -> dict[tuple[str, float, float | None], int]:
    """Row of the store for each trial."""
    return {key: i for i, key in enumerate(_identities(store.manifest))}


def _reasons(
    stores: Mapping[str, FeatureStore], manifest: Manifest
) -> dict[str, dict[tuple[str, float, float | None], str]]:
    """Signal -> trial -> why its store lacks it."""
    out: dict[str, dict[tuple[str, float, float | None], str]] = {}
    for name, store in stores.items():
        out[name] = {}
        for row in store.failures.to_dict("records"):
            start, end = (
                None if row[n] is None or row[n] != row[n] else float(row[n]) for n in ("start", "end")
            )
            key = (str(manifest.resolve(str(row["file"]))), start or 0.0, end)
            out[name][key] = str(row["reason"])
    return out
