"""Ops of signals (..., time) with an options text: what each needs beside its kernel, told to torch once.

What the plain forms take from a native plan, named by its class in `affekt._core` and its options text, goes
through `filled`, `number` and `table`, because the compiler cannot look into a plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any

import torch
from torch import Tensor

from affekt import _core
from affekt.ops import gradient_of

__all__ = ["Reference", "exact", "filled", "number", "register", "table"]

#: (signal, options) -> the result, or a tuple of it and what has no gradient.
Reference = Callable[[Tensor, str], Any]


def _constant(function: Callable[..., Any]) -> Any:
    """`function` with its results kept, which the compiler takes as they are."""
    kept = lru_cache(maxsize=64)(function)

    @wraps(function)
    def constant(*args: Any) -> Any:
        return kept(*args)

    constant._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result
    return constant


@lru_cache(maxsize=64)
def _plan(kind: str, options: str) -> Any:
    return getattr(_core, kind)(options)


@_constant
def filled(kind: str, options: str) -> dict[str, Any]:
    """The options with every default filled in."""
    found: dict[str, Any] = json.loads(_plan(kind, options).options)
    return found


@_constant
def number(kind: str, options: str, name: str) -> int:
    """A count that the plan knows."""
    return int(getattr(_plan(kind, options), name))


@lru_cache(maxsize=64)
def _array(kind: str, options: str, name: str) -> Any:
    return getattr(_plan(kind, options), name)


def table(kind: str, options: str, name: str, like: Tensor) -> Tensor:
    """A table of the plan, as "window", on the device and in the dtype of `like`."""
    make = _copied if torch.compiler.is_dynamo_compiling() else _tensor
    found: Tensor = make(kind, options, name)
    return found.to(like.device, like.dtype)


def _tensor(kind: str, options: str, name: str) -> Tensor:
    """Never kept: a tensor made inside a transform of `torch.func` belongs to it."""
    return torch.from_numpy(_array(kind, options, name))


@torch.library.custom_op(
    "affekt_plain::table", mutates_args=(), schema="(str kind, str options, str name) -> Tensor"
)
def _copied(kind: str, options: str, name: str) -> Tensor:
    """The table for a compiled graph."""
    return _tensor(kind, options, name).clone()


@_copied.register_fake
def _(kind: str, options: str, name: str) -> Tensor:
    return torch.empty(_array(kind, options, name).shape, dtype=torch.float64)


def exact(function: Reference) -> Reference:
    """Without autocast, which would take the products in half precision."""

    def run(signal: Tensor, options: str) -> Any:
        device = signal.device.type
        if not torch.amp.is_autocast_available(device):
            return function(signal, options)
        with torch.autocast(device, enabled=False):
            return function(signal, options)

    return run


def register(name: str, reference: Reference, fake: Reference) -> None:
    """Give op `name` its shapes (`fake`), gradients, and rules of vmap and autocast.

    Its native gradient is op ``_name_bwd(grad, *rest, signal, options)`` with the further outputs `rest`;
    that of the gradient goes through `reference`.
    """
    op = getattr(torch.ops.affekt, name).default
    gradient = getattr(torch.ops.affekt, f"_{name}_bwd").default

    def setup(ctx: Any, inputs: Any, output: Any) -> None:
        signal, ctx.options = inputs
        ctx.save_for_backward(signal, *(output[1:] if isinstance(output, tuple) else ()))

    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, None]:
        signal, *rest = ctx.saved_tensors

        def first(x: Tensor) -> Any:
            found = reference(x, ctx.options)
            return found[0] if isinstance(found, tuple) else found

        if torch.is_grad_enabled():  # somebody differentiates the gradient
            return gradient_of(first, (signal,), (True,), grad)[0], None
        if signal.is_cuda:  # where native gradients are missing
            with torch.enable_grad():
                x = signal.detach().requires_grad_()
                return torch.autograd.grad(first(x), x, grad)[0], None
        if grad.is_complex():
            grad = torch.view_as_real(grad.resolve_conj())
        return gradient(grad, *rest, signal, ctx.options), None

    def batched(info: Any, in_dims: Any, signal: Tensor, options: str) -> tuple[Any, Any]:
        out = op(signal.movedim(in_dims[0], 0), options)
        return out, (0,) * len(out) if isinstance(out, tuple) else 0

    torch.library.register_fake(f"affekt::{name}", fake)
    torch.library.register_fake(
        f"affekt::_{name}_bwd", lambda grad, *rest: torch.empty_like(rest[-2].contiguous())
    )
    torch.library.register_autograd(f"affekt::{name}", backward, setup_context=setup)
    torch.library.register_vmap(f"affekt::{name}", batched)
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"affekt::{name}", device, torch.float32)
