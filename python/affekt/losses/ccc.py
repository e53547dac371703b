"""One minus Lin's concordance correlation coefficient."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from affekt import ops
from affekt.errors import InputError
from affekt.losses._module import LossModule

__all__ = ["CCCLoss", "ccc_loss"]

_OVER = ("time", "batch")
_REDUCTIONS = ("mean", "sum", "none")
_BIASES = ("population", "mixed")
_DTYPES = (torch.float32, torch.float64)


def ccc_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    over: str = "time",
    reduction: str = "mean",
    eps: float = 1e-8,
    bias: str = "population",
) -> Tensor:
    """1 - CCC, where CCC = 2 cov(p, y) / (var(p) + var(y) + (mean(p) - mean(y))^2 + eps).

    Parameters
    ----------
    pred, target : `(batch, time)` or `(batch, time, dims)`, same shape, floating point. Half precision is
        computed and returned in float32.
    mask : boolean, `(batch, time)` or the shape of `pred`; False steps take no part, whatever value they hold
        (NaN too).
    over : ``"time"`` takes moments over the time of each window and dim; ``"batch"`` pools all steps of the
        batch, one CCC per dim.
    reduction : ``"mean"`` or ``"sum"`` over windows and dims, or ``"none"``: `(batch,)`, `(batch, dims)` or,
        with ``over="batch"``, a scalar or `(dims,)`.
    eps : added to the denominator. Where both inputs are constant CCC is 0, the loss 1 and the gradient 0,
        also for `eps` 0; the same for a window of a single valid step.
    bias : ``"population"`` (1/N throughout: reaches loss 0 at identity) or ``"mixed"`` (covariance / N and
        variances / (N - 1), as some published code computes it: never reaches 0).

    Windows without any valid step do not count: they are left out of ``"mean"`` and ``"sum"`` and are 0 under
    ``"none"``. If there is no valid step at all the mean is 0, with zero gradient.

    On the CPU one pass sums in double about a sample of each column, so the loss holds far from zero (mean
    1e4, sd 1e-2 in float32), and is the same bit for bit for any number of torch threads; a second pass
    gives the gradient. NaN or infinity in a valid step makes the loss NaN.

    Raises
    ------
    InputError : shapes differ, integers, or an unknown option.

    Reference: L. Lin, "A concordance correlation coefficient to evaluate reproducibility", Biometrics 45
    (1989).

    >>> p = torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4]])
    >>> round(ccc_loss(p, p + 0.1).item(), 6)
    0.2
    """
    if pred.shape != target.shape or pred.dim() not in (2, 3):
        raise InputError(
            "pred and target must both be (batch, time) or (batch, time, dims), "
            f"got {tuple(pred.shape)} and {tuple(target.shape)}"
        )
    if mask is not None:
        if mask.dtype != torch.bool or mask.shape not in (pred.shape, pred.shape[:2]):
            raise InputError(
                f"mask must be boolean {tuple(pred.shape[:2])} or {tuple(pred.shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        mask = mask if mask.dim() == pred.dim() else mask[..., None].expand_as(pred)
    if not (over in _OVER and reduction in _REDUCTIONS and bias in _BIASES):
        for name, value, known in (
            ("over", over, _OVER),
            ("reduction", reduction, _REDUCTIONS),
            ("bias", bias, _BIASES),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")

    dtype = pred.dtype
    if dtype is not target.dtype or dtype not in _DTYPES:
        if not (pred.is_floating_point() and target.is_floating_point()):
            raise InputError(f"pred and target must be floating point, got {pred.dtype} and {target.dtype}")
        dtype = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
        pred, target = pred.to(dtype), target.to(dtype)
    args = pred, target, mask, over == "batch", _REDUCTIONS.index(reduction), eps, bias == "mixed"
    if ops.native(pred):
        loss: Tensor = _native()(*args)
        return loss
    return _reference(*args)


def _reference(
    pred: Tensor, target: Tensor, mask: Tensor | None, pool: bool, reduction: int, eps: float, mixed: bool
) -> Tensor:
    """The loss in plain torch: for other devices, for second derivatives, and as the oracle of the op."""
    dtype = pred.dtype
    if mask is None:
        weight = torch.ones_like(pred)
    else:
        weight = mask.to(dtype)
        pred, target = pred.masked_fill(~mask, 0), target.masked_fill(~mask, 0)
    if pool:
        weight, pred, target = (v.flatten(0, 1)[None] for v in (weight, pred, target))

    steps = weight.sum(1, keepdim=True)
    count = steps.clamp(min=1)
    # Near the data the subtraction is exact, so the second mean costs no digits; the pivot is a constant and
    # cancels from every moment.
    pivot = ((weight * target).sum(1, keepdim=True) / count).detach()
    pred, target = (pred - pivot) * weight, (target - pivot) * weight
    mean_p, mean_y = pred.sum(1, keepdim=True) / count, target.sum(1, keepdim=True) / count
    dev_p, dev_y = (pred - mean_p) * weight, (target - mean_y) * weight
    cov = (dev_p * dev_y).sum(1, keepdim=True) / count
    freedom = (count - 1).clamp(min=1) if mixed else count
    spread = (dev_p.square() + dev_y.square()).sum(1, keepdim=True) / freedom
    denominator = spread + (mean_p - mean_y).square() + eps
    counted = (steps > 0).to(dtype)
    loss = ((1 - 2 * cov / (denominator + (denominator == 0))) * counted).squeeze(1)
    if _REDUCTIONS[reduction] == "none":
        return loss.squeeze(0) if pool else loss
    if _REDUCTIONS[reduction] == "sum":
        return loss.sum()
    return loss.sum() / counted.sum().clamp(min=1)


@cache
def _native() -> Callable[..., Any]:
    return ops.differentiable("affekt::_ccc_fwd", _setup, _backward)


@cache
def _backward_op() -> Callable[..., Any]:
    op: Callable[..., Any] = torch.ops.affekt._ccc_bwd.default
    return op


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    pred, target, mask, *ctx.options = inputs
    columns = output[1]
    ctx.mark_non_differentiable(columns)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(pred, target, mask, columns)


def _backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    pred, target, mask, columns = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    grads: Any
    if grad is None:
        grads = (None, None)
    elif torch.is_grad_enabled():  # somebody differentiates the gradient
        grads = ops.gradient_of(
            lambda p, y: _reference(p, y, mask, *ctx.options), (pred, target), wanted, grad
        )
    else:
        found = _backward_op()(grad, pred, target, mask, columns, ctx.options[0], *wanted)
        grads = [g if want else None for g, want in zip(found, wanted, strict=True)]
    return (*grads, None, None, None, None, None)


class CCCLoss(LossModule):
    """Module twin of `ccc_loss`; the options are those of the function."""

    def __init__(
        self, *, over: str = "time", reduction: str = "mean", eps: float = 1e-8, bias: str = "population"
    ) -> None:
        super().__init__(over=over, reduction=reduction, eps=eps, bias=bias)

    def forward(self, pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        return ccc_loss(pred, target, mask, **self.options)
