"""Training on trials, as typed and piece by piece: tables, resuming, what is learnt, no leaks."""

# ruff: noqa: E402
from __future__ import annotations

import contextlib
import io
import json
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pandas = pytest.importorskip("pandas")
pytest.importorskip("pytorch_lightning")

import affekt
from affekt import data, metrics
from affekt.cli import main
from affekt.errors import DataError, InputError
from affekt.systems import create, export, restore
from affekt.training import list_presets, load_config, run_protocol, train
from affekt.training.config import LoopConfig
from affekt.training.loop import predict_examples
from affekt.training.scoring import figures
from affekt.training.traces import full_pass, windows_of
from affekt.training.windows import trace_targets
from checklist import row

FAST = {
    "training": {"tensorboard": False, "progress": False, "threads": 1, "lr": 5e-3, "min_lr": 1e-4,
                 "epochs": 6, "batch_size": 8, "warmup": 0, "schedule": "plateau", "plateau": 3, "clip": None,
                 "optimiser": "adam"},
    "system": {"name": "cer", "modality": "cnn", "window": {"size": 48, "hop": 24},
               "signal": {"features": 16, "source": {"kind": "matrix", "rate": 16.0},
                          "standardise": "feature", "tcn": {"channels": [12, 12], "kernel_size": 3}}},
}  # fmt: skip
LOSO = {"kind": "leave_one_group_out", "dev": 0.3, "dev_by": "row", "allow": ["subject", "session"]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Generated trials of three subjects: a folder with manifest.csv."""
    folder = tmp_path_factory.mktemp("corpus")
    data.generate(folder, seed=2, subjects=3, trials=(3, 4))
    return folder


def configuration(corpus, out, *overrides, **sections):
    source = {"manifest": str(corpus / "manifest.csv"), "cache": str(corpus / "features")}
    base = {"out": str(out), "data": source, "protocol": LOSO, **FAST, **sections}
    return load_config(base, list(overrides))


def trials_of(corpus):
    manifest = data.read_manifest(corpus / "manifest.csv")
    sources = {"eeg": data.make_source("matrix", rate=4), "cnn": data.make_source("matrix", rate=16)}
    return data.prepare_trials(manifest, sources, data.Trace(rate=4, labels=["valence"]), corpus / "own")


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """Every subject left out once, as typed."""
    out = tmp_path_factory.mktemp("runs") / "loso"
    settings = {**FAST, "data": {"manifest": str(corpus / "manifest.csv")}, "protocol": LOSO}
    (corpus / "loso.yaml").write_text(json.dumps(settings))  # which is YAML too
    text, lines = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(lines):
        code = main(
            ["train", str(corpus / "loso.yaml"), f"data.cache={corpus / 'features'}", "--out", str(out)]
        )
    assert code == 0, lines.getvalue()
    return out, text.getvalue(), lines.getvalue()


@row("zhang", 16)
def test_figures_are_of_all_trials_concatenated_and_folds_have_mean_and_sd(finished):
    out, text, _ = finished
    table = pandas.read_csv(out / "predictions.csv")
    assert set(table["mode"]) == {"window", "full"}
    results = pandas.read_csv(out / "results.csv")
    summary = pandas.read_csv(out / "summary.csv")
    for mode, part in table.groupby("mode"):
        own = {}
        for fold, steps in part.groupby("fold"):
            y, p = steps["true_valence"].to_numpy(), steps["valence"].to_numpy()
            own[fold] = metrics.ccc(p, y)
            found = results[(results["fold"] == fold) & (results["mode"] == mode)].iloc[0]
            assert found["ccc_valence"] == pytest.approx(own[fold], abs=1e-5)
            assert found["rmse_valence"] == pytest.approx(metrics.rmse(p, y), abs=1e-5)
            assert found["n_test_steps"] == len(steps)
        values = np.array(list(own.values()))
        line = summary[(summary["mode"] == mode) & (summary["metric"] == "ccc_valence")].set_index("over")
        assert line.loc["folds", "mean"] == pytest.approx(values.mean(), abs=1e-5)
        assert line.loc["folds", "sd"] == pytest.approx(values.std(ddof=1), abs=1e-5)
        pooled = metrics.ccc(part["valence"].to_numpy(), part["true_valence"].to_numpy())
        assert line.loc["pooled", "mean"] == pytest.approx(pooled, abs=1e-5)
    assert "mode window: mean of overlapping windows" in text
    assert "audit: no leak found" in text
    assert json.loads((out / "audit.json").read_text())["ok"] is True


def test_the_tables_hold_what_the_model_file_says_and_the_stream_says_the_same(finished, corpus):
    out = finished[0]
    trials = trials_of(corpus)
    names = {str(trials.manifest.path(i)): i for i in range(len(trials))}
    place = out / "fold_1" / "seed_0"
    table = pandas.read_csv(place / "predictions.csv")
    model = affekt.load(place / "model.safetensors")
    system = restore(place / "model.safetensors")
    for (file, mode), part in table.groupby(["file", "mode"]):
        i = names[file]
        assert part["step"].tolist() == list(range(trials.steps[i]))
        np.testing.assert_allclose(part["time"], part["step"] / 4)
        np.testing.assert_allclose(part["true_valence"], trials.trace(i)[:, 0], atol=1e-6)
        if mode == "full":
            rows = trials.stretch(i, "cnn")[0]
            full, stream = model.run({"cnn": rows}), model.run({"cnn": rows}, "stream", 3)
            np.testing.assert_array_equal(full.values, stream.values)
            np.testing.assert_allclose(part["valence"], full.values[: trials.steps[i], 0], atol=1e-5)
            np.testing.assert_allclose(
                part["valence"], full_pass(system, trials, i)["affect"][:, 0], atol=1e-5
            )
        else:
            windows = windows_of(system, trials, np.array([i]), trace_targets(trials, system.heads))
            np.testing.assert_allclose(
                part["valence"], predict_examples(system, windows)["affect"][0][:, 0], atol=1e-5
            )


@row("zhang", 43)
def test_statistics_come_from_the_training_trials_of_the_fold(finished, corpus, tmp_path):
    trials = trials_of(corpus)
    for fold in (1, 2, 3):
        place = finished[0] / f"fold_{fold}" / "seed_0"
        split = data.read_split(place)
        train = trials.statistics(split["row"][split["partition"] == "train"].to_numpy(), "cnn")
        stored = data.load_statistics(place)["cnn"]
        np.testing.assert_allclose(stored.mean, train.mean, rtol=1e-12)
        tensors = affekt.load(place / "model.safetensors").tensors()
        np.testing.assert_allclose(tensors["cnn_norm.mean"], train.mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(tensors["cnn_norm.scale"], 1 / train.sd, rtol=1e-5)
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    allow = ("subject", "session")
    assert data.audit(copy, allow=allow).ok, str(data.audit(copy, allow=allow))
    data.save_statistics({"cnn": trials.statistics(np.arange(len(trials)), "cnn")}, copy)
    (found,) = (f for f in data.audit(copy, allow=allow).findings if f.counts)
    assert found.kind == "statistics"
    assert "they match" in found.message
    data.save_statistics({"cnn": train}, copy)
    system = restore(copy / "model.safetensors")
    system.set_modality_statistics("cnn", train.mean + 0.5 * train.sd, train.sd)
    export(system, copy / "model.safetensors")
    (found,) = (f for f in data.audit(copy, allow=allow).findings if f.counts)
    assert "cnn_norm" in found.message


def test_a_finished_run_is_not_trained_again(finished, corpus, monkeypatch):
    monkeypatch.setattr("affekt.training.traces.train", None)
    lines = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(lines):
        words = [str(corpus / "loso.yaml"), f"data.cache={corpus / 'features'}", "--out", str(finished[0])]
        assert main(["train", *words]) == 0
    assert lines.getvalue().count("(there already)") == 3


@row("zhang", 20)
def test_a_run_that_was_killed_goes_on_to_the_same_curve(corpus, tmp_path, monkeypatch):
    from affekt.training import traces

    def one(out, **options):
        config = configuration(corpus, out, "protocol.select=[2]", "training.reload_best=true")
        run_protocol(config)
        place = out / "fold_2" / "seed_0"
        log = pandas.read_csv(place / "log.csv").drop(columns="seconds")
        return log, (place / "predictions.csv").read_text()

    whole = one(tmp_path / "whole")
    old = traces.train

    class Killed(Exception):
        pass

    def killed(*args, **options):
        old(*args, **options, stop_after=3)
        raise Killed

    monkeypatch.setattr(traces, "train", killed)
    with pytest.raises(Killed):
        one(tmp_path / "parts")
    monkeypatch.setattr(traces, "train", old)
    parts = one(tmp_path / "parts")
    pandas.testing.assert_frame_equal(whole[0], parts[0])
    assert whole[1] == parts[1]


def learnt(corpus, tmp_path, modality, rows, test, epochs, **signal):
    """A system trained on some trials of the corpus: CCC over some others, concatenated."""
    trials = trials_of(corpus)
    torch.manual_seed(0)
    options = {
        "features": trials.shape(modality)[0],
        "tcn": {"channels": [24, 24], "kernel_size": 5, "dropout": 0.0},
    }
    system = create("cer", modality=modality, window={"size": 48, "hop": 24}, signal={**options, **signal})
    targets = trace_targets(trials, system.heads)
    part = windows_of(system, trials, np.array(rows), targets, moving=True)
    loop = LoopConfig(epochs=epochs, batch_size=8, lr=5e-3, schedule="constant", warmup=0, clip=1.0,
                      patience=None, weight_decay=1e-4, tensorboard=False, progress=False,
                      threads=1)  # fmt: skip
    train(system, part, None, loop, tmp_path / f"{modality}{len(signal)}")
    scored = windows_of(system, trials, np.array(test), targets)
    return figures(predict_examples(system, scored), scored.labels, system.heads)["ccc_valence"]


@row("zhang", 5)
def test_it_learns_four_trials_by_heart_and_what_is_common_to_all(corpus, tmp_path):
    assert learnt(corpus, tmp_path, "eeg", range(4), range(4), 60) > 0.95
    # Held-out trials of subjects whose other trials trained, from the strong signal.
    assert learnt(corpus, tmp_path, "cnn", range(1, 9), [0, 9], 15) > 0.1


@row("zhang", 8)
def test_the_lstm_baseline_trains_through_the_protocol_without_a_model_file(corpus, tmp_path):
    config = configuration(
        corpus, tmp_path / "out", "protocol.select=[1]", "system.signal.encoder=lstm", "training.epochs=3"
    )
    lines = []
    result = run_protocol(config, say=lines.append)
    assert any("no model file: the encoder of cnn is an LSTM" in line for line in lines)
    assert result.runs[0].model.name == "kept.ckpt"
    assert result.audit.ok
    assert np.isfinite(result.results["ccc_valence"]).all()
    again = run_protocol(config, say=lines.append)
    assert again.runs[0].reused


def test_the_seeds_of_a_fold_together(corpus, tmp_path):
    result = run_protocol(
        configuration(
            corpus, tmp_path / "out", "protocol.select=[1]", "protocol.seeds=[0, 1]", "training.epochs=2"
        )
    )
    assert len(result.results) == 4
    assert set(result.ensemble["mode"]) == {"window", "full"}
    table = pandas.read_csv(tmp_path / "out" / "predictions.csv")
    both = table[table["mode"] == "full"].groupby(["file", "step"])[["valence", "true_valence"]].mean()
    line = result.ensemble[(result.ensemble["mode"] == "full") & (result.ensemble["over"] == "pooled")]
    found = line[line["metric"] == "ccc_valence"]["mean"].item()
    assert found == pytest.approx(metrics.ccc(both["valence"], both["true_valence"]), abs=1e-5)


@pytest.mark.parametrize("preset", ["s3_eeg", "s3_visual", "s3_lstm_baseline"])
def test_each_preset_trains_an_epoch_on_generated_trials_as_typed(corpus, tmp_path, preset, capsys):
    assert preset in list_presets()
    full = load_config(preset)
    system = create(**full.system)  # the published size builds and runs
    name, rows = system.config.modality, system._rows_width(system.config.modality)
    with torch.no_grad():
        assert system({name: torch.zeros(1, 96, rows)})["affect"].shape == (1, 96, 1)
    width, rate = {"eeg": (24, 4.0), "cnn": (16, 16.0)}[name]
    words = [f"data.manifest={corpus / 'manifest.csv'}", f"data.cache={corpus / 'features'}",
             "protocol.folds=2", "protocol.select=[1]", f"system.signal.features={width}",
             f"system.signal.source.rate={rate}",
             "system.signal.tcn.channels=[8]", "system.signal.lstm.sizes=[6,4]", "training.epochs=1",
             "training.batch_size=16", "training.tensorboard=false", "training.threads=1"]  # fmt: skip
    assert main(["train", preset, *words, "--out", str(tmp_path / "out")]) == 0
    assert "ccc_valence" in capsys.readouterr().out


def test_generate_and_prepare_as_typed(tmp_path, capsys):
    assert main(["generate", str(tmp_path / "g"), "--seed", "5", "--subjects", "2"]) == 0
    assert "trials of 2 subjects" in capsys.readouterr().out
    words = [f"data.manifest={tmp_path / 'g' / 'manifest.csv'}", "system.signal.features=24"]
    assert main(["prepare", "s3_eeg", *words, "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "trials of 2 subjects" in out
    assert "valence: " in out
    assert "0 trials skipped" in out


@pytest.mark.parametrize(
    ("overrides", "error", "wanted"),
    [
        (["data.trace.rate=8"], InputError, "system.rate must be the rate of the labels, 8 Hz"),
        (["floor.features=egemaps"], InputError, "a floor is for recordings"),
        (
            ["init.model=shipped"],
            InputError,
            "init.model: speech-small is a model of the system speech, got cer",
        ),
        (["system.heads.affect.labels=[arousal]"], DataError, "no column arousal; it has valence"),
        (["system.signal.features=99"], DataError, "expected 99 features"),
        (["system.signal.source.rate=15"], InputError, "15 rows per second are no whole multiple of 4"),
        (
            ["protocol.kind=rows", "protocol.dev=0"],
            InputError,
            "protocol.dev must be a share or number of rows",
        ),
        (["protocol.kind=group_kfold"], InputError, "protocol.dev_by=row goes with"),
        (["data.trace.kind=matrix"], InputError, "unknown option 'labels' of the source 'matrix'"),
        (["protocol.allow=[]"], DataError, "(?s)leaks.*protocol.allow"),
    ],
)
def test_what_does_not_fit_is_said_before_any_training(corpus, tmp_path, overrides, error, wanted):
    with pytest.raises(error, match=wanted):
        run_protocol(configuration(corpus, tmp_path / "out", f"data.cache={tmp_path / 'f'}", *overrides))
