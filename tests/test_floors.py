"""Classical floors: no leak from test speakers, figures that others reproduce, clear refusals."""

# ruff: noqa: E402
from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
soundfile = pytest.importorskip("soundfile")
pytest.importorskip("pytorch_lightning")
pytest.importorskip("sklearn")

from affekt import data, metrics
from affekt.errors import DataError, InputError, MissingExtraError
from affekt.training import floors, load_config, run_protocol
from sounds import tone

OPENSMILE = floors.Functionals
RATE = 16000
PITCH = {"calm": 200, "angry": 500, "sad": 320}


class Bands:
    """Eight numbers per recording, in place of openSMILE's functionals."""

    def __init__(self, name: str, sample_rate: float) -> None:
        self.options = {"set": name, "sample_rate": sample_rate, "bands": 8}

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        power = np.abs(np.fft.rfft(samples, 4096)[: 8 * 60].reshape(8, 60)) ** 2
        return np.log10(power.mean(1) + 1e-6).astype(np.float32)[None]


@pytest.fixture(scope="module", autouse=True)
def _injected():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(floors, "Functionals", Bands)
        yield


def voice(rng, emotion, speaker):
    n = int(RATE * 0.3)
    level = {"calm": 0.05, "angry": 0.4, "sad": 0.1}[emotion] * rng.uniform(0.5, 2.0)
    pitch = PITCH[emotion] * (1 + 0.06 * speaker) * rng.uniform(0.8, 1.25)
    wave = level * np.sin(2 * np.pi * pitch * np.arange(n) / RATE)
    return (wave + 0.01 * rng.normal(size=n)).astype(np.float32), float(np.clip(np.log10(level) + 0.8, -1, 1))


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """Manifest of generated recordings of six speakers, three emotions, arousal on most rows."""
    folder = tmp_path_factory.mktemp("voices")
    rng = np.random.default_rng(3)
    rows = []
    for speaker in range(6):
        for take in range(6):
            for emotion in PITCH:
                samples, arousal = voice(rng, emotion, speaker)
                name = f"s{speaker}_{take}_{emotion}.wav"
                soundfile.write(folder / name, samples, RATE)
                rows.append({"file": name, "subject": f"s{speaker}", "emotion": emotion,
                             "arousal": arousal if take else None})  # fmt: skip
    pandas.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def configuration(manifest, out, *overrides):
    return load_config(
        {
            "out": str(out),
            "data": {"manifest": str(manifest)},
            "protocol": {"kind": "listed", "tests": [["s0", "s1"], ["s2", "s3"], ["s4", "s5"]], "dev": 1},
            "system": {
                "name": "speech",
                "front_end": {"n_mels": 12, "hop_length": 320},
                "tcn": {"channels": [4]},
                "pool": {"window": 10, "hop": 2},
                "heads": {"emotion": {"labels": list(PITCH)}, "affect": {"labels": ["arousal"]}},
            },
            "training": {"epochs": 1, "tensorboard": False, "progress": False},
            "floor": {"features": "egemaps", "only": True, "inner_folds": 2},
        },
        list(overrides),
    )


