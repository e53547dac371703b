"""The op of a residual block of the TCN, and the same in plain torch."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from affekt.ops import Op, gradient_of

__all__ = ["block", "register"]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, _, dilation, slope, dropout = inputs
    ctx.options = dilation, slope, dropout
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    *inputs, y, h1, h2 = ctx.saved_tensors
    x, weight1, _, weight2, _, residual, _ = inputs
    wanted = ctx.needs_input_grad[:7]
    grads: Any
    if grad is None:
        grads = [None] * 7
    elif torch.is_grad_enabled():  # somebody differentiates the gradient
        grads = gradient_of(partial(_reference, (h1, h2), ctx.options), inputs, wanted, grad)
    else:
        found = torch.ops.affekt._tcn_block_bwd.default(
            grad, x, y, h1, h2, weight1, weight2, residual, *ctx.options, wanted[0], any(wanted[1:])
        )
        grads = [g if want else None for g, want in zip(found, wanted, strict=True)]
    return (*grads, None, None, None, None)


def _reference(
    outputs: tuple[Tensor, Tensor],
    options: tuple[int, float, float],
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    residual: Tensor | None,
    residual_bias: Tensor | None,
) -> Tensor:
    """The op `_tcn_block` in plain torch, dropping what it dropped: its h1 and h2 are -0 there alone."""
    (h1, h2), (dilation, slope, dropout), functional = outputs, options, torch.nn.functional

    def conv(x: Tensor, weight: Tensor, bias: Tensor, h: Tensor) -> Tensor:
        x = functional.pad(x, ((weight.shape[2] - 1) * dilation, 0))
        z = functional.leaky_relu(functional.conv1d(x, weight, bias, dilation=dilation), slope)
        dropped = (h == 0) & h.signbit()
        return z.masked_fill(dropped.transpose(1, 2), 0) / (1 - dropout)

    x = x.transpose(1, 2)
    y = conv(conv(x, weight1, bias1, h1), weight2, bias2, h2)
    aside = x if residual is None else functional.conv1d(x, residual, residual_bias)
    return functional.leaky_relu(y + aside, slope).transpose(1, 2)


def _fake(
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


def _fake_backward(
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


#: One residual block: x (batch, time, width), the weights, keys of the dropout or None, dilation, slope and
#: dropout -> (batch, time, channels).
block = Op("_tcn_block", _fake, _setup, _backward)


@cache
def register() -> None:
    """Tell torch the shapes and gradients of the op."""
    block.register()
    torch.library.register_fake("affekt::_tcn_block_bwd", _fake_backward)
