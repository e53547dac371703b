"""The torch op library: loads, carries its schemas, and runs on the libaffekt of the package."""

# ruff: noqa: E402
from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import types

import numpy as np
import pytest

import affekt
from affekt import _core, ops

torch = pytest.importorskip("torch")

from affekt.losses import (
    ccc_loss,
    info_nce_loss,
    mcl_loss,
    nt_xent_loss,
    pairwise_info_nce_loss,
    sup_con_loss,
)


@pytest.fixture(autouse=True)
def _loaded():
    if ops.binary_path() is None:
        pytest.skip("this build has no torch op library (AFFEKT_TORCH=ON builds it)")
    ops.load_library()


LOG_MEL = json.dumps({"n_mels": 40, "hop_length": 80})


def test_runs_on_the_library_of_the_package():
    assert torch.ops.affekt._version() == affekt.__version__


def test_schemas():
    # Public schemas only grow; these are private so far and listed so that a change is seen.
    assert str(torch.ops.affekt._version.default._schema) == "affekt::_version() -> str"
    for schema in (
        "acoustic(Tensor signal, str options) -> Tensor",
        "spectrogram(Tensor signal, str options) -> Tensor",
        "stft(Tensor signal, str options) -> Tensor",
        "_acoustic_bwd(Tensor grad, Tensor signal, str options) -> Tensor",
        "welch(Tensor signal, str options) -> Tensor",
        "_welch_bwd(Tensor grad, Tensor signal, str options) -> Tensor",
        "band_power(Tensor signal, str options) -> (Tensor power, Tensor valid)",
        "_band_power_bwd(Tensor grad, Tensor valid, Tensor signal, str options) -> Tensor",
        "_ccc_fwd(Tensor pred, Tensor target, Tensor? mask, bool pool, int reduction, float eps, bool mixed)"
        " -> (Tensor loss, Tensor columns)",
        "_ccc_bwd(Tensor grad, Tensor pred, Tensor target, Tensor? mask, Tensor columns, bool pool,"
        " bool for_pred, bool for_target) -> (Tensor grad_pred, Tensor grad_target)",
        "_info_nce(Tensor a, Tensor b, Tensor? negatives, Tensor scale, int shift, bool exclude,"
        " bool columns, float weight, int budget, bool for_a, bool for_b,"
        " bool loose)"
        " -> (Tensor loss, Tensor grad_a, Tensor grad_b, Tensor grad_scale)",
        "_sup_con(Tensor z, Tensor labels, Tensor? negatives, Tensor scale, int budget, bool for_z,"
        " bool loose)"
        " -> (Tensor loss, Tensor grad_z, Tensor grad_scale)",
        "_log_sums(Tensor a, Tensor b, Tensor scale, bool exclude, bool columns, int budget, bool loose)"
        " -> (Tensor row, Tensor col)",
        "_log_sums_bwd(Tensor a, Tensor b, Tensor scale, Tensor row, Tensor? col, bool exclude, int budget,"
        " bool for_a, bool for_b, bool loose) -> (Tensor grad_a, Tensor grad_b, Tensor grad_scale)",
        "_tcn_block(Tensor x, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, Tensor? residual,"
        " Tensor? residual_bias, Tensor? keys, int dilation, float slope, float dropout, bool loose)"
        " -> (Tensor y, Tensor h1, Tensor h2)",
        "_tcn_block_bwd(Tensor grad, Tensor x, Tensor y, Tensor h1, Tensor h2, Tensor weight1,"
        " Tensor weight2, Tensor? residual, int dilation, float slope, float dropout, bool for_x,"
        " bool for_weights, bool loose) -> (Tensor grad_x, Tensor grad_weight1, Tensor grad_bias1,"
        " Tensor grad_weight2, Tensor grad_bias2, Tensor grad_residual, Tensor grad_residual_bias)",
    ):
        name = schema.partition("(")[0]
        assert str(getattr(torch.ops.affekt, name).default._schema) == f"affekt::{schema}"


