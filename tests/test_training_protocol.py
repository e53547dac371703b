"""The protocol runner on generated voices: tables, resuming, skipped recordings, and no leaks."""

# ruff: noqa: E402
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("pytorch_lightning")

import affekt
from affekt import data, metrics, systems
from affekt.errors import DataError, InputError
from affekt.training import (
    calibration,
    export_checkpoint,
    fit,
    load_config,
    loop,
    prepare,
    run_protocol,
    scoring,
)
from affekt.training.protocol import _digest

RATE = 16000
SPEAKERS, TAKES = 6, 4


def sound(emotion, speaker, take, seconds):
    """A tone whose pitch and loudness depend on the emotion, a little on the speaker."""
    rng = np.random.default_rng([speaker, take, len(emotion)])
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = {"calm": 150, "angry": 600}[emotion] * (1 + 0.05 * speaker)
    level = {"calm": 0.05, "angry": 0.4}[emotion] * rng.uniform(0.8, 1.2)
    tone = level * np.sin(2 * np.pi * pitch * t * (1 + 0.02 * np.sin(7 * t))) + 0.002 * rng.normal(
        size=len(t)
    )
    return tone.astype(np.float32), float(np.clip(3 * level - 0.6, -1, 1))


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """Manifest of generated recordings: an emotion on every row, arousal on two thirds of them."""
    folder = tmp_path_factory.mktemp("voices")
    rows = []
    for speaker in range(SPEAKERS):
        for take in range(TAKES):
            for emotion in ("calm", "angry"):
                samples, arousal = sound(emotion, speaker, take, 0.5 + 0.1 * take)
                name = f"s{speaker}_{take}_{emotion}.wav"
                soundfile.write(folder / name, samples, RATE)
                rows.append({
                    "file": name, "subject": f"s{speaker}", "session": f"s{speaker}", "emotion": emotion,
                    "arousal": arousal if take else None,
                })  # fmt: skip
    pandas.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def configuration(manifest, out, *overrides):
    base = {
        "out": str(out),
        "data": {"manifest": str(manifest), "cache": str(Path(manifest).parent / "features")},
        "protocol": {"kind": "group_kfold", "folds": 3, "dev": 1, "seeds": [0]},
        "system": {
            "name": "speech",
            "front_end": {"n_mels": 12, "hop_length": 320},
            "tcn": {"channels": [8], "dropout": 0.1},
            "pool": {"window": 20, "hop": 2},
            "heads": {
                "emotion": {"labels": ["calm", "angry"], "balance": True},
                "affect": {"labels": ["arousal"]},
            },
        },
        "training": {"epochs": 6, "batch_size": 8, "lr": 0.02, "tensorboard": False, "progress": False},
    }
    return load_config(base, list(overrides))


@pytest.fixture(scope="module")
def finished(voices, tmp_path_factory):
    """Three folds with two seeds each."""
    out = tmp_path_factory.mktemp("runs") / "three"
    lines = []
    config = configuration(voices, out, "protocol.seeds=[0, 1]")
    return run_protocol(config, say=lines.append), config, lines


def test_the_figures_of_the_seeds_together_are_those_of_their_ensemble_file(finished, tmp_path):
    result, config, _ = finished
    folder = Path(config.out)
    table = pandas.read_csv(folder / "ensemble_summary.csv")
    pandas.testing.assert_frame_equal(table, result.ensemble, check_dtype=False)
    assert "as one ensemble" in str(result)
    assert f"  model: {result.folder}/fold_*/seed_*/model.safetensors" in str(result).splitlines()
    # The mean of calibrated members is not calibrated: figures of its confidence would mislead.
    assert not table["metric"].str.startswith(("ece", "nll", "brier", "coverage")).any()
    predictions = pandas.read_csv(folder / "predictions.csv")
    hits = []
    for fold, part in predictions.groupby("fold"):
        members = [folder / f"fold_{fold}" / f"seed_{seed}" / "model.safetensors" for seed in (0, 1)]
        both = affekt.load(affekt.ensemble(members, tmp_path / f"{fold}.safetensors"))
        classes = [c.removeprefix("p_") for c in both.columns if c.startswith("p_")]
        for row in part[part["seed"] == 0].itertuples():
            values = both.run(data.read_audio(row.file, both.sample_rate)).values[-1]
            found = classes[int(np.argmax(values[[both.columns.index(f"p_{c}") for c in classes]]))]
            hits.append((row.true_emotion, found == row.true_emotion))
    hits = pandas.DataFrame(hits, columns=["label", "hit"])
    uar = table[(table["metric"] == "uar") & (table["over"] == "pooled")]["mean"].item()
    assert uar == pytest.approx(hits.groupby("label")["hit"].mean().mean(), abs=1e-9)


