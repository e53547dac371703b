"""The causal TCN of residual blocks: steps, blocks of rows, many streams, int8, recordings, training.

Every contender runs the same weights and is checked against the torch module before it is timed. A step of
affekt is a call of the native object from Python with one row, (1, in) to (1, out), state inside. Peers of
the step:

- ONNX Runtime: a graph of Conv, LeakyRelu and Add with the past rows of each convolution as inputs and
  outputs (Concat, Slice), bound to fixed buffers in two sets that take turns, so that Python copies no state;
  and the same with every Conv written as a product with its rows one after the other (Slice, Reshape, Gemm),
  which suits wide networks better;
- pytorch-tcn: its streaming mode, `forward(x, inference=True)` with its own buffers;
- RTNeural: its Conv1D layers (Eigen) with the residual sum between them written by us, as it has none; built
  for this CPU when `AFFEKT_RTNEURAL` names a checkout, in sizes known at run time, as ours are, and to the
  compiler, and timed in C++, a thousand steps per call. Beside ours from Python it is compared with ours
  called from C++ in the same way;
- torch without state: the module over its receptive field.

Where a step's time goes: nine tenths are the loop that reads the weights, at the core's byte rate of that
working set, which is the bound. From Python the call and its result array add about a quarter of a
microsecond, a fifth of the smallest step. ONNX Runtime's products take about 9 and 4 times the bound in the
two wider networks, so their floors there ask for a step at the bound itself. Blocks of rows and streams
read the weights once for several rows and end at the bound of the multiply-adds instead, which lies at
about half the step's: a ratio of 2 to 2.4 is all there is. int8 spends nine tenths in its dot products.

Training is one forward and backward pass of `affekt.nn.TCN`, weight norm included, with the gradients of
all weights and none of the input, as in training on stored features; the peer is the same module over
torch's own convolutions (oneDNN), rectifiers and dropout. In the widest network oneDNN's products alone
take 90 % of torch's time, at 75 % of the peak of the multiply-add units: even products at that peak and
nothing besides would be about 1.5 times as fast. The products (`rows`, `weights`) take
about nine tenths of our op there. Narrow networks gain from what stands between the products.
"""

from __future__ import annotations

import copy
import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from affekt import _core

# (inputs, channels, blocks, taps)
SHAPES = [(16, 32, 4, 3), (80, 64, 6, 3), (128, 128, 8, 3)]
SLOPE = 0.01
STREAMS = 8

# Ratios to reach, by channels: floor, aim.
ONNX = ("ONNX Runtime", "ONNX Runtime, products")
STEP = {32: (9, 20), 64: (9, 12), 128: (4, 5)}
RTNEURAL = ("RTNeural in C++", "RTNeural in C++, sizes compiled in")
IN_CPP = "step, all called from C++"

each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))


def macs(shape) -> int:
    """Return the multiply-adds of one row."""
    inputs, channels, blocks, taps = shape
    widths = [inputs] + [channels] * (blocks - 1)
    return sum(taps * channels * (w + channels) + (w * channels if w != channels else 0) for w in widths)


def label(what, shape) -> str:
    """Return the group's name."""
    return f"TCN {what} (in {shape[0]}, {shape[1]} channels, {shape[2]} blocks, {shape[3]} taps)"


@functools.cache
def plain_torch():
    """Return the class of the torch module without our op."""
    from affekt.nn import TCN

    class Plain(TCN):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            for block in self.blocks:
                assert callable(block._by_op)
                block._by_op = lambda x: False

    return Plain


@functools.cache
def module_of(shape):
    """Return the torch module of a shape, its weights per block, test rows and what they become."""
    import torch

    torch.manual_seed(0)
    inputs, channels, blocks, taps = shape
    module = plain_torch()(inputs, [channels] * blocks, taps).eval()
    tensors = module.folded("tcn")
    weights = [
        {name.split(".", 2)[2]: value for name, value in tensors.items() if name.startswith(f"tcn.{block}.")}
        for block in range(blocks)
    ]
    rows = torch.randn(1000, inputs)
    with torch.inference_mode():
        expected = module(rows[None])[0].numpy()
    return module, weights, rows.numpy(), expected


@functools.cache
def native(shape, arithmetic="float32", streams=1):
    """Return ours; checked."""
    inputs, channels, blocks, taps = shape
    _, weights, rows, expected = module_of(shape)
    tcn = _core.Tcn(
        inputs,
        [channels] * blocks,
        kernel_size=taps,
        dilations=[2**block for block in range(blocks)],
        activation="leaky_relu",
        slope=SLOPE,
        weights=weights,
        arithmetic=arithmetic,
        streams=streams,
    )
    error = np.abs(tcn.process(rows) - expected).max() / np.abs(expected).max()
    assert error < (1e-5 if arithmetic == "float32" else 0.1), error
    return tcn


