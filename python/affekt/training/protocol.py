"""The protocol runner: folds x seeds -> trained models, predictions and tidy tables.

Layout of a run's folder::

    config.yaml        resolved configuration            environment.json   versions and machine
    results.csv        one row per fold, seed and condition   summary.csv   mean, sd, intervals
    groups.csv         figures per speaker and per value of gender, language (column ``by``)
    skipped.csv        recordings left out, and why
    predictions.csv    all test estimates beside labels  audit.json         what the leak check found
    ensemble_summary.csv, ensemble_groups.csv    the same figures of the seeds' mean, where there are several,
                       but for those of calibration: the mean of calibrated seeds is not calibrated
    features/          cached features (unless data.cache says elsewhere)
    fold_1/seed_0/     model.safetensors, split.csv, statistics.json, predictions.csv, predictions_dev.csv,
                       log.csv, kept.ckpt (the model's weights, to go on with), config.yaml,
                       environment.json and, written last, done.json

A fold and seed with ``done.json`` is never trained again; one that was interrupted goes on from its last
epoch. Neither is done when the recordings of its partitions are no longer those of its ``split.csv``. The
tables hold every finished fold and seed of the folder, whichever of them a call asked for. A folder
holds runs of one configuration; the column ``configuration`` of results.csv is its hash (where the data lie
apart), so that rows of different ones can be told apart elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from affekt import data
from affekt._cost import cost
from affekt._lazy import require
from affekt._predict import summarise
from affekt.data.manifest import as_text, read_csv
from affekt.data.store import INITIAL
from affekt.errors import DataError, InputError
from affekt.systems.base import System, export
from affekt.systems.schema import as_dict, differences
from affekt.systems.traced import TracedSystem
from affekt.training import scoring, traces
from affekt.training.calibration import with_temperature
from affekt.training.conditions import run_conditions
from affekt.training.config import (
    ProtocolConfig,
    RunConfig,
    SourceConfig,
    load_config,
    save_config,
)
from affekt.training.examples import Examples, labels_from_table
from affekt.training.floors import FloorResult, run_floors
from affekt.training.loop import store_kept, train
from affekt.training.processes import in_processes
from affekt.training.runs import (
    Say,
    by_condition,
    calibrated,
    card_info,
    close_folder,
    environment,
    group_names,
    labelled_rows,
    left_out,
    new_system,
    open_folder,
    present_groups,
    score_of,
    store_tables,
    truth_of,
    write_csv,
    write_json,
)

__all__ = ["ProtocolResult", "RunResult", "environment", "fit", "prepare", "run_protocol"]


@dataclass
class RunResult:
    """One training: folder, model file, rows of the results table, and whether it was there already.

    There is one row per condition (`affekt.training.conditions`); `row` is the first.
    """

    folder: Path
    model: Path
    rows: list[dict[str, Any]]
    reused: bool = False

    @property
    def row(self) -> dict[str, Any]:
        return self.rows[0]

    def __repr__(self) -> str:
        return f"RunResult({self.model}: {_shown(self.rows)})"


@dataclass
class ProtocolResult:
    """A finished protocol: its folder, the tables (pandas), the audit report and, if asked for, the floor.

    `runs` are the folds and seeds asked for; the tables hold all finished ones of the folder. `summary` is
    empty where the protocol has no test part; `ensemble` is the summary of the seeds' mean, None with one
    seed. All tables but `skipped` have a column ``condition``.
    """

    folder: Path
    runs: list[RunResult]
    results: Any
    summary: Any
    groups: Any
    skipped: Any
    audit: Any
    floor: FloorResult | None = None
    ensemble: Any = None

    def __str__(self) -> str:
        trained = len(self.results.drop_duplicates(["fold", "seed"]))
        lines = [f"{self.folder}: {trained} training(s), {len(self.skipped)} recording(s) left out"]
        pooled = self.summary[self.summary["over"] == "pooled"]
        figures = [k.upper() for k in ("uar", "war", "ccc") if pooled["metric"].str.startswith(k).any()]
        seeds = self.results["seed"].nunique() if len(self.results) else 0  # a floor alone has none
        steps = "n_test_steps" in self.results
        if figures:
            what = "every labelled step of the test trials" if steps else "all test recordings"
            how = (
                "mode window: mean of overlapping windows; mode full: one causal pass, as live"
                if steps
                else "mode full, last valid estimate of each recording"
            )
            lines.append(
                f"  {how}; {', '.join(figures)} over {what} concatenated"
                + (f", mean of {seeds} seeds" if seeds > 1 else "")
            )
        if len(self.summary) and self.summary["condition"].nunique() > 1:
            lines.append(
                "  known of the speaker: nothing (raw), what was heard so far (running), a few recordings "
                "beforehand (enrolled), all of them (whole, an upper bound)"
            )
        lines += _figures(self.summary)
        lines.append("  " + ("audit: no leak found" if self.audit.ok else f"AUDIT: {self.audit}"))
        lines += [f"  not checked: {m}" for m in dict.fromkeys(f.message for f in self.audit.notices)]
        if self.ensemble is not None:
            lines.append(f"  the {seeds} seeds of each fold as one ensemble (affekt ensemble):")
            lines += _figures(self.ensemble)
        lines += [str(self.floor)] if self.floor else []
        if self.runs:
            several = self.folder / "fold_*" / "seed_*" / "model.safetensors"
            lines.append(f"  model: {self.runs[0].model if len(self.runs) == 1 else several}")
        return "\n".join(lines)


def _figures(summary: Any) -> list[str]:
    """The figures of a summary that people look at first, one per line, condition by condition."""
    lines: list[str] = []
    if not len(summary):
        return lines
    kinds = summary[["condition", "mode"]].drop_duplicates().to_dict("records")
    several = [name for name in ("condition", "mode") if summary[name].nunique() > 1]
    for kind in kinds:
        own = summary[(summary["condition"] == kind["condition"]) & (summary["mode"] == kind["mode"])]
        if several:
            lines.append(f"  {', '.join(kind[name] for name in several)}:")
        for name in dict.fromkeys(own["metric"]):
            if name.startswith(("uar", "war", "ccc_", "ece")):
                lines.append("  " + _line(own[own["metric"] == name].set_index("over")))
    return lines


def _line(rows: Any) -> str:
    """One figure of a summary, its rows indexed by `over`."""
    whole = rows.loc["pooled"]
    line = f"{whole['metric']:<14} {whole['mean']:.3f}"
    if np.isfinite(whole["low"]):
        line += f"  (95 % interval over {whole['n']} groups {whole['low']:.3f} to {whole['high']:.3f})"
    elif whole["n"] < 2:
        line += "  (no interval: the test recordings are of one group)"
    if "groups" in rows.index:
        line += f"  single groups {rows.loc['groups', 'min']:.3f} to {rows.loc['groups', 'max']:.3f}"
    if "untouched" in rows.index:
        rest = rows.loc["untouched"]
        line += f"  untouched {rest['mean']:.3f}"
        if np.isfinite(rest["low"]):
            line += f" ({rest['low']:.3f} to {rest['high']:.3f}, {rest['n']} groups)"
    return line


def fit(config: RunConfig | Mapping[str, Any] | str | Path, *, say: Say | None = None) -> RunResult:
    """Train once: the first fold and first seed of the configuration. Parameters as for `run_protocol`.

    With ``protocol.kind="all"`` that is a model trained on every speaker but the development ones.
    """
    config = load_config(config)
    first = (config.protocol.select or [1])[0]
    protocol = replace(config.protocol, select=[first], seeds=config.protocol.seeds[:1])
    return run_protocol(replace(config, protocol=protocol), say=say).runs[0]


def prepare(
    config: RunConfig | Mapping[str, Any] | str | Path, *, say: Say | None = None
) -> tuple[data.FeatureStore | data.Trials, list[dict[str, Any]]]:
    """Read the recordings and cache the features as `run_protocol` does first; parameters as there.

    Returns
    -------
    store : the features of everything usable; of a system that follows traces, the trials.
    skipped : ``file`` and ``reason`` of everything else.
    """
    config = load_config(config)
    folder = Path(config.out)
    _claim(folder, config)
    manifests, main = _manifests(config)
    system = new_system(config, seed=0)
    store, _, noted = _features(config, manifests, main, system, folder, say or (lambda line: None))
    return store, noted


def run_protocol(
    config: RunConfig | Mapping[str, Any] | str | Path, *, say: Say | None = None
) -> ProtocolResult:
    """Train and test every selected fold with every seed, and write the tables.

    Statistics, class weights and early stopping see the training and development part of each fold only. Test
    figures come from the exported model file, run by the native core over each whole recording (mode "full",
    the last valid estimate, or the last of all where none is valid): what a user of the file gets.

    Parameters
    ----------
    config : a `RunConfig`, a mapping, a YAML file or a preset.
    say : called with one line per step; None is silent.

    Raises
    ------
    InputError : the output folder holds a run of another configuration or of other partitions.
    DataError : recordings or labels cannot be used, a selected fold does not exist, or the split leaks.
    """
    config = load_config(config)
    say = say or (lambda line: None)
    folder = Path(config.out)
    _claim(folder, config)
    system = new_system(config, seed=0, say=say)
    if config.protocol.kind == "published" and (config.data.root or config.data.manifest):
        _fold_files(config)  # said before the corpus is looked for, which may need another answer
    manifests, main = _manifests(config)
    folds = _folds(config, main)  # before the features, which take minutes
    store, main_rows, noted = _features(config, manifests, main, system, folder, say)
    splits, unused = _as_rows(config, folds, main, store, main_rows)
    noted += unused
    labels, unknown = ({}, {}) if system.traced else labels_from_table(store.manifest.table, system.heads)
    short = np.flatnonzero(store.lengths < system.min_rows)
    for i in short:
        noted.append(
            left_out(store, int(i), f"shorter than the {system.min_rows} feature rows that the model needs")
        )
    for name, count in unknown.items():
        if count:
            strangers = _strangers(store.manifest.table, name, system.heads[name])
            why = f" (it has no {', '.join(strangers)})" if strangers else ""
            say(
                f"{count} of {len(store)} recordings have no label for head {name!r}{why}: "
                "they neither train nor test it"
            )
    parted = {number: _without(split, short) for number, split in splits}
    people = {str(name) for name in group_names(store.manifest.table, config.protocol.group)}
    absent = set(config.protocol.choices) - people
    if absent:
        raise DataError(
            f"protocol.choices names {', '.join(sorted(absent))}: no {config.protocol.group} of the data"
        )
    numbers = config.protocol.select or list(parted)
    chosen = {number: parted[number] for number in numbers}
    for line in [] if system.traced else _thin_classes(config, store, labels, system, chosen):
        say(line)
    for number in numbers:  # every fold is checked before the first one trains
        usable = parted[number]
        if not len(usable.train):
            raise DataError(f"fold {number} has no usable training recording")
        leaks = data.audit(
            usable.table(store.manifest),
            store=_audited(store),
            allow=_allowed(config),
            seen=system.initial["data"] if system.initial else (),
        )
        if not leaks.ok:
            kinds = dict.fromkeys(finding.kind for finding in leaks.findings if finding.counts)
            raise DataError(
                f"the split of fold {number} leaks: {leaks}; keep together what belongs together with "
                f"protocol.group=COLUMN, or accept it with protocol.allow=[{','.join(kinds)}]"
            )
        for finding in leaks.notices:
            say(f"fold {number}: not checked for leaks: {finding.message}")
        for seed in config.protocol.seeds:
            place = _place(folder, number, seed)
            if (_finished(place) is not None or (place / "last.ckpt").is_file()) and not _same_split(
                place, usable, store
            ):
                raise InputError(
                    f"out: {place} was trained on other partitions than the recordings now give (its "
                    "split.csv differs: the manifest or the usable recordings changed); choose another "
                    "folder or remove that one"
                )
    floor = None
    if config.floor.features != "none":  # first: it takes minutes, and what it lacks is said at once
        table = labelled_rows(store, np.arange(len(store)), system, config.protocol)
        table["group"] = group_names(table, config.protocol.group)
        floor = run_floors(
            config, store, parted, table, system.heads, lambda part: truth_of(part, system),
            left_out=_skipped_table(noted), allow=_allowed(config), say=say,
        )  # fmt: skip
        if config.floor.only:
            none = require("pandas", purpose="result tables").DataFrame(columns=["metric", "over"])
            return ProtocolResult(folder, [], none, none, none, floor.skipped, floor.audit, floor)
    runs: dict[tuple[int, int], RunResult] = {}
    for number in numbers:
        for seed in config.protocol.seeds:
            place = _place(folder, number, seed)
            done = _finished(place)
            if done is not None:
                runs[number, seed] = RunResult(place, _model_of(place), done, reused=True)
                say(f"fold {number}, seed {seed}: {_shown(done)} (there already)")
    shared = _Shared(config, store, labels, chosen)
    missing = [(n, s) for n in numbers for s in config.protocol.seeds if (n, s) not in runs]
    for (number, seed), done in in_processes(_train_task, shared, missing, config.protocol.jobs, say):
        place = _place(folder, number, seed)
        runs[number, seed] = RunResult(place, _model_of(place), done)
        say(f"fold {number}, seed {seed}: {_shown(done)}")
    asked = [runs[n, s] for n in numbers for s in config.protocol.seeds]
    others = _others(folder, parted, store, {run.folder for run in asked}, say)
    return replace(_tables(config, folder, system, store, asked, others, noted), floor=floor)


# ---- pieces of a run


def _claim(folder: Path, config: RunConfig) -> None:
    """Write the configuration, or make sure that the run in the folder has the same."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "config.yaml"
    # Before the first training there is nothing to protect: a corrected mistake may use the folder again.
    if file.is_file() and any(folder.glob("fold_*")):
        there, here = (_essence(c) for c in (load_config(file), config))
        if there != here:
            differing = ", ".join(name for name, _, _ in differences(there, here)[:5])
            raise InputError(
                f"out: {folder} holds a run of another configuration (it differs in {differing}); "
                "choose another folder or remove that one"
            )
    save_config(config, file)
    write_json(folder / "environment.json", environment())