def test_tables(finished):
    result, config, lines = finished
    folder = Path(config.out)
    assert len(result.results) == 6
    assert set(result.results["mode"]) == {"full"}
    assert result.results["uar"].mean() > 0.9
    assert result.results["ccc_arousal"].mean() > 0.5
    assert (result.results["n_test"] == 16).all()
    for row in result.results.itertuples():  # the development speakers are stated, and nobody is in two parts
        assert not set(row.dev_groups.split()) & set(row.test_groups.split())
        assert len(row.dev_groups.split()) == 1
    pooled = result.summary.set_index(["metric", "over"])
    assert set(result.summary["over"]) == {"pooled", "folds", "seeds", "groups"}
    assert pooled.loc[("uar", "folds"), "n"] == 3
    assert pooled.loc[("uar", "seeds"), "n"] == 2
    assert pooled.loc[("uar", "groups"), "n"] == SPEAKERS
    row = pooled.loc[("ccc_arousal", "pooled")]
    assert row["low"] <= row["mean"] <= row["high"]
    assert "Lin" in row["definition"]
    for name in ("config.yaml", "environment.json", "results.csv", "summary.csv", "groups.csv", "skipped.csv",
                 "predictions.csv", "audit.json"):  # fmt: skip
        assert (folder / name).is_file(), name
    groups = pandas.read_csv(folder / "groups.csv")
    assert len(groups) == SPEAKERS * 2
    assert (groups["n"] == 8).all()
    assert "uar" in str(result)
    assert "mode full, last valid estimate of each recording; UAR, WAR, CCC over all test" in str(result)
    assert any("fold 2" in line for line in lines)
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"] == torch.__version__


def test_summary_figures_are_the_metrics_of_the_predictions(finished):
    result, config, _ = finished
    table = pandas.read_csv(Path(config.out) / "predictions.csv")
    assert len(table) == SPEAKERS * TAKES * 2 * 2
    assert {"file", "fold", "seed", "subject", "p_calm", "p_angry", "arousal", "true_emotion"} <= set(table)
    by_seed = []
    for _, part in table.groupby("seed"):
        guess = np.where(part["p_calm"] > part["p_angry"], "calm", "angry")
        known = part["true_arousal"].notna()
        by_seed.append([
            metrics.uar(guess, part["true_emotion"]),
            metrics.ccc(part["arousal"][known], part["true_arousal"][known]),
        ])  # fmt: skip
    pooled = result.summary.set_index(["metric", "over"])["mean"]
    expected = np.mean(by_seed, axis=0)
    assert pooled["uar", "pooled"] == pytest.approx(expected[0], abs=1e-6)
    assert pooled["ccc_arousal", "pooled"] == pytest.approx(expected[1], abs=1e-5)


