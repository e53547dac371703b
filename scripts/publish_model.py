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
import itertools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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

import affekt
from affekt import data, metrics
from affekt._predict import describe_output, summarise
from affekt.modelfile import model_bytes, write_model
from affekt.robustness import mix
from affekt.systems.schema import as_dict, differences
from affekt.training import load_config
from affekt.training.protocol import environment

WEIGHTS = Path(__file__).resolve().parents[1] / "python" / "affekt" / "weights"
LARGEST = 2_000_000
GROUPINGS = ("gender", "language")
SNRS = (20.0, 10.0, 0.0)
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


def check(tested: Run, whole: Run, partial: bool) -> tuple[int, int]:
    """Refuse runs that do not belong together; speakers tested, and speakers that there are."""
    if whole.config["protocol"]["kind"] != "all":
        raise RunError(f"{whole.folder}: protocol.kind must be all, got {whole.config['protocol']['kind']}")
    if tested.config["protocol"]["kind"] == "all":
        raise RunError(f"{tested.folder}: protocol.kind=all tests nobody; a cross-validation was expected")
    differing = differences(recipe(tested.config), recipe(whole.config))
    if differing:
        words = "; ".join(f"{name} ({a!r}, {b!r})" for name, a, b in differing)
        raise RunError(f"the runs have different recipes: {words}")
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


def figure(row: Any) -> dict[str, Any]:
    """Mean, 95 % interval and, of a line of a summary, number of speakers, rounded for people."""
    found: dict[str, Any] = {"mean": round(float(row["mean"]), 3)}
    if "n" in row:
        found["speakers"] = int(row["n"])
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


def calibrated(tables: Tables) -> dict[str, dict[str, Any]]:
    """How reliable the folds' probabilities and sd were, per condition."""
    known = [m for m in tables.summary["metric"].unique() if m.startswith(tuple(CALIBRATION))]
    return {
        condition: {m: figure(row) for m in known if (row := tables.row(m, "pooled", condition)) is not None}
        for condition in tables.conditions
    }


def per_group(folder: Path, condition: str) -> dict[str, dict[str, Any]]:
    """Figures of the recordings of each gender, language and so on, with intervals over the speakers."""
    table = read_table(folder / "groups.csv", "by", "group", "n", "speakers")
    table = table[table["by"].isin(GROUPINGS) & (table["condition"] == condition)]
    if table.empty:
        raise RunError(f"{folder / 'groups.csv'}: has no figures by {' or '.join(GROUPINGS)}")
    out: dict[str, dict[str, Any]] = {}
    for row in table.to_dict("records"):
        figures = {
            m: figure({"mean": row[m], "low": row.get(f"{m}_low"), "high": row.get(f"{m}_high")})
            for m in METRICS
            if m in row and pd.notna(row[m])
        }
        about = {"recordings": int(row["n"]), "speakers": int(row["speakers"])}
        out.setdefault(row["by"], {})[row["group"]] = about | figures
    return out


def chance(card: dict[str, Any], predictions: pd.DataFrame) -> dict[str, Any]:
    """What figures are reached without listening."""
    out: dict[str, Any] = {
        "how": "uar, war: a guess among the model's emotions; ccc: estimates that do not follow the labels; "
        "most_frequent: the war of always naming that emotion"
    }
    for output in card["outputs"]:
        guess = 1 / len(output["labels"])
        categorical = output["kind"] == "categorical"
        out |= dict.fromkeys(("uar", "war"), round(guess, 4)) if categorical else {"ccc": 0.0}
    _, _, truth = labelled("war", predictions)
    if len(truth):
        names, counts = np.unique(truth, return_counts=True)
        most = int(counts.argmax())
        out["most_frequent"] = {
            "emotion": str(names[most]),
            "war": round(float(counts[most] / len(truth)), 4),
        }
    return out


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


def without_speech(model: affekt.Model, seconds: float = 5.0) -> dict[str, dict[str, Any]]:
    """What the model says where nobody speaks, and whether it calls that valid: digital silence, a quiet
    room, loud white noise."""
    count = int(seconds * model.sample_rate)
    noise = np.random.default_rng(0).standard_normal(count).astype(np.float32)
    sounds = {"silence": 0.0, "noise at -60 dBFS": 1e-3, "noise at -20 dBFS": 0.1}
    out = {}
    for name, level in sounds.items():
        found = model.run(noise * np.float32(level))
        said = zip(model.columns, found.values[-1], strict=True)
        out[name] = {c: round(float(v), 3) for c, v in said} | {"valid": bool(found.valid[-1])}
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


