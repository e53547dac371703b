"""What the contrastive losses share: checks, the two native ops, and the same in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from affekt import ops
from affekt.errors import InputError

BUDGET = 256 * 2**20  # bytes


def same_rows(**named: Tensor) -> tuple[Tensor, ...]:
    """Return the embeddings in one dtype, float32 at least; all must be (n, dim) of one shape, n >= 1."""
    first = next(iter(named.values()))
    for name, value in named.items():
        if value.dim() != 2 or value.shape != first.shape or 0 in value.shape:
            raise InputError(
                f"{' and '.join(named)} must be (n, dim) of one shape with n and dim at least 1, "
                f"got {tuple(value.shape)} for {name}"
            )
        if not value.is_floating_point():
            raise InputError(f"{name} must be floating point, got {value.dtype}")
    if all(value.dtype == first.dtype for value in named.values()) and first.dtype in _NATIVE_DTYPES:
        return tuple(named.values())
    dtype = torch.float32
    for value in named.values():
        dtype = torch.promote_types(dtype, value.dtype)
    return tuple(value.to(dtype) for value in named.values())


_NATIVE_DTYPES = (torch.float32, torch.float64)


def more_rows(negatives: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the extra negatives as constants in the dtype of `like`; they must be (k, dim), k >= 0."""
    if negatives is None:
        return None
    if negatives.dim() != 2 or negatives.shape[1] != like.shape[1] or not negatives.is_floating_point():
        raise InputError(
            f"negatives must be floating point (k, {like.shape[1]}), "
            f"got {negatives.dtype} {tuple(negatives.shape)}"
        )
    return negatives.detach().to(like.dtype)


def scale_of(temperature: float | Tensor, like: Tensor) -> Tensor:
    """Return 1 / temperature as a scalar tensor in the dtype of `like`; temperature must be positive."""
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point():
            raise InputError(
                "temperature must be a number or a floating-point tensor of one value, "
                f"got {temperature.dtype} {tuple(temperature.shape)}"
            )
        if not torch.compiler.is_compiling():
            positive(temperature.item())
        return temperature.reshape(()).to(like.dtype).reciprocal()
    positive(temperature)
    return torch.tensor(1 / temperature, dtype=like.dtype, device=like.device)


def positive(temperature: float) -> None:
    if not (temperature > 0 and math.isfinite(temperature)):
        raise InputError(f"temperature must be positive and finite, got {temperature}")


def one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def bytes_of(budget: int) -> int:
    if budget < 0:
        raise InputError(f"budget must be a number of bytes, 0 or more, got {budget}")
    return int(budget)


def info_nce(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    *,
    weight: float,
    columns: bool,
    exclude: bool = False,
    shift: int = 0,
    negatives: Tensor | None = None,
    budget: int = BUDGET,
) -> Tensor:
    """Return weight * sum of -log softmax at the positives: natively where that is possible."""
    if ops.native(a):
        for_b = b.requires_grad and torch.is_grad_enabled()
        for_a = (a.requires_grad or scale.requires_grad) and torch.is_grad_enabled()
        args = a, b, negatives, scale, shift, exclude, columns, weight, budget, for_a, for_b
        loss: Tensor = _native_info_nce()(*args)
        return loss
    return reference_info_nce(a, b, negatives, scale, shift, exclude, columns, weight)


def reference_info_nce(
    a: Tensor,
    b: Tensor,
    negatives: Tensor | None,
    scale: Tensor,
    shift: int,
    exclude: bool,
    columns: bool,
    weight: float,
) -> Tensor:
    """`info_nce` in plain torch: for other devices, for second derivatives, and as the oracle of the op."""
    a, b = normalize(a, dim=1), normalize(b, dim=1)
    logits = scale * (a @ b.T)
    rows = torch.arange(len(a), device=a.device)
    positives = logits[rows, (rows + shift) % len(a)]
    if exclude:
        logits = logits.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), -torch.inf)
    candidates = logits
    if negatives is not None:
        candidates = torch.cat([logits, scale * (a @ normalize(negatives, dim=1).T)], 1)
    loss = (candidates.logsumexp(1) - positives).sum()
    if columns:
        loss = loss + (logits.logsumexp(0) - positives).sum()
    return weight * loss


@cache
def _native_info_nce() -> Callable[..., Any]:
    return ops.differentiable("affekt::_info_nce", _setup_info_nce, _backward_info_nce)


def _setup_info_nce(ctx: Any, inputs: Any, output: Any) -> None:
    a, b, negatives, scale, *ctx.options = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(a, b, negatives, scale, *output[1:])


def _backward_info_nce(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    a, b, negatives, scale, *known = ctx.saved_tensors
    wanted = [ctx.needs_input_grad[i] for i in (0, 1, 3)]
    options = ctx.options[:4]
    found = _gradients(
        lambda a, b, scale: reference_info_nce(a, b, negatives, scale, *options),
        (a, b, scale),
        known,
        wanted,
        grad,
    )
    return found[0], found[1], None, found[2], *[None] * 7


def _gradients(
    reference: Callable[..., Any], inputs: tuple[Tensor, ...], known: Any, wanted: Any, grad: Tensor | None
) -> Any:
    """Return the gradients that the forward pass left, times the upstream one."""
    if grad is None:
        return [None] * len(inputs)
    if torch.is_grad_enabled():  # somebody differentiates the gradient
        return ops.gradient_of(reference, inputs, wanted, grad)
    return [value * grad if want else None for value, want in zip(known, wanted, strict=True)]


def sup_con(
    z: Tensor, labels: Tensor, scale: Tensor, *, negatives: Tensor | None = None, budget: int = BUDGET
) -> Tensor:
    """Return the supervised contrastive loss: natively where that is possible."""
    if ops.native(z):
        wanted = (z.requires_grad or scale.requires_grad) and torch.is_grad_enabled()
        loss: Tensor = _native_sup_con()(z, labels, negatives, scale, budget, wanted)
        return loss
    return reference_sup_con(z, labels, negatives, scale)


def reference_sup_con(z: Tensor, labels: Tensor, negatives: Tensor | None, scale: Tensor) -> Tensor:
    """`sup_con` in plain torch: for other devices, for second derivatives, and as the oracle of the op."""
    unit = normalize(z, dim=1)
    logits = scale * (unit @ unit.T)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positives = (labels[:, None] == labels[None, :]) & ~itself
    candidates = logits.masked_fill(itself, -torch.inf)
    if negatives is not None:
        candidates = torch.cat([candidates, scale * (unit @ normalize(negatives, dim=1).T)], 1)
    count = positives.sum(1)
    anchors = count > 0
    if not anchors.any():
        return 0 * (z.sum() + scale)
    matched = (logits * positives).sum(1)[anchors] / count[anchors]
    return (candidates[anchors].logsumexp(1) - matched).mean()


@cache
def _native_sup_con() -> Callable[..., Any]:
    return ops.differentiable("affekt::_sup_con", _setup_sup_con, _backward_sup_con)


def _setup_sup_con(ctx: Any, inputs: Any, output: Any) -> None:
    z, labels, negatives, scale, *_ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z, labels, negatives, scale, *output[1:])


def _backward_sup_con(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    z, labels, negatives, scale, *known = ctx.saved_tensors
    found = _gradients(
        lambda z, scale: reference_sup_con(z, labels, negatives, scale),
        (z, scale),
        known,
        [ctx.needs_input_grad[0], ctx.needs_input_grad[3]],
        grad,
    )
    return found[0], None, None, found[1], None, None
