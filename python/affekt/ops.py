"""The native kernels as torch custom ops, `torch.ops.affekt.*`.

The ops live in a shared library of their own that is built on request (``AFFEKT_TORCH=ON``) and loads into
any torch from 2.10 on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from affekt import _core
from affekt._lazy import require
from affekt.errors import AffektError

__all__ = ["available", "differentiable", "gradient_of", "library_path", "load_library", "native"]


def library_path() -> Path | None:
    """Path of the op library, or None in a build without it."""
    path = Path(_core.__file__).with_name("libaffekt_ops.so")
    return path if path.exists() else None


@cache
def load_library() -> None:
    """Register `torch.ops.affekt.*` with torch; a second call does nothing.

    Raises
    ------
    MissingExtraError : torch is not installed.
    AffektError : affekt was built without the op library, or torch refuses it.
    """
    torch = require("torch", purpose="the torch ops")
    path = library_path()
    if path is None:
        raise AffektError(
            "this build of affekt has no torch ops: build it with AFFEKT_TORCH=ON in the environment"
        )
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        raise AffektError(f"torch {torch.__version__} cannot load {path}: {error}") from error

    @torch.library.register_fake("affekt::_frontend")
    def _(signal: Any, options: str) -> Any:
        plan = _core.FrontEnd(options)
        return signal.new_empty((*signal.shape[:-1], plan.frames(int(signal.shape[-1])), plan.features))

    @torch.library.register_fake("affekt::_ccc_fwd")
    def _(pred: Any, target: Any, mask: Any, pool: bool, reduction: int, eps: float, mixed: bool) -> Any:
        of_group, of_dim = ([] if pool else [pred.shape[0]]), list(pred.shape[2:])
        columns = (1 if pool else pred.shape[0]) * (pred.shape[2] if pred.dim() == 3 else 1)
        loss = pred.new_empty(of_group + of_dim if reduction == 2 else [])
        return loss, pred.new_empty((columns, 7), dtype=torch.float64)

    @torch.library.register_fake("affekt::_ccc_bwd")
    def _(
        grad: Any,
        pred: Any,
        target: Any,
        mask: Any,
        columns: Any,
        pool: bool,
        for_pred: bool,
        for_target: bool,
    ) -> Any:
        return tuple(pred.new_empty(pred.shape if asked else (0,)) for asked in (for_pred, for_target))

    @torch.library.register_fake("affekt::_info_nce")
    def _(
        a: Any,
        b: Any,
        negatives: Any,
        scale: Any,
        shift: int,
        exclude: bool,
        columns: bool,
        weight: float,
        budget: int,
        for_a: bool,
        for_b: bool,
    ) -> Any:
        grads = (x.new_empty(x.shape if asked else (0,)) for x, asked in ((a, for_a), (b, for_b)))
        return a.new_empty(()), *grads, a.new_empty(())

    @torch.library.register_fake("affekt::_sup_con")
    def _(z: Any, labels: Any, negatives: Any, scale: Any, budget: int, for_z: bool) -> Any:
        return z.new_empty(()), z.new_empty(z.shape if for_z else (0,)), z.new_empty(())

    @torch.library.register_fake("affekt::_tcn_block")
    def _(
        x: Any,
        weight1: Any,
        bias1: Any,
        weight2: Any,
        bias2: Any,
        residual: Any,
        residual_bias: Any,
        keys: Any,
        dilation: int,
        slope: float,
        dropout: float,
    ) -> Any:
        return tuple(x.new_empty((*x.shape[:2], weight1.shape[0])) for _ in range(3))

    @torch.library.register_fake("affekt::_tcn_block_bwd")
    def _(
        grad: Any,
        x: Any,
        y: Any,
        h1: Any,
        h2: Any,
        weight1: Any,
        weight2: Any,
        residual: Any,
        dilation: int,
        slope: float,
        dropout: float,
        for_x: bool,
        for_weights: bool,
    ) -> Any:
        out = weight1.shape[:1]
        aside = for_weights and residual is not None
        return (
            x.new_empty(x.shape if for_x else (0,)),
            *(x.new_empty(s if for_weights else (0,)) for s in (weight1.shape, out, weight2.shape, out)),
            *(x.new_empty(s if aside else (0,)) for s in ((*out, x.shape[2], 1), out)),
        )


@cache
def available() -> bool:
    """Load the op library; False, with one warning, where this build or this torch cannot have it.

    Callers then compute the same in plain torch.
    """
    try:
        load_library()
    except AffektError as error:
        warnings.warn(f"{error}. Plain torch computes the same numbers, more slowly.", stacklevel=3)
        return False
    return True


def native(tensor: Any) -> bool:
    """Tell whether the ops can take this tensor: on the CPU, outside the transforms of `torch.func`."""
    return bool(tensor.is_cpu and available() and not _transform_probe()())


@cache
def _transform_probe() -> Callable[[], bool]:
    probe: Callable[[], bool] = require("torch", purpose="the torch ops")._C._are_functorch_transforms_active
    return probe


def differentiable(
    name: str, setup: Callable[[Any, Any, Any], None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """Give the op `name` its gradient, and return a faster way to its first output.

    `setup(ctx, inputs, output)` and `backward(ctx, *grads)` are those of `torch.library.register_autograd`.
    What is returned is the op as an autograd function, which in eager mode costs half of the detour through
    the dispatcher; a loss of a few values is all overhead.
    """
    torch = require("torch", purpose="the torch ops")
    load_library()
    namespace, _, op = name.partition("::")
    overload = getattr(getattr(torch.ops, namespace), op).default
    torch.library.register_autograd(name, backward, setup_context=setup)
    # Autograd is handled here: the op's own, above, would only cost a second round through Python.
    below_autograd = torch._C._AutoDispatchBelowAutograd

    def forward(ctx: Any, *inputs: Any) -> Any:
        with below_autograd():
            output = overload(*inputs)
        setup(ctx, inputs, output)
        return output[0]

    function = type(
        op,
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(backward)},
    )
    apply: Callable[..., Any] = function.apply  # type: ignore[attr-defined]
    return apply


def gradient_of(
    reference: Callable[..., Any], inputs: Sequence[Any], wanted: Sequence[bool], grad: Any
) -> list[Any]:
    """Return the gradients of reference(*inputs) that are `wanted`, else None; differentiable again.

    For the backward pass of an op whose own gradient cannot be differentiated: `reference` computes the same
    in plain torch.
    """
    torch = require("torch", purpose="the torch ops")
    of = [value for value, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(reference(*inputs), of, grad, create_graph=True))
    return [next(found) if want else None for want in wanted]
