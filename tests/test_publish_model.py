"""What the publisher writes: one model from two runs, with figures that belong to it, or a clear refusal."""

# ruff: noqa: E402
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("pytorch_lightning")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

import publish_model
from runs import RunError

import affekt
from affekt import metrics
from affekt.modelfile import write_model
from affekt.training import load_config, run_protocol

PITCH = {"calm": 150, "angry": 600, "sad": 300}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A cross-validation over four speakers and a training on all of them; a LICENSE to go with it."""
    folder = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(3)
    rows = []
    for speaker in range(4):
        for take in range(3):
            for emotion, pitch in PITCH.items():
                t = np.arange(8000) / 16000
                samples = 0.2 * np.sin(2 * np.pi * pitch * (1 + 0.2 * speaker) * t) + 0.01 * rng.normal(
                    size=8000
                )
                name = f"s{speaker}_{take}_{emotion}.wav"
                soundfile.write(folder / name, samples.astype(np.float32), 16000)
                rows.append({
                    "file": name, "subject": f"s{speaker}", "emotion": emotion, "arousal": pitch / 500 - 0.6,
                    "gender": "female" if speaker < 2 else "male", "language": "en" if take else "da",
                })  # fmt: skip
    pandas.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    base = {
        "data": {"manifest": str(folder / "manifest.csv"), "cache": str(folder / "features")},
        "system": {
            "name": "speech",
            "front_end": {"n_mels": 12, "hop_length": 320},
            "tcn": {"channels": [8], "dropout": 0.1},
            "pool": {"window": 20, "hop": 2},
            "heads": {"emotion": {"labels": list(PITCH)}, "affect": {"labels": ["arousal"]}},
        },
        "training": {"epochs": 2, "batch_size": 8, "lr": 0.02, "tensorboard": False, "progress": False},
        "info": {"intended_use": "tests", "licence": "CC0-1.0"},
    }
    protocols = {
        "folds": {"kind": "group_kfold", "folds": 2, "dev": 1},
        "all": {"kind": "all", "dev": 1},
    }
    for name, protocol in protocols.items():
        run_protocol(load_config({**base, "out": str(folder / name), "protocol": protocol}))
    (folder / "weights").mkdir()
    (folder / "weights" / "LICENSE").write_text("Trained on the user's manifest.")
    return folder


@pytest.fixture(scope="module")
def published(runs):
    # Temperatures whose mean is known, in the models of the folds and in what they predicted.
    file = runs / "folds" / "predictions.csv"
    table = pandas.read_csv(file)
    columns = [f"p_{name}" for name in PITCH]
    for fold, temperature in ((1, 2.0), (2, 0.5)):
        path = runs / "folds" / f"fold_{fold}" / "seed_0" / "model.safetensors"
        model = affekt.load(path)
        card = {k: v for k, v in model.card.items() if k not in ("schema", "tensors")}
        ((_, node),) = publish_model.softmaxes(card)
        rows = table["fold"] == fold
        powers = table.loc[rows, columns] ** (node["options"]["temperature"] / temperature)
        table.loc[rows, columns] = powers.div(powers.sum(axis=1), axis=0)
        node["options"]["temperature"] = temperature
        write_model(path, card, model.tensors())
    table.to_csv(file, index=False)
    publish_model.main(arguments(runs))
    return runs / "weights"


def arguments(runs: Path, *more: str) -> list[str]:
    names = [str(runs / "folds"), str(runs / "all"), "--weights", str(runs / "weights")]
    return [*names, "--version", "7", "--name", "tiny", *more]


def test_three_files_that_belong_together(runs, published):
    model, twin = (affekt.load(published / f"{name}.safetensors") for name in ("tiny", "tiny-int8"))
    trained = affekt.load(runs / "all" / "fold_1" / "seed_0" / "model.safetensors")
    assert (model.name, model.card["version"], twin.name) == ("tiny", "7", "tiny-int8")
    for name, value in trained.tensors().items():
        np.testing.assert_array_equal(model.tensors()[name], value)
    assert twin.card["info"]["quantised"]["from"]["sha256"] == model.native.hash
    assert {k: v for k, v in twin.card["info"].items() if k != "quantised"} == model.card["info"]
    assert sorted(p.name for p in published.iterdir()) == [
        "LICENSE",
        "tiny-int8.safetensors",
        "tiny.md",
        "tiny.safetensors",
    ]


def test_figures_are_those_of_the_cross_validation(runs, published):
    info = affekt.load(published / "tiny.safetensors").card["info"]
    assert info["licence"] == "CC0-1.0"
    assert info["intended_use"] == "tests"
    tested = info["cross_validation"]
    assert tested["protocol"] == "group_kfold, folds: 2, seeds: 1"
    assert tested["speakers"] == "4 of 4 tested"
    summary = pandas.read_csv(runs / "folds" / "summary.csv").set_index(["metric", "over"])
    row = summary.loc[("uar", "pooled")]
    found = tested["figures"]["raw"]["all speakers"]["uar"]
    assert found["mean"] == round(row["mean"], 3)
    assert found["interval"] == [round(row["low"], 3), round(row["high"], 3)]
    assert found["speakers"] == 4
    predictions = pandas.read_csv(runs / "folds" / "predictions.csv")
    best = predictions[[f"p_{name}" for name in PITCH]].idxmax(axis=1).str.removeprefix("p_")
    women = predictions["subject"].isin(["s0", "s1"])
    by_group = tested["by_group"]
    assert by_group["condition"] == "raw"
    assert by_group["gender"]["female"]["recordings"] == 18
    assert by_group["gender"]["female"]["speakers"] == 2
    expected = metrics.uar(best[women].to_numpy(), predictions["true_emotion"][women].to_numpy())
    assert by_group["gender"]["female"]["uar"]["mean"] == pytest.approx(expected, abs=5e-4)
    assert set(by_group["language"]) == {"da", "en"}
    assert by_group["language"]["da"]["recordings"] == 12
    assert tested["int8"]["float32"]["uar"] == pytest.approx(row["mean"], abs=1e-4)
    assert tested["int8"]["int8"].keys() == tested["int8"]["float32"].keys()
    assert 0 < tested["int8"]["largest_difference"] < 0.1
    residual = predictions["arousal"] - predictions["true_arousal"]
    assert info["calibration"]["sd"]["arousal"] == pytest.approx(np.sqrt((residual**2).mean()), abs=1e-4)


def test_temperature_is_the_geometric_mean_of_the_folds(published):
    model = affekt.load(published / "tiny.safetensors")
    assert model.card["info"]["calibration"]["temperature"] == {"emotion": 1.0}
    ((_, node),) = publish_model.softmaxes(model.card)
    assert node["options"]["temperature"] == 1.0


def test_reliability_and_cost_are_stated(runs, published):
    info = affekt.load(published / "tiny.safetensors").card["info"]
    summary = pandas.read_csv(runs / "folds" / "summary.csv").set_index(["metric", "over"])
    folds = info["calibration"]["folds"]["raw"]
    for metric in ("ece", "nll", "brier", "coverage68_arousal", "coverage95_arousal"):
        assert folds[metric]["mean"] == round(summary.loc[(metric, "pooled"), "mean"], 3)
    tensors = affekt.load(published / "tiny.safetensors").tensors()
    assert info["cost"]["parameters"] == sum(value.size for value in tensors.values())
    assert info["cost"]["macs_network"] > 0
    assert info["cost"]["on"]


def test_the_card_explains_its_figures(runs, published):
    card = affekt.load(published / "tiny.safetensors").card
    tested = card["info"]["cross_validation"]
    assert tested["scored"].startswith("the last valid estimate of each recording")
    assert tested["conditions"] == {"raw": "every recording by itself"}
    odds = tested["chance"]
    assert (odds["uar"], odds["war"], odds["ccc"]) == (0.3333, 0.3333, 0.0)
    truth = pandas.read_csv(runs / "folds" / "predictions.csv")["true_emotion"]
    assert odds["most_frequent"]["war"] == pytest.approx(
        (truth == odds["most_frequent"]["emotion"]).mean(), abs=1e-4
    )
    text = (published / "tiny.md").read_text(encoding="utf-8")
    for line in (
        "- Takes audio: one channel, 16000 Hz",
        "- Gives probabilities of calm, angry, sad",
        "- Gives arousal in [-1, 1]",
        "- *raw*: every recording by itself",
        "Without listening: UAR 0.333, WAR 0.333, CCC 0.000 by guessing; WAR 0.333 by always naming *angry*.",
    ):
        assert line in text.splitlines(), line
    assert f"They score {tested['scored']}. " in text


def test_failures_are_named(runs, published):
    failures = affekt.load(published / "tiny.safetensors").card["info"]["failures"]
    groups = pandas.read_csv(runs / "folds" / "groups.csv")
    lowest = groups[groups["by"] == "subject"].nsmallest(3, "uar")
    assert failures["worst_speakers"]["uar"][0] == [lowest["group"].iloc[0], round(lowest["uar"].iloc[0], 3)]
    assert [value for _, value in failures["worst_speakers"]["uar"]] == [round(v, 3) for v in lowest["uar"]]
    for pair in failures["confused"]:
        assert pair["is"] != pair["heard_as"]
        assert 0 < pair["share"] <= 1
    noisy = failures["white_noise"]
    assert list(noisy) == ["0 dB", "10 dB", "20 dB"]
    assert noisy["0 dB"] != noisy["20 dB"]
    silence = failures["without_speech"]["silence"]
    assert silence["valid"] is True  # this model does not listen for speech
    assert sum(v for k, v in silence.items() if k.startswith("p_")) == pytest.approx(1, abs=2e-3)


def test_the_page_says_what_the_card_says(published):
    info = affekt.load(published / "tiny.safetensors").card["info"]
    text = (published / "tiny.md").read_text(encoding="utf-8")
    assert "# tiny, version 7" in text
    assert f"{info['cross_validation']['figures']['raw']['all speakers']['uar']['mean']:.3f} (" in text
    for words in ("CC0-1.0", "gender", "female", "silence", "Lowest UAR", "tiny-int8.safetensors", "user's"):
        assert words in text
    for pair in info["failures"]["confused"]:
        assert f"{pair['is']} heard as {pair['heard_as']} {pair['share']:.0%}" in text


def damaged(runs: Path, tmp_path: Path, which: str = "folds") -> Path:
    """A copy of the runs to spoil, with the place of the run that is spoilt."""
    for name in ("folds", "all", "weights"):
        shutil.copytree(runs / name, tmp_path / name)
    return tmp_path / which


def refused(folder: Path, message: str, *more: str) -> None:
    before = sorted((folder / "weights").iterdir())
    with pytest.raises(RunError, match=message):
        publish_model.main(arguments(folder, *more))
    assert sorted((folder / "weights").iterdir()) == before


def test_runs_that_do_not_belong_together(runs, published, tmp_path):
    run = damaged(runs, tmp_path, "all")
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("lr: 0.02", "lr: 0.03"))
    refused(tmp_path, r"different recipes: training\.lr \(0\.02, 0\.03\)")
    (run / "config.yaml").write_text(config.replace("kind: all", "kind: group_kfold"))
    refused(tmp_path, "protocol.kind must be all, got group_kfold")
    (run / "config.yaml").write_text(config)
    with pytest.raises(RunError, match="tests nobody"):
        publish_model.main(arguments(tmp_path)[1:2] + arguments(tmp_path)[1:])


def test_a_run_that_is_not_whole(runs, published, tmp_path):
    run = damaged(runs, tmp_path)
    audit = json.loads((run / "audit.json").read_text())
    (run / "audit.json").write_text(json.dumps({**audit, "ok": False}))
    refused(tmp_path, "the leak check found something")
    (run / "audit.json").write_text(json.dumps(audit))
    results = pandas.read_csv(run / "results.csv")
    results[results["fold"] == 1].to_csv(run / "results.csv", index=False)
    refused(tmp_path, "2 of 4 speakers were tested; run all folds")
    results.to_csv(run / "results.csv", index=False)
    table = pandas.read_csv(run / "predictions.csv")
    table.assign(arousal=table["arousal"] + 0.01).to_csv(run / "predictions.csv", index=False)
    refused(tmp_path, r"predictions\.csv is not what the models give \(difference 0\.01\)")
    (tmp_path / "weights" / "LICENSE").write_text("Trained on whales.")
    refused(tmp_path, "LICENSE: does not name user's manifest")
    (run / "fold_2" / "seed_0" / "model.safetensors").unlink()
    refused(tmp_path, r"fold_2.*model\.safetensors: missing")
    (run / "config.yaml").unlink()
    refused(tmp_path, r"has no config\.yaml")


def test_some_folds_may_do_when_that_is_said(runs, published, tmp_path):
    run = damaged(runs, tmp_path)
    for name in ("results.csv", "predictions.csv"):
        table = pandas.read_csv(run / name)
        table[table["fold"] == 1].to_csv(run / name, index=False)
    publish_model.main(arguments(tmp_path, "--partial"))
    model = affekt.load(tmp_path / "weights" / "tiny.safetensors")
    assert model.card["info"]["cross_validation"]["speakers"] == "2 of 4 tested"
    ((_, node),) = publish_model.softmaxes(model.card)
    assert node["options"]["temperature"] == 2.0  # that of the fold
