"""docs/results.md and docs/experiments.md from the tables in docs/results/, and the way into these.

usage: python scripts/results_page.py                         write the pages anew
       python scripts/results_page.py run TITLE COMMAND FOLDER [FLOOR]
                                                   take the tables of a finished run, or take them again,
                                                   under the name of its folder; those of its floor from
                                                   another run over the same folds, if it has none itself
       python scripts/results_page.py tried CORPUS CHANGE FOLDER
                                                   add to the log of what was tried

The first column of every table names the run; `docs/results/runs.csv` keeps titles, commands and
the hash of the configuration, of which a run has one.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from runs import (
    CALIBRATION,
    CONDITIONS,
    METRICS,
    SCORED,
    RunError,
    Tables,
    interval,
    labelled,
    markdown,
    read_table,
    words_of,
)

DOCS = Path(__file__).resolve().parents[1] / "docs"
TABLES = ("results", "summary", "groups")
NONE = "-"
SPEAKERS = {"pooled": "all", "untouched": "untouched"}
COST = {
    "parameters": "parameters",
    "macs_front_end": "front end, MAC/s",
    "macs_network": "network, MAC/s",
    "rtf": "real-time factor",
    "bytes": "file, bytes",
}
LOG = ["corpus", "change", "metric", "value", "low", "high", "speakers", "seconds"]

RESULTS = """# Results

Written by `scripts/results_page.py` from the tables of finished runs in [results/](results). Speakers of
training, development and test are disjoint. Our figures come from the exported model files, run by the native
core over each whole recording; they score {scored}.
UAR is the mean recall over classes, WAR the accuracy; CCC is Lin's with population moments over all test
recordings at once. In brackets: 95 % interval by bootstrap over speakers.

Conditions:

{conditions}

*Enrolled* is over fewer recordings than the others. *Untouched* speakers were never scored while the recipe
was chosen. *Seeds together*: the mean of the estimates of a fold's seeds, which is what `affekt ensemble`
makes of their model files. Floors are classical: functionals of openSMILE, SVM or ridge, on the same folds;
*whole* there means features z-scored per speaker. A figure over one fold shows that the path works; it is no
benchmark.""".format(
    scored=SCORED, conditions="\n".join(f"- *{name}*: {meaning}" for name, meaning in CONDITIONS.items())
)

RAVDESS_AIMS = {"raw": 0.60, "adapted": 0.70}
AIMS = """On RAVDESS a network of this size, trained on the other actors of the corpus alone, was to reach
the aims below; on EmoTale it was to beat the floors. Where it did not: a training part holds 18 to 21 voices,
and what is left between training and test is the difference between voices (compare *raw* with *whole*, and
single actors, whose figures lie 0.4 and more apart). More voices, or pretraining on speech from elsewhere,
would be the next step, and no longer the same comparison. Wider networks, longer training and stronger
augmentation did not help, see [experiments.md](experiments.md)."""

EXPERIMENTS = """# Experiments

