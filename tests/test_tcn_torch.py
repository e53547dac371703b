"""The native TCN against torch's own convolutions, and any cut of the rows giving the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affekt import InputError, _core

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def make(width, channels, kernel_size, activation, *, residual=False, shared_slope=True, seed=0):
    """Random weights in the card's names and shapes, one dict per block."""
    g = torch.Generator().manual_seed(seed)
    blocks = []
    for out in channels:
        scale = (width * kernel_size) ** -0.5
        block = {
            "conv1.weight": torch.randn(out, width, kernel_size, generator=g) * scale,
            "conv1.bias": torch.randn(out, generator=g) * 0.2,
            "conv2.weight": torch.randn(out, out, kernel_size, generator=g) * (out * kernel_size) ** -0.5,
            "conv2.bias": torch.randn(out, generator=g) * 0.2,
        }
        if residual or width != out:
            block["residual.weight"] = torch.randn(out, width, generator=g) * width**-0.5
            block["residual.bias"] = torch.randn(out, generator=g) * 0.2
        if activation == "prelu":
            for site in (1, 2, 3):
                block[f"slope{site}"] = torch.rand(1 if shared_slope else out, generator=g) * 0.5
        blocks.append(block)
        width = out
    return blocks


def reference(x, blocks, dilations, activation, slope):
    """(time, in) -> (time, out) with conv1d, left padding, and the activation of each site."""
    y = x.T[None]
    for block, dilation in zip(blocks, dilations, strict=True):

        def act(v, site, block=block):
            if activation == "relu":
                return functional.relu(v)
            if activation == "leaky_relu":
                return functional.leaky_relu(v, slope)
            return functional.prelu(v, block[f"slope{site}"])

        def conv(v, name, block=block, dilation=dilation):
            weight = block[f"{name}.weight"]
            v = functional.pad(v, ((weight.shape[2] - 1) * dilation, 0))
            return functional.conv1d(v, weight, block[f"{name}.bias"], dilation=dilation)

        h = act(conv(y, "conv1"), 1)
        h = act(conv(h, "conv2"), 2)
        r = y
        if "residual.weight" in block:
            r = functional.conv1d(y, block["residual.weight"][:, :, None], block["residual.bias"])
        y = act(h + r, 3)
    return y[0].T


def native(width, channels, kernel_size, dilations, activation, slope, blocks):
    return _core.Tcn(
        width,
        channels,
        kernel_size=kernel_size,
        dilations=dilations,
        activation=activation,
        slope=slope,
        weights=[{name: tensor.numpy() for name, tensor in block.items()} for block in blocks],
    )


CONFIGS = [
    # width, channels, kernel, dilations
    (29, [32, 32, 32, 32], 3, [1, 2, 4, 8]),
    (29, [32, 32, 32, 32], 5, [1, 2, 4, 8]),
    (128, [128, 128, 64, 64], 7, [1, 2, 4, 8]),
    (192, [128, 128], 3, [1, 2]),
    (7, [7, 19, 1], 2, [3, 1, 5]),
    (1, [1], 1, [1]),
]


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "prelu"])
@pytest.mark.parametrize("residual", [False, True], ids=["identity", "residual"])
@pytest.mark.parametrize("config", CONFIGS, ids=[f"{c[0]}-{c[1]}-k{c[2]}" for c in CONFIGS])
def test_agrees_with_torch(config, residual, activation):
    width, channels, k, dilations = config
    blocks = make(width, channels, k, activation, residual=residual, shared_slope=residual)
    x = torch.randn(90, width, generator=torch.Generator().manual_seed(1))
    tcn = native(width, channels, k, dilations, activation, 0.05, blocks)
    y = tcn.process(x.numpy())
    expected = reference(
        x.double(), [{n: t.double() for n, t in b.items()} for b in blocks], dilations, activation, 0.05
    )
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        y, reference(x, blocks, dilations, activation, 0.05).numpy(), rtol=1e-5, atol=1e-5
    )
    assert tcn.receptive_field == 1 + 2 * (k - 1) * sum(dilations)


BLOCKS = make(12, [16, 20], 3, "leaky_relu")
ROWS = torch.randn(120, 12, generator=torch.Generator().manual_seed(2)).numpy()


@given(cuts=st.lists(st.integers(0, 120), max_size=30))
def test_any_cut_gives_the_same_bits(cuts):
    tcn = native(12, [16, 20], 3, [1, 2], "leaky_relu", 0.01, BLOCKS)
    whole = tcn.process(ROWS)
    tcn.reset()
    parts = [tcn.process(np.ascontiguousarray(piece)) for piece in np.split(ROWS, sorted(cuts))]
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    tcn.reset()
    steps = [tcn.process(row[None]) for row in ROWS]
    assert np.concatenate(steps).tobytes() == whole.tobytes()


def test_runs_the_module_of_affekt_nn():
    nn = pytest.importorskip("affekt.nn")
    torch.manual_seed(3)
    for activation in ("relu", "leaky_relu", "prelu"):
        module = nn.TCN(12, [16, 16, 8], 3, activation=activation).eval()
        blocks: list[dict] = [{} for _ in range(3)]
        for name, tensor in module.folded().items():
            block, _, rest = name.removeprefix("tcn.").partition(".")
            blocks[int(block)][rest] = torch.as_tensor(tensor)
        tcn = native(12, [16, 16, 8], 3, [1, 2, 4], activation, 0.01, blocks)
        with torch.no_grad():
            expected = module(torch.from_numpy(ROWS)[None])[0].numpy()
        np.testing.assert_allclose(tcn.process(ROWS), expected, rtol=1e-5, atol=1e-5)
        assert tcn.receptive_field == module.receptive_field


def test_wrong_rows_and_weights_are_named():
    tcn = native(12, [16, 20], 3, [1, 2], "leaky_relu", 0.01, BLOCKS)
    with pytest.raises(InputError, match=r"\(time, 12\)"):
        tcn.process(np.zeros((3, 11), np.float32))
    with pytest.raises(InputError, match="unknown tensor 'conv3'"):
        _core.Tcn(
            1, [1], kernel_size=1, dilations=[], activation="relu", slope=0, weights=[{"conv3": np.ones(1)}]
        )
    with pytest.raises(InputError, match="activation"):
        native(12, [16, 20], 3, [1, 2], "gelu", 0.01, BLOCKS)
