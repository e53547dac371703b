"""Ops of signals (..., time) with an options text: what each needs beside its kernel, told to torch once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from affekt.ops import gradient_of

__all__ = ["Reference", "exact", "register"]

#: (signal, options) -> the result, or a tuple of it and what has no gradient.
Reference = Callable[[Tensor, str], Any]


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
