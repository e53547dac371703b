"""affekt.cupy without a GPU: what it refuses, what it would start, with which arguments; NumPy plays CuPy.

The numbers are those of the kernels, which cpp/tests/test_cuda_*.cpp run on the CPU, by the same launchers.
"""

from __future__ import annotations

import importlib
import struct
import sys

import numpy as np
import pytest

import fake_cupy
from affekt import _core, _rtc
from affekt.errors import InputError, MissingExtraError
from affekt.features import BandPower, LogMel, Mfcc, PowerSpectrogram, Stft, Welch


def _on_gpu(values, dtype=np.float32):
    return np.ascontiguousarray(values, dtype=dtype).view(fake_cupy.Array)


@pytest.fixture
def calls(monkeypatch):
    """The kernels started so far: (kernel, grid, block, arguments, shared memory)."""
    made = []
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module(made))
    monkeypatch.delitem(sys.modules, "affekt.cupy", raising=False)
    yield made
    sys.modules.pop("affekt.cupy", None)


@pytest.fixture
def on_gpu(calls):
    return importlib.import_module("affekt.cupy")


def _has(kernel_call, array):
    """Whether an address lies in the argument of a launch."""
    (argument,) = kernel_call[3]
    return struct.pack("<q", array.ctypes.data) in argument.tobytes()


def _name(kernel_call):
    line = next(x for x in kernel_call[0].code.splitlines() if x.startswith("using Chosen0"))
    return line.removeprefix("using Chosen0 = ").rstrip(";").split("<")[0]


def test_without_cupy_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(sys.modules, "affekt.cupy", raising=False)
    with pytest.raises((MissingExtraError, ImportError), match="cupy"):
        importlib.import_module("affekt.cupy")