def check(step, shape) -> None:
    """Assert that `step`, fresh, turns the first rows into what the module gives."""
    _, _, rows, expected = module_of(shape)
    for row, y in zip(rows[:200], expected, strict=False):
        np.testing.assert_allclose(np.asarray(step(row)).reshape(-1), y, rtol=1e-4, atol=1e-5)


def facts(shape, rows=1, arithmetic="float32", calls=1):
    """Return the work of `calls` passes over the weights that `rows` rows share."""
    weights = macs(shape) * (4 if arithmetic == "float32" else 1)
    facts = {"bytes_moved": weights * calls, "working_set": weights}
    return facts if arithmetic != "float32" else facts | {"operations": 2 * macs(shape) * rows * calls}


# One step -------------------------------------------------------------------------------------------------


@each_shape
def bench_affekt_step(contender, peer, shape):
    peer("torch")
    tcn, row = native(shape), module_of(shape)[2][:1].copy()
    floor, aim = STEP[shape[1]]
    contender(
        label("step", shape),
        "affekt",
        lambda: tcn.process(row),
        floor=dict.fromkeys(ONNX, floor) | {"pytorch-tcn, streaming": 100} | dict.fromkeys(RTNEURAL, 1),
        aim=dict.fromkeys(ONNX, aim),
        **facts(shape),
    )


@functools.cache
def onnx_step(shape, products):
    """Return a function that takes one step with ONNX Runtime over bound buffers."""
    from .twins import onnx_tcn

    weights = {
        f"tcn.{i}.{name}": value
        for i, block in enumerate(module_of(shape)[1])
        for name, value in block.items()
    }
    step = onnx_tcn(weights, shape[0], products=products)
    check(step, shape)
    return step


@pytest.mark.parametrize("products", [False, True], ids=["Conv", "products"])
@each_shape
def bench_onnx_step(contender, peer, shape, products):
    for name in ("torch", "onnx", "onnxruntime"):
        peer(name)
    contender(label("step", shape), ONNX[products], onnx_step(shape, products))


@functools.cache
def pytorch_tcn(shape):
    """Return the streaming module of pytorch-tcn with our weights; checked."""
    import pytorch_tcn
    import torch

    inputs, channels, blocks, taps = shape
    theirs = pytorch_tcn.TCN(
        inputs,
        [channels] * blocks,
        kernel_size=taps,
        dilations=[2**block for block in range(blocks)],
        dropout=0.0,
        causal=True,
        use_norm=None,
        activation="leaky_relu",
        input_shape="NLC",
    ).eval()
    state = theirs.state_dict()
    for block, tensors in enumerate(module_of(shape)[1]):
        for name, value in tensors.items():
            key = f"network.{block}.{name.replace('residual', 'downsample')}"
            state[key] = torch.from_numpy(np.array(value)).reshape(state[key].shape)
    theirs.load_state_dict(state)
    theirs.reset_buffers()
    with torch.inference_mode():
        check(lambda row: theirs(torch.from_numpy(row)[None, None], inference=True), shape)
    return theirs


@each_shape
def bench_pytorch_tcn_step(contender, peer, shape):
    torch = peer("torch")
    peer("pytorch_tcn")
    theirs, row = pytorch_tcn(shape), torch.randn(1, 1, shape[0])
    with torch.inference_mode():
        contender(label("step", shape), "pytorch-tcn, streaming", lambda: theirs(row, inference=True))


@functools.cache
def compiled(source, *flags):
    """Return a library built from a C++ file beside this one."""
    library = Path(tempfile.mkdtemp()) / f"{source}.so"
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-O3", "-march=native", "-DNDEBUG", "-shared"]
    command += ["-fPIC", "-w", str(Path(__file__).with_name(source)), *flags, "-o", str(library)]
    subprocess.run(command, check=True, capture_output=True)
    return ctypes.CDLL(str(library))


def rtneural():
    """Return the library of RTNeural's steps."""
    if "AFFEKT_RTNEURAL" not in os.environ:
        pytest.skip("AFFEKT_RTNEURAL names no checkout of RTNeural")
    home = Path(os.environ["AFFEKT_RTNEURAL"])
    defines = ["-DRTNEURAL_USE_EIGEN=1", "-DRTNEURAL_DEFAULT_ALIGNMENT=32", "-DRTNEURAL_NAMESPACE=RTNeural"]
    return compiled(
        "rtneural.cpp",
        *defines,
        f"-I{home}",
        f"-I{home / 'modules' / 'Eigen'}",
        f"-I{home / 'modules' / 'json'}",
    )