def test_resampled_figures_are_those_of_the_metrics(rng):
    """The bootstrap works on sums; its centre must be what `affekt.metrics` gives on the recordings."""
    heads = {
        "emotion": systems.Head(labels=["a", "b", "c"]),
        "affect": systems.Head(labels=["valence", "arousal"]),
    }
    n = 60
    table = pandas.DataFrame(rng.random((n, 3)), columns=["p_a", "p_b", "p_c"])
    table[["valence", "arousal"]] = rng.normal(size=(n, 2)) + 50
    table[["true_valence", "true_arousal"]] = table[["valence", "arousal"]] + rng.normal(size=(n, 2))
    table.loc[:9, "true_valence"] = np.nan
    table["true_emotion"] = rng.choice(["a", "b"], n)  # one class never occurs
    table["group"] = rng.integers(0, 5, n).astype(str)
    table["seed"] = np.repeat([0, 1], n // 2)

    def labels(part):
        return {
            "emotion": part["true_emotion"].map({"a": 0, "b": 1, "c": 2}).to_numpy(),
            "affect": part[["true_valence", "true_arousal"]].to_numpy(),
        }

    drawn = scoring._bootstrap(table, heads, labels)
    both = [scoring.figures(scoring.outputs(t, heads), labels(t), heads) for _, t in table.groupby("seed")]
    assert set(drawn) == set(both[0]) - {"ccc", "score"}
    for name, interval in drawn.items():
        assert interval.mean == pytest.approx(np.mean([b[name] for b in both]), abs=1e-9), name
        assert interval.low < interval.mean < interval.high


def test_n_counts_the_groups_that_a_figure_looks_at(rng):
    """Six speakers, of whom two have an emotion, three another label and one none."""
    heads = {"emotion": systems.Head(labels=["a", "b"]), "affect": systems.Head(labels=["arousal"])}
    rows = []
    for speaker in range(6):
        for _ in range(8):
            likely = float(rng.uniform(0.1, 0.9))
            rows.append({
                "fold": 1, "seed": 0, "group": f"s{speaker}", "p_a": likely, "p_b": 1 - likely,
                "arousal": rng.uniform(-1, 1), "sd_arousal": 0.5,
                "emotion": int(rng.integers(2)) if speaker < 2 else -1,
                "true_arousal": rng.uniform(-1, 1) if 2 <= speaker < 5 else np.nan,
            })  # fmt: skip
    table = pandas.DataFrame(rows)

    def labels(part):
        return {
            "emotion": part["emotion"].to_numpy(),
            "affect": part[["true_arousal"]].to_numpy(dtype=np.float32),
        }

    groups = scoring.group_table(table, heads, labels, calibrated=True)
    summary = scoring.summary_table(table, groups, heads, labels, calibrated=True, choices=["s0", "s5"])
    count = summary.set_index(["metric", "over"])["n"]
    for name in ("uar", "nll", "ece"):
        assert (count[name, "pooled"], count[name, "untouched"]) == (2, 1), name
    for name in ("ccc_arousal", "ccc", "coverage68_arousal"):
        assert (count[name, "pooled"], count[name, "untouched"]) == (3, 3), name
    assert (count["score", "pooled"], count["score", "untouched"]) == (5, 4)


def test_the_last_valid_estimate_is_tested_and_nobody_knows_who_the_unknown_are(
    voices, tmp_path, monkeypatch
):
    """As `affekt.predict` takes it; an adapting model learns nothing from a crowd of strangers."""
    from affekt._native import Estimates, Model
    from affekt.training import protocol

    config = configuration(voices, tmp_path / "run", "system.heads.emotion=null")
    config.conditions.test = ["raw"]
    table = pandas.read_csv(voices)
    table["subject"] = table["subject"].where(table["subject"] != "s1")
    system = systems.create("speech", **{k: v for k, v in config.system.items() if k != "name"})
    manifest = data.Manifest(table.assign(file=[str(voices.parent / f) for f in table["file"]]))
    store = data.prepare(manifest, system.front_end(), tmp_path / "features")
    path = systems.export(system, tmp_path / "model.safetensors")

    def run(model, samples, mode="full", **options):
        values = np.array([[0.1], [0.2], [0.3]], np.float32)
        loud = np.abs(samples).max() > 0.2
        return Estimates(np.arange(3.0), values, np.array([True, loud, False]) & (samples[0] < 9), None)

    monkeypatch.setattr(Model, "run", run)
    taken: dict = {}

    def conditions(model, speakers, read, config, label, say, unknown):
        taken.update(speakers=speakers, unknown=unknown)
        return ((("raw"), row, run(model, read(row))) for row in range(len(store)))

    monkeypatch.setattr(protocol, "run_conditions", conditions)
    found, failed = protocol._native_predictions(
        config, path, store, np.arange(len(store)), system, lambda line: None
    )
    assert not failed
    loud = found["file"].str.contains("angry")
    np.testing.assert_allclose(found["arousal"], np.where(loud, 0.2, 0.1), rtol=1e-6)
    strangers = np.flatnonzero(store.manifest.table["subject"].isna())
    assert len(strangers)
    assert sorted(taken["unknown"]) == strangers.tolist()
    assert "unknown" not in taken["speakers"]


def test_each_training_leaves_what_the_audit_and_a_user_need(finished, voices):
    result, config, _ = finished
    assert result.audit.ok
    assert json.loads((Path(config.out) / "audit.json").read_text())["ok"]
    run = result.runs[0]
    names = {p.name for p in run.folder.iterdir()}
    tables = {"predictions.csv", "predictions_dev.csv", "log.csv", "split.csv", "statistics.json"}
    assert (
        tables | {"model.safetensors", "config.yaml", "environment.json", "kept.ckpt", "done.json"} <= names
    )
    assert not {"last.ckpt", "best.ckpt"} & names
    split = data.read_split(run.folder)
    store = data.FeatureStore(config.data.cache)
    rows = split["row"][split["partition"] == "train"].to_numpy()
    expected = store.statistics(rows)
    stored = data.Statistics.load(run.folder)
    np.testing.assert_allclose(stored.mean, expected.mean)
    tensors = affekt.load(run.model).tensors()
    np.testing.assert_allclose(tensors["norm.mean"], expected.mean, rtol=1e-6)
    np.testing.assert_allclose(1 / tensors["norm.scale"], expected.sd, rtol=1e-5)
    card = affekt.load(run.model).card
    assert card["info"]["metrics"]["test"]["raw"]["uar"] == pytest.approx(run.row["uar"])
    assert card["info"]["trained_on"] == {"recordings": 24, "groups": 3}
    again = export_checkpoint(run.folder / "kept.ckpt", run.folder / "again.safetensors")
    for name, value in affekt.load(again).tensors().items():
        np.testing.assert_array_equal(value, tensors[name])
    again.unlink()
    with pytest.raises(DataError, match="not a checkpoint"):
        export_checkpoint(run.folder / "log.csv", run.folder / "x.safetensors")


def test_results_name_their_configuration(finished, tmp_path):
    result, config, _ = finished
    (digest,) = set(result.results["configuration"])
    read = pandas.read_csv(Path(config.out) / "results.csv", dtype={"configuration": str})
    assert set(read["configuration"]) == {digest}

    def digest_of(*overrides):
        return _digest(load_config(config, overrides))

    same = ["protocol.select=[1]", "protocol.seeds=[3]", "protocol.jobs=2", f"out={tmp_path}"]
    assert digest_of(*same, f"data.root={tmp_path}", "training.progress=true") == digest
    assert digest_of("training.lr=0.5") != digest
    assert digest_of("protocol.seed=9") != digest_of("system.dropout=0.5") != digest


def test_confidence_is_fitted_on_the_development_speakers_and_scored_on_the_others(finished):
    result, config, _ = finished
    for run in result.runs:
        card = affekt.load(run.model).card
        (heat,) = [n["options"]["temperature"] for n in card["nodes"] if n["name"] == "emotion_out"]
        told = card["info"]["calibration"]
        assert told["temperature"] == {"emotion": heat}
        assert run.row["temperature"] == pytest.approx(heat)
        dev = pandas.read_csv(run.folder / "predictions_dev.csv")
        assert set(dev["subject"]) == set(run.row["dev_groups"].split())
        prob = dev[["p_calm", "p_angry"]].to_numpy()
        target = (dev["true_emotion"] == "angry").to_numpy().astype(int)
        here = metrics.nll(prob, target)
        for other in (0.8, 1.25):  # the written probabilities are at the least likelihood already
            moved = prob ** (1 / other)
            bound = heat in calibration.TEMPERATURES
            assert bound or here <= metrics.nll(moved / moved.sum(1, keepdims=True), target) + 1e-6
        miss = (dev["true_arousal"] - dev["arousal"]).dropna()
        assert told["sd"]["arousal"] == pytest.approx(max(1e-3, np.sqrt((miss**2).mean())), rel=1e-3)
    table = pandas.read_csv(Path(config.out) / "predictions.csv")
    pooled = result.summary.set_index(["metric", "over"])["mean"]
    inside = (table["true_arousal"] - table["arousal"]).abs() <= 1.96 * table["sd_arousal"]
    known = table["true_arousal"].notna()
    assert pooled["coverage95_arousal", "pooled"] == pytest.approx(
        inside[known].groupby(table["seed"]).mean().mean()
    )
    by_seed = [
        metrics.ece(part[["p_calm", "p_angry"]], (part["true_emotion"] == "angry").astype(int))
        for _, part in table.groupby("seed")
    ]
    assert pooled["ece", "pooled"] == pytest.approx(np.mean(by_seed), abs=1e-6)
    assert ("ece", "groups") not in pooled
    assert np.isfinite(pooled["nll", "groups"])


def test_untouched_speakers_and_other_columns_are_figured_beside_all(voices, tmp_path):
    def gendered(table):
        return table.assign(gender=table["subject"].map(lambda s: "female" if s < "s2" else None))

    manifest = copied(voices, tmp_path / "m.csv", gendered)
    options = (f"data.cache={tmp_path / 'f'}", "training.epochs=1", "training.lr=0.005")
    with pytest.raises(DataError, match=r"protocol.choices names s9: no subject of the data"):
        run_protocol(configuration(manifest, tmp_path / "run", *options, "protocol.choices=[s1, s9]"))
    plain = run_protocol(configuration(manifest, tmp_path / "run", *options))
    assert "untouched" not in set(plain.summary["over"])
    # The same trainings: only the tables are made again.
    result = run_protocol(configuration(manifest, tmp_path / "run", *options, "protocol.choices=[s1, s4]"))
    assert all(run.reused for run in result.runs)
    table = pandas.read_csv(tmp_path / "run" / "predictions.csv")
    guess = np.where(table["p_calm"] > table["p_angry"], "calm", "angry")
    rows = result.summary.set_index(["metric", "over"])
    rest = ~table["subject"].isin(["s1", "s4"])
    expected = metrics.bootstrap_interval(
        metrics.uar, guess[rest], table["true_emotion"][rest], table["subject"][rest]
    )
    found = rows.loc[("uar", "untouched")]
    assert [found["mean"], found["low"], found["high"]] == pytest.approx(expected[:3], abs=1e-6)
    assert found["n"] == 4
    assert rows.loc[("uar", "pooled"), "n"] == SPEAKERS
    assert "untouched" in str(result)
    groups = pandas.read_csv(tmp_path / "run" / "groups.csv").set_index(["by", "group"])
    assert set(groups.index.get_level_values("by")) == {"subject", "gender"}
    women = (table["gender"] == "female").to_numpy()
    expected = metrics.bootstrap_interval(
        metrics.uar, guess[women], table["true_emotion"][women], table["subject"][women]
    )
    row = groups.loc[("gender", "female")]
    assert [row["uar"], row["uar_low"], row["uar_high"]] == pytest.approx(expected[:3], abs=1e-5)
    assert (row["n"], row["speakers"]) == (16, 2)
    assert groups.loc[("gender", "unknown"), "speakers"] == 4


def test_the_checkpoint_gives_the_model_of_the_last_epoch_too(voices, tmp_path):
    """What is kept is not what the checkpoint of the best epoch held: the export must not differ for that."""
    options = ("training.keep=last", "training.epochs=4", "training.averaging=ema", "training.lr=0.05")
    run = fit(configuration(voices, tmp_path / "run", *options))
    again = affekt.load(export_checkpoint(run.folder / "kept.ckpt", run.folder / "again.safetensors"))
    for name, value in affekt.load(run.model).tensors().items():
        np.testing.assert_array_equal(value, again.tensors()[name])
    nodes = [{n["name"]: n["options"] for n in m.card["nodes"]} for m in (affekt.load(run.model), again)]
    assert nodes[0] == nodes[1]


def test_test_figures_are_those_of_the_deployed_file(finished, voices):
    result, _, _ = finished
    run = result.runs[-1]
    table = pandas.read_csv(run.folder / "predictions.csv")
    model = affekt.load(run.model)
    for row in table.head(4).itertuples():
        _, values = model.run(data.read_audio(row.file, RATE))
        np.testing.assert_allclose([row.p_calm, row.p_angry, row.arousal], values[-1], atol=1e-6)
    restored = systems.restore(run.model)
    rows = torch.from_numpy(restored.front_end()(data.read_audio(row.file, RATE)))
    np.testing.assert_allclose(restored.predict(rows[None])[0], values[-1], atol=1e-4)


def test_finished_folds_are_not_repeated_and_a_killed_one_goes_on(voices, tmp_path, monkeypatch, finished):
    whole = finished[0]
    config = configuration(voices, tmp_path / "run")
    real = loop.train
    trained = []

    def killed(*args, **kwargs):
        """The second fold dies after its second epoch."""
        trained.append(args[4])
        if len(trained) == 2:
            real(*args, **kwargs, stop_after=2)
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr("affekt.training.protocol.train", killed)
    with pytest.raises(KeyboardInterrupt):
        run_protocol(config)
    folder = Path(config.out)
    assert (folder / "fold_1" / "seed_0" / "done.json").is_file()
    assert not (folder / "fold_2" / "seed_0" / "done.json").exists()
    stamp = (folder / "fold_1" / "seed_0" / "model.safetensors").stat().st_mtime_ns
    epochs = []

    def watched(*args, **kwargs):
        result = real(*args, **kwargs)
        epochs.append((Path(args[4]).parent.name, result.epochs))
        return result

    monkeypatch.setattr("affekt.training.protocol.train", watched)
    result = run_protocol(config)
    assert [name for name, _ in epochs] == ["fold_2", "fold_3"]
    assert [run.reused for run in result.runs] == [True, False, False]
    assert (folder / "fold_1" / "seed_0" / "model.safetensors").stat().st_mtime_ns == stamp
    # And the figures are those of the run that nobody disturbed.
    undisturbed = whole.results[whole.results["seed"] == 0].reset_index(drop=True)
    for name in ("uar", "ccc_arousal", "dev_score", "best_epoch", "epochs"):
        np.testing.assert_array_equal(result.results[name], undisturbed[name])


def test_several_processes_give_the_bytes_of_one(voices, tmp_path, finished):
    """And without development speakers: all epochs, the last weights."""
    options = ("training.epochs=3", "training.threads=1", "protocol.select=[1, 3]", "protocol.dev=0")
    lines: list[str] = []
    one = run_protocol(configuration(voices, tmp_path / "one", *options))
    two = run_protocol(configuration(voices, tmp_path / "two", *options, "protocol.jobs=2"), say=lines.append)
    for a, b in zip(one.runs, two.runs, strict=True):
        assert a.folder.parts[-2:] == b.folder.parts[-2:]
        assert a.model.read_bytes() == b.model.read_bytes()
        assert (a.row["epochs"], a.row["best_epoch"], a.row["n_dev"]) == (3, 2, 0)
        for name in ("predictions.csv", "split.csv", "statistics.json"):
            assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes()
    for name in ("predictions.csv", "groups.csv", "summary.csv"):
        assert (Path(one.folder) / name).read_bytes() == (Path(two.folder) / name).read_bytes()
    assert sum(line.startswith("fold 3 (") for line in lines) == 1
    with pytest.raises(InputError, match=r"training\.lr"):  # but the folder is the same run for more jobs
        run_protocol(configuration(voices, tmp_path / "two", *options, "training.lr=1"))


def test_another_configuration_may_not_use_the_folder(finished):
    _, config, _ = finished
    with pytest.raises(InputError, match=r"differs in training.lr"):
        run_protocol(load_config(config, ["training.lr=0.01"]))


def test_broken_recordings_are_counted_or_raise(voices, tmp_path):
    table = pandas.read_csv(voices)
    table["file"] = [str(voices.parent / f) for f in table["file"]]
    (tmp_path / "text.wav").write_text("not audio")
    soundfile.write(tmp_path / "blip.wav", sound("calm", 0, 0, 0.04)[0], RATE)
    extra = pandas.DataFrame([
        {"file": str(tmp_path / "text.wav"), "subject": "s0", "session": "s0", "emotion": "calm"},
        {"file": str(tmp_path / "absent.wav"), "subject": "s1", "session": "s1", "emotion": "calm"},
        {"file": str(tmp_path / "blip.wav"), "subject": "s2", "session": "s2", "emotion": "calm"},
    ])  # fmt: skip
    pandas.concat([table, extra]).to_csv(tmp_path / "m.csv", index=False)
    options = ["training.epochs=1", "protocol.select=[1]", f"data.cache={tmp_path / 'f'}"]
    with pytest.raises(DataError, match=r"text.wav|absent.wav"):
        run_protocol(configuration(tmp_path / "m.csv", tmp_path / "a", *options))
    result = run_protocol(configuration(tmp_path / "m.csv", tmp_path / "b", *options, "data.on_error=skip"))
    assert result.results["n_skipped"].tolist() == [3]
    named = {Path(f).name for f in result.skipped["file"]}
    assert named == {"text.wav", "absent.wav", "blip.wav"}
    assert result.skipped["reason"].str.len().min() > 10


@pytest.mark.parametrize("partition", [False, True])
def test_corpora_with_different_labels_train_one_model(voices, tmp_path, partition):
    table = pandas.read_csv(voices)
    table["file"] = [str(voices.parent / f) for f in table["file"]]
    one, two = table[table["subject"] < "s3"], table[table["subject"] >= "s3"]
    one.drop(columns="arousal").to_csv(tmp_path / "one.csv", index=False)
    two.drop(columns="emotion").to_csv(tmp_path / "two.csv", index=False)
    config = load_config(
        configuration(tmp_path / "one.csv", tmp_path / "run", "training.epochs=2", "protocol.select=[1]"),
        {
            "data": {
                "extra": [{"manifest": str(tmp_path / "two.csv"), "partition": partition}],
                "cache": str(tmp_path / "f"),
            },
            # Three folds of the first corpus hold two of its speakers out; of both, more.
            "protocol": {"select": [1, 2, 3]},
        },
    )
    result = run_protocol(config)
    if partition:
        tested = [data.read_split(run.folder).query("partition == 'test'") for run in result.runs]
        assert sorted(set(pandas.concat(tested)["subject"])) == sorted(set(table["subject"]))
        assert {"uar", "ccc_arousal"} <= set(result.summary["metric"])
        return
    split = data.read_split(result.runs[0].folder)
    for part in ("dev", "test"):
        assert set(split["subject"][split["partition"] == part]) < {"s0", "s1", "s2"}
    assert {"s3", "s4", "s5"} < set(split["subject"][split["partition"] == "train"])
    assert "uar" in result.results
    assert "ccc_arousal" not in result.results  # nobody in the test part has it


def test_leaks_stop_the_run_unless_allowed(voices, tmp_path):
    table = pandas.read_csv(voices)
    table["file"] = [str(voices.parent / f) for f in table["file"]]
    table["split"] = ["test" if i % 4 == 0 else "train" for i in range(len(table))]
    table.to_csv(tmp_path / "m.csv", index=False)
    options = ["protocol.kind=column", "protocol.dev=0", "training.epochs=1", f"data.cache={tmp_path / 'f'}"]
    with pytest.raises(DataError, match=r"leaks.*subject"):
        run_protocol(configuration(tmp_path / "m.csv", tmp_path / "a", *options))
    result = run_protocol(
        configuration(tmp_path / "m.csv", tmp_path / "b", *options, "protocol.allow=[subject, session]")
    )
    assert result.audit.ok
    assert [f for f in result.audit.findings if f.accepted]


def test_fit_on_everything(voices, tmp_path):
    result = fit(configuration(voices, tmp_path / "all", "protocol.kind=all", "training.epochs=2"))
    split = data.read_split(result.folder)
    assert set(split["partition"]) == {"train", "dev"}
    assert len(split) == SPEAKERS * TAKES * 2
    assert result.row["dev_uar"] > 0.4
    assert affekt.load(result.model).columns == ["p_calm", "p_angry", "arousal"]
    assert "dev_uar" in repr(result)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("protocol.select=[4]", "the protocol has 3"),
        ("system.task=trace", "labels per step"),
        ("system.heads.emotion.labels=[x, y]", "no recording has a label for head 'emotion'"),
        ("data.corpus=ravdess", "either a corpus or a manifest"),
    ],
)
def test_what_cannot_be_run_says_why(voices, tmp_path, override, words):
    with pytest.raises((DataError, InputError), match=words):
        run_protocol(configuration(voices, tmp_path, override))


