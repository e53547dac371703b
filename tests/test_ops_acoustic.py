"""The ops of the acoustic front end: numbers of the core, their gradients, torch's ways to call them."""

# ruff: noqa: E402
from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from affekt import _core, ops
from affekt.errors import InputError
from affekt.features import LogMel, Mfcc, PowerSpectrogram, Stft, _signals
from affekt.nn import Acoustic
from affekt.ops import acoustic as plain

RATE = 8000
SMALL = {"sample_rate": RATE, "n_fft": 64, "win_length": 50, "hop_length": 20}
CASES = {
    "acoustic": [
        LogMel(**SMALL, n_mels=6),
        LogMel(**SMALL, n_mels=6, center=True, pad_mode="reflect", preemphasis=0.9, top_db=15.0, ref="max"),
        Mfcc(**SMALL, n_mels=8, n_mfcc=5, deltas=2, delta_width=5),
        Mfcc.kaldi(sample_rate=RATE),
    ],
    "spectrogram": [PowerSpectrogram(sample_rate=RATE, n_fft=33, center=True, power=1.0)],
    "stft": [Stft(sample_rate=RATE, n_fft=64, win_length=40, center=True, pad_mode="symmetric")],
}
FLAT = [(op, features) for op, several in CASES.items() for features in several]
each_case = pytest.mark.parametrize(("op", "features"), FLAT, ids=lambda v: str(v)[:40])


@pytest.fixture(autouse=True)
def _loaded():
    if ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    ops.load_library()


def native(op, signal, features):
    return getattr(torch.ops.affekt, op)(signal, json.dumps(features.options))


def noise(*shape, dtype=torch.double):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)), dtype=dtype)


@st.composite
def front_ends(draw):
    """Any front end: (op, features)."""
    n_fft = draw(st.sampled_from([16, 33, 64, 101, 128]))
    framing = {
        "sample_rate": RATE,
        "n_fft": n_fft,
        "win_length": draw(st.integers(2, n_fft)),
        "hop_length": draw(st.integers(1, 70)),
        "window": draw(st.sampled_from(["hann", "hamming", "blackman", "povey"])),
        "center": draw(st.booleans()),
        "pad_mode": draw(st.sampled_from(["constant", "reflect", "edge", "symmetric"])),
    }
    op = draw(st.sampled_from(["acoustic", "acoustic", "acoustic", "spectrogram", "stft"]))
    if op == "stft":
        return op, Stft(**framing)
    framing["power"] = draw(st.sampled_from([2.0, 1.0, 0.6]))
    if op == "spectrogram":
        return op, PowerSpectrogram(**framing)
    n_mels = draw(st.integers(2, 5))
    options = {
        **framing,
        "n_mels": n_mels,
        "span": draw(st.sampled_from(["n_fft", "win_length"])),
        "drop_last": draw(st.booleans()),
        "scale": draw(st.sampled_from([1.0, 32.0])),
        "preemphasis": draw(st.sampled_from([0.0, 0.97])),
        "preemphasis_mode": draw(st.sampled_from(["signal", "frame"])),
        "remove_dc": draw(st.booleans()),
        "mel_scale": draw(st.sampled_from(["slaney", "htk", "kaldi"])),
        "log": draw(st.sampled_from(["db", "ln", "log10"])),
        "top_db": draw(st.sampled_from([None, 20.0])),
        "energy": draw(st.sampled_from([None, "raw", "windowed"])),
        "log_shift": draw(st.sampled_from([0.0, 4.0])),
        "log_scale": draw(st.sampled_from([1.0, 0.25])),
    }
    if draw(st.booleans()):
        return op, LogMel(**options)
    return op, Mfcc(
        **options,
        n_mfcc=draw(st.integers(1, n_mels)),
        lifter=draw(st.sampled_from([0.0, 22.0])),
        deltas=draw(st.sampled_from([0, 1, 2])),
        delta_width=draw(st.sampled_from([3, 5])),
        delta_mode="regression",
    )