What was tried, from [results/experiments.csv](results/experiments.csv), written by
`scripts/results_page.py`. Figures are over **development** speakers, never over test speakers: they chose
the recipe and promise nothing. Value: mean of the figure over single speakers, with its 95 % t interval.
Seconds: training and scoring, on a machine that was busy with other work. One seed each, 16 RAVDESS actors
(or 12 EmoTale speakers) in training (both with "both corpora") and the 8 (or 6) of `protocol.choices`
tested. The lines before "affekt train" come from a bare loop of the same network in which every clip counts
once, at its end, for its speaker; the lines after it from `affekt train` and the native core, where
embeddings count as they come. Differences below 0.02 are within what another seed does. What chose the
recipe of the shipped model: RAVDESS is recorded in a studio, over digital silence, and the recipe before
was at chance on it in white noise at 20 dB SNR. Background noise in a quarter of the training clips costs 5
points of raw UAR there on clean speech and wins 11 at 20 dB SNR. On EmoTale it wins 6 to 8 points of CCC of
arousal and dominance, and costs 1 to 2 of valence and, with what was heard of the speaker, 2 to 5 of UAR.
Noise in half of the clips with wider changes of level wins 4 more at 20 dB SNR and costs another 6 on clean
speech. Deltas, of either kind of row, were not tried: they need rows after the present one, so that such a
model cannot run live."""


# ---- the page of results


def protocols(listed: pd.DataFrame, tables: dict[str, Tables]) -> str:
    """What each run is and how to repeat it."""
    rows = []
    for run in listed.itertuples():
        results = tables[run.run].results
        people = {name for names in results["test_groups"].dropna() for name in names.split()}
        each = results.drop_duplicates(["fold", "seed"])
        rows.append([
            f"**{run.run}**: {run.title}", f"`{run.command}`", results["fold"].nunique(),
            results["seed"].nunique(), len(people), int(each.drop_duplicates("fold")["n_test"].sum()),
            f"{each['seconds'].sum():.0f}",
            ", ".join(f"[{t}](results/{run.run}_{t}.csv)" for t in TABLES),
        ])  # fmt: skip
    header = ["run", "command", "folds", "seeds", "speakers tested", "tests", "seconds", "tables"]
    return "## Runs\n\n" + markdown(header, rows)


def figures(tables: dict[str, Tables], floors: dict[str, Tables]) -> str:
    """One line per run, figure and set of speakers; floors beside ours."""
    rows = []
    for name, own in tables.items():
        for metric, words in METRICS.items():
            for over, speakers in SPEAKERS.items():
                found = {c: own.row(metric, over, c) for c in CONDITIONS}
                if all(row is None for row in found.values()):
                    continue
                floor = floors.get(name)
                low = {c: None if floor is None else floor.row(metric, over, c) for c in ("raw", "whole")}
                people = max(int(row["n"]) for row in found.values() if row is not None)
                cells = [
                    NONE
                    if r is None
                    else interval(r) + ("" if r["n"] == people else f", {r['n']:.0f} speakers")
                    for r in (*found.values(), *low.values())
                ]
                rows.append([name, words, f"{people}, {speakers}", *cells])
    header = ["run", "figure", "speakers", *CONDITIONS, "floor raw", "floor whole"]
    return "## Figures\n\n" + markdown(header, rows)


def aims(shown: dict[str, Tables], floors: dict[str, Tables]) -> str:
    """What was aimed at, and the best that came of it."""
    rows = []
    for run, own in shown.items():
        floor = floors.get(run.partition(",")[0])
        for metric, words in METRICS.items():
            for kind, conditions in (("raw", ["raw"]), ("adapted", ["running", "enrolled", "whole"])):
                found = [row for c in conditions if (row := own.row(metric, "pooled", c)) is not None]
                if not found or (run.startswith("ravdess") and metric != "uar"):
                    continue
                if run.startswith("ravdess"):
                    aim, what = RAVDESS_AIMS[kind], f"{RAVDESS_AIMS[kind]:.2f}"
                else:
                    low = floor and floor.row(metric, "pooled", "raw" if kind == "raw" else "whole")
                    if low is None or not metric.startswith("ccc"):
                        continue
                    aim, what = low["mean"], f"floor, {low['mean']:.3f}"
                best = max(found, key=lambda row: row["mean"])
                name = kind if kind == "raw" else f"adapted ({best['condition']})"
                rows.append([run, words, name, what, interval(best), "yes" if best["mean"] >= aim else "no"])
    if not rows:
        return ""
    return "## Aims\n\n" + AIMS + "\n\n" + markdown(["run", "figure", "kind", "aim", "best", "met"], rows)


def spread(tables: dict[str, Tables], floors: dict[str, Tables]) -> str:
    """Single speakers: sd, lowest, highest."""
    columns = ["mean", "sd", "min", "max"]
    rows = []
    for name, own in tables.items():
        for who, one in (("ours", own), ("floor", floors.get(name))):
            if one is None:
                continue
            for condition, (metric, words) in itertools.product(one.conditions, METRICS.items()):
                row = one.row(metric, "groups", condition)
                if row is not None:
                    numbers = [NONE if pd.isna(row[c]) else f"{row[c]:.3f}" for c in columns]
                    rows.append([name, who, condition, words, int(row["n"]), *numbers])
    header = ["run", "model", "condition", "figure", "speakers", "mean", "sd", "lowest", "highest"]
    return "## Single speakers\n\n" + markdown(header, rows)


def calibration(tables: dict[str, Tables]) -> str:
    """Reliability of probabilities, and how often truth lies within the stated sd."""
    rows = []
    for name, own in tables.items():
        known = [m for m in own.summary["metric"].unique() if m.startswith(tuple(CALIBRATION))]
        heat = [c for c in own.results if c.startswith("temperature")]
        for condition in own.conditions if known else ():
            warm = [f"{own.results[c].min():.2f} to {own.results[c].max():.2f}" for c in heat]
            for metric in known:
                row = own.row(metric, "pooled", condition)
                if row is not None:
                    rows.append([name, condition, words_of(metric), interval(row),
                                 ", ".join(warm) or NONE])  # fmt: skip
    if not rows:
        return ""
    header = ["run", "condition", "figure", "value", "temperature of the folds"]
    return "## Calibration\n\n" + markdown(header, rows)


def cost(tables: dict[str, Tables]) -> str:
    """What the model of the first fold takes."""
    rows = []
    for name, own in tables.items():
        if not any(column in own.results for column in COST):
            continue
        first = own.results.iloc[0]
        rows.append([name, *(NONE if pd.isna(first.get(c)) else f"{first[c]:.6g}" for c in COST)])
    return "## Cost\n\n" + markdown(["run", *COST.values()], rows) if rows else ""


def results_page(docs: Path) -> str:
    """The text of docs/results.md."""
    listed = read_table(docs / "results" / "runs.csv", "run", "title", "command")
    tables = {run: Tables.read(docs / "results", f"{run}_") for run in listed["run"]}
    floors = {
        run: Tables.read(docs / "results", f"{run}_floor_")
        for run in listed["run"]
        if (docs / "results" / f"{run}_floor_summary.csv").is_file()
    }
    shown = {}
    for run, own in tables.items():
        shown[run] = own
        if (docs / "results" / f"{run}_ensemble_summary.csv").is_file():
            both = [
                read_table(docs / "results" / f"{run}_ensemble_{name}.csv") for name in ("summary", "groups")
            ]
            shown[f"{run}, seeds together"] = Tables(own.results, *both)
    parts = [
        RESULTS,
        protocols(listed, tables),
        figures(shown, floors),
        aims(shown, floors),
        spread(shown, floors),
    ]
    parts += [calibration(shown), cost(tables)]
    return "\n\n".join(part for part in parts if part) + "\n"


def add_run(docs: Path, title: str, command: str, folder: Path, floor: Path | None = None) -> None:
    """Copy the tables of a finished run, and of its floor, and list it."""
    name, target = folder.resolve().name, docs / "results"
    target.mkdir(exist_ok=True)
    sources = {"": folder}
    if floor is not None or (folder / "floor_summary.csv").is_file():
        sources["floor_"] = floor or folder
    tables = {}
    for prefix, source in sources.items():
        audit = source / f"{prefix}audit.json"
        if not audit.is_file() or not json.loads(audit.read_text())["ok"]:
            raise RunError(f"{audit}: missing, or the leak check found something; that is not published")
        tables[prefix] = Tables.read(source, prefix)
    tested = [{(row.fold, row.test_groups) for row in one.results.itertuples()} for one in tables.values()]
    if tested[0] != tested[-1]:
        raise RunError(f"{sources['floor_']}: its floor was tested on other folds than {folder}")
    for (prefix, source), table in itertools.product(sources.items(), TABLES):
        shutil.copy(source / f"{prefix}{table}.csv", target / f"{name}_{prefix}{table}.csv")
    for table in ("ensemble_summary", "ensemble_groups"):
        (target / f"{name}_{table}.csv").unlink(missing_ok=True)
        if (folder / f"{table}.csv").is_file():
            shutil.copy(folder / f"{table}.csv", target / f"{name}_{table}.csv")
    file = target / "runs.csv"
    listed = pd.read_csv(file, dtype=str) if file.is_file() else pd.DataFrame(columns=["run"])
    rows = [*listed[listed["run"] != name].to_dict("records")]
    kinds = sorted({*tables[""].results.get("configuration", pd.Series(dtype=str)).dropna()})
    if len(kinds) > 1:
        raise RunError(f"{folder / 'results.csv'}: rows of several configurations ({', '.join(kinds)})")
    entry = {"run": name, "title": title, "command": command, "configuration": "".join(kinds)}
    place = listed.index[listed["run"] == name]
    rows.insert(int(place[0]) if len(place) else len(rows), entry)
    pd.DataFrame(rows).to_csv(file, index=False)


# ---- the log of experiments


def experiments_page(docs: Path) -> str:
    """The text of docs/experiments.md."""
    log = read_table(docs / "results" / "experiments.csv", *LOG)
    rows = []
    for e in log.to_dict("records"):
        value = interval({"mean": e["value"], "low": e["low"], "high": e["high"]})
        rows.append(
            [e["corpus"], e["change"], words_of(e["metric"]), value, e["speakers"], f"{e['seconds']:.0f}"]
        )
    header = ["corpus", "change", "figure", "value (95 % interval)", "speakers", "seconds"]
    return f"{EXPERIMENTS}\n\n{markdown(header, rows)}\n"


def add_tried(docs: Path, corpus: str, change: str, folder: Path) -> None:
    """One line per figure of merit of a run's development speakers: the mean over them, with a t interval."""
    from affekt import metrics

    results = Tables.read(folder).results if (folder / "summary.csv").is_file() else None
    results = read_table(folder / "results.csv", "seconds") if results is None else results
    paths = sorted(folder.glob("fold_*/seed_*/predictions_dev.csv"))
    parts = [read_table(path, "subject").assign(model=str(path)) for path in paths]
    if not parts:
        raise RunError(f"{folder}: no predictions of development speakers (protocol.dev is 0?)")
    table = pd.concat(parts)
    rows: list[dict[str, Any]] = []
    conditions = [c for c in CONDITIONS if c in set(table["condition"])]
    for condition, metric in itertools.product(conditions, METRICS):
        own = table[table["condition"] == condition]
        each = []
        for _, person in own.groupby("subject"):  # a model at a time: a person may be one of several's
            found = [labelled(metric, part) for _, part in person.groupby("model")]
            values = [float(getattr(metrics, name)(p, t)) for name, p, t in found if len(t)]
            each += [sum(values) / len(values)] if values else []
        if each:
            found = metrics.mean_interval(each)
            what = f"{change}, {condition}" if len(conditions) > 1 else change
            row = {"corpus": corpus, "change": what, "metric": metric, "value": found.mean}
            row |= {"low": found.low, "high": found.high, "speakers": len(each)}
            rows.append(row | {"seconds": results.drop_duplicates(["fold", "seed"])["seconds"].sum()})
    file = docs / "results" / "experiments.csv"
    there = read_table(file, *LOG)[LOG] if file.is_file() else pd.DataFrame(columns=LOG)
    whole = [*there.to_dict("records"), *rows]
    pd.DataFrame(whole, columns=LOG).to_csv(file, index=False, float_format="%.6g")


def main(arguments: list[str], docs: Path = DOCS) -> None:
    """Do what the usage says."""
    match arguments:
        case []:
            pass
        case ["run", title, command, folder, *floor] if len(floor) < 2:
            add_run(docs, title, command, Path(folder), *map(Path, floor))
        case ["tried", corpus, change, folder]:
            add_tried(docs, corpus, change, Path(folder))
        case _:
            raise SystemExit(__doc__)
    (docs / "results.md").write_text(results_page(docs), encoding="utf-8")
    (docs / "experiments.md").write_text(experiments_page(docs), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
