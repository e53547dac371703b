"""The TCN in integers: exact sums, the same bits for any cut and any number of streams, close to float."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import affekt
import reference_model
from affekt import InputError, _core
from affekt.modelfile import write_model
from reference_model import Numbers

SLOPE = np.float32(0.25)


def rows_of_int8(x):
    """(time, in) float32 -> integers and one scale per row, as `affekt::Arithmetic::int8` says."""
    top = np.abs(x).max(axis=1, keepdims=True)
    silent = top < 1e-30
    inverse = np.float32(127) / np.where(silent, np.float32(1), top)
    q = np.where(silent, 0, np.rint(x * inverse))
    return q.astype(np.int64), np.where(silent, 0, top / np.float32(127)).astype(np.float64)


def convolve(x, weight, bias, dilation):
    """bias + scale of the output * sum over taps of (scale of the row * exact integer sum)."""
    scale = np.abs(weight).max(axis=(1, 2)) / np.float32(127)
    scale = np.where(scale > 0, scale, np.float32(1))
    integers = np.rint(weight / scale[:, None, None].astype(np.float64)).astype(np.int64)
    q, s = rows_of_int8(x)
    total = np.zeros((len(x), len(weight)))
    taps = weight.shape[2]
    for j in range(taps):
        back = (taps - 1 - j) * dilation
        late = max(len(x) - back, 0)
        total[back:] += s[:late] * (q[:late] @ integers[:, :, j].T)
    return bias.astype(np.float64) + scale * total


def rectify(x):
    return np.where(x > 0, x, SLOPE * x).astype(np.float32)


def reference(x, block, dilation):
    """One block, in float64 between the roundings to float32 that the definition has."""
    hidden = rectify(convolve(x, block["conv1.weight"], block["conv1.bias"], dilation))
    y = rectify(convolve(hidden, block["conv2.weight"], block["conv2.bias"], dilation))
    shortcut = x
    if "residual.weight" in block:
        shortcut = convolve(x, block["residual.weight"][:, :, None], block["residual.bias"], 1)
    return rectify(y + shortcut)


def native(blocks, dilations, arithmetic="int8", streams=1):
    return _core.Tcn(
        blocks[0]["conv1.weight"].shape[1],
        [len(block["conv1.weight"]) for block in blocks],
        kernel_size=blocks[0]["conv1.weight"].shape[2],
        dilations=dilations,
        activation="leaky_relu",
        slope=float(SLOPE),
        weights=blocks,
        arithmetic=arithmetic,
        streams=streams,
    )


def grid(rng, *shape):
    """Integers in [-127, 127] with 127 somewhere in each row, so that the scale is a power of two."""
    values = rng.integers(-127, 128, shape)
    values.reshape(shape[0], -1)[:, rng.integers(values[0].size)] = 127
    return values.astype(np.float32)


def block_on_grid(rng, width, out, taps, residual, full=False):
    """One block whose first convolution is exact in float32, so that the integers behind it are known."""

    def weight(*shape):
        return (np.full(shape, 127, np.float32) if full else grid(rng, *shape)) * np.float32(2**-10)

    block = {
        "conv1.weight": weight(out, width, taps),
        "conv1.bias": np.zeros(out, np.float32),
        "conv2.weight": weight(out, out, taps),
        "conv2.bias": rng.standard_normal(out).astype(np.float32),
    }
    if residual or width != out:
        block["residual.weight"] = weight(out, width)
        block["residual.bias"] = rng.standard_normal(out).astype(np.float32)
    return block


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 70),
    out=st.integers(1, 140),
    taps=st.integers(1, 4),
    dilation=st.integers(1, 5),
    residual=st.booleans(),
    full=st.booleans(),
    seed=st.integers(0, 2**31),
)
@example(width=256, out=64, taps=1, dilation=1, residual=False, full=True, seed=0)  # widest sums, one sign
def test_sums_are_exact(width, out, taps, dilation, residual, full, seed):
    rng = np.random.default_rng(seed)
    block = block_on_grid(rng, width, out, taps, residual, full)
    x = grid(rng, 21, width)
    if full:
        x[::3] = 127
        x[1::3] = -127
    x[4] = 0  # a silent row
    y = native([block], [dilation]).process(x)
    expected = reference(x, block, dilation)
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6 * np.abs(expected).max())


def random_net(seed, width, channels, taps):
    rng = np.random.default_rng(seed)
    blocks = []
    for out in channels:
        block = {
            "conv1.weight": rng.standard_normal((out, width, taps)) * (width * taps) ** -0.5,
            "conv1.bias": rng.standard_normal(out) * 0.2,
            "conv2.weight": rng.standard_normal((out, out, taps)) * (out * taps) ** -0.5,
            "conv2.bias": rng.standard_normal(out) * 0.2,
        }
        if width != out:
            block["residual.weight"] = rng.standard_normal((out, width)) * width**-0.5
            block["residual.bias"] = rng.standard_normal(out) * 0.2
        blocks.append({name: value.astype(np.float32) for name, value in block.items()})
        width = out
    return blocks, rng


BLOCKS, RNG = random_net(0, 13, [24, 24, 80], 3)
ROWS = RNG.standard_normal((90, 13)).astype(np.float32)


@given(cuts=st.lists(st.integers(0, 90), max_size=20))
def test_any_cut_gives_the_same_bits(cuts):
    tcn = native(BLOCKS, [1, 2, 4])
    whole = tcn.process(ROWS)
    tcn.reset()
    parts = [tcn.process(piece) for piece in np.split(ROWS, sorted(cuts))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    tcn.reset()
    steps = [tcn.process(row[None]) for row in ROWS]
    assert np.concatenate(steps).tobytes() == whole.tobytes()


@pytest.mark.parametrize("arithmetic", ["float32", "int8"])
@pytest.mark.parametrize("streams", [1, 3, 8, 11])
def test_many_streams_give_the_bits_of_one(arithmetic, streams):
    together = native(BLOCKS, [1, 2, 4], arithmetic, streams)
    alone = native(BLOCKS, [1, 2, 4], arithmetic)
    x = np.random.default_rng(streams).standard_normal((streams, 30, 13)).astype(np.float32)
    head = [together.process(x[s, :s], stream=s) for s in range(streams)]  # each at a time of its own
    # A stream whose rows have run out goes on with other ones; what it gives then is not looked at.
    shared = [together.step_many(np.stack([x[s, (s + t) % 30] for s in range(streams)])) for t in range(30)]
    for s in range(streams):
        alone.reset()
        y = np.concatenate([head[s], np.stack([step[s] for step in shared[: 30 - s]])])
        assert y.tobytes() == alone.process(x[s]).tobytes()


@pytest.mark.parametrize("channels", [[32] * 4, [128] * 4])
def test_stays_close_to_float(channels):
    """Eight roundings to 127 steps: each adds about 1/127/sqrt(12) of the largest value, 3 sd, so about 0.7 %
    of the standard deviation, and the sum over layers stays below five times that."""
    blocks, rng = random_net(1, 32, channels, 3)
    x = rng.standard_normal((300, 32)).astype(np.float32)
    y8 = native(blocks, [1, 2, 4, 8]).process(x)
    y32 = native(blocks, [1, 2, 4, 8], "float32").process(x)
    assert 0 < np.sqrt(np.mean((y8 - y32) ** 2)) < 0.035 * y32.std()


def test_what_is_not_finite_stays_visible_for_its_receptive_field():
    tcn = native(BLOCKS, [1, 2, 4])
    for bad in (np.nan, np.inf, -np.inf):
        tcn.reset()
        x = ROWS.copy()
        x[20, 5] = bad
        y = tcn.process(x)
        assert np.isfinite(y[:20]).all()
        assert not np.isfinite(y[20]).any()
        assert np.isfinite(y[20 + tcn.receptive_field :]).all()


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-31, 1e-20, 1e30])
def test_small_and_large_rows(value):
    x = np.full((40, 13), value, np.float32)
    y = native(BLOCKS, [1, 2, 4]).process(x)
    assert np.isfinite(y).all()
    if value < 1e-30:
        np.testing.assert_array_equal(y, native(BLOCKS, [1, 2, 4]).process(np.zeros_like(x)))


def test_silent_channels_of_weights():
    blocks = [dict(block) for block in BLOCKS]
    blocks[0]["conv1.weight"] = np.zeros_like(blocks[0]["conv1.weight"])
    assert np.isfinite(native(blocks, [1, 2, 4]).process(ROWS)).all()


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="arithmetic: expected float32 or int8, got 'int4'"):
        native(BLOCKS, [1, 2, 4], "int4")
    with pytest.raises(InputError, match="streams: expected 1 to 65536, got 0"):
        native(BLOCKS, [1, 2, 4], streams=0)
    tcn = native(BLOCKS, [1, 2, 4], streams=3)
    with pytest.raises(InputError, match="stream: expected less than 3, got 3"):
        tcn.process(ROWS, stream=3)
    with pytest.raises(InputError, match=r"shape \(3, 13\), got float32 of shape \(2, 13\)"):
        tcn.step_many(ROWS[:2])
    for rows in (ROWS.astype(np.float64), ROWS[:, ::-1], np.asfortranarray(ROWS), ROWS[0], ROWS[:, :12]):
        with pytest.raises(InputError, match=r"rows: expected C-contiguous float32 of shape \(time, 13\)"):
            tcn.process(rows)
    assert tcn.process(ROWS[:0]).shape == (0, 80)
    read_only = ROWS.copy()
    read_only.setflags(write=False)
    assert tcn.process(read_only).tobytes() == tcn.process(ROWS, stream=1).tobytes()


# Model files -----------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    return write_model(tmp_path / "tiny.safetensors", *reference_model.utterance())


def test_a_card_can_ask_for_integers(source, tmp_path):
    signal = Numbers(7).signal(12000)
    stored = affekt.load(affekt.quantise(source, tmp_path / "stored.safetensors"))
    model = affekt.load(affekt.quantise(source, tmp_path / "int8.safetensors", arithmetic="int8"))
    assert model.card["info"]["quantised"]["arithmetic"] == "int8"
    options = {node["name"]: node["options"] for node in model.card["nodes"]}
    assert options["tcn"]["arithmetic"] == "int8"
    assert [name for name, o in options.items() if "arithmetic" in o] == ["tcn"]
    full, streamed = model.run(signal), model.run(signal, mode="stream", chunk=37)
    assert full[1].tobytes() == streamed[1].tobytes()
    assert 0 < np.abs(full[1] - stored.run(signal)[1]).max() < 0.05


def test_other_arithmetic_is_refused(source, tmp_path):
    with pytest.raises(InputError, match="arithmetic: expected 'float32' or 'int8', got 'int4'"):
        affekt.quantise(source, tmp_path / "x.safetensors", arithmetic="int4")  # type: ignore[arg-type]
    card, tensors = reference_model.utterance()
    next(node for node in card["nodes"] if node["type"] == "tcn")["options"]["arithmetic"] = "int4"
    with pytest.raises(affekt.ModelFileError, match="arithmetic"):
        affekt.load(write_model(tmp_path / "y.safetensors", card, tensors))