@pytest.fixture(scope="module")
def finished(voices, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "floor"
    return run_protocol(configuration(voices, out)), out


def moved(voices, folder):
    """A copy of the recordings and their manifest."""
    shutil.copytree(voices.parent, folder)
    return folder / "manifest.csv"


def estimates(result, condition, speaker=None):
    """Estimates of one condition by file name."""
    table = result.floor.predictions
    table = table[table["condition"] == condition]
    table = table if speaker is None else table[table["subject"] == speaker]
    return table.assign(file=table["file"].map(lambda f: Path(f).name)).set_index("file")[
        ["p_calm", "p_angry", "p_sad", "arousal"]
    ]


def test_tables(finished):
    result, out = finished
    floor = result.floor
    assert not result.runs
    assert not list(out.glob("fold_*"))
    assert floor.audit.ok
    assert json.loads((out / "floor_audit.json").read_text())["ok"]
    assert {c["where"] for c in floor.audit.checked} == {f"floors/fold_{k}" for k in (1, 2, 3)}
    assert all("statistics" in c["checks"] for c in floor.audit.checked)
    table = pandas.read_csv(out / "floor_results.csv")
    assert table[["fold", "condition"]].to_numpy().tolist() == [
        [fold, condition] for fold in (1, 2, 3) for condition in ("raw", "whole")
    ]
    assert set(table["model"]) == {"floor egemaps"}
    assert set(table["n_train"]) == {72}  # the development speaker trains
    assert table["uar"].mean() > 0.5
    assert table["ccc_arousal"].mean() > 0.5
    groups = pandas.read_csv(out / "floor_groups.csv")
    assert sorted(groups["group"][groups["condition"] == "raw"]) == [f"s{k}" for k in range(6)]
    text = str(result)
    assert "raw: standardised on the training recordings" in text
    assert "(transductive)" in text
    assert "floor egemaps: 3 fold(s), 0 recording(s) left out" in text


def test_figures_are_the_metrics_of_the_predictions(finished):
    _, out = finished
    table = pandas.read_csv(out / "floor_predictions.csv")
    assert len(table) == 6 * 6 * 3 * 2
    summary = pandas.read_csv(out / "floor_summary.csv").set_index(["condition", "metric", "over"])
    for condition, part in table.groupby("condition"):
        chances = part[["p_calm", "p_angry", "p_sad"]]
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
        guess = chances.idxmax(axis=1).str.removeprefix("p_")
        pooled = summary.loc[(condition, "uar", "pooled")]
        assert pooled["mean"] == pytest.approx(metrics.uar(guess, part["true_emotion"]), abs=1e-5)
        assert pooled["low"] <= pooled["mean"] <= pooled["high"]
        assert pooled["n"] == 6
        known = part["true_arousal"].notna()
        expected = metrics.ccc(part["arousal"][known], part["true_arousal"][known])
        assert summary.loc[(condition, "ccc_arousal", "pooled")]["mean"] == pytest.approx(expected, abs=1e-4)
        assert part["arousal"].abs().max() <= 1


def test_scikit_learn_alone_gives_the_same(finished):
    """The choice of C and alpha and the estimates, from a pipeline that shares no code with the floor."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import PredefinedSplit
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    result, out = finished
    parts = pandas.read_csv(out / "floors" / "fold_1" / "partitions.csv")
    store = data.FeatureStore(out / "features_egemaps")
    x = np.concatenate(list(store)).astype(float)
    labels = store.manifest.table
    train, test = (parts["row"][parts["partition"] == name].to_numpy() for name in ("train", "test"))
    scaler = StandardScaler().fit(x[train])
    inner = np.zeros(len(train), int)
    for k, fold in enumerate(data.group_kfold(labels["subject"].iloc[train].to_numpy(), 2)):
        inner[fold.test] = k
    scores = {}
    for c in (0.3, 1.0, 3.0, 10.0, 30.0):
        held = np.empty(len(train), object)
        for a, b in PredefinedSplit(inner).split():
            fit = SVC(C=c, class_weight="balanced").fit(
                scaler.transform(x[train[a]]), labels["emotion"].iloc[train[a]]
            )
            order = [list(fit.classes_).index(name) for name in PITCH]
            best = fit.decision_function(scaler.transform(x[train[b]]))[:, order].argmax(1)
            held[b] = np.array(list(PITCH))[best]
        scores[c] = metrics.uar(held.astype(str), labels["emotion"].iloc[train].to_numpy().astype(str))
    c = max(scores, key=scores.__getitem__)
    chosen = result.floor.results.iloc[0]["chosen"]
    assert chosen.startswith(f"C {c:g},")
    pipe = make_pipeline(StandardScaler(), SVC(C=c, class_weight="balanced", break_ties=True))
    expected = pipe.fit(x[train], labels["emotion"].iloc[train]).predict(x[test])
    ours = result.floor.predictions.query("fold == 1 and condition == 'raw'")
    guess = ours[["p_calm", "p_angry", "p_sad"]].idxmax(axis=1).str.removeprefix("p_")
    assert guess.tolist() == list(expected)
    y = labels["arousal"].iloc[train].to_numpy(float)
    known = np.isfinite(y)
    alpha = float(chosen.rpartition(" ")[2])
    line = make_pipeline(scaler, Ridge(alpha=alpha))
    np.testing.assert_allclose(
        ours["arousal"], np.clip(line.fit(x[train[known]], y[known]).predict(x[test]), -1, 1), atol=0.02
    )


def test_test_recordings_do_not_reach_each_other_but_by_their_speaker(voices, finished, tmp_path):
    before, _ = finished
    manifest = moved(voices, tmp_path / "voices")
    changed = [f"s0_{take}_{emotion}.wav" for take in (0, 1) for emotion in PITCH]
    for name in changed:  # other sounds in two takes of one test speaker of fold 1
        soundfile.write(manifest.parent / name, tone(0.3, RATE) * 0.9, RATE)
    table = pandas.read_csv(manifest)
    table["emotion"] = np.where(table["subject"] == "s1", "calm", table["emotion"])  # and other labels
    table.to_csv(manifest, index=False)
    after = run_protocol(configuration(manifest, tmp_path / "run", "protocol.select=[1]"))
    for condition in floors.CONDITIONS:  # another test speaker: the same bits
        pandas.testing.assert_frame_equal(
            estimates(before, condition, "s1"), estimates(after, condition, "s1"), check_exact=True
        )
    for condition, same in (("raw", True), ("whole", False)):
        a, b = (estimates(r, condition, "s0").drop(index=changed) for r in (before, after))
        assert len(a) == 12
        assert np.array_equal(a, b) == same
    # The normalisation of the training part knows nothing of them either.
    one, two = (data.Statistics.load(Path(r.folder) / "floors" / "fold_1") for r in (before, after))
    np.testing.assert_array_equal(one.mean, two.mean)
    np.testing.assert_array_equal(one.sd, two.sd)


def test_z_scores_are_per_speaker_and_side(rng):
    values = rng.normal(size=(9, 2)) * [1, 5] + 3
    values[:, 1] = np.where(np.arange(9) < 3, 7.0, values[:, 1])  # does not vary in the first speaker
    speakers = np.repeat(["a", "b", "c"], 3)
    found = floors._by_speaker(values, speakers)
    for name in "abc":
        part = found[speakers == name]
        np.testing.assert_allclose(part.mean(0), 0, atol=1e-12)
        np.testing.assert_allclose(part.std(0), [1, 0 if name == "a" else 1], atol=1e-12)


def test_folds_that_are_there_are_not_computed_again(voices, tmp_path, monkeypatch):
    manifest = moved(voices, tmp_path / "voices")
    out = tmp_path / "run"
    run_protocol(configuration(manifest, out, "protocol.select=[2]"))
    real, computed, lines = floors._estimates, [], []

    def watched(*args):
        computed.append(1)
        return real(*args)

    monkeypatch.setattr(floors, "_estimates", watched)
    first = run_protocol(configuration(manifest, out), say=lines.append)
    assert len(computed) == 2 * 2
    assert sum("there already" in line for line in lines) == 2
    again = run_protocol(configuration(manifest, out))
    assert len(computed) == 4
    # Folds that a call does not ask for stay in the tables, as long as they are still right.
    part = run_protocol(configuration(manifest, out, "protocol.select=[3]"))
    assert part.floor.results["fold"].tolist() == [1, 1, 2, 2, 3, 3]
    pandas.testing.assert_frame_equal(first.floor.summary, again.floor.summary)
    table = pandas.read_csv(manifest)
    table.loc[table["file"] == "s5_0_sad.wav", "emotion"] = "calm"  # trains two folds, tests the third
    table.to_csv(manifest, index=False)
    part = run_protocol(configuration(manifest, out, "protocol.select=[3]"))
    assert part.floor.results["fold"].tolist() == [3, 3]
    run_protocol(configuration(manifest, out))
    assert len(computed) == 4 + 3 * 2


def test_several_processes_give_the_same(voices, finished, tmp_path):
    whole, _ = finished
    spread = run_protocol(configuration(voices, tmp_path / "run", "protocol.jobs=2"))
    pandas.testing.assert_frame_equal(whole.floor.summary, spread.floor.summary)
    pandas.testing.assert_frame_equal(whole.floor.results, spread.floor.results)


def test_the_floor_of_a_run_leaves_its_training_alone(voices, tmp_path):
    options = ("floor.only=false", "protocol.select=[1]")
    with_floor = run_protocol(configuration(voices, tmp_path / "a", *options))
    assert len(with_floor.runs) == 1
    assert {"summary.csv", "floor_summary.csv"} <= {p.name for p in (tmp_path / "a").iterdir()}
    assert data.audit(tmp_path / "a").ok
    without = run_protocol(configuration(voices, tmp_path / "b", *options, "floor.features=none"))
    assert without.floor is None
    figures = ["uar", "ccc_arousal", "dev_score"]
    assert without.results[figures].equals(with_floor.results[figures])
    tested = [
        set(t["file"])
        for t in (with_floor.floor.predictions, pandas.read_csv(tmp_path / "a" / "predictions.csv"))
    ]
    assert tested[0] == tested[1]
    later = run_protocol(configuration(voices, tmp_path / "b", *options))  # a floor may come later
    assert later.runs[0].reused
    assert str(later).index("floor egemaps") > str(later).index("over all test recordings")


def test_a_recording_without_functionals_is_counted(voices, tmp_path, monkeypatch):
    class Picky(Bands):
        def __call__(self, samples):
            if len(samples) < 0.25 * RATE:
                raise DataError("too short for the functionals")
            return super().__call__(samples)

    monkeypatch.setattr(floors, "Functionals", Picky)
    manifest = moved(voices, tmp_path / "voices")
    for name, pitch in {"s0_1_calm.wav": 200, "s4_1_calm.wav": 300}.items():  # one tests, one trains
        soundfile.write(manifest.parent / name, tone(0.2, RATE, pitch), RATE)
    with pytest.raises(DataError, match="too short for the functionals"):
        run_protocol(configuration(manifest, tmp_path / "run", "protocol.select=[1]"))
    options = ("protocol.select=[1]", "data.on_error=skip")
    with pytest.warns(UserWarning, match="left out 2 of 108"):
        floor = run_protocol(configuration(manifest, tmp_path / "run", *options)).floor
    assert set(floor.results["n_test"]) == {35}
    assert set(floor.results["n_test_failed"]) == {1}
    assert set(floor.results["n_train"]) == {71}
    assert len(floor.skipped) == 2


def test_a_class_that_the_training_speakers_lack_gets_the_lowest_probability():
    x = np.array([0.0, 0.1, 1.0, 1.1])
    kernel = np.exp(-((x[:, None] - x) ** 2))
    scores = floors._svm(1.0, kernel, np.array([0, 0, 2, 2]), kernel, 3)
    assert (scores.argmin(1) == 1).all()
    assert scores.argmax(1).tolist() == [0, 0, 2, 2]
    alone = floors._svm(1.0, kernel, np.array([2, 2, 2, 2]), kernel, 3)
    assert (alone.argmax(1) == 2).all()
    assert np.isfinite(alone).all()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["floor.features=mfcc"], "floor.features must be one of none, egemaps, compare, got 'mfcc'"),
        (["floor.features=none"], "floor.only needs floor.features"),
        (["floor.c=[]"], "floor.c must list numbers above 0"),
        (["floor.alpha=[0]"], r"floor.alpha must list numbers above 0, got \[0.0\]"),
        (["floor.inner_folds=1"], "floor.inner_folds must be at least 2"),
        (["floor.feature=egemaps"], "did you mean 'floor.features'"),
    ],
)
def test_options_that_cannot_be(voices, tmp_path, overrides, words):
    with pytest.raises(InputError, match=words):
        configuration(voices, tmp_path / "run", *overrides)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["protocol.kind=all"], "no fold has a test part for a floor"),
        (["protocol.tests=[[s0, s1, s2, s3, s4]]", "protocol.dev=0"], "two are needed, there is 1"),
    ],
)
def test_partitions_that_hold_no_floor(voices, tmp_path, overrides, words):
    with pytest.raises(DataError, match=words):
        run_protocol(configuration(voices, tmp_path / "run", *overrides))


def test_without_opensmile_the_run_says_what_to_install_before_it_trains(voices, tmp_path, monkeypatch):
    monkeypatch.setattr(floors, "Functionals", OPENSMILE)
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(MissingExtraError, match=r"floor.features.*pip install 'affekt\[floors\]'"):
        run_protocol(configuration(voices, tmp_path / "run", "floor.only=false"))
    assert not list((tmp_path / "run").glob("fold_*"))


def test_functionals_are_those_of_opensmile():
    opensmile = pytest.importorskip("opensmile")
    functionals = OPENSMILE("egemaps", RATE)
    samples = tone(1.0, RATE)
    found = functionals(samples)
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    np.testing.assert_array_equal(found, smile.process_signal(samples, RATE).to_numpy(np.float32))
    assert found.shape == (1, 88)
    # Full scale is limited, where 16 bit would wrap around.
    loud = np.clip(4 * samples / np.abs(samples).max(), -1, 1)
    np.testing.assert_allclose(functionals(loud), functionals(loud * (1 - 2.0**-15)), rtol=1e-3, atol=1e-3)
    with (
        pytest.raises(DataError, match=r"0.010 s are too short for the functionals of eGeMAPSv02"),
        pytest.warns(UserWarning, match="too short"),
    ):
        functionals(samples[:160])
    with pytest.raises(InputError, match=r"floor.features must be one of egemaps, compare, got 'x'"):
        OPENSMILE("x", RATE)
