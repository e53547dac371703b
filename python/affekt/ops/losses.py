"""Ops of the losses, and the same in plain torch: on any device, differentiable to any order.

The plain forms are the oracle of the native ops, their second derivatives, and what runs where there is no
binary or no native kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from affekt.errors import AffektError
from affekt.ops import Op, compose, gradient_of, native

__all__ = [
    "FORMS",
    "ccc",
    "info_nce",
    "log_sums",
    "log_sums_bwd",
    "reference_ccc",
    "reference_info_nce",
    "reference_sup_con",
    "register",
    "sup_con",
]


def reference_ccc(
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
    if reduction == 2:
        return loss.squeeze(0) if pool else loss
    if reduction == 1:
        return loss.sum()
    return loss.sum() / counted.sum().clamp(min=1)


def _setup_ccc(ctx: Any, inputs: Any, output: Any) -> None:
    pred, target, mask, *ctx.options = inputs
    columns = output[1]
    ctx.mark_non_differentiable(columns)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(pred, target, mask, columns)


def _backward_ccc(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
    pred, target, mask, columns = ctx.saved_tensors
    wanted = ctx.needs_input_grad[:2]
    grads: Any
    if grad is None:
        grads = (None, None)
    elif torch.is_grad_enabled():  # somebody differentiates the gradient
        grads = gradient_of(
            lambda p, y: reference_ccc(p, y, mask, *ctx.options), (pred, target), wanted, grad
        )
    else:
        found = torch.ops.affekt._ccc_bwd.default(grad, pred, target, mask, columns, ctx.options[0], *wanted)
        grads = [g if want else None for g, want in zip(found, wanted, strict=True)]
    return (*grads, None, None, None, None, None)


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
    a, b = normalize(a.to(scale.dtype), dim=1), normalize(b.to(scale.dtype), dim=1)
    logits = scale * (a @ b.T)
    rows = torch.arange(len(a), device=a.device)
    positives = logits[rows, (rows + shift) % len(a)]
    if exclude:
        logits = logits.masked_fill(torch.eye(len(a), dtype=torch.bool, device=a.device), -torch.inf)
    candidates = logits
    if negatives is not None:
        candidates = torch.cat([logits, scale * (a @ normalize(negatives.to(scale.dtype), dim=1).T)], 1)
    loss = (candidates.logsumexp(1) - positives).sum()
    if columns:
        loss = loss + (logits.logsumexp(0) - positives).sum()
    return weight * loss


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
    return found[0], found[1], None, found[2], *[None] * 8


def _gradients(
    reference: Callable[..., Any], inputs: tuple[Tensor, ...], known: Any, wanted: Any, grad: Tensor | None
) -> Any:
    """Return the gradients that the forward pass left, times the upstream one."""
    if grad is None:
        return [None] * len(inputs)
    if torch.is_grad_enabled():  # somebody differentiates the gradient
        return gradient_of(reference, inputs, wanted, grad)
    return [value * grad if want else None for value, want in zip(known, wanted, strict=True)]


def reference_sup_con(z: Tensor, labels: Tensor, negatives: Tensor | None, scale: Tensor) -> Tensor:
    """`sup_con` in plain torch: for other devices, for second derivatives, and as the oracle of the op."""
    unit = normalize(z.to(scale.dtype), dim=1)
    logits = scale * (unit @ unit.T)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    positives = (labels[:, None] == labels[None, :]) & ~itself
    candidates = logits.masked_fill(itself, -torch.inf)
    if negatives is not None:
        candidates = torch.cat(
            [candidates, scale * (unit @ normalize(negatives.to(scale.dtype), dim=1).T)], 1
        )
    count = positives.sum(1)
    anchors = count > 0
    if not anchors.any():
        return 0 * (z.sum() + scale)
    matched = (logits * positives).sum(1)[anchors] / count[anchors]
    return (candidates[anchors].logsumexp(1) - matched).mean()


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
    return found[0], None, None, found[1], None, None, None


def log_sums(
    a: Tensor, b: Tensor, scale: Tensor, exclude: bool, columns: bool, budget: int
) -> tuple[Tensor, Tensor]:
    """Return float64 log sum exp of logits scale cos(a_i, b_j): over j (n,) and, with `columns`, over i (m,).

    a `(n, dim)`, b `(m, dim)`: a block of a larger matrix. `exclude` leaves i = j out. -inf where nothing is
    summed. No gradient; `budget` bytes of scratch memory. Natively on the CPU, else in plain torch.
    """
    if native(a):
        found: tuple[Tensor, Tensor] = torch.ops.affekt._log_sums.default(
            *(a, b, scale, exclude, columns, budget), not torch.are_deterministic_algorithms_enabled()
        )
        return found
    row = torch.full((len(a),), -torch.inf, dtype=torch.float64, device=a.device)
    col = torch.full((len(b) if columns else 0,), -torch.inf, dtype=torch.float64, device=a.device)
    with torch.autocast(a.device.type, enabled=False):
        for part, _, _, logits in _blocks(a, b, scale, exclude, budget):
            row[part] = logits.logsumexp(1).double()
            if columns:
                col = torch.logaddexp(col, logits.logsumexp(0).double())
    return row, col


def log_sums_bwd(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    row: Tensor,
    col: Tensor | None,
    exclude: bool,
    budget: int,
    for_a: bool,
    for_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a, b, scale where that of a logit is exp(logit - row_i) + exp(logit - col_j).

    So it is for the sum of w_i log-sum-exp_i over the larger matrix with row_i = log-sum-exp_i - log w_i, and
    the same for columns. What is not asked for is empty.
    """
    if native(a):
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.affekt._log_sums_bwd.default(
            *(a, b, scale, row, col, exclude, budget, for_a, for_b),
            not torch.are_deterministic_algorithms_enabled(),
        )
        return found
    by_a, by_b = (torch.zeros_like(x, dtype=scale.dtype) for x in (a, b))
    by_scale = torch.zeros((), dtype=torch.float64, device=a.device)
    with torch.autocast(a.device.type, enabled=False):
        for part, unit_a, unit_b, logits in _blocks(a, b, scale, exclude, budget):
            weight = (logits - row[part, None].to(scale.dtype)).exp()
            if col is not None:
                weight += (logits - col.to(scale.dtype)).exp()
            by_a[part] = weight @ unit_b
            by_scale += (unit_a * by_a[part]).sum(dtype=torch.float64)
            by_b += weight.T @ unit_a
    by = [
        _through_unit(x, scale * grad) if asked else grad.new_empty(0)
        for x, grad, asked in ((a, by_a, for_a), (b, by_b, for_b))
    ]
    return by[0], by[1], by_scale.to(scale.dtype)


