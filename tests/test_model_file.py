"""Model files: the writer's bytes, and a reader that refuses whatever is not sound, with a reason."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest

import affekt
import reference_model
from affekt import InputError, ModelFileError, _core
from affekt._native import Model
from affekt.modelfile import canonical_json, model_bytes, write_model
from reference_model import Card, Tensors

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def parts() -> tuple[Card, Tensors]:
    return reference_model.utterance()


def take_apart(content: bytes) -> tuple[dict, str, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    return header, header["__metadata__"]["affekt.card"], content[8 + length :]


def put_together(header: dict, card: str, data: bytes) -> bytes:
    digest = hashlib.sha256(card.encode("utf-8", "surrogatepass") + data).hexdigest()
    header = {**header, "__metadata__": {"affekt.card": card, "affekt.sha256": digest}}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


# The writer ------------------------------------------------------------------------------------------------


def test_bytes_follow_the_format(parts):
    card, tensors = parts
    content = model_bytes(card, tensors)
    header, text, data = take_apart(content)
    assert set(header["__metadata__"]) == {"affekt.card", "affekt.sha256"}
    assert header["__metadata__"]["affekt.sha256"] == hashlib.sha256(text.encode() + data).hexdigest()
    stored = json.loads(text)
    assert text == json.dumps(stored, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert stored["schema"] == 1
    assert {k: v for k, v in stored.items() if k not in ("schema", "tensors")} == card
    assert (len(content) - len(data)) % 8 == 0
    for name, tensor in tensors.items():
        entry = header[name]
        assert stored["tensors"][name] == {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "offsets": entry["data_offsets"],
        }
        begin, end = entry["data_offsets"]
        np.testing.assert_array_equal(np.frombuffer(data[begin:end], "<f4").reshape(tensor.shape), tensor)


def test_same_input_gives_same_bytes_whatever_the_order(parts):
    card, tensors = parts
    backwards = dict(reversed(list(tensors.items())))
    shuffled = dict(reversed(list(card.items())))
    assert model_bytes(card, tensors) == model_bytes(shuffled, backwards)
    as_double = {name: np.asfortranarray(t.astype(np.float64)) for name, t in tensors.items()}
    assert model_bytes(card, tensors) == model_bytes(card, as_double)


def test_safetensors_reads_it_too(parts, tmp_path):
    numpy_io = pytest.importorskip("safetensors.numpy")
    card, tensors = parts
    path = write_model(tmp_path / "m.safetensors", card, tensors)
    loaded = numpy_io.load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(loaded[name], tensor)


def test_round_trip_through_the_core(parts, tmp_path):
    card, tensors = parts
    card = {**card, "system": {"name": "speech", "config": {"é": [1, 2.5, None, 'ü\n"\\']}}}
    path = write_model(tmp_path / "m.safetensors", card, tensors)
    model = affekt.load(path)
    assert model.path == path
    assert {k: v for k, v in model.card.items() if k not in ("schema", "tensors")} == card
    read = model.tensors()
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(read[name], tensor)


def test_weights_are_read_again_from_the_file_of_this_model_alone(parts, tmp_path, monkeypatch):
    card, tensors = parts
    monkeypatch.chdir(tmp_path)
    write_model("m.safetensors", card, tensors)
    model = affekt.load("m.safetensors")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert model.tensors().keys() == tensors.keys()
    other = write_model(tmp_path / "m.safetensors", {**card, "version": "2"}, tensors)
    with pytest.raises(
        ModelFileError, match=r"m\.safetensors: holds another model than the one that was loaded"
    ):
        model.tensors()
    other.unlink()
    with pytest.raises(ModelFileError, match=r"m\.safetensors: no such file"):
        model.tensors()
    assert model.run(reference_model.Numbers(7).signal(12000))[1].shape[1] == 6  # it runs all the same
    in_memory = Model.from_bytes(model_bytes(card, tensors))
    np.testing.assert_array_equal(in_memory.tensors()["vad.bias"], tensors["vad.bias"])


def test_writing_over_a_file_leaves_no_rest(parts, tmp_path):
    card, tensors = parts
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"something longer" * 10000)
    write_model(path, card, tensors)
    affekt.load(path)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    with pytest.raises(OSError, match="no-such-folder"):
        write_model(tmp_path / "no-such-folder" / "m.safetensors", card, tensors)


@pytest.mark.parametrize(
    ("card", "tensors", "message"),
    [
        ({"tensors": {}}, {}, "'tensors' is filled in"),
        ({"schema": 3}, {}, "'schema' must be 1 or 2, got 3"),
        ({"info": {"x": float("nan")}}, {"a": np.ones(1, "f4")}, "cannot be written as JSON"),
        ({"info": {"x": {1, 2}}}, {"a": np.ones(1, "f4")}, "set"),
        ({"info": "\ud800"}, {"a": np.ones(1, "f4")}, "not valid Unicode"),
        ({}, {}, "tensors: expected at least one"),
        ({}, {"a b": np.ones(1, "f4")}, "tensor name 'a b'"),
        ({}, {"__metadata__": np.ones(1, "f4")}, "tensor name '__metadata__'"),
        ({}, {"a": np.ones((1,) * 9, "f4")}, "at most 8 dimensions"),
        ({}, {"a": np.ones(1, "i4")}, "dtype int32"),
        ({}, {"a": np.ones(1, "i1"), "a.scale": np.ones(1, "f4")}, "int8 needs 2 or more dimensions"),
        ({}, {"a": np.full((1, 2), -128, "i1"), "a.scale": np.ones(1, "f4")}, "got -128"),
        ({}, {"a": np.ones((1, 2), "i1")}, "needs 'a.scale' beside it, 1 positive floats, got none"),
        ({}, {"a": np.ones((2, 1), "i1"), "a.scale": np.ones(1, "f4")}, r"2 positive floats.*shape \(1,\)"),
        ({}, {"a": np.ones((1, 2), "i1"), "a.scale": np.zeros(1, "f4")}, "1 positive floats"),
        ({}, {"a": np.ones((1, 2), "i1"), "a.scale": np.array([np.inf])}, "a.scale': expected finite"),
        ({}, {"a": np.ones((2, 0), "f4")}, r"shape \(2, 0\)"),
        ({}, {"a": np.float32(1)}, r"shape \(\)"),
        ({}, {"a": np.array([1.0, np.nan])}, "finite"),
        ({}, {"a": np.array([1e300])}, "finite"),
    ],
)
def test_writer_refuses(card, tensors, message):
    with pytest.raises(InputError, match=message):
        model_bytes(card, tensors)


def test_canonical_json_takes_numpy_and_paths():
    value = {"b": np.float32(0.5), "a": np.arange(3), "p": Path("x/y")}
    assert canonical_json(value) == '{"a":[0,1,2],"b":0.5,"p":"x/y"}'


# The reader ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("schema1_*.safetensors")))
def test_golden_file_is_what_the_writer_makes(name):
    """A changed writer or reference must show up as such, not as a changed promise."""
    card, tensors = getattr(reference_model, name.removeprefix("schema1_"))()
    assert model_bytes(card, tensors) == (GOLDEN / f"{name}.safetensors").read_bytes()


def foreign() -> dict[str, bytes]:
    safetensors = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    safetensors += b" " * (-len(safetensors) % 8)
    return {
        "empty": b"",
        "text": b"time,valence,arousal\n0.0,0.1,0.2\n",
        "wav": b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + bytes(32),
        "zip": b"PK\x03\x04" + bytes(100),
        "pickle": b"\x80\x04\x95" + bytes(60),
        "zeros": bytes(1000),
        "huge header": struct.pack("<Q", 2**63) + b"{}" + bytes(100),
        "header beyond the file": struct.pack("<Q", 4096) + b"{}" + bytes(100),
        "plain safetensors": struct.pack("<Q", len(safetensors)) + safetensors + bytes(8),
    }


@pytest.mark.parametrize("kind", foreign())
def test_foreign_file_is_refused_with_its_path(kind, tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_bytes(foreign()[kind])
    with pytest.raises(ModelFileError, match=r"some\.safetensors: ."):
        affekt.load(path)


def test_unreadable_paths(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        affekt.load(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match="not a regular file"):
        affekt.load(tmp_path)
    with pytest.raises(InputError, match="path"):
        affekt.load(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="null character"):
        affekt.load("a\0b")
    with pytest.raises(ModelFileError, match=r"\\xff.*: no such file"):
        affekt.load(tmp_path / os.fsdecode(b"\xff.safetensors"))
    strange = tmp_path / os.fsdecode(b"\xfe \xc3\xa4.safetensors")
    strange.write_bytes((GOLDEN / "schema1_trace.safetensors").read_bytes())
    assert affekt.load(strange).path == strange
    big = tmp_path / "big.safetensors"
    with open(big, "wb") as file:
        file.truncate(2 << 30)  # sparse
    with pytest.raises(ModelFileError, match="1 GiB"):
        affekt.load(big)


def test_newer_schema_is_called_newer(parts):
    header, text, data = take_apart(model_bytes(*parts))
    card = json.loads(text)
    card["schema"], card["graph"] = 3, card.pop("nodes")
    with pytest.raises(ModelFileError, match="schema 3 is not supported"):
        Model.from_bytes(put_together(header, json.dumps(card), data))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema":1,"schema":1}', "appears twice"),
        ('{"schema":1,"a":[{"b":1},{"b":2,"c":{"b":1,"b":2}}]}', "the key 'b' appears twice"),
        ('{"schema":1,"a":[{"b":1},{"b":2,"c":{"b":1}}],"b":{"a":1}}', "'tensors' is missing"),
        ('{"schema":1,"a":' + "[" * 31 + "]" * 31 + "}", "'tensors' is missing"),
        ('{"schema":1,"a":' + "[" * 32 + "]" * 32 + "}", "nested deeper"),
        ('{"schema":1,"a":[' + "{}," * 200_000 + "{}]}", "'tensors' is missing"),
        ('{"schema":1,"a":' + "[" * 5000 + "]" * 5000 + "}", "nested deeper"),
        ('{"schema":1', "not valid JSON"),
        ('{"schema":1e999}', "not valid JSON"),
        ('{"schema":Infinity}', "not valid JSON"),
        ('"card"', "must be a JSON object"),
        ("{}", "'schema' is missing"),
        ('{"schema":1}', "'tensors' is missing"),
    ],
)
def test_card_that_is_not_sound_json(parts, text, message):
    header, _, data = take_apart(model_bytes(*parts))
    with pytest.raises(ModelFileError, match=message):
        Model.from_bytes(put_together(header, text, data))


def test_a_header_of_many_siblings_is_refused_at_once(parts):
    header, text, data = take_apart(model_bytes(*parts))
    with pytest.raises(ModelFileError, match="tensor 'a'"):
        Model.from_bytes(put_together({**header, "a": [{}] * 200_000}, text, data))


def change(parts: tuple[Card, Tensors], path: str, value: object) -> bytes:
    """The model with one value of its card replaced; ``nodes.pool.options.hop`` names it."""
    card, tensors = copy.deepcopy(parts[0]), parts[1]
    at: object = card
    *route, last = path.split(".")
    for key in route:
        at = {item["name"]: item for item in at}[key] if isinstance(at, list) else at[key]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return model_bytes(card, tensors)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes.tcn.type", "lstm", "node 'tcn': unknown node type 'lstm'"),
        ("nodes.tcn.options.channels", [6, 6, -9], r"node 'tcn': 'channels' .* got -9"),
        ("nodes.tcn.options.channels", [2**63, 6, 9], "node 'tcn': 'channels'"),
        ("nodes.tcn.options.channels", [6, 6, 10], r"tcn\.2\.conv1\.weight' must have shape \(10, 6, 3\)"),
        ("nodes.tcn.options.kernel_size", 10**9, "node 'tcn': 'kernel_size' must be an integer in"),
        ("nodes.tcn.options.dilations", [1, 2], "one per block"),
        ("nodes.tcn.options.dilations", [2**24, 1, 1], "1 GiB"),
        ("nodes.tcn.options.activation", "gelu", "'activation' must be one of relu"),
        ("nodes.tcn.options.dropout", 0.1, "node 'tcn': 'dropout' is not a field"),
        ("nodes.pool.options.window", 0, "node 'pool': 'window'"),
        ("nodes.pool.options.window", 1e308, "node 'pool': 'window'"),
        ("nodes.pool.options.half_life", -1.0, "node 'pool': 'half_life'"),
        ("nodes.pool.options.kind", "attention", r"must have shape \(3, 9\)"),
        ("nodes.pool.options.hop", ..., "'hop' is missing"),
        ("nodes.stack.options.size", 65536, "more than 65536"),
        ("nodes.vad.options.units", 2.5, "'units' must be an integer"),
        ("nodes.affect.options.kind", "swish", "'kind' must be one of identity"),
        ("nodes.emotion.options.temperature", 0, "'temperature'"),
        ("nodes.mel.options.n_mels", 2**40, "n_mels"),
        ("nodes.mel.options.n_fft", 2**22, "n_fft"),
        ("nodes.mel.options.n_mels", 9, r"norm\.mean' must have shape \(9\)"),
        ("nodes.mel.options.colour", 1, "colour"),
        ("nodes.mel.options.deltas", 1, "cannot run live"),
        ("nodes.mel.inputs", ["norm"], "cycle"),
        ("nodes.norm.inputs", ["ghost"], "'ghost' does not exist"),
        ("nodes.norm.inputs", [], "'inputs' must name 1 to 16 nodes or inputs, got 0"),
        ("nodes.norm.inputs", ["mel"] * 2, "takes one input, got 2"),
        ("nodes.norm.inputs", ["mel"] * 17, "'inputs' must name 1 to 16 nodes or inputs, got 17"),
        ("nodes.tcn.options.channels", [65536, 65536, 9], "node 'tcn': the weights .* more than 2 GiB"),
        ("nodes.mel.options.scale", 1e10, "overflow for samples that the engine accepts"),
        ("nodes.mel.options.floor", 1e-50, "floor: expected a positive number"),
        ("nodes.mel.options", {"n_mels": 2048, "n_mfcc": 1024}, "n_mfcc . n_mels must be at most 1048576"),
        ("nodes.norm.name", "tcn", "taken"),
        ("inputs.audio.kind", "eeg", "'kind' must be one of audio"),
        ("inputs.audio.rate", 0, "'rate'"),
        ("inputs.audio.rate", 16000.0, "differs from the input's rate"),
        ("inputs.audio.channels", 2, "'channels'"),
        ("outputs.affect.node", "nobody", "'nobody' does not exist"),
        ("outputs.affect.labels", ["valence"], "has 1 labels"),
        ("outputs.affect.range", [1, -1], "'range'"),
        ("outputs.emotion.node", "classes", "must be a softmax"),
        ("outputs.affect.node", "pool", "has 3 labels"),
        ("outputs", [], "'outputs' must list"),
        ("nodes", [], "'nodes' must list"),
        ("name", "", "'name' must have"),
        ("surprise", 1, "'surprise' is not a field"),
        ("latency", {"first_estimate_s": 9}, "'first_estimate_s' says 9"),
    ],
)
def test_each_fault_is_named(parts, path, value, message):
    with pytest.raises(ModelFileError, match=message):
        Model.from_bytes(change(parts, path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes.voice.inputs", ["mel", "mel"], "node 'voice': takes one input, got 2"),
        ("nodes.voice.options.margin", -1, "'margin' must be a number in"),
        ("nodes.voice.options.margin", 1e308, "'margin' must be a number in"),
        ("nodes.voice.options.scale", 0, "'scale'"),
        ("nodes.voice.options.scale", "dB", "'scale'"),
        ("nodes.voice.options.smoothing", 0, "'smoothing' must be an integer in"),
        ("nodes.voice.options.smoothing", 2**40, "'smoothing'"),
        ("nodes.voice.options.hangover", -1, "'hangover'"),
        ("nodes.voice.options.threshold", 0.5, "'threshold' is not a field"),
        (
            "nodes.rows.inputs",
            ["mel", "voice", "voice", "voice"],
            "node 'rows': takes one to three inputs, got 4",
        ),
        ("nodes.rows.inputs", ["mel", "voices"], "node 'rows': its inputs do not tick together"),
        ("nodes.rows.inputs", ["voice", "voice"], r"'rows\.mean' must have shape \(1\)"),
        ("nodes.rows.options.prior", ..., "'prior' is missing"),
        ("nodes.rows.options.prior", 0, "'prior' must be a number in"),
        ("nodes.rows.options.prior", None, "'prior'"),
        ("nodes.rows.options.variance", 1, "'variance' must be true or false, got 1"),
        ("nodes.rows.options.half_life", 0, "'half_life'"),
        ("nodes.rows.options.floor", 0, "'floor'"),
        ("nodes.rows.options.least", -0.5, "'least'"),
        ("nodes.pool.inputs", ["tcn", "voice"], "node 'pool': its inputs do not tick together"),
        ("nodes.pool.inputs", ["tcn"] * 3, "node 'pool': takes one or two inputs, got 3"),
        ("validity", "speech", "'validity' must be an object"),
        ("validity", {"node": "speech"}, "'least' is missing"),
        ("validity", {"node": "speech", "least": None}, "'least'"),
        ("validity", {"node": "ghost", "least": 0}, "'ghost' does not exist"),
        ("validity", {"node": "pool", "least": 0}, "'pool' must give 1 value, gives 15"),
        ("validity", {"node": "voice", "least": 0}, "'voice' does not tick with the outputs"),
        ("validity", {"node": "speech", "least": 0, "most": 1}, "'most' is not a field"),
    ],
)
def test_each_fault_of_a_model_that_adapts_is_named(path, value, message):
    with pytest.raises(ModelFileError, match=message):
        Model.from_bytes(change(reference_model.speaker(), path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("nodes.mean_affect.inputs", ["m1_affect"], "node 'mean_affect': takes 2 to 16 inputs, got 1"),
        ("nodes.mean_affect.inputs", ["m1_affect"] * 17, "must name 1 to 16 nodes or inputs, got 17"),
        ("nodes.mean_affect.inputs", ["m1_affect", "m1_pool"], "must be equally wide, got 3 and 15 values"),
        ("nodes.mean_affect.inputs", ["m1_talk", "m1_speech"], "'mean_affect': its inputs do not tick tog"),
        ("nodes.mean_affect.inputs", ["m1_affect", "mean_affect"], "node 'mean_affect': depends on itself"),
        ("nodes.mean_affect.options", {"weights": [1, 2]}, "node 'mean_affect': 'weights' is not a field"),
        ("nodes.mean_emotion.inputs", ["m1_emotion", "m2_classes"], "must be a softmax activation or an av"),
        ("nodes.mean_emotion.inputs", ["m1_emotion", "mean_affect"], "must be a softmax activation or an a"),
        ("nodes.m2_emotion.options", {"kind": "sigmoid"}, "output 'emotion': is categorical, so its node mu"),
        ("outputs.emotion.node", "m2_emotion", "no output depends on node 'mean_emotion'"),
        ("outputs.emotion.labels", ["calm", "sad"], "has 2 labels, node 'mean_emotion' gives 3 values"),
    ],
)
def test_each_fault_of_an_average_is_named(path, value, message):
    with pytest.raises(ModelFileError, match=message):
        Model.from_bytes(change(reference_model.ensemble(), path, value))


def test_no_average_of_averages_is_categorical():
    card, tensors = reference_model.ensemble()
    again = reference_model.node("again", "average", ["mean_emotion", "mean_emotion"])
    card["nodes"].append(again)
    card["outputs"][1] |= {"node": "again"}
    with pytest.raises(ModelFileError, match="must be a softmax activation or an average of such"):
        Model.from_bytes(model_bytes(card, tensors))
    card["outputs"][1] |= {"kind": "continuous"}
    assert Model.from_bytes(model_bytes(card, tensors)).columns[3:] == ["calm", "happy", "sad"]


def test_the_tensors_of_a_model_that_adapts():
    card, tensors = reference_model.speaker()
    for name in ("rows.mean", "rows.sd"):
        with pytest.raises(ModelFileError, match=rf"'{name}' of shape \(8\) is missing"):
            Model.from_bytes(model_bytes(card, {k: v for k, v in tensors.items() if k != name}))
    with pytest.raises(ModelFileError, match=r"'rows\.sd' must not be negative"):
        Model.from_bytes(model_bytes(card, {**tensors, "rows.sd": -tensors["rows.sd"]}))
    with pytest.raises(ModelFileError, match=r"'rows\.reference' must have shape \(8\), got \(7\)"):
        Model.from_bytes(model_bytes(card, {**tensors, "rows.reference": np.ones(7, "f4")}))
    without = {k: v for k, v in tensors.items() if k != "embedding.reference"}
    assert Model.from_bytes(model_bytes(card, without)).adapts == ["rows", "embedding"]
    idle = {key: value for key, value in card.items() if key != "validity"}
    assert Model.from_bytes(model_bytes(idle, tensors)).run(np.zeros(8000, "f4")).valid.all()


def test_front_ends_are_few_and_their_memory_is_counted(parts):
    card, _ = copy.deepcopy(parts)
    mel = next(node for node in card["nodes"] if node["type"] == "front_end")
    more = [{**mel, "name": f"mel{i}"} for i in range(8)]
    with pytest.raises(ModelFileError, match="at most 8 front ends"):
        Model.from_bytes(change(parts, "nodes", [*card["nodes"], *more]))
    options = {"sample_rate": 8000, "n_fft": 131071, "n_mels": 8}
    card = {
        **{key: card[key] for key in ("name", "version", "inputs")},
        "nodes": [{"name": "mel", "type": "front_end", "inputs": ["audio"], "options": options}],
        "outputs": [{"name": "a", "node": "mel", "kind": "continuous", "labels": list("abcdefgh")}],
    }
    card["nodes"].append({"name": "unit", "type": "linear", "inputs": ["mel"], "options": {"units": 8}})
    card["outputs"][0]["node"] = "unit"
    tensors = {"unit.weight": np.eye(8, dtype="f4"), "unit.bias": np.zeros(8, "f4")}
    model = Model.from_bytes(model_bytes(card, tensors))
    assert model.native.state_bytes > 4 * 131072 * 4 * 8  # four arrays, lanes of doubles


def test_missing_extra_and_damaged_tensors(parts):
    card, tensors = parts
    without = {k: v for k, v in tensors.items() if k != "norm.mean"}
    with pytest.raises(ModelFileError, match=r"norm\.mean' of shape \(8\) is missing"):
        Model.from_bytes(model_bytes(card, without))
    with pytest.raises(ModelFileError, match=r"'norm\.var' belongs to no node"):
        Model.from_bytes(model_bytes(card, {**tensors, "norm.var": np.ones(8, "f4")}))
    header, text, data = take_apart(model_bytes(card, tensors))
    with pytest.raises(ModelFileError, match="holds NaN"):
        Model.from_bytes(put_together(header, text, struct.pack("<f", np.nan) + data[4:]))
    moved = copy.deepcopy(header)
    moved["vad.bias"]["data_offsets"] = [o - 4 for o in moved["vad.bias"]["data_offsets"]]
    with pytest.raises(ModelFileError, match="overlap"):
        Model.from_bytes(put_together(moved, text, data))


def store(header: dict, card: dict, name: str, **change: object) -> None:
    """Change an entry of both tensor tables."""
    for table, offsets in ((header, "data_offsets"), (card["tensors"], "offsets")):
        for key, value in change.items():
            table[name][offsets if key == "offsets" else key] = value


def test_int8_tensors_are_taken_with_sound_scales_only(parts):
    card, tensors = reference_model.utterance_int8()
    header, text, data = take_apart(model_bytes(card, tensors))

    def refused(message: str, data: bytes = data, header: dict = header, text: str = text) -> None:
        with pytest.raises(ModelFileError, match=message):
            Model.from_bytes(put_together(header, text, data))

    def patched(name: str, offset: int, content: bytes) -> bytes:
        at = header[name]["data_offsets"][0] + offset
        return data[:at] + content + data[at + len(content) :]

    for scale in (0.0, -1.0, np.inf, np.nan):
        refused(
            "scale that is not positive and finite", patched("vad.weight.scale", 4, struct.pack("<f", scale))
        )
    refused("holds -128", patched("vad.weight", 5, b"\x80"))
    refused("'vad.weight' holds NaN or inf", patched("vad.weight.scale", 0, struct.pack("<f", 3e38)))
    # 81 int8 values of (3, 27): the scales renamed, of another length, or themselves int8.
    for change in ("gone", "longer", "int8"):
        h, c = copy.deepcopy(header), json.loads(text)
        if change == "gone":
            for table in (h, c["tensors"]):
                table["vad.weight.scales"] = table.pop("vad.weight.scale")
        elif change == "longer":
            store(h, c, "vad.weight.scale", shape=[3, 1])
        else:
            store(h, c, "vad.weight.scale", dtype="I8", shape=[3, 4])
        refused(r"needs its scales: 'vad.weight.scale', F32 of shape \(3\)", header=h, text=canonical_json(c))
    h, c = copy.deepcopy(header), json.loads(text)
    store(h, c, "vad.weight", shape=[81])
    refused("only weights of 2 or more dimensions may be I8", header=h, text=canonical_json(c))
    h, c = copy.deepcopy(header), json.loads(text)
    store(h, c, "vad.weight", dtype="U8")
    refused("dtype must be F32 or I8, got 'U8'", header=h, text=canonical_json(c))
    h = copy.deepcopy(header)
    h["norm.mean"] = {**h["norm.mean"], "dtype": "I8", "shape": [1, 32]}
    refused("dtype, shape or offsets differ", header=h)
    # Scales of a float32 tensor are a tensor like any other, and no node asks for them.
    with pytest.raises(ModelFileError, match=r"'vad\.weight\.scale' belongs to no node"):
        Model.from_bytes(model_bytes(*parts[:1], {**parts[1], "vad.weight.scale": np.ones(3, "f4")}))


def test_float32_behind_int8_must_stay_aligned():
    card, tensors = reference_model.utterance_int8()
    header, text, data = take_apart(model_bytes(card, tensors))
    names = sorted(tensors, key=lambda n: (tensors[n].dtype != np.int8, n))  # the other way round
    card, blob = json.loads(text), b""
    assert sum(t.size for t in tensors.values() if t.dtype == np.int8) % 4 != 0
    for name in names:
        begin, end = header[name]["data_offsets"]
        store(header, card, name, offsets=[len(blob), len(blob) + end - begin])
        blob += data[begin:end]
    with pytest.raises(ModelFileError, match="F32 must start on a multiple of 4 bytes"):
        Model.from_bytes(put_together(header, canonical_json(card), blob))


def test_declared_latency_must_be_the_graph_s(parts):
    card, tensors = parts
    timing = Model.from_bytes(model_bytes(card, tensors)).timing
    assert Model.from_bytes(model_bytes({**card, "latency": timing}, tensors)).timing == timing
    with pytest.raises(ModelFileError, match="'context_s' says"):
        Model.from_bytes(
            model_bytes({**card, "latency": {**timing, "context_s": timing["context_s"] / 2}}, tensors)
        )


POISON = [None, True, 0, 1, -1, 3, 0.5, 1e308, -1e308, 5e-324, 2**31, 2**63, 2**64 - 1, "", "x", "audio"]
POISON += ["tcn", [], {}, [1, 2], [[[]]], {"a": 1}, "\ud800", "é" * 3000]


def poison(document: object, random: random.Random) -> None:
    """Change one random place of a JSON document."""
    places: list[tuple[object, object]] = []
    stack = [document]
    while stack:
        item = stack.pop()
        children = item.items() if isinstance(item, dict) else enumerate(item)
        for key, value in children:
            places.append((item, key))
            if isinstance(value, dict | list):
                stack.append(value)
    holder, key = random.choice(places)
    match random.randrange(4):
        case 0:
            del holder[key]
        case 1:
            if isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            else:
                holder[random.choice(["extra", "name", "kind"])] = random.choice(POISON)
        case _:
            holder[key] = copy.deepcopy(random.choice(POISON))


def outcome(content: bytes) -> bool:
    """Whether a model loads; it then also runs. Anything but a ModelFileError is an error."""
    try:
        model = Model.from_bytes(content)
    except ModelFileError:
        return False
    if model.native.state_bytes < 32 << 20:
        single = _core.FullPass(model.native)
        signal = reference_model.Numbers(3).signal(2000)
        if not model.clocked:
            values = single.feed(signal)[1]
        else:
            signal = signal.astype(np.float32) / 32768
            for spec in model.inputs:  # a quarter of a second; at a low rate a sample lasts many ticks
                width = int(spec["channels"])
                frames = min(len(signal) // width, int(spec["rate"] / 4))
                piece = signal[: frames * width]
                single.push(spec["name"], piece if width == 1 else piece.reshape(frames, width))
            values = single.drain(True)[1]
        assert values.shape[1] == len(model.columns)
    return True


def test_400_mutated_files_never_crash():
    seeded = random.Random(2024)
    good = [path.read_bytes() for path in sorted(GOLDEN.glob("*.safetensors"))]
    assert len(good) == 6
    refused = ran = 0
    for i in range(150):  # bytes
        content = bytearray(seeded.choice(good))
        at = seeded.randrange(len(content))
        match i % 3:
            case 0:
                content[at] ^= 1 << seeded.randrange(8)
            case 1:
                del content[at:]
            case 2:
                content[at:at] = seeded.randbytes(seeded.randrange(1, 20))
        refused += not outcome(bytes(content))
    assert refused >= 145  # a flipped bit of the header's padding may be harmless
    refused = 0
    for _ in range(250):  # meaning: what the hash does not catch because it is right
        header, text, data = take_apart(seeded.choice(good))
        card = json.loads(text)
        for _ in range(seeded.randrange(1, 3)):
            poison(header if seeded.random() < 0.15 else card, seeded)
        if not isinstance(header, dict):
            continue
        if outcome(put_together(header, json.dumps(card), data)):
            ran += 1
        else:
            refused += 1
    assert refused > 150
    assert ran > 0