def _essence(config: RunConfig) -> dict[str, Any]:
    """The configuration without what may change between two calls that work on one folder."""
    values = as_dict(config)
    del values["out"]
    if values["init"]["sha256"]:  # the content counts, not where it lies
        del values["init"]["model"]
    for section, names in {
        "protocol": ("select", "seeds", "jobs", "choices", "by"),
        "data": ("workers", "cache"),
        "training": ("progress", "tensorboard"),
    }.items():
        for name in names:
            del values[section][name]
    del values["floor"]  # it does not change what is trained
    return values


def _digest(config: RunConfig) -> str:
    """A short hash of `_essence` that does not depend on where the data lie, and is no number to pandas."""
    values = _essence(config)
    for source in (values["data"], *values["data"]["extra"]):
        del source["root"]
    return "c" + hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:11]


def _source(source: SourceConfig, on_error: str) -> data.Manifest:
    """The manifest of one source."""
    if (source.corpus is None) == (source.manifest is None):
        raise InputError("data must name either a corpus or a manifest (data.corpus=..., data.manifest=...)")
    if source.corpus is not None:
        if source.root is None:
            raise InputError(
                f"data.root must be the folder of your copy of {source.corpus}: data.root=FOLDER"
            )
        root = Path(source.root).expanduser()
        if (root / source.corpus).is_dir():
            root = root / source.corpus
        return data.corpus(source.corpus, root, on_error=on_error, **source.options)
    scales = {name: (float(low), float(high)) for name, (low, high) in source.scales.items()}
    return data.read_manifest(
        str(source.manifest),
        root=source.root,
        columns=source.columns,
        scales=scales,
        emotions=source.emotions,
    )


