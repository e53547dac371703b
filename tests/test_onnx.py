"""ONNX export of models over a window: the values of the core, in onnxruntime."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import affekt
import reference_model
from affekt import InputError, MissingExtraError, weights
from affekt._native import Model
from affekt.cli import main
from affekt.modelfile import model_bytes
from fused_model import fused
from small_model import small_model

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def session(path):
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def voices(samples, rate, count=3):
    draw = np.random.default_rng(5)
    made = [
        0.1 * draw.standard_normal(samples) * (1 + np.sin(np.arange(samples) / 900 + i)) for i in range(count)
    ]
    return np.stack(made).astype(np.float32)


def check(model, path, seconds):
    affekt.export_onnx(model, path, seconds=seconds)
    graph = session(path)
    (given,) = graph.get_inputs()
    assert given.name == model.inputs[0]["name"]
    batch = voices(given.shape[1], model.sample_rate)
    found = dict(
        zip([o.name for o in graph.get_outputs()], graph.run(None, {given.name: batch}), strict=True)
    )
    assert list(found) == [entry["name"] for entry in model.outputs]
    wanted = [model.run(samples, adapt=False).values for samples in batch]
    for entry in model.outputs:
        columns = slice(entry["offset"], entry["offset"] + len(entry["labels"]))
        got = found[entry["name"]]
        for row, values in zip(got, wanted, strict=True):
            np.testing.assert_allclose(
                row, values[:, columns] if row.ndim == 2 else values[-1, columns], atol=1e-4
            )
    return graph


@pytest.mark.parametrize("seconds", [0.5, 1.234])
@pytest.mark.parametrize("pool", [True, False])
def test_a_window_gives_the_values_of_the_core(tmp_path, pool, seconds):
    model = affekt.load(small_model(tmp_path / "small.safetensors", pool=pool))
    graph = check(model, tmp_path / "small.onnx", seconds)
    about = json.loads(graph.get_modelmeta().custom_metadata_map["affekt"])
    assert about["model"] == model.hash
    assert about["sample_rate"] == 16000
    assert [entry["labels"] for entry in about["outputs"]] == [entry["labels"] for entry in model.outputs]


def test_the_command_writes_the_same_file(tmp_path, monkeypatch, capsys):
    """From a model file, without torch."""
    model = small_model(tmp_path / "model.safetensors")
    wanted = affekt.export_onnx(model, tmp_path / "wanted.onnx", seconds=0.5).read_bytes()
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "affekt.systems", None)
        assert main(["export", str(tmp_path), "--out", str(tmp_path / "a.onnx"), "--seconds", "0.5"]) == 0
    assert str(tmp_path / "a.onnx") in capsys.readouterr().out
    assert (tmp_path / "a.onnx").read_bytes() == wanted
    assert main(["export", str(model), "--out", str(tmp_path / "b.onnx")]) == 0
    graph = session(tmp_path / "b.onnx")
    assert graph.get_inputs()[0].shape[1] == round(affekt.load(model).timing["context_s"] * 16000)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "a.safetensors", "--seconds", "1"], "--seconds: belongs to an ONNX file"),
        (["--out", "a.onnx", "--seconds", "0"], "seconds must be a positive number"),
        (["--out", "a.onnx", "--seconds", "0.001"], "too short"),
        (["--out", "none/a.onnx"], "none/a.onnx"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, monkeypatch, words, message, capsys):
    small_model(tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "model.safetensors", *words]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("kind", ["attention", "mean", "statistics", "attention_statistics"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "prelu"])
def test_kinds_of_pools_and_rectifiers(tmp_path, kind, activation):
    card, tensors = reference_model.utterance(pool=kind, activation=activation)
    check(Model.from_bytes(model_bytes(card, tensors)), tmp_path / "model.onnx", 0.8)


@pytest.mark.parametrize("name", weights.list_models())
def test_shipped_models(tmp_path, name):
    check(affekt.load(name), tmp_path / "model.onnx", None)


def test_what_looks_back_at_a_pool_is_refused(tmp_path):
    """A window has one row of it."""
    card, tensors = reference_model.utterance(pool="mean")
    (pool,) = (node for node in card["nodes"] if node["type"] == "pool")
    nodes = []
    for node in card["nodes"]:
        behind = pool["name"] in node["inputs"]
        nodes.append({**node, "inputs": ["again"]} if behind else node)
        if node is pool:
            nodes.append({**pool, "name": "again", "inputs": [pool["name"]]})
    outputs = [{**o, "node": "again"} if o["node"] == pool["name"] else o for o in card["outputs"]]
    model = Model.from_bytes(model_bytes({**card, "nodes": nodes, "outputs": outputs}, tensors))
    with pytest.raises(InputError, match="'again': ONNX export does not know the type 'pool' behind a pool"):
        affekt.export_onnx(model, tmp_path / "a.onnx", seconds=0.8)


def test_outputs_of_any_name(tmp_path):
    card, tensors = reference_model.utterance()
    names = ["constant_0", "conv_3", "mul_4"]
    outputs = [{**o, "name": name} for o, name in zip(card["outputs"], names, strict=False)]
    check(Model.from_bytes(model_bytes({**card, "outputs": outputs}, tensors)), tmp_path / "a.onnx", 0.8)
    outputs[0]["name"] = card["inputs"][0]["name"]
    model = Model.from_bytes(model_bytes({**card, "outputs": outputs}, tensors))
    with pytest.raises(InputError, match="two names for input and output 'audio'"):
        affekt.export_onnx(model, tmp_path / "b.onnx", seconds=0.8)


def test_what_cannot_be_exported(tmp_path, monkeypatch):
    model = affekt.load(small_model(tmp_path / "small.safetensors"))
    with pytest.raises(InputError, match=r"seconds: .* are too short for a row of node 'mel'"):
        affekt.export_onnx(model, tmp_path / "a.onnx", seconds=0.01)
    with pytest.raises(InputError, match="seconds must be a positive number"):
        affekt.export_onnx(model, tmp_path / "a.onnx", seconds=-1)
    several = Model.from_bytes(model_bytes(*fused()))
    with pytest.raises(InputError, match="single audio signal, this one takes audio, signal, rows"):
        affekt.export_onnx(several, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"affekt\[onnx\]"):
        affekt.export_onnx(model, tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
