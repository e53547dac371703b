"""docs/results.md from the tables of finished runs, which are copied to docs/results/.

usage: python scripts/results_page.py TITLE COMMAND RUN_FOLDER [TITLE COMMAND RUN_FOLDER ...]
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pandas as pd

DOCS = Path(__file__).parent.parent / "docs"
METRICS = {"uar": "UAR", "war": "WAR", "ccc_valence": "CCC valence", "ccc_arousal": "CCC arousal"}
METRICS |= {"ccc_dominance": "CCC dominance"}


HEAD = """# Results

Written by `scripts/results_page.py` from the tables of the runs. Speakers of training, development and test
are disjoint; test figures come from the exported model file, run by the native core over each whole
recording, and take its estimate at the end. UAR is the mean recall over classes, WAR the accuracy; CCC is
Lin's with population moments over all test recordings at once. One fold and one seed show that the path
works; they are not a benchmark."""


def section(title: str, command: str, folder: Path) -> str:
    """One run: its command, protocol and figures; the tables behind them go to docs/results/."""
    name = folder.name
    for table in ("results.csv", "summary.csv", "groups.csv"):
        shutil.copy(folder / table, DOCS / "results" / f"{name}_{table}")
    runs, summary = pd.read_csv(folder / "results.csv"), pd.read_csv(folder / "summary.csv")
    lines = [f"## {title}", "", "```sh", command, "```", ""]
    first = runs.iloc[0]
    folds = ", ".join(map(str, sorted(set(runs["fold"]))))
    lines += [
        f"{len(runs)} training(s); fold {folds}; {first['n_train']} recordings train, "
        f"{first['n_dev']} develop, {first['n_test']} test, {int(runs['n_skipped'].sum())} left out; "
        f"mode {first['mode']}; {runs['seconds'].sum():.0f} s on the machine that made it. Tested: "
        f"{', '.join(sorted(set(' '.join(runs['test_groups']).split())))}.",
        "",
        "| metric | pooled | 95 % interval over groups | lowest and highest group |",
        "|---|---|---|---|",
    ]
    for metric, words in METRICS.items():
        rows = summary[summary["metric"] == metric].set_index("over")
        if rows.empty:
            continue
        pooled, groups = rows.loc["pooled"], rows.loc["groups"]
        lines.append(
            f"| {words} | {pooled['mean']:.3f} | {pooled['low']:.3f} to {pooled['high']:.3f} "
            f"| {groups['min']:.3f}, {groups['max']:.3f} |"
        )
    tables = ", ".join(f"[{t}](results/{name}_{t}.csv)" for t in ("results", "summary", "groups"))
    return "\n".join([*lines, "", f"Tables: {tables}."])


def main(arguments: list[str]) -> None:
    """Write the page."""
    (DOCS / "results").mkdir(exist_ok=True)
    titles, commands, folders = arguments[::3], arguments[1::3], arguments[2::3]
    parts = [section(t, c, Path(f)) for t, c, f in zip(titles, commands, folders, strict=True)]
    (DOCS / "results.md").write_text("\n\n".join([HEAD, *parts]) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
