"""Runs on trials: signals and label traces in, one estimate per step out.

What `affekt.training.protocol` does alike for recordings and trials stands there; this is the rest. The
folder of a fold and seed holds the same files; predictions are one row per step and mode, with ``step`` and
``time``.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from affekt import data
from affekt._lazy import require
from affekt.data.trials import TRACE, Trials
from affekt.errors import AffektError, DataError, InputError, NotStreamableError
from affekt.systems.base import export
from affekt.systems.traced import TracedSystem
from affekt.training.config import RunConfig
from affekt.training.loop import predict_examples, store_kept, train
from affekt.training.runs import (
    Say,
    by_condition,
    calibrated,
    card_info,
    close_folder,
    labelled_rows,
    new_system,
    open_folder,
    present_groups,
    score_of,
    store_tables,
)
from affekt.training.windows import Targets, TrialWindows, trace_targets

__all__ = ["MODES", "full_pass", "gather", "standardise", "train_one", "windows_of"]

MODES = ("window", "full")
"""How trials are predicted: overlapping windows and their mean, as published; and in one causal pass, as the
model runs live (the stream gives the same numbers)."""


def gather(
    config: RunConfig, manifests: Sequence[data.Manifest], system: TracedSystem, folder: Path, say: Say
) -> tuple[Trials, list[dict[str, Any]]]:
    """The trials of all sources, computed once; and what was left out so far.

    Raises
    ------
    InputError : something is asked for that trials do not have.
    DataError : see `affekt.data.prepare_trials`.
    """
    if config.floor.features != "none":
        raise InputError("floor.features: a floor is for recordings; set it to none for a system of traces")
    if config.init.model is not None:
        raise InputError("init.model: systems of traces start from random weights; set it to null")
    signals = [*system.modalities, TRACE]
    whole = [manifest.absolute(signals) for manifest in manifests]
    everything = data.Manifest.concat(whole) if len(whole) > 1 else whole[0]
    cache = Path(config.data.cache) if config.data.cache else folder / "features"
    for name in system.modalities:
        if name not in everything.table:
            say(f"the data have no column {name!r}: its rows are read from the column 'file'")
    say(f"rows of {', '.join(system.modalities)} of {len(everything)} trials in {cache}")
    options = {"rate": system.config.rate, "labels": system.labels, **config.data.trace}
    kind = str(options.pop("kind", "trace"))
    trace = data.make_source(kind, **options)
    if not isinstance(trace, data.Trace):
        raise InputError(f"data.trace.kind must be a source of label traces, got {kind!r}")
    if trace.rate != system.config.rate:
        raise InputError(
            f"system.rate must be the rate of the labels, {trace.rate:g} Hz (data.trace.rate), got "
            f"{system.config.rate:g}"
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "left out ", UserWarning)  # those are counted in the tables
        trials = data.prepare_trials(
            everything,
            system.sources,
            trace,
            cache,
            nearest=system.nearest,
            slack=config.data.slack,
            missing=config.data.missing,
            on_error=config.data.on_error,
            workers=config.data.workers,
        )
    for signal, part in trials.adjusted.groupby("signal"):
        longer = int((part["rows"] > part["wanted"]).sum())
        say(
            f"{signal}: {longer} of {len(trials)} trials have more rows than labels and are cut, "
            f"{len(part) - longer} have fewer and repeat the last one"
        )
    unlabelled = sum(int(np.isnan(trials.trace(i)).all(axis=1).sum()) for i in range(len(trials)))
    if unlabelled:
        say(f"{unlabelled} of {int(trials.steps.sum())} steps have no label: they neither train nor test")
    noted = [{str(name): value for name, value in row.items()} for row in trials.failures.to_dict("records")]
    for manifest in manifests:
        noted += [{"file": entry, "reason": "not a trial of the corpus's layout"}
                  for entry in manifest.attrs.get("skipped", [])]  # fmt: skip
    return trials, noted


def windows_of(
    system: TracedSystem,
    trials: Trials,
    rows: np.ndarray,
    targets: Targets,
    *,
    seed: int = 0,
    moving: bool = False,
    **options: Any,
) -> TrialWindows:
    """Some trials as the system takes them; `options` go to `TrialWindows`."""
    window = system.config.window
    return TrialWindows(
        trials, rows, list(system.modalities), targets,
        size=window.size, hop=window.hop, seed=seed, moving=moving, **options,
    )  # fmt: skip


def train_one(
    config: RunConfig,
    trials: Trials,
    split: data.Split,
    number: int,
    seed: int,
    place: Path,
    say: Say,
) -> list[dict[str, Any]]:
    """One fold with one seed, from statistics to predictions; returns its rows of results, one per mode."""
    begun = time.perf_counter()
    open_folder(config, trials, split, place)
    system = cast(TracedSystem, new_system(config, seed))
    standardise(system, trials, split.train, place)
    targets = trace_targets(trials, system.heads)
    train_part = windows_of(system, trials, split.train, targets, seed=seed, moving=True)
    dev_part = windows_of(system, trials, split.dev, targets) if len(split.dev) else None
    for name in system.heads:
        if not any(np.isfinite(value).any() for value in train_part.labels[name]):
            raise DataError(f"fold {number}: no training trial has a label for head {name!r}")

    result = train(
        system, train_part, dev_part, config.training, place, seed=seed, score=score_of(system),
        monitor=config.monitor or "score", say=say,
    )  # fmt: skip
    trained = time.perf_counter() - begun

    path, info = place / "model.safetensors", card_info(config, trials, split, number, seed)
    why_not = _export(system, path, info, config.name)
    if why_not:
        say(f"no model file: {why_not}")
    dev_table = _predictions(config, system, trials, split.dev, path, say)
    whole = dev_table[dev_table["mode"] == "full"]
    calibration = calibrated(whole, config, system)
    store_kept(place, system)
    info["calibration"] = asdict(calibration)
    _export(system, path, info, config.name)
    table = _predictions(config, system, trials, split.test, path, say)
    table, dev_table = store_tables(place, table, dev_table, split, calibration)
    scores, dev_scores = _by_mode(table, system), _by_mode(dev_table, system)
    info["metrics"] = {"test": scores, "development": dev_scores}
    _export(system, path, info, config.name)
    group, manifest = config.protocol.group, trials.manifest.table
    rows = [
        {
            "fold": number,
            "seed": seed,
            "condition": "raw",
            "split": split.name,
            "mode": mode,
            "n_train": len(split.train),
            "n_dev": len(split.dev),
            "n_test": len(split.test),
            "n_test_failed": 0,
            "n_test_steps": int((table["mode"] == mode).sum()),
            "dev_groups": present_groups(manifest, group, split.dev),
            "test_groups": present_groups(manifest, group, split.test),
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            **scores.get(mode, {}),
            **{f"dev_{name}": value for name, value in dev_scores.get(mode, {}).items()},
            **{f"sd_{label}": value for label, value in calibration.sd.items()},
            "parameters": system.num_parameters(),
            "seconds_training": round(trained, 1),
            "seconds": round(time.perf_counter() - begun, 1),
        }
        for mode in MODES
    ]
    close_folder(place, {"rows": rows, "failed": [], "not_exported": why_not})
    return rows


def standardise(system: TracedSystem, trials: Trials, rows: np.ndarray, place: Path) -> None:
    """Fit the statistics of the signals that are standardised on some trials, into ``statistics.json``."""
    found = {}
    for name, own in system.modalities.items():
        if own.standardise != "none":
            statistics = trials.statistics(rows, name)
            found[name] = statistics.scalar() if own.standardise == "scalar" else statistics
            system.set_modality_statistics(name, found[name].mean, found[name].sd)
    data.save_statistics(found, place)


def _export(system: TracedSystem, path: Path, info: Mapping[str, Any], name: str) -> str | None:
    """Write the model file; why there is none, where the system cannot run live."""
    try:
        export(system, path, info, name=name)
    except NotStreamableError as error:
        path.unlink(missing_ok=True)
        return str(error)
    return None


@torch.no_grad()
def full_pass(system: TracedSystem, trials: Trials, row: int) -> dict[str, np.ndarray]:
    """Outputs of a whole trial in one pass of torch, by head (steps, labels)."""
    was = system.training
    system.eval()
    loaded = {name: trials.load(row, name) for name in system.modalities}
    features = {name: torch.from_numpy(values)[None] for name, (values, _) in loaded.items()}
    present = {name: torch.from_numpy(known)[None] for name, (_, known) in loaded.items()}
    mask = torch.ones(1, int(trials.steps[row]), dtype=torch.bool)
    out = {}
    for name, value in system(features, mask, present).items():
        categorical = system.heads[name].kind == "categorical"
        out[name] = (system.probabilities(name, value) if categorical else value)[0].numpy()
    system.train(was)
    return out


def _native_pass(model: Any, system: TracedSystem, trials: Trials, row: int) -> tuple[np.ndarray, int]:
    """Estimates of a whole trial by the native core (steps, columns), and how many steps had none of their
    own: where every signal is absent the last estimate is held, zeros before the first."""
    given = {}
    for name in system.modalities:
        values, present = trials.stretch(row, name)
        rate = float(system.sources[name].rate)
        edges = np.flatnonzero(np.diff(np.concatenate([[0], present.astype(np.int8), [0]])))
        given[name] = [
            (begin / rate, values[begin:end]) for begin, end in zip(edges[::2], edges[1::2], strict=True)
        ]
    found = model.run({name: pieces for name, pieces in given.items() if pieces})
    steps = int(trials.steps[row])
    out = np.zeros((steps, len(model.columns)), np.float32)
    place = np.round(found.times * trials.rate).astype(np.int64)
    inside = (place >= 0) & (place < steps)
    heard = np.full(steps, -1)
    heard[place[inside]] = np.flatnonzero(inside)
    held = np.maximum.accumulate(heard)
    out[held >= 0] = found.values[held[held >= 0]]
    return out, int((heard < 0).sum())


def _predictions(
    config: RunConfig, system: TracedSystem, trials: Trials, rows: np.ndarray, path: Path, say: Say
) -> Any:
    """Estimates beside labels, one row per mode, trial and step. The mode full is the native core's, where
    there is a model file."""
    from affekt._native import load

    pandas = require("pandas", purpose="result tables")
    targets = trace_targets(trials, system.heads)
    columns = system.columns
    named = labelled_rows(trials, rows, system, config.protocol)
    model = load(path) if path.is_file() else None
    parts, unheard = [], 0
    outputs: dict[str, Any] = {}
    if len(rows):
        outputs = predict_examples(system, windows_of(system, trials, rows, targets))
    for place, row in enumerate(rows):
        windowed = np.concatenate([outputs[name][place] for name in system.heads], axis=1)
        if model is None:
            whole = np.concatenate(list(full_pass(system, trials, int(row)).values()), axis=1)
        else:
            whole, missing = _native_pass(model, system, trials, int(row))
            whole = whole[:, [model.columns.index(c) for c in columns]]
            unheard += missing
        truth = targets(int(row))
        steps = int(trials.steps[row])
        for mode, values in zip(MODES, (windowed, whole), strict=True):
            part = named.iloc[np.full(steps, place)].reset_index(drop=True)
            part.insert(0, "condition", "raw")
            part.insert(1, "mode", mode)
            part["step"], part["time"] = np.arange(steps), np.arange(steps) / trials.rate
            for name, head in system.heads.items():
                for column, label in enumerate(head.labels):
                    part[f"true_{label}"] = truth[name][:, column]
            part[columns] = values
            parts.append(part)
    if unheard:
        say(f"{unheard} steps have no signal at all: mode full holds the estimate before them")
    if not parts:
        names = [*named, "step", "time", *(f"true_{label}" for label in system.labels), *columns]
        return pandas.DataFrame(columns=["condition", "mode", *dict.fromkeys(names)])
    table = pandas.concat(parts, ignore_index=True)
    if not np.isfinite(table[columns].to_numpy()).all():
        raise AffektError("the model gives values that are not finite")
    return table


def _by_mode(table: Any, system: TracedSystem) -> dict[str, dict[str, float]]:
    """Figures over all steps of all trials concatenated, mode by mode."""
    return {str(mode): by_condition(part, system)["raw"] for mode, part in table.groupby("mode", sort=False)}