def copied(voices, target, change=None):
    """The manifest of the voices with absolute paths at `target`, after `change` of its table."""
    table = pandas.read_csv(voices)
    table["file"] = [str(voices.parent / f) for f in table["file"]]
    table = table if change is None else change(table)
    table.to_csv(target, index=False)
    return target


def test_another_partition_may_not_use_the_folder(voices, tmp_path):
    manifest = copied(voices, tmp_path / "m.csv")
    cache = f"data.cache={tmp_path / 'f'}"
    options = (cache, "training.epochs=1", "protocol.select=[1]")
    run_protocol(configuration(manifest, tmp_path / "run", *options))
    copied(voices, manifest, lambda t: t.assign(subject=t["subject"].map(lambda s: f"s{5 - int(s[1])}")))
    with pytest.raises(InputError, match=r"out: .*fold_1.seed_0 was trained on other partitions"):
        run_protocol(configuration(manifest, tmp_path / "run", *options))


def test_later_calls_keep_the_folds_and_seeds_before_them(voices, tmp_path):
    options = ("training.epochs=1", "training.lr=0.001")
    run_protocol(configuration(voices, tmp_path / "run", *options, "protocol.select=[2]"))
    lines = []
    later = configuration(voices, tmp_path / "run", *options, "protocol.select=[1]", "protocol.seeds=[1]")
    result = run_protocol(later, say=lines.append)
    assert [run.row["fold"] for run in result.runs] == [1]
    assert list(zip(result.results["fold"], result.results["seed"], strict=True)) == [(1, 1), (2, 0)]
    table = pandas.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(zip(table["fold"], table["seed"], strict=True)) == {(1, 1), (2, 0)}
    assert set(result.groups["fold"]) == {1, 2}
    pooled = result.summary.set_index(["metric", "over"])
    assert np.isfinite(pooled.loc[("uar", "pooled"), ["mean", "low", "high"]].astype(float)).all()
    # A fold of other partitions is named, not mixed in.
    split = tmp_path / "run" / "fold_2" / "seed_0" / "split.csv"
    split.write_text(split.read_text().replace(",dev,", ",train,"))
    result = run_protocol(later, say=lines.append)
    assert result.results["fold"].tolist() == [1]
    assert any("fold_2" in line and "other partitions" in line for line in lines)


