"""int8 model files: a quarter of the size, the same graph, weights off by half a step at most."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import affekt
import reference_model
from affekt import InputError, ModelFileError, weights
from affekt._quantise import quantise_weight
from affekt.cli import main
from affekt.modelfile import write_model
from reference_model import Numbers

SIGNAL = Numbers(7).signal(12000)


@pytest.fixture
def source(tmp_path):
    return write_model(tmp_path / "tiny.safetensors", *reference_model.utterance())


@pytest.fixture
def wide(tmp_path):
    """A model of the size where the weights, not the card, make the file."""
    card, tensors = reference_model.utterance()
    channels = [64, 64, 9]
    options = next(node["options"] for node in card["nodes"] if node["name"] == "tcn")
    options |= {"channels": channels, "activation": "leaky_relu", "slope": 0.01}
    tensors = {k: v for k, v in tensors.items() if not k.startswith("tcn.")}
    tensors |= reference_model.tcn_tensors("tcn", 24, options, Numbers(5))
    return write_model(tmp_path / "wide.safetensors", card, tensors)


# Weights ---------------------------------------------------------------------------------------------------


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 9)), elements=st.floats(-9, 9, width=32)
    ),
    st.floats(-12, 12),
)
def test_a_weight_is_off_by_half_a_step_at_most(weight, exponent):
    weight = (weight * 10.0**exponent).astype(np.float32)
    q, scale = quantise_weight(weight)
    assert q.dtype == np.int8
    assert q.shape == weight.shape
    assert (np.abs(q.astype(int)) <= 127).all()
    assert scale.dtype == np.float32
    assert (scale > 0).all()
    error = np.abs(q * scale.astype(np.float64)[:, None] - weight)
    assert (error <= scale.astype(np.float64)[:, None] * 0.50001).all()
    silent = ~(np.abs(weight.astype(np.float64)) > 1e-30).any(axis=1)
    assert (np.abs(q[~silent]).max(axis=1, initial=0) == 127).all()
    assert not q[silent].any()


def test_least_squares_clips_where_that_pays():
    even = np.linspace(-1, 1, 4096)
    weight = np.stack([np.append(even, 1.0), np.append(even, 1.05)]).astype(np.float32)

    def squares(clip):
        q, scale = quantise_weight(weight, clip)
        return scale, np.square(weight - q * scale[:, None].astype(np.float64)).sum(axis=1)

    (plain_scale, plain), (least_scale, least) = squares("max"), squares("mse")
    assert least[1] < 0.99 * plain[1]  # the weight that sticks out pays for all others
    assert least_scale[1] < plain_scale[1]
    assert (least <= plain).all()
    assert (least_scale >= plain_scale * np.float32(0.499)).all()


@pytest.mark.parametrize(
    ("weight", "clip", "message"),
    [
        (np.ones(3), "max", r"2 or more dimensions, got dtype float64, shape \(3,\)"),
        (np.ones((2, 0)), "max", r"shape \(2, 0\)"),
        (np.ones((2, 2), int), "max", "dtype int64"),
        (np.full((1, 1), np.nan), "max", "finite"),
        (np.ones((1, 1)), "median", "clip: expected 'max' or 'mse', got 'median'"),
    ],
)
def test_weights_that_cannot_be_quantised(weight, clip, message):
    with pytest.raises(InputError, match=message):
        quantise_weight(weight, clip)


# Files -----------------------------------------------------------------------------------------------------


def test_the_twin_runs_as_the_definitions_say(source, tmp_path):
    """Against the reference on the reference's own rounding, and the weights read back are q * scale."""
    model = affekt.load(affekt.quantise(source, tmp_path / "int8.safetensors"))
    card, tensors = reference_model.utterance_int8()
    times, values = model.run(SIGNAL)
    expected_times, expected = reference_model.run(card, tensors, SIGNAL)
    np.testing.assert_allclose(times, expected_times, rtol=0, atol=1e-12)
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)
    read = model.tensors()
    assert read.keys() == reference_model.utterance()[1].keys()
    for name, value in read.items():
        assert value.dtype == np.float32
        np.testing.assert_allclose(value, reference_model.value(tensors, name), rtol=6e-8, atol=0)


@pytest.mark.parametrize("chunk", [1, 37, 4096])
def test_streamed_equals_full(source, tmp_path, chunk):
    model = affekt.load(affekt.quantise(source, tmp_path / "int8.safetensors", clip="mse"))
    full, streamed = model.run(SIGNAL), model.run(SIGNAL, mode="stream", chunk=chunk)
    assert full[1].tobytes() == streamed[1].tobytes()
    assert np.array_equal(full[0], streamed[0])