def affekt_in_cpp():
    """Return the library of our own steps, linked to the one that Python uses."""
    package = Path(_core.__file__).parent
    if not (package / "include").is_dir():
        pytest.skip("affekt is not installed with its headers here")
    return compiled(
        "tcn_steps.cpp", f"-I{package / 'include'}", f"-L{package}", "-laffekt", f"-Wl,-rpath,{package}"
    )


@functools.cache
def steps_in_cpp(library, shape, fixed=False):
    """Return a function that takes one step after the other in C++: f(rows).

    `fixed`: in sizes known to the compiler, where the library has them.
    """
    code = library()
    inputs, channels, blocks, taps = shape
    floats = ctypes.POINTER(ctypes.c_float)
    code.tcn_create.restype = ctypes.c_void_p
    code.tcn_create.argtypes = [ctypes.c_int] * 5 + [floats]
    code.tcn_steps.argtypes = [ctypes.c_void_p, floats, ctypes.c_int, floats]
    order = ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "residual.weight", "residual.bias"]
    flat = [np.ravel(block[name]) for block in module_of(shape)[1] for name in order if name in block]
    weights = np.concatenate(flat).astype(np.float32)
    assert SLOPE == 0.01  # as in the C++ files
    net = code.tcn_create(inputs, channels, blocks, taps, int(fixed), weights.ctypes.data_as(floats))

    def steps(rows):
        out = np.empty((len(rows), channels), np.float32)
        code.tcn_steps(net, rows.ctypes.data_as(floats), len(rows), out.ctypes.data_as(floats))
        return out

    check(lambda row: steps(row[None]), shape)
    return steps


@pytest.mark.parametrize("what", ["step", IN_CPP])
@pytest.mark.parametrize("fixed", [True, False], ids=["compiled", "run-time"])
@each_shape
def bench_rtneural_step(contender, peer, shape, fixed, what):
    peer("torch")
    steps, rows = steps_in_cpp(rtneural, shape, fixed), module_of(shape)[2]
    contender(label(what, shape), RTNEURAL[fixed], lambda: steps(rows), units=len(rows))


@each_shape
def bench_affekt_step_in_cpp(contender, peer, shape):
    peer("torch")
    steps, rows = steps_in_cpp(affekt_in_cpp, shape), module_of(shape)[2]
    contender(
        label(IN_CPP, shape),
        "affekt",
        lambda: steps(rows),
        units=len(rows),
        floor=dict.fromkeys(RTNEURAL, 1),
        **facts(shape, calls=len(rows)),
    )


@each_shape
def bench_torch_step(contender, peer, shape):
    torch = peer("torch")
    module, _, rows, _ = module_of(shape)
    window = torch.from_numpy(rows)[None, : module.receptive_field]
    with torch.inference_mode():
        contender(label("step", shape), "torch over the receptive field", lambda: module(window))


# Rows and streams that share the weights ------------------------------------------------------------------


@each_shape
def bench_affekt_block(contender, peer, shape):
    peer("torch")
    tcn, rows = native(shape), module_of(shape)[2][:8].copy()
    contender(
        label("blocks of 8 rows, per row", shape),
        "affekt",
        lambda: tcn.process(rows),
        units=8,
        floor={"affekt, step by step": 2},
        aim={"affekt, step by step": 3},
        **facts(shape, 8),
    )


@each_shape
def bench_affekt_block_by_step(contender, peer, shape):
    peer("torch")
    tcn, row = native(shape), module_of(shape)[2][:1].copy()
    contender(label("blocks of 8 rows, per row", shape), "affekt, step by step", lambda: tcn.process(row))


@each_shape
def bench_affekt_streams(contender, peer, shape):
    peer("torch")
    tcn, rows = native(shape, streams=STREAMS), module_of(shape)[2][:STREAMS].copy()
    contender(
        label(f"{STREAMS} streams at once, per stream", shape),
        "affekt",
        lambda: tcn.step_many(rows),
        units=STREAMS,
        floor={"affekt, one by one": 2},
        aim={"affekt, one by one": 3},
        **facts(shape, STREAMS),
    )


@each_shape
def bench_affekt_streams_one_by_one(contender, peer, shape):
    peer("torch")
    tcn, row = native(shape, streams=STREAMS), module_of(shape)[2][:1].copy()

    def steps():
        for stream in range(STREAMS):
            tcn.process(row, stream)

    contender(
        label(f"{STREAMS} streams at once, per stream", shape), "affekt, one by one", steps, units=STREAMS
    )


# int8 -----------------------------------------------------------------------------------------------------


