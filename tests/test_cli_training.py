"""From a table of recordings to a model file, as typed: prepare, train, audit, export, evaluate, predict."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_lightning")
pytest.importorskip("matplotlib")
pandas = pytest.importorskip("pandas")
soundfile = pytest.importorskip("soundfile")

import affekt  # noqa: E402
from affekt.cli import main  # noqa: E402

CONFIG = """
name: tiny
out: runs/tiny
data: {manifest: labels.csv, on_error: skip}
protocol: {kind: group_kfold, folds: 2, dev: 1, seeds: [0]}
system:
  name: speech
  front_end: {n_mels: 8, hop_length: 320}
  tcn: {channels: [4]}
  pool: {window: 20, hop: 2}
  heads: {emotion: {labels: [calm, angry]}, affect: {labels: [arousal]}}
training: {epochs: 2, batch_size: 8, tensorboard: false, threads: 1}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a configuration, a table of 4 speakers, and a recording that is none."""
    folder = tmp_path_factory.mktemp("place")
    rows = []
    for speaker in range(4):
        for take, emotion in enumerate(["calm", "angry", "calm", "angry"]):
            draw = np.random.default_rng([speaker, take])
            level = 0.4 if emotion == "angry" else 0.03
            name = f"{speaker}-{take}.wav"
            soundfile.write(folder / name, level * draw.uniform(-1, 1, 9600), 16000)
            rows.append(
                {"file": name, "subject": f"s{speaker}", "emotion": emotion, "arousal": 2 * level - 0.5}
            )
    (folder / "broken.wav").write_text("not a sound")
    rows.append({"file": "broken.wav", "subject": "s0", "emotion": "calm", "arousal": 0.0})
    pandas.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    (folder / "tiny.yaml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def run(place):
    """A finished run, and what its two commands printed."""
    import contextlib
    import io
    import os

    before = Path.cwd()
    os.chdir(place)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            codes = [main(["prepare", "tiny.yaml"]), main(["train", "tiny.yaml"])]
    finally:
        os.chdir(before)
    assert codes == [0, 0], err.getvalue()
    return place / "runs/tiny", out.getvalue(), err.getvalue()


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_prepare_counts_recordings_labels_and_what_it_skipped(run):
    out = run[1]
    assert "16 recordings of 4 subjects" in out
    assert "emotion: angry 8, calm 8" in out
    assert "arousal: 16 labels, mean -0.07" in out
    assert "broken.wav" in out
    assert "1 recordings skipped" in out


def test_train_leaves_tables_pictures_and_model_files(run):
    folder = run[0]
    for name in ("config.yaml", "results.csv", "summary.csv", "predictions.csv", "audit.json"):
        assert (folder / name).stat().st_size > 0
    for name in ("curves.png", "confusion.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    assert len(pandas.read_csv(folder / "predictions.csv")) == 16
    assert len(list(folder.glob("fold_*/seed_0/model.safetensors"))) == 2
    assert "no leak found" in run[1]
    assert "curves.png" in run[2]


def test_training_again_repeats_nothing(run, here, capsys):
    stamps = {path: path.stat().st_mtime_ns for path in run[0].glob("fold_*/seed_0/model.safetensors")}
    assert main(["train", "tiny.yaml"]) == 0
    assert capsys.readouterr().err.count("there already") == 2
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_another_configuration_does_not_overwrite_a_run(run, here, capsys):
    assert main(["train", "tiny.yaml", "training.epochs=3"]) == 2
    assert "differs in training.epochs" in capsys.readouterr().err


def test_a_corrected_mistake_may_use_the_folder_again(here, capsys):
    words = ["--out", "runs/second", "training.epochs=1", "protocol.select=[1]"]
    assert main(["train", "tiny.yaml", "data.manifest=labls.csv", *words]) == 2
    assert "labls.csv: no such manifest" in capsys.readouterr().err
    assert main(["train", "tiny.yaml", *words]) == 0


def test_the_run_passes_its_audit(run, capsys):
    assert main(["audit", str(run[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]


@pytest.mark.parametrize(
    "source", ["fold_1/seed_0", "fold_1/seed_0/kept.ckpt", "fold_1/seed_0/model.safetensors"]
)
def test_export_gives_the_same_estimates_under_a_new_name(run, tmp_path, source, capsys):
    words = ["--out", str(tmp_path / "new.safetensors"), "--name", "mine", "--info", "licence=my own terms"]
    assert main(["export", str(run[0] / source), *words]) == 0
    old = affekt.load(run[0] / "fold_1/seed_0/model.safetensors")
    new = affekt.load(tmp_path / "new.safetensors")
    assert new.card["name"] == "mine"
    assert new.card["info"]["licence"] == "my own terms"
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, 12_000).astype(np.float32)
    np.testing.assert_array_equal(old.run(samples)[1], new.run(samples)[1])
    capsys.readouterr()
    assert main(["info", str(tmp_path / "new.safetensors")]) == 0
    assert "licence    my own terms" in capsys.readouterr().out


@pytest.mark.parametrize("source", ["kept.ckpt", "model.safetensors"])
def test_what_was_trained_becomes_an_onnx_graph_under_a_new_name(run, tmp_path, source):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    path = tmp_path / "new.onnx"
    words = ["--out", str(path), "--seconds", "0.6", "--name", "mine", "--info", "licence=my own terms"]
    assert main(["export", str(run[0] / "fold_1/seed_0" / source), *words]) == 0
    graph = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = graph.get_modelmeta()
    assert about.graph_name == "mine"
    assert json.loads(about.custom_metadata_map["affekt"])["licence"] == "my own terms"
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, graph.get_inputs()[0].shape[1]).astype(np.float32)
    found = np.concatenate([x[0].reshape(-1) for x in graph.run(None, {"audio": samples[None]})])
    model = affekt.load(run[0] / "fold_1/seed_0/model.safetensors")
    np.testing.assert_allclose(found, model.run(samples, adapt=False).values[-1], atol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere", "--out", "m.safetensors"], "nowhere"),
        ([".", "--out", "m.safetensors"], "expected one of model.safetensors"),
        (["labels.csv", "--out", "m.safetensors"], "labels.csv"),
        (
            ["runs/tiny/fold_1/seed_0", "--out", "m.safetensors", "--info", "licence"],
            "--info: expected KEY=TEXT",
        ),
        (["runs/tiny/fold_1/seed_0", "--out", "no/folder/m.safetensors"], "no/folder"),
    ],
)
def test_export_refuses_in_one_line(run, here, words, message, capsys):
    assert main(["export", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_evaluate_on_the_same_table_skips_the_broken_file(run, here, capsys):
    words = ["--model", str(run[0] / "fold_1/seed_0/model.safetensors"), "--on-error", "skip"]
    assert main(["evaluate", "labels.csv", *words]) == 0
    text = capsys.readouterr().out
    assert "(n = 16, concatenated)" in text
    assert "1 of 17 recordings could not be used" in text


def test_evaluate_reads_a_table_in_other_words(run, here, tmp_path, capsys):
    table = pandas.read_csv("labels.csv").iloc[:16]
    table["loud"] = table.pop("arousal") * 4 + 5
    table = table.rename(columns={"file": "wav"}).replace({"angry": "Wut"})
    table.to_csv(tmp_path / "other.csv", index=False)
    model = ["--model", str(run[0] / "fold_1/seed_0/model.safetensors")]
    assert main(["evaluate", "labels.csv", *model, "--on-error", "skip"]) == 0
    expected = capsys.readouterr().out
    words = [
        "--root",
        str(here),
        "--column",
        "file=wav",
        "--column",
        "arousal=loud",
        "--scale",
        "arousal=1,9",
    ]
    assert main(["evaluate", str(tmp_path / "other.csv"), *model, *words, "--emotion", "Wut=angry"]) == 0
    # The same figures and notes; the first table has a line more, of what was skipped.
    assert set(capsys.readouterr().out.splitlines()) <= set(expected.splitlines())
    for wrong in (["--scale", "arousal=1"], ["--column", "file"], ["--emotion", "=x"]):
        assert main(["evaluate", str(tmp_path / "other.csv"), *model, *wrong]) == 2
        assert f"{wrong[0]}: expected" in capsys.readouterr().err


def test_missing_fold_files_are_said_before_any_work(here, capsys):
    words = ["protocol.kind=published", "protocol.files=folds", "--out", "runs/published"]
    assert main(["train", "tiny.yaml", *words]) == 2
    err = capsys.readouterr().err
    assert "protocol.files: no folder folds with the published folds" in err
    assert "protocol.kind=group_kfold" in err
    assert err.count("\n") == 1


def test_list_and_dry_run_train_nothing(here, capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ravdess ") and "8 acted emotions" in line for line in lines)
    assert max(map(len, lines)) <= 100
    words = ["tiny.yaml", "--dry-run", "training.epochs=7", "--out", "runs/dry", "protocol.seeds=[3,4]"]
    assert main(["train", *words]) == 0
    text = capsys.readouterr().out
    assert "epochs: 7" in text
    assert "out: runs/dry" in text
    assert not (here / "runs/dry").exists()
    # What it prints is a configuration itself.
    (here / "resolved.yaml").write_text(text)
    assert main(["train", "resolved.yaml", "--dry-run"]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "CONFIG is missing"),
        (["nosuch"], "nosuch"),
        (["tiny.yaml", "training.epoch=3"], "did you mean 'training.epochs'"),
        (["tiny.yaml", "training.epochs=many"], "training.epochs must be an integer"),
        (["tiny.yaml", "training.epochs"], "key=value"),
        (["ravdess"], "data.root"),
    ],
)
def test_train_refuses_a_wrong_configuration_in_one_line(here, words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    assert main(["train", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
