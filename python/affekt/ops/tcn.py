"""The op of a residual block of the TCN, and the same in plain torch."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from affekt.errors import InputError
from affekt.ops import Op, compose, gradient_of, tf32_allowed
from affekt.ops import native as runs_natively

__all__ = ["block", "causal_conv_block", "may_round", "register"]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, _, dilation, slope, dropout, ctx.loose = inputs
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
            grad,
            x,
            y,
            h1,
            h2,
            weight1,
            weight2,
            residual,
            *ctx.options,
            wanted[0],
            any(wanted[1:]),
            ctx.loose,
        )
        grads = [g if want else None for g, want in zip(found, wanted, strict=True)]
    return (*grads, None, None, None, None, None)


def may_round(x: Tensor) -> bool:
    """Tell whether products may be rounded to tf32: as torch allows its own convolutions on CUDA."""
    return bool(x.is_cuda) and tf32_allowed("conv")


def causal_conv_block(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    residual: Tensor | None = None,
    residual_bias: Tensor | None = None,
    *,
    dilation: int = 1,
    slope: float = 0.01,
    dropout: float = 0.0,
    keys: Tensor | None = None,
) -> Tensor:
    """A residual block of `affekt.nn.TCN`; in Python, `torch.ops.affekt.causal_conv_block` is this function.

    With conv the causal convolution of dilation d, y_t = b + sum_j W[:, :, j] x_{t - (k-1-j) d}, and f the
    leaky rectifier of `slope`:

        h = dropout(f(conv1(x))),   out = f(dropout(f(conv2(h))) + residual(x)).

    Parameters
    ----------
    x : `(batch, time, in)`.
    weight1, bias1, weight2, bias2 : `(out, in, k)`, `(out,)`, `(out, out, k)`, `(out,)`.
    residual, residual_bias : `(out, in, 1)` and `(out,)`; None where in = out and the input itself is added.
    dilation : d, at least 1.
    slope : at least 0.
    dropout : probability within [0, 1); above 0 in float32 and float64 alone, on the CPU and on CUDA, with
        the same draws.
    keys : int64 `(2,)`, the seed of the draws; needed where `dropout` is above 0.

    Returns
    -------
    `(batch, time, out)`.

    Raises
    ------
    RuntimeError : an argument does not fit; the message names it.
    InputError : dropout where the native kernel does not run.
    """
    options = dilation, slope, dropout
    tensors = x, weight1, bias1, weight2, bias2, residual, residual_bias
    if x.dtype in (torch.float32, torch.float64) and runs_natively(x, cuda=True):
        found: Tensor = block(*tensors, keys, *options, may_round(x))
        return found
    if dropout > 0:
        raise InputError(f"dropout: expected 0 beside {x.dtype} on {x.device}, got {dropout}")
    return _reference(None, options, *tensors)


def _reference(
    outputs: tuple[Tensor, Tensor] | None,
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
    (h1, h2), (dilation, slope, dropout) = outputs or (None, None), options
    functional = torch.nn.functional

    def rectified(z: Tensor) -> Tensor:  # 0 times -inf would be NaN
        return functional.leaky_relu(z, slope) if slope else functional.relu(z)

    def conv(x: Tensor, weight: Tensor, bias: Tensor, h: Tensor | None) -> Tensor:
        x = functional.pad(x, ((weight.shape[2] - 1) * dilation, 0))
        z = rectified(functional.conv1d(x, weight, bias, dilation=dilation))
        if h is None:
            return z
        dropped = (h == 0) & h.signbit()
        return z.masked_fill(dropped.transpose(1, 2), 0) / (1 - dropout)

    x = x.transpose(1, 2)
    y = conv(conv(x, weight1, bias1, h1), weight2, bias2, h2)
    aside = x if residual is None else functional.conv1d(x, residual, residual_bias)
    return rectified(y + aside).transpose(1, 2)


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
    loose: bool,
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
    loose: bool,
) -> Any:
    out = weight1.shape[:1]
    aside = for_weights and residual is not None
    return (
        x.new_empty(x.shape if for_x else (0,)),
        *(x.new_empty(s if for_weights else (0,)) for s in (weight1.shape, out, weight2.shape, out)),
        *(x.new_empty(s if aside else (0,)) for s in ((*out, x.shape[2], 1), out)),
    )


def _fake_public(x: Any, weight1: Any, *_: Any, **__: Any) -> Any:
    return x.new_empty((*x.shape[:2], weight1.shape[0]))


#: One residual block: x (batch, time, width), the weights, keys of the dropout or None, dilation, slope and
#: dropout, `may_round` -> (batch, time, channels).
block = Op("_tcn_block", _fake, _setup, _backward)


@cache
def register() -> None:
    """Tell torch the shapes and gradients of the op."""
    block.register()
    compose("causal_conv_block", causal_conv_block, _fake_public)
    torch.library.register_fake("affekt::_tcn_block_bwd", _fake_backward)