def _blocks(a: Tensor, b: Tensor, scale: Tensor, exclude: bool, budget: int) -> Iterator[Any]:
    """Give rows, unit vectors and logits of block after block within the budget."""
    unit_b = normalize(b.to(scale.dtype), dim=1)
    count = max(1, budget // (4 * max(1, len(b)) * scale.element_size()))
    for first in range(0, len(a), count):
        part = slice(first, min(first + count, len(a)))
        unit_a = normalize(a[part].to(scale.dtype), dim=1)
        logits = scale * (unit_a @ unit_b.T)
        if exclude:
            logits.diagonal(first).fill_(-torch.inf)
        yield part, unit_a, unit_b, logits


def _through_unit(x: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of x from that of its unit vectors."""
    norm = x.to(grad.dtype).norm(dim=1, keepdim=True).clamp(min=1e-12)
    unit = x / norm
    return (grad - unit * (unit * grad).sum(1, keepdim=True)) / norm


def _fake_ccc(pred: Any, target: Any, mask: Any, pool: bool, reduction: int, eps: float, mixed: bool) -> Any:
    of_group, of_dim = ([] if pool else [pred.shape[0]]), list(pred.shape[2:])
    columns = (1 if pool else pred.shape[0]) * (pred.shape[2] if pred.dim() == 3 else 1)
    loss = pred.new_empty(of_group + of_dim if reduction == 2 else [])
    return loss, pred.new_empty((columns, 7), dtype=torch.float64)


def _fake_ccc_bwd(
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


def _fake_gradient(x: Any, asked: bool) -> Any:
    dtype = torch.float32 if x.dtype == torch.float16 else x.dtype
    return x.new_empty(x.shape if asked else (0,), dtype=dtype)


def _fake_info_nce(
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
    loose: bool,
) -> Any:
    grads = (_fake_gradient(x, asked) for x, asked in ((a, for_a), (b, for_b)))
    return scale.new_empty(()), *grads, scale.new_empty(())


def _fake_sup_con(
    z: Any, labels: Any, negatives: Any, scale: Any, budget: int, for_z: bool, loose: bool
) -> Any:
    return scale.new_empty(()), _fake_gradient(z, for_z), scale.new_empty(())


def _fake_log_sums(
    a: Any, b: Any, scale: Any, exclude: bool, columns: bool, budget: int, loose: bool
) -> tuple[Any, Any]:
    return tuple(a.new_empty((n,), dtype=torch.float64) for n in (len(a), len(b) if columns else 0))


def _fake_log_sums_bwd(
    a: Any,
    b: Any,
    scale: Any,
    row: Any,
    col: Any,
    exclude: bool,
    budget: int,
    for_a: bool,
    for_b: bool,
    loose: bool,
) -> tuple[Any, ...]:
    return _fake_gradient(a, for_a), _fake_gradient(b, for_b), scale.new_empty(())


#: The ops as functions of their arguments; the result is the loss.
ccc = Op("_ccc_fwd", _fake_ccc, _setup_ccc, _backward_ccc)
info_nce = Op("_info_nce", _fake_info_nce, _setup_info_nce, _backward_info_nce)
sup_con = Op("_sup_con", _fake_sup_con, _setup_sup_con, _backward_sup_con)


#: The public ops as functions of the same arguments: filled by affekt.losses, which knows them.
FORMS: dict[str, Callable[..., Tensor]] = {}


def _public(name: str, *args: Any, **options: Any) -> Tensor:
    if name not in FORMS:
        raise AffektError(f"torch.ops.affekt.{name}: in Python this needs `import affekt.losses`")
    return FORMS[name](*args, **options)


def _fake_ccc_loss(
    pred: Any,
    target: Any,
    mask: Any = None,
    *,
    over: str = "time",
    reduction: str = "mean",
    eps: float = 1e-8,
    bias: str = "population",
) -> Any:
    kept: list[Any] = []
    if reduction == "none":
        kept = [*pred.shape[: int(over == "time")], *pred.shape[2:]]
    return pred.new_empty(kept, dtype=_working_dtype(pred, target))


def _fake_loss(*inputs: Any, **_: Any) -> Any:
    """One value in the working dtype of the embeddings, which are the first argument or in it."""
    rows = inputs[0] if isinstance(inputs[0], (list, tuple)) else inputs[:1]
    return rows[0].new_empty((), dtype=_working_dtype(*rows))


def _fake_loss_of_two(*inputs: Any, **_: Any) -> Any:
    return _fake_loss(inputs[:2])


def _working_dtype(*tensors: Any) -> Any:
    wide = any(x.dtype == torch.float64 for x in tensors)
    return torch.float64 if wide else torch.float32


@cache
def register() -> None:
    """Tell torch the shapes and gradients of these ops."""
    for name, fake in (
        ("ccc_loss", _fake_ccc_loss),
        ("info_nce_loss", _fake_loss_of_two),
        ("pairwise_info_nce_loss", _fake_loss),
        ("nt_xent_loss", _fake_loss_of_two),
        ("sup_con_loss", _fake_loss),
    ):
        compose(name, partial(_public, name), fake)
    for op in (ccc, info_nce, sup_con):
        op.register()
    torch.library.register_fake("affekt::_ccc_bwd", _fake_ccc_bwd)
    torch.library.register_fake("affekt::_log_sums", _fake_log_sums)
    torch.library.register_fake("affekt::_log_sums_bwd", _fake_log_sums_bwd)
