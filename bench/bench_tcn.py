"""The causal TCN, one step at a time and over a recording, against the torch module it was exported from.

A torch stream without state has to run its whole receptive field again for each new step; that is the peer.
"""

from __future__ import annotations

import numpy as np
import pytest

from affekt import _core

# (inputs, channels, blocks, taps)
SHAPES = [(16, 32, 4, 3), (80, 64, 6, 3), (128, 128, 8, 3)]


def twins(torch, shape):
    """Return the torch module and the native TCN with the same weights."""
    from affekt.nn import TCN

    torch.manual_seed(0)
    inputs, channels, blocks, taps = shape
    module = TCN(inputs, [channels] * blocks, taps).eval()
    tensors = module.folded("tcn")
    weights = [
        {name.split(".", 2)[2]: value for name, value in tensors.items() if name.startswith(f"tcn.{block}.")}
        for block in range(blocks)
    ]
    native = _core.Tcn(
        inputs,
        [channels] * blocks,
        kernel_size=taps,
        dilations=[2**block for block in range(blocks)],
        activation="leaky_relu",
        slope=0.01,
        weights=weights,
    )
    rows = torch.randn(1000, inputs)
    with torch.no_grad():
        assert np.allclose(native.process(rows.numpy()), module(rows[None])[0].numpy(), atol=1e-4)
    native.reset()
    return module, native, rows


def label(shape) -> str:
    """Return a shape as the table names it."""
    return f"TCN {{}} (in {shape[0]}, {shape[1]} channels, {shape[2]} blocks, {shape[3]} taps)"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_affekt_step(contender, peer, shape):
    _, native, rows = twins(peer("torch"), shape)
    row = rows[:1].numpy().copy()
    contender(label(shape).format("step"), "affekt", lambda: native.process(row))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_torch_step(contender, peer, shape):
    torch = peer("torch")
    module, _, rows = twins(torch, shape)
    window = rows[None, : module.receptive_field]
    with torch.inference_mode():
        contender(label(shape).format("step"), "torch over the receptive field", lambda: module(window))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_affekt_recording(contender, peer, shape):
    _, native, rows = twins(peer("torch"), shape)
    block = rows.numpy()
    contender(label(shape).format("1000 steps"), "affekt", lambda: native.process(block))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def bench_torch_recording(contender, peer, shape):
    torch = peer("torch")
    module, _, rows = twins(torch, shape)
    with torch.inference_mode():
        contender(label(shape).format("1000 steps"), "torch", lambda: module(rows[None]))