@pytest.mark.filterwarnings("ignore:n_mels")
@given(case=front_ends(), time=st.integers(1, 400), seed=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_numbers_and_gradients_are_those_of_plain_torch(case, time, seed):
    op, features = case
    x = 0.1 * torch.randn(2, time, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = native(op, ours, features), plain.REFERENCES[op](theirs, json.dumps(features.options))
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    size = max([1.0, *expected.detach().abs().flatten().tolist()])
    # Values near the floor or the clamp may fall on either side of it, so far as rounding goes.
    assert torch.allclose(found, expected, rtol=0, atol=1e-8 * size)
    upstream = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    found.backward(upstream)
    expected.backward(upstream)
    scale = max([1.0, *theirs.grad.abs().flatten().tolist()])
    assert torch.allclose(ours.grad, theirs.grad, rtol=0, atol=1e-8 * scale)


@each_case
def test_gradients_of_first_and_second_order(op, features):
    x = noise(1, 300).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: native(op, v, features), (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda v: native(op, v, features), (x,), fast_mode=True)


@each_case
def test_float32_gradients_near_those_of_double(op, features):
    x = noise(2, 1000)
    grads = []
    for dtype in (torch.float32, torch.float64):
        v = x.to(dtype).requires_grad_()
        out = native(op, v, features)
        (torch.view_as_real(out) if out.is_complex() else out).sin().sum().backward()
        assert v.grad.dtype == dtype
        grads.append(v.grad.double())
    assert (grads[0] - grads[1]).abs().max() < 1e-4 * grads[1].abs().max()


@each_case
def test_checks_of_torch(op, features):
    overload = getattr(torch.ops.affekt, op).default
    options = json.dumps(features.options)
    for x in (noise(2, 900).requires_grad_(), noise(900, dtype=torch.float32), noise(2, 3)):
        torch.library.opcheck(overload, (x, options))


@each_case
def test_compiled_and_exported_in_one_graph(op, features):
    x = noise(2, 900)

    def loss(v):
        out = features(v)
        return (torch.view_as_real(out) if out.is_complex() else out).square().sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for time in (900, 700):
        ours, theirs = (x[:, :time].clone().requires_grad_() for _ in range(2))
        compiled(ours).backward()
        loss(theirs).backward()
        assert torch.equal(ours.grad, theirs.grad)

    class Module(torch.nn.Module):
        def forward(self, v):
            return features(v)

    program = torch.export.export(Module(), (x,), dynamic_shapes=({1: torch.export.Dim.AUTO},))
    assert torch.equal(program.module()(x[:, :500]), features(x[:, :500]))


@each_case
def test_vmap_and_autocast(op, features):
    x = noise(3, 2, 500)
    assert torch.equal(
        torch.vmap(lambda v: native(op, v, features), 1)(x), native(op, x.movedim(1, 0), features)
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = native(op, x.bfloat16(), features)
    assert torch.equal(found, native(op, x.bfloat16().float(), features))


@each_case
def test_transforms_of_functions(op, features):
    x = noise(3, 500)
    each = torch.vmap(features)(x)
    assert torch.equal(each, features(x))

    def loss(v):
        out = features(v)
        return (torch.view_as_real(out) if out.is_complex() else out).square().sum()

    v = x.clone().requires_grad_()
    loss(v).backward()
    torch.testing.assert_close(torch.func.grad(loss)(x), v.grad, rtol=1e-9, atol=1e-12)


@pytest.fixture
def no_op(monkeypatch):
    """As on a device that the ops have no kernels for."""
    monkeypatch.setattr(_signals.ops, "available", lambda: False)


@each_case
@pytest.mark.usefixtures("no_op")
def test_where_no_op_runs_plain_torch_does(op, features):
    x = noise(2, 700)
    expected = native(op, x, features)
    found = features(x.clone().requires_grad_())
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), expected, rtol=1e-9, atol=1e-9)
    bad = x.clone()
    bad[1, 30] = torch.nan
    with pytest.raises(InputError, match="expected finite values, got one that is not at index 30"):
        features(bad.requires_grad_())


@pytest.mark.usefixtures("no_op")
@pytest.mark.parametrize("features", [CASES["acoustic"][2], CASES["stft"][0]], ids=["acoustic", "stft"])
def test_plain_torch_compiles_into_one_graph(features):
    x = noise(2, 700)
    compiled = torch.compile(lambda v: features(v), fullgraph=True, dynamic=True, backend="aot_eager")
    for time in (700, 500):
        torch.testing.assert_close(
            compiled(x[:, :time]), features(x[:, :time].clone().requires_grad_()).detach()
        )


@each_case
def test_other_devices_take_plain_torch(op, features):
    found = features(torch.empty(2, 700, device="meta"))
    assert found.device.type == "meta"
    assert found.shape == native(op, noise(2, 700), features).shape


def test_plain_spectra_make_no_filters(monkeypatch):
    def none(options):
        raise AssertionError("a plan with mel filters")

    monkeypatch.setattr(_core, "FrontEnd", none)
    features = Stft(sample_rate=RATE, n_fft=72, win_length=70)
    found = plain.REFERENCES["stft"](noise(300), json.dumps(features.options))
    torch.testing.assert_close(found, native("stft", noise(300), features))


@each_case
def test_features_of_a_tensor_with_gradient_are_those_without(op, features):
    x = noise(2, 700, dtype=torch.float32)
    found = features(x.clone().requires_grad_())
    assert found.requires_grad
    assert torch.equal(found.detach(), features(x))


def test_signals_without_rows():
    features = CASES["acoustic"][0]
    for shape in ((2, 10), (0, 500), (2, 0)):
        x = torch.zeros(shape, requires_grad=True)
        rows = features(x)
        assert rows.shape == (shape[0], features.frames(shape[1]), 6)
        rows.sum().backward()
        assert torch.equal(x.grad, torch.zeros(shape))


def test_module_in_torchscript():
    module = Acoustic(CASES["acoustic"][0])
    x = noise(2, 900, dtype=torch.float32)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    assert torch.equal(torch.jit.load(file)(x), module(x))
    assert np.array_equal(module(x).numpy(), CASES["acoustic"][0](x.numpy()))
    with pytest.raises(InputError, match="expected a LogMel or Mfcc, got Stft"):
        Acoustic(CASES["stft"][0])


def test_bad_gradients_are_named():
    x, options = noise(900), json.dumps(CASES["acoustic"][0].options)
    for grad in (noise(3), noise(42, 6, dtype=torch.float32)):
        with pytest.raises(RuntimeError, match="grad: expected the shape of the result"):
            torch.ops.affekt._acoustic_bwd(grad, x, options)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("no memory for 4 GiB"), torch.OutOfMemoryError),
        (torch.AcceleratorError("CUDA error: an illegal memory access", 700), torch.AcceleratorError),
        (RuntimeError("CUDA, in acoustic: no kernel image"), RuntimeError),
        (RuntimeError("signal: expected finite values"), InputError),
    ],
    ids=["memory", "device", "kernel", "samples"],
)
def test_a_device_that_fails_is_no_fault_of_the_samples(monkeypatch, error, kind):
    def fail(signal, options):
        raise error

    monkeypatch.setattr(torch.ops.affekt, "acoustic", fail)
    with pytest.raises(kind) as caught:
        LogMel(sample_rate=16000)(torch.zeros(8000, requires_grad=True))
    assert caught.type is kind
