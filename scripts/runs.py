"""Finished runs as `results_page.py` and `publish_model.py` read them.

A table that a run must have, or a column in it, is asked for by name and its absence is an error; what only
some runs have (floors, conditions, calibration) is None or missing from the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

CONDITIONS = {
    "raw": "every recording by itself",
    "running": "the recordings of a speaker one after the other, what was learnt of the voice carried along",
    "enrolled": "the voice learnt from a few recordings beforehand, which are not scored",
    "whole": "the voice learnt from all recordings of the speaker, the scored ones too; an upper bound, not "
    "what a live system has",
}
SCORED = "the last valid estimate of each recording, or its last where none is valid"
METRICS = {"uar": "UAR", "war": "WAR"}
METRICS |= {f"ccc_{label}": f"CCC {label}" for label in ("valence", "arousal", "dominance")}
CALIBRATION = {"ece": "ECE", "nll": "NLL", "brier": "Brier score"}
CALIBRATION |= {"coverage68": "within 1 sd", "coverage95": "within 1.96 sd"}
NAMES = ("file", "subject", "session", "group", "condition", "true_emotion", "test_groups", "model", "over")
NAMES += ("by", "gender", "language", "configuration")


class RunError(SystemExit):
    """Something about a run that stops the script; the message says which run and what."""


def read_table(path: Path, *columns: str) -> pd.DataFrame:
    """A table that must be there with these columns; names stay text, a run without conditions is ``raw``."""
    if not path.is_file():
        raise RunError(f"{path}: missing; is the run finished?")
    table = pd.read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
    if "condition" not in table:
        table["condition"] = "raw"
    absent = [name for name in columns if name not in table]
    if absent:
        raise RunError(f"{path}: has no column {', '.join(absent)}; it has {', '.join(table)}")
    strange = sorted(set(table["condition"]) - set(CONDITIONS))
    if strange:
        raise RunError(f"{path}: unknown condition {', '.join(map(repr, strange))}")
    return table


@dataclass(frozen=True)
class Tables:
    """results, summary and groups (single speakers) of a run or of its floor."""

    results: pd.DataFrame
    summary: pd.DataFrame
    groups: pd.DataFrame

    @classmethod
    def read(cls, folder: Path, prefix: str = "") -> Tables:
        """The tables of a folder whose names start with `prefix`."""
        columns = {
            "results": ("fold", "seed", "test_groups"),
            "summary": ("metric", "over", "mean", "sd", "low", "high", "n", "min", "max"),
            "groups": ("group", "n"),
        }
        tables = {name: read_table(folder / f"{prefix}{name}.csv", *columns[name]) for name in columns}
        if "by" in tables["groups"]:  # rows of a gender or a language belong to no fold
            tables["groups"] = tables["groups"][tables["groups"]["fold"].notna()]
        return cls(**tables)

    @property
    def conditions(self) -> list[str]:
        """Those that were tested, in a fixed order."""
        return [c for c in CONDITIONS if c in set(self.summary["condition"])]

    def row(self, metric: str, over: str, condition: str) -> pd.Series | None:
        """One line of the summary, or None."""
        found = self.summary
        found = found[
            (found["metric"] == metric) & (found["over"] == over) & (found["condition"] == condition)
        ]
        if len(found) > 1:
            raise RunError(f"summary: {len(found)} lines of {metric} over {over} in condition {condition}")
        return None if found.empty else found.iloc[0]


def labelled(metric: str, table: pd.DataFrame) -> tuple[str, np.ndarray, np.ndarray]:
    """Name in `affekt.metrics`, estimates and truth of a figure over the rows of a table of predictions that
    have its label; without rows where the table has no such label."""
    if metric.startswith("ccc_"):
        label = metric.removeprefix("ccc_")
        if label not in table or f"true_{label}" not in table:
            return "ccc", np.empty(0), np.empty(0)
        known = table[table[f"true_{label}"].notna()]
        return "ccc", known[label].to_numpy(), known[f"true_{label}"].to_numpy()
    columns = [c for c in table if c.startswith("p_")]
    if not columns or "true_emotion" not in table:
        return metric, np.empty(0), np.empty(0)
    known = table[table["true_emotion"].isin([c.removeprefix("p_") for c in columns])]
    best = known[columns].idxmax(axis=1).str.removeprefix("p_") if len(known) else known["true_emotion"]
    return metric, best.to_numpy(), known["true_emotion"].to_numpy()


def words_of(metric: str) -> str:
    """``ccc_arousal`` and ``coverage68_arousal`` for people."""
    kind, _, label = metric.partition("_")
    return METRICS.get(metric) or f"{CALIBRATION[kind]} {label}".strip()


def interval(row: Any, digits: int = 3) -> str:
    """``0.612 (0.571 to 0.655)``; without the interval where one group cannot have one."""
    text = f"{row['mean']:.{digits}f}"
    return text if pd.isna(row["low"]) else f"{text} ({row['low']:.{digits}f} to {row['high']:.{digits}f})"


def markdown(header: list[str], rows: list[list[Any]]) -> str:
    """A table; ``|`` in a cell is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)