def test_features_are_one_launch_on_the_memory_of_the_caller(on_gpu, calls):
    for front_end, dtype in (
        (LogMel(sample_rate=16000, n_fft=512, win_length=400, hop_length=160), np.float32),
        (Mfcc.kaldi(), np.float64),
        (PowerSpectrogram(sample_rate=16000, n_fft=256, hop_length=64), np.float32),
        (Stft(sample_rate=16000, n_fft=1024), np.float32),
        (Stft(sample_rate=16000, n_fft=64), np.float64),
    ):
        calls.clear()
        x = _on_gpu(np.zeros((2, 3, 8000)), dtype)
        rows = on_gpu.features(front_end, x)
        expected = front_end(np.zeros((2, 3, 8000), dtype))
        assert rows.shape == expected.shape
        assert rows.dtype == expected.dtype
        (call,) = calls
        assert _name(call) == "FrameRows"
        assert _has(call, x)
        assert _has(call, rows)
        # 256 threads take n_fft / 2 / 8 each.
        at_once = 256 * 16 // front_end.options["n_fft"]
        assert call[1] == (-(-rows[..., 0].size // at_once), 1)
        assert call[2] == (256,)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_band_power_is_two_launches(on_gpu, calls, dtype):
    bands = BandPower(sample_rate=256)
    x = _on_gpu(np.zeros((2, 4, 2560)), dtype)
    power, valid = on_gpu.features(bands, x)
    expected = bands(np.zeros((2, 4, 2560), dtype))
    assert (power.shape, power.dtype) == (expected.power.shape, dtype)
    assert (valid.shape, valid.dtype) == (expected.valid.shape, bool)
    assert [_name(call) for call in calls] == ["BandSegments", "BandWindows"]
    assert _has(calls[0], x)
    assert _has(calls[1], power)
    assert _has(calls[1], valid)
    # A segment is transformed once: half a second from one to the next, two before the first whole window.
    assert calls[0][1][0] == -(-2 * 4 * (expected.power.shape[1] + 4) // 16)
    assert on_gpu.features(bands, _on_gpu(np.zeros((4, 100)), dtype)).power.shape == (0, 4, 6)
    with pytest.raises(InputError, match="channels"):
        on_gpu.features(bands, _on_gpu(np.zeros(2560), dtype))


def test_int16_and_strides_are_taken_as_they_mean(on_gpu, calls):
    x = _on_gpu(np.zeros((4, 4000)), np.int16)
    assert on_gpu.features(PowerSpectrogram(sample_rate=16000, n_fft=256), x).dtype == np.float32
    strided = _on_gpu(np.zeros((4000, 4))).T
    front_end = PowerSpectrogram(sample_rate=16000, n_fft=512)
    rows = on_gpu.features(front_end, strided.view(fake_cupy.Array))
    assert rows.shape == front_end(np.zeros((4, 4000), np.float32)).shape
    assert on_gpu.features(front_end, _on_gpu(np.zeros((0, 4000)))).shape[0] == 0


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (
            lambda: LogMel(sample_rate=16000, n_fft=400),
            "n_fft: expected a power of two from 64 to 4096.*got 400",
        ),
        (LogMel.librosa, "top_db"),
        (lambda: Mfcc(sample_rate=16000, n_fft=512, deltas=1), "deltas"),
        (lambda: LogMel(sample_rate=16000, n_fft=64, win_length=64, n_mels=33), "n_mels"),
        (lambda: "log-mel", "front_end"),
    ],
)
@pytest.mark.filterwarnings("ignore:n_mels")
def test_what_the_kernels_do_not_have_is_refused(on_gpu, calls, make, what):
    with pytest.raises(InputError, match=what):
        on_gpu.features(make(), _on_gpu(np.zeros(4000)))
    assert calls == []


def test_arrays_of_others_are_taken_without_a_copy(on_gpu, calls):
    held = np.zeros(4000, np.float32)

    class OnGpu:
        def __init__(self, device):
            self.device, self.held = device, held

        def __dlpack__(self):
            raise AssertionError

        def __dlpack_device__(self):
            return (self.device, 0)

    front_end = PowerSpectrogram(sample_rate=16000, n_fft=512)
    on_gpu.features(front_end, OnGpu(2))
    assert _has(calls[-1], held)
    for wrong in (OnGpu(1), held, [0.0] * 4000, None):
        with pytest.raises(InputError, match="samples must be an array on the GPU"):
            on_gpu.features(front_end, wrong)


def test_what_offers_no_order_of_streams_is_waited_for(on_gpu, calls):
    front_end = PowerSpectrogram(sample_rate=16000, n_fft=512)
    memory = np.zeros(4000, np.float32)

    class Held:
        held = memory

    class Unnamed(Held):
        __cuda_array_interface__ = {"version": 2}  # noqa: RUF012

    class Named(Held):
        __cuda_array_interface__ = {"version": 3, "stream": 7}  # noqa: RUF012

    class Both(Unnamed):  # as a tensor of torch
        def __dlpack__(self):
            raise AssertionError

        def __dlpack_device__(self):
            return 2, 0

    for value, waits in ((Both(), 0), (Named(), 0), (Unnamed(), 1)):
        on_gpu.cp.waits.clear()
        on_gpu.features(front_end, value)
        assert _has(calls[-1], memory)
        assert len(on_gpu.cp.waits) == waits


@pytest.mark.parametrize(
    ("samples", "kernels"), [(4000, ["WelchSums"]), (9000, ["WelchSums", "WelchFinish"])]
)
def test_welch_spectra_take_two_launches_where_signals_are_long(on_gpu, calls, samples, kernels):
    x = _on_gpu(np.zeros((2, 3, samples)))
    spectra = Welch(sample_rate=256)
    out = on_gpu.features(spectra, x)
    assert out.shape == (2, 3, 129)
    assert [_name(call) for call in calls] == kernels
    assert _has(calls[0], x)
    assert _has(calls[-1], out)
    with pytest.raises(InputError, match="at least n_per_seg = 256 of them, got 255"):
        on_gpu.features(spectra, x[..., :255])
    with pytest.raises(InputError, match="average"):
        on_gpu.features(Welch(sample_rate=256, average="median"), x)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 100), (4, 100, 3), (2, 100_000, 1)])
def test_ccc_starts_what_the_sizes_ask_for(on_gpu, calls, dtype, shape):
    p, y = (_on_gpu(np.zeros(shape), dtype) for _ in range(2))
    small = np.prod(shape) <= 2**14
    loss = on_gpu.ccc_loss(p, y)
    assert [_name(call) for call in calls] == (["CccSmall"] if small else ["CccSums", "CccFinish"])
    assert loss.shape == ()
    assert loss.dtype == dtype
    calls.clear()
    mask = _on_gpu(np.ones(shape[:2]), np.bool_)
    loss, to_p, to_y = on_gpu.ccc_loss(p, y, mask, over="batch", reduction="none", gradients=True)
    assert loss.shape == shape[2:]
    assert to_p.shape == to_y.shape == shape
    assert _name(calls[-1]) == "CccBackward"
    assert all(_has(calls[-1], array) for array in (p, y, to_p, to_y))