def test_loading_twice_is_harmless():
    ops.load_library()
    ops.load_library()
    assert torch.ops.affekt._version() == affekt.__version__


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4000,), (3, 2000), (2, 3, 1000), (0, 1000), (2, 100), (0,)])
def test_front_end_equals_the_core_bit_for_bit(shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    ours = torch.ops.affekt.acoustic(torch.from_numpy(x), LOG_MEL)
    expected = _core.FrontEnd(LOG_MEL).compute(x)
    assert ours.dtype == torch.from_numpy(x).dtype
    assert ours.shape == expected.shape
    assert np.array_equal(ours.numpy(), expected)


def test_front_end_takes_any_strides():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        torch.ops.affekt.acoustic(x.T, LOG_MEL), torch.ops.affekt.acoustic(x.T.contiguous(), LOG_MEL)
    )


def test_front_end_is_the_same_for_any_number_of_threads():
    x = torch.randn(17, 3000, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = torch.ops.affekt.acoustic(x, LOG_MEL)
        torch.set_num_threads(4)
        assert torch.equal(one, torch.ops.affekt.acoustic(x, LOG_MEL))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("signal", "options", "message"),
    [
        (torch.zeros(()), LOG_MEL, "signal: expected shape"),
        (torch.zeros(1000, dtype=torch.int32), LOG_MEL, "signal: expected dtype float32 or float64"),
        (torch.full((3, 1000), float("nan")), LOG_MEL, "finite"),
        (torch.zeros(1000), '{"n_fft": 0}', "n_fft"),
        (torch.zeros(1000), '{"colour": 1}', "colour"),
        (torch.zeros(1000), "not json", "JSON"),
    ],
)
def test_front_end_refuses_bad_input(signal, options, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.affekt.acoustic(signal, options)


def test_front_end_passes_the_checks_of_torch():
    x = torch.randn(2, 1000)
    torch.library.opcheck(
        torch.ops.affekt.acoustic.default, (x, LOG_MEL), test_utils=("test_schema", "test_faketensor")
    )


def test_front_end_in_torchscript():
    @torch.jit.script
    def rows(x: torch.Tensor, options: str) -> torch.Tensor:
        return torch.ops.affekt.acoustic(x, options)

    x = torch.randn(1000)
    assert torch.equal(rows(x, LOG_MEL), torch.ops.affekt.acoustic(x, LOG_MEL))


def losses():
    labels, q = torch.randint(0, 3, (8,), generator=torch.Generator().manual_seed(0)), torch.randn(4, 5)
    return {
        "ccc": ccc_loss,
        "info_nce": info_nce_loss,
        "one-sided": lambda a, b: info_nce_loss(a, b, symmetric=False, negatives=q),
        "pairwise": lambda a, b: pairwise_info_nce_loss([a, b, a + b]),
        "nt_xent": nt_xent_loss,
        "sup_con": lambda a, b: sup_con_loss(a, labels) + 0 * b.sum(),
        "mcl": lambda a, b: mcl_loss([a, b], [b, a]),
    }


@pytest.mark.parametrize("name", losses())
def test_losses_compile_into_one_graph(name):
    loss = losses()[name]
    a, b = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(1)).unbind()
    grads = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        inputs = [v.clone().requires_grad_() for v in (a, b)]
        function(*inputs).backward()
        grads.append(torch.stack([v.grad for v in inputs]))
    assert torch.allclose(grads[0], grads[1], atol=1e-6)


@pytest.fixture
def torch_says_cuda(monkeypatch):
    known = ops._cuda_loaded, ops._fits

    def forget():
        for answers in known:
            answers.cache_clear()

    forget()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    yield monkeypatch
    forget()


class _OnCuda:
    is_cpu, is_cuda = False, True

    def __init__(self, index=0):
        self.device = types.SimpleNamespace(index=index)


def test_tensors_of_other_devices_go_to_plain_torch_in_silence(torch_says_cuda, recwarn):
    torch_says_cuda.setattr(torch.cuda, "is_available", lambda: False)
    assert ops.native(torch.zeros(1))
    assert not ops.native(torch.zeros(1, device="meta"))
    assert not ops.native(_OnCuda(), cuda=True)
    assert not recwarn