def test_copies_under_another_name_stop_the_run_before_training(voices, tmp_path, monkeypatch):
    (tmp_path / "copy.wav").write_bytes((voices.parent / "s0_0_calm.wav").read_bytes())

    def doubled(table):
        more = {"file": str(tmp_path / "copy.wav"), "subject": "s9", "session": "s9", "emotion": "calm"}
        return pandas.concat([table, pandas.DataFrame([more])])

    manifest = copied(voices, tmp_path / "m.csv", doubled)
    monkeypatch.setattr("affekt.training.protocol.train", None)
    tests = "protocol.tests=[[s0], [s9]]"
    options = ("protocol.kind=listed", tests, "protocol.dev=0", f"data.cache={tmp_path / 'f'}")
    with pytest.raises(DataError, match=r"leaks.*\n.*content"):
        run_protocol(configuration(manifest, tmp_path / "run", *options))


def test_names_stay_names_and_other_columns_are_scored(voices, tmp_path):
    """Classes 0 and 1, a subject NA, a class None, and heads on columns of their own with numbers."""

    def renamed(table):
        table["style"] = table["emotion"].map({"calm": 2, "angry": 3})
        table["mood"] = table["emotion"].map({"calm": "None", "angry": "NA"})
        table["emotion"] = table["style"] - 2
        table["subject"] = table["session"] = table["subject"].replace("s0", "NA")
        table["effort"] = table["arousal"]
        table.loc[table["subject"] == "s1", "style"] = None  # as floats in the file: 2.0 and 3.0
        return table

    config = configuration(
        copied(voices, tmp_path / "m.csv", renamed), tmp_path / "run", "training.epochs=1",
        "protocol.folds=2", "protocol.select=[1, 2]", f"data.cache={tmp_path / 'f'}",
        "system.heads.emotion.labels=['0', '1']", "system.heads.affect=null",
        "system.heads.style={labels: ['2', '3'], kind: categorical}",
        "system.heads.mood={labels: ['None', 'NA'], kind: categorical}",
        "system.heads.load={labels: [effort], kind: continuous}",
    )  # fmt: skip
    result = run_protocol(config)
    expected = {"uar_emotion", "uar_style", "uar_mood", "ccc_effort"}
    assert expected <= set(result.summary["metric"])
    assert set(result.groups["group"]) == {"NA", "s1", "s2", "s3", "s4", "s5"}
    pooled = result.summary[result.summary["over"] == "pooled"].set_index("metric")["n"]
    assert pooled["uar_emotion"] == SPEAKERS
    assert pooled["uar_style"] == SPEAKERS - 1  # one speaker has no such label