@pytest.mark.parametrize("number", ["float16", "float32", "float64"])
def test_contrastive_losses_give_the_loss_and_its_gradients(on_gpu, calls, number):
    a, b = (_on_gpu(np.ones((70, 24)), number) for _ in range(2))
    kind = np.float64 if number == "float64" else np.float32
    loss = on_gpu.info_nce_loss(a, b)
    assert loss.shape == ()
    assert loss.dtype == kind
    without = len(calls)
    found = on_gpu.info_nce_loss(a, b, gradients=True)
    assert len(calls) > 2 * without
    assert [x.shape for x in found] == [(), a.shape, b.shape, ()]
    assert {x.dtype for x in found} == {np.dtype(kind)}
    # Big tiles ask for their shared memory.
    assert all(c[0].max_dynamic_shared_size_bytes >= c[4] for c in calls if c[4] > 48 * 1024)
    labels = _on_gpu(np.arange(70) // 2, np.int32)
    assert len(on_gpu.sup_con_loss(a, labels, gradients=True)) == 3
    assert [x.shape for x in on_gpu.nt_xent_loss(a, b, gradients=True)] == [(), a.shape, b.shape, ()]


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda g, x: g.ccc_loss(x, x[:1]), "pred and target must both be"),
        (lambda g, x: g.ccc_loss(x, x.astype(np.float64)), "float32 or float64"),
        (lambda g, x: g.ccc_loss(x, x, x), "mask must be boolean"),
        (lambda g, x: g.ccc_loss(x, x, over="space"), "over must be one of"),
        (lambda g, x: g.ccc_loss(x, x, eps=-1), "eps"),
        (lambda g, x: g.info_nce_loss(x, x[:, :3]), "anchors and candidates must be"),
        (lambda g, x: g.info_nce_loss(x, x.astype(np.float16)), "all the same"),
        (lambda g, x: g.info_nce_loss(x, x, temperature=0), "temperature"),
        (lambda g, x: g.info_nce_loss(x, x, negatives=x), "symmetric=False"),
        (lambda g, x: g.info_nce_loss(x, x, negatives=x[:, :2], symmetric=False), "negatives must be"),
        (lambda g, x: g.info_nce_loss(x[:1], x[:1], positive_in_denominator=False), "at least 2 rows"),
        (lambda g, x: g.info_nce_loss(x[:0], x[:0]), "at least 1"),
        (lambda g, x: g.info_nce_loss(x, x, budget=-1), "budget"),
        (lambda g, x: g.sup_con_loss(x, x[:, 0]), "labels must be integers"),
    ],
)
def test_bad_input_is_named(on_gpu, calls, call, what):
    with pytest.raises(InputError, match=what):
        call(on_gpu, _on_gpu(np.ones((5, 8))))
    assert calls == []


def test_the_package_carries_the_device_code():
    assert {
        "ccc.cuh",
        "contrast.cuh",
        "device.cuh",
        "fourier.cuh",
        "spectra.cuh",
        "tiles.cuh",
        "types.hpp",
    } <= {path.name for path in _rtc.folder().iterdir()}
    code, names = _rtc.program(("CccFinish<float>", 8), ("CccFinish<double>", 16))
    assert code.count("static_assert") == len(names) == 2


def test_what_the_gpu_holds_stays(on_gpu, calls, monkeypatch):
    """A captured CUDA graph reads tables and runs kernels whenever it is replayed."""
    x, copies = _on_gpu(np.zeros(4000)), []
    to_gpu = on_gpu.cp.asarray
    monkeypatch.setattr(on_gpu.cp, "asarray", lambda *a: copies.append(1) or to_gpu(*a))
    front_ends = [PowerSpectrogram(sample_rate=16000, n_fft=512, hop_length=hop) for hop in range(100, 160)]
    for _ in range(2):
        for front_end in front_ends:
            on_gpu.features(front_end, x)
    assert len(copies) == len(front_ends)
    assert len({id(call[0]) for call in calls}) == 1


def test_launches_hold_no_more_than_a_grid_may():
    plan = _core.GpuFrames('{"n_fft": 512}', True)
    (launch,) = plan.launches(in_double=False, tables=16, x=16, signals=1000, samples=160_000, out=16)
    assert launch[1][0] == -(-1000 * plan.shape(160_000)[0] // 8)
