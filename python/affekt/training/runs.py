"""Pieces that runs on recordings and runs on trials share: a new system, provenance, tables, files."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from affekt import __version__, data
from affekt.data.manifest import as_text
from affekt.data.store import UNNAMED
from affekt.errors import InputError
from affekt.systems.base import System, create, initialise
from affekt.training import scoring
from affekt.training.calibration import Calibration, calibrate
from affekt.training.config import ProtocolConfig, RunConfig, initial_model, save_config
from affekt.training.examples import labels_from_table
from affekt.training.loop import derive_seed

__all__ = [
    "Say",
    "by_condition",
    "calibrated",
    "card_info",
    "close_folder",
    "environment",
    "group_names",
    "labelled_rows",
    "left_out",
    "new_system",
    "open_folder",
    "present_groups",
    "score_of",
    "store_tables",
    "truth_of",
    "write_csv",
    "write_json",
]

Say = Callable[[str], None]


def new_system(config: RunConfig, seed: int, say: Say | None = None) -> System:
    """The system with initial weights that depend on the seed and the initial model alone; torch's generator
    is left as it was."""
    options = dict(config.system)
    if options.get("task") == "trace":
        raise InputError(
            "system.task: a trace needs labels per step, which a manifest does not carry; "
            "train it with affekt.training.train on Examples"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, 0x5EED))
        system = create(options.pop("name"), **options)
    path = initial_model(config)
    if path is not None:
        taken = initialise(system, path)
        if say is not None:
            say(_starting_point(system, taken))
    return system


def _starting_point(system: System, taken: Mapping[str, str]) -> str:
    """What came from the initial model, and what starts anew."""
    initial = cast(dict[str, Any], system.initial)
    kept = [name for name in system.heads if name in taken]
    new = [f"{name} ({', '.join(h.labels)})" for name, h in system.heads.items() if name not in taken]
    return (
        f"starting from {initial['name']} {initial['version']} (sha256 {initial['sha256'][:12]}): front end "
        f"and encoder taken; heads kept: {', '.join(kept) or 'none'}; heads that start anew: "
        f"{', '.join(new) or 'none'}; its licence binds the result: {initial['licence']}"
    )


def open_folder(
    config: RunConfig, store: data.FeatureStore | data.Trials, split: data.Split, place: Path
) -> None:
    """The folder of a fold and seed, with what says what is trained there."""
    place.mkdir(parents=True, exist_ok=True)
    split.save(place, store.manifest)
    save_config(config, place / "config.yaml")
    write_json(place / "environment.json", environment())


def close_folder(place: Path, done: Mapping[str, Any]) -> None:
    """Mark the training of a folder as finished."""
    write_json(place / "done.json", done)
    for name in ("last.ckpt", "best.ckpt"):  # after: what dies in between must not train again
        (place / name).unlink(missing_ok=True)


def score_of(system: System) -> Callable[[Any, Any], dict[str, float]]:
    """The figures of an epoch, from outputs and labels by head."""
    return lambda outputs, truth: scoring.figures(outputs, truth, system.heads)


def calibrated(table: Any, config: RunConfig, system: System) -> Calibration:
    """The calibration fitted on development predictions, of which there may be none."""
    outputs, truth = None, None
    if len(table):
        outputs, truth = scoring.outputs(table, system.heads), truth_of(table, system)
    return calibrate(config.calibration, system.heads, outputs, truth)


def store_tables(
    place: Path, table: Any, dev_table: Any, split: data.Split, calibration: Calibration
) -> tuple[Any, Any]:
    """Write test and development predictions with the sd that was found for each label; returns them."""
    spread = {f"sd_{label}": value for label, value in calibration.sd.items()}
    table, dev_table = table.assign(**spread), dev_table.assign(**spread)
    table.to_csv(place / "predictions.csv", index=False)
    if len(split.dev):
        dev_table.to_csv(place / "predictions_dev.csv", index=False)
    return table, dev_table


def card_info(
    config: RunConfig, store: data.FeatureStore | data.Trials, split: data.Split, number: int, seed: int
) -> dict[str, Any]:
    """Provenance for the card."""
    table = store.manifest.table
    attrs = store.manifest.attrs
    parts = attrs.get("parts", [attrs])
    info: dict[str, Any] = {
        "data": sorted({str(p.get("corpus", UNNAMED)) for p in parts}),
        "licence": "; ".join(sorted({f"{p.get('corpus')}: {p['licence']}" for p in parts if "licence" in p}))
        or "not stated",
        "protocol": f"{config.protocol.kind}, fold {number}, seed {seed}",
        "trained_on": {"recordings": len(split.train)},
        "affekt": __version__,
    }
    if config.protocol.group in table:
        info["trained_on"]["groups"] = int(table[config.protocol.group].iloc[split.train].nunique())
    return {**info, **config.info}


def _label_columns(table: Any, system: System) -> dict[str, bool]:
    """Columns of `table` that the heads learn from, and whether each holds class names."""
    out: dict[str, bool] = {}
    for name, head in system.heads.items():
        classes = head.kind == "categorical"
        for column in [name if name in table else "emotion"] if classes else head.labels:
            if column in table:
                out[column] = classes
    return out


def labelled_rows(
    store: data.FeatureStore | data.Trials, rows: np.ndarray, system: System, protocol: ProtocolConfig
) -> Any:
    """Identity and labels of some rows, the labels as ``true_<label>``."""
    table = store.manifest.table.iloc[rows].reset_index(drop=True)
    identity = dict.fromkeys(("file", "start", "end", "subject", "session", protocol.group, *protocol.by))
    out = table[[c for c in identity if c in table]].copy()
    for name in (protocol.group, *protocol.by):
        if name in out:
            out[name] = as_text(out[name])
    learned = _label_columns(table, system)
    for name in dict.fromkeys((*store.manifest.labels, *learned)):
        out[f"true_{name}"] = as_text(table[name]) if learned.get(name) else table[name]
    return out


def group_names(table: Any, group: str) -> Any:
    """Group of each row: the protocol's column or else the subject; "unknown" where that is empty, "all"
    where there is neither."""
    for column in (group, "subject"):
        if column in table:
            return table[column].astype(object).where(table[column].notna(), "unknown").to_numpy()
    return np.full(len(table), "all", dtype=object)


def present_groups(table: Any, group: str, rows: np.ndarray) -> str:
    """Names of the groups of some rows, for people."""
    return " ".join(sorted(set(as_text(table[group].iloc[rows]).dropna()))) if group in table else ""


def left_out(store: data.FeatureStore | data.Trials, i: int, reason: str) -> dict[str, Any]:
    begin, end = store.manifest.part(i)
    return {"file": str(store.manifest.path(i)), "start": begin, "end": end, "reason": reason}


def truth_of(table: Any, system: System) -> dict[str, np.ndarray]:
    """Label arrays from the ``true_*`` columns of predictions."""
    own = table[[c for c in table if c.startswith("true_")]].rename(columns=lambda c: c.removeprefix("true_"))
    return labels_from_table(own, system.heads, partial=True)[0]


def by_condition(table: Any, system: System) -> dict[str, dict[str, float]]:
    """Figures of a table of predictions, condition by condition."""
    return {
        condition: scoring.figures(
            scoring.outputs(part, system.heads),
            truth_of(part, system),
            system.heads,
            scoring.spread(part, system.heads),
        )
        for condition, part in table.groupby("condition", sort=False)
    }


def environment() -> dict[str, Any]:
    """Versions and machine, as ``environment.json`` records them."""
    from importlib import metadata

    packages = {"affekt": __version__}
    for name in (
        "numpy",
        "torch",
        "pytorch-lightning",
        "pandas",
        "scipy",
        "scikit-learn",
        "opensmile",
        "soundfile",
        "soxr",
    ):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "absent"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "packages": packages,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_json(path: Path, value: Any) -> None:
    _replace(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: Path, table: Any) -> None:
    _replace(path, table.to_csv(index=False, float_format="%.6g"))


def _replace(path: Path, content: str) -> None:
    """Write so that a reader, or a resumed run, sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(content)
    os.replace(temporary, path)