def test_groups_without_a_name_are_counted(voices, tmp_path):
    def anonymous(table):
        return table.drop(columns=["subject", "session"]).assign(split=["train", "test"] * (len(table) // 2))

    def partly(table):
        table["split"] = ["test" if i % 4 > 1 else "train" for i in range(len(table))]
        return table.drop(columns="session").assign(
            subject=table["subject"].replace({"s0": None, "s1": None})
        )

    options = ("protocol.kind=column", "protocol.dev=0", "training.epochs=1", f"data.cache={tmp_path / 'f'}",
               "protocol.allow=[unknown_subject, subject]", "system.heads.emotion=null")  # fmt: skip
    manifest = copied(voices, tmp_path / "a.csv", anonymous)
    result = run_protocol(configuration(manifest, tmp_path / "a", *options))
    assert result.groups["group"].tolist() == ["all"]
    assert "no interval: the test recordings are of one group" in str(result)
    manifest = copied(voices, tmp_path / "b.csv", partly)
    result = run_protocol(configuration(manifest, tmp_path / "b", *options))
    assert set(result.groups["group"]) == {"unknown", "s2", "s3", "s4", "s5"}
    assert result.groups["n"].sum() == result.results["n_test"].iloc[0]


def test_published_folds_count_what_they_lose(voices, tmp_path):
    names = [Path(name).stem for name in pandas.read_csv(voices)["file"]]
    train, test = names[8:-1], [*names[:8], "s9_0_calm"]  # one clip is not there, one recording is not named
    (tmp_path / "folds").mkdir()
    for part, clips in (("train", train), ("test", test)):
        lines = [json.dumps({"key": f"mine-{clip}", "dataset": "mine"}) for clip in clips]
        (tmp_path / "folds" / f"mine_{part}_fold_1.jsonl").write_text("\n".join(lines))
    options = ("protocol.kind=published", f"protocol.files={tmp_path / 'folds'}", "training.epochs=1",
               "data.on_error=skip")  # fmt: skip
    result = run_protocol(configuration(voices, tmp_path / "run", *options))
    assert result.results["n_skipped"].tolist() == [2]
    reasons = {Path(row.file).stem: row.reason for row in result.skipped.itertuples()}
    assert reasons == {
        "s9_0_calm": "a published fold names it, the data lack it",
        names[-1]: "no published fold names it",
    }


def test_silent_recordings_are_refused_and_cut_off_ones_named(voices, tmp_path):
    soundfile.write(tmp_path / "zero.wav", np.zeros(RATE), RATE)
    whole = (voices.parent / "s0_0_calm.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[:-2000])

    def with_both(table):
        more = [
            {"file": str(tmp_path / name), "subject": "s0", "session": "s0", "emotion": "calm"}
            for name in ("zero.wav", "cut.wav")
        ]
        return pandas.concat([table, pandas.DataFrame(more)])

    manifest = copied(voices, tmp_path / "m.csv", with_both)
    options = ("training.epochs=1", "protocol.select=[1]", f"data.cache={tmp_path / 'f'}")
    with pytest.raises(DataError, match=r"zero.wav: every sample is zero"):
        prepare(configuration(manifest, tmp_path / "a", *options))
    lines = []
    _, skipped = prepare(
        configuration(manifest, tmp_path / "b", *options, "data.on_error=skip"), say=lines.append
    )
    assert [Path(entry["file"]).name for entry in skipped] == ["zero.wav"]
    assert any("cut.wav: cut off" in line for line in lines)


def test_folds_are_checked_before_features_and_unknown_classes_are_named(voices, tmp_path):
    lines: list[str] = []
    with pytest.raises(DataError, match=r"protocol\.folds=40 needs as many subjects, there are 6"):
        run_protocol(configuration(voices, tmp_path / "a", "protocol.folds=40"), say=lines.append)
    assert not lines
    table = pandas.read_csv(voices)
    table["file"] = [str(voices.parent / f) for f in table["file"]]
    table.loc[table.index[:3], "emotion"] = "bored"
    table.to_csv(tmp_path / "m.csv", index=False)
    options = ["training.epochs=1", "protocol.select=[1]"]
    run_protocol(configuration(tmp_path / "m.csv", tmp_path / "b", *options), say=lines.append)
    assert [line for line in lines if "3 of" in line and "it has no bored" in line]


def test_a_manifest_of_ones_own_replaces_the_corpus_of_a_preset():
    config = load_config("emotale", ["data.manifest=mine.csv"])
    assert (config.data.corpus, config.data.manifest) == (None, "mine.csv")
    assert load_config("own", ["data.manifest=mine.csv"]).data.manifest == "mine.csv"
