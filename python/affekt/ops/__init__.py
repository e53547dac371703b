"""The native kernels as torch custom ops, `torch.ops.affekt.*`.

The ops live in a shared library of their own that is built on request (``AFFEKT_TORCH=ON``) and loads into
any torch from 2.10 on. Their CUDA kernels are a second one (``AFFEKT_CUDA=ON``), which is loaded at the first
CUDA tensor.

Public ops, whose schemas only ever grow, for TorchScript and for programs in C++; their arguments are those
of the functions named:

- ``acoustic``, ``spectrogram``, ``stft``, ``welch``, ``band_power``: a signal, and as JSON text the
  ``options`` of `LogMel` or `Mfcc`, `PowerSpectrogram`, `Stft`, and the plans of `welch` and `BandPower`;
- ``ccc_loss``, ``info_nce_loss``, ``pairwise_info_nce_loss``, ``nt_xent_loss``, ``sup_con_loss``: the
  functions of `affekt.losses`; ``learned_temperature``, a tensor of one value, takes the place of
  ``temperature`` and gets its gradient;
- ``causal_conv_block``: a residual block of `affekt.nn.TCN`, see `affekt.ops.tcn.causal_conv_block`.

In Python they differentiate, compile and export; the losses once `affekt.losses` is imported. A program in
C++ loads the library with ``dlopen`` before the script and computes without gradients: a result of tensors
that require them has its value, and ``backward`` warns that the op has no autograd kernel and gives none.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from affekt import _core
from affekt._lazy import require
from affekt.errors import AffektError

__all__ = [
    "Op",
    "available",
    "binary_path",
    "compose",
    "cuda_available",
    "gradient_of",
    "load_library",
    "native",
    "on_cuda",
    "tf32_allowed",
]


def binary_path(*, cuda: bool = False) -> Path | None:
    """Path of the op library, or of its CUDA kernels; None in a build without it."""
    path = Path(_core.__file__).with_name("libaffekt_ops_cuda.so" if cuda else "libaffekt_ops.so")
    return path if path.exists() else None


_loading = threading.Lock()


def load_library() -> None:
    """Register `torch.ops.affekt.*` with torch; a second call does nothing. Any thread may call it.

    Raises
    ------
    MissingExtraError : torch is not installed.
    AffektError : affekt was built without the op library, or torch refuses it.
    """
    with _loading:  # a cache alone would let two threads in
        _load_library()


@cache
def _load_library() -> None:
    torch = require("torch", purpose="the torch ops")
    path = binary_path()
    if path is None:
        raise AffektError(
            "this build of affekt has no torch ops: build it with AFFEKT_TORCH=ON in the environment"
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise AffektError(f"torch {torch.__version__} cannot load {path}: {error}") from error

    from affekt.ops import acoustic, bandpower, losses, tcn

    for part in (acoustic, bandpower, losses, tcn):
        part.register()


def available() -> bool:
    """Load the op library; False, with one warning, where this build or this torch cannot have it.

    Callers then compute the same in plain torch.
    """
    return _loaded()


available._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result


@cache
def _loaded() -> bool:
    try:
        load_library()
    except AffektError as error:
        warnings.warn(f"{error}. Plain torch computes the same numbers, more slowly.", stacklevel=4)
        return False
    return True


def cuda_available(index: int | None = None) -> bool:
    """Load the CUDA kernels of the ops; False, with one warning, where they cannot be had.

    `index`: of the GPU, else the current one; a machine may have several kinds. Always False, without a
    warning, where torch has no CUDA.
    """
    torch = require("torch", purpose="the torch ops")
    if not torch.cuda.is_available() or not available() or not _cuda_loaded():
        return False
    return _fits(torch.cuda.current_device() if index is None else index)


cuda_available._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as above


def _said(problem: str) -> bool:
    """Warn of a problem, if there is one; tell whether there is none."""
    if problem:
        warnings.warn(f"{problem}. Plain torch computes the same numbers, more slowly.", stacklevel=5)
    return not problem


@cache
def _cuda_loaded() -> bool:
    torch = sys.modules["torch"]
    path = binary_path(cuda=True)
    if path is None:
        return _said("this build of affekt has no CUDA ops: build it with AFFEKT_CUDA=ON in the environment")
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return _said(f"torch {torch.__version__} cannot load {path}: {error}")
    return True


@cache
def _fits(index: int) -> bool:
    """Tell whether the kernels run on this GPU."""
    return _said(_cuda_problem(index))


def _cuda_problem(index: int) -> str:
    torch = sys.modules["torch"]
    with torch.cuda.device(index):
        return str(torch.ops.affekt._cuda_problem())


def on_cuda(op: str, options: str) -> bool:
    """Tell whether an op of signals has CUDA kernels for these options."""
    return _on_cuda(op, options)


on_cuda._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as above


@lru_cache(maxsize=64)
def _on_cuda(op: str, options: str) -> bool:
    return not _core.gpu_unfit(op, options)


def tf32_allowed(products: str) -> bool:
    """Tell whether torch lets CUDA round float32 to tf32 in the products named: ``"matmul"`` or ``"conv"``.

    Both spellings of its switches count, `allow_tf32` and `fp32_precision`. What was compiled follows a later
    change of the first alone.
    """
    backends = sys.modules["torch"].backends
    if sys.modules["torch"].compiler.is_compiling() and not _precision_named(products):
        return bool(backends.cuda.matmul.allow_tf32 if products == "matmul" else backends.cudnn.allow_tf32)
    return _tf32_allowed(products)


def _tf32_allowed(products: str) -> bool:
    # The older names raise once the newer ones were used.
    backends = sys.modules["torch"].backends
    of = backends.cuda.matmul if products == "matmul" else backends.cudnn.conv
    return bool(of.fp32_precision == "tf32")


def _precision_named(products: str) -> bool:
    """Tell whether somebody used the newer spelling, after which the compiler fails on the older one."""
    backends = sys.modules["torch"].backends
    try:
        _ = backends.cuda.matmul.allow_tf32 if products == "matmul" else backends.cudnn.allow_tf32
    except RuntimeError:
        return True
    return False


for _constant in (_tf32_allowed, _precision_named):
    _constant._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as above


def native(tensor: Any, *, cuda: bool = False) -> bool:
    """Tell whether an op can take this tensor: on the CPU, outside the transforms of `torch.func`.

    `cuda`: the op has CUDA kernels, so it can also take tensors there where these load.
    """
    here = tensor.is_cpu or (cuda and tensor.is_cuda and cuda_available(tensor.device.index))
    if not here or not available():
        return False
    torch = sys.modules["torch"]
    return bool(torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active())


class Op:
    """An op of this library with its shapes and its gradient; a call gives its first output.

    `fake` and `setup(ctx, inputs, output)` and `backward(ctx, *grads)` are those of `torch.library`. In eager
    mode a call goes through an autograd function, which costs half of the detour through the dispatcher: a
    loss of a few values is all overhead. Traced by the compiler it is the op itself.
    """

    def __init__(
        self,
        name: str,
        fake: Callable[..., Any],
        setup: Callable[[Any, Any, Any], None],
        backward: Callable[..., Any],
    ) -> None:
        self.name, self._fake, self._setup, self._backward = name, fake, setup, backward
        self._overload: Any = None
        self._apply: Any = None

    def register(self) -> None:
        """Tell torch; the library must be loaded."""
        torch = sys.modules["torch"]
        self._overload = overload = getattr(torch.ops.affekt, self.name).default
        setup, backward = self._setup, self._backward
        torch.library.register_fake(f"affekt::{self.name}", self._fake)
        torch.library.register_autograd(f"affekt::{self.name}", backward, setup_context=setup)
        # Autograd is handled here: the op's own, above, would only cost a second round through Python.
        below_autograd = torch._C._AutoDispatchBelowAutograd

        def forward(ctx: Any, *inputs: Any) -> Any:
            with below_autograd():
                output = overload(*inputs)
            setup(ctx, inputs, output)
            return output[0]

        parts = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        function: Any = type(self.name, (torch.autograd.Function,), parts)
        self._apply = function.apply
        self._compiling = torch.compiler.is_compiling

    def __call__(self, *inputs: Any) -> Any:
        return self._overload(*inputs)[0] if self._compiling() else self._apply(*inputs)


@cache
def _library() -> Any:
    return sys.modules["torch"].library.Library("affekt", "IMPL")


def compose(name: str, form: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Give a public op its differentiable `form` in Python, made of other ops, and its shapes.

    The kernels of the library are what runs below autograd, and without Python.
    """
    _library().impl(name, form, "Autograd")
    sys.modules["torch"].library.register_fake(f"affekt::{name}", fake)


def gradient_of(
    reference: Callable[..., Any], inputs: Sequence[Any], wanted: Sequence[bool], grad: Any
) -> list[Any]:
    """Return the gradients of reference(*inputs) that are `wanted`, else None; differentiable again.

    For the backward pass of an op whose own gradient cannot be differentiated: `reference` computes the same
    in plain torch.
    """
    torch = require("torch", purpose="the torch ops")
    # Views: what one input owes to another is not for this op to count.
    inputs = [value if value is None else value.view_as(value) for value in inputs]
    of = [value for value, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(reference(*inputs), of, grad, create_graph=True))
    return [next(found) if want else None for want in wanted]