def _manifests(config: RunConfig) -> tuple[list[data.Manifest], data.Manifest]:
    """The manifest of every source, and the one that the folds part."""
    sources = [config.data, *(replace(e, root=e.root or config.data.root) for e in config.data.extra)]
    manifests = [_source(source, config.data.on_error) for source in sources]
    parted = [
        manifests[0],
        *(m for m, e in zip(manifests[1:], config.data.extra, strict=True) if e.partition),
    ]
    return manifests, data.Manifest.concat(parted) if len(parted) > 1 else parted[0]


def _features(
    config: RunConfig,
    manifests: list[data.Manifest],
    main: data.Manifest,
    system: System,
    folder: Path,
    say: Say,
) -> tuple[Any, np.ndarray, list[dict[str, Any]]]:
    """Prepared features of all sources; the store's row of each row of the manifest that the folds
    part (-1: left out); what was left out so far."""
    if isinstance(system, TracedSystem):
        trials, left = traces.gather(config, manifests, system, folder, say)
        return trials, _rows_in(trials.manifest, main), left
    everything = data.Manifest.concat(manifests) if len(manifests) > 1 else manifests[0]
    cache = Path(config.data.cache) if config.data.cache else folder / "features"
    say(f"features of {len(everything)} recordings in {cache}")
    with warnings.catch_warnings(record=True) as warned:
        warnings.filterwarnings("ignore", "left out ", UserWarning)  # those are counted in the tables
        warnings.simplefilter("always", data.AudioWarning)
        store = data.prepare(
            everything,
            system.front_end(),
            cache,
            on_error=config.data.on_error,
            workers=config.data.workers,
            longest=config.data.longest,
        )
    for warning in warned:
        if issubclass(warning.category, data.AudioWarning):
            say(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    resampled = _resampled(store, store.features["options"]["sample_rate"])
    if resampled:
        say(resampled)
    rows = _rows_in(store.manifest, main)
    noted: list[dict[str, Any]] = [
        {str(name): value for name, value in row.items()} for row in store.failures.to_dict("records")
    ]
    for manifest in manifests:
        noted += [{"file": entry, "reason": "not a recording of the corpus's layout"}
                  for entry in manifest.attrs.get("skipped", [])]  # fmt: skip
    return store, rows, noted


def _rows_in(found: data.Manifest, asked: data.Manifest) -> np.ndarray:
    """Row of `found` for each row of `asked`, -1 where it is not there."""
    place = {(str(found.path(i)), *found.part(i)): i for i in range(len(found))}
    return np.array([place.get((str(asked.path(i)), *asked.part(i)), -1) for i in range(len(asked))])


def _resampled(store: data.FeatureStore, rate: float) -> str:
    """What to say about recordings of other sample rates than the model's; empty when there are none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", data.AudioWarning)  # `data.prepare` has passed them on
        rates = Counter(data.audio_info(store.manifest.path(i)).sample_rate for i in range(len(store)))
    if set(rates) <= {rate}:
        return ""
    counts = ", ".join(f"{count} at {own} Hz" for own, count in sorted(rates.items()))
    line = f"sample rates: {counts}; all were brought to {rate:g} Hz"
    if min(rates) < rate and len(rates) > 1:
        line += (
            f". Those below {rate:g} Hz are empty above half their rate: where that goes with a label or a "
            "speaker, the model can learn the microphone instead"
        )
    return line


def _place(folder: Path, number: int, seed: int) -> Path:
    return folder / f"fold_{number}" / f"seed_{seed}"


def _same_split(place: Path, split: data.Split, store: data.FeatureStore) -> bool:
    """Whether the stored split of a training names the same parts of the same files as `split`."""

    def keys(table: Any) -> list[tuple[str, float, float, str]]:
        rows = table[["file", "start", "end", "partition"]].itertuples(index=False)
        return sorted(
            (
                os.path.normpath(file),
                0.0 if np.isnan(start) else round(float(start), 6),
                -1.0 if np.isnan(end) else round(float(end), 6),
                part,
            )
            for file, start, end, part in rows
        )

    try:
        stored = data.read_split(place)
    except DataError:
        return False
    return keys(stored) == keys(split.table(store.manifest))


def _others(
    folder: Path, splits: Mapping[int, data.Split], store: data.FeatureStore, known: set[Path], say: Say
) -> list[RunResult]:
    """Finished trainings of the folder that this call did not ask for; those of other partitions are named
    and left out."""
    out = []
    for place in folder.glob("fold_*/seed_*"):
        number, seed = (part.partition("_")[2] for part in (place.parent.name, place.name))
        if place in known or not (number.isdecimal() and seed.isdecimal()):
            continue
        row = _finished(place)
        if row is None:
            continue
        if int(number) not in splits or not _same_split(place, splits[int(number)], store):
            say(f"{place} was trained on other partitions and is not in the tables")
            continue
        out.append(RunResult(place, _model_of(place), row, reused=True))
    return out


def _strangers(table: Any, name: str, head: Any) -> list[str]:
    """Classes of the table that a categorical head does not have."""
    column = name if name in table else "emotion"
    if head.kind != "categorical" or column not in table:
        return []
    return sorted({str(value) for value in table[column].dropna()} - set(head.labels))


def _thin_classes(
    config: RunConfig,
    store: data.FeatureStore,
    labels: Mapping[str, np.ndarray],
    system: System,
    folds: Mapping[int, data.Split],
) -> list[str]:
    """What to say about classes that a head cannot learn, or that are not tested where they are learnt."""
    lines = []
    groups = np.asarray(group_names(store.manifest.table, config.protocol.group), dtype=object)
    groups = np.broadcast_to(groups, len(store))
    for name, head in system.heads.items():
        for number, label in enumerate(head.labels if head.kind == "categorical" else ()):
            rows = np.flatnonzero(labels[name] == number)
            who = sorted(set(groups[rows].tolist()))
            if not len(rows):
                lines.append(f"no recording is labelled {label!r}: head {name!r} learns nothing about it")
            elif len(who) == 1 and any(len(split.test) for split in folds.values()):
                lines.append(
                    f"class {label!r} of head {name!r} has recordings of one {config.protocol.group} only, "
                    f"{who[0]} ({len(rows)}): it cannot be in training and in test; where {who[0]} is tested "
                    "its recall is 0, elsewhere it is not tested"
                )
            else:
                untaught = [
                    str(fold)
                    for fold, split in folds.items()
                    if np.isin(rows, split.test).any() and not np.isin(rows, split.train).any()
                ]
                if untaught:
                    lines.append(
                        f"class {label!r} of head {name!r} ({', '.join(who)}) is tested but not trained in "
                        f"fold {', '.join(untaught)}: its recall there is 0"
                    )
    return lines


def _folds(config: RunConfig, manifest: data.Manifest) -> list[data.Split]:
    """All folds as rows of the manifest."""
    protocol = config.protocol
    options: dict[str, Any] = {"seed": protocol.seed, "column": protocol.group, "dev": protocol.dev or None}
    if protocol.kind == "group_kfold":
        count = len(set(manifest.groups(protocol.group)))
        if protocol.folds > count:
            raise DataError(
                f"protocol.folds={protocol.folds} needs as many {protocol.group}s, there are {count}"
            )
        splits = data.group_kfold(manifest, protocol.folds, **options)
    elif protocol.kind == "leave_one_group_out":
        splits = data.leave_one_group_out(manifest, **options, dev_by=protocol.dev_by)
    elif protocol.kind == "rows":
        if isinstance(protocol.dev, list) or not protocol.dev:
            raise InputError(f"protocol.dev must be a share or number of rows above 0, got {protocol.dev}")
        splits = data.row_kfold(manifest, protocol.folds, seed=protocol.seed, dev=protocol.dev)
    elif protocol.kind == "column_kfold":
        splits = data.split_kfold(manifest, protocol.folds)
    elif protocol.kind == "column_halves":
        splits = [
            data.split_halves(manifest, seed=protocol.seed, column=protocol.group, strata=protocol.strata)
        ]
    elif protocol.kind == "listed":
        splits = data.listed_folds(manifest, protocol.tests, **options)
    elif protocol.kind == "published":
        splits = data.published_folds(
            _fold_files(config), manifest, on_missing=config.data.on_error, **options
        )
    elif protocol.kind == "column":
        splits = [_column_split(manifest, options)]
    else:
        none = np.empty(0, dtype=np.int64)
        everything = data.Split(np.arange(len(manifest)), none, none, "all", protocol.group)
        splits = [_carve(everything, manifest, **options)]
    if protocol.select and max(protocol.select) > len(splits):
        raise DataError(
            f"protocol.select asks for fold {max(protocol.select)}; the protocol has {len(splits)}"
        )
    return splits


def _as_rows(
    config: RunConfig,
    splits: list[data.Split],
    manifest: data.Manifest,
    store: data.FeatureStore,
    rows: np.ndarray,
) -> tuple[list[tuple[int, data.Split]], list[dict[str, Any]]]:
    """The folds as rows of the store, and what published folds leave out. Folds were made on the whole
    manifest, so that a recording that cannot be used does not move the others; rows of sources that take no
    part in the folds train."""
    own = set(rows[rows >= 0].tolist())
    extra = np.array([i for i in range(len(store)) if i not in own], dtype=np.int64)

    def mapped(part: np.ndarray) -> np.ndarray:
        found = rows[part]
        return found[found >= 0]

    out = []
    for number, s in enumerate(splits, 1):
        train_rows = np.concatenate([mapped(s.train), extra])
        out.append((number, data.Split(train_rows, mapped(s.dev), mapped(s.test), s.name, s.grouped_by)))
    unused: list[dict[str, Any]] = []
    if config.protocol.kind == "published":
        for s in splits:
            unused += [{"file": clip, "reason": "a published fold names it, the data lack it"}
                       for clip in s.missing]  # fmt: skip
        named = np.concatenate([part for s in splits for part in (s.train, s.dev, s.test)])
        for i in np.setdiff1d(np.arange(len(manifest)), named):
            if rows[i] >= 0:  # the others have been noted already
                unused.append(left_out(store, int(rows[i]), "no published fold names it"))
    return out, unused


def _fold_files(config: RunConfig) -> Path:
    """The folder of the published folds; a relative one is looked for here and in the folder of the data."""
    files = Path(config.protocol.files or "").expanduser()
    places = [files]
    if config.data.root and not files.is_absolute():
        places.append(Path(config.data.root).expanduser() / files)
    found = [place for place in places if place.is_dir()]
    if not found:
        raise DataError(
            f"protocol.files: no folder {' or '.join(map(str, places))} with the published folds; name it "
            "with protocol.files=FOLDER, or make folds of your own with protocol.kind=group_kfold"
        )
    return found[0]


def _column_split(manifest: data.Manifest, options: Mapping[str, Any]) -> data.Split:
    parts = manifest.groups("split")
    unknown = sorted(set(parts) - {"train", "dev", "test"})
    if unknown:
        raise DataError(f"the split column must hold train, dev and test; it has {', '.join(unknown)}")
    train_rows, dev_rows, test_rows = (np.flatnonzero(parts == name) for name in ("train", "dev", "test"))
    split = data.Split(train_rows, dev_rows, test_rows, "column")
    return split if len(split.dev) else _carve(split, manifest, **options)


def _carve(
    split: data.Split, manifest: data.Manifest, *, dev: int | float | list[str] | None, seed: int, column: str
) -> data.Split:
    """Move development groups out of the training part."""
    if dev is None:
        return split
    groups = manifest.groups(column)[split.train]
    if isinstance(dev, list):
        moved = np.isin(groups.astype(str), dev)
        if not moved.any() or moved.all():
            raise DataError(f"protocol.dev: {', '.join(dev)} must be some but not all of the training groups")
    else:
        moved = np.zeros(len(groups), bool)
        moved[data.random_split(groups, test=dev, seed=seed).test] = True
    return replace(split, train=split.train[~moved], dev=split.train[moved])


def _without(split: data.Split, rows: np.ndarray) -> data.Split:
    """The split without rows that no model can take; test rows stay and are counted as failed."""
    return replace(split, train=np.setdiff1d(split.train, rows), dev=np.setdiff1d(split.dev, rows))


def _allowed(config: RunConfig) -> list[str]:
    allowed = list(config.protocol.allow)
    may_lack = ("all", "column", "column_kfold")
    return [*allowed, "partition"] if config.protocol.kind in may_lack else allowed


@dataclass
class _Shared:
    """What all trainings of a protocol work on."""

    config: RunConfig
    store: data.FeatureStore | data.Trials
    labels: Mapping[str, np.ndarray]
    splits: Mapping[int, data.Split]


def _train_task(shared: _Shared, task: tuple[int, int], say: Say) -> list[dict[str, Any]]:
    """One fold and seed; where several train at once, in a process of its own."""
    number, seed = task
    split, config = shared.splits[number], shared.config
    if config.protocol.jobs > 1:  # several bars would write over each other
        config = replace(config, training=replace(config.training, progress=False))
    say(f"fold {number} ({split.name}), seed {seed}: {split}")
    place = _place(Path(config.out), number, seed)
    if isinstance(shared.store, data.Trials):
        return traces.train_one(
            config, shared.store, split, number, seed, place,
            lambda line: say(f"fold {number}, seed {seed}: {line}"),
        )  # fmt: skip
    return _train_one(
        config, shared.store, shared.labels, split, number, seed, place,
        lambda line: say(f"fold {number}, seed {seed}: {line}"),
    )  # fmt: skip


def _speakers(config: RunConfig, store: data.FeatureStore) -> np.ndarray:
    """(n,) integers, equal for recordings of one speaker; -1 where nobody knows."""
    table = store.manifest.table
    if "subject" not in table:
        if config.training.per_speaker:
            raise DataError("training.per_speaker needs a column 'subject' in the manifest; set it to 0")
        return np.full(len(table), -1)
    return np.asarray(as_text(table["subject"]).astype("category").cat.codes, dtype=np.int64)


def _neutral(store: data.FeatureStore) -> np.ndarray:
    """(n,) whether a recording is labelled as neutral speech."""
    table = store.manifest.table
    if "emotion" not in table:
        return np.zeros(len(table), bool)
    return np.asarray(as_text(table["emotion"]) == "neutral", dtype=bool)


def _train_one(
    config: RunConfig,
    store: data.FeatureStore,
    labels: Mapping[str, np.ndarray],
    split: data.Split,
    number: int,
    seed: int,
    place: Path,
    say: Say,
) -> list[dict[str, Any]]:
    """One fold with one seed, from statistics to predictions; returns its rows of the results."""
    begun = time.perf_counter()
    group = config.protocol.group
    open_folder(config, store, split, place)
    system = new_system(config, seed)
    if system.initial is not None and config.init.statistics == "keep":
        data.Statistics(*system.statistics(), 0, INITIAL, str(store.folder.resolve()), store.key).save(place)
    else:
        statistics = store.statistics(split.train, fitted_on="train")
        statistics.save(place)
        system.set_statistics(statistics.mean, statistics.sd)

    speakers, neutral = _speakers(config, store), _neutral(store)

    def part(rows: np.ndarray) -> Examples:
        return Examples(
            [store.load(int(i)) for i in rows],
            {name: value[rows] for name, value in labels.items()},
            speakers[rows],
            np.flatnonzero(neutral[rows]),
        )

    train_part = part(split.train)
    dev_part = part(split.dev) if len(split.dev) else None
    for name, head in system.heads.items():
        known = labels[name][split.train]
        if not (known >= 0 if head.kind == "categorical" else np.isfinite(known)).any():
            raise DataError(f"fold {number}: no training recording has a label for head {name!r}")
        if head.kind == "categorical" and head.balance:
            counts = np.bincount(known[known >= 0], minlength=len(head.labels))
            system.set_class_weights(name, counts.sum() / (len(head.labels) * np.maximum(counts, 1)))

    result = train(
        system, train_part, dev_part, config.training, place, seed=seed, score=score_of(system),
        monitor=config.monitor or "score", say=say,
    )  # fmt: skip
    trained = time.perf_counter() - begun

    path = place / "model.safetensors"
    info = card_info(config, store, split, number, seed)
    export(system, path, info, name=config.name)
    dev_table, dev_failed = _native_predictions(config, path, store, split.dev, system, say)
    calibration = calibrated(dev_table, config, system)
    for name, value in calibration.temperature.items():
        system.set_temperature(name, value)
        columns = system.heads[name].columns
        dev_table[columns] = with_temperature(dev_table[columns], value)
    if dev_part is None:
        say(f"calibration: {calibration.how}")
    store_kept(place, system)
    info["calibration"] = asdict(calibration)
    export(system, path, info, name=config.name)
    table, failed = _native_predictions(config, path, store, split.test, system, say)
    table, dev_table = store_tables(place, table, dev_table, split, calibration)
    scores, dev_scores = by_condition(table, system), by_condition(dev_table, system)
    info["metrics"] = {"test": scores, "development": dev_scores}
    export(system, path, info, name=config.name)

    manifest = store.manifest.table
    heads = [name for name, head in system.heads.items() if head.kind == "categorical"]
    price = cost(path)
    rows = []
    for condition in scores or dev_scores or {"raw": {}}:
        rows.append({
            "fold": number,
            "seed": seed,
            "condition": condition,
            "split": split.name,
            "mode": "full",
            "n_train": len(split.train),
            "n_dev": len(split.dev),
            "n_test": int((table["condition"] == condition).sum()),
            "n_test_failed": len(failed),
            "dev_groups": present_groups(manifest, group, split.dev),
            "test_groups": present_groups(manifest, group, split.test),
            "epochs": result.epochs,
            "best_epoch": result.best_epoch,
            **scores.get(condition, {}),
            **{f"dev_{name}": value for name, value in dev_scores.get(condition, {}).items()},
            **{f"temperature_{n}" if len(heads) > 1 else "temperature": calibration.temperature[n]
               for n in heads},
            **{f"sd_{label}": value for label, value in calibration.sd.items()},
            **price,
            "seconds_training": round(trained, 1),
            "seconds": round(time.perf_counter() - begun, 1),
        })  # fmt: skip
    close_folder(place, {"rows": rows, "failed": [*failed, *dev_failed]})
    return rows


def _read_predictions(path: Path, system: System, protocol: ProtocolConfig) -> Any:
    """The predictions of one training; names stay text, whatever they look like."""
    classes = [f"true_{name}" for name, head in system.heads.items() if head.kind == "categorical"]
    names = ("condition", "file", "subject", "session", protocol.group, *protocol.by)
    return read_csv(path, (*names, "true_emotion", *classes))


def _native_predictions(
    config: RunConfig,
    path: Path,
    store: data.FeatureStore,
    rows: np.ndarray,
    system: System,
    say: Say,
) -> tuple[Any, list[dict[str, Any]]]:
    """The last valid estimate of each recording under each condition (the last of all where none is valid),
    from the model file, run by the native core in full mode; and what it cannot run."""
    from affekt._native import load

    pandas = require("pandas", purpose="result tables")
    model = load(path)
    manifest = store.manifest
    failed: dict[int, str] = {}

    def read(row: int) -> np.ndarray | None:
        begin, end = manifest.part(row)
        try:
            return data.read_audio(manifest.path(row), model.sample_rate, start=begin, end=end)
        except DataError as error:
            failed[row] = str(error)
            return None

    # Adaptation is to a person, whatever the folds keep together.
    column = "subject" if "subject" in manifest.table else config.protocol.group
    known = manifest.table[column].notna().to_numpy() if column in manifest.table else None
    names = group_names(manifest.table, column)
    speakers: dict[str, list[int]] = {}
    unknown: list[int] = []
    for row in rows:
        if known is not None and known[row]:
            speakers.setdefault(str(names[row]), []).append(int(row))
        else:
            unknown.append(int(row))
    labels = as_text(manifest.table["emotion"]) if "emotion" in manifest.table else None
    found: dict[str, dict[int, np.ndarray]] = {}
    for condition, row, estimates in run_conditions(
        model, speakers, read, config.conditions,
        lambda row: None if labels is None else labels.iloc[row], say, unknown,
    ):  # fmt: skip
        if len(estimates.values):
            found.setdefault(condition, {})[row] = summarise(estimates.values, estimates.valid, "last")
        else:
            failed[row] = "too short for a single estimate"
    parts = []
    for condition, values in found.items():
        kept = [int(row) for row in rows if int(row) in values]  # in the order of the split
        part = labelled_rows(store, np.array(kept, dtype=np.int64), system, config.protocol)
        part.insert(0, "condition", condition)
        estimates = pandas.DataFrame([values[row] for row in kept], columns=model.columns)
        parts.append(pandas.concat([part, estimates], axis=1))
    if not parts:
        empty = labelled_rows(store, np.empty(0, np.int64), system, config.protocol)
        empty.insert(0, "condition", None)
        parts = [empty.reindex(columns=[*empty, *model.columns])]
    return pandas.concat(parts, ignore_index=True), [left_out(store, row, why) for row, why in failed.items()]


def _tables(
    config: RunConfig,
    folder: Path,
    system: System,
    store: data.FeatureStore,
    runs: list[RunResult],
    others: list[RunResult],
    noted: list[dict[str, Any]],
) -> ProtocolResult:
    """Collect what the trainings of the folder left into the tables of the run."""
    pandas = require("pandas", purpose="result tables")
    finished = sorted([*runs, *others], key=lambda run: (run.row["fold"], run.row["seed"]))
    results = pandas.DataFrame([row for run in finished for row in run.rows])
    noted = noted + [
        f for run in finished for f in json.loads((run.folder / "done.json").read_text())["failed"]
    ]
    skipped = _skipped_table(noted)
    results.insert(min(9, len(results.columns)), "n_skipped", len(skipped))
    results["configuration"] = _digest(config)
    parts = []
    for run in finished:
        part = _read_predictions(run.folder / "predictions.csv", system, config.protocol)
        if not len(part):
            continue
        part.insert(0, "fold", run.row["fold"])
        part.insert(1, "seed", run.row["seed"])
        part["group"] = group_names(part, config.protocol.group)
        if "start" not in part:
            part["start"] = 0.0
        parts.append(part)
    summary = groups = pandas.DataFrame(columns=["condition", "metric", "over"])
    ensemble = None
    if parts:
        predictions = pandas.concat(parts, ignore_index=True)
        protocol = config.protocol
        summary, groups = scoring.condition_tables(
            predictions, system.heads, lambda table: truth_of(table, system), group=protocol.group,
            by=protocol.by, choices=protocol.choices, calibrated=True,
        )  # fmt: skip
        own = config.protocol.group == "group"  # then the column is the manifest's
        together = _ensemble(predictions, system)
        for name in ("ensemble_summary.csv", "ensemble_groups.csv"):
            (folder / name).unlink(missing_ok=True)  # of seeds that are no longer all there
        if together is not None:
            # Each member is calibrated by itself; their mean is less confident than any, so that figures of
            # its probabilities and sd would say nothing about calibration.
            both = scoring.condition_tables(
                together, system.heads, lambda table: truth_of(table, system), group=protocol.group,
                by=protocol.by, choices=protocol.choices, calibrated=False,
            )  # fmt: skip
            ensemble = both[0]
            write_csv(folder / "ensemble_summary.csv", both[0])
            write_csv(folder / "ensemble_groups.csv", both[1])
        write_csv(folder / "predictions.csv", predictions if own else predictions.drop(columns="group"))
        write_csv(folder / "groups.csv", groups)
        write_csv(folder / "summary.csv", summary)
    write_csv(folder / "results.csv", results)
    write_csv(folder / "skipped.csv", skipped)
    report = data.audit(folder, store=_audited(store), allow=_allowed(config))
    (folder / "audit.json").write_text(report.to_json() + "\n")
    return ProtocolResult(folder, runs, results, summary, groups, skipped, report, ensemble=ensemble)


def _ensemble(predictions: Any, system: System) -> Any | None:
    """Predictions of the seeds together, the mean of their estimates, which is what `affekt.ensemble` of
    their model files says; None with one seed. Recordings that a seed lacks are left out."""
    seeds = predictions["seed"].nunique()
    if seeds < 2:
        return None
    identity = ("fold", "condition", "mode", "file", "start", "end", "step")
    keys = [c for c in identity if c in predictions]
    values = [c for c in predictions if c in system.columns]
    predictions = predictions.drop(columns=[c for c in predictions if c.startswith("sd_")])  # each seed's own
    grouped = predictions.groupby(keys, sort=False, dropna=False)
    together = grouped.first()
    together[values] = grouped[values].mean()
    together = together[grouped.size() == seeds].reset_index()
    return together.assign(seed=0) if len(together) else None


def _skipped_table(noted: list[dict[str, Any]]) -> Any:
    pandas = require("pandas", purpose="result tables")
    table = pandas.DataFrame(noted, columns=["file", "start", "end", "reason"])
    return table.drop_duplicates(["file", "start", "end"])


def _finished(place: Path) -> list[dict[str, Any]] | None:
    """The rows of a finished training, or None."""
    if not (place / "done.json").is_file():
        return None
    record = json.loads((place / "done.json").read_text())
    there = (place / "model.safetensors").is_file() or record.get("not_exported")
    return record.get("rows") if there else None


def _model_of(place: Path) -> Path:
    """The model of a finished training: its file, or its weights where it cannot run live."""
    file = place / "model.safetensors"
    return file if file.is_file() else place / "kept.ckpt"


def _audited(store: data.FeatureStore | data.Trials) -> data.FeatureStore:
    """The store whose objects tell one recording or trial from another."""
    return store.first if isinstance(store, data.Trials) else store


def _shown(rows: list[dict[str, Any]]) -> str:
    """The few figures of a training that a person wants to see."""
    parts = []
    for row in rows:
        names = [n for n in row if n == "uar" or n.startswith(("uar_", "ccc_"))] or [
            n for n in row if n in ("dev_uar", "dev_ccc")
        ]
        kind = "mode" if len({row["condition"] for row in rows}) == 1 else "condition"
        parts.append(
            (f"{row[kind]} " if len(rows) > 1 else "") + ", ".join(f"{n} {row[n]:.3f}" for n in names)
        )
    return "; ".join(parts) + f", best epoch {rows[0]['best_epoch']}, {rows[0]['seconds']:.0f} s"