def test_ops_of_signals_run_on_cuda_where_the_kernels_take_their_options():
    found = {
        (op, n_fft): ops.on_cuda(op, f'{{"n_fft": {n_fft}, "n_per_seg": 256}}' if op == "welch" else options)
        for n_fft in (400, 512)
        for op, options in (
            ("acoustic", f'{{"n_fft": {n_fft}}}'),
            ("stft", f'{{"n_fft": {n_fft}}}'),
            ("band_power", f'{{"n_fft": {n_fft}}}'),
            ("welch", ""),
            ("causal_conv_block", ""),
        )
    }
    assert {key for key, takes in found.items() if takes} == {
        ("acoustic", 512),
        ("stft", 512),
        ("band_power", 512),
        ("welch", 512),
    }


_SWITCHES = """
import torch
from affekt import ops

assert (ops.tf32_allowed("conv"), ops.tf32_allowed("matmul")) == (True, False)  # torch's defaults
backends = torch.backends
for on in (False, True):
    if NEW:
        torch.compiler.reset()  # what was compiled keeps what it found
        backends.cudnn.conv.fp32_precision = backends.cuda.matmul.fp32_precision = "tf32" if on else "ieee"
    else:
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = on
    for products in ("conv", "matmul"):
        asked = torch.compile(lambda x: x + ops.tf32_allowed(products), fullgraph=True, backend="eager")
        assert asked(torch.zeros(1)).item() == on
    assert ops.tf32_allowed("conv") is ops.tf32_allowed("matmul") is on
"""


@pytest.mark.parametrize("new", [False, True])
def test_both_spellings_of_tf32_are_heard(new):
    # A process of its own: torch refuses the older spelling after the newer one.
    program = [sys.executable, "-c", _SWITCHES.replace("NEW", str(new))]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_cuda_ops_that_cannot_be_had_are_one_warning(torch_says_cuda, tmp_path):
    cpu = ops.binary_path()
    broken = tmp_path / "libaffekt_ops_cuda.so"
    broken.write_bytes(b"no library")
    for path, message in ((None, "AFFEKT_CUDA=ON"), (broken, "cannot load")):
        ops._cuda_loaded.cache_clear()
        torch_says_cuda.setattr(ops, "binary_path", lambda *, cuda=False, path=path: path if cuda else cpu)
        with pytest.warns(UserWarning, match=message) as caught:
            answers = [ops.native(_OnCuda(), cuda=True) for _ in range(2)]
        assert answers == [False, False]
        assert len(caught) == 1
    assert ops.native(torch.zeros(1))


def test_each_gpu_stands_for_itself(torch_says_cuda):
    asked = []

    def problem(index):
        asked.append(index)
        return "no kernel image for this GPU" if index == 1 else ""

    torch_says_cuda.setattr(ops, "_cuda_loaded", lambda: True)
    torch_says_cuda.setattr(ops, "_cuda_problem", problem)
    torch_says_cuda.setattr(torch.cuda, "current_device", lambda: 1)
    with pytest.warns(UserWarning, match="no kernel image") as caught:
        found = [ops.native(_OnCuda(index), cuda=True) for index in (0, 1, 0, 1, 2)]
    assert found == [True, False, True, False, True]
    assert asked == [0, 1, 2]
    assert len(caught) == 1
    assert ops.cuda_available(2)
    assert not ops.cuda_available()  # of the current one


@pytest.mark.skipif(
    ops.binary_path(cuda=True) is None and "AFFEKT_REQUIRE_CUDA_OPS" not in os.environ,
    reason="this build has no CUDA ops (AFFEKT_CUDA=ON)",
)
@pytest.mark.skipif(
    torch.cuda.is_available(), reason="this machine has CUDA: scripts/gpu_check.py tests there"
)
def test_cuda_ops_load_without_cuda_and_say_why_they_cannot_run(torch_says_cuda):
    assert ops.binary_path(cuda=True) is not None
    torch_says_cuda.setattr(torch.cuda, "current_device", lambda: 0)
    torch_says_cuda.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    with pytest.warns(UserWarning, match=r"torch has no libtorch_cuda\.so|no GPU|driver"):
        assert not ops.cuda_available()