def test_it_is_a_quarter_of_the_size_and_says_where_it_comes_from(wide, tmp_path):
    before = affekt.load(wide)
    path = affekt.quantise(before, tmp_path / "int8.safetensors")
    assert path.stat().st_size < 0.36 * wide.stat().st_size  # of 75 kB of weights; card and biases stay
    assert path.read_bytes() == affekt.quantise(wide, tmp_path / "again.safetensors").read_bytes()
    after = affekt.load(path)
    assert after.name == "tiny-int8"
    assert after.card["info"] == {
        **before.card["info"],
        "quantised": {
            "from": {"name": "tiny", "version": "1", "sha256": before.native.hash},
            "bits": 8,
            "clip": "max",
        },
    }
    for key in ("inputs", "nodes", "outputs", "version"):
        assert after.card[key] == before.card[key]
    difference = np.abs(after.run(SIGNAL)[1] - before.run(SIGNAL)[1]).max()
    assert 0 < difference < 0.05


def test_what_cannot_be_quantised_is_named(source, tmp_path):
    out = tmp_path / "int8.safetensors"
    with pytest.raises(InputError, match=r"model: expected a model, its file or the name .* got NoneType"):
        affekt.quantise(None, out)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="bits: expected 8, got 4"):
        affekt.quantise(source, out, bits=4)
    with pytest.raises(InputError, match="clip: expected"):
        affekt.quantise(source, out, clip="none")
    with pytest.raises(ModelFileError, match=r"none\.safetensors: no such file"):
        affekt.quantise(tmp_path / "none.safetensors", out)
    twin = affekt.quantise(source, out)
    with pytest.raises(InputError, match="'tiny-int8' has int8 weights already"):
        affekt.quantise(twin, tmp_path / "again.safetensors")
    nodes = [
        reference_model.node("mel", "front_end", "audio", **{**reference_model.MEL, "n_mels": 1}),
        reference_model.node("norm", "standardise", "mel"),
    ]
    outputs = [{"name": "level", "node": "norm", "kind": "continuous", "labels": ["level"]}]
    card = reference_model.card_of(nodes, outputs)
    tensors = {"norm.mean": np.zeros(1, "f4"), "norm.scale": np.ones(1, "f4")}
    bare = write_model(tmp_path / "bare.safetensors", card, tensors)
    with pytest.raises(InputError, match="no tcn, linear, conv2d node"):
        affekt.quantise(bare, tmp_path / "again.safetensors")


def test_from_the_command_line(wide, tmp_path, capsys):
    out = tmp_path / "small.safetensors"
    assert main(["quantise", str(wide), "--out", str(out), "--clip", "mse", "--name", "small"]) == 0
    assert f"model  {out} (" in capsys.readouterr().out
    assert affekt.load(out).card["info"]["quantised"]["clip"] == "mse"
    assert main(["info", str(out)]) == 0
    assert "weights in int8" in capsys.readouterr().out
    assert main(["info", str(out), "--card"]) == 0
    text = capsys.readouterr().out
    assert "of them int8" in text
    count = sum(t.size for t in affekt.load(wide).tensors().values())
    assert f"weights  {count} in" in text
    assert main(["quantise", str(out), "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "has int8 weights already" in capsys.readouterr().err


def test_the_torch_system_is_restored_with_the_dequantised_weights(tmp_path):
    torch = pytest.importorskip("torch")
    systems = pytest.importorskip("affekt.systems")
    torch.manual_seed(0)
    system = systems.create("speech", heads={"affect": {"labels": ["valence", "arousal"]}})
    path = systems.export(system, tmp_path / "float.safetensors")
    twin = affekt.load(affekt.quantise(path, tmp_path / "int8.safetensors"))
    restored = systems.restore(twin.path)
    again = affekt.load(systems.export(restored, tmp_path / "again.safetensors"))
    for name, value in twin.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], value)


# Real speech -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not weights.list_models(), reason="this build carries no weights (AFFEKT_WEIGHTS=OFF)")
def test_estimates_of_real_clips_hardly_change(data_dir, tmp_path):
    soundfile = pytest.importorskip("soundfile")
    clips = sorted((data_dir / "ravdess").glob("Actor_0[12]/03-01-*-01-01.flac"))[:16]
    if not clips:
        pytest.skip(f"no RAVDESS clips in {data_dir}")
    path = weights.default_model()
    before, after = affekt.load(path), affekt.load(affekt.quantise(path, tmp_path / "int8.safetensors"))
    assert after.path.stat().st_size < 0.3 * path.stat().st_size
    differences = []
    for clip in clips:
        samples, rate = soundfile.read(clip, dtype="float32")
        differences.append(np.abs(before.run(samples, sample_rate=rate)[1] - after.run(samples)[1]).max())
    assert 0 < max(differences) < 0.05