@each_shape
def bench_affekt_int8(contender, peer, shape):
    peer("torch")
    tcn, row = native(shape, "int8"), module_of(shape)[2][:1].copy()
    wide = shape[1] == 128
    contender(
        label("step in int8", shape),
        "affekt",
        lambda: tcn.process(row),
        floor={"affekt, float32": 2.5} if wide else None,
        aim={"affekt, float32": 4} if wide else None,
        **facts(shape, arithmetic="int8"),
    )


@each_shape
def bench_affekt_float32(contender, peer, shape):
    peer("torch")
    tcn, row = native(shape), module_of(shape)[2][:1].copy()
    contender(label("step in int8", shape), "affekt, float32", lambda: tcn.process(row))


# Recordings -----------------------------------------------------------------------------------------------


@each_shape
def bench_affekt_recording(contender, peer, shape):
    peer("torch")
    tcn, rows = native(shape), module_of(shape)[2]
    contender(
        label("1000 rows", shape),
        "affekt",
        lambda: tcn.process(rows),
        floor={"torch": 1},
        **facts(shape, 1000),
    )


@each_shape
def bench_affekt_int8_recording(contender, peer, shape):
    peer("torch")
    tcn, rows = native(shape, "int8"), module_of(shape)[2]
    contender(label("1000 rows", shape), "affekt, int8", lambda: tcn.process(rows))


@each_shape
def bench_torch_recording(contender, peer, shape):
    torch = peer("torch")
    module, _, rows, _ = module_of(shape)
    batch = torch.from_numpy(rows)[None]
    with torch.inference_mode():
        contender(label("1000 rows", shape), "torch", lambda: module(batch))


# Training -------------------------------------------------------------------------------------------------

# name: inputs, channels, taps, steps. The first six are the networks of the leader-follower model (Table 6.3
# of Zhang's thesis), the last is that of the shipped speech model on clips of four seconds.
TRAINED = {
    "face": (512, (256, 256, 128, 128), 5, 300),
    "BERT": (768, (256, 256, 128, 128), 5, 300),
    "EEG": (192, (128, 128), 5, 300),
    "landmarks": (136, (128, 128, 64, 64), 5, 300),
    "VGGish": (128, (128, 128, 64, 64), 5, 300),
    "MFCC": (29, (32, 32, 32, 32), 5, 300),
    "speech": (160, (64, 64, 64), 3, 100),
}
BATCH = 32


def training_work(name) -> dict[str, float]:
    """Return the operations and bytes of both passes, without the gradient of the input."""
    width, channels, taps, steps = TRAINED[name]
    rows, operations, values = BATCH * steps, 0.0, 0.0
    for block, out in enumerate(channels):
        first = width * out * (taps + (width != out))  # multiply-adds per row: what reads the block's input
        operations += 2 * rows * (first * (2 if block == 0 else 3) + 3 * taps * out * out)
        values += rows * (3 * width + 10 * out)  # every tensor of the block read and written once per pass
        width = out
    return {"operations": operations, "bytes_moved": 4 * values, "working_set": 4 * values}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dropout", [0.1, 0.0])
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("who", ["affekt", "torch"])
def bench_training(contender, peer, who, name, dropout, threads):
    torch = peer("torch")
    from affekt.nn import TCN

    width, channels, taps, steps = TRAINED[name]
    if threads == 2 and (name not in ("face", "MFCC") or dropout == 0):
        pytest.skip("two threads: the widest and the narrowest network will do")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(0)
        ours = TCN(width, channels, taps, dropout=dropout)
        theirs = plain_torch()(width, channels, taps, dropout=dropout)
        theirs.load_state_dict(ours.state_dict())
        x, upstream = torch.randn(BATCH, steps, width), torch.randn(BATCH, steps, channels[-1])

        def step(module):
            module.zero_grad()
            y = module(x)
            y.backward(upstream)
            return y

        if dropout == 0:
            found, expected = ours(x), theirs(x)
            assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
            # In float32 some rectifier of millions sits so near 0 that rounding decides its slope.
            pair = [copy.deepcopy(module).double() for module in (ours, theirs)]
            for module in pair:
                module(x[:2].double()).backward(upstream[:2].double())
            for a, b in zip(*(module.parameters() for module in pair), strict=True):
                assert (a.grad - b.grad).abs().max() <= 1e-10 * b.grad.abs().max()
        sizes = f"in {width}, channels {' '.join(map(str, channels))}, {taps} taps; {BATCH} x {steps} steps"
        contender(
            f"TCN training forward + backward, {name} ({sizes}), dropout {dropout}"
            + (", two threads" if threads == 2 else ""),
            who,
            lambda: step(ours if who == "affekt" else theirs),
            floor={"torch": 1},
            aim={"torch": 1.5},
            **(training_work(name) if threads == 1 else {}),
            note="our dropout draws a hash of the place, torch's uniform numbers" if dropout else None,
        )
    finally:
        torch.set_num_threads(before)