def replay(run: Run, predictions: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], float]:
    """The recordings that tested the folds once more, each by itself: through the models of the folds, their
    int8 twins, and the models under white noise. Tables of predictions by name, and the largest difference
    that int8 makes to any estimate.

    Also makes sure that the predictions of the run are those of its models.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    largest = 0.0
    rng = np.random.default_rng(0)
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
                noise = rng.standard_normal(len(samples)).astype(np.float32)
                found = {
                    name: m.run(samples, adapt=False) for name, m in (("float32", model), ("int8", twin))
                }
                gaps = np.abs(found["float32"].values - found["int8"].values)
                largest = max(largest, float(gaps.max()))
                for snr in SNRS:
                    disturbed = mix(samples, noise, snr, model.sample_rate)
                    found[f"{snr:g} dB"] = model.run(disturbed, adapt=False)
                for name, estimates in found.items():
                    said = summarise(estimates.values, estimates.valid, "last")
                    last = dict(zip(model.columns, said, strict=True))
                    tables.setdefault(name, []).append({**row, **last})
    columns = affekt.load(next(iter(run.models.values()))).columns
    whole = {name: pd.DataFrame(rows) for name, rows in tables.items()}
    # In the order of the models, which is that of the table but for who wrote it.
    stored = pd.concat(
        [predictions[(predictions["fold"] == f) & (predictions["seed"] == s)] for f, s in run.models]
    )
    gap = float(np.abs(whole["float32"][columns].to_numpy(float) - stored[columns].to_numpy(float)).max())
    if gap > 1e-4:
        raise RunError(f"{run.folder}: predictions.csv is not what the models give (difference {gap:.3g})")
    return whole, largest


def figures_of(tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, float]]:
    """Every figure over each table of predictions: table -> figure -> value."""
    out: dict[str, dict[str, float]] = {}
    for table, metric in itertools.product(tables, METRICS):
        name, estimates, truth = labelled(metric, tables[table])
        if len(truth):
            value = float(getattr(metrics, name)(estimates, truth))
            out.setdefault(table, {})[metric] = round(value, 4)
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
    again, largest = replay(tested, alone)
    again = figures_of(again)
    folds, seeds = (tested.results[column].nunique() for column in ("fold", "seed"))
    info = {key: value for key, value in card["info"].items() if key not in ("metrics", "calibration")}
    info["protocol"] = "trained on every speaker" + (f" but {', '.join(kept_out)}" if kept_out else "")
    info["cross_validation"] = {
        "protocol": f"{tested.config['protocol']['kind']}, folds: {folds}, seeds: {seeds}",
        "speakers": f"{counted[0]} of {counted[1]} tested",
        "scored": SCORED,
        "conditions": {name: CONDITIONS[name] for name in tables.conditions},
        "chance": chance(card, alone),
        "figures": cross_validated(tables),
        "by_group": {"condition": condition, **per_group(tested.folder, condition)},
        "int8": {"largest_difference": round(largest, 4), **{n: again[n] for n in ("float32", "int8")}},
    }
    info["failures"] = {
        "condition": condition,
        "confused": confusions(alone),
        "worst_speakers": worst_speakers(tables, condition),
        "white_noise": {name: again[name] for name in again if name.endswith(" dB")},
        "without_speech": without_speech(warm),
    }
    info["calibration"] = {
        "how": "temperature: geometric mean over the folds of the cross-validation, each fitted on its own "
        "development speakers; sd: root mean square of label - estimate over the speakers tested; folds: "
        "what the models of the folds reached, each with its own temperature and sd",
        "temperature": heat,
        "sd": residual_sd(alone),
        "folds": calibrated(tables),
    }
    info["cost"] = {**affekt.cost(warm), "on": environment()["processor"]}
    return {**card, "info": info}, tensors


# ---- the card for people


def page(name: str, card: dict[str, Any], sizes: dict[str, int]) -> str:
    """NAME.md from the card of the model."""
    info, timing = card["info"], card["latency"]
    tested, failures, costs = info["cross_validation"], info["failures"], info["cost"]
    sd, heat = info["calibration"]["sd"], info["calibration"]["temperature"]
    files = "; ".join(f"`{file}` {size / 1e6:.2f} MB" for file, size in sizes.items())
    confused = [f"{e['is']} heard as {e['heard_as']} {e['share']:.0%}" for e in failures["confused"]]
    worst = [f"Confused: {'; '.join(confused)}"] if confused else []
    worst += [
        f"Lowest {METRICS[metric]}: " + ", ".join(f"{who} {value:.2f}" for who, value in each)
        for metric, each in failures["worst_speakers"].items()
    ]
    parts = [
        f"# {name}, version {card['version']}",
        f"Written by `scripts/publish_model.py`. {_sentence(info['intended_use'])}",
        _bullets([
            f"Data: {', '.join(info['data'])}; {info['trained_on']['recordings']} recordings of "
            f"{info['trained_on'].get('groups', '?')} speakers",
            f"Licence: {info['licence']}; see [LICENSE](LICENSE)",
            *(f"Takes {e['kind']}: one channel, {e['rate']:g} Hz" for e in card["inputs"]),
            *(f"Gives {describe_output(output)}" for output in card["outputs"]),
            f"An estimate every {timing['hop_s']:g} s from {timing['first_estimate_s']:g} s on, over the "
            f"last {timing['context_s']:g} s; causal",
            f"{costs['parameters']} parameters; million multiply-accumulates per second of sound: "
            f"{costs['macs_front_end'] / 1e6:.2f} in the front end, {costs['macs_network'] / 1e6:.2f} in the "
            f"network; live at {costs['rtf']:.2g} of real time on one thread ({costs['on']})",
            files,
        ]),
        "## On speakers it has not heard",
        f"The same recipe, cross-validated ({tested['protocol']}; speakers: {tested['speakers']}). The model "
        f"itself was {info['protocol']}, so these figures are about the recipe. They score "
        f"{tested['scored']}. In brackets: 95 % interval over speakers.",
        _bullets([f"*{name}*: {meaning}" for name, meaning in tested["conditions"].items()]),
        _chance(tested["chance"]),
        _table(["condition", "speakers"], [
            ([condition, who], found)
            for condition in CONDITIONS
            for who, found in tested["figures"].get(condition, {}).items()
        ]),
        f"By group, condition {tested['by_group']['condition']}:",
        _table(["", "group", "recordings", "speakers"], [
            ([column, value, found["recordings"], found["speakers"]], found)
            for column in GROUPINGS
            for value, found in tested["by_group"].get(column, {}).items()
        ]),
        "## int8",
        f"The estimates of the folds' models change by {tested['int8']['largest_difference']:.4f} at most.",
        _table(["weights"], [([kind], tested["int8"][kind]) for kind in ("float32", "int8")], 4),
        "## Calibration",
        f"Softmax temperature: {', '.join(f'{k} {v:g}' for k, v in heat.items()) or 'none'}. Standard "
        "deviation of the error on an unheard speaker: "
        f"{', '.join(f'{k} {v:.2f}' for k, v in sd.items()) or 'none'}. The models of the folds reached:",
        markdown(["condition", "figure", "value"], [
            [condition, words_of(metric), _cell(found)]
            for condition, each in info["calibration"]["folds"].items()
            for metric, found in each.items()
        ]),
        "## Where it fails",
        _bullets(worst),
        "White noise over the recordings, signal-to-noise ratio over active speech:",
        _table(["SNR"], [
            ([snr], found)
            for snr, found in {"none": tested["int8"]["float32"], **failures["white_noise"]}.items()
        ]),
        "Where nobody speaks:",
        _silence(failures["without_speech"]),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _chance(found: dict[str, Any]) -> str:
    words = [f"{METRICS.get(k, 'CCC')} {found[k]:.3f}" for k in ("uar", "war", "ccc") if k in found]
    most = found.get("most_frequent")
    always = f"; WAR {most['war']:.3f} by always naming *{most['emotion']}*" if most else ""
    return f"Without listening: {', '.join(words)} by guessing{always}."


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _cell(found: Any, digits: int = 3) -> str:
    """``0.612 (0.571 to 0.655)`` of a figure on the card, with or without an interval."""
    if found is None:
        return "-"
    if isinstance(found, float):
        return f"{found:.{digits}f}"
    low, high = found.get("interval", (None, None))
    return interval({"mean": found["mean"], "low": low, "high": high}, digits)


def _table(header: list[str], rows: list[tuple[list[Any], dict[str, Any]]], digits: int = 3) -> str:
    """Lines of (first cells, figures), with a column per figure that any line has."""
    shown = [m for m in METRICS if any(m in found for _, found in rows)]
    cells = [[*first, *(_cell(found.get(m), digits) for m in shown)] for first, found in rows]
    return markdown([*header, *(METRICS[m] for m in shown)], cells)


def _silence(sounds: dict[str, dict[str, Any]]) -> str:
    """What was said where nobody spoke."""
    affect = [c for c in next(iter(sounds.values())) if c != "valid" and not c.startswith("p_")]
    rows = []
    for sound, said in sounds.items():
        chances = sorted(((v, k) for k, v in said.items() if k.startswith("p_")), reverse=True)[:2]
        likeliest = ", ".join(f"{k.removeprefix('p_')} {v:.2f}" for v, k in chances)
        rows.append(
            [sound, "yes" if said["valid"] else "no", *(f"{said[c]:+.2f}" for c in affect), likeliest]
        )
    return markdown(["sound", "called valid", *affect, "likeliest"], rows)


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
