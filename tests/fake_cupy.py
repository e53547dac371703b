"""CuPy as far as affekt.cupy uses it, on NumPy, for machines without a GPU: kernels are noted, not run."""

from __future__ import annotations

import contextlib
import types

import numpy as np

from affekt import _rtc


class Array(np.ndarray):
    """An array of NumPy that says where it lies as CuPy does."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    @property
    def device(self):
        return Device()


class Device(contextlib.nullcontext):
    id = 0


class Kernel:
    def __init__(self, calls, code):
        self.calls, self.code = calls, code
        self.max_dynamic_shared_size_bytes = 0

    def __call__(self, grid, block, args, *, shared_mem):
        self.calls.append((self, grid, block, args, shared_mem))


def module(made):
    """Return a module that adds what is started to `made`: kernel, grid, block, arguments, shared memory."""

    class RawModule:
        def __init__(self, *, code, options, name_expressions):
            assert f"-I{_rtc.folder()}" in options
            self.kernels = {name: Kernel(made, code) for name in name_expressions}

        def get_function(self, name):
            return self.kernels[name]

    fake = types.ModuleType("cupy")
    fake.ndarray, fake.RawModule = Array, RawModule
    stream = types.SimpleNamespace(synchronize=lambda: None)
    fake.waits = []
    fake.cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(
            getDevice=lambda: 0, deviceSynchronize=lambda: fake.waits.append("device")
        ),
        get_current_stream=lambda: stream,
    )
    for name in (
        "empty", "full", "ones", "arange", "concatenate", "empty_like", "ascontiguousarray", "broadcast_to",
    ):  # fmt: skip
        function = getattr(np, name)
        setattr(fake, name, lambda *a, _of=function, **k: np.asarray(_of(*a, **k)).view(Array))
    fake.asarray = lambda x, *a: np.asarray(getattr(x, "held", x), *a).view(Array)
    fake.from_dlpack = lambda x: np.asarray(x.held).view(Array)
    fake.float16, fake.float32 = np.float16, np.float32
    random = np.random.default_rng(0)
    fake.random = types.SimpleNamespace(
        standard_normal=lambda shape, dtype: random.standard_normal(shape, dtype).view(Array)
    )
    return fake
