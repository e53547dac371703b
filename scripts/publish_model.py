"""The shipped model from two finished runs of one recipe: a cross-validation, which says how good the recipe
is on people it has not heard, and a ``protocol.kind=all``, which trained on everybody.

usage: python scripts/publish_model.py CROSS_VALIDATION ALL --version 2 [--name speech-small] [--partial]

Writes NAME.safetensors (float32), its int8 twin NAME-int8.safetensors and NAME.md, the card for people, into
python/affekt/weights, whose LICENSE must name every corpus. Everything on the card is computed here or read
from the runs; what is missing is an error. `--partial` takes a cross-validation that did not test every
speaker, and the card says so.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from runs import CONDITIONS, METRICS, RunError, Tables, labelled, markdown, read_table

import affekt
from affekt import data, metrics
from affekt.modelfile import model_bytes, write_model
from affekt.systems.schema import as_dict
from affekt.training import load_config

WEIGHTS = Path(__file__).resolve().parents[1] / "python" / "affekt" / "weights"
LARGEST = 2_000_000
GROUPINGS = ("gender", "language")
# What may differ between two runs of one recipe.
OWN = {"name", "out", "protocol", "info", "monitor", "calibration", "floor", "conditions"}
OWN_TRAINING = {"threads", "progress", "tensorboard"}


@dataclass(frozen=True)
class Run:
    """A finished run: configuration, results, recordings, and the trained models by (fold, seed)."""

    folder: Path
    config: dict[str, Any]
    results: pd.DataFrame
    manifest: pd.DataFrame
    models: dict[tuple[int, int], Path]

    @classmethod
    def read(cls, folder: Path) -> Run:
        for name in ("config.yaml", "audit.json"):
            if not (folder / name).is_file():
                raise RunError(f"{folder}: has no {name}; is it the folder of a finished run?")
        audit = json.loads((folder / "audit.json").read_text())
        if not audit["ok"]:
            raise RunError(f"{folder}: the leak check found something, see audit.json")
        config = as_dict(load_config(folder / "config.yaml"))
        results = read_table(folder / "results.csv", "fold", "seed", "n_train")
        cache = Path(config["data"]["cache"] or folder / "features")
        manifest = read_table(cache / "manifest.csv", "file", config["protocol"]["group"])
        models = {
            (int(fold), int(seed)): folder / f"fold_{fold}" / f"seed_{seed}" / "model.safetensors"
            for fold, seed in results[["fold", "seed"]].drop_duplicates().itertuples(index=False)
        }
        for path in models.values():
            if not path.is_file():
                raise RunError(f"{path}: missing")
        return cls(folder, config, results, manifest, models)

    @property
    def group(self) -> str:
        """The column that names the speakers."""
        return str(self.config["protocol"]["group"])


# ---- what must hold before anything is published


def recipe(config: dict[str, Any]) -> dict[str, Any]:
    """What decides the weights, but for the recordings of a fold."""
    kept = {key: value for key, value in config.items() if key not in OWN}
    kept["training"] = {k: v for k, v in kept["training"].items() if k not in OWN_TRAINING}
    kept["data"] = {k: v for k, v in kept["data"].items() if k not in ("cache", "workers", "root")}
    return kept


def differences(a: Any, b: Any, name: str = "") -> list[str]:
    """Names of the values in which two configurations differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [
            found
            for key in sorted(a.keys() | b.keys())
            for found in differences(a.get(key), b.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if a == b else [f"{name} ({a!r}, {b!r})"]


def check(tested: Run, whole: Run, partial: bool) -> tuple[int, int]:
    """Refuse runs that do not belong together; speakers tested, and speakers that there are."""
    if whole.config["protocol"]["kind"] != "all":
        raise RunError(f"{whole.folder}: protocol.kind must be all, got {whole.config['protocol']['kind']}")
    if tested.config["protocol"]["kind"] == "all":
        raise RunError(f"{tested.folder}: protocol.kind=all tests nobody; a cross-validation was expected")
    differing = differences(recipe(tested.config), recipe(whole.config))
    if differing:
        raise RunError(f"the runs have different recipes: {'; '.join(differing)}")
    if set(tested.manifest["file"]) != set(whole.manifest["file"]):
        raise RunError("the runs have different recordings (features/manifest.csv)")
    people = set(tested.manifest[tested.group].dropna().astype(str))
    seen = {name for names in tested.results["test_groups"].dropna() for name in names.split()}
    if seen != people and not partial:
        raise RunError(
            f"{tested.folder}: {len(seen)} of {len(people)} speakers were tested; run all folds "
            "(protocol.select=null), or say --partial"
        )
    return len(seen), len(people)


# ---- what the card says


def figure(row: pd.Series) -> dict[str, Any]:
    """Mean, 95 % interval and number of speakers of a line of a summary, rounded for people."""
    found: dict[str, Any] = {"mean": round(float(row["mean"]), 3), "speakers": int(row["n"])}
    if pd.notna(row["low"]):
        found["interval"] = [round(float(row["low"]), 3), round(float(row["high"]), 3)]
    return found


def cross_validated(tables: Tables) -> dict[str, Any]:
    """Figures per condition, over all speakers and, where choices were made on some, over the untouched."""
    out: dict[str, Any] = {}
    for condition in tables.conditions:
        for over, words in (("pooled", "all speakers"), ("untouched", "untouched speakers")):
            found = {m: tables.row(m, over, condition) for m in METRICS}
            if any(row is not None for row in found.values()):
                out.setdefault(condition, {})[words] = {
                    metric: figure(row) for metric, row in found.items() if row is not None
                }
    if not out:
        raise RunError(f"summary: none of {', '.join(METRICS)}")
    return out


def per_group(run: Run, predictions: pd.DataFrame) -> dict[str, Any]:
    """Figures of the recordings of each gender and language, with an interval over the speakers."""
    columns = [name for name in GROUPINGS if name in run.manifest]
    if not columns:
        raise RunError(f"{run.folder}: the recordings have none of {', '.join(GROUPINGS)}")
    keys = ["file", "start"] if "start" in run.manifest else ["file"]
    known = run.manifest[[*keys, *columns]].drop_duplicates(keys)
    table = predictions.drop(columns=columns, errors="ignore").merge(known, on=keys, how="left")
    out: dict[str, Any] = {}
    for column in columns:
        for value, part in table.groupby(column):
            out.setdefault(column, {})[str(value)] = scored(part, run.group)
    return out


def scored(part: pd.DataFrame, group: str) -> dict[str, Any]:
    """Every figure over some predictions that has enough labels."""
    out = {}
    for metric in METRICS:
        name, estimates, truth = labelled(metric, part)
        if len(truth) < 2:
            continue
        column = "true_emotion" if name != "ccc" else f"true_{metric.removeprefix('ccc_')}"
        people = part.loc[part[column].notna() & _usable(part, column), group].astype(str).to_numpy()
        function = getattr(metrics, name)
        if len(set(people)) < 2:
            out[metric] = {"mean": round(float(function(estimates, truth)), 3), "speakers": 1}
            continue
        found = metrics.bootstrap_interval(function, estimates, truth, people)
        row = {"mean": found.mean, "low": found.low, "high": found.high, "n": found.n}
        out[metric] = figure(pd.Series(row))
    return {"recordings": len(part), **out}


def _usable(part: pd.DataFrame, column: str) -> pd.Series:
    """Rows that `labelled` takes: for classes those whose class the model knows."""
    if column != "true_emotion":
        return part[column].notna()
    return part[column].isin([c.removeprefix("p_") for c in part if c.startswith("p_")])


def confusions(predictions: pd.DataFrame, most: int = 5) -> list[dict[str, Any]]:
    """The pairs of emotions most often taken for each other: share of the first that was heard as the
    second."""
    _, heard, truth = labelled("uar", predictions)
    if not len(truth):
        return []
    labels = sorted(set(truth) | set(heard))
    shares = metrics.confusion_matrix(heard, truth, labels=labels, normalize=True)
    np.fill_diagonal(shares, 0)
    order = np.argsort(-shares, axis=None, kind="stable")[:most]
    pairs = [np.unravel_index(i, shares.shape) for i in order]
    return [
        {"is": labels[i], "heard_as": labels[j], "share": round(float(shares[i, j]), 3)}
        for i, j in pairs
        if shares[i, j] > 0
    ]


def worst_speakers(tables: Tables, condition: str, most: int = 3) -> dict[str, list[list[Any]]]:
    """The speakers with the lowest figures, the lowest first, averaged over seeds."""
    groups = tables.groups[tables.groups["condition"] == condition]
    out = {}
    for metric in ("uar", *(m for m in METRICS if m.startswith("ccc_"))):
        if metric in groups and groups[metric].notna().any():
            each = groups.groupby("group")[metric].mean().dropna().nsmallest(most)
            out[metric] = [[str(name), round(float(value), 3)] for name, value in each.items()]
    return out


def without_speech(model: affekt.Model, seconds: float = 5.0) -> dict[str, dict[str, float]]:
    """What the model says where nobody speaks: digital silence, a quiet room, loud white noise."""
    count = int(seconds * model.sample_rate)
    noise = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    sounds = {"silence": 0.0, "noise at -60 dBFS": 1e-3, "noise at -20 dBFS": 0.1}
    out = {}
    for name, level in sounds.items():
        _, values = model.run(noise * np.float32(level))
        out[name] = {c: round(float(v), 3) for c, v in zip(model.columns, values[-1], strict=True)}
    return out


def temperatures(run: Run) -> dict[str, float]:
    """Per categorical output the geometric mean of the temperatures fitted in the folds."""
    found: dict[str, list[float]] = {}
    for path in run.models.values():
        card = affekt.load(path).card
        for output, node in softmaxes(card):
            found.setdefault(output, []).append(float(node["options"].get("temperature", 1.0)))
    return {name: round(float(np.exp(np.mean(np.log(values)))), 4) for name, values in found.items()}


def softmaxes(card: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(name, node) of every categorical output."""
    nodes = {node["name"]: node for node in card["nodes"]}
    return [(o["name"], nodes[o["node"]]) for o in card["outputs"] if o["kind"] == "categorical"]


def residual_sd(predictions: pd.DataFrame) -> dict[str, float]:
    """Root mean square difference between estimate and label of unheard speakers, per continuous label."""
    out = {}
    for metric in METRICS:
        name, estimates, truth = labelled(metric, predictions)
        if name == "ccc" and len(truth):
            out[metric.removeprefix("ccc_")] = round(float(metrics.rmse(estimates, truth)), 4)
    return out


def int8_change(run: Run, predictions: pd.DataFrame) -> dict[str, Any]:
    """The models of the folds and their int8 twins over the recordings that tested them.

    Also makes sure that the predictions of the run are those of its models.
    """
    keep, twins = [], []
    largest = np.zeros(1)
    with tempfile.TemporaryDirectory() as folder:
        for (fold, seed), path in run.models.items():
            model = affekt.load(path)
            twin = affekt.load(affekt.quantise(model, Path(folder) / "int8.safetensors"))
            part = predictions[(predictions["fold"] == fold) & (predictions["seed"] == seed)]
            for row in part.to_dict("records"):
                end = row.get("end")
                samples = data.read_audio(
                    row["file"], model.sample_rate, start=row["start"], end=None if pd.isna(end) else end
                )
                before, after = (m.run(samples)[1] for m in (model, twin))
                largest = np.maximum(largest, np.abs(before - after).max(axis=0))
                keep.append({**row, **dict(zip(model.columns, before[-1], strict=True))})
                twins.append({**row, **dict(zip(model.columns, after[-1], strict=True))})
    columns = affekt.load(next(iter(run.models.values()))).columns
    first = pd.DataFrame(keep)
    stored = predictions.loc[:, columns].to_numpy(float)
    gap = float(np.abs(first[columns].to_numpy(float) - stored).max())
    if gap > 1e-4:
        raise RunError(f"{run.folder}: predictions.csv is not what the models give (difference {gap:.3g})")
    out: dict[str, Any] = {"largest_difference": round(float(largest.max()), 4)}
    for metric in METRICS:
        pairs = [labelled(metric, table) for table in (first, pd.DataFrame(twins))]
        if len(pairs[0][2]):
            values = [round(float(getattr(metrics, name)(p, t)), 4) for name, p, t in pairs]
            out[metric] = {"float32": values[0], "int8": values[1]}
    return out


def check_licence(card: dict[str, Any], file: Path) -> None:
    """The licence of the folder must speak of every corpus in the model."""
    if not file.is_file():
        raise RunError(f"{file}: missing")
    text = file.read_text(encoding="utf-8").lower()
    missing = [name for name in card["info"]["data"] if name.lower() not in text]
    if missing:
        raise RunError(f"{file}: does not name {', '.join(missing)}, from which the model was trained")


def build(tested: Run, whole: Run, counted: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The card and the tensors of the model to publish."""
    tables = Tables.read(tested.folder)
    predictions = read_table(tested.folder / "predictions.csv", "fold", "seed", "file", "start", tested.group)
    condition = tables.conditions[0]
    alone = predictions[predictions["condition"] == condition]
    model = affekt.load(whole.models[min(whole.models)])
    card = {key: value for key, value in model.card.items() if key not in ("schema", "tensors")}
    tensors = model.tensors()
    heat = temperatures(tested)
    for name, node in softmaxes(card):
        node["options"]["temperature"] = heat[name]
    warm = affekt.Model.from_bytes(model_bytes(card, tensors))
    kept_out = sorted({name for names in whole.results["dev_groups"].dropna() for name in names.split()})
    folds, seeds = (tested.results[column].nunique() for column in ("fold", "seed"))
    info = {key: value for key, value in card["info"].items() if key not in ("metrics", "calibration")}
    info["protocol"] = "trained on every speaker" + (f" but {', '.join(kept_out)}" if kept_out else "")
    info["cross_validation"] = {
        "protocol": f"{tested.config['protocol']['kind']}, folds: {folds}, seeds: {seeds}",
        "speakers": f"{counted[0]} of {counted[1]} tested",
        "figures": cross_validated(tables),
        "by_group": {"condition": condition, **per_group(tested, alone)},
        "int8": int8_change(tested, alone),
    }
    info["failures"] = {
        "condition": condition,
        "confused": confusions(alone),
        "worst_speakers": worst_speakers(tables, condition),
        "without_speech": without_speech(warm),
    }
    info["calibration"] = {
        "from": "the folds of the cross-validation",
        "temperature": heat,
        "sd": residual_sd(alone),
    }
    info["cost"] = {"parameters": int(sum(value.size for value in tensors.values()))}
    return {**card, "info": info}, tensors


# ---- the card for people


def page(name: str, card: dict[str, Any], sizes: dict[str, int]) -> str:
    """NAME.md from the card of the model."""
    info = card["info"]
    tested, failures = info["cross_validation"], info["failures"]

    def cell(found: dict[str, Any] | None) -> str:
        if found is None:
            return "-"
        low_high = found.get("interval")
        text = f"{found['mean']:.3f}"
        return text if low_high is None else f"{text} ({low_high[0]:.3f} to {low_high[1]:.3f})"

    timing = card["latency"]
    figures = [
        [condition, who, *(cell(found.get(metric)) for metric in METRICS)]
        for condition in CONDITIONS
        for who, found in tested["figures"].get(condition, {}).items()
    ]
    groups = [
        [column, value, found["recordings"], *(cell(found.get(metric)) for metric in METRICS)]
        for column in GROUPINGS
        for value, found in tested["by_group"].get(column, {}).items()
    ]
    int8 = [
        [words, f"{tested['int8'][metric]['float32']:.4f}", f"{tested['int8'][metric]['int8']:.4f}"]
        for metric, words in METRICS.items()
        if metric in tested["int8"]
    ]
    silent = [
        [sound, *(f"{value:+.2f}" for label, value in values.items() if not label.startswith("p_")),
         ", ".join(f"{k.removeprefix('p_')} {v:.2f}" for k, v in _likeliest(values))]
        for sound, values in failures["without_speech"].items()
    ]  # fmt: skip
    affect = [c for c in next(iter(failures["without_speech"].values())) if not c.startswith("p_")]
    sd, heat = info["calibration"]["sd"], info["calibration"]["temperature"]
    parts = [
        f"# {name}, version {card['version']}",
        f"Written by `scripts/publish_model.py`. {_sentence(info['intended_use'])}",
        f"- Data: {', '.join(info['data'])}; {info['trained_on']['recordings']} recordings of "
        f"{info['trained_on'].get('groups', '?')} speakers\n"
        f"- Licence: {info['licence']}; see [LICENSE](LICENSE)\n"
        f"- An estimate every {timing['hop_s']:g} s from {timing['first_estimate_s']:g} s on, over the last "
        f"{timing['context_s']:g} s; causal\n"
        f"- {info['cost']['parameters']} parameters; "
        + "; ".join(f"`{file}` {size / 1e6:.2f} MB" for file, size in sizes.items()),
        "## On speakers it has not heard",
        f"The same recipe, cross-validated ({tested['protocol']}; speakers: {tested['speakers']}). The model "
        f"itself was {info['protocol']}, so these figures are about the recipe. In brackets: 95 % interval "
        "over speakers.",
        markdown(["condition", "speakers", *METRICS.values()], figures),
        f"By group, condition {tested['by_group']['condition']}:",
        markdown(["", "group", "recordings", *METRICS.values()], groups),
        "## int8",
        f"The estimates of the folds' models change by {tested['int8']['largest_difference']:.4f} at most.",
        markdown(["figure", "float32", "int8"], int8),
        "## Calibration",
        f"Softmax temperature: {', '.join(f'{k} {v:g}' for k, v in heat.items()) or 'none'}. "
        "Standard deviation of the error for an unheard speaker: "
        f"{', '.join(f'{k} {v:.2f}' for k, v in sd.items()) or 'none'}.",
        "## Where it fails",
        "\n".join(
            [
                "- Confused: "
                + "; ".join(
                    f"{e['is']} heard as {e['heard_as']} {e['share']:.0%}" for e in failures["confused"]
                )
            ]
            * bool(failures["confused"])
            + [
                f"- Lowest {METRICS[metric]}: " + ", ".join(f"{k} {v:.2f}" for k, v in each)
                for metric, each in failures["worst_speakers"].items()
            ]
        ),
        "Where nobody speaks it still says something:",
        markdown(["sound", *affect, "likeliest"], silent),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _likeliest(values: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(((k, v) for k, v in values.items() if k.startswith("p_")), key=lambda kv: -kv[1])[:2]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def main(arguments: list[str] | None = None) -> None:
    """Check the runs, fill the card, write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tested", type=Path, metavar="CROSS_VALIDATION", help="folder of the run")
    parser.add_argument("whole", type=Path, metavar="ALL", help="folder of the protocol.kind=all run")
    parser.add_argument("--version", required=True, help="on the card")
    parser.add_argument("--name", default="speech-small")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, metavar="FOLDER", help="where to write")
    parser.add_argument("--partial", action="store_true", help="not every speaker was tested")
    options = parser.parse_args(arguments)
    tested, whole = Run.read(options.tested), Run.read(options.whole)
    counted = check(tested, whole, options.partial)
    check_licence(affekt.load(whole.models[min(whole.models)]).card, options.weights / "LICENSE")
    card, tensors = build(tested, whole, counted)
    card |= {"name": options.name, "version": options.version}
    path = write_model(options.weights / f"{options.name}.safetensors", card, tensors)
    twin = affekt.quantise(path, options.weights / f"{options.name}-int8.safetensors")
    sizes = {file.name: file.stat().st_size for file in (path, twin)}
    for name, size in sizes.items():
        if size > LARGEST:
            raise RunError(f"{name}: {size} bytes, more than {LARGEST}")
    text = page(options.name, card, sizes)
    (options.weights / f"{options.name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
